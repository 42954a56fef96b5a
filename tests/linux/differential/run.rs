//! Does acts on both sides and finds the first difference.

use std::fmt;
use std::ops::Range;

use guest::script::{Ending, Op};
use libtest_mimic::Failed;
use mm::addr::TASK_SIZE;

use super::act::{Act, Deed, drain_lists};
use super::model::{Line, Model, Result, Start};
use super::pages::Pages;
use super::pool::Turn;
use super::sizes::{Cause, Sizes, Unlike};
use crate::oracle::{Oracle, OracleError};
use crate::script::{Answer, Script, VmaFlags};

/// The first difference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// At which act; as many as there are, if at the end.
    pub act: usize,
    /// What.
    pub what: String,
    /// What it may come from.
    pub cause: Cause,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "act {}: {}", self.act, self.what)
    }
}

/// A process at the end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct End {
    /// Its number.
    pub process: u8,
    /// Its VMAs' VmFlags by their starts.
    pub flags: Vec<(u64, String)>,
    /// What smaps says of those that acts may change.
    pub sizes: Vec<Sizes>,
    /// What pagemap says of their pages.
    pub pages: Vec<Pages>,
    /// VmSize, VmLck, VmData and VmStk of its status in kB.
    pub accounts: [u64; 4],
}

impl End {
    /// Where it differs from the guest's of the same process.
    pub fn unlike(&self, guests: &End) -> String {
        let (process, accounts) = (self.process, (self.accounts, guests.accounts));
        let flags = first_unlike(&self.flags, &guests.flags);
        let sizes = first_unlike(&self.sizes, &guests.sizes);
        let pages = first_unlike(&self.pages, &guests.pages);
        let lines = [flags, sizes, pages].concat();
        format!("process {process} at the end, software and guest: {accounts:?}{lines}")
    }
}

fn first_unlike<T: PartialEq + fmt::Debug>(ours: &[T], guests: &[T]) -> String {
    let mut pairs = ours.iter().zip(guests);
    let unlike = pairs.find(|(ours, guests)| ours != guests);
    unlike.map_or(String::new(), |(ours, guests)| format!("\n    {ours:x?}\n    {guests:x?}"))
}

/// What our side answered.
#[derive(Debug)]
pub struct Ours {
    /// For each act, its result and the VMAs after it.
    pub steps: Vec<(Result, Vec<Line>)>,
    /// At the end, for each process that is there.
    pub ends: Vec<End>,
}

/// Does the acts on our side.
pub fn perform(start: &Start, acts: &[Act]) -> std::result::Result<Ours, Failed> {
    let mut model = Model::new(start)?;
    let mut steps = Vec::with_capacity(acts.len());
    for act in acts {
        let result = model.perform(act)?;
        start
            .is_sound(&model, act.process)
            .map_err(|failed| format!("after {act}: {}", failed.message().unwrap_or_default()))?;
        steps.push((result, model.lines(act.process)));
    }
    start.are_sound(&model)?;
    Ok(Ours { steps, ends: ends(&model) })
}

/// What is compared once at the end.
pub fn ends(model: &Model) -> Vec<End> {
    (0..u8::MAX)
        .filter_map(|process| {
            let accounts = model.accounts(process)?;
            let (flags, sizes) = (model.flags(process), model.sizes(process));
            Some(End { process, flags, sizes, pages: model.pages(process), accounts })
        })
        .collect()
}

/// How often the same is done again for a difference that the host's processor may have made.
const GUESSES: u32 = 3;

/// Does the acts on the other side, and compares. Where huge pages were wanted the host's kernel may make some of
/// small ones on its own, in between: then the same is done again; so it is where its processor may have [guessed]
/// an access.
///
/// [guessed]: Cause::Accessed
pub fn compare(
    oracle: &mut Oracle,
    acts: &[Act],
    ours: &Ours,
) -> std::result::Result<Option<Difference>, Failed> {
    let mut guesses = 0;
    loop {
        let before = collapsed();
        let difference = compare_once(oracle, acts, ours)?;
        let cause = difference.as_ref().map(|difference| difference.cause);
        match cause {
            Some(Cause::Accessed) if guesses < GUESSES => guesses += 1,
            Some(_) if collapsed() != before => {}
            _ => return Ok(difference),
        }
    }
}

