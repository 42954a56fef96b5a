//! What Linux 6.18 does, as the oracle sees it: state that no call shows, but that decides results.

use std::ops::Range;

use guest::call::number::{BRK, MADVISE, MLOCK, MMAP, MPROTECT, MREMAP, MSEAL, MUNMAP};
use guest::errno::Errno;
use guest::fault::{Answer as Fault, BUS_ADRERR, SIGBUS};
use guest::memory::TASK_SIZE;
use guest::script::{Access, Arg, Name, Op, Vma};
use libtest_mimic::{Failed, Trial};

use crate::oracle::Oracle;
use crate::script::{Answer, FTRUNCATE, MEMFD_CREATE, Script};
use crate::trial::{Named, equal, group};
use crate::values::*;

/// Where these tests put their maps.
const WINDOW: Range<u64> = BASE..BASE + (1 << 30);

/// The facts, each a trial.
pub fn trials() -> Vec<Trial> {
    let facts: &[Named] = &[
        ("adjacent_maps_are_one_vma", adjacent),
        ("adjacent_maps_are_one_vma_if_one_was_written", adjacent_one_written),
        ("a_hole_filled_between_two_written_maps_leaves_two_vmas", hole_between_written),
        ("written_neighbours_that_become_alike_merge", written_become_alike),
        ("a_middle_page_protected_away_and_back_rejoins", middle_page),
        ("an_unwritten_map_merges_where_it_is_moved_to_a_written_one_does_not", moved),
        ("a_childs_map_does_not_merge_with_an_inherited_written_one", fork_merge),
        ("shared_anonymous_maps_never_merge", shared_never),
        ("mprotect_over_a_hole_changes_what_is_before_it", partial_mprotect),
        ("mlock_of_prot_none_fails_and_leaves_the_flag", mlock_none),
        ("mremap_moves_several_vmas_of_one_size_only", several_vmas),
        ("a_growing_stack_keeps_256_pages_free_below", growsdown),
        ("the_stack_grows_far_below_the_stack_pointer", stack_growth),
        ("a_guard_region_faults_as_if_unmapped_and_shows_in_no_maps", guard_region),
        ("a_sealed_map_answers_eperm", sealed),
        ("mremap_dontunmap_leaves_zeros_behind", dontunmap),
        ("a_map_of_exactly_2_mib_is_aligned_to_it", thp_placement),
        ("every_access_to_every_protection", accesses),
        ("an_instruction_is_fetched_whatever_it_is", fetches),
        ("past_the_end_of_a_file_is_a_bus_error", past_the_end),
        ("the_heap_follows_the_image", heap),
        ("the_first_map_goes_directly_below_the_highest_one", top_down),
    ];
    group("facts", facts)
}

/// A VMA's line, as far as it is compared: range and permissions.
type Line = (Range<u64>, String);

/// Performs a script, with the window's VMAs asked for at the end; these come apart.
fn ask(mut script: Script) -> Result<(Vec<Answer>, Vec<Line>), Failed> {
    script.maps(WINDOW);
    let mut answers = Oracle::start()?.run(&script)?;
    match answers.pop() {
        Some(Answer::Maps(vmas)) => Ok((answers, vmas.iter().map(line).collect())),
        other => Err(format!("no maps: {other:?}").into()),
    }
}

fn line(vma: &Vma) -> Line {
    (vma.start..vma.end, String::from_utf8_lossy(&vma.permissions()).into_owned())
}

/// These pages of the window, with permissions.
fn pages(range: Range<u64>, permissions: &str) -> Line {
    (page(range.start)..page(range.end), permissions.to_owned())
}

fn page(n: u64) -> u64 {
    BASE + n * PAGE
}

fn value(value: u64) -> Answer {
    Answer::Result { value: Ok(value), outputs: Vec::new() }
}

fn error(errno: Errno) -> Answer {
    Answer::Result { value: Err(errno), outputs: Vec::new() }
}

fn fault(fault: Fault) -> Answer {
    Answer::Access { fault: Some(fault), byte: 0 }
}

const DONE: Answer = Answer::Access { fault: None, byte: 0 };

