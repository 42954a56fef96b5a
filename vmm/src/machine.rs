//! The machine: one KVM virtual machine, its frames, its flush sink and its vCPUs. Many address spaces
//! live in it.

use std::sync::Arc;

use mm::addr::{Frame, PAGE_SIZE};
use mm::error::Broken;
use mm::paging;
use mm::phys::{AllocError, Contents, FrameKind, Frames, PhysMemory};
use mm::swap::SwapStore;
use mm::system::System;

use crate::boot;
use crate::kvm::{
    CpuNames, FlushPolicy, Kind, Kvm, KvmError, KvmSink, Vcpu, VcpuPool, Vm, XsaveLayout,
};

/// What a machine is made from.
#[derive(Clone, Copy, Debug)]
pub struct MachineConfig {
    /// The most memory the guest may use, in bytes; rounded up to 2 MiB.
    pub memory: u64,
    /// How changed page tables are made visible.
    pub flush: FlushPolicy,
    /// Among how many NUMA nodes its memory is divided, from 1 to [`NODES_MOST`](mm::phys::NODES_MOST).
    pub nodes: u8,
}

/// A virtual machine without a kernel.
#[derive(Debug)]
pub struct Machine {
    kind: Kind,
    system: Arc<System>,
    sink: Arc<KvmSink>,
    pool: VcpuPool,
}

impl Machine {
    /// Opens KVM and builds a machine.
    ///
    /// # Errors
    /// [`KvmError`]: KVM cannot be used here, or the host refuses memory.
    pub fn new(config: MachineConfig) -> Result<Self, KvmError> {
        Machine::with_swap(config, None)
    }

    /// The same, with a swap area if there is a store for one.
    ///
    /// # Errors
    /// As of [`Machine::new`].
    pub fn with_swap(
        config: MachineConfig,
        swap: Option<Box<dyn SwapStore>>,
    ) -> Result<Self, KvmError> {
        Machine::with_half(config, swap, |_, _| Ok(()))
    }

    /// The same, whose kernel half has the page of accesses: it replays traces, and runs no program.
    ///
    /// # Errors
    /// As of [`Machine::new`].
    pub fn for_replay(
        config: MachineConfig,
        swap: Option<Box<dyn SwapStore>>,
    ) -> Result<Self, KvmError> {
        Machine::with_half(config, swap, |half, frames| {
            half.add_accesses(frames.memory(), &mut || frame(frames))
        })
    }

    /// A machine whose kernel half has what `complete` adds.
    fn with_half(
        config: MachineConfig,
        swap: Option<Box<dyn SwapStore>>,
        complete: impl FnOnce(&boot::KernelHalf, &Frames) -> Result<(), Broken>,
    ) -> Result<Self, KvmError> {
        let kvm = Kvm::open()?;
        let vm = Arc::new(Vm::new(&kvm, config.memory, config.nodes)?);
        let memory: Arc<dyn PhysMemory> = Arc::clone(vm.memory()) as Arc<dyn PhysMemory>;
        let frames = Arc::new(Frames::with_nodes(memory, vm.memory().nodes()));
        let sink = Arc::new(KvmSink::new(&vm, config.flush, frames.pages_in_use())?);
        let half = boot::install(frames.memory(), vm.kind().call_port(), &mut || frame(&frames))?;
        complete(&half, &frames)?;
        let kernel = paging::KernelHalf { top_entry: half.entry() };
        let total_pages = vm.memory().limit() / PAGE_SIZE;
        let mut system = System::new(frames, Box::new(Arc::clone(&sink)), kernel);
        swap.into_iter().for_each(|store| system.set_swap(store));
        system.sysctl.set_total_pages(total_pages);
        Ok(Machine {
            kind: kvm.kind(),
            system: Arc::new(system),
            sink,
            pool: VcpuPool::new(vm, Arc::new(half)),
        })
    }

    /// Which KVM it runs on.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The processor that its programs find.
    #[must_use]
    pub fn cpu_names(&self) -> CpuNames {
        self.pool.vm().cpu_names()
    }

    /// What its vCPUs' floating-point and vector state has in it.
    #[must_use]
    pub fn xsave_layout(&self) -> &XsaveLayout {
        self.pool.vm().xsave_layout()
    }

    /// What its address spaces share.
    #[must_use]
    pub fn system(&self) -> &Arc<System> {
        &self.system
    }

    /// How its vCPUs are flushed.
    #[must_use]
    pub fn sink(&self) -> &KvmSink {
        &self.sink
    }

