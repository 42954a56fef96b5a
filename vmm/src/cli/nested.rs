//! `mmvisor nested`: sets the nested machine up, and runs commands in it.

use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::FAILED;
use crate::nested::{
    Assets, DEFAULT_MEMORY_MIB, Input, Job, Kind, Machine, NestedError, Outcome, Streams, launch,
    setup,
};

/// signal(7).
const SIGPIPE: u8 = 13;

/// Arguments of `mmvisor nested`.
#[derive(Debug, Args)]
pub(super) struct NestedArgs {
    #[command(subcommand)]
    command: NestedCommand,
}

#[derive(Debug, Subcommand)]
enum NestedCommand {
    /// Fetch what the nested machine is made of: QEMU (apt, as root) and a kernel (into the cache)
    Setup(SetupArgs),
    /// Run a command in the nested machine
    Run(RunArgs),
    /// Become QEMU, to end with the process that asked for it
    #[command(hide = true)]
    Launch(LaunchArgs),
}

/// Arguments of `mmvisor nested setup`.
#[derive(Debug, Args)]
struct SetupArgs {
    /// Only say what is missing; exit with 1 if something is
    #[arg(long, conflicts_with = "package")]
    check: bool,
    /// Take the kernel from this package instead of downloading the newest
    #[arg(long, value_name = "FILE.deb")]
    package: Option<PathBuf>,
}

/// Arguments of `mmvisor nested run`.
#[derive(Debug, Args)]
struct RunArgs {
    /// Which page tables KVM uses in the machine
    #[arg(long, value_enum, default_value_t = KindArg::Npt)]
    kvm: KindArg,
    /// The machine's memory
    #[arg(long, value_name = "MIB", default_value_t = DEFAULT_MEMORY_MIB)]
    mem: u32,
    /// Stop after this many seconds, the start of the machine included
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Put a file of this host into the machine, at the same path or at GUEST
    #[arg(long = "file", value_name = "HOST[:GUEST]")]
    files: Vec<OsString>,
    /// Set a variable of the command's environment, which is empty otherwise
    #[arg(long = "env", value_name = "KEY=VALUE")]
    variables: Vec<String>,
    /// The command: a program of this host, which is taken into the machine at the same path, or one
    /// put there by --file; /init is mmvisor itself
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Arguments of the hidden `mmvisor nested launch`.
#[derive(Debug, Args)]
struct LaunchArgs {
    /// The process that asks for it
    parent: u32,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// [`Kind`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KindArg {
    /// Nested paging
    Npt,
    /// Shadow paging
    Shadow,
}

impl From<KindArg> for Kind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Npt => Kind::Npt,
            KindArg::Shadow => Kind::Shadow,
        }
    }
}

/// Does what the arguments say; what goes wrong is a sentence on standard error.
#[must_use]
pub(super) fn run(arguments: NestedArgs) -> ExitCode {
    match arguments.command {
        NestedCommand::Setup(SetupArgs { check: true, .. }) => check(),
        NestedCommand::Setup(arguments) => {
            match setup(arguments.package.as_deref(), &mut |line| {
                eprintln!("mmvisor: {line}");
            }) {
                Ok(_) => ExitCode::SUCCESS,
                Err(error) => fail(&error),
            }
        }
        NestedCommand::Run(arguments) => match run_command(arguments) {
            Ok(status) => ExitCode::from(status),
            Err(error) => fail(&error),
        },
        NestedCommand::Launch(arguments) => fail(&launch(arguments.parent, &arguments.command)),
    }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("mmvisor: {error}");
    ExitCode::from(FAILED)
}

