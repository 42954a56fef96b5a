//! One act of a process, as both sides can do it.

use std::fmt;

use guest::call::number;
use guest::script::{Access, Arg, Op};
use mm::addr::{PAGE_SIZE, VirtAddr, low_half};
use mm::calls::{
    UFFDIO_API, UFFDIO_CONTINUE, UFFDIO_COPY, UFFDIO_MOVE, UFFDIO_POISON, UFFDIO_REGISTER,
    UFFDIO_UNREGISTER, UFFDIO_WRITEPROTECT, UFFDIO_ZEROPAGE,
};
use mm::paging::AccessKind;
use mm::replay::calls::{Call, IoVec, MemoryCall, Pointee};
use mm::userfault::Features;

use super::model::buffers;
use crate::script::{CAPSET, FTRUNCATE, HOME_NODE, MEMFD_CREATE, MIGRATE_PAGES, Script};

/// The setting that has the machine give up what it can.
pub const RECLAIM: &str = "mmvisor.reclaim";

/// What a process does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Deed {
    /// A memory call.
    Call(MemoryCall),
    /// Opens a file, which gets this descriptor, the lowest free one.
    Open(i32, Open),
    /// Changes a file's length, in bytes.
    Truncate(i32, u64),
    /// Accesses a byte.
    Touch(u64, AccessKind),
    /// Writes a byte.
    Store(u64, u8),
    /// Reads a byte.
    Load(u64),
    /// Makes a userfaultfd, which gets this descriptor.
    Userfault(i32),
    /// Registers a range with the script's userfaultfd (fd, address, length, modes), or with mode 0
    /// unregisters it.
    Uffd(i32, u64, u64, u64),
    /// Makes a userfaultfd by which no fault waits: each is a `SIGBUS`.
    ServedUserfault(i32),
    /// Asks the script's userfaultfd for pages, or to protect some (fd, request, the words of its argument).
    Serve(i32, u64, [u64; 5]),
    /// Gives up capabilities, a bit each; those given up before are among them.
    DropCapabilities(u64),
    /// Has the machine give up all memory that can be had again: with a swap area, and our side alone.
    Reclaim,
    /// Makes a process with this number.
    Fork(u8),
    /// Ends.
    Exit,
}

/// What is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Open {
    /// A memfd of so many pages.
    Memfd(u64),
    /// An empty memfd of huge pages, which have the logarithm of so many bytes.
    HugeMemfd(u64),
    /// A file without a name of so many pages.
    File(u64),
    /// A descriptor's file again: for reading, writing, or both (`O_RDONLY` and so on).
    Again(i32, u64),
    /// A directory.
    Directory,
}

/// A process's deed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Act {
    /// Which process.
    pub process: u8,
    /// What it does.
    pub deed: Deed,
}

impl Act {
    /// Whether it makes a descriptor.
    pub fn opens(&self) -> bool {
        matches!(self.deed, Deed::Open(..) | Deed::Userfault(_) | Deed::ServedUserfault(_))
    }

    /// What it is called in a tally.
    pub fn name(&self) -> String {
        match &self.deed {
            Deed::Uffd(_, _, _, 0) => "UFFDIO_UNREGISTER".to_owned(),
            Deed::Serve(_, request, _) => served_name(*request).to_owned(),
            Deed::Uffd(..) => "UFFDIO_REGISTER".to_owned(),
            Deed::Open(..) => "open".to_owned(),
            Deed::DropCapabilities(_) => "capset".to_owned(),
            Deed::Reclaim => "reclaim".to_owned(),
            Deed::Store(..) | Deed::Load(_) | Deed::Touch(..) => "touch".to_owned(),
            Deed::Call(MemoryCall::Madvise { .. }) => self.advice(),
            _ => {
                let text = self.to_string();
                let text = text.split_whitespace().nth(1).unwrap_or_default();
                text.split('(').next().unwrap_or_default().to_owned()
            }
        }
    }

    /// A madvise call's advice, each of which is a call of its own.
    fn advice(&self) -> String {
        let text = self.to_string();
        let advice = text.rsplit(", ").next().unwrap_or_default().trim_end_matches(')');
        if advice.starts_with("MADV") && !advice.contains('?') { advice } else { "madvise" }
            .to_owned()
    }

