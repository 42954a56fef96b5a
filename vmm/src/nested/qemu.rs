//! The QEMU process: its command line, its life, its messages.
//!
//! The machine is a PC. `microvm` would start a fifth faster, but has neither HPET nor PM timer: on a
//! busy host the kernel then cannot calibrate its clock against the emulated PIT, and one boot in seven
//! hung (measured; none of 63 on a PC). Nothing of the machine touches a disk: kernel messages and
//! QEMU's own go to memory files, the initramfs comes from one.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Pid, getppid};

use super::assets::KERNEL;
use super::wire::PORT_NAMES;
use super::{Assets, NestedError};

/// The kernel's command line. The console shows errors only; a panic ends the machine; the rest saves
/// time that says nothing about KVM (self-tests of ciphers, checks of the emulated timer, relocation,
/// security modules).
const KERNEL_PARAMETERS: &str =
    "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check cryptomgr.notests nokaslr lsm=";
/// One processor. With two, QEMU 7.2 does not bear vCPUs that run at once: see ARCHITECTURE.md. `maxcpus`
/// has it translate as for several all the same: for one alone, a locked instruction's page fault would
/// claim to be a read's.
const PROCESSORS: &str = "1,maxcpus=2";
/// Lines of a log that an error shows.
const EXCERPT_LINES: usize = 12;
/// How much of a log's end is looked at, in bytes.
const EXCERPT_BYTES: u64 = 16 << 10;

/// A file that exists in memory only.
///
/// # Errors
/// [`NestedError::Host`] if the host has no descriptor or memory left.
pub(super) fn memory_file() -> Result<File, NestedError> {
    let file = memfd_create(c"mmvisor-nested", MFdFlags::MFD_CLOEXEC)
        .map_err(|errno| NestedError::host("making a file in memory")(errno.into()))?;
    Ok(File::from(file))
}

/// A running QEMU, ended when dropped, and by the kernel if the thread that started it ends first.
#[derive(Debug)]
pub(super) struct Qemu {
    child: Child,
    messages: File,
    console: File,
}

/// What the machine has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hardware {
    /// Memory, in MiB.
    pub(super) memory_mib: u32,
    /// NUMA nodes, among which it is divided. The processors are on the first.
    pub(super) nodes: u8,
}

impl Hardware {
    /// QEMU's options for the nodes.
    fn numa(self) -> Vec<String> {
        let nodes = u32::from(self.nodes.max(1));
        if nodes == 1 {
            return Vec::new();
        }
        let each = self.memory_mib / nodes;
        let options = |node: u32| {
            let mib = if node == 0 { self.memory_mib - each * (nodes - 1) } else { each };
            let cpus = if node == 0 { ",cpus=0-1" } else { "" };
            [
                "-object".to_owned(),
                format!("memory-backend-ram,id=node{node},size={mib}M"),
                "-numa".to_owned(),
                format!("node,nodeid={node},memdev=node{node}{cpus}"),
            ]
        };
        (0..nodes).flat_map(options).collect()
    }
}

impl Qemu {
    /// Starts it and connects the ports, in the order of [`PORT_NAMES`].
    ///
    /// `launcher` is an mmvisor executable; see [`launch`].
    ///
    /// # Errors
    /// [`NestedError::QemuDied`] if it ended at once, [`NestedError::BootTimeout`] if it has not
    /// connected by `limit` from now, [`NestedError::Host`].
    pub(super) fn start(
        assets: &Assets,
        hardware: Hardware,
        launcher: &Path,
        initramfs: &File,
        limit: Duration,
    ) -> Result<(Self, [UnixStream; PORT_NAMES.len()]), NestedError> {
        let (messages, console) = (memory_file()?, memory_file()?);
        let own = |file: &File| format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        let listeners = [listen()?, listen()?, listen()?, listen()?, listen()?];

        let mut command = Command::new(launcher);
        command.args(["nested", "launch", &std::process::id().to_string(), "--"]).arg(&assets.qemu);
        command.args([
            "-machine",
            "pc",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            PROCESSORS,
        ]);
        command.args([
            "-m",
            &hardware.memory_mib.to_string(),
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
        ]);
        command.args(hardware.numa());
        command.args(["-display", "none", "-monitor", "none", "-net", "none"]);
        command.arg("-kernel").arg(assets.kernel.join(KERNEL)).args(["-initrd", &own(initramfs)]);
        command.args(["-append", KERNEL_PARAMETERS]);
        command.args([
            "-chardev",
            &format!("file,id=console,path={}", own(&console)),
            "-serial",
            "chardev:console",
        ]);
        command.args(["-device", "virtio-serial-pci"]);
        for (name, (_, address)) in PORT_NAMES.into_iter().zip(&listeners) {
            command.args(["-chardev", &format!("socket,id={name},abstract=on,path={address}")]);
            command.args(["-device", &format!("virtserialport,chardev={name},name={name}")]);
        }
        // A process group of its own: what a terminal sends is for mmvisor alone.
        command.process_group(0).stdin(Stdio::null());
        let output = || messages.try_clone().map_err(NestedError::host("duplicating a descriptor"));
        command.stdout(output()?).stderr(output()?);
        log::debug!("{command:?}");
        let child = command.spawn().map_err(NestedError::host("starting QEMU"))?;
        let mut qemu = Qemu { child, messages, console };

        let deadline = Instant::now() + limit;
        let [a, b, c, d, e] =
            listeners.map(|(listener, _)| qemu.accept(&listener, deadline, limit));
        Ok((qemu, [a?, b?, c?, d?, e?]))
    }

