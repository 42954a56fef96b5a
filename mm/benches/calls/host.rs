//! The calls of the host kernel, made by a process of its own: this benchmark started again, with
//! nothing in its address space but itself and the shape.
//!
//! ```text
//!   benchmark                         child
//!      │ ── start, "host N" ────────────> maps the shape
//!      │ <──────── how many VMAs ──────── (N, or as many as vm.max_map_count has room for)
//!      │ ── figure, how often ──────────> makes the calls
//!      │ <──────── what they took ─────── wall and processor nanoseconds
//! ```

#![allow(unsafe_code, reason = "the calls that are measured")]

use std::ffi::c_void;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::num::NonZeroUsize;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::ptr::NonNull;
use std::time::Duration;

use mm::addr::index;
use nix::sched::{CloneFlags, clone};
use nix::sys::mman::{MapFlags, MsFlags, ProtFlags, mmap_anonymous, mprotect, msync, munmap};
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, getppid};

use crate::rounds::{Outcome, Spent};
use crate::shape::{Figure, LARGE, PAGE, Places, Shape, VMA};

/// VMAs that stay free below `vm.max_map_count`: for what a figure adds, and the program's own doings.
const SPARE: u64 = 16;

/// The child, as the benchmark sees it.
#[derive(Debug)]
pub(crate) struct Host {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    vmas: u64,
}

impl Host {
    /// Starts a process with that many VMAs, or as many as it may have.
    pub(crate) fn start(vmas: u64) -> Outcome<Host> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["host", &vmas.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the host's process has no pipes".into());
        };
        let mut host = Host { child, orders, answers: BufReader::new(answers), vmas };
        host.vmas = host.answer()?.parse()?;
        Ok(host)
    }

    /// How many VMAs it has in the shape.
    pub(crate) fn vmas(&self) -> u64 {
        self.vmas
    }

    /// What it takes to do that so often.
    pub(crate) fn run(&mut self, figure: Figure, calls: u64) -> Outcome<Spent> {
        writeln!(self.orders, "{} {calls}", figure.name())?;
        let answer = self.answer()?;
        let (wall, processor) = answer.split_once(' ').ok_or("half an answer of the host")?;
        let time = |number: &str| number.parse().map(Duration::from_nanos);
        Ok(Spent { wall: time(wall)?, processor: time(processor)? })
    }

    fn answer(&mut self) -> Outcome<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err("the host's process has ended".into());
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It is in no state that needs a goodbye; and nothing could be done about a failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child itself: serves until its standard input ends.
pub(crate) fn serve(vmas: u64) -> Outcome<()> {
    let own = fs::read_to_string("/proc/self/maps")?.lines().count() as u64;
    let most: u64 = fs::read_to_string("/proc/sys/vm/max_map_count")?.trim().parse()?;
    let vmas = vmas.min(most.saturating_sub(own + SPARE));
    let mut caller = Caller::new(vmas)?;
    let mut answers = io::stdout();
    writeln!(answers, "{vmas}")?;
    for order in io::stdin().lines() {
        let order = order?;
        let (name, calls) = order.split_once(' ').ok_or("half an order")?;
        let figure = Figure::named(name).ok_or("an unknown figure")?;
        let calls = calls.parse()?;
        let spent = Spent::on(|| caller.run(figure, calls))?;
        writeln!(answers, "{} {}", spent.wall.as_nanos(), spent.processor.as_nanos())?;
    }
    Ok(())
}

/// Makes the calls.
struct Caller {
    places: Places,
    /// A page-aligned break.
    brk: u64,
    /// For a child that borrows the address space.
    stack: Vec<u8>,
}

impl Caller {
    fn new(vmas: u64) -> Outcome<Caller> {
        let base = map(0, Shape::bytes(vmas), ProtFlags::PROT_NONE)?;
        unmap(base, Shape::bytes(vmas))?;
        let shape = Shape { base, vmas };
        for start in shape.starts() {
            map(start, VMA, writable())?;
        }
        let large = map(0, LARGE, ProtFlags::PROT_READ)?;
        if large > base {
            return Err(format!(
                "{large:#x} was free, above {base:#x}, where all holes should be too small"
            )
            .into());
        }
        unmap(large, LARGE)?;
        let brk = set_brk(0).next_multiple_of(PAGE);
        Ok(Caller { places: Places::of(shape), brk, stack: vec![0; 64 << 10] })
    }

