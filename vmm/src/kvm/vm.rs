//! `/dev/kvm` and a virtual machine.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_API_VERSION, KVM_CAP_DISABLE_QUIRKS2, KVM_MAX_CPUID_ENTRIES, KVM_SYNC_X86_EVENTS,
    KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS, KVM_X86_QUIRK_FIX_HYPERCALL_INSN,
    KVM_X86_QUIRK_SLOT_ZAP_ALL, kvm_enable_cap,
};
use kvm_ioctls::{Cap, VmFd};
use log::debug;
use mm::addr::PAGE_SIZE;

use super::host_calls::HostCalls;
use super::presence::Presence;
use super::{CpuNames, GuestMemory, Kind, KvmError, XsaveLayout, cpu_names, cpuid};

/// The device, unless [`DEVICE_VARIABLE`] names another.
const DEVICE: &str = "/dev/kvm";
/// The environment variable that names another device than `/dev/kvm`: for a container that has it
/// elsewhere, and for tests of a host without one.
pub const DEVICE_VARIABLE: &str = "MMVISOR_KVM";

/// Where a CPU without unrestricted guests keeps three pages of its own; customary, below 4 GiB.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// What must be there, and for what.
const REQUIRED: [(Cap, &str, &str); 8] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY", "guest memory"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR", "Intel CPUs without unrestricted guests"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID", "the guest's CPUID"),
    (Cap::SyncRegs, "KVM_CAP_SYNC_REGS", "registers without a system call each"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT", "stopping a vCPU without a race"),
    (Cap::Xsave, "KVM_CAP_XSAVE", "floating-point and vector state"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS", "cancelling an exception under delivery"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS", "a vCPU's reuse"),
];

/// The open device.
#[derive(Debug)]
pub struct Kvm {
    fd: kvm_ioctls::Kvm,
    kind: Kind,
    /// What the guest's CPUID says: asked for once, because it is the slowest of all calls.
    cpuid: CpuId,
}

impl Kvm {
    /// Opens `/dev/kvm`, or what [`DEVICE_VARIABLE`] names, and checks that it has what mmvisor is
    /// built on.
    ///
    /// # Errors
    /// [`KvmError`], each with what to do about it.
    pub fn open() -> Result<Kvm, KvmError> {
        let device = std::env::var_os(DEVICE_VARIABLE).unwrap_or_else(|| OsString::from(DEVICE));
        Kvm::open_device(device.into())
    }

    fn open_device(device: PathBuf) -> Result<Kvm, KvmError> {
        let name = CString::new(device.clone().into_os_string().into_vec());
        let opened = name
            .map_err(io::Error::from)
            .and_then(|name| kvm_ioctls::Kvm::new_with_path(&name).map_err(io::Error::from));
        let fd = match opened {
            Ok(fd) => fd,
            Err(source) => {
                return Err(match (source.kind(), source.raw_os_error()) {
                    (io::ErrorKind::NotFound, _) | (_, Some(libc::ENXIO | libc::ENODEV)) => {
                        KvmError::Missing(device)
                    }
                    (io::ErrorKind::PermissionDenied, _) => KvmError::Permission(device),
                    _ => KvmError::Open { device, source },
                });
            }
        };
        let version = fd.get_api_version();
        if i64::from(version) != i64::from(KVM_API_VERSION) {
            return Err(KvmError::Version { device, version });
        }
        for (capability, name, purpose) in REQUIRED {
            if !fd.check_extension(capability) {
                return Err(KvmError::Capability { name, purpose });
            }
        }
        let synced = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
        let offered = u32::try_from(fd.check_extension_int(Cap::SyncRegs)).unwrap_or(0);
        if offered & synced != synced {
            return Err(KvmError::Capability {
                name: "KVM_CAP_SYNC_REGS with registers, system registers and events",
                purpose: "registers without a system call each",
            });
        }
        let supported = fd
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::host("say which CPU features it supports"))?;
        let cpuid = cpuid::offered(&supported)?;
        Ok(Kvm { fd, kind: Kind::detect(), cpuid })
    }

    /// Which KVM this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Which quirks can be disabled (`KVM_CAP_DISABLE_QUIRKS2`); 0 on kernels before 5.18.
    #[must_use]
    pub fn quirks(&self) -> u32 {
        let value = self.fd.check_extension_raw(u64::from(KVM_CAP_DISABLE_QUIRKS2));
        u32::try_from(value).unwrap_or(0)
    }

    /// Whether deleting a slot drops every translation. Where the quirk is unknown it always does;
    /// where it is known it does unless disabled, which mmvisor never does.
    #[must_use]
    pub fn slot_deletion_is_a_quirk(&self) -> bool {
        self.quirks() & KVM_X86_QUIRK_SLOT_ZAP_ALL != 0
    }
}