    /// Adds its steps to a script. The one whose answer counts is returned.
    pub fn add_to(&self, script: &mut Script) -> usize {
        let process = self.process;
        match &self.deed {
            Deed::Call(call @ MemoryCall::Madvise { advice: 8 | 20 | 21, .. }) => {
                drain_lists(script, process);
                let step = add_call(script, process, call);
                drain_lists(script, process);
                step
            }
            Deed::Call(call) => add_call(script, process, call),
            &Deed::Open(fd, open) => add_open(script, process, fd, open),
            &Deed::Truncate(fd, len) => {
                script.call_of(process, FTRUNCATE, &[Arg::Value(word(fd)), Arg::Value(len)])
            }
            &Deed::Touch(addr, kind) => {
                let access = match kind {
                    AccessKind::Read => Access::Read,
                    AccessKind::Write => Access::Write,
                    AccessKind::Execute => Access::Execute,
                };
                script.step(process, Op::Touch { addr, access })
            }
            &Deed::Store(addr, byte) => script.step(process, Op::Store { addr, byte }),
            &Deed::Load(addr) => script.step(process, Op::Load { addr }),
            &Deed::Userfault(fd) => add_userfault(script, process, fd, Features::empty()),
            &Deed::ServedUserfault(fd) => add_userfault(script, process, fd, SERVED),
            &Deed::Serve(fd, request, words) => {
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                let args = [Arg::Value(word(fd)), Arg::Value(request), Arg::InOut(&bytes)];
                script.call_of(process, number::IOCTL, &args)
            }
            &Deed::Uffd(fd, addr, len, mode) => {
                let request = if mode == 0 { UFFDIO_UNREGISTER } else { UFFDIO_REGISTER };
                let words = [addr, len, mode, 0];
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                let args = [Arg::Value(word(fd)), Arg::Value(request), Arg::InOut(&bytes)];
                script.call_of(process, number::IOCTL, &args)
            }
            &Deed::DropCapabilities(dropped) => drop_capabilities(script, process, dropped),
            // Nobody can tell but by what is resident: a call that does nothing.
            Deed::Reclaim => script.call_of(process, number::MADVISE, &[Arg::Value(0); 3]),
            &Deed::Fork(child) => script.step(process, Op::Fork { child }),
            Deed::Exit => script.step(process, Op::Exit),
        }
    }
}

/// What a userfaultfd has by which no fault waits.
pub const SERVED: Features = Features::SIGBUS.union(Features::WP_UNPOPULATED);

/// Makes a userfaultfd for the program's own accesses, and agrees on its features.
fn add_userfault(script: &mut Script, process: u8, fd: i32, features: Features) -> usize {
    let step = script.call_of(process, number::USERFAULTFD, &[Arg::Value(1)]);
    let words = [0xaau64, features.bits(), 0];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let args = [Arg::Value(word(fd)), Arg::Value(UFFDIO_API), Arg::InOut(&bytes)];
    script.call_of(process, number::IOCTL, &args);
    step
}

/// What a request is called.
fn served_name(request: u64) -> &'static str {
    match request {
        UFFDIO_COPY => "UFFDIO_COPY",
        UFFDIO_ZEROPAGE => "UFFDIO_ZEROPAGE",
        UFFDIO_CONTINUE => "UFFDIO_CONTINUE",
        UFFDIO_MOVE => "UFFDIO_MOVE",
        UFFDIO_POISON => "UFFDIO_POISON",
        UFFDIO_WRITEPROTECT => "UFFDIO_WRITEPROTECT",
        _ => "a request of a userfaultfd",
    }
}

/// Has Linux put pages on the lists that they belong on, which it does in batches, one a processor: until
/// then advice about them is not followed, or not to be seen. mbind(2) with `MPOL_MF_MOVE` does so first
/// (`lru_cache_disable`), also where nothing is mapped, as here.
pub fn drain_lists(script: &mut Script, process: u8) {
    const NOWHERE: u64 = 0x1000_0000_0000;
    const MPOL_MF_MOVE: u64 = 2;
    let args = [NOWHERE, PAGE_SIZE, 0, 0, 0, MPOL_MF_MOVE].map(Arg::Value);
    script.call_of(process, number::MBIND, &args);
}

