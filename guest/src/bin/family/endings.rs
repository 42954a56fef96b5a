//! Processes that end at any moment, in any order, or not at all.

use guest::errno::Errno;
use guest::family::{self, End, Forked, SIGKILL};
use guest::memory::{self, Flags, PAGE, Place, Prot};
use guest::random::Random;
use guest::{check, check_eq, fault, must, println, process};

use crate::{child, signed};

/// Never ends by itself.
fn spin() -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// Maps, touches and unmaps for ever.
fn churn() -> ! {
    loop {
        if let Ok(at) = memory::map(Place::Anywhere, 16 * PAGE, Prot::RW, Flags::OWN) {
            (0..16).for_each(|page| memory::store(at + page * PAGE, page));
            let _ = memory::unmap(at, 16 * PAGE);
        }
    }
}

/// Forks and reaps for ever.
fn breed() -> ! {
    loop {
        if let Ok(Forked::Child) = family::fork() {
            process::exit(0);
        }
        let _ = family::wait(-1, 0);
    }
}

/// In each round some children that run, fault, wait or fork, killed in any order.
pub(crate) fn storm(rounds: u64, seed: u64) {
    let mut random = Random::new(seed);
    for round in 0..rounds {
        let mut pids = [0; 4];
        for (way, pid) in pids.iter_mut().enumerate() {
            *pid = child(|| match way {
                0 => spin(),
                1 => churn(),
                2 => breed(),
                _ => {
                    let waited_for = child(|| spin());
                    let _ = family::wait(signed(waited_for), 0);
                    1
                }
            });
        }
        for _ in 0..random.below(2000) {
            core::hint::spin_loop();
        }
        let first = usize::try_from(random.below(4)).unwrap_or(0);
        for turn in 0..4 {
            let pid = pids[(first + turn) % 4];
            must!(family::kill(signed(pid), SIGKILL));
            let ended = family::wait(signed(pid), 0);
            check_eq!(ended, Ok((pid, End::Killed(SIGKILL))), "round {round}");
        }
        // Orphans are ours here; natively they are somebody else's, and must not stay.
        while fault::in_mmvisor() && family::kill(-1, SIGKILL).is_ok() {
            let _ = family::wait(-1, 0);
        }
    }
}

/// Forks until there can be no more processes; they all wait for their ends.
pub(crate) fn until_refused() {
    let mut made = 0;
    let refused = loop {
        match family::fork() {
            Ok(Forked::Child) => spin_quietly(),
            Ok(Forked::Parent(_)) => made += 1,
            Err(errno) => break errno,
        }
    };
    check_eq!(refused, Errno::EAGAIN, "a fork too many, after {made}");
    check!(made >= 100, "only {made} processes");
    check_eq!(family::fork(), Err(Errno::EAGAIN), "another one");
    must!(family::kill(-1, SIGKILL));
    for _ in 0..made {
        check_eq!(must!(family::wait(-1, 0)).1, End::Killed(SIGKILL), "one of them");
    }
    check_eq!(family::wait(-1, 0), Err(Errno::ECHILD), "one more than there were");
    let pid = child(|| 9);
    check_eq!(family::wait(signed(pid), 0), Ok((pid, End::Exited(9))), "a fork after that");
}

/// Waits for ever without using a processor: for a child that waits likewise ends with it.
fn spin_quietly() -> ! {
    loop {
        guest::process::sleep(1000);
    }
}

/// Ends while children run, fault, fork and wait.
pub(crate) fn outlive() {
    child(|| spin());
    child(|| churn());
    child(|| breed());
    child(|| spin_quietly());
}

/// Does not end, nor do its children.
pub(crate) fn endless() {
    outlive();
    println!("family: begun");
    spin_quietly();
}
