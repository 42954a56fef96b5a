//! Names in the arguments of the calls that open files which memory calls then map.

use nix::libc as c;

use super::{ChoiceSet, FlagSet, Layered, names};

/// `memfd_create`: flags, and the huge page's size as an exponent of two.
pub const MFD: Layered = Layered {
    kind: None,
    flags: &FlagSet {
        prefix: "MFD_",
        zero: None,
        names: names![MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_HUGETLB, MFD_NOEXEC_SEAL, MFD_EXEC],
        aliases: &[],
    },
    above: Some((26, "MFD_HUGE_SHIFT")),
};

/// `open`'s flags: how in the lowest two bits, and the others.
pub const OPEN: Layered = Layered { kind: Some((3, &O_ACCESS)), flags: &O, above: None };

const O_ACCESS: ChoiceSet =
    ChoiceSet { prefix: "O_", names: names![O_RDONLY, O_WRONLY, O_RDWR, O_ACCMODE] };

/// Whether `open`'s flags give its mode a meaning.
#[must_use]
pub fn makes_file(open_flags: u64) -> bool {
    /// What `O_TMPFILE` has beside `O_DIRECTORY`; libc has no name for it.
    const __O_TMPFILE: u64 = (c::O_TMPFILE & !c::O_DIRECTORY) as u64;
    open_flags & (c::O_CREAT as u64 | __O_TMPFILE) != 0
}

/// `open`: the other flags.
pub const O: FlagSet = FlagSet {
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
    aliases: &[(c::O_ASYNC as u64, "O_ASYNC")],
};

/// `pipe2`, `dup3`.
pub const O_DESCRIPTOR: FlagSet = FlagSet {
    prefix: "O_",
    zero: None,
    names: names![O_NONBLOCK, O_DIRECT, O_CLOEXEC],
    aliases: &[],
};

/// `userfaultfd`.
pub const UFFD: FlagSet = FlagSet {
    prefix: "UFFD_",
    zero: None,
    names: &[
        (1, "UFFD_USER_MODE_ONLY"),
        (c::O_NONBLOCK as u64, "O_NONBLOCK"),
        (c::O_CLOEXEC as u64, "O_CLOEXEC"),
    ],
    aliases: &[],
};

/// `fcntl` commands.
pub const FCNTL: ChoiceSet = ChoiceSet {
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

/// Seals of a memfd.
pub const F_SEAL: FlagSet = FlagSet {
    prefix: "F_SEAL_",
    zero: None,
    names: names![
        F_SEAL_SEAL,
        F_SEAL_SHRINK,
        F_SEAL_GROW,
        F_SEAL_WRITE,
        F_SEAL_FUTURE_WRITE,
        F_SEAL_EXEC,
    ],
    aliases: &[],
};
