//! Names in the arguments of the memory calls: mmap(2) and its kin, memory policy, System V shared memory.

use nix::libc as c;

use super::{ChoiceSet, FlagSet, Layered, names};

/// `mmap`, `mprotect`: protection.
pub const PROT: FlagSet = FlagSet {
    prefix: "PROT_",
    zero: Some("PROT_NONE"),
    names: &[
        (c::PROT_READ as u64, "PROT_READ"),
        (c::PROT_WRITE as u64, "PROT_WRITE"),
        (c::PROT_EXEC as u64, "PROT_EXEC"),
        (0x8, "PROT_SEM"),
        (c::PROT_GROWSDOWN as u64, "PROT_GROWSDOWN"),
        (c::PROT_GROWSUP as u64, "PROT_GROWSUP"),
    ],
    aliases: &[],
};

/// `mmap`'s flags: the kind of mapping, flags, and the huge page's size as an exponent of two.
pub const MAP: Layered = Layered {
    kind: Some((0xf, &MAP_TYPE)),
    flags: &MAP_FLAGS,
    above: Some((26, "MAP_HUGE_SHIFT")),
};

const MAP_TYPE: ChoiceSet = ChoiceSet {
    prefix: "MAP_",
    names: &[
        (0, "MAP_FILE"),
        (c::MAP_SHARED as u64, "MAP_SHARED"),
        (c::MAP_PRIVATE as u64, "MAP_PRIVATE"),
        (c::MAP_SHARED_VALIDATE as u64, "MAP_SHARED_VALIDATE"),
        (0x8, "MAP_DROPPABLE"),
    ],
};

const MAP_FLAGS: FlagSet = FlagSet {
    prefix: "MAP_",
    zero: None,
    names: names![
        MAP_FIXED,
        MAP_ANONYMOUS,
        MAP_32BIT,
        MAP_NORESERVE,
        MAP_POPULATE,
        MAP_NONBLOCK,
        MAP_GROWSDOWN,
        MAP_DENYWRITE,
        MAP_EXECUTABLE,
        MAP_LOCKED,
        MAP_STACK,
        MAP_HUGETLB,
        MAP_SYNC,
        MAP_FIXED_NOREPLACE,
    ],
    aliases: &[
        (0x20, "MAP_ANON"),
        (16 << 26, "MAP_HUGE_64KB"),
        (19 << 26, "MAP_HUGE_512KB"),
        (20 << 26, "MAP_HUGE_1MB"),
        (21 << 26, "MAP_HUGE_2MB"),
        (30 << 26, "MAP_HUGE_1GB"),
        (0x400_0000, "MAP_UNINITIALIZED"),
    ],
};

/// `mremap`.
pub const MREMAP: FlagSet = FlagSet {
    prefix: "MREMAP_",
    zero: None,
    names: names![MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP],
    aliases: &[],
};

/// `madvise`, `process_madvise`.
pub const MADV: ChoiceSet = ChoiceSet {
    prefix: "MADV_",
    names: &[
        (0, "MADV_NORMAL"),
        (1, "MADV_RANDOM"),
        (2, "MADV_SEQUENTIAL"),
        (3, "MADV_WILLNEED"),
        (4, "MADV_DONTNEED"),
        (8, "MADV_FREE"),
        (9, "MADV_REMOVE"),
        (10, "MADV_DONTFORK"),
        (11, "MADV_DOFORK"),
        (12, "MADV_MERGEABLE"),
        (13, "MADV_UNMERGEABLE"),
        (14, "MADV_HUGEPAGE"),
        (15, "MADV_NOHUGEPAGE"),
        (16, "MADV_DONTDUMP"),
        (17, "MADV_DODUMP"),
        (18, "MADV_WIPEONFORK"),
        (19, "MADV_KEEPONFORK"),
        (20, "MADV_COLD"),
        (21, "MADV_PAGEOUT"),
        (22, "MADV_POPULATE_READ"),
        (23, "MADV_POPULATE_WRITE"),
        (24, "MADV_DONTNEED_LOCKED"),
        (25, "MADV_COLLAPSE"),
        (100, "MADV_HWPOISON"),
        (101, "MADV_SOFT_OFFLINE"),
        (102, "MADV_GUARD_INSTALL"),
        (103, "MADV_GUARD_REMOVE"),
    ],
};

