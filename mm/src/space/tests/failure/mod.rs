//! Each operation, made to fail at each allocation that it makes: exhaustive, by counting. What must hold
//! then is in the [`table`]; where it says nothing, the call answers `ENOMEM` and nothing has changed.
//!
//! ```text
//!   fresh space ── count ──> call succeeds ──> this is what the call does (after)
//!   fresh space ── refuse the 1st ──> call ──> audit, compare ──> the same call again ──> as after
//!   fresh space ── refuse the 2nd ──> call ──> audit, compare ──> the same call again ──> as after
//!     ...                                                              end: no frame is left
//! ```
//!
//! A flush that fails has one outcome for all of them: see [`flush`].

mod fixture;
mod flush;
mod huges;
mod pages;
mod snapshot;
mod table;

use std::collections::BTreeSet;
use std::num::NonZeroU64;

use super::*;
use crate::inspect::unmerged;
use fixture::{Fixture, Kind};
use snapshot::Snapshot;

/// What an operation answers.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Answer {
    Value(u64),
    Errno(Errno),
    Signal(Fault),
    /// fork(2): the child's memory.
    Child(Box<Snapshot>),
    /// The machine ends.
    Broken(String),
}

/// What the program is told of a failed allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    /// The errno of that kind of refusal: `ENOMEM`, or a veto's own.
    Refusal,
    Errno(Errno),
    /// This, which is no error.
    Value(u64),
    /// A signal for want of memory.
    OutOfMemory,
    /// `SIGSEGV`.
    NotMapped,
    /// `SIGBUS`.
    NoBacking,
    /// Nothing: the call succeeds.
    Nothing,
    /// Nothing: the call succeeds, with another address.
    Elsewhere,
}

/// What a failed call leaves behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leaves {
    /// Everything as it was.
    Same,
    /// Each page as it was; VMAs may have been cut.
    Cut,
    /// Nothing that shows: memory may have its identity already, and a backing pages in memory.
    Unseen,
    /// Up to some page all is as the call makes it, from there on as it was.
    Part,
    /// Each page is as it was or as the call makes it.
    Each,
    /// Likewise, and some have moved away: the same call would not find them again.
    Moved,
    /// The call made it otherwise.
    Otherwise,
    /// VMAs are as the call makes them; pages may be lacking.
    Vmas,
    /// These pages, `[from, to)`, are unmapped; the rest is as it was.
    Without(u64, u64),
}

impl Leaves {
    /// Whether the call must not be made again: it has succeeded, or cannot.
    fn is_final(self, told: Told) -> bool {
        match self {
            Leaves::Moved | Leaves::Otherwise => true,
            Leaves::Vmas => told == Told::Nothing,
            _ => false,
        }
    }
}

/// An operation, and what is particular about its failures.
struct Case {
    name: String,
    /// Done to the fresh space first.
    prepare: fn(&Fixture),
    call: Box<dyn Fn(&Fixture) -> Answer>,
    /// For a kind of allocation, the outcomes of which one must be.
    rules: Vec<(Kind, Vec<(Told, Leaves)>)>,
}

impl Case {
    /// The outcomes of which one must be.
    fn allowed(&self, kind: Kind) -> Vec<(Told, Leaves)> {
        let ruled = if kind == Kind::OneFrame { Kind::Frame } else { kind };
        let rules = self.rules.iter().find(|rule| rule.0 == ruled);
        let mut allowed = rules.map_or(vec![(Told::Refusal, Leaves::Same)], |rule| rule.1.clone());
        if kind == Kind::OneFrame {
            // Something was given up, or the call does without.
            allowed.push((Told::Nothing, Leaves::Vmas));
        }
        allowed
    }
}

/// Runs a case to its end without a failure: the answer, the space, and how many allocations there were.
fn succeed(case: &Case, kind: Kind) -> (Snapshot, Answer, Snapshot, u64) {
    let fixture = Fixture::new();
    (case.prepare)(&fixture);
    let before = Snapshot::of(&fixture.m.space.look());
    fixture.watch(kind, None);
    let answer = (case.call)(&fixture);
    let count = fixture.stop(kind);
    fixture.audit().unwrap();
    let after = Snapshot::of(&fixture.m.space.look());
    fixture.end();
    (before, answer, after, count)
}

/// Fails the `nth` allocation, and says what is wrong with the outcome.
fn fail(case: &Case, kind: Kind, nth: NonZeroU64) -> Result<(), String> {
    let (before, answer, after, _) = succeed(case, kind);
    let fixture = Fixture::new();
    (case.prepare)(&fixture);
    fixture.watch(kind, Some(nth));
    let told = (case.call)(&fixture);
    fixture.stop(kind);
    let space = &fixture.m.space;
    fixture.audit().map_err(|error| format!("audit: {error}"))?;
    let left = Snapshot::of(&space.look());
    let allowed = case.allowed(kind);
    let mut wrong = Vec::new();
    let met = allowed.iter().find(|&&(says, leaves)| {
        let problem = if is_told(&told, says, kind, &answer) {
            differs(leaves, &before, &after, &left)
        } else {
            Some(format!("answered {told:?}, not {says:?}"))
        };
        problem.map(|problem| wrong.push(problem)).is_none()
    });
    let Some(&met) = met else { return Err(wrong.join("; or ")) };
    if met.1.is_final(met.0) {
        fixture.end();
        return Ok(());
    }
    // Now there is memory.
    let again = (case.call)(&fixture);
    if again != answer {
        return Err(format!("then answered {again:?}, not {answer:?}"));
    }
    fixture.audit().map_err(|error| format!("audit at the end: {error}"))?;
    let end = Snapshot::of(&space.look());
    same(&after.without_residency(), &end.without_residency())
        .map_err(|difference| format!("at the end {difference}"))?;
    if let Some(pair) = unmerged(&space.look()) {
        let expected = after.vmas.iter().any(|vma| vma.range == pair.0);
        if !expected {
            return Err(format!("{pair:?} should be one VMA"));
        }
    }
    fixture.end();
    Ok(())
}

