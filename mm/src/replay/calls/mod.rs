//! A recorded call as a typed value: what the program asked for, apart from how a line of text says it.
//!
//! Flags and other words stay as the program passed them, unknown bits included: names exist in text
//! only. Addresses may be any 64-bit number. What a pointer pointed to is a [`Pointee`]: known as far as
//! the trace shows it.

mod decode;
mod encode;

pub(crate) use decode::decode;

use crate::addr::VirtAddr;
use crate::error::Errno;

/// A recorded call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Changes or asks about the caller's memory.
    Memory(MemoryCall),
    /// Makes, copies or closes what a memory call may map.
    File(FileCall),
    /// Makes, changes or ends a process.
    Process(ProcessCall),
    /// Something else; only counted.
    Other(OtherCall),
}

/// A call that memory does not depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherCall {
    /// The call's name.
    pub name: String,
    /// The arguments, as the trace has them.
    pub arguments: String,
}

/// What a pointer argument points to, as far as the trace shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pointee<T> {
    /// The null pointer.
    Null,
    /// Something that strace could not read, or that the failed call did not write.
    Unread(VirtAddr),
    /// Its content.
    Shown(T),
}

impl<T> Pointee<T> {
    /// The content, if it is shown.
    #[must_use]
    pub fn shown(&self) -> Option<&T> {
        match self {
            Pointee::Shown(content) => Some(content),
            Pointee::Null | Pointee::Unread(_) => None,
        }
    }

    /// The same with another content.
    #[must_use]
    pub fn map<U>(self, other: impl FnOnce(T) -> U) -> Pointee<U> {
        match self {
            Pointee::Null => Pointee::Null,
            Pointee::Unread(addr) => Pointee::Unread(addr),
            Pointee::Shown(content) => Pointee::Shown(other(content)),
        }
    }
}

/// Whether strace shows all of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// Its beginning; `...` follows.
    Cut,
}

/// A string of bytes, without its null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Whether these are all.
    pub extent: Extent,
}

/// `mincore`'s vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Residency {
    /// A byte for each page: 1 where it is resident.
    pub pages: Vec<u8>,
    /// Whether these are all pages.
    pub extent: Extent,
}

/// `struct rlimit64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// `rlim_cur`, the soft limit.
    pub current: u64,
    /// `rlim_max`, the hard limit.
    pub maximum: u64,
}

/// `struct iovec`: a range of someone's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoVec {
    /// The first address.
    pub base: VirtAddr,
    /// Length in bytes.
    pub len: u64,
}

/// A call that changes or asks about the caller's memory. Lengths and offsets are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are the parameters that the manual page of each call names"
)]
pub enum MemoryCall {
    /// mmap(2).
    Mmap { addr: VirtAddr, len: u64, prot: u64, flags: u64, fd: i32, offset: u64 },
    /// munmap(2).
    Munmap { addr: VirtAddr, len: u64 },
    /// mprotect(2).
    Mprotect { addr: VirtAddr, len: u64, prot: u64 },
    /// pkey_mprotect(2).
    PkeyMprotect { addr: VirtAddr, len: u64, prot: u64, pkey: i32 },
    /// mremap(2); `new_addr` counts with `MREMAP_FIXED` or `MREMAP_DONTUNMAP`.
    Mremap { addr: VirtAddr, old_len: u64, new_len: u64, flags: u64, new_addr: VirtAddr },
    /// brk(2), the system call: answers with the break.
    Brk { addr: VirtAddr },
    /// remap_file_pages(2); `pgoff` is in pages.
    RemapFilePages { addr: VirtAddr, len: u64, prot: u64, pgoff: u64, flags: u64 },
    /// madvise(2).
    Madvise { addr: VirtAddr, len: u64, advice: u64 },
    /// process_madvise(2).
    ProcessMadvise { pidfd: i32, ranges: Pointee<Vec<IoVec>>, count: u64, advice: u64, flags: u64 },
    /// mlock(2).
    Mlock { addr: VirtAddr, len: u64 },
    /// mlock2(2).
    Mlock2 { addr: VirtAddr, len: u64, flags: u64 },
    /// munlock(2).
    Munlock { addr: VirtAddr, len: u64 },
    /// mlockall(2).
    Mlockall { flags: u64 },
    /// munlockall(2).
    Munlockall,
    /// mseal(2).
    Mseal { addr: VirtAddr, len: u64, flags: u64 },
    /// msync(2).
    Msync { addr: VirtAddr, len: u64, flags: u64 },
    /// mincore(2).
    Mincore { addr: VirtAddr, len: u64, vec: Pointee<Residency> },
    /// mbind(2); the nodes are 64-bit words of a bitmap.
    Mbind {
        addr: VirtAddr,
        len: u64,
        mode: u64,
        nodes: Pointee<Vec<u64>>,
        maxnode: u64,
        flags: u64,
    },
    /// set_mempolicy(2).
    SetMempolicy { mode: u64, nodes: Pointee<Vec<u64>>, maxnode: u64 },
    /// get_mempolicy(2); writes the mode and the nodes.
    GetMempolicy {
        mode: Pointee<u64>,
        nodes: Pointee<Vec<u64>>,
        maxnode: u64,
        addr: VirtAddr,
        flags: u64,
    },
    /// set_mempolicy_home_node(2).
    SetMempolicyHomeNode { addr: VirtAddr, len: u64, node: u64, flags: u64 },
    /// move_pages(2), which without nodes only asks. It writes the statuses: a node, or an errno below zero.
    MovePages {
        pid: i32,
        count: u64,
        pages: Pointee<Vec<VirtAddr>>,
        nodes: Pointee<Vec<i32>>,
        status: Pointee<Vec<i32>>,
        flags: u64,
    },
    /// migrate_pages(2); the nodes are 64-bit words of bitmaps.
    MigratePages { pid: i32, maxnode: u64, old: Pointee<Vec<u64>>, new: Pointee<Vec<u64>> },
    /// prctl(2) with an option that is about memory: `PR_SET_VMA`, `PR_SET_MM`, `PR_SET_MDWE`,
    /// `PR_SET_THP_DISABLE` and the two that ask. A name that `PR_SET_VMA` gives is in `name`, and its
    /// argument is 0 then.
    Prctl { option: u64, args: [u64; 4], name: Option<Text> },
    /// prlimit64(2), and with `pid` 0 what getrlimit and setrlimit do; writes `old`.
    Prlimit { pid: i32, resource: u64, new: Pointee<Limit>, old: Pointee<Limit> },
    /// setrlimit(2).
    Setrlimit { resource: u64, new: Pointee<Limit> },
    /// getrlimit(2); writes `old`.
    Getrlimit { resource: u64, old: Pointee<Limit> },
    /// personality(2).
    Personality { persona: u64 },
    /// userfaultfd(2); answers with a descriptor.
    Userfaultfd { flags: u64 },
    /// shmget(2); answers with an identifier.
    Shmget { key: u64, size: u64, flags: u64 },
    /// shmat(2); answers with an address.
    Shmat { id: i32, addr: VirtAddr, flags: u64 },
    /// shmdt(2).
    Shmdt { addr: VirtAddr },
    /// shmctl(2), without what the command reads or writes.
    Shmctl { id: i32, command: u64 },
}