/// `msync`.
pub const MS: FlagSet = FlagSet {
    prefix: "MS_",
    zero: None,
    names: names![MS_SYNC, MS_ASYNC, MS_INVALIDATE],
    aliases: &[],
};

/// `mlock2`.
pub const MLOCK: FlagSet = FlagSet {
    prefix: "MLOCK_",
    zero: None,
    names: &[(c::MLOCK_ONFAULT as u64, "MLOCK_ONFAULT")],
    aliases: &[],
};

/// `mlockall`.
pub const MCL: FlagSet = FlagSet {
    prefix: "MCL_",
    zero: None,
    names: names![MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT],
    aliases: &[],
};

/// `mbind`, `set_mempolicy`, `get_mempolicy`: a policy (include/uapi/linux/mempolicy.h).
pub const MPOL: Layered = Layered {
    kind: Some((!0xe000, &MPOL_MODE)),
    flags: &FlagSet {
        prefix: "MPOL_F_",
        zero: None,
        names: &[
            (0x8000, "MPOL_F_STATIC_NODES"),
            (0x4000, "MPOL_F_RELATIVE_NODES"),
            (0x2000, "MPOL_F_NUMA_BALANCING"),
        ],
        aliases: &[],
    },
    above: None,
};

const MPOL_MODE: ChoiceSet = ChoiceSet {
    prefix: "MPOL_",
    names: &[
        (0, "MPOL_DEFAULT"),
        (1, "MPOL_PREFERRED"),
        (2, "MPOL_BIND"),
        (3, "MPOL_INTERLEAVE"),
        (4, "MPOL_LOCAL"),
        (5, "MPOL_PREFERRED_MANY"),
        (6, "MPOL_WEIGHTED_INTERLEAVE"),
    ],
};

/// `mbind`'s flags.
pub const MPOL_MF: FlagSet = FlagSet {
    prefix: "MPOL_MF_",
    zero: None,
    names: &[(1, "MPOL_MF_STRICT"), (2, "MPOL_MF_MOVE"), (4, "MPOL_MF_MOVE_ALL")],
    aliases: &[],
};

/// `get_mempolicy`'s flags.
pub const MPOL_F: FlagSet = FlagSet {
    prefix: "MPOL_F_",
    zero: None,
    names: &[(1, "MPOL_F_NODE"), (2, "MPOL_F_ADDR"), (4, "MPOL_F_MEMS_ALLOWED")],
    aliases: &[],
};

/// `shmget`'s flags, without the permissions in the lowest nine bits.
pub const SHMGET: FlagSet = FlagSet {
    prefix: "IPC_",
    zero: None,
    names: names![IPC_CREAT, IPC_EXCL, SHM_HUGETLB, SHM_NORESERVE],
    aliases: &[(21 << 26, "SHM_HUGE_2MB"), (30 << 26, "SHM_HUGE_1GB"), (26, "SHM_HUGE_SHIFT")],
};

/// `shmat`'s flags.
pub const SHMAT: FlagSet = FlagSet {
    prefix: "SHM_",
    zero: None,
    names: names![SHM_RDONLY, SHM_RND, SHM_REMAP, SHM_EXEC],
    aliases: &[],
};

/// `shmctl`'s commands.
pub const IPC: ChoiceSet = ChoiceSet {
    prefix: "SHM_",
    names: &[
        (0, "IPC_RMID"),
        (1, "IPC_SET"),
        (2, "IPC_STAT"),
        (3, "IPC_INFO"),
        (11, "SHM_LOCK"),
        (12, "SHM_UNLOCK"),
        (13, "SHM_STAT"),
        (14, "SHM_INFO"),
        (15, "SHM_STAT_ANY"),
    ],
};