/// How many huge pages the host's khugepaged has made so far, of any process; `None` where it has none.
fn collapsed() -> Option<String> {
    const COUNTER: &str = "/sys/kernel/mm/transparent_hugepage/khugepaged/pages_collapsed";
    std::fs::read_to_string(COUNTER).ok()
}

fn compare_once(
    oracle: &mut Oracle,
    acts: &[Act],
    ours: &Ours,
) -> std::result::Result<Option<Difference>, Failed> {
    let mut script = Script::new();
    let steps: Vec<(usize, usize)> = acts
        .iter()
        .map(|act| {
            let step = act.add_to(&mut script);
            let maps = Op::Maps { start: 0, end: TASK_SIZE };
            (step, if act.deed == Deed::Exit { step } else { script.step(act.process, maps) })
        })
        .collect();
    if let Some(end) = ours.ends.first() {
        drain_lists(&mut script, end.process);
    }
    let asked: Vec<(usize, usize, Vec<usize>)> = ours
        .ends
        .iter()
        .map(|end| {
            let flags = script.step(end.process, Op::VmFlags { start: 0, end: TASK_SIZE });
            let status = script.step(end.process, Op::Status);
            let pagemap = |pages: &Pages| {
                let Range { start, end: to } = pages.range;
                script.step(end.process, Op::Pagemap { start, end: to })
            };
            (flags, status, end.pages.iter().map(pagemap).collect())
        })
        .collect();
    let turn = Turn::take();
    let ran = oracle.run(&script);
    turn.end()?;
    let answers = match ran {
        Ok(answers) => answers,
        // Not shrunk: each try would wait as long.
        Err(error @ OracleError::Stopped { ending: Ending::Late, .. }) => {
            let OracleError::Stopped { step, .. } = &error else { return Err(error.into()) };
            let at = steps.partition_point(|&(first, _)| first <= *step as usize);
            let listing: String = acts[..at].iter().map(|act| format!("\n{act}")).collect();
            return Err(format!("{error}{listing}").into());
        }
        Err(error @ OracleError::Stopped { .. }) => {
            let OracleError::Stopped { step, .. } = &error else { return Err(error.into()) };
            let act = steps.partition_point(|&(first, _)| first <= *step as usize).max(1) - 1;
            return Ok(Some(Difference { act, what: error.to_string(), cause: Cause::Other }));
        }
        Err(error) => return Err(error.into()),
    };
    for (at, (&(result, maps), (our_result, our_lines))) in
        steps.iter().zip(&ours.steps).enumerate()
    {
        let differs = |what| Ok(Some(Difference { act: at, what, cause: Cause::Other }));
        let theirs = result_of(&answers[result], our_result)?;
        if theirs != *our_result {
            return differs(format!("Linux answers {theirs:x?}, we answer {our_result:x?}"));
        }
        if maps == result {
            continue;
        }
        let lines = lines_of(&answers[maps])?;
        if lines != *our_lines {
            return differs(describe(&lines, our_lines));
        }
    }
    for (end, (flags_at, status_at, pages_at)) in ours.ends.iter().zip(asked) {
        let End { process, flags, sizes, pages, accounts } = end;
        let unlike = |Unlike { what, cause }| {
            let what = format!("process {process}: {what}");
            Ok(Some(Difference { act: acts.len(), what, cause }))
        };
        let differs = |what| unlike(Unlike { what, cause: Cause::Other });
        let theirs = flags_of(&answers[flags_at])?;
        let first = theirs.iter().zip(flags).find(|(theirs, ours)| theirs != ours);
        if let Some((theirs, ours)) = first {
            return differs(format!("VmFlags: Linux {theirs:x?}, we {ours:x?}"));
        }
        let first = sizes.iter().find_map(|ours| ours.differs(vmas_of(&answers[flags_at])));
        if let Some(first) = first {
            return unlike(first);
        }
        for (ours, at) in pages.iter().zip(pages_at) {
            let Answer::Pagemap(theirs) = &answers[at] else {
                return Err(format!("the player answers {:?}, not pagemap", answers[at]).into());
            };
            if let Some(what) = ours.differ(theirs) {
                return differs(what);
            }
        }
        let theirs = accounts_of(&answers[status_at])?;
        if theirs != *accounts {
            return differs(format!(
                "VmSize, VmLck, VmData, VmStk in kB: Linux {theirs:?}, we {accounts:?}"
            ));
        }
    }
    Ok(None)
}

