//! The names that strace gives to numbers: flags that are or-ed, and values of which one is chosen.
//! The order in a set is the order in which strace prints.

use nix::libc as c;

/// Names for the bits of an argument.
#[derive(Debug)]
pub(crate) struct FlagSet {
    /// What the names begin with, for `/* MAP_??? */`.
    pub(crate) prefix: &'static str,
    /// What zero is called; else it is `0`.
    pub(crate) zero: Option<&'static str>,
    /// Bits and their names. One of several bits stands before those that are part of it.
    pub(crate) names: &'static [(u64, &'static str)],
}

/// Names for the values of an argument.
#[derive(Debug)]
pub(crate) struct ChoiceSet {
    /// What the names begin with, for `/* MADV_??? */`.
    pub(crate) prefix: &'static str,
    /// Values and their names.
    pub(crate) names: &'static [(u64, &'static str)],
}

impl FlagSet {
    /// The flags of `value`, as strace prints them: `PROT_READ|0x100`, `0x10 /* PROT_??? */`.
    #[must_use]
    pub(crate) fn text(&self, value: u64) -> String {
        let (mut names, rest) = self.split(value);
        if names.is_empty() {
            return match self.zero {
                Some(zero) if rest == 0 => zero.to_owned(),
                _ if rest == 0 => "0".to_owned(),
                _ => format!("{rest:#x} /* {}??? */", self.prefix),
            };
        }
        if rest != 0 {
            names.push(format!("{rest:#x}"));
        }
        names.join("|")
    }

    /// The names of the known bits, and the unknown bits.
    pub(crate) fn split(&self, value: u64) -> (Vec<String>, u64) {
        let mut rest = value;
        let mut names = Vec::new();
        for &(bits, name) in self.names {
            if rest & bits == bits {
                rest &= !bits;
                names.push(name.to_owned());
            }
        }
        (names, rest)
    }
}

impl ChoiceSet {
    /// The name of `value`, or `0x5 /* MADV_??? */`.
    #[must_use]
    pub(crate) fn text(&self, value: u64) -> String {
        match self.names.iter().find(|(v, _)| *v == value) {
            Some((_, name)) => (*name).to_owned(),
            None => format!("{value:#x} /* {}??? */", self.prefix),
        }
    }
}

/// Pairs of a constant's value and its name.
macro_rules! names {
    ($($name:ident),* $(,)?) => { &[$((c::$name as u64, stringify!($name))),*] };
}

/// `mmap`, `mprotect`: protection.
pub(crate) const PROT: FlagSet = FlagSet {
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
};

/// `mmap`: the kind of mapping, in the lowest four bits.
pub(crate) const MAP_TYPE: ChoiceSet = ChoiceSet {
    prefix: "MAP_",
    names: &[
        (0, "MAP_FILE"),
        (c::MAP_SHARED as u64, "MAP_SHARED"),
        (c::MAP_PRIVATE as u64, "MAP_PRIVATE"),
        (c::MAP_SHARED_VALIDATE as u64, "MAP_SHARED_VALIDATE"),
        (0x8, "MAP_DROPPABLE"),
    ],
};

/// `mmap`: the flags beside the kind and the huge-page size.
pub(crate) const MAP: FlagSet = FlagSet {
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
};

/// `mremap`.
pub(crate) const MREMAP: FlagSet = FlagSet {
    prefix: "MREMAP_",
    zero: None,
    names: names![MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP],
};