/// Steps by page numbers of the window.
impl Script {
    fn map(&mut self, at: Range<u64>, prot: u64) -> usize {
        self.map_as(at, prot, PRIVATE | ANON)
    }

    fn map_as(&mut self, at: Range<u64>, prot: u64, flags: u64) -> usize {
        let length = (at.end - at.start) * PAGE;
        self.call(MMAP, &[page(at.start), length, prot, flags | FIXED, NO_FILE, 0])
    }

    fn ranged(&mut self, number: u64, at: Range<u64>, third: u64) -> usize {
        self.call(number, &[page(at.start), (at.end - at.start) * PAGE, third])
    }

    fn write(&mut self, n: u64) -> usize {
        self.touch(page(n), Access::Write)
    }

    fn read(&mut self, n: u64) -> usize {
        self.touch(page(n), Access::Read)
    }

    fn execute(&mut self, n: u64) -> usize {
        self.touch(page(n), Access::Execute)
    }
}

//   |0 1|2 3|      unwritten
fn adjacent() -> Result<(), Failed> {
    let mut script = Script::new();
    script.map(0..2, RW);
    script.map(2..4, RW);
    let (answers, vmas) = ask(script)?;
    equal(answers, vec![value(page(0)), value(page(2))])?;
    equal(vmas, vec![pages(0..4, "rw-p")])
}

//   |0*1|2 3|      * written
fn adjacent_one_written() -> Result<(), Failed> {
    let mut script = Script::new();
    script.map(0..2, RW);
    script.write(0);
    script.map(2..4, RW);
    let (answers, vmas) = ask(script)?;
    equal(&answers[1], &DONE)?;
    equal(vmas, vec![pages(0..4, "rw-p")])
}

//   |0*|  |2*|     each with an anon_vma of its own, then 1 is filled: it joins one of them
fn hole_between_written() -> Result<(), Failed> {
    let mut script = Script::new();
    script.map(0..1, RW);
    script.write(0);
    script.map(2..3, RW);
    script.write(2);
    script.map(1..2, RW);
    let (_, vmas) = ask(script)?;
    equal(vmas.len(), 2)?;
    equal(vmas[0].0.start..vmas[1].0.end, page(0)..page(3))
}

//   |0* rw|1* r|   written one after the other: the second takes the first's anon_vma
fn written_become_alike() -> Result<(), Failed> {
    let mut script = Script::new();
    script.map(0..2, RW);
    script.ranged(MPROTECT, 1..2, NONE);
    script.write(0);
    script.ranged(MPROTECT, 1..2, RWX);
    script.write(1);
    script.maps(WINDOW);
    script.ranged(MPROTECT, 1..2, RW);
    let (answers, vmas) = ask(script)?;
    match &answers[5] {
        Answer::Maps(between) => equal(between.len(), 2)?,
        other => return Err(format!("{other:?}").into()),
    }
    equal(vmas, vec![pages(0..2, "rw-p")])
}

fn middle_page() -> Result<(), Failed> {
    let mut script = Script::new();
    script.map(0..3, RW);
    script.write(0);
    script.ranged(MPROTECT, 1..2, R);
    script.maps(WINDOW);
    script.ranged(MPROTECT, 1..2, RW);
    let (answers, vmas) = ask(script)?;
    match &answers[3] {
        Answer::Maps(between) => equal(between.len(), 3)?,
        other => return Err(format!("{other:?}").into()),
    }
    equal(vmas, vec![pages(0..3, "rw-p")])
}

/// Page 8 is moved beside page 0; then a written one there and back, where its other half stayed.
fn moved() -> Result<(), Failed> {
    for (written, joined) in [(false, true), (true, false)] {
        let mut script = Script::new();
        script.map(0..1, RW);
        script.map(8..9, RW);
        if written {
            script.write(8);
        }
        script.call(MREMAP, &[page(8), PAGE, PAGE, MOVE_TO, page(1)]);
        let (_, vmas) = ask(script)?;
        equal(vmas.len(), if joined { 1 } else { 2 })?;
    }
    // Its offset is still that of where it came from.
    let mut script = Script::new();
    script.map(8..10, RW);
    script.write(8);
    script.call(MREMAP, &[page(8), PAGE, PAGE, MOVE_TO, page(1)]);
    script.call(MREMAP, &[page(1), PAGE, PAGE, MOVE_TO, page(8)]);
    let (_, vmas) = ask(script)?;
    equal(vmas, vec![pages(8..10, "rw-p")])
}

