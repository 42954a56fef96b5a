//! Programs that do not end by themselves: whoever runs them stops them as he would natively, and nothing
//! is left behind. Under the host's KVM only.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use libtest_mimic::{Completion, Failed, Trial};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use wait_timeout::ChildExt;

use crate::common::{MMVISOR, kill_group, kvm_unusable, payload, shell_status};

/// How long a program may take to say that it has begun, and to end once it has been told to.
const LIMIT: Duration = Duration::from_secs(30);

/// How a program is stopped.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// By a signal to it, or to the mmvisor that runs it.
    Signal(Signal),
    /// By closing the other end of its standard output.
    NoReader,
}

/// A program that goes on until it is stopped. It writes a line once it has begun.
#[derive(Clone, Debug)]
struct Endless {
    name: &'static str,
    program: PathBuf,
    args: &'static [&'static str],
    stop: Stop,
}

/// A trial a program and a way to stop it.
pub fn trials() -> Vec<Trial> {
    let mut all = Vec::new();
    for stop in [Stop::Signal(Signal::SIGINT), Stop::Signal(Signal::SIGTERM)] {
        // It runs; it faults for ever; it waits in a call.
        for (name, args) in [("spin", &["spin"]), ("faults", &["faults"])] {
            all.push(Endless { name, program: payload("exit"), args, stop });
        }
        let cat = &["cat"];
        all.push(Endless { name: "cat", program: "/bin/busybox".into(), args: cat, stop });
    }
    for stop in [Stop::Signal(Signal::SIGINT), Stop::Signal(Signal::SIGTERM)] {
        all.push(Endless { name: "family", program: payload("family"), args: &["endless"], stop });
    }
    let yes = PathBuf::from("/bin/busybox");
    all.push(Endless { name: "yes", program: yes, args: &["yes"], stop: Stop::NoReader });
    all.into_iter().map(trial).collect()
}

fn trial(endless: Endless) -> Trial {
    let how = match endless.stop {
        Stop::Signal(signal) => signal.to_string().to_lowercase(),
        Stop::NoReader => "no-reader".to_owned(),
    };
    Trial::ignorable_test(format!("kvm::stopped-{}-{how}", endless.name), move || {
        if let Some(why) = kvm_unusable() {
            return Ok(Completion::ignored_with(why));
        }
        let native = endless.natively()?;
        let mut mmvisor = Command::new(MMVISOR);
        mmvisor.args(["run", "--machine=kvm"]).arg(&endless.program);
        let guest = endless.stopped(mmvisor)?;
        if guest == native {
            return Ok(Completion::Completed);
        }
        Err(format!("it ended with {guest:?}, but natively with {native:?}").into())
    })
}

impl Endless {
    /// What it comes to natively. There its children would stay when it is stopped: with the machine
    /// they end.
    fn natively(&self) -> Result<Option<u8>, Failed> {
        match self.stop {
            Stop::Signal(signal) if self.name == "family" => {
                Ok(Some(128 + u8::try_from(signal as i32)?))
            }
            _ => self.stopped(Command::new(&self.program)),
        }
    }

    /// Runs it by this command, stops it, and gives the status a shell shows; `None` if it did not end.
    fn stopped(&self, mut command: Command) -> Result<Option<u8>, Failed> {
        command.args(self.args).env_clear().process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let ended = self.stop(&mut child);
        let left_behind = kill_group(&child);
        let _ = child.wait();
        match ended? {
            Some(_) if left_behind => Err("it left processes behind".into()),
            ended => Ok(ended),
        }
    }

    fn stop(&self, child: &mut Child) -> Result<Option<u8>, Failed> {
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("it has no pipes".into());
        };
        // What `cat` says that it has begun with. The others do not read.
        input.write_all(b"begun\n")?;
        let mut output = BufReader::new(output);
        let group = Pid::from_raw(child.id().try_into()?);
        let line = within(LIMIT, group, || output.read_line(&mut String::new()))?;
        if line == 0 {
            return Err("it ended before it had begun".into());
        }
        match self.stop {
            Stop::Signal(signal) => kill(group, signal)?,
            Stop::NoReader => drop(output),
        }
        Ok(child.wait_timeout(LIMIT)?.map(shell_status))
    }
}

/// Reads from a program, which is killed with its group if that takes too long: then the read ends, too.
fn within<T>(limit: Duration, group: Pid, read: impl FnOnce() -> T) -> T {
    let (done, watch) = channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if watch.recv_timeout(limit).is_err_and(|end| end == RecvTimeoutError::Timeout) {
                let _ = killpg(group, Signal::SIGKILL);
            }
        });
        let value = read();
        drop(done);
        value
    })
}
