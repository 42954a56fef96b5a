//! The executor of ours: processes that perform the calls and accesses of a trace as Linux would. On
//! ordinary memory, with page tables walked in software, or on a machine of the caller's.
//!
//! ```text
//!   Linux ─┬─ System: frames, flush sink, kernel half, sysctls, what is promised
//!          ├─ Processor: makes the accesses
//!          └─ Task ──> Process ─┬─ SpaceUser (several tasks may have one space)
//!                               ├─ Files
//!                               └─ its memory policy
//! ```

mod dispatch;
mod exec;
mod executor;
mod files;
mod import;
mod object;
mod processor;
mod recorded;
#[cfg(test)]
mod tests;
mod userfault;

pub use dispatch::Written;
pub use exec::Loader;
pub use executor::LinuxError;
pub use object::ObjectKind;
pub use processor::{ByteAccess, Processor};

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::engine::Task;
use super::software::CountingSink;
use crate::addr::VirtAddr;
use crate::error::{AccessError, Broken, CallResult, Fault};
use crate::inspect::audit_all;
use crate::numa;
use crate::paging::KernelHalf;
use crate::phys::{AllocError, Frames, Nodes, SoftwareMemory};
use crate::space::{AddressSpace, SharedSpace, SpaceUser, Vcpus};
use crate::swap::SwapStore;
use crate::system::System;
use crate::userfault::Userfault;
use crate::vma::limits::Limits;
use crate::vma::policy::Policy;
use files::Files;
use processor::SoftwareProcessor;

/// A machine with Linux processes in it.
#[derive(Debug)]
pub struct Linux {
    system: Arc<System>,
    processor: Box<dyn Processor>,
    processes: BTreeMap<Task, Process>,
    /// What can be executed; without it, nothing.
    loader: Option<Box<dyn Loader>>,
}

#[derive(Debug)]
struct Process {
    space: SpaceUser,
    files: Arc<Mutex<Files>>,
    policy: Option<Policy>,
    /// The one userfaultfd of `@uffd` lines.
    uffd: Arc<Userfault>,
    /// The file that was executed last, if it was loaded.
    executable: Option<Vec<u8>>,
}

impl Linux {
    /// A machine with `frames` frames of ordinary memory and no process.
    #[must_use]
    pub fn new(frames: u64) -> Self {
        Linux::with_swap(frames, 1, None)
    }

    /// The same, divided among so many NUMA nodes, with a swap area if there is a store for one.
    #[must_use]
    pub fn with_swap(frames: u64, nodes: u8, swap: Option<Box<dyn SwapStore>>) -> Self {
        let nodes = Nodes::new(nodes, frames);
        let frames = Arc::new(Frames::with_nodes(Arc::new(SoftwareMemory::new(frames)), nodes));
        // Nothing is remembered, so there is nothing to flush.
        let sink = Box::new(CountingSink::default());
        let mut system = System::new(frames, sink, KernelHalf::default());
        swap.into_iter().for_each(|store| system.set_swap(store));
        Linux::on(Arc::new(system), Box::new(SoftwareProcessor))
    }

    /// A machine of the caller's, without a process so far: `processor` has the memory of `system`, and
    /// is flushed by its sink.
    #[must_use]
    pub fn on(system: Arc<System>, processor: Box<dyn Processor>) -> Self {
        Linux { system, processor, processes: BTreeMap::new(), loader: None }
    }

    /// What all its processes share.
    #[must_use]
    pub fn system(&self) -> &Arc<System> {
        &self.system
    }

    /// Makes a process with an empty address space.
    ///
    /// # Errors
    /// [`AllocError`] when there is no memory for its root table.
    pub fn start(&mut self, task: Task) -> Result<(), AllocError> {
        let space = AddressSpace::new(Arc::clone(&self.system), Limits::default())?;
        let process = Process {
            space: SpaceUser::new(space),
            files: Arc::default(),
            policy: None,
            uffd: Arc::default(),
            executable: None,
        };
        self.processes.insert(task, process);
        Ok(())
    }

    /// Makes a copy of a process, as fork(2) does.
    ///
    /// # Errors
    /// `ENOMEM`: then there is no child.
    pub fn fork(&mut self, parent: Task, child: Task) -> CallResult<()> {
        let process = self.process(parent)?;
        let space = SpaceUser::new(process.space.change().fork(Vcpus::Stopped)?);
        let process = Process {
            space,
            files: Arc::new(Mutex::new(process.files().clone())),
            policy: process.policy,
            uffd: Arc::default(),
            executable: process.executable.clone(),
        };
        self.processes.insert(child, process);
        Ok(())
    }

    /// Ends a task; the last one of an address space ends that.
    ///
    /// # Errors
    /// [`Broken`] when its memory cannot be freed.
    pub fn end(&mut self, task: Task) -> Result<(), Broken> {
        match self.processes.remove(&task) {
            Some(process) => process.space.put().map(drop),
            None => Ok(()),
        }
    }

    /// A task's address space.
    ///
    /// # Errors
    /// [`Broken`] when there is no such task.
    pub fn space(&self, task: Task) -> Result<&SharedSpace, Broken> {
        Ok(&self.process(task)?.space)
    }

    /// One access of one byte by the program. Answers with the byte that a read found.
    ///
    /// # Errors
    /// The fault that the program would get.
    pub fn access(
        &mut self,
        task: Task,
        addr: VirtAddr,
        access: ByteAccess,
    ) -> Result<u8, AccessError> {
        // What is above is nobody's to a program; a vCPU has pages of the machine's own there.
        if addr >= VirtAddr::TASK_END {
            return Err(Fault::NotMapped(addr).into());
        }
        let process = self.processes.get(&task).ok_or_else(|| no_task(task))?;
        self.enter(process);
        self.processor.access(&process.space, addr, access)
    }

    /// Checks all address spaces together ([`audit_all`]).
    ///
    /// # Errors
    /// As of [`audit_all`].
    pub fn audit(&self) -> Result<(), String> {
        let mut spaces: Vec<&SharedSpace> = self.processes.values().map(|p| &*p.space).collect();
        spaces.sort_by_key(|space| std::ptr::from_ref(*space));
        // Several tasks may have one space.
        spaces.dedup_by_key(|space| std::ptr::from_ref(*space));
        let looked: Vec<_> = spaces.iter().map(|space| space.look()).collect();
        audit_all(&looked.iter().map(|space| &**space).collect::<Vec<_>>())
    }

    /// Pages come from where this process has them from now on. All tasks have one CPU.
    fn enter(&self, process: &Process) {
        if !self.system.frames().nodes().is_one() {
            numa::enter(process.policy, 0);
        }
    }

    fn process(&self, task: Task) -> Result<&Process, Broken> {
        self.processes.get(&task).ok_or_else(|| no_task(task))
    }

    fn files(&self, task: Task) -> Result<MutexGuard<'_, Files>, Broken> {
        Ok(self.process(task)?.files())
    }
}

impl Process {
    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_task(task: Task) -> Broken {
    Broken::Invariant(format!("there is no task {}", task.0))
}
