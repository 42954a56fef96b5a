//! What a frame costs: taken and freed, and counted by the 262,144 of 1 GiB, as fork does. Beside it what
//! the processor cannot do without: one locked instruction on one word a frame, in a plain array.
//!
//! `cargo bench -p mmvisor-mm --bench frames`. Started otherwise it goes through everything once.

#[path = "../../vmm/benches/figures/rounds.rs"]
mod rounds;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use mm::addr::FrameRun;
use mm::phys::{Contents, FrameKind, Frames, Order, SoftwareMemory};
use rounds::{Outcome, Spent, alternate};

/// Frames in 1 GiB.
const FRAMES: u64 = 1 << 18;

fn main() -> ExitCode {
    rounds::end(Figures { rounds: rounds::wanted() }.print())
}

/// How the figures are taken.
struct Figures {
    rounds: u32,
}

impl Figures {
    fn print(&self) -> Outcome<()> {
        // Room for a run of 1 GiB beside frame 0, and for as much in small runs.
        let frames = Frames::new(Arc::new(SoftwareMemory::new(3 * FRAMES)));
        let run = frames.alloc_order(FrameKind::Anonymous, Contents::Any, Order::GIANT)?;
        let words: Vec<AtomicU64> = (0..FRAMES).map(|_| AtomicU64::new(1)).collect();
        let locked = || {
            words.iter().for_each(|word| {
                word.fetch_add(1, Ordering::Relaxed);
            });
            Ok(())
        };
        println!(
            "frames beside one locked instruction each; medians of {} rounds in turn,",
            self.rounds
        );
        println!("nanoseconds a frame by the clock; the ratio is of processor time");
        println!(
            "{:<38} {:>8} {:>8} {:>18} {:>8}",
            "", "floor", "frames", "ratio (min-max)", "by wall"
        );
        self.row("get_run", locked, || {
            frames.get_run(run);
            Ok(())
        })?;
        self.row("put_run, not the last reference", locked, || Ok(frames.put_run(run)?))?;
        self.row("dup_run: reference and map", locked, || {
            frames.dup_run(run);
            Ok(())
        })?;
        self.row("unmap_run", locked, || Ok(frames.unmap_run(run)?))?;
        self.row("get, one by one", locked, || {
            (0..run.count).for_each(|i| frames.get(run.start.offset(i)));
            Ok(())
        })?;
        self.row("put, one by one", locked, || {
            Ok((0..run.count).try_for_each(|i| frames.put(run.start.offset(i)))?)
        })?;
        let mutex = Mutex::new(0_u64);
        let lock_twice = || {
            for _ in 0..2 * FRAMES {
                *mutex.lock().map_err(|_| "a lock is poisoned")? += 1;
            }
            Ok(())
        };
        // In a block that others use too, as nearly always.
        frames.alloc(FrameKind::Anonymous, Contents::Any)?;
        self.row("alloc and put; floor: a lock, twice", lock_twice, || {
            for _ in 0..FRAMES {
                frames.put(frames.alloc(FrameKind::Anonymous, Contents::Any)?)?;
            }
            Ok(())
        })?;
        self.row("all in runs of 64, then all freed", locked, || {
            let mut runs: Vec<FrameRun> = Vec::new();
            let mut left = FRAMES;
            while left > 0 {
                let run = frames.alloc_run(FrameKind::Anonymous, Contents::Any, left.min(64))?;
                left -= run.count;
                runs.push(run);
            }
            Ok(runs.into_iter().try_for_each(|run| frames.put_run(run))?)
        })?;
        let stats = frames.stats();
        #[expect(clippy::cast_precision_loss, reason = "millions")]
        let bytes = stats.record_bytes as f64 / stats.peak as f64;
        println!("bytes of record a frame, of the most in use: {bytes:.1}");
        Ok(())
    }

    /// Prints how long both take for a frame.
    fn row(
        &self,
        name: &str,
        floor: impl Fn() -> Outcome<()>,
        subject: impl Fn() -> Outcome<()>,
    ) -> Outcome<()> {
        let pair = alternate(self.rounds, || Spent::on(&floor), || Spent::on(&subject))?;
        #[expect(clippy::cast_precision_loss, reason = "a quarter of a million")]
        let each = |seconds: f64| seconds * 1e9 / FRAMES as f64;
        let ratio = pair.processor;
        println!(
            "{name:<38} {:>5.1} ns {:>5.1} ns {:>18} {:>8.1}",
            each(pair.floor.median),
            each(pair.subject.median),
            format!("{:.1} ({:.1}-{:.1})", ratio.median, ratio.least, ratio.most),
            pair.ratio.median,
        );
        Ok(())
    }
}
