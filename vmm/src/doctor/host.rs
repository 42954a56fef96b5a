//! What machine this is.

use std::fs;

use crate::kvm::{HostNodes, Kind};

/// The host, as far as it matters to KVM. What cannot be read is `None`.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Host {
    /// Which KVM; `None` if it cannot be opened.
    pub kvm: Option<Kind>,
    /// The kernel module that serves it.
    pub module: Option<&'static str>,
    /// The kernel's release.
    pub kernel: Option<String>,
    /// The CPU's name.
    pub cpu: Option<String>,
    /// The NUMA nodes from which a guest may have memory; empty where the kernel knows none.
    pub nodes: Vec<usize>,
    /// Whether this host is itself a virtual machine.
    pub virtualized: Option<bool>,
}

impl Host {
    pub(super) fn of(kvm: Option<Kind>) -> Host {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").ok();
        let field = |name: &str| {
            let lines = cpuinfo.as_deref()?.lines();
            let mut values = lines.filter_map(|line| line.split_once(':'));
            values.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
        };
        Host {
            kvm,
            module: kvm.and_then(Kind::module),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .ok()
                .map(|release| release.trim().to_owned()),
            nodes: HostNodes::of_host().numbers().to_vec(),
            cpu: field("model name"),
            virtualized: field("flags")
                .map(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor")),
        }
    }
}