fn is_told(told: &Answer, says: Told, kind: Kind, answer: &Answer) -> bool {
    match (says, told) {
        (Told::Refusal, Answer::Errno(errno)) => Some(*errno) == kind.errno(),
        (Told::Errno(expected), Answer::Errno(errno)) => *errno == expected,
        (Told::Value(expected), Answer::Value(value)) => *value == expected,
        (Told::OutOfMemory, Answer::Signal(Fault::OutOfMemory(_))) => true,
        (Told::NotMapped, Answer::Signal(Fault::NotMapped(_))) => true,
        (Told::NoBacking, Answer::Signal(Fault::NoBacking(_))) => true,
        (Told::Nothing, told) => told == answer,
        (Told::Elsewhere, Answer::Value(value)) => Answer::Value(*value) != *answer,
        _ => false,
    }
}

/// What is not as a failed call should leave it; `None` if all is.
fn differs(leaves: Leaves, before: &Snapshot, after: &Snapshot, left: &Snapshot) -> Option<String> {
    match leaves {
        Leaves::Same => same(before, left).err(),
        Leaves::Unseen => {
            let mut unseen = left.without_identities();
            unseen.frames = before.frames;
            same(&before.without_identities(), &unseen).err()
        }
        Leaves::Part => part(before, after, left).err(),
        Leaves::Each | Leaves::Moved => each(before, after, left).err(),
        Leaves::Otherwise => None,
        Leaves::Cut => {
            (before.by_page() != left.by_page()).then(|| format!("left {:#?}", left.vmas))
        }
        Leaves::Vmas => {
            let (expected, found) = (after.without_identities(), left.without_identities());
            let equal = expected.vmas == found.vmas && expected.account == found.account;
            // A page of a memfd that is lacking was not promised either.
            (!equal || expected.committed < found.committed)
                .then(|| format!("left {:#?}, not {:#?}", found.vmas, expected.vmas))
                .or_else(|| each(before, after, left).err())
        }
        Leaves::Without(from, to) => {
            let gone = PageRange::new(page(from), page(to))?;
            let (mut expected, found) = (before.by_page(), left.by_page());
            expected.retain(|&at, _| !gone.contains(at));
            (expected != found).then(|| format!("left {found:#?}, not {expected:#?}"))
        }
    }
}

fn same(expected: &Snapshot, found: &Snapshot) -> Result<(), String> {
    if expected == found {
        return Ok(());
    }
    let (expected, found) = (format!("{expected:#?}"), format!("{found:#?}"));
    let lines = expected.lines().zip(found.lines()).filter(|(expected, found)| expected != found);
    let lines = lines.take(3).map(|(was, is)| format!("was {}, is {}", was.trim(), is.trim()));
    Err(lines.collect::<Vec<_>>().join("; "))
}

fn part(before: &Snapshot, after: &Snapshot, left: &Snapshot) -> Result<(), String> {
    let (before, after, left) = (before.by_page(), after.by_page(), left.by_page());
    let all: BTreeSet<_> = before.keys().chain(after.keys()).chain(left.keys()).collect();
    let mut done = true;
    for at in all {
        let (was, shall, is) = (before.get(at), after.get(at), left.get(at));
        done &= is == shall;
        if !done && is != was {
            return Err(format!("at {at}: was {was:?}, is {is:?}, shall be {shall:?}"));
        }
    }
    Ok(())
}

fn each(before: &Snapshot, after: &Snapshot, left: &Snapshot) -> Result<(), String> {
    let (before, after, left) = (before.by_page(), after.by_page(), left.by_page());
    let all: BTreeSet<_> = before.keys().chain(after.keys()).chain(left.keys()).collect();
    for at in all {
        let (was, shall, is) = (before.get(at), after.get(at), left.get(at));
        let attributes = [was, shall].map(|page| page.map(|page| page.0));
        let entries = [was, shall].map(|page| page.and_then(|page| page.1));
        let entry = is.and_then(|page| page.1);
        let known = entries.contains(&entry) || entry.is_none_or(|entry| entry.plain);
        if !attributes.contains(&is.map(|page| page.0)) || !known {
            return Err(format!("at {at}: was {was:?}, is {is:?}, shall be {shall:?}"));
        }
    }
    Ok(())
}

#[test]
#[cfg_attr(miri, ignore = "a thousand spaces take hours")]
fn every_operation_survives_the_failure_of_every_allocation_it_makes() {
    let mut wrong = Vec::new();
    let mut failures = 0;
    for case in table::cases() {
        let mut counts = Vec::new();
        for kind in Kind::ALL {
            let (.., count) = succeed(&case, kind);
            counts.push(count);
            failures += count;
            for nth in (1..=count).filter_map(NonZeroU64::new) {
                let failed = match kind {
                    Kind::Flush => flush::fail(&case, nth),
                    _ => fail(&case, kind, nth),
                };
                if let Err(what) = failed {
                    wrong.push(format!("{}: {kind:?} {nth} of {count}: {what}", case.name));
                }
            }
            if count == 0 && case.rules.iter().any(|rule| rule.0 == kind) {
                wrong.push(format!("{}: has a rule for {kind:?}, and asks for none", case.name));
            }
        }
        println!("{:<60} {:?} {counts:?}", case.name, Kind::ALL);
    }
    println!("{failures} failures");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(failures > 300, "only {failures}");
}
