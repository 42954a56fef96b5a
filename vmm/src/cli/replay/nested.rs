//! A trace in the nested machine: boots it, and replays there, under its KVM.
//!
//! The trace goes in as standard input, so nothing of it is cut off by paths. Programs that it executes
//! are looked for in the machine, where there are none: what they would have mapped is assumed.

use std::ffi::OsString;
use std::io;

use super::super::machine::{Where, hand_on_variables, named, option};
use super::{Args, ReplayFailed};
use crate::nested::{GUEST_EXECUTABLE, Job, Kind, Machine, Outcome, Streams, notice};

/// Boots the machine, replays there and gives the status. `why` ends the line that says so.
pub(super) fn run(args: &Args, name: String, text: Vec<u8>, why: &str) -> Result<u8, ReplayFailed> {
    let job = hand_on_variables(Job::new(command(args, name)).stdin(text));
    eprintln!("mmvisor: {}", notice(Kind::Npt, why));
    let (mut stdout, mut stderr) = (io::stdout(), io::stderr());
    let streams = Streams { stdout: &mut stdout, stderr: &mut stderr, side: &mut io::sink() };
    match Machine::new(Kind::Npt).run(job, streams)? {
        Outcome::Exited(status) => Ok(status),
        Outcome::NotStarted(why) => Err(ReplayFailed::NotStarted(why)),
        Outcome::Killed(signal) => {
            Err(ReplayFailed::NotStarted(format!("mmvisor was killed by signal {signal} there")))
        }
        // It has no limit.
        Outcome::TimedOut => Err(ReplayFailed::NotStarted("it ran out of time".to_owned())),
    }
}

/// The command in the machine: this one, told to use the KVM there.
fn command(args: &Args, name: String) -> Vec<OsString> {
    // Each option is named, so that a new one cannot be forgotten here.
    let Args { relocate, hugetlb, swap, in_guest: _, machine: _, nodes, called: _, file: _ } = args;
    let mut command: Vec<OsString> =
        vec![GUEST_EXECUTABLE.into(), "replay".into(), "--in-guest".into()];
    command.extend(named("--machine", &Where::Kvm));
    command.extend(relocate.then(|| "--relocate".into()));
    command.push(option("--nodes", nodes.to_string()));
    command.extend(hugetlb.iter().map(|pages| option("--hugetlb", pages.to_string())));
    command.extend(swap.map(|size| option("--swap", size.bytes().to_string())));
    command.push(option("--called", name));
    command.push("-".into());
    command
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::super::size::Size;
    use super::super::super::{Cli, Command};
    use super::*;

    fn parse(arguments: impl IntoIterator<Item = OsString>) -> Args {
        let Command::Replay(args) = Cli::try_parse_from(arguments).unwrap().command else {
            panic!("not replay");
        };
        args
    }

    #[test]
    fn the_mmvisor_in_the_machine_is_told_everything_and_to_use_its_own_kvm() {
        let typed = [
            "mmvisor",
            "replay",
            "--in-guest",
            "--machine=nested",
            "--relocate",
            "--nodes=2",
            "--hugetlb=2M:2",
            "--swap=64M",
            "a b",
        ];
        let args = parse(typed.map(OsString::from));
        let inside = parse(command(&args, "--a b".to_owned()));
        assert_eq!((inside.machine, inside.in_guest, inside.relocate), (Where::Kvm, true, true));
        assert_eq!(inside.nodes, 2);
        assert_eq!(inside.swap.map(Size::bytes), Some(64 << 20));
        assert_eq!(inside.hugetlb, ["2M:2".parse().unwrap()]);
        assert_eq!((inside.called.as_deref(), inside.file.to_str()), (Some("--a b"), Some("-")));
        let args = parse(typed[..4].iter().chain(&["file"]).map(OsString::from));
        assert!(!parse(command(&args, String::new())).relocate);
    }
}
