//! The `@` lines: what strace cannot see. Their values here, their syntax in `parse_at`, their text in
//! `print`.

use crate::addr::VirtAddr;
use crate::error::Fault;
use crate::paging::AccessKind;
use crate::sysctl::{OfSize, Thp};

/// An `@` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directive {
    /// `@maps`: the VMAs, or those that reach into the range.
    Maps {
        /// The range; none for all.
        range: Option<Span>,
        /// The lines, in order.
        lines: Vec<MapLine>,
    },
    /// `@touch`: one access of one byte.
    Touch {
        /// Where.
        addr: VirtAddr,
        /// Read, write or execute.
        kind: AccessKind,
        /// What came of it.
        result: Touched,
    },
    /// `@store`: writes one byte.
    Store {
        /// Where.
        addr: VirtAddr,
        /// The byte.
        byte: u8,
    },
    /// `@load`: reads one byte.
    Load {
        /// Where.
        addr: VirtAddr,
        /// What it is.
        byte: u8,
    },
    /// `@flags`: smaps' VmFlags of the VMA at the address.
    Flags {
        /// Where.
        addr: VirtAddr,
        /// The flags.
        flags: VmFlagNames,
    },
    /// `@resident`: which pages mincore calls resident.
    Resident {
        /// The first page.
        addr: VirtAddr,
        /// 1 where it is, 0 where not; one for each page.
        pages: Vec<u8>,
    },
    /// `@rss`: rss_stat of the process.
    Rss(Rss),
    /// A condition from here on.
    Setting(Setting),
}

/// A condition from here on that no recorded call sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// `@file`: a descriptor.
    File {
        /// The descriptor.
        fd: i32,
        /// What it refers to.
        file: File,
    },
    /// `@uffd`: userfaultfd's effect on VMAs.
    Uffd {
        /// The first page.
        addr: VirtAddr,
        /// How many pages.
        pages: u64,
        /// Registered how, or unregistered.
        change: UffdChange,
    },
    /// `@limit`: a soft limit; the hard one stays.
    Limit {
        /// Which, as setrlimit(2) numbers them.
        resource: u64,
        /// Bytes, or what it counts; `u64::MAX` is infinity.
        value: u64,
    },
    /// `@sysctl`.
    Sysctl {
        /// `vm.max_map_count` and the like.
        name: String,
        /// Its value.
        value: u64,
    },
    /// `@cap`: a capability.
    Capability {
        /// `CAP_IPC_LOCK` and the like.
        name: String,
        /// Whether the process has it.
        held: Held,
    },
    /// `@thp`: /sys/kernel/mm/transparent_hugepage/enabled.
    Thp(Thp),
    /// `@thp` of one size: its hugepages-<size>kB/enabled.
    ThpOf(OfSize),
    /// `@personality`: what personality(2) has set.
    Personality(u64),
    /// `@mmap_base`: where top-down placement starts.
    MmapBase(VirtAddr),
    /// `@brk`: where the heap starts and ends, and where the initialised data is that `RLIMIT_DATA`
    /// counts with it.
    Brk {
        /// start_brk.
        start: VirtAddr,
        /// The break.
        current: VirtAddr,
        /// start_data to end_data; what is known already where it is left out.
        data: Option<Span>,
    },
}

/// A half-open range of addresses, as text has it: of any alignment, in either half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first address.
    pub start: VirtAddr,
    /// The first past it.
    pub end: VirtAddr,
}

/// A line of /proc/PID/maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapLine {
    /// The addresses.
    pub span: Span,
    /// `rwxp`, as printed.
    pub permissions: [u8; 4],
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Major and minor number of the device.
    pub device: (u32, u32),
    /// The inode.
    pub inode: u64,
    /// The path, or `[heap]` and the like, or nothing.
    pub name: String,
    /// What a line of a starting state may say beside that.
    pub hidden: Hidden,
}

/// What no line of /proc/PID/maps shows: `; rd wr mr mw me ac ; anon=own pgoff=5`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hidden {
    /// smaps' VmFlags.
    pub flags: Option<VmFlagNames>,
    /// The anon_vma.
    pub anon: Option<AnonOrigin>,
    /// The offset, in pages, that merging goes by.
    pub pgoff: Option<u64>,
}

/// Where a VMA's anon_vma comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnonOrigin {
    /// There is none: never written to.
    None,
    /// One of its own.
    Own,
    /// Inherited by fork; the same number is the same one.
    Inherited(u64),
}

/// Flags of smaps' VmFlags line by their two letters, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmFlagNames(pub Vec<[u8; 2]>);

impl VmFlagNames {
    /// Without `sd`, which says what was written since someone asked, and nothing about the VMA.
    #[must_use]
    pub fn without_soft_dirty(&self) -> Self {
        VmFlagNames(self.0.iter().copied().filter(|flag| flag != b"sd").collect())
    }
}

/// What came of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// It was done.
    Done,
    /// `SIGSEGV` with `SEGV_MAPERR`.
    MapErr,
    /// `SIGSEGV` with `SEGV_ACCERR`.
    AccErr,
    /// `SIGBUS` with `BUS_ADRERR`.
    BusErr,
}

impl Touched {
    /// What a trace calls an access that ends in this fault; `None` for a kill for want of memory, which it
    /// has no word for.
    #[must_use]
    pub fn by(fault: Fault) -> Option<Self> {
        match fault {
            Fault::NotMapped(_) => Some(Touched::MapErr),
            Fault::Denied(_) => Some(Touched::AccErr),
            Fault::NoBacking(_) | Fault::Poisoned(_) => Some(Touched::BusErr),
            Fault::OutOfMemory(_) => None,
        }
    }
}

/// rss_stat, in pages. What a line does not name is not compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rss {
    /// Anonymous pages.
    pub anon: Option<u64>,
    /// Pages of files.
    pub file: Option<u64>,
    /// Pages of shared memory.
    pub shmem: Option<u64>,
    /// Pages in swap.
    pub swap: Option<u64>,
}

/// What a descriptor refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// Another open of the file that this descriptor refers to.
    Same {
        /// That descriptor.
        fd: i32,
        /// How it is opened.
        mode: OpenMode,
    },
    /// A file of its own.
    New {
        /// What it is.
        kind: FileKind,
        /// Its length.
        pages: u64,
        /// How it is opened.
        mode: OpenMode,
        /// `F_SEAL_*`.
        seals: u64,
    },
    /// Nothing: it is closed.
    Closed,
}

/// What a descriptor refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A memfd.
    Memfd,
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A device.
    Device,
    /// A pipe.
    Pipe,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// `O_RDONLY`.
    Read,
    /// `O_WRONLY`.
    Write,
    /// `O_RDWR`.
    ReadWrite,
}

/// A change of userfaultfd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UffdChange {
    /// Registered for these faults.
    Register(UffdModes),
    /// No longer registered.
    Unregister,
}

bitflags::bitflags! {
    /// Faults that userfaultfd tells of.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct UffdModes: u8 {
        /// Of pages that are not there.
        const MISSING = 1;
        /// Of writes to pages it has protected.
        const WP = 2;
        /// Of pages that are in the page cache, but not mapped.
        const MINOR = 4;
    }
}

/// Whether a process has a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It has.
    Yes,
    /// It has not.
    No,
}