/// A virtual machine: memory, and vCPUs made by a [`VcpuPool`](super::VcpuPool).
#[derive(Debug)]
pub struct Vm {
    fd: Arc<VmFd>,
    kind: Kind,
    cpuid: CpuId,
    memory: Arc<GuestMemory>,
    presence: Arc<Presence>,
    xsave_bytes: usize,
    xsave_layout: Arc<XsaveLayout>,
    most_vcpus: usize,
}

impl Vm {
    /// A machine whose memory may grow to `memory_limit` bytes, rounded up to 2 MiB, divided among so many NUMA nodes.
    ///
    /// # Errors
    /// [`KvmError`] if the size is impossible or the host refuses.
    pub fn new(kvm: &Kvm, memory_limit: u64, nodes: u8) -> Result<Vm, KvmError> {
        let fd = loop {
            match kvm.fd.create_vm() {
                Ok(fd) => break fd,
                // A pending signal interrupts it; nothing was made.
                Err(error) if error.errno() == libc::EINTR => {}
                Err(error) => return Err(KvmError::NoMachine(error.into())),
            }
        };
        fd.set_tss_address(TSS_ADDRESS).map_err(KvmError::host("place the CPU's own pages"))?;
        if kvm.quirks() & KVM_X86_QUIRK_FIX_HYPERCALL_INSN != 0 {
            // Else KVM rewrites a `vmcall` in the program's text where the CPU has `vmmcall`.
            let capability = kvm_enable_cap {
                cap: KVM_CAP_DISABLE_QUIRKS2,
                args: [u64::from(KVM_X86_QUIRK_FIX_HYPERCALL_INSN), 0, 0, 0],
                ..Default::default()
            };
            if let Err(error) = fd.enable_cap(&capability) {
                debug!("hypercall instructions may be rewritten by KVM: {error}");
            }
        }
        let xsave_bytes = usize::try_from(fd.check_extension_int(Cap::Xsave2)).unwrap_or(0);
        let fd = Arc::new(fd);
        let host = Arc::new(HostCalls::new(Arc::clone(&fd)));
        let memory = Arc::new(GuestMemory::new(host, memory_limit, nodes)?);
        let most_vcpus = kvm.fd.get_max_vcpus();
        allow_shadow_pages(&fd, memory.limit(), most_vcpus);
        let (kind, cpuid) = (kvm.kind, kvm.cpuid.clone());
        let presence = Arc::default();
        let xsave_layout = Arc::new(cpuid::xsave_layout(&cpuid));
        Ok(Vm { fd, kind, cpuid, memory, presence, xsave_bytes, xsave_layout, most_vcpus })
    }

    /// The guest's physical memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Which KVM this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where its vCPUs are.
    pub(super) fn presence(&self) -> &Arc<Presence> {
        &self.presence
    }

    pub(super) fn fd(&self) -> &Arc<VmFd> {
        &self.fd
    }

    /// The processor that the guest's programs find.
    #[must_use]
    pub fn cpu_names(&self) -> CpuNames {
        cpu_names::cpu_names(self.kind, &self.cpuid)
    }

    /// What the guest's CPUID says.
    pub(super) fn cpuid(&self) -> &CpuId {
        &self.cpuid
    }

    /// How many vCPUs a machine may have (`KVM_CAP_MAX_VCPUS`).
    #[must_use]
    pub fn most_vcpus(&self) -> usize {
        self.most_vcpus
    }

    /// Bytes of a vCPU's XSAVE image by KVM's count; 0 where KVM has only the old size of 4096.
    pub(super) fn xsave_bytes(&self) -> usize {
        self.xsave_bytes
    }

    /// What such an image has in it.
    #[must_use]
    pub fn xsave_layout(&self) -> &Arc<XsaveLayout> {
        &self.xsave_layout
    }
}

/// Lets KVM have as many shadow page tables as many processes may need.
///
/// By default it keeps as many as fit a single system, 2 % of the guest's pages as far as there are slots,
/// and evicts others beyond that. What a vCPU stands on cannot be evicted: with some 140 vCPUs in 16 MiB
/// `KVM_RUN` failed with `ENOSPC`. They are made as they are needed; this only says how many there may be.
fn allow_shadow_pages(vm: &VmFd, memory: u64, vcpus: usize) {
    /// `_IO(KVMIO, 0x44)`.
    const KVM_SET_NR_MMU_PAGES: libc::c_ulong = 0xae44;
    /// A root and the tables down to a few leaves, with room for what a fault makes.
    const A_VCPU: u64 = 64;
    /// Bytes of guest memory for which there may be one.
    const MEMORY: u64 = 8 * PAGE_SIZE;
    let pages = memory / MEMORY + A_VCPU * u64::try_from(vcpus).unwrap_or(0);
    // SAFETY: the call takes a number and touches no memory of ours.
    let status = unsafe { libc::ioctl(vm.as_raw_fd(), KVM_SET_NR_MMU_PAGES, pages) };
    if status != 0 {
        debug!("KVM keeps to its number of shadow pages: {}", io::Error::last_os_error());
    }
}