/// An `int` in a register.
fn word(int: i32) -> u64 {
    i64::from(int).cast_unsigned()
}

/// capset(2) without some capabilities: all others as root has them.
fn drop_capabilities(script: &mut Script, process: u8, dropped: u64) -> usize {
    let header: Vec<u8> = [0x2008_0522u32, 0].iter().flat_map(|w| w.to_le_bytes()).collect();
    // CAP_SYS_RESOURCE (24) is what root has not here.
    let all = 0x1ff_feff_ffffu64 & !dropped;
    let (low, high) = (low_half(all), low_half(all >> 32));
    let sets: Vec<u8> = [low, low, 0, high, high, 0].iter().flat_map(|w| w.to_le_bytes()).collect();
    script.call_of(process, CAPSET, &[Arg::In(&header), Arg::In(&sets)])
}

/// What memfd_create(2) is given for huge pages of a size.
pub fn huge_memfd_flags(log2: u64) -> u64 {
    u64::from(libc::MFD_HUGETLB) | log2 << libc::MAP_HUGE_SHIFT
}

fn add_open(script: &mut Script, process: u8, fd: i32, open: Open) -> usize {
    let (step, pages) = match open {
        Open::Memfd(pages) => {
            let args = [Arg::In(b"trace\0"), Arg::Value(2)];
            (script.call_of(process, MEMFD_CREATE, &args), pages)
        }
        Open::HugeMemfd(log2) => {
            let flags = huge_memfd_flags(log2);
            return script.call_of(
                process,
                MEMFD_CREATE,
                &[Arg::In(b"trace\0"), Arg::Value(flags)],
            );
        }
        Open::File(pages) => {
            // O_TMPFILE|O_RDWR
            let args = [Arg::In(b"/tmp\0"), Arg::Value(0o20_200_002), Arg::Value(0o600)];
            (script.call_of(process, number::OPEN, &args), pages)
        }
        Open::Again(fd, mode) => {
            let path = format!("/proc/self/fd/{fd}\0");
            return script.call_of(
                process,
                number::OPEN,
                &[Arg::In(path.as_bytes()), Arg::Value(mode)],
            );
        }
        Open::Directory => {
            return script.call_of(process, number::OPEN, &[Arg::In(b"/\0"), Arg::Value(0)]);
        }
    };
    script.call_of(process, FTRUNCATE, &[Arg::Value(word(fd)), Arg::Value(pages * 4096)]);
    step
}

/// The buffers for what a call writes.
fn outputs(call: &MemoryCall) -> impl Iterator<Item = Arg<'static>> {
    buffers(call).into_iter().map(|bytes| Arg::Out(u32::try_from(bytes).unwrap_or(0)))
}

/// The next of them.
fn next(buffers: &mut impl Iterator<Item = Arg<'static>>) -> Arg<'static> {
    buffers.next().unwrap_or(Arg::Value(0))
}

/// What a call reads: these bytes, if they are shown; else a null pointer or a bad one.
fn given<'a, T>(pointee: &Pointee<T>, bytes: Option<&'a [u8]>) -> Arg<'a> {
    match (pointee, bytes) {
        (Pointee::Unread(at), _) => Arg::Value(at.get()),
        (_, Some(bytes)) => Arg::In(bytes),
        (_, None) => Arg::Value(0),
    }
}

