//! What runs a trace: the seam between the engine and the software executor, the host's kernel, and a
//! guest.

use crate::addr::VirtAddr;
use crate::error::Errno;
use crate::paging::AccessKind;
use crate::replay::calls::{FileCall, Limit, MemoryCall, Outcome, Text};
use crate::replay::trace::{MapLine, Rss, Setting, Touched, VmFlagNames};

/// A process or thread of the trace, numbered from 0 in the order in which they appear. A number is
/// never used twice, unlike a pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Task(pub u32);

/// An executor's reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<T> {
    /// This.
    Is(T),
    /// It does not do such a thing: the line is skipped and counted.
    Unsupported,
}

/// What a call answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The value in rax, or the error.
    pub result: Result<u64, Errno>,
    /// What it wrote to memory.
    pub output: Output,
}

/// What a call wrote to memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Nothing, or nothing that shall be compared.
    None,
    /// mincore's vector; bit 0 of each byte counts.
    Resident(Vec<u8>),
    /// The limit that prlimit64 and getrlimit tell.
    Limit(Limit),
    /// get_mempolicy's mode and nodes, each if it was asked for.
    Policy {
        /// The mode.
        mode: Option<u64>,
        /// The nodes, as 64-bit words of a bitmap.
        nodes: Option<Vec<u64>>,
    },
    /// What move_pages says of the pages.
    Statuses(Vec<i32>),
}

/// Whether two tasks have one of something, or each its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Both the same.
    Shared,
    /// The new one a copy, as of now.
    Copied,
}

/// What a new task has in common with the one that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cloned {
    /// The address space (`CLONE_VM`).
    pub space: Sharing,
    /// The descriptors (`CLONE_FILES`).
    pub files: Sharing,
    /// The process (`CLONE_THREAD`): limits, personality, rss_stat.
    pub process: Sharing,
}

/// What execve starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program<'a> {
    /// The trace says what is mapped then.
    Mapped(&'a [MapLine]),
    /// A file, to be loaded with its interpreter as Linux does.
    File {
        /// Its path, as the program passed it.
        path: &'a Text,
        /// Its arguments, as far as the trace shows them.
        argv: &'a [Text],
    },
}

/// Executes the calls and accesses of a trace.
///
/// Addresses are the executor's own: the engine has translated them. An error ends the run: it is for
/// what is broken, never for what a traced program may do.
pub trait Executor {
    /// Why the executor cannot go on.
    type Error: std::error::Error;

    /// Makes a process with an empty address space: the first one, or one whose parent the trace does
    /// not show.
    ///
    /// # Errors
    /// Whatever keeps the executor from going on; likewise below.
    fn create(&mut self, task: Task) -> Result<(), Self::Error>;

    /// Replaces all that is mapped by these lines: the starting state. Lines of the kernel half
    /// (`[vsyscall]`) are among them.
    ///
    /// # Errors
    /// See [`Executor::create`].
    fn import(&mut self, task: Task, maps: &[MapLine]) -> Result<(), Self::Error>;

    /// Makes `child` as fork, vfork and clone do.
    ///
    /// # Errors
    /// See [`Executor::create`].
    fn spawn(&mut self, parent: Task, child: Task, cloned: Cloned) -> Result<(), Self::Error>;

    /// Gives the task an address space of its own with the program in it. Unsupported where the file
    /// cannot be loaded: then the space is empty, and the engine assumes what calls show to be there.
    ///
    /// # Errors
    /// See [`Executor::create`].
    fn exec(&mut self, task: Task, program: Program<'_>) -> Result<Reply<()>, Self::Error>;

    /// Ends a task; the last one of an address space ends that.
    ///
    /// # Errors
    /// See [`Executor::create`].
    fn exit(&mut self, task: Task) -> Result<(), Self::Error>;

    /// Performs a memory call. `recorded` is what the trace has: not to be answered, but the number of
    /// a descriptor or a shared-memory segment that later lines know it by.
    ///
    /// # Errors
    /// See [`Executor::create`].
    fn call(
        &mut self,
        task: Task,
        call: &MemoryCall,
        recorded: Outcome,
    ) -> Result<Reply<Answer>, Self::Error>;

    /// Does what a file call that succeeded has done; `result` is its value, a descriptor's number for
    /// those that make one. Nothing is compared.
    ///
    /// # Errors
    /// See [`Executor::create`].
    fn file(&mut self, task: Task, call: &FileCall, result: u64) -> Result<Reply<()>, Self::Error>;

    /// Sets a condition.
    ///
    /// # Errors
    /// See [`Executor::create`].
    fn configure(&mut self, task: Task, setting: &Setting) -> Result<Reply<()>, Self::Error>;

    /// Accesses one byte; a write writes back what is there.
    ///
    /// # Errors
    /// See [`Executor::create`].
    fn touch(
        &mut self,
        task: Task,
        addr: VirtAddr,
        kind: AccessKind,
    ) -> Result<Reply<Touched>, Self::Error>;

    /// Writes one byte.
    ///
    /// # Errors
    /// See [`Executor::create`].
    fn store(
        &mut self,
        task: Task,
        addr: VirtAddr,
        byte: u8,
    ) -> Result<Reply<Touched>, Self::Error>;

    /// Reads one byte; `Err` is the signal.
    ///
    /// # Errors
    /// See [`Executor::create`].
    fn load(
        &mut self,
        task: Task,
        addr: VirtAddr,
    ) -> Result<Reply<Result<u8, Touched>>, Self::Error>;

    /// /proc/PID/maps, in order.
    ///
    /// # Errors
    /// See [`Executor::create`].
    fn maps(&mut self, task: Task) -> Result<Reply<Vec<MapLine>>, Self::Error>;

    /// smaps' VmFlags of the VMA at the address; none where there is no VMA.
    ///
    /// # Errors
    /// See [`Executor::create`].
    fn vm_flags(
        &mut self,
        task: Task,
        addr: VirtAddr,
    ) -> Result<Reply<Option<VmFlagNames>>, Self::Error>;

    /// What mincore says of pages: 1 or 0 for each, or its error.
    ///
    /// # Errors
    /// See [`Executor::create`].
    fn resident(
        &mut self,
        task: Task,
        addr: VirtAddr,
        pages: u64,
    ) -> Result<Reply<Result<Vec<u8>, Errno>>, Self::Error>;

    /// rss_stat; what the executor does not know is none, and not compared.
    ///
    /// # Errors
    /// See [`Executor::create`].
    fn rss(&mut self, task: Task) -> Result<Reply<Rss>, Self::Error>;
}
