//! The player itself: processes in turns, scripts that go wrong, and how fast it is.

use std::process::Command;
use std::time::{Duration, Instant};

use guest::call::number::{CLOSE, EXIT_GROUP, MLOCKALL, MMAP, MPROTECT, MUNMAP, PRLIMIT64, READ};
use guest::errno::Errno;
use guest::fault::Answer as Fault;
use guest::memory::TASK_SIZE;
use guest::random::Random;
use guest::script::{ANSWER_BYTES, Access, Arg, Ending, Op, Report, Request, Wrong};
use libtest_mimic::{Completion, Failed, Trial};

use crate::common;
use crate::oracle::{Oracle, OracleError};
use crate::script::{Answer, Script};
use crate::trial::{Named, equal, group};
use crate::values::{ANON, BASE, FIXED, NO_FILE, PAGE, PRIVATE, R, RW, SHARED};

const SHARED_FIXED: u64 = SHARED | ANON | FIXED;
const PRIVATE_FIXED: u64 = PRIVATE | ANON | FIXED;

/// The player's image.
const IMAGE: u64 = 0x40_0000;

/// The trials.
pub fn trials() -> Vec<Trial> {
    let trials: &[Named] = &[
        ("processes_share_and_copy_memory_in_turns", turns),
        ("an_exited_process_is_gone_before_the_next_step", exits),
        ("steps_of_a_process_that_was_not_forked_are_absent", absent),
        ("sixty_four_processes_take_turns", many),
        ("a_script_gives_the_same_answers_each_time", repeats),
        ("random_scripts_give_the_same_answers_on_two_players", random_repeats),
        ("a_killed_process_is_reported_and_the_oracle_goes_on", killed),
        ("a_script_that_hangs_is_ended_and_the_oracle_goes_on", late),
        ("too_many_answers_are_reported", full),
        ("scripts_that_cannot_be_performed_are_refused", refused),
        ("a_killed_player_is_an_error", dead_player),
        ("a_stopped_player_is_an_error", stopped_player),
        ("status_tells_of_memory", status),
        ("a_script_may_spoil_all_memory_but_the_players", spoil),
        ("prints_how_fast_it_is", speed),
    ];
    let guest = Trial::ignorable_test("player::the_guest_gives_the_same_answers", in_guest);
    let mut trials = group("player", trials);
    trials.push(guest);
    trials
}

fn map(script: &mut Script, addr: u64, pages: u64, flags: u64) {
    script.call(MMAP, &[addr, pages * PAGE, RW, flags, NO_FILE, 0]);
}

/// A script that works, to see that the oracle does.
fn works(oracle: &mut Oracle) -> Result<(), Failed> {
    let mut script = Script::new();
    map(&mut script, BASE, 1, PRIVATE_FIXED);
    let wanted = Answer::Result { value: Ok(BASE), outputs: Vec::new() };
    equal(oracle.run(&script)?, vec![wanted])?;
    // Nobody is left of any script.
    let children = format!("/proc/{0}/task/{0}/children", oracle.pid());
    equal(std::fs::read_to_string(children)?.as_str(), "")
}

fn turns() -> Result<(), Failed> {
    let (private, shared) = (BASE, BASE + PAGE);
    let mut script = Script::new();
    map(&mut script, private, 1, PRIVATE_FIXED);
    map(&mut script, shared, 1, SHARED_FIXED);
    script.step(0, Op::Fork { child: 1 });
    script.step(1, Op::Fork { child: 2 });
    let mut wanted = Vec::new();
    let mut checks = Vec::new();
    for round in 0..50_u8 {
        let writer = round % 3;
        for addr in [private, shared] {
            script.step(writer, Op::Store { addr, byte: round });
        }
        for reader in 0..3 {
            checks.push(script.step(reader, Op::Load { addr: shared }));
            wanted.push(Answer::Access { fault: None, byte: round });
            // The last round in which the reader wrote.
            let own = if round >= reader { round - (round - reader) % 3 } else { 0 };
            checks.push(script.step(reader, Op::Load { addr: private }));
            wanted.push(Answer::Access { fault: None, byte: own });
        }
    }
    let mut oracle = Oracle::start()?;
    let answers = oracle.run(&script)?;
    equal(checks.iter().map(|&step| answers[step].clone()).collect(), wanted)?;
    works(&mut oracle)
}