/// `madvise`.
pub(crate) const MADV: ChoiceSet = ChoiceSet {
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
pub(crate) const MS: FlagSet =
    FlagSet { prefix: "MS_", zero: None, names: names![MS_SYNC, MS_ASYNC, MS_INVALIDATE] };

/// `mlock2`.
pub(crate) const MLOCK: FlagSet =
    FlagSet { prefix: "MLOCK_", zero: None, names: &[(c::MLOCK_ONFAULT as u64, "MLOCK_ONFAULT")] };

/// `mlockall`.
pub(crate) const MCL: FlagSet =
    FlagSet { prefix: "MCL_", zero: None, names: names![MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT] };

/// `memfd_create`, without the huge-page size.
pub(crate) const MFD: FlagSet = FlagSet {
    prefix: "MFD_",
    zero: None,
    names: names![MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_HUGETLB, MFD_NOEXEC_SEAL, MFD_EXEC],
};

/// `open`: how, in the lowest two bits.
pub(crate) const O_ACCESS: ChoiceSet =
    ChoiceSet { prefix: "O_", names: names![O_RDONLY, O_WRONLY, O_RDWR, O_ACCMODE] };

/// `open`: the other flags.
pub(crate) const O: FlagSet = FlagSet {
    prefix: "O_",
    zero: None,
    names: &[
        (c::O_CREAT as u64, "O_CREAT"),
        (c::O_EXCL as u64, "O_EXCL"),
        (c::O_NOCTTY as u64, "O_NOCTTY"),
        (c::O_TRUNC as u64, "O_TRUNC"),
        (c::O_APPEND as u64, "O_APPEND"),
        (c::O_NONBLOCK as u64, "O_NONBLOCK"),
        (c::O_SYNC as u64, "O_SYNC"),
        (c::O_DSYNC as u64, "O_DSYNC"),
        (c::O_DIRECT as u64, "O_DIRECT"),
        // libc has 0 here, because every open of a 64-bit program is large.
        (0o100_000, "O_LARGEFILE"),
        (c::O_NOFOLLOW as u64, "O_NOFOLLOW"),
        (c::O_NOATIME as u64, "O_NOATIME"),
        (c::O_CLOEXEC as u64, "O_CLOEXEC"),
        (c::O_PATH as u64, "O_PATH"),
        (c::O_TMPFILE as u64, "O_TMPFILE"),
        (c::O_DIRECTORY as u64, "O_DIRECTORY"),
        (0o20_000_000, "__O_TMPFILE"),
        (c::O_ASYNC as u64, "FASYNC"),
    ],
};

/// `pipe2`, `dup3`.
pub(crate) const O_DESCRIPTOR: FlagSet =
    FlagSet { prefix: "O_", zero: None, names: names![O_NONBLOCK, O_DIRECT, O_CLOEXEC] };

/// `newfstatat`, `faccessat2` and the like.
pub(crate) const AT: FlagSet = FlagSet {
    prefix: "AT_",
    zero: None,
    names: names![
        AT_SYMLINK_NOFOLLOW,
        AT_REMOVEDIR,
        AT_SYMLINK_FOLLOW,
        AT_NO_AUTOMOUNT,
        AT_EMPTY_PATH,
    ],
};

/// `access`.
pub(crate) const ACCESS: FlagSet =
    FlagSet { prefix: "?_OK", zero: Some("F_OK"), names: names![R_OK, W_OK, X_OK] };

/// `lseek`.
pub(crate) const SEEK: ChoiceSet = ChoiceSet {
    prefix: "SEEK_",
    names: names![SEEK_SET, SEEK_CUR, SEEK_END, SEEK_DATA, SEEK_HOLE],
};

/// `getrandom`.
pub(crate) const GRND: FlagSet = FlagSet {
    prefix: "GRND_",
    zero: None,
    names: names![GRND_NONBLOCK, GRND_RANDOM, GRND_INSECURE],
};

/// `prlimit64` and its kin.
pub(crate) const RLIMIT: ChoiceSet = ChoiceSet {
    prefix: "RLIMIT_",
    names: names![
        RLIMIT_CPU,
        RLIMIT_FSIZE,
        RLIMIT_DATA,
        RLIMIT_STACK,
        RLIMIT_CORE,
        RLIMIT_RSS,
        RLIMIT_NPROC,
        RLIMIT_NOFILE,
        RLIMIT_MEMLOCK,
        RLIMIT_AS,
        RLIMIT_LOCKS,
        RLIMIT_SIGPENDING,
        RLIMIT_MSGQUEUE,
        RLIMIT_NICE,
        RLIMIT_RTPRIO,
        RLIMIT_RTTIME,
    ],
};

/// `clock_gettime` and its kin.
pub(crate) const CLOCK: ChoiceSet = ChoiceSet {
    prefix: "CLOCK_",
    names: names![
        CLOCK_REALTIME,
        CLOCK_MONOTONIC,
        CLOCK_PROCESS_CPUTIME_ID,
        CLOCK_THREAD_CPUTIME_ID,
        CLOCK_MONOTONIC_RAW,
        CLOCK_REALTIME_COARSE,
        CLOCK_MONOTONIC_COARSE,
        CLOCK_BOOTTIME,
        CLOCK_REALTIME_ALARM,
        CLOCK_BOOTTIME_ALARM,
        CLOCK_TAI,
    ],
};

/// `arch_prctl` (arch/x86/include/uapi/asm/prctl.h).
pub(crate) const ARCH: ChoiceSet = ChoiceSet {
    prefix: "ARCH_",
    names: &[
        (0x1001, "ARCH_SET_GS"),
        (0x1002, "ARCH_SET_FS"),
        (0x1003, "ARCH_GET_FS"),
        (0x1004, "ARCH_GET_GS"),
        (0x1011, "ARCH_GET_CPUID"),
        (0x1012, "ARCH_SET_CPUID"),
    ],
};

/// `rt_sigprocmask`.
pub(crate) const SIGMASK: ChoiceSet =
    ChoiceSet { prefix: "SIG_", names: names![SIG_BLOCK, SIG_UNBLOCK, SIG_SETMASK] };

/// `rt_sigaction`'s `sa_flags`.
pub(crate) const SA: FlagSet = FlagSet {
    prefix: "SA_",
    zero: None,
    names: &[
        (0x0400_0000, "SA_RESTORER"),
        (c::SA_ONSTACK as u64, "SA_ONSTACK"),
        (c::SA_RESTART as u64, "SA_RESTART"),
        (c::SA_NODEFER as u64, "SA_NODEFER"),
        (0x8000_0000, "SA_RESETHAND"),
        (c::SA_SIGINFO as u64, "SA_SIGINFO"),
        (c::SA_NOCLDSTOP as u64, "SA_NOCLDSTOP"),
        (c::SA_NOCLDWAIT as u64, "SA_NOCLDWAIT"),
    ],
};

/// `ioctl` requests of terminals and pipes.
pub(crate) const IOCTL: ChoiceSet = ChoiceSet {
    prefix: "",
    names: names![
        TCGETS, TCSETS, TCSETSW, TCSETSF, TIOCGWINSZ, TIOCSWINSZ, TIOCGPGRP, TIOCSPGRP, FIONREAD,
        FIONBIO
    ],
};

/// `fcntl` commands.
pub(crate) const FCNTL: ChoiceSet = ChoiceSet {
    prefix: "F_",
    names: names![
        F_DUPFD,
        F_GETFD,
        F_SETFD,
        F_GETFL,
        F_SETFL,
        F_GETLK,
        F_SETLK,
        F_SETLKW,
        F_SETOWN,
        F_GETOWN,
        F_DUPFD_CLOEXEC,
        F_SETPIPE_SZ,
        F_GETPIPE_SZ,
        F_ADD_SEALS,
        F_GET_SEALS,
    ],
};

/// `futex` operations, without the flags PRIVATE (128) and CLOCK_REALTIME (256).
pub(crate) const FUTEX: ChoiceSet = ChoiceSet {
    prefix: "FUTEX_",
    names: names![
        FUTEX_WAIT,
        FUTEX_WAKE,
        FUTEX_FD,
        FUTEX_REQUEUE,
        FUTEX_CMP_REQUEUE,
        FUTEX_WAKE_OP,
        FUTEX_LOCK_PI,
        FUTEX_UNLOCK_PI,
        FUTEX_TRYLOCK_PI,
        FUTEX_WAIT_BITSET,
        FUTEX_WAKE_BITSET,
    ],
};

/// `prctl` options.
pub(crate) const PR: ChoiceSet = ChoiceSet {
    prefix: "PR_",
    names: names![
        PR_SET_PDEATHSIG,
        PR_GET_PDEATHSIG,
        PR_GET_DUMPABLE,
        PR_SET_DUMPABLE,
        PR_SET_NAME,
        PR_GET_NAME,
        PR_GET_SECCOMP,
        PR_SET_SECCOMP,
        PR_SET_MM,
        PR_SET_NO_NEW_PRIVS,
        PR_GET_NO_NEW_PRIVS,
        PR_SET_THP_DISABLE,
        PR_GET_THP_DISABLE,
        PR_SET_MDWE,
        PR_GET_MDWE,
        PR_SET_VMA,
    ],
};

/// `S_IFMT` of `st_mode`.
pub(crate) const FILE_TYPE: ChoiceSet = ChoiceSet {
    prefix: "S_IF",
    names: names![S_IFSOCK, S_IFLNK, S_IFREG, S_IFBLK, S_IFDIR, S_IFCHR, S_IFIFO],
};

/// Signals 1 to 31, without `SIG`.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// A signal's name without `SIG`, as in a set: `INT`, `RTMIN`, `RT_8`. `None` where there is no such
/// signal.
#[must_use]
pub(crate) fn signal(number: u64) -> Option<String> {
    match number {
        1..=31 => {
            let index = usize::try_from(number - 1).ok()?;
            SIGNALS.get(index).map(|name| (*name).to_owned())
        }
        32 => Some("RTMIN".to_owned()),
        33..=64 => Some(format!("RT_{}", number - 32)),
        _ => None,
    }
}
