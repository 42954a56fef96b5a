//! What mmvisor costs, as ratios to a floor measured in the same run: a program of bare ioctls that
//! makes the same exits and does nothing else (`floor`). And what a whole program costs, as a ratio to
//! the same program run natively (`whole`).
//!
//! ```text
//!   figure              floor                         mmvisor
//!   create              Floor::start, first call      Subject::start, first call
//!   hypercall           getpid, answered with 1       getpid, served
//!   demand fault        an entry stored               SharedSpace::fault
//!   flush               no other vCPU inside KVM      one inside, which is waited for
//!   awk, hello          the host's kernel             mmvisor run
//!   sort                the host's kernel             mmvisor run
//!   write barrier       the host's kernel             mmvisor run
//!   single things       the host's kernel             mmvisor run
//!   memory              the host's kernel             mmvisor run
//!   swap                a file, written and read      mmvisor run
//!   equal pages         before they are merged        after it: memory, not time
//!   mapped files        the host's kernel             mmvisor run
//!   a pager's pages     a file's, by mmvisor          SharedSpace::fault, a closure
//! ```
//!
//! `cargo bench` measures. Started otherwise (`cargo test --benches`) it goes through everything once.

mod costs;
mod faults;
mod floor;
mod flush;
mod lines;
mod mapped;
mod memory;
mod merged;
mod paged;
mod program;
mod rounds;
mod subject;
mod swapped;
mod whole;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use costs::Costs;
use faults::Need;
use floor::{Around, Code, Floor, Populate};
use mapped::Written;
use rounds::{Outcome, Pair, Spent, alternate};
use subject::Subject;
use vmm::kvm::{Kind, Kvm};
use whole::Whole;

/// Calls in a round.
const CALLS: u64 = 300;

fn main() -> ExitCode {
    if std::env::var_os("MMVISOR_NO_KVM").is_some_and(|value| value == "1") {
        eprintln!("skipped: MMVISOR_NO_KVM=1");
        return ExitCode::SUCCESS;
    }
    let effort = rounds::wanted();
    // Opened here for its error's sake: the floor has no sentence to say.
    let kind = Kvm::open().map(|kvm| kvm.kind()).map_err(Into::into);
    rounds::end(kind.and_then(|kind| Figures { kind, effort }.print()))
}

/// How the figures are taken.
struct Figures {
    kind: Kind,
    /// A factor of all rounds.
    effort: u32,
}

impl Figures {
    fn print(&self) -> Outcome<()> {
        println!("{} KVM; medians, the ratios' by rounds of floor and mmvisor in turn", self.kind);
        println!(
            "{:<34} {:>12} {:>12} {:>22} {:>14} {:>5}",
            "figure", "floor", "mmvisor", "ratio (min-max)", "of CPU time", "aim"
        );
        row("create, to the first call", &self.create()?, 1, "1.1");
        row("hypercall, there and back", &self.call()?, CALLS, "1.1");
        let (apart, many) = (program::touch_apart(), program::TOUCHES_APART);
        let (pair, _) = self.fault(&apart, Around::One)?;
        row("demand fault, one page each", &pair, many, "1.2");
        let (in_order, most) = (program::touch_in_order(), program::TOUCHES_IN_ORDER);
        let (pair, faults) = self.fault(&in_order, Around::Doubling)?;
        row("demand fault, a page in order", &pair, most, "1.2");
        println!("  ({most} pages in {} faults by the floor, {} by mmvisor)", faults[0], faults[1]);
        row(
            "flush, a vCPU inside (floor: out)",
            &flush::beside_a_vcpu(self.effort)?,
            flush::FLUSHES,
            "-",
        );
        self.host_part()?;
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        for (name, program) in [
            ("busybox awk (floor: native)", Whole::awk()),
            ("busybox sort (floor: native)", Whole::sort(directory)?),
        ] {
            match program {
                Some(program) => row(name, &self.whole(&program)?, 1, "1.1"),
                None => println!("{name:<34} skipped: no busybox"),
            }
        }
        let hello = Whole::hello(directory, &program::hello())?;
        row("hello, all of it (floor: native)", &self.whole(&hello)?, 1, "-");
        match Whole::barrier(directory) {
            Some(barrier) => {
                row("a write barrier (floor: native)", &self.whole(&barrier)?, whole::CAUGHT, "-");
                println!("  (each a fault, an mprotect and a sigreturn: 3 exits)");
            }
            None => println!("{:<34} skipped: no gcc", "a write barrier (floor: native)"),
        }
        self.costs(directory)?;
        self.memory()?;
        self.swapped()?;
        self.merged()?;
        self.mapped()?;
        self.paged()
    }