/// A pipe's write end that only the child has: once the child is gone, and not before, it reads as
/// ended.
fn exits() -> Result<(), Failed> {
    const PIPE2: u64 = libc::SYS_pipe2 as u64;
    const NONBLOCK: u64 = libc::O_NONBLOCK as u64;
    let mut oracle = Oracle::start()?;
    for _ in 0..50 {
        let mut script = Script::new();
        script.call_of(0, PIPE2, &[Arg::Out(8), Arg::Value(NONBLOCK)]);
        script.step(0, Op::Fork { child: 1 });
        script.call(CLOSE, &[4]);
        let read = [Arg::Value(3), Arg::Out(1), Arg::Value(1)];
        let before = script.call_of(0, READ, &read);
        script.step(1, Op::Exit);
        let after = script.call_of(0, READ, &read);
        let answers = oracle.run(&script)?;
        let answer = |value| Answer::Result { value, outputs: vec![vec![0]] };
        equal(&answers[before], &answer(Err(Errno::EAGAIN)))?;
        equal(&answers[after], &answer(Ok(0)))?;
    }
    works(&mut oracle)
}

fn absent() -> Result<(), Failed> {
    const SETRESUID: u64 = libc::SYS_setresuid as u64;
    const NPROC: u64 = libc::RLIMIT_NPROC as u64;
    const NOBODY: u64 = 65534;
    let mut script = Script::new();
    script.call_of(
        0,
        PRLIMIT64,
        &[Arg::Value(0), Arg::Value(NPROC), Arg::In(&[0; 16]), Arg::Value(0)],
    );
    script.call(SETRESUID, &[NOBODY, NOBODY, NOBODY]);
    script.step(0, Op::Fork { child: 1 });
    script.step(1, Op::Load { addr: BASE });
    script.step(1, Op::Fork { child: 2 });
    script.step(2, Op::Exit);
    script.step(0, Op::Status);
    let mut oracle = Oracle::start()?;
    let answers = oracle.run(&script)?;
    equal(&answers[2], &Answer::Result { value: Err(Errno::EAGAIN), outputs: Vec::new() })?;
    equal(&answers[3..6], &[Answer::Absent, Answer::Absent, Answer::Absent])?;
    equal(matches!(answers[6], Answer::Text(_)), true)?;
    works(&mut oracle)
}

fn many() -> Result<(), Failed> {
    let mut script = Script::new();
    map(&mut script, BASE, 1, SHARED_FIXED);
    for child in 1..64 {
        script.step(child - 1, Op::Fork { child });
    }
    for round in 0..3 {
        for process in 0..64 {
            script.step(process, Op::Load { addr: BASE });
            script.step(process, Op::Store { addr: BASE, byte: round * 64 + process });
        }
    }
    let mut oracle = Oracle::start()?;
    let answers = oracle.run(&script)?;
    for (n, pair) in (0..192_u8).zip(answers[64..].chunks(2)) {
        equal(&pair[0], &Answer::Access { fault: None, byte: n.saturating_sub(1) })?;
    }
    works(&mut oracle)
}

fn repeats() -> Result<(), Failed> {
    let mut script = Script::new();
    script.maps(0..u64::MAX);
    for n in 0..20 {
        map(&mut script, BASE + n * 3 * PAGE, 2, PRIVATE_FIXED);
        script.call(MMAP, &[0, (n + 1) * PAGE, RW, PRIVATE | ANON, NO_FILE, 0]);
        script.step(0, Op::Store { addr: BASE + n * 3 * PAGE, byte: 1 });
    }
    script.maps(0..u64::MAX);
    // Not of the image: its pages are those of all players, and each has a share.
    script.step(0, Op::VmFlags { start: BASE, end: BASE + (1 << 30) });
    script.step(0, Op::Fork { child: 1 });
    script.step(1, Op::Maps { start: 0, end: u64::MAX });
    // The device and inode of shared memory are the mapping's own, so between players only the
    // window is alike.
    let mut oracle = Oracle::start()?;
    let first = oracle.run(&script)?;
    equal(&oracle.run(&script)?, &first)?;
    equal(&oracle.run(&script)?, &first)?;
    let mut script = Script::new();
    script.call(MMAP, &[0, PAGE, RW, PRIVATE | ANON, NO_FILE, 0]);
    script.maps(0x7000_0000_0000..u64::MAX);
    script.step(0, Op::Status);
    let first = oracle.run(&script)?;
    equal(Oracle::start()?.run(&script)?, first)
}

