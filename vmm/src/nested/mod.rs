//! A machine with a KVM of its own, for hosts without a usable `/dev/kvm` and for the tests.
//!
//! QEMU emulates (TCG, no KVM needed) a processor with AMD SVM, boots Debian's cloud kernel in it with
//! `kvm-amd`, and mmvisor's own executable is the first process there. Whether KVM uses nested paging
//! or shadow paging is chosen by the caller, so this is also where both are tested.
//!
//! ```text
//!   host: mmvisor                       QEMU (TCG, SVM)         in the machine: mmvisor as /init
//!   ┌───────────────────────┐           ┌────────────┐          ┌─────────────────────────────┐
//!   │ machine  (the caller) │  memfd    │ vmlinuz    │          │ guest/boot: mounts, modules │
//!   │   │   initramfs ──────┼──────────►│ initrd     │─────────►│   /mmvisor/jobs.json        │
//!   │   ▼                   │  sockets  │            │  ports   │     │                       │
//!   │ session ◄─────────────┼──control──┤ virtio-    ├──control─┤     ▼                       │
//!   │   ├── stdin  ─────────┼──────────►│ serial     ├─────────►│ guest/run: one job after    │
//!   │   ├── stdout ◄────────┼───────────┤            ├──────────┤ another, streams on ports   │
//!   │   ├── stderr ◄────────┼───────────┤            ├──────────┤                             │
//!   │   └── side   ◄────────┼───────────┤            ├──────────┤                             │
//!   └───────────────────────┘           └────────────┘          └─────────────────────────────┘
//! ```
//!
//! Nothing is left behind: the initramfs and the logs are memory files, the sockets have abstract
//! names, and the kernel ends QEMU when the thread that started it ends, however that comes about.

mod assets;
mod error;
mod guest;
mod initramfs;
mod job;
mod libraries;
mod machine;
mod modules;
mod qemu;
mod session;
mod setup;
mod streams;
mod wire;

pub use assets::{Assets, Missing, cache_directory};
pub use error::NestedError;
pub use guest::{init, is_init};
pub use job::{Input, Job, JobResult, Outcome};
pub use machine::{DEFAULT_MEMORY_MIB, GUEST_EXECUTABLE, Machine, SIDE_OUTPUT};
pub use qemu::launch;
pub use setup::setup;
pub use streams::Streams;

/// Which page tables the nested machine's KVM uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// `kvm-amd npt=1`: nested paging, the hardware walks the guest's own tables.
    Npt,
    /// `kvm-amd npt=0`: shadow paging, the strictest judge of a missing invalidation.
    Shadow,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Npt => "NPT",
            Kind::Shadow => "SHADOW",
        })
    }
}

/// The one line that says that, and why, the nested machine is used.
#[must_use]
pub fn notice(kind: Kind, why: &str) -> String {
    format!("running in the nested machine (QEMU emulating AMD SVM, KVM of the kind {kind}): {why}")
}