    fn run(&mut self, figure: Figure, calls: u64) -> Outcome<()> {
        for _ in 0..calls {
            match figure {
                Figure::Empty => {
                    getppid();
                }
                Figure::Map => {
                    let addr = self.places.hole();
                    map(addr, PAGE, ProtFlags::PROT_READ)?;
                    unmap(addr, PAGE)?;
                }
                Figure::Protect => {
                    let addr = self.places.inside();
                    protect(addr, ProtFlags::PROT_READ)?;
                    protect(addr, writable())?;
                }
                Figure::Find | Figure::Sync => {
                    let addr = self.places.inside();
                    // SAFETY: asynchronous, of memory without a file: nothing happens to it.
                    unsafe { msync(pointer(addr)?, index(PAGE), MsFlags::MS_ASYNC) }?;
                }
                Figure::Place => {
                    let at = map(0, LARGE, ProtFlags::PROT_READ)?;
                    unmap(at, LARGE)?;
                }
                Figure::Heap => {
                    let up = set_brk(self.brk + PAGE);
                    let down = set_brk(self.brk);
                    if (up, down) != (self.brk + PAGE, self.brk) {
                        return Err(format!("brk went to {up:#x} and {down:#x}").into());
                    }
                }
                Figure::Fork => {
                    // SAFETY: this process has one thread, and the child only ends.
                    match unsafe { fork() }? {
                        // SAFETY: ends the process at once; never returns.
                        ForkResult::Child => unsafe { libc::_exit(0) },
                        ForkResult::Parent { child } => waitpid(child, None)?,
                    };
                }
                Figure::Borrow => {
                    let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
                    let signal = Some(Signal::SIGCHLD as i32);
                    // SAFETY: the child has a stack of its own, touches nothing else, and is gone when
                    // this thread goes on.
                    let child = unsafe { clone(Box::new(|| 0), &mut self.stack, flags, signal) }?;
                    waitpid(child, None)?;
                }
                Figure::Gap => return Err("the kernel does not search without a call".into()),
            }
        }
        Ok(())
    }
}

fn writable() -> ProtFlags {
    ProtFlags::PROT_READ | ProtFlags::PROT_WRITE
}

fn pointer(addr: u64) -> Outcome<NonNull<c_void>> {
    NonNull::new(std::ptr::without_provenance_mut(index(addr))).ok_or_else(|| "address 0".into())
}

/// mmap(2): exactly there, or for 0 anywhere.
fn map(addr: u64, len: u64, prot: ProtFlags) -> Outcome<u64> {
    let flags = match addr {
        0 => MapFlags::MAP_PRIVATE,
        _ => MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED_NOREPLACE,
    };
    let len = NonZeroUsize::new(index(len)).ok_or("a length of 0")?;
    // SAFETY: replaces nothing that is there.
    let at = unsafe { mmap_anonymous(NonZeroUsize::new(index(addr)), len, prot, flags) }?;
    Ok(at.addr().get() as u64)
}

/// munmap(2) of what [`map`] returned.
fn unmap(addr: u64, len: u64) -> Outcome<()> {
    // SAFETY: the callers have mapped it, or keep it as a hole; no reference is ever made into it.
    Ok(unsafe { munmap(pointer(addr)?, index(len)) }?)
}

/// mprotect(2) of a page of the shape.
fn protect(addr: u64, prot: ProtFlags) -> Outcome<()> {
    // SAFETY: a page of the shape, which nothing ever accesses.
    Ok(unsafe { mprotect(pointer(addr)?, index(PAGE), prot) }?)
}

/// brk(2); 0 asks where it is.
fn set_brk(addr: u64) -> u64 {
    // SAFETY: the break only goes up from where the allocator has it, and back there before the
    // allocator runs again.
    let now = unsafe { libc::syscall(libc::SYS_brk, addr) };
    now.cast_unsigned()
}