//   parent |0*| and |4|, then each process maps 1 and 5
fn fork_merge() -> Result<(), Failed> {
    let mut script = Script::new();
    script.map(0..1, RW);
    script.write(0);
    script.map(4..5, RW);
    script.step(0, Op::Fork { child: 1 });
    for process in [1, 0] {
        for n in [1, 5] {
            let args = [page(n), PAGE, RW, PRIVATE | ANON | FIXED, NO_FILE, 0].map(Arg::Value);
            script.call_of(process, MMAP, &args);
        }
    }
    let child = script.step(1, Op::Maps { start: WINDOW.start, end: WINDOW.end });
    let (answers, parents) = ask(script)?;
    equal(parents, vec![pages(0..2, "rw-p"), pages(4..6, "rw-p")])?;
    let Answer::Maps(childs) = &answers[child] else { return Err("no maps".into()) };
    equal(
        childs.iter().map(line).collect::<Vec<_>>(),
        vec![pages(0..1, "rw-p"), pages(1..2, "rw-p"), pages(4..6, "rw-p")],
    )
}

fn shared_never() -> Result<(), Failed> {
    let mut script = Script::new();
    script.map_as(0..1, RW, SHARED | ANON);
    script.map_as(1..2, RW, SHARED | ANON);
    let (_, vmas) = ask(script)?;
    equal(vmas, vec![pages(0..1, "rw-s"), pages(1..2, "rw-s")])
}

fn partial_mprotect() -> Result<(), Failed> {
    let mut script = Script::new();
    script.map(0..1, RW);
    script.map(2..3, RW);
    script.ranged(MPROTECT, 0..3, R);
    let (answers, vmas) = ask(script)?;
    equal(&answers[2], &error(Errno::ENOMEM))?;
    equal(vmas, vec![pages(0..1, "r--p"), pages(2..3, "rw-p")])
}

fn mlock_none() -> Result<(), Failed> {
    let mut script = Script::new();
    script.map(0..1, NONE);
    script.ranged(MLOCK, 0..1, 0);
    script.step(0, Op::VmFlags { start: page(0), end: page(1) });
    let (answers, _) = ask(script)?;
    equal(&answers[1], &error(Errno::ENOMEM))?;
    match &answers[2] {
        Answer::VmFlags(lines) => {
            equal(lines.len(), 1)?;
            equal(lines[0].flags.split(' ').any(|flag| flag == "lo"), true)
        }
        other => Err(format!("{other:?}").into()),
    }
}

//   |0 rw|1 r|
fn several_vmas() -> Result<(), Failed> {
    let two = || {
        let mut script = Script::new();
        script.map(0..1, RW);
        script.map(1..2, R);
        script
    };
    let mut script = two();
    script.call(MREMAP, &[page(0), 2 * PAGE, 2 * PAGE, MOVE_TO, page(8)]);
    let (answers, vmas) = ask(script)?;
    equal(&answers[2], &value(page(8)))?;
    equal(vmas, vec![pages(8..9, "rw-p"), pages(9..10, "r--p")])?;

    let mut script = two();
    script.call(MREMAP, &[page(0), 2 * PAGE, 3 * PAGE, MAYMOVE]);
    let (answers, _) = ask(script)?;
    equal(&answers[2], &error(Errno::EFAULT))?;

    // A shrink that begins in one VMA and ends in another.
    let mut script = two();
    script.map(2..4, RWX);
    script.call(MREMAP, &[page(0), 3 * PAGE, PAGE, 0]);
    let (answers, vmas) = ask(script)?;
    equal(&answers[3], &value(page(0)))?;
    equal(vmas, vec![pages(0..1, "rw-p"), pages(3..4, "rwxp")])
}

