//! A memory call of a trace: made with its registers, as the program made it ([`crate::calls`]).

use std::cell::Cell;
use std::sync::Arc;

use super::recorded::{RecordedMemory, Registers, registers};
use super::{Linux, Process, Task};
use crate::addr::VirtAddr;
use crate::backing::{Backing, FileMode, OpenFile};
use crate::calls::{self, Caller};
use crate::error::{AccessError, Broken, CallError, Errno};
use crate::replay::calls::{Limit as RecordedLimit, MemoryCall, Pointee};
use crate::space::SharedSpace;
use crate::userfault::Served;
use crate::vma::limits::Resource;
use crate::vma::policy::Policy;

/// What a call answers beside its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// Nothing.
    Nothing,
    /// mincore's vector.
    Resident(Vec<u8>),
    /// A limit.
    Limit(RecordedLimit),
    /// get_mempolicy's mode and nodes, each if it was asked for.
    Policy(Option<u64>, Option<Vec<u64>>),
    /// What move_pages says of the pages, up to the last that it says anything of; also if it fails.
    Statuses(Vec<i32>),
}

/// The result of a call that is modelled; `None` for one that is not.
pub(super) type Answered = Option<(Result<u64, Errno>, Written)>;

/// A traced process, whose pointers lead to what was recorded.
struct Recorded<'a> {
    process: &'a Process,
    policy: Cell<Option<Policy>>,
    memory: RecordedMemory,
}

impl Caller for Recorded<'_> {
    fn space(&self) -> &SharedSpace {
        &self.process.space
    }

    fn pid(&self) -> i32 {
        0
    }

    fn read(&self, from: VirtAddr, into: &mut [u8]) -> Result<(), AccessError> {
        self.memory.read(from, into)
    }

    fn write(&self, to: VirtAddr, bytes: &[u8]) -> Result<(), AccessError> {
        self.memory.write(to, bytes)
    }

    fn file(&self, fd: i32) -> Result<Arc<dyn Backing>, Errno> {
        self.process.files().to_map(fd)
    }

    fn install(&self, _: Served, _: i32) -> Result<i32, Errno> {
        let mut files = self.process.files();
        let fd = files.lowest_free();
        files.set(
            fd,
            Arc::new(OpenFile::unmappable(FileMode::READ | FileMode::WRITE | FileMode::NOEXEC)),
        );
        Ok(fd)
    }

    fn policy(&self) -> Option<Policy> {
        self.policy.get()
    }

    fn set_policy(&self, policy: Option<Policy>) {
        self.policy.set(policy);
    }
}

impl Linux {
    /// Performs a memory call.
    ///
    /// # Errors
    /// [`Broken`] only: what the program gets is in the answer.
    pub fn call(&mut self, task: Task, call: &MemoryCall) -> Result<Answered, Broken> {
        let Some(Registers { number, args, memory }) =
            registers(call).filter(|_| !is_of_something_else(call))
        else {
            return Ok(None);
        };
        let process = self.process(task)?;
        self.enter(process);
        let caller = Recorded { process, policy: Cell::new(process.policy), memory };
        let Some(result) = calls::serve(&caller, number, args) else { return Ok(None) };
        let Recorded { policy, memory, .. } = caller;
        if let Some(process) = self.processes.get_mut(&task) {
            process.policy = policy.get();
        }
        match result {
            Ok(value) => Ok(Some((Ok(value), written(call, &memory)))),
            Err(CallError::Errno(errno)) => {
                let moves = matches!(call, MemoryCall::MovePages { .. });
                let written = if moves { written(call, &memory) } else { Written::Nothing };
                Ok(Some((Err(errno), written)))
            }
            Err(CallError::Broken(broken)) => Err(broken),
        }
    }
}

/// There is no process with a number above this one (`PID_MAX_LIMIT`).
const MOST_PIDS: i32 = 1 << 22;

/// Whether a call is about another process (pids are not known here), or sets or asks for a limit that
/// memory does not depend on, as far as it is not refused.
fn is_of_something_else(call: &MemoryCall) -> bool {
    use MemoryCall as M;
    let refused =
        |new: &Pointee<RecordedLimit>| new.shown().is_some_and(|new| new.current > new.maximum);
    let (resource, refused) = match call {
        M::Prlimit { pid, .. } if *pid != 0 => return true,
        M::MovePages { pid, .. } | M::MigratePages { pid, .. } => {
            return (1..=MOST_PIDS).contains(pid);
        }
        M::Prlimit { resource, new, .. } | M::Setrlimit { resource, new } => {
            (*resource, refused(new))
        }
        M::Getrlimit { resource, .. } => (*resource, false),
        _ => return false,
    };
    Resource::from_number(resource).is_some_and(|known| !limits_memory(&known)) && !refused
}

/// Whether memory calls depend on the limit.
pub(super) fn limits_memory(resource: &Resource) -> bool {
    use Resource as R;
    matches!(resource, R::Data | R::Stack | R::LockedMemory | R::AddressSpace)
}

/// What a call has written.
fn written(call: &MemoryCall, memory: &RecordedMemory) -> Written {
    use MemoryCall as M;
    let words = |bytes: Vec<u8>| -> Vec<u64> {
        let word =
            |bytes: &[u8]| bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        bytes.chunks(8).map(word).collect()
    };
    let limit = |index| match memory.written(index).map(words).as_deref() {
        Some(&[current, maximum]) => Written::Limit(RecordedLimit { current, maximum }),
        _ => Written::Nothing,
    };
    match call {
        M::Mincore { .. } => Written::Resident(memory.written(2).unwrap_or_default()),
        M::Prlimit { .. } => limit(3),
        M::Getrlimit { .. } => limit(1),
        M::MovePages { .. } => {
            let status = |bytes: &[u8]| bytes.try_into().map_or(0, i32::from_le_bytes);
            let bytes = memory.written(4).unwrap_or_default();
            Written::Statuses(bytes.chunks(4).map(status).collect())
        }
        M::GetMempolicy { .. } => {
            let mode = memory.written(0).map(words).and_then(|words| words.first().copied());
            Written::Policy(mode, memory.written(1).map(words))
        }
        _ => Written::Nothing,
    }
}
