//! How much of each system call is served: the table in `CALLS.md`, which `mmvisor calls` prints.
//!
//! ```text
//!   handler (this module's parent), mm::calls ── has it? ──┬─ no ──> Extent::Refused
//!                                                          └─ yes ── lacking(call) ──┬─ Some ──> Extent::Partly
//!                                                                                    └─ None ──> Extent::Whole
//! ```
//!
//! Whether a call is served nobody writes down: the dispatchers are asked. So a new call needs its line in the dispatcher
//! and, if something of it is missing, one line in [`lacking`]; then `make CALLS.md`. What is served for some descriptors
//! or options only is said in words there. Tests compare the file, and refuse words on a call that is not served.

use std::fmt;

use syscalls::Sysno;

use super::{handler, table};

/// How much of a call is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// All of it.
    Whole,
    /// All but this.
    Partly(&'static str),
    /// Nothing: it answers `ENOSYS`.
    Refused,
    /// Likewise, as it does on Linux 6.18, which has its number and no such call.
    NotLinuxs,
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Extent::Whole => f.write_str("yes"),
            Extent::Partly(lacking) => write!(f, "partly: {lacking}"),
            Extent::Refused => f.write_str("no: `ENOSYS`"),
            Extent::NotLinuxs => f.write_str("no: `ENOSYS`, as on Linux"),
        }
    }
}

/// How much of the call with this number is served.
#[must_use]
pub fn extent(number: u64) -> Extent {
    let call = usize::try_from(number).ok().and_then(Sysno::new);
    if handler(number).is_none() && !mm::calls::serves(number) {
        return match call {
            Some(call) if is_only_a_number(call) => Extent::NotLinuxs,
            _ => Extent::Refused,
        };
    }
    call.and_then(lacking).map_or(Extent::Whole, Extent::Partly)
}

/// What of a call that is served is not.
fn lacking(call: Sysno) -> Option<&'static str> {
    Some(match call {
        Sysno::clone => {
            "no threads (`CLONE_THREAD`), no `CLONE_PIDFD`: `ENOSYS`; no namespaces: `EPERM`"
        }
        Sysno::clone3 => "as clone; no chosen numbers, no `CLONE_INTO_CGROUP`: `ENOSYS`",
        Sysno::preadv2 | Sysno::pwritev2 => {
            "no flags but `RWF_HIPRI`, `RWF_DSYNC`, `RWF_SYNC`: `EOPNOTSUPP`"
        }
        Sysno::close_range => "no `CLOSE_RANGE_UNSHARE` of descriptors that are shared: `ENOSYS`",
        Sysno::fcntl => "duplicates, flags, seals, sizes of pipes; locks, leases, owners: `EINVAL`",
        Sysno::ioctl => {
            "`TCGETS`, `TIOCGWINSZ`, `FIONREAD`, `FIONBIO` of streams; all of a \
             userfaultfd and of `/dev/userfaultfd`; of `/proc` `PROCMAP_QUERY` and `PAGEMAP_SCAN`; others: `ENOTTY`"
        }
        Sysno::mknod | Sysno::mknodat => "regular files; devices, pipes and sockets: `EPERM`",
        Sysno::renameat2 => "no `RENAME_WHITEOUT`: `EINVAL`",
        Sysno::socketpair => "`AF_UNIX`",
        Sysno::shutdown => "of pairs of sockets",
        Sysno::fallocate => "no zeroed, collapsed or inserted ranges: `EOPNOTSUPP`",
        Sysno::prctl => {
            "names, dumpable, credentials, and what is about memory; of `PR_SET_MM` no other executable: `EACCES`; others: `EINVAL`"
        }
        Sysno::arch_prctl => "the bases of FS and GS; others: `EINVAL`",
        Sysno::userfaultfd => "not of huge pages of the pool",
        Sysno::futex => {
            "waiting, waking, requeueing; no `FUTEX_WAKE_OP`, none for priority inheritance: `ENOSYS`"
        }
        Sysno::pkey_mprotect => "no key but -1 and 0: there are none",
        Sysno::set_robust_list => "taken and forgotten: there are no threads",
        Sysno::sched_yield => "of the vCPU's thread",
        Sysno::sched_setscheduler => "kept and told; for real time: `EPERM`",
        Sysno::membarrier => "none for restartable sequences: `EINVAL`",
        Sysno::uname | Sysno::sysinfo => "the guest's, some of it constant",
        Sysno::clock_gettime | Sysno::clock_getres => {
            "the host's clocks; no `CLOCK_TAI`, none of alarms, none of a descriptor: `EINVAL`"
        }
        _ => return None,
    })
}

/// Whether Linux has no more than the number on x86-64.
fn is_only_a_number(call: Sysno) -> bool {
    matches!(
        call,
        Sysno::uselib
            | Sysno::_sysctl
            | Sysno::create_module
            | Sysno::get_kernel_syms
            | Sysno::query_module
            | Sysno::nfsservctl
            | Sysno::getpmsg
            | Sysno::putpmsg
            | Sysno::afs_syscall
            | Sysno::tuxcall
            | Sysno::security
            | Sysno::set_thread_area
            | Sysno::get_thread_area
            | Sysno::lookup_dcookie
            | Sysno::epoll_ctl_old
            | Sysno::epoll_wait_old
            | Sysno::vserver
    )
}

/// Every call that has a number, mmvisor's own included.
fn numbers() -> impl Iterator<Item = u64> {
    let linuxs = Sysno::iter().map(|call| call.id().unsigned_abs().into());
    linuxs.chain([guest::abi::CALL_RECOVER, guest::abi::CALL_MAPS])
}

/// The table of all calls, as Markdown.
#[must_use]
pub fn calls_table() -> String {
    let mut text = "# System calls\n\n\
         Made by `mmvisor calls` from what serves them (`make CALLS.md`). What is served answers with Linux 6.18's values,\n\
         errors and order of errors; the rest answers `ENOSYS`.\n\n\
         | number | call | served |\n|---:|---|---|\n"
        .to_owned();
    for number in numbers() {
        let name = table::name(number).unwrap_or("?");
        text += &format!("| {number} | {name} | {} |\n", extent(number));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_what_the_dispatcher_says() {
        let file = include_str!("../../../CALLS.md");
        let made = calls_table();
        let differs = made.lines().zip(file.lines()).find(|(made, file)| made != file);
        assert_eq!(differs, None, "`make CALLS.md` makes the file anew");
        assert_eq!(made, file, "`make CALLS.md` makes the file anew");
    }

    #[test]
    fn nothing_is_said_of_a_call_that_is_not_served() {
        for call in Sysno::iter().filter(|&call| lacking(call).is_some() || is_only_a_number(call))
        {
            let served = !matches!(
                extent(call.id().unsigned_abs().into()),
                Extent::Refused | Extent::NotLinuxs
            );
            assert_eq!(served, !is_only_a_number(call), "{}", call.name());
        }
    }

    #[test]
    fn a_call_of_each_kind() {
        let of = |call: Sysno| extent(call.id().unsigned_abs().into());
        assert_eq!(of(Sysno::read), Extent::Whole);
        assert_eq!(of(Sysno::mmap), Extent::Whole);
        assert!(matches!(of(Sysno::clone), Extent::Partly(_)));
        assert_eq!(of(Sysno::init_module), Extent::Refused);
        assert_eq!(of(Sysno::tuxcall), Extent::NotLinuxs);
    }
}