/// A call that makes, copies or closes what a memory call may map.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are the parameters that the manual page of each call names"
)]
pub enum FileCall {
    /// openat(2); open(2) is one with `AT_FDCWD`.
    Openat { dir: i32, path: Pointee<Text>, flags: u64, mode: u64 },
    /// close(2).
    Close { fd: i32 },
    /// dup(2).
    Dup { fd: i32 },
    /// dup2(2).
    Dup2 { fd: i32, new: i32 },
    /// dup3(2).
    Dup3 { fd: i32, new: i32, flags: u64 },
    /// fcntl(2) with a command that copies or seals: `F_DUPFD`, `F_DUPFD_CLOEXEC`, `F_ADD_SEALS`,
    /// `F_GET_SEALS`.
    Fcntl { fd: i32, command: u64, value: u64 },
    /// ftruncate(2).
    Ftruncate { fd: i32, len: u64 },
    /// memfd_create(2).
    MemfdCreate { name: Pointee<Text>, flags: u64 },
}

/// A call that makes, changes or ends a process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are the parameters that the manual page of each call names"
)]
pub enum ProcessCall {
    /// fork(2).
    Fork,
    /// vfork(2).
    Vfork,
    /// clone(2); the lowest byte of `flags` is the exit signal.
    Clone { flags: u64, stack: VirtAddr },
    /// clone3(2); the stack is its lowest address.
    Clone3 { flags: u64, exit_signal: u64, stack: VirtAddr, stack_size: u64 },
    /// execve(2).
    Execve { path: Pointee<Text>, argv: Pointee<Vec<Text>>, envp: VirtAddr },
    /// _exit(2) of one task.
    Exit { status: i32 },
    /// exit_group(2).
    ExitGroup { status: i32 },
    /// wait4(2).
    Wait4 { pid: i32 },
}

/// What a call answered, as the trace has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This value, in rax.
    Value(u64),
    /// This error.
    Failed(Errno),
    /// It did not return, or nobody knows: `= ?`.
    Unknown,
}

impl MemoryCall {
    /// The addresses that the call works on, with their length in bytes; none for a call on the whole
    /// address space, or on one that no argument names.
    #[must_use]
    pub fn range(&self) -> Option<(VirtAddr, u64)> {
        use MemoryCall as M;
        match *self {
            M::Mmap { addr, len, .. }
            | M::Munmap { addr, len }
            | M::Mprotect { addr, len, .. }
            | M::PkeyMprotect { addr, len, .. }
            | M::RemapFilePages { addr, len, .. }
            | M::Madvise { addr, len, .. }
            | M::Mlock { addr, len }
            | M::Mlock2 { addr, len, .. }
            | M::Munlock { addr, len }
            | M::Mseal { addr, len, .. }
            | M::Msync { addr, len, .. }
            | M::Mincore { addr, len, .. }
            | M::Mbind { addr, len, .. }
            | M::SetMempolicyHomeNode { addr, len, .. } => Some((addr, len)),
            M::Mremap { addr, old_len, .. } => Some((addr, old_len)),
            _ => None,
        }
    }
}

impl ProcessCall {
    /// `CLONE_*` of a call that makes a task; none for the others.
    #[must_use]
    pub fn clone_flags(&self) -> Option<u64> {
        const VFORK: u64 = (nix::libc::CLONE_VM | nix::libc::CLONE_VFORK) as u64;
        match *self {
            ProcessCall::Fork => Some(0),
            ProcessCall::Vfork => Some(VFORK),
            ProcessCall::Clone { flags, .. } => Some(flags & !0xff),
            ProcessCall::Clone3 { flags, .. } => Some(flags),
            ProcessCall::Execve { .. }
            | ProcessCall::Exit { .. }
            | ProcessCall::ExitGroup { .. }
            | ProcessCall::Wait4 { .. } => None,
        }
    }
}