    /// Waits for QEMU's connection. Abstract names have no permissions, so whoever else connects is
    /// turned away.
    fn accept(
        &mut self,
        listener: &UnixListener,
        deadline: Instant,
        limit: Duration,
    ) -> Result<UnixStream, NestedError> {
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    let peer = getsockopt(&stream, sockopt::PeerCredentials);
                    if peer.is_ok_and(|peer| u32::try_from(peer.pid()) == Ok(self.child.id())) {
                        return stream
                            .set_nonblocking(false)
                            .map(|()| stream)
                            .map_err(NestedError::host("preparing a socket"));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(status) = self.ended()? {
                        return Err(NestedError::QemuDied {
                            status: describe(status),
                            log: self.log(),
                        });
                    }
                    if Instant::now() > deadline {
                        return Err(NestedError::BootTimeout { limit, log: self.log() });
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => return Err(NestedError::host("accepting QEMU's connection")(error)),
            }
        }
    }

    /// Whether and how it has ended.
    fn ended(&mut self) -> Result<Option<ExitStatus>, NestedError> {
        self.child.try_wait().map_err(NestedError::host("waiting for QEMU"))
    }

    /// Its end, once its connections are closed: it is waited for a moment, then ended.
    pub(super) fn wait_end(&mut self) -> String {
        for _ in 0..500 {
            if let Ok(Some(status)) = self.ended() {
                return describe(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.stop();
        "it closed its connections but did not end".to_owned()
    }

    /// Ends it at once. What a machine has that counts has arrived by then; it has no disk.
    pub(super) fn stop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        if let Err(error) = self.child.wait() {
            log::warn!("waiting for QEMU: {error}");
        }
    }

    /// If the kernel has panicked, what it said then: the reason comes first.
    pub(super) fn panic(&self) -> Option<String> {
        let console = tail(&self.console);
        let said = &console[console.find("Kernel panic")?..];
        Some(lines(said).into_iter().take(EXCERPT_LINES).collect::<Vec<_>>().join("\n"))
    }

    /// The last lines of QEMU's messages, then of the kernel's.
    pub(super) fn log(&self) -> String {
        let mut lines = last_lines(&tail(&self.messages));
        lines.extend(last_lines(&tail(&self.console)));
        lines.join("\n")
    }
}

#[cfg(test)]
impl Qemu {
    /// A process that is not QEMU and says nothing, for tests of what is said over the ports.
    pub(super) fn stand_in() -> Self {
        let child = Command::new("/bin/true").spawn().unwrap();
        Qemu { child, messages: memory_file().unwrap(), console: memory_file().unwrap() }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Becomes QEMU, once the kernel has promised to kill it when the thread that started it ends: a signal
/// on the parent's death outlasts execve(2) (PR_SET_PDEATHSIG(2const)), and asking for it between fork
/// and exec would need unsafe code. This is `mmvisor nested launch PARENT -- PROGRAM ARGS...`.
///
/// # Errors
/// Returns only if it failed: the parent is gone, or the program cannot be executed.
pub fn launch(parent: u32, command: &[std::ffi::OsString]) -> io::Error {
    if let Err(errno) = set_pdeathsig(Signal::SIGKILL) {
        return errno.into();
    }
    // It may have died before the promise.
    if i32::try_from(parent).ok().map(Pid::from_raw) != Some(getppid()) {
        return io::Error::other("the process that asked for the nested machine is gone");
    }
    match command {
        [program, arguments @ ..] => Command::new(program).args(arguments).exec(),
        [] => io::ErrorKind::InvalidInput.into(),
    }
}

/// A socket with an abstract name that nobody has, and the name.
fn listen() -> Result<(UnixListener, String), NestedError> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let fail = NestedError::host("listening for QEMU's connections");
    let open = || loop {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("mmvisor-nested-{}-{number}", std::process::id());
        let address =
            <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name)?;
        match UnixListener::bind_addr(&address) {
            Ok(listener) => {
                listener.set_nonblocking(true)?;
                return Ok((listener, name));
            }
            // Taken, by a process of the same number in another PID namespace.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && number < 10_000 => {}
            Err(error) => return Err(error),
        }
    };
    open().map_err(fail)
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The end of a log, as text.
fn tail(file: &File) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(EXCERPT_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(EXCERPT_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The lines that hold text, without control characters.
fn lines(text: &str) -> Vec<String> {
    let clean = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>();
    text.lines().map(clean).filter(|line| !line.trim().is_empty()).collect()
}

fn last_lines(text: &str) -> Vec<String> {
    let lines = lines(text);
    lines[lines.len().saturating_sub(EXCERPT_LINES)..].to_vec()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_log_shows_its_last_lines_only() {
        let mut file = memory_file().unwrap();
        for line in 0..5000 {
            writeln!(file, "line {line}\r").unwrap();
        }
        let lines = last_lines(&tail(&file));
        assert_eq!(lines.len(), EXCERPT_LINES);
        assert_eq!(lines.last().map(String::as_str), Some("line 4999"));
    }

    #[test]
    fn two_listeners_have_two_names() {
        assert_ne!(listen().unwrap().1, listen().unwrap().1);
    }
}