    /// A vCPU at its start. The caller has no lock of the memory manager's.
    ///
    /// # Errors
    /// [`VcpuError`] if KVM or the host makes no more of them or there are no frames for one. Nothing is left
    /// behind.
    pub fn take_vcpu(&self) -> Result<Vcpu, VcpuError> {
        self.system.or_page_out(|| self.try_take_vcpu())
    }

    fn try_take_vcpu(&self) -> Result<Vcpu, VcpuError> {
        let frames = self.system.frames();
        let mut reserve = Reserve { frames, taken: Vec::new(), error: None };
        let taken = self.pool.take(&mut || reserve.frame());
        let Reserve { taken: left, error, .. } = reserve;
        for frame in left {
            frames.put(frame)?;
        }
        match (taken, error) {
            (_, Some(AllocError::OutOfMemory)) => Err(VcpuError::OutOfMemory),
            (_, Some(AllocError::Broken(broken))) => Err(broken.into()),
            (Ok(vcpu), None) => Ok(vcpu),
            (Err(KvmError::Broken(broken)), None) => Err(broken.into()),
            (Err(refused), None) => Err(VcpuError::Refused(refused)),
        }
    }

    /// The node that a vCPU belongs to: they are dealt out in turn.
    #[must_use]
    pub fn node_of(&self, vcpu: &Vcpu) -> u8 {
        let nodes = u32::from(self.system.frames().nodes().count());
        u8::try_from(vcpu.index() % nodes).unwrap_or(0)
    }

    /// Takes a vCPU back for the next task.
    pub fn give_back(&self, vcpu: Vcpu) {
        self.pool.give_back(vcpu);
    }
}

/// Why there is no vCPU.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// KVM or the host gives no more of them.
    #[error(transparent)]
    Refused(KvmError),
    /// The guest's memory has no room for its pages.
    #[error("the guest's memory has no room for one more vCPU; a larger --mem may help")]
    OutOfMemory,
    /// The machine stops.
    #[error(transparent)]
    Broken(#[from] Broken),
}

/// The frames that a vCPU may need, taken all at once or not at all.
struct Reserve<'a> {
    frames: &'a Frames,
    taken: Vec<Frame>,
    error: Option<AllocError>,
}

impl Reserve<'_> {
    fn frame(&mut self) -> Result<Frame, Broken> {
        if self.taken.is_empty() {
            self.take_all().map_err(|error| {
                self.error = Some(error);
                Broken::Invariant("there are no frames for a vCPU".to_owned())
            })?;
        }
        self.taken
            .pop()
            .ok_or_else(|| Broken::Invariant("a vCPU takes more frames than it may".to_owned()))
    }

    fn take_all(&mut self) -> Result<(), AllocError> {
        while self.taken.len() < boot::VCPU_FRAMES {
            match self.frames.alloc(FrameKind::Table, Contents::Zeroed) {
                Ok(frame) => self.taken.push(frame),
                Err(error) => {
                    for frame in self.taken.drain(..) {
                        self.frames.put(frame)?;
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// The memory of a machine that is only kept, in bytes: enough for its tables.
const KEPT_MEMORY: u64 = 2 << 20;

/// A machine with a vCPU that nothing runs on, to be held while other machines come and go.
///
/// KVM patches the kernel's text when the first machine comes and when the last one goes
/// (`preempt_notifier_key`), and again for the first and the last vCPU without an interrupt controller of
/// KVM's (`kvm_has_noapic_vcpu`), which ours are. Emulated processors have hung in that.
#[derive(Debug)]
pub struct KeptMachine {
    _machine: Machine,
    _vcpu: Vcpu,
}

impl KeptMachine {
    /// Makes one.
    ///
    /// # Errors
    /// [`KeptError`]: as of [`Machine::new`] and [`Machine::take_vcpu`].
    pub fn new() -> Result<Self, KeptError> {
        let machine = Machine::new(MachineConfig {
            memory: KEPT_MEMORY,
            flush: FlushPolicy::Chosen,
            nodes: 1,
        })?;
        let vcpu = machine.take_vcpu()?;
        Ok(KeptMachine { _machine: machine, _vcpu: vcpu })
    }
}

/// Why a machine cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// There is no machine.
    #[error(transparent)]
    Machine(#[from] KvmError),
    /// It has no vCPU.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
}

/// A frame for the machine itself.
fn frame(frames: &Frames) -> Result<Frame, Broken> {
    frames.alloc(FrameKind::Table, Contents::Zeroed).map_err(|error| match error {
        AllocError::OutOfMemory => {
            Broken::Invariant("--mem is too small for the machine itself".to_owned())
        }
        AllocError::Broken(broken) => broken,
    })
}
