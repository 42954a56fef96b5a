//! Names in the arguments of the calls that are no memory calls; those are in `mm`, which reads and
//! writes traces. The order in a set is the order in which strace prints.

use mm::calls::{
    UFFDIO_API, UFFDIO_CONTINUE, UFFDIO_COPY, UFFDIO_MOVE, UFFDIO_POISON, UFFDIO_REGISTER,
    UFFDIO_UNREGISTER, UFFDIO_WAKE, UFFDIO_WRITEPROTECT, UFFDIO_ZEROPAGE, USERFAULTFD_IOC_NEW,
};
pub(crate) use mm::replay::names::*;
use nix::libc as c;

use super::process::{ARCH_GET_FS, ARCH_GET_GS, ARCH_SET_FS, ARCH_SET_GS};

/// Pairs of a constant's value and its name.
macro_rules! names {
    ($($name:ident),* $(,)?) => { &[$((c::$name as u64, stringify!($name))),*] };
}

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
    aliases: &[],
};

/// `access`.
pub(crate) const ACCESS: FlagSet =
    FlagSet { prefix: "?_OK", zero: Some("F_OK"), names: names![R_OK, W_OK, X_OK], aliases: &[] };

/// `lseek`.
pub(crate) const SEEK: ChoiceSet = ChoiceSet {
    prefix: "SEEK_",
    names: names![SEEK_SET, SEEK_CUR, SEEK_END, SEEK_DATA, SEEK_HOLE],
};

/// `socketpair`'s family.
pub(crate) const AF: ChoiceSet =
    ChoiceSet { prefix: "AF_", names: names![AF_UNIX, AF_INET, AF_INET6] };

/// `shutdown`.
pub(crate) const SHUT: ChoiceSet =
    ChoiceSet { prefix: "SHUT_", names: names![SHUT_RD, SHUT_WR, SHUT_RDWR] };

/// `fallocate`.
pub(crate) const FALLOC: FlagSet = FlagSet {
    prefix: "FALLOC_FL_",
    zero: None,
    names: names![
        FALLOC_FL_KEEP_SIZE,
        FALLOC_FL_PUNCH_HOLE,
        FALLOC_FL_COLLAPSE_RANGE,
        FALLOC_FL_ZERO_RANGE,
        FALLOC_FL_INSERT_RANGE,
        FALLOC_FL_UNSHARE_RANGE,
    ],
    aliases: &[],
};

/// `wait4`'s and `waitid`'s options. `WSTOPPED` is `WUNTRACED`'s other name.
pub(crate) const WAIT: FlagSet = FlagSet {
    prefix: "W",
    zero: None,
    names: &[
        (c::WNOHANG as u64, "WNOHANG"),
        (c::WSTOPPED as u64, "WSTOPPED"),
        (c::WEXITED as u64, "WEXITED"),
        (c::WCONTINUED as u64, "WCONTINUED"),
        (c::WNOWAIT as u64, "WNOWAIT"),
        (0x2000_0000, "__WNOTHREAD"),
        (0x4000_0000, "__WALL"),
        (0x8000_0000, "__WCLONE"),
    ],
    aliases: &[],
};

/// `waitid`'s first argument.
pub(crate) const P: ChoiceSet =
    ChoiceSet { prefix: "P_", names: names![P_ALL, P_PID, P_PGID, P_PIDFD] };

/// `getrandom`.
pub(crate) const GRND: FlagSet = FlagSet {
    prefix: "GRND_",
    zero: None,
    names: names![GRND_NONBLOCK, GRND_RANDOM, GRND_INSECURE],
    aliases: &[],
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

/// `arch_prctl`.
pub(crate) const ARCH: ChoiceSet = ChoiceSet {
    prefix: "ARCH_",
    names: &[
        (ARCH_SET_GS, "ARCH_SET_GS"),
        (ARCH_SET_FS, "ARCH_SET_FS"),
        (ARCH_GET_FS, "ARCH_GET_FS"),
        (ARCH_GET_GS, "ARCH_GET_GS"),
        (0x1011, "ARCH_GET_CPUID"),
        (0x1012, "ARCH_SET_CPUID"),
    ],
};

/// `setitimer` and `getitimer`.
pub(crate) const ITIMER: ChoiceSet = ChoiceSet {
    prefix: "ITIMER_",
    names: &[(0, "ITIMER_REAL"), (1, "ITIMER_VIRTUAL"), (2, "ITIMER_PROF")],
};

/// `sigaltstack`'s `ss_flags`.
pub(crate) const SS: FlagSet = FlagSet {
    prefix: "SS_",
    zero: Some("0"),
    names: &[(1, "SS_ONSTACK"), (2, "SS_DISABLE"), (0x8000_0000, "SS_AUTODISARM")],
    aliases: &[],
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
    aliases: &[],
};

/// `ioctl` requests of terminals, pipes and userfaultfds.
pub(crate) const IOCTL: ChoiceSet = ChoiceSet {
    prefix: "",
    names: &[
        (c::TCGETS, "TCGETS"),
        (c::TCSETS, "TCSETS"),
        (c::TCSETSW, "TCSETSW"),
        (c::TCSETSF, "TCSETSF"),
        (c::TIOCGWINSZ, "TIOCGWINSZ"),
        (c::TIOCSWINSZ, "TIOCSWINSZ"),
        (c::TIOCGPGRP, "TIOCGPGRP"),
        (c::TIOCSPGRP, "TIOCSPGRP"),
        (c::FIONREAD, "FIONREAD"),
        (c::FIONBIO, "FIONBIO"),
        (USERFAULTFD_IOC_NEW, "USERFAULTFD_IOC_NEW"),
        (UFFDIO_API, "UFFDIO_API"),
        (UFFDIO_REGISTER, "UFFDIO_REGISTER"),
        (UFFDIO_UNREGISTER, "UFFDIO_UNREGISTER"),
        (UFFDIO_WAKE, "UFFDIO_WAKE"),
        (UFFDIO_COPY, "UFFDIO_COPY"),
        (UFFDIO_ZEROPAGE, "UFFDIO_ZEROPAGE"),
        (UFFDIO_MOVE, "UFFDIO_MOVE"),
        (UFFDIO_WRITEPROTECT, "UFFDIO_WRITEPROTECT"),
        (UFFDIO_CONTINUE, "UFFDIO_CONTINUE"),
        (UFFDIO_POISON, "UFFDIO_POISON"),
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

/// `S_IFMT` of `st_mode`.
pub(crate) const FILE_TYPE: ChoiceSet = ChoiceSet {
    prefix: "S_IF",
    names: names![S_IFSOCK, S_IFLNK, S_IFREG, S_IFBLK, S_IFDIR, S_IFCHR, S_IFIFO],
};