/// Maps, touches, forks and exits at random; what is seen of the window repeats exactly.
fn random_repeats() -> Result<(), Failed> {
    let mut oracles = [Oracle::start()?, Oracle::start()?];
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let mut script = Script::new();
        let mut alive = vec![0];
        let mut children = 1..16;
        for _ in 0..100 {
            let chosen = usize::try_from(random.below(alive.len() as u64))?;
            let Some(&process) = alive.get(chosen) else { break };
            let addr = BASE + random.below(16) * PAGE;
            let length = (1 + random.below(4)) * PAGE;
            let flags = if random.chance(20) { SHARED_FIXED } else { PRIVATE_FIXED };
            let prot = random.below(8);
            let range = [addr, length].map(Arg::Value);
            let map = [addr, length, prot, flags, NO_FILE, 0].map(Arg::Value);
            match random.below(10) {
                0 => {
                    if let Some(child) = children.next() {
                        script.step(process, Op::Fork { child });
                        alive.push(child);
                    }
                }
                1 if random.chance(50) => {
                    script.step(process, Op::Exit);
                    alive.retain(|&other| other != process);
                }
                1 | 2 => drop(script.call_of(process, MUNMAP, &range)),
                3..6 => drop(script.call_of(process, MMAP, &map)),
                6 => drop(script.step(process, Op::Store { addr, byte: 1 })),
                7 => drop(script.step(process, Op::Load { addr })),
                8 => drop(script.step(process, Op::Touch { addr, access: Access::Execute })),
                _ => drop(script.step(process, Op::VmFlags { start: BASE, end: BASE + (1 << 20) })),
            }
        }
        let [first, second] = oracles.each_mut().map(|oracle| oracle.run(&script));
        equal((seed, first?), (seed, second?))?;
    }
    oracles.iter_mut().try_for_each(works)
}

fn stopped(came: Result<Vec<Answer>, OracleError>) -> Result<(u32, Ending, usize), Failed> {
    match came {
        Err(OracleError::Stopped { step, ending, answers }) => Ok((step, ending, answers.len())),
        other => Err(format!("{other:?}").into()),
    }
}

fn killed() -> Result<(), Failed> {
    const SIGSEGV: u8 = 11;
    let mut oracle = Oracle::start()?;
    let mut script = Script::new();
    script.call(MUNMAP, &[BASE, PAGE]);
    script.call(MUNMAP, &[IMAGE, 1 << 20]);
    script.call(MUNMAP, &[BASE, PAGE]);
    let (step, ending, answers) = stopped(oracle.run(&script))?;
    equal((step, ending, answers), (1, Ending::Killed { process: 0, signal: SIGSEGV }, 1))?;
    works(&mut oracle)?;
    // One of several: the others are ended.
    let mut script = Script::new();
    script.step(0, Op::Fork { child: 1 });
    script.step(1, Op::Fork { child: 2 });
    script.call_of(1, MUNMAP, &[Arg::Value(IMAGE), Arg::Value(1 << 20)]);
    script.step(2, Op::Status);
    let (step, ending, answers) = stopped(oracle.run(&script))?;
    equal((step, ending, answers), (2, Ending::Killed { process: 1, signal: SIGSEGV }, 2))?;
    works(&mut oracle)
}

fn late() -> Result<(), Failed> {
    let mut oracle = Oracle::start()?;
    oracle.set_limit(Duration::from_millis(200));
    let mut script = Script::new();
    script.step(0, Op::Fork { child: 1 });
    script.call_of(1, libc::SYS_pause as u64, &[]);
    script.call(MUNMAP, &[BASE, PAGE]);
    let (step, ending, answers) = stopped(oracle.run(&script))?;
    equal((step, ending, answers), (1, Ending::Late, 1))?;
    works(&mut oracle)
}

fn full() -> Result<(), Failed> {
    let mut oracle = Oracle::start()?;
    let mut script = Script::new();
    let half = u32::try_from(ANSWER_BYTES / 2)?;
    for _ in 0..2 {
        script.call_of(0, MUNMAP, &[Arg::Out(half), Arg::Value(0)]);
    }
    let (step, ending, answers) = stopped(oracle.run(&script))?;
    equal((step, ending, answers), (1, Ending::Full, 1))?;
    works(&mut oracle)
}

