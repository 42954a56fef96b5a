//! The software executor: processes with address spaces in ordinary memory, whose page tables are
//! walked in software. It performs the calls and accesses of a trace as Linux would.
//!
//! ```text
//!   Linux ─┬─ System: frames, sysctls, what is promised
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
mod recorded;
#[cfg(test)]
mod tests;
mod userfault;

pub use dispatch::Written;
pub use exec::Loader;
pub use executor::LinuxError;
pub use object::ObjectKind;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::engine::Task;
use super::software::CountingSink;
use crate::addr::VirtAddr;
use crate::error::{AccessError, Broken, CallResult, Fault};
use crate::paging::{AccessKind, KernelHalf};
use crate::phys::{AllocError, Frames, SoftwareMemory};
use crate::space::{AddressSpace, SharedSpace, SpaceUser, Vcpus};
use crate::system::System;
use crate::vma::Userfault;
use crate::vma::limits::Limits;
use crate::vma::policy::Policy;
use files::Files;

/// A machine of ordinary memory with Linux processes in it.
#[derive(Debug)]
pub struct Linux {
    system: Arc<System>,
    sink: Arc<CountingSink>,
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
    /// A machine with `frames` frames of memory and no process.
    #[must_use]
    pub fn new(frames: u64) -> Self {
        let frames = Arc::new(Frames::new(Arc::new(SoftwareMemory::new(frames))));
        let sink = Arc::new(CountingSink::default());
        let system = System::new(frames, Box::new(Arc::clone(&sink)), KernelHalf::default());
        Linux { system: Arc::new(system), sink, processes: BTreeMap::new(), loader: None }
    }

    /// What all its processes share.
    #[must_use]
    pub fn system(&self) -> &Arc<System> {
        &self.system
    }

    /// What it was asked to flush.
    #[must_use]
    pub fn sink(&self) -> &CountingSink {
        &self.sink
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

    /// One access of one byte as ring 3 would do it: walk, fault, walk again. Answers with the byte.
    ///
    /// # Errors
    /// The fault that the program would get.
    pub fn access(
        &self,
        task: Task,
        addr: VirtAddr,
        access: ByteAccess,
    ) -> Result<u8, AccessError> {
        let kind = access.kind();
        let space = self.space(task)?;
        if addr >= VirtAddr::TASK_END {
            return Err(Fault::NotMapped(addr).into());
        }
        let at = loop {
            if let Ok(at) = space.look().table().walk(addr, kind) {
                break at;
            }
            space.fault(addr, kind)?;
        };
        let memory = self.system.memory();
        let mut byte = [0];
        memory.read(at, &mut byte);
        match access {
            ByteAccess::Store(byte) => memory.write(at, &[byte]),
            ByteAccess::Touch(AccessKind::Write) => memory.write(at, &byte),
            ByteAccess::Touch(_) => {}
        }
        Ok(byte[0])
    }

    fn process(&self, task: Task) -> Result<&Process, Broken> {
        self.processes
            .get(&task)
            .ok_or_else(|| Broken::Invariant(format!("there is no task {}", task.0)))
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

/// An access of one byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByteAccess {
    /// Reads it, executes it, or writes it back as it is.
    Touch(AccessKind),
    /// Writes it.
    Store(u8),
}

impl ByteAccess {
    fn kind(self) -> AccessKind {
        match self {
            ByteAccess::Touch(kind) => kind,
            ByteAccess::Store(_) => AccessKind::Write,
        }
    }
}