//   |0|  ...  |300 grows down|
fn growsdown() -> Result<(), Failed> {
    let stack = |below: u64| {
        let mut script = Script::new();
        script.map(0..1, RW);
        script.map_as(300..301, RW, PRIVATE | ANON | GROWSDOWN);
        script.write(below);
        ask(script)
    };
    let (answers, vmas) = stack(257)?;
    equal(&answers[2], &DONE)?;
    equal(vmas, vec![pages(0..1, "rw-p"), pages(257..301, "rw-p")])?;
    let (answers, vmas) = stack(256)?;
    equal(&answers[2], &fault(Fault::unmapped(page(256))))?;
    equal(vmas, vec![pages(0..1, "rw-p"), pages(300..301, "rw-p")])
}

/// The stack that exec made; the player stands on another.
fn stack_growth() -> Result<(), Failed> {
    const TOP: u64 = TASK_SIZE;
    let far = TOP - (4 << 20);
    let mut script = Script::new();
    script.touch(far, Access::Write);
    script.maps(far..TOP);
    script.touch(TOP - (9 << 20), Access::Write);
    let answers = Oracle::start()?.run(&script)?;
    equal(&answers[0], &DONE)?;
    let Answer::Maps(vmas) = &answers[1] else { return Err("no maps".into()) };
    equal(vmas.len(), 1)?;
    equal((vmas[0].start..vmas[0].end, vmas[0].name), (far..TOP, Name::Stack))?;
    // Past its limit of 8 MiB.
    equal(&answers[2], &fault(Fault::unmapped(TOP - (9 << 20))))
}

fn guard_region() -> Result<(), Failed> {
    const GUARD_INSTALL: u64 = 102;
    let mut script = Script::new();
    script.map(0..3, RW);
    script.ranged(MADVISE, 1..2, GUARD_INSTALL);
    script.read(0);
    script.read(1);
    let (answers, vmas) = ask(script)?;
    equal(&answers[1..], &[value(0), DONE, fault(Fault::unmapped(page(1)))])?;
    equal(vmas, vec![pages(0..3, "rw-p")])
}

fn sealed() -> Result<(), Failed> {
    let mut script = Script::new();
    script.map(0..1, RW);
    script.ranged(MSEAL, 0..1, 0);
    script.ranged(MUNMAP, 0..1, 0);
    script.ranged(MPROTECT, 0..1, R);
    script.map(0..1, RW);
    let (answers, vmas) = ask(script)?;
    let refused = error(Errno::EPERM);
    equal(&answers[1..], &[value(0), refused.clone(), refused.clone(), refused])?;
    equal(vmas, vec![pages(0..1, "rw-p")])
}

fn dontunmap() -> Result<(), Failed> {
    let mut script = Script::new();
    script.map(0..1, RW);
    script.step(0, Op::Store { addr: page(0), byte: 42 });
    script.call(MREMAP, &[page(0), PAGE, PAGE, MOVE_TO | DONTUNMAP, page(8)]);
    script.step(0, Op::Load { addr: page(0) });
    script.step(0, Op::Load { addr: page(8) });
    let (answers, _) = ask(script)?;
    let byte = |byte| Answer::Access { fault: None, byte };
    equal(&answers[2..], &[value(page(8)), byte(0), byte(42)])
}

fn thp_placement() -> Result<(), Failed> {
    const HUGE: u64 = 2 << 20;
    for (length, aligned) in [(HUGE, true), (HUGE + PAGE, false)] {
        let mut script = Script::new();
        script.call(MMAP, &[0, PAGE, RW, PRIVATE | ANON, NO_FILE, 0]);
        script.call(MMAP, &[0, length, RW, PRIVATE | ANON, NO_FILE, 0]);
        let (answers, _) = ask(script)?;
        let Answer::Result { value: Ok(addr), .. } = answers[1] else {
            return Err(format!("{:?}", answers[1]).into());
        };
        equal((length, addr % HUGE == 0), (length, aligned))?;
    }
    Ok(())
}

