//! mmvisor, through its library, on the way that `mmvisor run` takes.

use std::ffi::CString;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use mm::addr::VirtAddr;
use mm::backing::Backing;
use mm::space::MapRequest;
use mm::vma::{MapFlags, MapType, Prot};
use vmm::files::{Descriptors, Paths};
use vmm::hypercall::{TraceTarget, Tracer};
use vmm::kvm::FlushPolicy;
use vmm::load::Image;
use vmm::machine::{Machine, MachineConfig};
use vmm::task::{Family, Identity, Launch, Task, Timing, exec};

use crate::program::{DATA, DATA_BYTES};
use crate::rounds::Outcome;

/// The guest's memory, in bytes, as a user might give it.
const MEMORY: u64 = 1 << 30;

/// A program that mmvisor is about to run, or runs.
#[derive(Debug)]
pub(crate) struct Subject {
    task: Task,
    machine: Arc<Machine>,
}

impl Subject {
    /// From nothing to a program at its first instruction.
    pub(crate) fn start(program: &Arc<File>) -> Outcome<Subject> {
        let machine =
            Machine::new(MachineConfig { memory: MEMORY, flush: FlushPolicy::Chosen, nodes: 1 })?;
        let image = Image::from_file(Arc::clone(program))?;
        let argv = [CString::from(c"figures")];
        let launch = Launch::on(&machine);
        let path = Path::new("/figures");
        let loaded = exec(machine.system(), &image, path, &argv, &[], &launch)?;
        let file = Arc::clone(&image.file);
        let identity = Identity::new(&argv[0], "/figures".to_owned(), file, launch);
        let tracer = Tracer::new(&TraceTarget::Off, &[])?;
        let machine = Arc::new(machine);
        let family = Family::new(Arc::clone(&machine), tracer, Timing::Off)?;
        Ok(Subject {
            task: family.first(loaded, Descriptors::default(), Paths::default(), identity)?,
            machine,
        })
    }

    /// Runs until the program has made `calls` more calls.
    pub(crate) fn run_calls(&mut self, calls: u64) -> Outcome<()> {
        let until = self.task.stats().exits.calls + calls;
        while self.task.stats().exits.calls < until {
            if let Some(end) = self.task.step()? {
                return Err(format!("the program ended: {end:?}").into());
            }
        }
        Ok(())
    }

    /// Maps something of as many bytes as the program touches where it touches them.
    pub(crate) fn map(&self, file: Arc<dyn Backing>) -> Outcome<()> {
        let request = MapRequest {
            addr: VirtAddr::new(DATA),
            len: DATA_BYTES,
            prot: Prot::READ,
            flags: MapFlags::FIXED_NOREPLACE | MapType::Shared.into(),
            file: Some(file),
            offset: 0,
        };
        self.task.process().space.change().mmap(&request)?;
        Ok(())
    }

    /// The machine that it runs in.
    pub(crate) fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// Page faults so far.
    pub(crate) fn page_faults(&self) -> u64 {
        self.task.stats().exits.page_faults
    }
}
