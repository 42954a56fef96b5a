//! At `vm.max_map_count`: the limit is the host's, so as many VMAs are made, a thousand with a call.

use std::fs;

use libtest_mimic::Failed;
use mm::addr::{PAGE_SIZE as PAGE, VirtAddr};
use mm::replay::calls::{IoVec, MemoryCall as M, Pointee};

use super::act::{Act, Deed};
use super::model::{Model, Start};
use super::run::result_of;
use crate::oracle::Oracle;
use crate::script::Script;

const A: u64 = 0x100_0000_0000;
/// Ranges of one call, each of which makes two VMAs more.
const RANGES: u64 = 1024;
/// The most VMAs for which the ranges fit into a script.
const MOST: u64 = 100_000;

/// Compares what calls answer at the limit; `None` if both sides agree.
pub fn compare(oracle: &mut Oracle, start: &Start) -> Result<Option<String>, Failed> {
    let limit: u64 = fs::read_to_string("/proc/sys/vm/max_map_count")?.trim().parse()?;
    if limit > MOST {
        println!("not compared: vm.max_map_count is {limit} here");
        return Ok(None);
    }
    let mut model = Model::new(start)?;
    model.set_max_map_count(limit);
    let mut script = Script::new();
    let mut expected = Vec::new();
    for deed in deeds(limit) {
        let act = Act { process: 0, deed };
        expected.push((act.add_to(&mut script), model.perform(&act)?, act));
    }
    let answers = oracle.run(&script)?;
    for (step, ours, act) in &expected {
        let theirs = result_of(&answers[*step], ours)?;
        if theirs != *ours {
            return Ok(Some(format!("{act:.100}: Linux answers {theirs:x?}, we answer {ours:x?}")));
        }
    }
    Ok(None)
}

fn at(page: u64) -> VirtAddr {
    VirtAddr::new(A + page * PAGE)
}

fn deeds(limit: u64) -> Vec<Deed> {
    let calls = limit / (2 * RANGES) + 1;
    let pages = calls * 2 * RANGES + 16;
    let map = |page: u64, pages: u64, flags: u64| M::Mmap {
        addr: at(page),
        len: pages * PAGE,
        prot: 1,
        flags,
        fd: -1,
        offset: 0,
    };
    let sequential = |call: u64| {
        let range = |i: u64| IoVec { base: at(2 * (call * RANGES + i) + 1), len: PAGE };
        let ranges = Pointee::Shown((0..RANGES).map(range).collect());
        M::ProcessMadvise { pidfd: -10000, ranges, count: RANGES, advice: 2, flags: 0 }
    };
    let last = pages - 8;
    let (whole, inside) = ((at(1), PAGE), (at(last), PAGE));
    let munmap = |(addr, len)| M::Munmap { addr, len };
    let mprotect = |(addr, len)| M::Mprotect { addr, len, prot: 0 };
    let advise = |(addr, len)| M::Madvise { addr, len, advice: 1 };
    let remap = |(addr, len): (VirtAddr, u64)| M::Mremap {
        addr,
        old_len: len,
        new_len: len,
        flags: 3,
        new_addr: at(pages + 100),
    };
    let made = (0..calls).map(sequential);
    let at_limit = [
        // One more, which merges with nothing, or with what is there.
        map(pages + 50, 1, 0x32),
        map(pages, 1, 0x32),
        // What must be cut, and what need not.
        munmap(inside),
        mprotect(inside),
        advise(inside),
        remap(inside),
        M::Mlock { addr: at(last), len: PAGE },
        M::Brk { addr: VirtAddr::ZERO },
        mprotect(whole),
        remap(whole),
        munmap(whole),
        // Now there is room for one.
        munmap((at(3), PAGE)),
        munmap(inside),
        munmap(inside),
        mprotect((at(last + 2), PAGE)),
        map(pages + 50, 1, 0x32),
        map(pages + 60, 1, 0x32),
        M::Munmap { addr: at(0), len: 64 * PAGE },
        remap((at(last - 3), PAGE)),
        remap((at(101), PAGE)),
        M::Munmap { addr: at(0), len: (pages + 200) * PAGE },
    ];
    std::iter::once(map(0, pages, 0x4032)).chain(made).chain(at_limit).map(Deed::Call).collect()
}
