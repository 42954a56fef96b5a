//! What the memory calls cost in process, beside the host kernel's system calls on the same shape of
//! address space (`shape`); and in instructions (`instructions`).
//!
//! ```text
//!   cargo bench -p mmvisor-mm --bench calls      the tables
//!   .../calls ours FIGURE VMAS CALLS             only our calls, to be profiled
//!   .../calls host VMAS                          the host's process (`host`)
//! ```
//!
//! A ratio is the kernel's time by ours: how many times our throughput is the kernel's. It is of processor
//! time, which other programs hardly change. Of fork, what the kernel's child spends is not in that, but it
//! is in the ratio by the wall's clock beside it. Nothing is subtracted from what the kernel takes, except in
//! the column that says so.
//!
//! Started otherwise than by `cargo bench` (`cargo test --benches`) it goes through everything once.

mod host;
mod instructions;
mod ours;
#[path = "../../../vmm/benches/figures/rounds.rs"]
mod rounds;
mod shape;

use std::process::ExitCode;

use host::Host;
use instructions::Counter;
use ours::Ours;
use rounds::{Outcome, Pair, Spent, alternate};
use shape::{Figure, SIZES};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["host", vmas] => vmas.parse().map_err(Into::into).and_then(host::serve),
        ["ours", figure, vmas, calls] => ours_only(figure, vmas, calls),
        _ => tables(rounds::wanted()),
    };
    rounds::end(done)
}

/// The shape, then calls of ours.
fn ours_only(figure: &str, vmas: &str, calls: &str) -> Outcome<()> {
    let figure = Figure::named(figure).ok_or("there is no such figure")?;
    Ours::new(vmas.parse()?)?.run(figure, calls.parse()?)
}

/// A line of the first table.
struct Line {
    figure: Figure,
    name: &'static str,
    /// System calls that it takes.
    calls: f64,
    /// How many times the kernel's throughput it shall have, if it is a call.
    aim: Option<f64>,
}

const LINES: [Line; 7] = [
    Line { figure: Figure::Map, name: "mmap, munmap", calls: 2.0, aim: Some(10.0) },
    Line {
        figure: Figure::Protect,
        name: "mprotect: split, merge back",
        calls: 2.0,
        aim: Some(10.0),
    },
    Line { figure: Figure::Sync, name: "find_vma, by msync", calls: 1.0, aim: Some(10.0) },
    Line { figure: Figure::Find, name: "its VMA's flags (kernel: msync)", calls: 1.0, aim: None },
    Line { figure: Figure::Place, name: "mmap anywhere, munmap", calls: 2.0, aim: Some(5.0) },
    Line { figure: Figure::Heap, name: "brk up, down", calls: 2.0, aim: Some(5.0) },
    Line {
        figure: Figure::Fork,
        name: "fork, exit (kernel: and wait)",
        calls: 1.0,
        aim: Some(5.0),
    },
];

fn tables(rounds: u32) -> Outcome<()> {
    println!(
        "ours in process, the host kernel's by system call; medians of {rounds} rounds in turn"
    );
    for vmas in SIZES {
        beside_kernel(vmas, rounds)?;
    }
    println!();
    growth(rounds)?;
    println!();
    count(if rounds > 1 { &SIZES } else { &SIZES[..1] })
}

fn beside_kernel(vmas: u64, rounds: u32) -> Outcome<()> {
    let mut host = Host::start(vmas)?;
    let shape = host.vmas();
    let mut ours = Ours::new(shape)?;
    println!("\n{shape} VMAs (the kernel's process has its own few more)");
    let empty = alone(&mut host, Figure::Empty, rounds)?;
    let borrow = alone(&mut host, Figure::Borrow, rounds)?;
    println!("  an empty system call, getppid: {}", time(empty));
    println!(
        "  a child that copies no VMA, clone(CLONE_VM|CLONE_VFORK), exit, wait: {}",
        time(borrow)
    );
    println!(
        "  {:<31} {:>10} {:>10} {:>22} {:>8} {:>12} {:>5}",
        "", "ours", "kernel", "ratio (min-max)", "by wall", "less entry", "aim"
    );
    for Line { figure, name, calls, aim } in &LINES {
        let times = figure.calls(shape);
        let pair = alternate(
            rounds,
            || Spent::on(|| ours.run(*figure, times)),
            || host.run(*figure, times),
        )?;
        let base = if *figure == Figure::Fork { borrow } else { calls * empty };
        row(name, &pair, times, base, *aim);
    }
    Ok(())
}

