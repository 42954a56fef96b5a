//! Names in the arguments of the calls that make and shape processes.

use super::{ChoiceSet, FlagSet, Layered, Names, names};

/// `prlimit64` and its kin.
pub const RLIMIT: ChoiceSet = ChoiceSet {
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

/// `prctl` options.
pub const PR: ChoiceSet = ChoiceSet {
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
        PR_SET_MEMORY_MERGE,
        PR_GET_MEMORY_MERGE,
        PR_SET_VMA,
    ],
};

/// `prctl(PR_SET_VMA, ...)`: what of a VMA.
pub const PR_SET_VMA: ChoiceSet =
    ChoiceSet { prefix: "PR_SET_VMA_", names: &[(0, "PR_SET_VMA_ANON_NAME")] };

/// `prctl(PR_SET_MDWE, ...)`.
pub const PR_MDWE: FlagSet = FlagSet {
    prefix: "PR_MDWE_",
    zero: None,
    names: &[(1, "PR_MDWE_REFUSE_EXEC_GAIN"), (2, "PR_MDWE_NO_INHERIT")],
    aliases: &[],
};

/// `prctl(PR_SET_MM, ...)`: what of the layout (include/uapi/linux/prctl.h).
pub const PR_SET_MM: ChoiceSet = ChoiceSet {
    prefix: "PR_SET_MM_",
    names: &[
        (1, "PR_SET_MM_START_CODE"),
        (2, "PR_SET_MM_END_CODE"),
        (3, "PR_SET_MM_START_DATA"),
        (4, "PR_SET_MM_END_DATA"),
        (5, "PR_SET_MM_START_STACK"),
        (6, "PR_SET_MM_START_BRK"),
        (7, "PR_SET_MM_BRK"),
        (8, "PR_SET_MM_ARG_START"),
        (9, "PR_SET_MM_ARG_END"),
        (10, "PR_SET_MM_ENV_START"),
        (11, "PR_SET_MM_ENV_END"),
        (12, "PR_SET_MM_AUXV"),
        (13, "PR_SET_MM_EXE_FILE"),
        (14, "PR_SET_MM_MAP"),
        (15, "PR_SET_MM_MAP_SIZE"),
    ],
};

/// `personality`: an execution domain in the lowest byte, and flags
/// (include/uapi/linux/personality.h).
pub const PERSONALITY: Layered = Layered {
    kind: Some((
        0xff,
        &ChoiceSet { prefix: "PER_", names: &[(0, "PER_LINUX"), (8, "PER_LINUX32")] },
    )),
    flags: &FlagSet {
        prefix: "PER_",
        zero: None,
        names: &[
            (0x002_0000, "UNAME26"),
            (0x004_0000, "ADDR_NO_RANDOMIZE"),
            (0x008_0000, "FDPIC_FUNCPTRS"),
            (0x010_0000, "MMAP_PAGE_ZERO"),
            (0x020_0000, "ADDR_COMPAT_LAYOUT"),
            (0x040_0000, "READ_IMPLIES_EXEC"),
            (0x080_0000, "ADDR_LIMIT_32BIT"),
            (0x100_0000, "SHORT_INODE"),
            (0x200_0000, "WHOLE_SECONDS"),
            (0x400_0000, "STICKY_TIMEOUTS"),
            (0x800_0000, "ADDR_LIMIT_3GB"),
        ],
        aliases: &[],
    },
    above: None,
};

/// `clone` and `clone3`, without the signal in clone's lowest byte.
pub const CLONE: FlagSet = FlagSet {
    prefix: "CLONE_",
    zero: None,
    names: &[
        (0x100, "CLONE_VM"),
        (0x200, "CLONE_FS"),
        (0x400, "CLONE_FILES"),
        (0x800, "CLONE_SIGHAND"),
        (0x1000, "CLONE_PIDFD"),
        (0x2000, "CLONE_PTRACE"),
        (0x4000, "CLONE_VFORK"),
        (0x8000, "CLONE_PARENT"),
        (0x1_0000, "CLONE_THREAD"),
        (0x2_0000, "CLONE_NEWNS"),
        (0x4_0000, "CLONE_SYSVSEM"),
        (0x8_0000, "CLONE_SETTLS"),
        (0x10_0000, "CLONE_PARENT_SETTID"),
        (0x20_0000, "CLONE_CHILD_CLEARTID"),
        (0x40_0000, "CLONE_DETACHED"),
        (0x80_0000, "CLONE_UNTRACED"),
        (0x100_0000, "CLONE_CHILD_SETTID"),
        (0x200_0000, "CLONE_NEWCGROUP"),
        (0x400_0000, "CLONE_NEWUTS"),
        (0x800_0000, "CLONE_NEWIPC"),
        (0x1000_0000, "CLONE_NEWUSER"),
        (0x2000_0000, "CLONE_NEWPID"),
        (0x4000_0000, "CLONE_NEWNET"),
        (0x8000_0000, "CLONE_IO"),
        (0x1_0000_0000, "CLONE_CLEAR_SIGHAND"),
        (0x2_0000_0000, "CLONE_INTO_CGROUP"),
    ],
    aliases: &[(0x80, "CLONE_NEWTIME")],
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
pub fn signal(number: u64) -> Option<String> {
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

/// A signal as an argument: `SIGCHLD`.
pub const SIGNAL: Signals = Signals;

/// The names of signals.
#[derive(Clone, Copy, Debug)]
pub struct Signals;

impl Names for Signals {
    fn text(&self, value: u64) -> String {
        signal(value).map_or_else(|| value.to_string(), |name| format!("SIG{name}"))
    }

    fn value(&self, name: &str) -> Option<u64> {
        let name = name.strip_prefix("SIG")?;
        (1..=64).find(|&number| signal(number).as_deref() == Some(name))
    }
}