/// What the player answers, as far as `ours` goes into it.
pub fn result_of(answer: &Answer, ours: &Result) -> std::result::Result<Result, Failed> {
    Ok(match answer {
        Answer::Result { value: Ok(0), outputs } if matches!(ours, Result::Resident(_)) => {
            let pages = outputs.first().map(Vec::as_slice).unwrap_or_default();
            Result::Resident(pages.iter().map(|byte| byte & 1).collect())
        }
        Answer::Result { value, outputs } if matches!(ours, Result::Wrote(..)) => {
            Result::Wrote(value.map_err(|errno| i32::from(errno.0)), outputs.clone())
        }
        Answer::Result { value: Ok(value), .. } => Result::Value(*value),
        Answer::Result { value: Err(errno), .. } => Result::Errno(i32::from(errno.0)),
        Answer::Access { fault: None, byte } => Result::Done(*byte),
        // BUS_MCEERR_AR, of which kernels without CONFIG_MEMORY_FAILURE make a BUS_ADRERR.
        Answer::Access { fault: Some(fault), .. } if (fault.signal, fault.code) == (7, 4) => {
            Result::Signal(7, 2)
        }
        Answer::Access { fault: Some(fault), .. } => Result::Signal(fault.signal, fault.code),
        other => return Err(format!("the player answers {other:?}").into()),
    })
}

fn lines_of(answer: &Answer) -> std::result::Result<Vec<Line>, Failed> {
    let Answer::Maps(vmas) = answer else {
        return Err(format!("the player answers {answer:?}, not VMAs").into());
    };
    Ok(vmas
        .iter()
        .map(|vma| Line {
            range: vma.start..vma.end,
            permissions: String::from_utf8_lossy(&vma.permissions()).into_owned(),
            offset: if vma.inode == 0 { 0 } else { vma.offset },
        })
        .collect())
}

fn vmas_of(answer: &Answer) -> &[VmaFlags] {
    match answer {
        Answer::VmFlags(vmas) => vmas,
        _ => &[],
    }
}

fn flags_of(answer: &Answer) -> std::result::Result<Vec<(u64, String)>, Failed> {
    let Answer::VmFlags(vmas) = answer else {
        return Err(format!("the player answers {answer:?}, not VmFlags").into());
    };
    Ok(vmas
        .iter()
        .map(|vma| {
            let names = vma.flags.split_whitespace().filter(|name| *name != "sd");
            (vma.range.start, names.collect::<Vec<_>>().join(" "))
        })
        .collect())
}

fn accounts_of(answer: &Answer) -> std::result::Result<[u64; 4], Failed> {
    let Answer::Text(text) = answer else {
        return Err(format!("the player answers {answer:?}, not its status").into());
    };
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').trim().strip_suffix(" kB")?.parse().ok()
    };
    let fields = ["VmSize", "VmLck", "VmData", "VmStk"].map(field);
    match fields {
        [Some(a), Some(b), Some(c), Some(d)] => Ok([a, b, c, d]),
        _ => Err(format!("no accounts in {text:?}").into()),
    }
}

/// The lines that only one side has.
fn describe(theirs: &[Line], ours: &[Line]) -> String {
    let show = |line: &Line| {
        format!(
            "\n    {:x}-{:x} {} {:x}",
            line.range.start, line.range.end, line.permissions, line.offset
        )
    };
    let only = |a: &[Line], b: &[Line]| -> String {
        a.iter().filter(|line| !b.contains(line)).map(show).collect()
    };
    format!("VMAs differ.\n  only Linux:{}\n  only we:{}", only(theirs, ours), only(ours, theirs))
}
