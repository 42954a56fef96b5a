//! A program in the nested machine: boots it, and runs the same command there under its KVM.
//!
//! What the user gave is either looked at here (the program's file, the sizes, the trace's file) or handed
//! on. All streams are carried through; a trace that goes to a file, as the machine's side output.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use mm::phys::FileAccess;

use super::super::machine::{Where, hand_on_variables, named, option};
use super::super::size::Size;
use super::{Args, Program, RunError};
use crate::nested::{
    GUEST_EXECUTABLE, Input, Job, Kind, Machine, Outcome, SIDE_OUTPUT, Streams, notice,
};

/// What the guest may use unless said otherwise, in bytes; less if the host has less than twice that.
const DEFAULT_MEMORY: u64 = 1 << 30;
/// Boots the machine, runs the program there and gives its status. `why` ends the line that says so;
/// `has` is the host's memory, in bytes.
pub(super) fn run(args: &Args, program: &Program, has: u64, why: &str) -> Result<u8, RunError> {
    let memory = args.mem.map_or(DEFAULT_MEMORY.min(has / 2), Size::bytes);
    // Its file is in the machine's memory.
    let swap = args.swap.map_or(0, Size::bytes);
    let mut machine =
        Machine::new(Kind::Npt).room_for_guest(memory + swap).file(&program.file, &program.path);
    for (asked, given) in args.file.iter().zip(&program.files) {
        if asked.access == FileAccess::ReadWrite {
            let why = "the nested machine has a copy of it, which can only be read: add :ro";
            return Err(RunError::File { path: asked.path.clone(), why: why.to_owned() });
        }
        machine = machine.file(&asked.path, &given.path);
    }
    if let Some(dir) = args.dir.first() {
        let why = "the nested machine has no way to the directories of this host".to_owned();
        return Err(RunError::Dir { path: dir.host.clone(), why });
    }
    if let Some(path) = &args.core {
        let why = "the nested machine has no way to the files of this host".to_owned();
        return Err(RunError::Core { path: path.clone(), why });
    }
    let mut side: Box<dyn Write> = match args.trace_file() {
        Some(path) => {
            let refuse = |source| RunError::Trace { path: path.to_owned(), source };
            Box::new(TraceFile(File::create(path).map_err(refuse)?))
        }
        None => Box::new(io::sink()),
    };
    // A closed standard input is an empty one.
    let files: Vec<&Path> = program.files.iter().map(|given| given.path.as_path()).collect();
    let inside = Inside { name: &program.name, path: &program.path, files: &files };
    let job = Job::new(command(args, &inside, memory)).stdin(Input::own().unwrap_or_default());
    let job = hand_on_variables(job);
    eprintln!("mmvisor: {}", notice(Kind::Npt, why));
    let (mut stdout, mut stderr) = (io::stdout(), io::stderr());
    let streams = Streams { stdout: &mut stdout, stderr: &mut stderr, side: &mut side };
    match machine.run(job, streams)? {
        Outcome::Exited(status) => Ok(status),
        Outcome::Killed(signal) => Err(RunError::KilledInside(signal)),
        Outcome::NotStarted(why) => Err(RunError::NotStarted(why)),
        // It has no limit.
        Outcome::TimedOut => Err(RunError::NotStarted("the program ran out of time".to_owned())),
    }
}

/// What is in the machine.
struct Inside<'a> {
    /// What the program is to take itself to have been called by.
    name: &'a Path,
    /// Where it is.
    path: &'a Path,
    /// Where the files that it is given are.
    files: &'a [&'a Path],
}

/// The command in the machine: this one, told to use the KVM there.
fn command(args: &Args, inside: &Inside<'_>, memory: u64) -> Vec<OsString> {
    // Each option is named, so that a new one cannot be forgotten here.
    let Args {
        mem: _,
        env,
        file: _,
        // Refused.
        dir: _,
        core: _,
        trace,
        trace_page,
        record,
        maps,
        numa_maps,
        stats,
        aslr,
        compat_layout,
        thp,
        mthp,
        khugepaged,
        ksm,
        hugetlb,
        swap,
        nodes,
        machine: _,
        invoked_as: _,
        command: typed,
    } = args;
    let mut command: Vec<OsString> = vec![GUEST_EXECUTABLE.into(), "run".into()];
    command.extend(named("--machine", &Where::Kvm));
    command.push(option("--mem", memory.to_string()));
    command.extend(env.iter().map(|kv| option("--env", OsStr::from_bytes(kv.to_bytes()))));
    command.extend(inside.files.iter().map(|path| {
        let mut read_only = path.as_os_str().to_owned();
        read_only.push(":ro");
        option("--file", read_only)
    }));
    command.extend(trace.as_ref().map(|target| match target {
        None => "--trace".into(),
        Some(_) => option("--trace", SIDE_OUTPUT),
    }));
    command.extend(trace_page.iter().map(|addr| option("--trace-page", addr.to_string())));
    command.extend(record.as_ref().map(|_| option("--record", SIDE_OUTPUT)));
    command.extend(maps.then(|| "--maps".into()));
    command.extend(numa_maps.then(|| "--numa-maps".into()));
    command.extend(stats.as_ref().and_then(|format| named("--stats", format)));
    command.extend(aslr.map(|seed| match seed {
        None => "--aslr".into(),
        Some(seed) => option("--aslr", seed.to_string()),
    }));
    command.extend(compat_layout.then(|| "--compat-layout".into()));
    command.extend(named("--thp", thp));
    command.extend(mthp.iter().map(|of_size| option("--mthp", of_size.to_string())));
    command.push(option("--khugepaged", khugepaged.to_string()));
    command.push(option("--ksm", ksm.to_string()));
    command.extend(hugetlb.iter().map(|pages| option("--hugetlb", pages.to_string())));
    command.extend(swap.map(|size| option("--swap", size.bytes().to_string())));
    command.push(option("--nodes", nodes.to_string()));
    command.push(option("--invoked-as", inside.name));
    command.push("--".into());
    command.push(inside.path.into());
    command.extend(typed.iter().skip(1).cloned());
    command
}

