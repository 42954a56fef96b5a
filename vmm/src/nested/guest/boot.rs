//! From the kernel's hand-over to a machine with open ports and the KVM that was asked for.

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::super::Kind;
use super::super::wire::{Description, MODULES_PATH, PORT_NAMES};
use super::Ports;
use crate::machine::{KeptError, KeptMachine};

/// How long the ports may take to appear.
const PORTS_LIMIT: Duration = Duration::from_secs(60);

/// Mounts what every program expects. The root is a memory file system already.
pub(super) fn mount_all() -> Result<(), String> {
    for (kind, place) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/dev/shm")]
    {
        let fail = |why: &dyn std::fmt::Display| format!("mounting {kind} on {place}: {why}");
        fs::create_dir_all(place).map_err(|e| fail(&e))?;
        match mount(Some(kind), place, Some(kind), MsFlags::MS_NOSUID, None::<&str>) {
            // The kernel may have mounted devtmpfs itself.
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(errno) => return Err(fail(&errno)),
        }
    }
    for (name, target) in [("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        let link = Path::new("/dev").join(name);
        symlink(Path::new("/proc/self").join(target), &link)
            .map_err(|e| format!("making {}: {e}", link.display()))?;
    }
    Ok(())
}

/// Loads modules in this order, the last of them with `parameters`.
pub(super) fn load_all(files: &[String], parameters: &CStr) -> Result<(), String> {
    for (index, file) in files.iter().enumerate() {
        let path = Path::new(MODULES_PATH).join(file);
        let module = File::open(&path).map_err(|e| format!("opening {}: {e}", path.display()))?;
        let parameters = if index + 1 == files.len() { parameters } else { c"" };
        match finit_module(&module, parameters, ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(format!("loading the kernel module {file}: {errno}")),
        }
    }
    Ok(())
}

/// Loads KVM and checks that it is the one that was asked for.
pub(super) fn start_kvm(description: &Description) -> Result<(), String> {
    let (parameter, expected) = match description.kind {
        Kind::Npt => (c"npt=1", "Y"),
        Kind::Shadow => (c"npt=0", "N"),
    };
    load_all(&description.kvm, parameter)?;
    let path = "/sys/module/kvm_amd/parameters/npt";
    let found = fs::read_to_string(path).map_err(|e| format!("reading {path}: {e}"))?;
    if found.trim() != expected {
        return Err(format!(
            "KVM of the kind {} was asked for, but {path} says {}",
            description.kind,
            found.trim()
        ));
    }
    fs::metadata("/dev/kvm").map(drop).map_err(|e| format!("looking for /dev/kvm: {e}"))
}

/// A machine to be kept as long as there are jobs. It is no reason to stop if there can be none: the jobs
/// say why, those that need KVM.
pub(super) fn keep_a_machine() -> Option<KeptMachine> {
    let told = |error: &KeptError| eprintln!("mmvisor: no virtual machine is kept: {error}");
    KeptMachine::new().inspect_err(told).ok()
}

/// Waits until all ports are there and the host is at their other ends, and opens them.
pub(super) fn open_ports() -> Result<Ports, String> {
    let deadline = Instant::now() + PORTS_LIMIT;
    let [control, stdin, stdout, stderr, side] = PORT_NAMES.map(|name| open_port(name, deadline));
    Ok(Ports { control: control?, stdin: stdin?, outputs: [stdout?, stderr?, side?] })
}

fn open_port(name: &str, deadline: Instant) -> Result<File, String> {
    let fail = |why: &dyn std::fmt::Display| format!("opening the port {name}: {why}");
    let mut port = None;
    while Instant::now() < deadline {
        match &port {
            None => {
                if let Some(device) = device_of(name) {
                    port = Some(
                        OpenOptions::new()
                            .read(true)
                            .write(true)
                            .open(device)
                            .map_err(|e| fail(&e))?,
                    );
                    continue;
                }
            }
            // A read before the host's connection is known would be told the end of the input.
            Some(open) => {
                let mut state = [PollFd::new(open.as_fd(), PollFlags::empty())];
                poll(&mut state, PollTimeout::ZERO).map_err(|e| fail(&e))?;
                let hung_up =
                    state[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP));
                if !hung_up {
                    break;
                }
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    port.ok_or_else(|| fail(&"it has not appeared"))
}

/// The device node of the port with this name: there is no udev(7) here to make links.
fn device_of(name: &str) -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    ports
        .filter_map(Result::ok)
        .find(|port| {
            fs::read_to_string(port.path().join("name")).is_ok_and(|found| found.trim() == name)
        })
        .map(|port| Path::new("/dev").join(port.file_name()))
        .filter(|device| device.exists())
}
