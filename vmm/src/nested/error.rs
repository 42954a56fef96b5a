//! What can go wrong around the nested machine, as a person reads it: what was being done, what was
//! wrong, what to do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why the nested machine could not be set up, or could not run what it was given.
#[derive(Debug, thiserror::Error)]
pub enum NestedError {
    /// Something the machine is made of is not there.
    #[error("the nested machine is not set up: {0}")]
    NotSetUp(crate::nested::Missing),
    /// `setup` could not fetch something.
    #[error("setting up the nested machine: {what} failed: {why}")]
    Setup {
        /// The step.
        what: String,
        /// What the tool said.
        why: String,
    },
    /// The place where the kernel is kept cannot be used.
    #[error("keeping the nested machine's kernel in {}: {source}; set MMVISOR_CACHE to a writable directory", path.display())]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No home directory, no cache directory.
    #[error(
        "where to keep the nested machine's kernel is unknown: neither MMVISOR_CACHE, XDG_CACHE_HOME nor HOME is set"
    )]
    NoCacheDirectory,
    /// A kernel module, or one it depends on, is not in the kernel's tree.
    #[error("the kernel in {} has no module {name}; take the one of linux-image-cloud-amd64", tree.display())]
    NoModule {
        /// Where it was looked for.
        tree: PathBuf,
        /// The module.
        name: String,
    },
    /// A file that was to go into the machine cannot be read.
    #[error("taking {} into the nested machine: {source}", path.display())]
    File {
        /// The file on the host.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A path that cannot be one in the machine.
    #[error("{} cannot be a path in the nested machine: it must be absolute, without \"..\", and not one of mmvisor's own", .0.display())]
    GuestPath(PathBuf),
    /// The shared libraries of an executable cannot be found.
    #[error("finding the shared libraries of {}: {why}", path.display())]
    Libraries {
        /// The executable.
        path: PathBuf,
        /// What was wrong.
        why: String,
    },
    /// The files do not fit.
    #[error(
        "the nested machine's memory of {memory_mib} MiB does not hold its files: give it at least {needed_mib} MiB"
    )]
    TooLittleMemory {
        /// What it was to have.
        memory_mib: u32,
        /// What it needs.
        needed_mib: u64,
    },
    /// The machine would be larger than the host.
    #[error(
        "a guest of {guest_mib} MiB needs a nested machine of {total_mib} MiB, but this host has \
         {host_mib} MiB: give a smaller --mem"
    )]
    TooMuchMemory {
        /// What the guest was to have.
        guest_mib: u64,
        /// What the machine around it needs.
        total_mib: u64,
        /// What the host has.
        host_mib: u64,
    },
    /// The host refused something the session needs.
    #[error("{what} for the nested machine: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// Why the host refused.
        source: io::Error,
    },
    /// QEMU ended before the machine was up.
    #[error("QEMU ended before the nested machine was up ({status}){}", excerpt(log))]
    QemuDied {
        /// How it ended.
        status: String,
        /// The last lines of QEMU's own and of the kernel's messages.
        log: String,
    },
    /// The nested machine's kernel panicked.
    #[error("the nested machine's kernel panicked{}", excerpt(log))]
    KernelPanic {
        /// What the kernel said then.
        log: String,
    },
    /// QEMU ended while a job ran.
    #[error("the nested machine went away while it ran ({status}){}", excerpt(log))]
    Lost {
        /// How QEMU ended.
        status: String,
        /// The last lines of QEMU's own and of the kernel's messages.
        log: String,
    },
    /// The machine came up, but could not be made ready.
    #[error("the nested machine could not be made ready: {0}")]
    Boot(String),
    /// Starting took longer than it may.
    #[error("the nested machine was not up after {} s{}", limit.as_secs(), excerpt(log))]
    BootTimeout {
        /// The limit.
        limit: Duration,
        /// The last lines of QEMU's own and of the kernel's messages.
        log: String,
    },
    /// The caller's limit for the whole run.
    #[error("the nested machine was stopped at its time limit of {} s", .0.as_secs())]
    Timeout(Duration),
    /// The machine said something that is not the protocol.
    #[error("the nested machine said what cannot be understood: {0}")]
    Protocol(String),
}

/// Formats a log as the rest of a sentence.
fn excerpt(log: &str) -> String {
    let log = log.trim();
    if log.is_empty() {
        ", without a message".to_owned()
    } else {
        format!("; its messages:\n{log}")
    }
}

impl NestedError {
    /// Wraps a refusal of the host.
    pub(crate) fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| NestedError::Host { what, source }
    }
}