fn accesses() -> Result<(), Failed> {
    for prot in 0..8 {
        let mut script = Script::new();
        script.map(0..1, prot);
        for n in [0, 1] {
            script.read(n);
            script.write(n);
            script.execute(n);
        }
        let (answers, _) = ask(script)?;
        let allowed = [prot != 0, prot & 2 != 0, prot & 4 != 0];
        let wanted = |allowed| if allowed { DONE } else { fault(Fault::denied(page(0))) };
        equal(&answers[1..4], &allowed.map(wanted))?;
        equal(&answers[4..], &[1; 3].map(|n| fault(Fault::unmapped(page(n)))))?;
    }
    Ok(())
}

/// Zeros, ret, int3, ud2, hlt, syscall, int 0x80, a store to a register's address, a jump, pushf, sti.
fn fetches() -> Result<(), Failed> {
    const CODES: [&[u8]; 11] = [
        &[],
        &[0xc3],
        &[0xcc],
        &[0x0f, 0x0b],
        &[0xf4],
        &[0x0f, 0x05],
        &[0xcd, 0x80],
        &[0x88, 0x00],
        &[0xeb, 0xfe],
        &[0x9c],
        &[0xfb],
    ];
    for code in CODES {
        let mut script = Script::new();
        script.map(0..1, RWX);
        for (addr, &byte) in (page(0)..).zip(code) {
            script.step(0, Op::Store { addr, byte });
        }
        let executed = script.execute(0);
        let (answers, _) = ask(script)?;
        equal((code, &answers[executed]), (code, &DONE))?;
    }
    // An instruction that goes on where nothing is.
    let mut script = Script::new();
    script.map(0..1, RWX);
    script.touch(page(1) - 1, Access::Execute);
    // Where no instruction can be.
    script.touch(1 << 63, Access::Execute);
    let (answers, _) = ask(script)?;
    equal(&answers[1..], &[fault(Fault::unmapped(page(1))), fault(Fault::protection())])
}

fn past_the_end() -> Result<(), Failed> {
    let mut script = Script::new();
    script.call_of(0, MEMFD_CREATE, &[Arg::In(b"file\0"), Arg::Value(0)]);
    script.call(FTRUNCATE, &[3, PAGE]);
    script.call(MMAP, &[page(0), 2 * PAGE, RWX, PRIVATE | FIXED, 3, 0]);
    script.read(0);
    for access in [Access::Read, Access::Write, Access::Execute] {
        script.touch(page(1), access);
    }
    script.resident(page(0), 2);
    let (answers, _) = ask(script)?;
    // The first file descriptor that is free.
    equal(&answers[0], &value(3))?;
    equal(&answers[3], &DONE)?;
    let bus = fault(Fault { signal: SIGBUS, code: BUS_ADRERR, address: page(1) });
    equal(&answers[4..7], &[bus.clone(), bus.clone(), bus])?;
    equal(&answers[7], &Answer::Result { value: Ok(0), outputs: vec![vec![1, 0]] })
}

fn heap() -> Result<(), Failed> {
    let mut script = Script::new();
    script.call(BRK, &[0]);
    let answers = Oracle::start()?.run(&script)?;
    let Answer::Result { value: Ok(start), .. } = answers[0] else {
        return Err(format!("{:?}", answers[0]).into());
    };
    let mut script = Script::new();
    script.call(BRK, &[start + PAGE]);
    script.maps(start - 1..start + PAGE);
    script.call(BRK, &[start]);
    script.maps(start..start + PAGE);
    let answers = Oracle::start()?.run(&script)?;
    equal(&answers[0], &value(start + PAGE))?;
    let Answer::Maps(vmas) = &answers[1] else { return Err("no maps".into()) };
    equal(vmas.len(), 2)?;
    equal((vmas[0].end, vmas[0].name), (start, Name::None))?;
    equal((vmas[1].start..vmas[1].end, vmas[1].name), (start..start + PAGE, Name::Heap))?;
    equal(&answers[3], &Answer::Maps(Vec::new()))
}

fn top_down() -> Result<(), Failed> {
    let mut script = Script::new();
    script.maps(0x7000_0000_0000..u64::MAX);
    script.call(MMAP, &[0, PAGE, RW, PRIVATE | ANON, NO_FILE, 0]);
    let (answers, _) = ask(script)?;
    let Answer::Maps(vmas) = &answers[0] else { return Err("no maps".into()) };
    equal(&answers[1], &value(vmas[0].start - PAGE))
}