    /// The host's part of a fault, with its zeros or its copy and without.
    fn host_part(&self) -> Outcome<()> {
        let moved = faults::zeroing()?.wall.as_secs_f64();
        for (need, name) in [
            (Need::Zeros, "anonymous fault (floor: native)"),
            (Need::Copy, "fault that copies (floor: native)"),
        ] {
            let pair = faults::measure(self.effort, need)?;
            row(name, &pair, faults::FAULTS, "-");
            let apart = (pair.subject.median - moved) / (pair.floor.median - moved);
            println!("  (without writing the page itself: {apart:.2}; aim 0.5)");
        }
        Ok(())
    }

    /// What single things cost a program, against natively, and their exits.
    fn costs(&self, directory: &Path) -> Outcome<()> {
        let Some(costs) = Costs::new(directory)? else {
            println!("{:<34} skipped: no gcc", costs::FIGURES[0].1);
            return Ok(());
        };
        let pairs = costs.measure(self.effort)?;
        for ((thing, name, aim), pair) in costs::FIGURES.iter().zip(&pairs) {
            row(name, pair, costs::TIMES, aim);
            let [calls, faults, exceptions] = costs.exits(thing)?;
            println!(
                "  ({:.2} exits: {calls:.2} calls, {faults:.2} page faults, {exceptions:.2} others)",
                calls + faults + exceptions
            );
        }
        Ok(())
    }

    /// What memory costs a program, against natively.
    fn memory(&self) -> Outcome<()> {
        let (rounds, mebibytes) = if self.effort > 1 { (5, 1024) } else { (1, 16) };
        println!("{mebibytes} MiB (floor: native)");
        for (figures, mode) in [(&memory::SMALL, "small"), (&memory::HUGE, "huge")] {
            let pairs = memory::measure(figures, mode, rounds, mebibytes)?;
            for ((_, name, aim), pair) in figures.iter().zip(&pairs) {
                row(name, pair, 1, aim);
            }
        }
        Ok(())
    }

    /// What a way to the swap area and back costs, against the same of a file.
    fn swapped(&self) -> Outcome<()> {
        let (rounds, mebibytes) = if self.effort > 1 { (5, 256) } else { (1, 16) };
        println!("{mebibytes} MiB to the swap area and back (floor: a file written and read)");
        for kind in &swapped::FIGURES {
            let pairs = swapped::measure(rounds, mebibytes, kind)?;
            for ((_, name, aim), pair) in kind.1.iter().zip(&pairs) {
                row(name, pair, 1, aim);
            }
        }
        Ok(())
    }

    /// How much of the host's memory a hundred processes have less when their equal pages are merged.
    fn merged(&self) -> Outcome<()> {
        let processes = if self.effort > 1 { 100 } else { 10 };
        let merged::Merged { before, after, time, told } = merged::measure(processes)?;
        let (pages, equal) = (merged::PAGES, merged::PAGES - merged::OWN);
        let [before, after] = [before, after].map(|kib| kib as f64 / 1024.0);
        println!("{processes} processes of {pages} pages, {equal} of them equal in all, --ksm=1");
        println!("  the host's memory: {before:.1} MiB, merged {after:.1} MiB, after {time:.1?}");
        println!("  ({told})");
        Ok(())
    }

