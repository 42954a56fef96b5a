//! A hostile payload: whatever a program can do to the machine under it, one thing after the other.
//! None may end as anything but the program's own death, by the signal that Linux would send, and
//! none may leave a trace in the program when it is survived.
//!
//! ```text
//!   forger all          every attempt, each survived by the recovery call; after each the memory
//!                       and the registers of an honest call are checked
//!   forger list         the attempts: number, name, and what each may end as
//!   forger N            attempt N alone, not survived: ends as the list says (0 where it returns)
//!   forger A B          those from A to B, survived, as `all`
//! ```

#![no_std]
#![no_main]

mod attempts;
mod ends;
mod gates;
mod honest;
mod stub;

use guest::fault;
use guest::memory::{self, Flags, PAGE, Place, Prot};
use guest::process::{self, Args};
use guest::{check, check_eq, eprintln, must, println};

use ends::{End, Ends};

guest::payload!(main);

/// Attempts of one kind: the same code, with another argument each.
struct Family {
    name: &'static str,
    count: u64,
    /// Called with [`Family::argument`] and the address of the scratch page.
    code: unsafe extern "C" fn(u64, u64),
    argument: fn(u64) -> u64,
    ends: fn(u64) -> Ends,
}

const FAMILIES: [&[Family]; 3] = [attempts::FAMILIES, gates::FAMILIES, stub::FAMILIES];

fn families() -> impl Iterator<Item = &'static Family> {
    FAMILIES.into_iter().flatten()
}

fn total() -> u64 {
    families().map(|family| family.count).sum()
}

/// The family of an attempt, and its number in it.
fn find(number: u64) -> Option<(&'static Family, u64)> {
    let mut rest = number;
    for family in families() {
        if rest < family.count {
            return Some((family, rest));
        }
        rest -= family.count;
    }
    None
}

/// Attempts that ended otherwise are printed up to this many.
const LINES: u64 = 40;

/// Runs the attempts of a range; the answer is how many did not end as they may.
fn survive(range: core::ops::Range<u64>, scratch: u64) -> u64 {
    let mut wrong = 0;
    for number in range {
        let Some((family, index)) = find(number) else { break };
        // SAFETY: the attempts write to the scratch page, their own stack frame, and what the
        // machine lets them; that it lets them no more is what is tested.
        let came = unsafe {
            fault::attempt(family.code as usize as u64, (family.argument)(index), scratch)
        };
        let end = match came {
            Ok(_) => End::Returns,
            Err(caught) => End::Signal(caught.signal),
        };
        let may = (family.ends)(index);
        if !may.holds(end) {
            wrong += 1;
            if wrong <= LINES {
                eprintln!("forger: {number} ({} {index}): {came:x?}, not {may}", family.name);
            }
        }
        if let Some(harm) = honest::harm() {
            check!(false, "{number} ({} {index}) is survived, but {harm}", family.name);
        }
    }
    wrong
}

fn list() {
    let mut number = 0;
    for family in families() {
        // Neighbours that may end alike share a line.
        let mut first = 0;
        while first < family.count {
            let ends = (family.ends)(first);
            let mut next = first + 1;
            while next < family.count && (family.ends)(next) == ends {
                next += 1;
            }
            println!("{}..{} {}: {ends}", number + first, number + next - 1, family.name);
            first = next;
        }
        number += family.count;
    }
    println!("{number} attempts");
}

fn main(args: Args) {
    // No attempt needs more than a page, wherever in it it begins.
    let scratch = must!(memory::map(Place::Anywhere, 4 * PAGE, Prot::RW, Flags::OWN)) + PAGE;
    honest::plant();
    let range = match (args.get(1), args.number(1), args.number(2)) {
        (Some("list"), ..) => return list(),
        (Some("all"), ..) => 0..total(),
        (_, Some(first), Some(last)) => first..last + 1,
        (_, Some(number), None) => {
            let Some((family, index)) = find(number) else {
                check!(false, "there is no attempt {number}");
                return;
            };
            // SAFETY: as in `survive`; what it ends as is for the caller of this program to judge.
            unsafe { (family.code)((family.argument)(index), scratch) };
            process::exit(0)
        }
        _ => {
            eprintln!("usage: forger all | list | N | A B");
            process::exit(2)
        }
    };
    let tried = range.end - range.start;
    let wrong = survive(range, scratch);
    check_eq!(wrong, 0, "attempts of {tried} that did not end as they may");
    println!("forger: {tried} attempts, none but its own death");
}