/// Prints a figure that was done `times` times in each round; `base` are the seconds of the kernel's
/// time that go into being a system call, or a process.
fn row(name: &str, pair: &Pair, times: u64, base: f64, aim: Option<f64>) {
    let one = |seconds: f64| each(seconds, times);
    let (ours, kernel) = (one(pair.floor.median), one(pair.subject.median));
    let ratio = pair.processor;
    println!(
        "  {name:<31} {:>10} {:>10} {:>22} {:>8.1} {:>12.1} {:>5}{}",
        time(ours),
        time(kernel),
        format!("{:.1} ({:.1}-{:.1})", ratio.median, ratio.least, ratio.most),
        pair.ratio.median,
        (kernel - base) / ours,
        aim.map(|aim| aim.to_string()).unwrap_or_default(),
        if aim.is_some_and(|aim| ratio.median < aim) { "  missed" } else { "" },
    );
}

/// Seconds that something takes the kernel.
fn alone(host: &mut Host, figure: Figure, rounds: u32) -> Outcome<f64> {
    let times = figure.calls(host.vmas());
    let mut taken = Vec::new();
    for _ in 0..rounds {
        taken.push(each(host.run(figure, times)?.wall.as_secs_f64(), times));
    }
    taken.sort_by(f64::total_cmp);
    taken.get(taken.len() / 2).copied().ok_or_else(|| "no round was measured".into())
}

/// How the search for free space grows.
fn growth(rounds: u32) -> Outcome<()> {
    let [_, some, most] = SIZES;
    let (mut few, mut many) = (Ours::new(some)?, Ours::new(most)?);
    let times = Figure::Gap.calls(most);
    let pair = alternate(
        rounds,
        || Spent::on(|| few.run(Figure::Gap, times)),
        || Spent::on(|| many.run(Figure::Gap, times)),
    )?;
    println!(
        "gap search: {} at {some} VMAs, {} at {most}: {:.2} times, aim 3{}",
        time(each(pair.floor.median, times)),
        time(each(pair.subject.median, times)),
        pair.processor.median,
        if pair.processor.median > 3.0 { "  missed" } else { "" },
    );
    Ok(())
}

/// Instructions of our calls.
fn count(sizes: &[u64]) -> Outcome<()> {
    println!("instructions of ours, by callgrind");
    let mut counters = Vec::new();
    for &vmas in sizes {
        match Counter::new(vmas)? {
            Some(counter) => counters.push(counter),
            None => {
                println!("  skipped: no valgrind (Debian's package has that name)");
                return Ok(());
            }
        }
    }
    let heads: String = sizes.iter().map(|vmas| format!(" {vmas:>12}")).collect();
    println!("  {:<31}{heads}", "VMAs");
    let gap = Line { figure: Figure::Gap, name: "gap search alone", calls: 0.0, aim: Some(0.0) };
    for line in LINES.iter().chain([&gap]) {
        let mut cells = String::new();
        for counter in &counters {
            cells += &format!(" {:>12}", counter.count(line.figure)?);
        }
        println!("  {:<31}{cells}", line.name);
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "some thousand")]
fn each(seconds: f64, times: u64) -> f64 {
    seconds / times as f64
}

fn time(seconds: f64) -> String {
    match seconds * 1e9 {
        ns if ns < 1e4 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.1} us", ns / 1e3),
        ns => format!("{:.2} ms", ns / 1e6),
    }
}