fn check() -> ExitCode {
    match Assets::find() {
        Ok(assets) => {
            println!("QEMU: {}", assets.qemu.display());
            println!("kernel: {}", assets.kernel.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("mmvisor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_command(arguments: RunArgs) -> Result<u8, NestedError> {
    let kind = Kind::from(arguments.kvm);
    let mut machine = Machine::new(kind).memory_mib(arguments.mem);
    if let Some(seconds) = arguments.timeout {
        machine = machine.time_limit(Duration::from_secs(seconds));
    }
    let mut guest_paths = Vec::new();
    for file in &arguments.files {
        let (host, guest) = split_file(file);
        let guest = absolute(guest)?;
        machine = machine.file(Path::new(host), &guest);
        guest_paths.push(guest);
    }
    let mut command = arguments.command;
    if let Some(program) = command.first_mut() {
        let path = absolute(Path::new(program))?;
        if path != Path::new(crate::nested::GUEST_EXECUTABLE) && !guest_paths.contains(&path) {
            machine = machine.program(&path);
        }
        *program = path.into_os_string();
    }
    let mut job = Job::new(command);
    for variable in &arguments.variables {
        let (key, value) = variable.split_once('=').unwrap_or((variable, ""));
        job = job.env(key, value);
    }
    // A closed standard input is an empty one.
    job = job.stdin(Input::own().unwrap_or_default());

    eprintln!("mmvisor: {}", crate::nested::notice(kind, "as asked"));
    let (mut stdout, mut stderr) = (io::stdout(), io::stderr());
    let streams = Streams { stdout: &mut stdout, stderr: &mut stderr, side: &mut io::sink() };
    let outcome = machine.run(job, streams)?;
    match &outcome {
        Outcome::NotStarted(why) => eprintln!("mmvisor: {why}"),
        // Nobody reads its output any more: an ordinary end in a pipeline, which shells do not tell either.
        Outcome::Killed(SIGPIPE) | Outcome::Exited(_) | Outcome::TimedOut => {}
        Outcome::Killed(signal) => eprintln!("mmvisor: the command was killed by signal {signal}"),
    }
    Ok(outcome.exit_status())
}

/// Splits `HOST[:GUEST]` at the last colon that has an absolute path after it.
fn split_file(file: &OsString) -> (&Path, &Path) {
    let whole = Path::new(file);
    let split = file
        .to_str()
        .and_then(|text| text.rsplit_once(":/").map(|(host, _)| (host, &text[host.len() + 1..])));
    split.map_or((whole, whole), |(host, guest)| (Path::new(host), Path::new(guest)))
}

/// The path from the root, without looking at the file system's links.
fn absolute(path: &Path) -> Result<PathBuf, NestedError> {
    let refuse = |source| NestedError::File { path: path.to_owned(), source };
    let path = std::path::absolute(path).map_err(refuse)?;
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(clean.pop()),
            other => clean.push(other),
        }
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Whole {
        #[command(flatten)]
        nested: NestedArgs,
    }

    #[test]
    fn a_command_keeps_its_own_options() {
        let whole =
            Whole::try_parse_from(["x", "run", "--kvm", "shadow", "--", "/bin/ls", "--kvm"])
                .unwrap();
        let NestedCommand::Run(run) = whole.nested.command else { panic!("not run") };
        assert_eq!(
            (run.kvm, run.command),
            (KindArg::Shadow, vec!["/bin/ls".into(), "--kvm".into()])
        );
    }

    #[test]
    fn a_run_without_a_command_is_refused() {
        assert!(Whole::try_parse_from(["x", "run"]).is_err());
    }

    #[test]
    fn a_file_goes_to_the_same_path_or_to_the_one_after_the_colon() {
        let split = |file: &str| {
            let file = OsString::from(file);
            let (host, guest) = split_file(&file);
            (host.to_owned(), guest.to_owned())
        };
        assert_eq!(split("/a"), ("/a".into(), "/a".into()));
        assert_eq!(split("a:b"), ("a:b".into(), "a:b".into()));
        assert_eq!(split("a:/b"), ("a".into(), "/b".into()));
    }

    #[test]
    fn a_relative_path_becomes_absolute_without_dots() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(absolute(Path::new("x/../y/./z")).unwrap(), here.join("y/z"));
    }
}