fn add_call(script: &mut Script, process: u8, call: &MemoryCall) -> usize {
    use MemoryCall as M;
    let bytes_of =
        |words: &[u64]| -> Vec<u8> { words.iter().flat_map(|word| word.to_le_bytes()).collect() };
    let mut numbers = |number: u64, words: &[u64]| {
        let args: Vec<Arg<'_>> = words.iter().map(|&word| Arg::Value(word)).collect();
        script.call_of(process, number, &args)
    };
    let a = |addr: VirtAddr| addr.get();
    match *call {
        M::Mmap { addr, len, prot, flags, fd, offset } => {
            numbers(number::MMAP, &[a(addr), len, prot, flags, word(fd), offset])
        }
        M::Munmap { addr, len } => numbers(number::MUNMAP, &[a(addr), len]),
        M::Mprotect { addr, len, prot } => numbers(number::MPROTECT, &[a(addr), len, prot]),
        M::PkeyMprotect { addr, len, prot, pkey } => {
            numbers(number::PKEY_MPROTECT, &[a(addr), len, prot, word(pkey)])
        }
        M::Mremap { addr, old_len, new_len, flags, new_addr } => {
            numbers(number::MREMAP, &[a(addr), old_len, new_len, flags, a(new_addr)])
        }
        M::Brk { addr } => numbers(number::BRK, &[a(addr)]),
        M::RemapFilePages { addr, len, prot, pgoff, flags } => {
            numbers(number::REMAP_FILE_PAGES, &[a(addr), len, prot, pgoff, flags])
        }
        M::Madvise { addr, len, advice } => numbers(number::MADVISE, &[a(addr), len, advice]),
        M::Mlock { addr, len } => numbers(number::MLOCK, &[a(addr), len]),
        M::Mlock2 { addr, len, flags } => numbers(number::MLOCK2, &[a(addr), len, flags]),
        M::Munlock { addr, len } => numbers(number::MUNLOCK, &[a(addr), len]),
        M::Mlockall { flags } => numbers(number::MLOCKALL, &[flags]),
        M::Munlockall => numbers(number::MUNLOCKALL, &[]),
        M::Mseal { addr, len, flags } => numbers(number::MSEAL, &[a(addr), len, flags]),
        M::Msync { addr, len, flags } => numbers(number::MSYNC, &[a(addr), len, flags]),
        M::Mincore { addr, len, .. } => {
            let pages = u32::try_from(len.div_ceil(4096).min(1 << 16)).unwrap_or(0);
            let args = [Arg::Value(a(addr)), Arg::Value(len), Arg::Out(pages)];
            script.call_of(process, number::MINCORE, &args)
        }
        M::Mbind { addr, len, mode, ref nodes, maxnode, flags } => {
            let bytes = nodes.shown().map(|words| bytes_of(words));
            let nodes = given(nodes, bytes.as_deref());
            let (addr, len) = (Arg::Value(a(addr)), Arg::Value(len));
            let rest = [Arg::Value(mode), nodes, Arg::Value(maxnode), Arg::Value(flags)];
            script.call_of(process, number::MBIND, &[addr, len, rest[0], rest[1], rest[2], rest[3]])
        }
        M::SetMempolicy { mode, ref nodes, maxnode } => {
            let bytes = nodes.shown().map(|words| bytes_of(words));
            let nodes = given(nodes, bytes.as_deref());
            script.call_of(
                process,
                number::SET_MEMPOLICY,
                &[Arg::Value(mode), nodes, Arg::Value(maxnode)],
            )
        }
        M::GetMempolicy { ref mode, ref nodes, maxnode, addr, flags } => {
            let mut buffers = outputs(call);
            let mode = if *mode == Pointee::Null { Arg::Value(0) } else { next(&mut buffers) };
            let nodes = if *nodes == Pointee::Null { Arg::Value(0) } else { next(&mut buffers) };
            let rest = [Arg::Value(maxnode), Arg::Value(a(addr)), Arg::Value(flags)];
            let args = [mode, nodes, rest[0], rest[1], rest[2]];
            script.call_of(process, number::GET_MEMPOLICY, &args)
        }
        M::SetMempolicyHomeNode { addr, len, node, flags } => {
            numbers(HOME_NODE, &[a(addr), len, node, flags])
        }
        M::MovePages { pid, count, ref pages, ref nodes, ref status, flags } => {
            let addresses = pages.shown().map(|pages| -> Vec<u8> {
                pages.iter().flat_map(|page| page.get().to_le_bytes()).collect()
            });
            let numbers = nodes.shown().map(|nodes| -> Vec<u8> {
                nodes.iter().flat_map(|node| node.to_le_bytes()).collect()
            });
            let mut buffers = outputs(call);
            let status = if *status == Pointee::Null { Arg::Value(0) } else { next(&mut buffers) };
            let args = [
                Arg::Value(word(pid)),
                Arg::Value(count),
                given(pages, addresses.as_deref()),
                given(nodes, numbers.as_deref()),
                status,
                Arg::Value(flags),
            ];
            script.call_of(process, number::MOVE_PAGES, &args)
        }
        M::MigratePages { pid, maxnode, ref old, ref new } => {
            let [from, to] = [old, new].map(|nodes| nodes.shown().map(|words| bytes_of(words)));
            let args = [
                Arg::Value(word(pid)),
                Arg::Value(maxnode),
                given(old, from.as_deref()),
                given(new, to.as_deref()),
            ];
            script.call_of(process, MIGRATE_PAGES, &args)
        }
        M::Prctl { option, args, .. } => {
            numbers(number::PRCTL, &[option, args[0], args[1], args[2], args[3]])
        }
        M::Prlimit { resource, ref new, .. } => {
            let bytes = new.shown().map(|limit| bytes_of(&[limit.current, limit.maximum]));
            let new = bytes.as_deref().map_or(Arg::Value(0), Arg::In);
            let args = [Arg::Value(0), Arg::Value(resource), new, Arg::Out(16)];
            script.call_of(process, number::PRLIMIT64, &args)
        }
        M::Personality { persona } => numbers(number::PERSONALITY, &[persona]),
        M::Userfaultfd { flags } => numbers(number::USERFAULTFD, &[flags]),
        M::ProcessMadvise { pidfd, ref ranges, count, advice, flags } => {
            let words: Vec<u64> = ranges
                .shown()
                .into_iter()
                .flatten()
                .flat_map(|&IoVec { base, len }| [base.get(), len])
                .collect();
            let bytes = bytes_of(&words);
            let ranges = if *ranges == Pointee::Null { Arg::Value(0) } else { Arg::In(&bytes) };
            let args = [
                Arg::Value(word(pidfd)),
                ranges,
                Arg::Value(count),
                Arg::Value(advice),
                Arg::Value(flags),
            ];
            script.call_of(process, number::PROCESS_MADVISE, &args)
        }
        M::Setrlimit { .. }
        | M::Getrlimit { .. }
        | M::Shmget { .. }
        | M::Shmat { .. }
        | M::Shmdt { .. }
        | M::Shmctl { .. } => numbers(number::GETPID, &[]),
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  ", self.process)?;
        match &self.deed {
            Deed::Call(call) => write!(f, "{}", Call::Memory(call.clone())),
            Deed::Touch(addr, kind) => {
                let letter = match kind {
                    AccessKind::Read => 'r',
                    AccessKind::Write => 'w',
                    AccessKind::Execute => 'x',
                };
                write!(f, "@touch {addr:#x} {letter}")
            }
            Deed::Store(addr, byte) => write!(f, "@store {addr:#x} {byte:#x}"),
            Deed::Load(addr) => write!(f, "@load {addr:#x}"),
            Deed::Userfault(fd) => write!(f, "userfaultfd(UFFD_USER_MODE_ONLY) = {fd}"),
            Deed::ServedUserfault(fd) => {
                write!(f, "userfaultfd(UFFD_USER_MODE_ONLY) = {fd}, {SERVED:?}")
            }
            Deed::Serve(fd, request, words) => {
                write!(f, "ioctl({fd}, {}, {words:#x?})", served_name(*request))
            }
            Deed::Uffd(_, addr, len, 0) => write!(f, "@uffd unregister {addr:#x}+{}", len / 4096),
            Deed::Uffd(_, addr, len, mode) => {
                write!(f, "@uffd register {addr:#x}+{} modes {mode}", len / 4096)
            }
            Deed::DropCapabilities(dropped) => write!(f, "@cap without {dropped:#x}"),
            Deed::Open(fd, open) => write!(f, "@file {fd} {open:?}"),
            Deed::Truncate(fd, len) => write!(f, "ftruncate({fd}, {})", len.cast_signed()),
            Deed::Reclaim => write!(f, "@sysctl {RECLAIM} 1"),
            Deed::Fork(child) => write!(f, "fork() = {child}"),
            Deed::Exit => write!(f, "exit_group(0)"),
        }
    }
}