    /// What reading a mapped file costs a program, against natively.
    fn mapped(&self) -> Outcome<()> {
        let (rounds, mebibytes) = if self.effort > 1 { (5, 1024) } else { (1, 16) };
        println!("a file of {mebibytes} MiB, in the host's memory (floor: native)");
        for (written, names) in [(Written::Small, mapped::FIGURES), (Written::Large, mapped::LARGE)]
        {
            let figures = mapped::measure(rounds, mebibytes, written)?;
            for ((_, name, aim), pair) in names.iter().zip(&figures) {
                row(name, pair, 1, aim);
            }
        }
        Ok(())
    }

    /// What a page by a closure costs, against one by a mapped file.
    fn paged(&self) -> Outcome<()> {
        for (ahead, name) in
            [(1, "page by closure (floor: by file)"), (16, "the same, 16 together")]
        {
            let (pair, [by_file, by_closure]) = paged::measure(self.effort, ahead)?;
            row(name, &pair, paged::PAGES, "-");
            let pages = paged::PAGES;
            println!("  ({pages} pages in {by_file} faults by file, {by_closure} by closure)");
        }
        Ok(())
    }

    /// From nothing to the first call of a program.
    fn create(&self) -> Outcome<Pair> {
        let page = program::calls();
        let file = Arc::new(program::in_memory(&page)?);
        // What a machine leaves is taken away outside the measured time.
        alternate(
            10 * self.effort,
            || {
                let mut made = None;
                Spent::on(|| {
                    let floor =
                        Floor::start(self.kind, &page, Code::Faults, Populate::Never, Around::One)?;
                    made.insert(floor).run_calls(1)
                })
            },
            || {
                let mut made = None;
                Spent::on(|| made.insert(Subject::start(&file)?).run_calls(1))
            },
        )
    }

    fn call(&self) -> Outcome<Pair> {
        let page = program::calls();
        let file = Arc::new(program::in_memory(&page)?);
        let mut floor = Floor::start(self.kind, &page, Code::Mapped, Populate::Never, Around::One)?;
        let mut subject = Subject::start(&file)?;
        alternate(
            5 * self.effort,
            || Spent::on(|| floor.run_calls(CALLS)),
            || Spent::on(|| subject.run_calls(CALLS)),
        )
    }

    /// Touches between a program's second and third call, of memory that was never touched. Also says
    /// in how many faults floor and mmvisor answered them.
    fn fault(&self, page: &[u8], around: Around) -> Outcome<(Pair, [u64; 2])> {
        let file = Arc::new(program::in_memory(page)?);
        let (mut floor_faults, mut faults) = (0, 0);
        let pair = alternate(
            2 * self.effort,
            || {
                let mut floor =
                    Floor::start(self.kind, page, Code::Mapped, Populate::Blocks, around)?;
                floor.run_calls(2)?;
                let before = floor.page_faults();
                let spent = Spent::on(|| floor.run_calls(1))?;
                floor_faults = floor.page_faults() - before;
                Ok(spent)
            },
            || {
                let mut subject = Subject::start(&file)?;
                subject.run_calls(2)?;
                let before = subject.page_faults();
                let spent = Spent::on(|| subject.run_calls(1))?;
                faults = subject.page_faults() - before;
                Ok(spent)
            },
        )?;
        Ok((pair, [floor_faults, faults]))
    }

    fn whole(&self, program: &Whole) -> Outcome<Pair> {
        alternate(self.effort, || program.native(), || program.hosted())
    }
}

/// Prints a figure; `per` is how often the thing was done in a round.
fn row(name: &str, pair: &Pair, per: u64, aim: &str) {
    let time = |seconds: f64| {
        #[allow(clippy::cast_precision_loss, reason = "some thousand")]
        let microseconds = seconds * 1e6 / per as f64;
        match microseconds {
            us if us < 1000.0 => format!("{us:.2} us"),
            us => format!("{:.2} ms", us / 1000.0),
        }
    };
    let ratio = pair.ratio;
    println!(
        "{name:<34} {:>12} {:>12} {:>22} {:>14.3} {aim:>5}",
        time(pair.floor.median),
        time(pair.subject.median),
        format!("{:.3} ({:.2}-{:.2})", ratio.median, ratio.least, ratio.most),
        pair.processor.median,
    );
}