/// The trace's file on this host. The machine can only be told that it takes no more, not why.
#[derive(Debug)]
struct TraceFile(File);

impl Write for TraceFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).inspect_err(|error| log::warn!("the trace ends here: {error}"))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::super::{Cli, Command};
    use super::super::report;
    use super::*;

    fn parse(arguments: impl IntoIterator<Item = OsString>) -> Args {
        let Command::Run(args) = Cli::try_parse_from(arguments).unwrap().command else {
            panic!("not run");
        };
        *args
    }

    /// What the mmvisor in the machine is told when this one is told `typed`.
    fn inside(typed: &[&str]) -> Args {
        let args = parse(["mmvisor", "run"].iter().chain(typed).map(OsString::from));
        let name = Path::new(&args.command[0]);
        let path = Path::new("/somewhere/program");
        parse(command(&args, &Inside { name, path, files: &[Path::new("/a:b")] }, 7 << 20))
    }

    #[test]
    fn the_mmvisor_in_the_machine_is_told_everything_and_to_use_its_own_kvm() {
        let args = inside(&[
            "--machine=nested",
            "--env",
            "A=b c",
            "--env=--maps=",
            "--trace",
            "--maps",
            "--numa-maps",
            "--stats=json",
            "--aslr=7",
            "--compat-layout",
            "--thp=never",
            "--mthp=64k:always,1m:madvise",
            "--mthp=2m:never",
            "--hugetlb=2M:3",
            "--hugetlb=1G:1",
            "--swap=64M",
            "--nodes=3",
            "./program",
            "--stats",
            "--",
            "x",
        ]);
        assert_eq!(args.machine, Where::Kvm);
        assert_eq!(args.file, ["/a:b:ro".parse().unwrap()]);
        assert_eq!(args.mem.map(Size::bytes), Some(7 << 20));
        assert_eq!(args.env, [c"A=b c".to_owned(), c"--maps=".to_owned()]);
        assert_eq!(args.trace, Some(None));
        assert!(args.maps && args.numa_maps && args.compat_layout);
        assert_eq!(args.thp, super::super::HugePages::Never);
        let sizes =
            ["64k:always", "1m:madvise", "2m:never"].map(|of_size| of_size.parse().unwrap());
        assert_eq!(args.mthp, sizes);
        assert_eq!((args.swap.map(Size::bytes), args.nodes), (Some(64 << 20), 3));
        assert_eq!(args.hugetlb, ["2M:3".parse().unwrap(), "1G:1".parse().unwrap()]);
        assert_eq!(args.aslr, Some(Some(7)));
        assert_eq!(args.stats, Some(report::Format::Json));
        assert_eq!(args.invoked_as.as_deref(), Some("./program".as_ref()));
        assert_eq!(args.command, ["/somewhere/program", "--stats", "--", "x"]);
    }

    #[test]
    fn a_traces_file_is_on_this_side_and_what_was_not_asked_for_is_not_handed_on() {
        let args = inside(&["--trace=/tmp/trace", "program"]);
        assert_eq!(args.trace, Some(Some(SIDE_OUTPUT.into())));
        assert_eq!(args.record, None);
        assert!(!args.maps && !args.numa_maps && args.stats.is_none() && args.env.is_empty());
        let args = inside(&["--record", "/tmp/trace", "program"]);
        assert_eq!((args.record, args.trace), (Some(SIDE_OUTPUT.into()), None));
    }

    #[test]
    fn a_programs_arguments_are_its_own_whatever_they_look_like() {
        for typed in [["--", "--maps", "-x"], ["-", "", "--"]] {
            let mut line = vec!["run", "--", "program"];
            line.extend(typed);
            assert_eq!(inside(&line[1..]).command[1..], typed);
            assert_eq!(inside(&line[2..]).command[1..], typed);
        }
    }
}