fn refused() -> Result<(), Failed> {
    let mut oracle = Oracle::start()?;
    let mut refuse = |script: &Script, wanted: (u32, Wrong)| match oracle.run(script) {
        Err(OracleError::Refused { step, wrong }) => equal((step, wrong), wanted),
        other => Err(format!("{other:?}").into()),
    };
    let mut script = Script::new();
    script.step(0, Op::Status);
    script.step(1, Op::Status);
    refuse(&script, (1, Wrong::NoProcess(1)))?;
    let mut script = Script::new();
    script.step(0, Op::Exit);
    script.step(0, Op::Status);
    refuse(&script, (1, Wrong::NoProcess(0)))?;
    for child in [0, 64, 255] {
        let mut script = Script::new();
        script.step(0, Op::Fork { child });
        refuse(&script, (0, Wrong::BadChild(child)))?;
    }
    let mut script = Script::new();
    script.call(EXIT_GROUP, &[0]);
    refuse(&script, (0, Wrong::BadCall(EXIT_GROUP)))?;
    let mut script = Script::new();
    script.call_of(0, MUNMAP, &[Arg::In(&vec![0; guest::script::SCRIPT_BYTES])]);
    refuse(&script, (0, Wrong::TooLong))?;
    works(&mut oracle)
}

fn signal(oracle: &Oracle, signal: rustix::process::Signal) -> Result<(), Failed> {
    let pid = rustix::process::Pid::from_raw(oracle.pid().try_into()?).ok_or("pid 0")?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

fn dead_player() -> Result<(), Failed> {
    let mut oracle = Oracle::start()?;
    works(&mut oracle)?;
    signal(&oracle, rustix::process::Signal::KILL)?;
    for _ in 0..2 {
        match oracle.run(&Script::new()) {
            Err(OracleError::Ended { .. }) => {}
            other => return Err(format!("{other:?}").into()),
        }
    }
    Ok(())
}

fn stopped_player() -> Result<(), Failed> {
    let mut oracle = Oracle::start()?;
    works(&mut oracle)?;
    oracle.set_limit(Duration::ZERO);
    signal(&oracle, rustix::process::Signal::STOP)?;
    match oracle.run(&Script::new()) {
        Err(OracleError::Silent { .. }) => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

fn status() -> Result<(), Failed> {
    let mut script = Script::new();
    script.step(0, Op::Status);
    script.call(MMAP, &[BASE, 1 << 20, RW, PRIVATE_FIXED, NO_FILE, 0]);
    script.step(0, Op::Status);
    let answers = Oracle::start()?.run(&script)?;
    let size = |answer: &Answer| match answer {
        Answer::Text(text) => text
            .lines()
            .find_map(|line| line.strip_prefix("VmSize:"))
            .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .ok_or(format!("no VmSize in {text:?}")),
        other => Err(format!("{other:?}")),
    };
    equal(size(&answers[2])?, size(&answers[0])? + 1024)
}

/// Without its stack, vdso and heap, with everything locked and no address space to be had, a process
/// still plays.
fn spoil() -> Result<(), Failed> {
    const CURRENT_AND_FUTURE: u64 = (libc::MCL_CURRENT | libc::MCL_FUTURE) as u64;
    const RLIMIT_AS: u64 = libc::RLIMIT_AS as u64;
    const TOP: u64 = 0x7000_0000_0000;
    let mut script = Script::new();
    map(&mut script, BASE, 1, PRIVATE_FIXED);
    script.call(MUNMAP, &[TOP, TASK_SIZE - TOP]);
    script.call(MLOCKALL, &[CURRENT_AND_FUTURE]);
    let none = [Arg::Value(0), Arg::Value(RLIMIT_AS), Arg::In(&[0; 16]), Arg::Value(0)];
    script.call_of(0, PRLIMIT64, &none);
    let from = script.len();
    map(&mut script, BASE, 2, PRIVATE_FIXED);
    script.maps(TOP..u64::MAX);
    script.touch(BASE, Access::Write);
    script.touch(TOP, Access::Read);
    script.touch(TOP, Access::Execute);
    script.step(0, Op::Fork { child: 1 });
    script.step(1, Op::Load { addr: BASE });
    script.step(1, Op::Maps { start: TOP, end: u64::MAX });
    let mut oracle = Oracle::start()?;
    let answers = oracle.run(&script)?;
    let access = |fault| Answer::Access { fault, byte: 0 };
    let unmapped = access(Some(Fault::unmapped(TOP)));
    let result = |value| Answer::Result { value, outputs: Vec::new() };
    equal(
        &answers[from..],
        &[
            result(Err(Errno::ENOMEM)),
            Answer::Maps(Vec::new()),
            access(None),
            unmapped.clone(),
            unmapped,
            result(Ok(0)),
            access(None),
            Answer::Maps(Vec::new()),
        ],
    )?;
    works(&mut oracle)
}

/// Maps, changes and touches at random, by one process, on the host kernel and in a guest.
fn in_guest() -> Result<Completion, Failed> {
    if let Some(why) = common::kvm_unusable() {
        return Ok(Completion::ignored_with(why));
    }
    let mut random = Random::new(1);
    let mut script = Script::new();
    for _ in 0..300 {
        let addr = BASE + random.below(16) * PAGE;
        let length = (1 + random.below(4)) * PAGE;
        match random.below(8) {
            0 | 1 => script.call(MMAP, &[addr, length, random.below(8), PRIVATE_FIXED, NO_FILE, 0]),
            2 => script.call(MPROTECT, &[addr, length, random.below(8)]),
            3 => script.call(MUNMAP, &[addr, length]),
            4 => script.step(0, Op::Store { addr, byte: random.bits().to_le_bytes()[0] }),
            5 => script.step(0, Op::Load { addr }),
            6 => script.touch(addr, Access::Write),
            _ => script.touch(addr, Access::Execute),
        };
    }
    let request = Request { length: script.bytes().len() as u64, limit: 0 }.encode();
    let mut command = Command::new(common::MMVISOR);
    command.arg("run").arg(common::payload("player"));
    let input = [&request, script.bytes()].concat();
    let ran = common::run(&mut command, &input, Duration::from_secs(60));
    equal((ran.status, ran.stderr.as_str()), (Some(0), ""))?;
    let (report, answers) = ran.stdout.split_first_chunk().ok_or("no report")?;
    let report = Report::decode(*report).map_err(|malformed| malformed.to_string())?;
    equal(report.ending, Ending::Finished)?;
    let answers = Script::decode(answers).map_err(|malformed| malformed.to_string())?;
    equal(answers, Oracle::start()?.run(&script)?)?;
    Ok(Completion::Completed)
}

/// Scripts of 200 calls, each followed by the question for VMAs.
fn speed() -> Result<(), Failed> {
    const CALLS: u32 = 200;
    let mut oracle = Oracle::start()?;
    for (what, range) in [
        ("all VMAs after each", Some(0..u64::MAX)),
        ("the window's VMAs after each", Some(BASE..BASE + (1 << 30))),
        ("no question", None),
    ] {
        let mut script = Script::new();
        for n in 0..u64::from(CALLS) {
            let addr = BASE + (n * 7 % 32) * PAGE;
            match n % 4 {
                0 | 1 => script.call(MMAP, &[addr, 2 * PAGE, RW, PRIVATE_FIXED, NO_FILE, 0]),
                2 => script.call(MPROTECT, &[addr, PAGE, R]),
                _ => script.call(MUNMAP, &[addr, PAGE]),
            };
            if let Some(range) = &range {
                script.maps(range.clone());
            }
        }
        tell_rate(&mut oracle, &script, CALLS, what)?;
    }
    let mut script = Script::new();
    script.step(0, Op::Fork { child: 1 });
    for n in 0..u64::from(CALLS) {
        script.call_of(u8::from(n % 2 == 0), MUNMAP, &[Arg::Value(BASE), Arg::Value(PAGE)]);
    }
    tell_rate(&mut oracle, &script, CALLS, "two processes in turns")
}

/// Says how many calls a second the player does of a script of `calls` of them.
fn tell_rate(oracle: &mut Oracle, script: &Script, calls: u32, what: &str) -> Result<(), Failed> {
    let start = Instant::now();
    let mut scripts = 0;
    while start.elapsed() < Duration::from_millis(500) {
        oracle.run(script)?;
        scripts += 1;
    }
    let rate = f64::from(scripts) * f64::from(calls) / start.elapsed().as_secs_f64();
    println!("player: {rate:.0} calls/s, {what} ({calls} calls a script)");
    Ok(())
}
