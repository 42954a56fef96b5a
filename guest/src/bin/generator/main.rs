//! Random memory calls on its own address space, made by what /proc/self/maps says is there, and the trace of them on
//! standard output: natively and in a guest the same one for the same seed. So it compares all that a program can see,
//! page faults and signals among them, with nothing of ours between the program and the kernel.
//!
//! ```text
//!   seed ─> choose what to do, by what is mapped ─> do it ─> a line of the trace ─┐ in turns, by up to
//!             ^                                                                   │ six processes
//!             └─ a checksum of all VMAs; now and then VMAs, VmFlags, sizes, pages ┘
//! ```
//!
//! Lines that begin with `#` are what traces have no words for; replays pass over them. Faults are caught by handlers.
//! Not tried: huge pages (when the kernel makes some is its own affair), userfaultfd.
//!
//! Usage: generator \[SEED \[ACTS \[EVERY\]\]\] (1, 1000, 50: every how many acts all is looked at)

#![no_std]
#![no_main]

mod acts;
mod area;
mod calls;
mod choose;
mod files;
mod seen;
mod touch;
mod trace;
mod turns;

use guest::process::{self, Args};
use guest::{fresh, native};

use acts::Generator;

guest::payload!(main);

fn main(args: Args) {
    native::be_as_on_linux();
    fresh::begin(&args);
    fresh::take_protection_keys();
    area::map();
    let control = area::control();
    control.set_seed(args.number(1).unwrap_or(1));
    control.set_left(args.number(2).unwrap_or(1000));
    control.set_every(args.number(3).unwrap_or(50).max(1));
    // SAFETY: mapped for this, and used by nothing else.
    unsafe { process::on_stack(area::STACK_TOP, generate) }
}

extern "C" fn generate() -> ! {
    seen::forget_vdso();
    turns::open_pipes();
    Generator::new().run()
}
