//! The encoding of scripts and answers: what is written is what is read, and no bytes do harm.

use guest::script::{
    self, Access, Answer, Arg, Ending, Kind, Op, PROCESSES, Report, Request, Step, Steps, Vma,
};
use libtest_mimic::{Failed, Trial};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::trial::{Named, group};

/// The trials.
pub fn trials() -> Vec<Trial> {
    let trials: &[Named] = &[
        ("steps_are_read_as_they_were_written", steps),
        ("reports_and_requests_are_read_as_they_were_written", frames),
        ("vmas_are_read_as_they_were_written", vmas),
        ("any_bytes_are_steps_or_an_error", any_steps),
        ("any_bytes_are_answers_or_an_error", any_answers),
    ];
    group("encoding", trials)
}

fn property<S: Strategy>(
    strategy: S,
    test: impl Fn(S::Value) -> Result<(), TestCaseError>,
) -> Result<(), Failed> {
    let config = Config { failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(&strategy, test).map_err(|error| error.to_string().into())
}

/// A step's fields, owned.
#[derive(Clone, Debug)]
struct Fields {
    process: u8,
    which: u8,
    words: [u64; 7],
    kinds: [u8; 6],
    blobs: Vec<Vec<u8>>,
}

fn fields() -> impl Strategy<Value = Fields> {
    let words = any::<[u64; 7]>();
    let kinds = [0..4_u8, 0..4, 0..4, 0..4, 0..4, 0..4];
    let blobs = vec(vec(any::<u8>(), 0..20), 6);
    (any::<u8>(), 0..9_u8, words, kinds, blobs).prop_map(|(process, which, words, kinds, blobs)| {
        Fields { process, which, words, kinds, blobs }
    })
}

impl Fields {
    fn step(&self) -> Step<'_> {
        let [a, b, ..] = self.words;
        let byte = b.to_le_bytes()[0];
        let op = match self.which {
            0 => Op::Call {
                number: self.words[6],
                args: std::array::from_fn(|i| match self.kinds[i] {
                    0 => Arg::Value(self.words[i]),
                    1 => Arg::In(&self.blobs[i]),
                    2 => Arg::Out(u32::from(byte) << 8),
                    _ => Arg::InOut(&self.blobs[i]),
                }),
            },
            1 => {
                let all = [Access::Read, Access::Write, Access::Execute];
                Op::Touch { addr: a, access: all[usize::from(byte) % 3] }
            }
            2 => Op::Load { addr: a },
            3 => Op::Store { addr: a, byte },
            4 => Op::Maps { start: a, end: b },
            5 => Op::VmFlags { start: a, end: b },
            6 => Op::Status,
            7 => Op::Fork { child: byte },
            8 => Op::Pagemap { start: a, end: b },
            _ => Op::Exit,
        };
        Step { process: self.process, op }
    }
}

fn encode(steps: &[Fields]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for fields in steps {
        fields.step().encode(&mut |piece| bytes.extend_from_slice(piece));
    }
    bytes
}

fn steps() -> Result<(), Failed> {
    property(vec(fields(), 0..20), |written| {
        let bytes = encode(&written);
        let read: Result<Vec<_>, _> = Steps::new(&bytes).collect();
        prop_assert_eq!(read, Ok(written.iter().map(Fields::step).collect()));
        Ok(())
    })
}

/// A script whose bytes are right but for one, and one that is cut: a checked script has only steps of
/// processes that are there.
fn any_steps() -> Result<(), Failed> {
    let change = (any::<prop::sample::Index>(), any::<u8>(), any::<prop::sample::Index>());
    property((vec(fields(), 1..20), change), |(written, (at, byte, cut))| {
        let mut bytes = encode(&written);
        bytes[at.index(written.len() * 8)] = byte;
        bytes.truncate(cut.index(bytes.len() * 2));
        let read: Result<Vec<_>, _> = Steps::new(&bytes).collect();
        match (script::check(&bytes), read) {
            (Ok(count), Ok(steps)) => {
                prop_assert_eq!(usize::try_from(count), Ok(steps.len()));
                prop_assert!(steps.iter().all(|step| usize::from(step.process) < PROCESSES));
            }
            (Ok(_), Err(malformed)) => return Err(TestCaseError::fail(malformed.to_string())),
            (Err(_), _) => {}
        }
        Ok(())
    })
}

fn frames() -> Result<(), Failed> {
    property(
        any::<(u64, u64, u8, u8, u8, u16, u32)>(),
        |(length, limit, which, a, b, errno, step)| {
            let request = Request { length, limit };
            prop_assert_eq!(Request::decode(request.encode()), request);
            let ending = match which % 7 {
                0 => Ending::Finished,
                1 => Ending::Killed { process: a, signal: b },
                2 => Ending::Exited { process: a, status: b },
                3 => Ending::Late,
                4 => Ending::Full,
                5 => Ending::Refused,
                _ => Ending::NoProcess { errno },
            };
            let report = Report { length, ending, step };
            prop_assert_eq!(Report::decode(report.encode()), Ok(report));
            Ok(())
        },
    )
}

fn vmas() -> Result<(), Failed> {
    let names: [&[u8]; 7] = [b"", b"[heap]", b"[stack]", b"[vdso]", b"[vvar]", b"/a", b"other"];
    property(any::<([u64; 4], u8, usize, u32)>(), |(words, flags, name, device)| {
        let [start, end, offset, inode] = words;
        let name = script::Name::of(names[name % names.len()]);
        let vma = Vma { start, end, offset, inode, flags, name, device };
        let header = script::Header { code: Kind::Vmas as u8, process: 0, detail: 0, words: 11 };
        let words = [&[header.word()][..], &vma.words(), &vma.words()].concat();
        let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        let read = match Answer::decode(&bytes) {
            Ok((Answer::Maps(vmas), [])) => vmas.collect::<Result<Vec<_>, _>>(),
            other => return Err(TestCaseError::fail(format!("{other:?}"))),
        };
        prop_assert_eq!(read, Ok(vec![vma, vma]));
        Ok(())
    })
}

/// Headers that are almost right, and words of any value: answers are read to the end or to an error.
fn any_answers() -> Result<(), Failed> {
    let words = vec(
        prop_oneof![
            0..20_u64,
            (1..9_u64, 0..12_u64).prop_map(|(code, words)| code | words << 32),
            any::<u64>()
        ],
        0..40,
    );
    property((words, 0..8_usize), |(words, cut)| {
        let mut bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        bytes.truncate(bytes.len().saturating_sub(cut));
        let mut rest = bytes.as_slice();
        while let Ok((answer, after)) = Answer::decode(rest) {
            prop_assert!(after.len() < rest.len());
            let items = match answer {
                Answer::Result { outputs, .. } => outputs.count(),
                Answer::Maps(vmas) => vmas.count(),
                Answer::VmFlags(lines) => lines.count(),
                _ => 0,
            };
            prop_assert!(items <= bytes.len());
            rest = after;
        }
        Ok(())
    })
}
