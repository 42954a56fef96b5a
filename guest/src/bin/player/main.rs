//! Performs scripts of memory calls and accesses ([`guest::script`]), and answers each step: the
//! executor that runs a trace on the host kernel (or, one process, in a guest).
//!
//! ```text
//!   standard input    Request, script, Request, script, ...
//!   standard output   Report, answers, Report, answers, ...
//!
//!   root ── reads a script ── forks ── process 0 ─── performs its steps ──┐ in turns, in the
//!    │                                    └ Fork ── process 1 ── performs ─┤ script's order
//!    └── waits for all of them, within the time limit <────────────────────┘
//! ```
//!
//! Each script begins in a fresh copy of a root that nothing was done to. The player's memory is where
//! `area` says; it stands on a stack of its own, so scripts may do what they like to the one that exec
//! made. Its file descriptors are 100 and up; 0 and 1 are /dev/null, 2 is standard error, so a script's
//! first one is 3. Address randomization is off, and the limits that decide about memory have their
//! defaults.
//!
//! Usage: player

#![no_std]
#![no_main]

mod area;
mod control;
mod inspect;
mod perform;
mod root;
mod start;

use guest::fresh;
use guest::native::{self, Host};
use guest::process::{self, Args};
use guest::script::{Ending, check};

guest::payload!(main);

fn main(args: Args) {
    let host = native::host();
    if host == Host::Linux {
        fresh::begin(&args);
    }
    area::map();
    let code = match host {
        Host::Linux => serve,
        Host::Mmvisor => perform_one,
    };
    // SAFETY: mapped for this, and used by nothing else.
    unsafe { process::on_stack(area::STACK_TOP, code) }
}

/// Performs scripts until there are no more.
extern "C" fn serve() -> ! {
    let (input, output) = start::move_files();
    fresh::set_heap_apart();
    fresh::take_protection_keys();
    root::hold_signals();
    // What the first script's process brings about in the root, such as page tables, comes about here.
    let _ = root::perform(&[], u64::MAX);
    while let Some((script, limit)) = root::next(input) {
        let ending = root::perform(script, limit);
        root::report(output, ending);
    }
    process::exit(0)
}

/// Performs a script in this very process: where there is no fork.
extern "C" fn perform_one() -> ! {
    if let Some((script, _)) = root::next(0) {
        let ending = match check(script) {
            Ok(_) => {
                perform::Process::only().play_alone(script);
                Ending::Finished
            }
            Err((step, _)) => root::refuse(step),
        };
        root::report(1, ending);
    }
    process::exit(0)
}
