//! Every Linux x86-64 system call by number, and what the arguments of those mean that a static
//! program and its C library make. Data only: serving is in the families' files, printing in
//! `decode`.

use guest::abi;
use syscalls::Sysno;

use super::flags::{self, Names};

/// What an argument is, for printing and for counting.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arg {
    /// An address that is not looked behind.
    Address,
    /// A number of bytes or things, unsigned, 64 bits.
    Size,
    /// A number printed as C's `%#x`: file offsets of `mmap`, opaque values.
    Hex,
    /// `int`.
    Int,
    /// `long`, `off_t`.
    Long,
    /// `unsigned int`.
    Unsigned,
    /// A file descriptor.
    Fd,
    /// A file descriptor of a directory, or `AT_FDCWD`.
    DirFd,
    /// File permissions, in octal.
    Mode,
    /// File permissions that count only if the flags before say that a file is made.
    CreateMode,
    /// Flags in 64 bits.
    Flags64(&'static dyn Names),
    /// Flags in 32 bits.
    Flags(&'static dyn Names),
    /// One of several values, 32 bits.
    Choice(&'static dyn Names),
    /// `mremap`'s new address, which counts only with `MREMAP_MAYMOVE|MREMAP_FIXED` before it.
    FixedAddress,
    /// `futex`'s operation.
    FutexOp,
    /// `futex`'s fourth to sixth argument, of which the operation decides which count.
    FutexTail,
    /// `fcntl`'s third argument, which counts only for some commands.
    FcntlValue,
    /// `ioctl`'s request.
    Request,
    /// A signal's number.
    Signal,
    /// A path: bytes up to a null, printed whole.
    Path,
    /// A text: bytes up to a null, printed up to 32.
    Text,
    /// Bytes the program passes; the next argument is how many.
    BytesIn,
    /// A path, written.
    PathOut,
    /// `mincore`'s vector, written: a byte for each page of the length before it.
    ResidentOut,
    /// Bytes the call writes, as many as it returns.
    BytesOut,
    /// The same, printed in hexadecimal because they are random.
    RandomOut,
    /// `struct iovec[]` whose bytes the program passes; the next argument is how many.
    VectorIn,
    /// `struct iovec[]` whose bytes the call writes; the next argument is how many.
    VectorOut,
    /// `struct iovec[]` whose addresses alone count; the next argument is how many.
    RangesIn,
    /// A mask of NUMA nodes, passed; the next argument is its length in bits, plus one.
    NodesIn,
    /// A mask of NUMA nodes, written; likewise.
    NodesOut,
    /// A mask of NUMA nodes, passed; the second argument is its length in bits, plus one.
    NodesOfSecond,
    /// `move_pages`' addresses, of which the second argument says how many there are; likewise below.
    PagesIn,
    /// Its nodes, an `int` each.
    PageNodesIn,
    /// What it says of the pages, an `int` each, written.
    PageStatusOut,
    /// A memory policy's mode, written as an `int`.
    PolicyOut,
    /// `personality`'s argument: flags, or all bits to ask.
    Persona,
    /// `prctl`'s second to fifth argument, of which the option decides what they are.
    PrctlTail,
    /// `ioctl`'s argument: an address for the requests of a userfaultfd.
    RequestTail,
    /// `struct rlimit`, passed.
    LimitIn,
    /// `struct rlimit`, written.
    LimitOut,
    /// `struct sigaction`, passed.
    ActionIn,
    /// `struct sigaction`, written.
    ActionOut,
    /// `sigset_t`, passed.
    SignalsIn,
    /// `sigset_t`, written.
    SignalsOut,
    /// `struct timespec`, passed.
    TimeIn,
    /// `struct timespec`, written.
    TimeOut,
    /// `struct timeval`, written.
    MicrosOut,
    /// `struct itimerval`, passed.
    IntervalIn,
    /// `struct itimerval`, written.
    IntervalOut,
    /// `stack_t`, passed.
    StackIn,
    /// `stack_t`, written.
    StackOut,
    /// `struct stat`, written.
    StatOut,
    /// `struct utsname`, written.
    NamesOut,
    /// `int[2]`, written.
    PairOut,
    /// `wait4`'s status, an `int`, written where there is a child.
    StatusOut,
    /// `clone`'s first as strace has it: the stack, which is its second argument.
    CloneStack,
    /// `clone`'s second as strace has it: the flags, which are its first argument.
    CloneFlags,
    /// `clone`'s third to fifth, of which the flags decide which count.
    CloneTail,
    /// `arch_prctl`'s second: an address, or where to one is written.
    ArchValue,
}

/// How a result that is no error is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A signed number.
    Number,
    /// An address or bits, in hexadecimal.
    Hex,
    /// Permissions, in octal.
    Mode,
    /// The call does not return.
    Never,
}

/// A call's name and what its arguments are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signature {
    /// The name in the kernel's table, without `sys_`.
    pub(crate) name: &'static str,
    /// Its arguments; `None` where this table does not know them.
    pub(crate) args: Option<&'static [Arg]>,
    /// Its result.
    pub(crate) outcome: Outcome,
}

/// The signature of the call with this number; `None` where there is no such call.
#[must_use]
pub(crate) fn signature(number: u64) -> Option<Signature> {
    let own = |name, args, outcome| Some(Signature { name, args: Some(args), outcome });
    match number {
        abi::CALL_RECOVER => return own("mmvisor_recover", &[Arg::Address], Outcome::Hex),
        abi::CALL_MAPS => return own("mmvisor_maps", &[Arg::Address, Arg::Size], Outcome::Number),
        _ => {}
    }
    let call = Sysno::new(usize::try_from(number).ok()?)?;
    let args = arguments(call);
    let outcome = match call {
        Sysno::mmap | Sysno::brk | Sysno::mremap | Sysno::shmat | Sysno::personality => {
            Outcome::Hex
        }
        Sysno::umask => Outcome::Mode,
        Sysno::exit | Sysno::exit_group | Sysno::rt_sigreturn => Outcome::Never,
        _ => Outcome::Number,
    };
    Some(Signature { name: call.name(), args, outcome })
}

/// The name of the call with this number, mmvisor's own included.
#[must_use]
pub fn name(number: u64) -> Option<&'static str> {
    signature(number).map(|s| s.name)
}

/// What the arguments of `call` are, by family.
fn arguments(call: Sysno) -> Option<&'static [Arg]> {
    memory(call).or_else(|| files(call)).or_else(|| process(call))
}

fn memory(call: Sysno) -> Option<&'static [Arg]> {
    use Arg::{
        Address, Choice, Fd, FixedAddress, Flags, Flags64, Hex, Int, NodesIn, NodesOfSecond,
        NodesOut, PageNodesIn, PageStatusOut, PagesIn, Persona, PolicyOut, PrctlTail, RangesIn,
        ResidentOut, Size, Text,
    };
    Some(match call {
        Sysno::mmap => &[Address, Size, Flags64(&flags::PROT), Flags(&flags::MAP), Fd, Hex],
        Sysno::munmap | Sysno::mlock | Sysno::munlock => &[Address, Size],
        Sysno::mprotect => &[Address, Size, Flags64(&flags::PROT)],
        Sysno::pkey_mprotect => &[Address, Size, Flags64(&flags::PROT), Int],
        Sysno::mremap => &[Address, Size, Size, Flags64(&flags::MREMAP), FixedAddress],
        Sysno::brk => &[Address],
        Sysno::madvise => &[Address, Size, Choice(&flags::MADV)],
        Sysno::mincore => &[Address, Size, ResidentOut],
        Sysno::msync => &[Address, Size, Flags(&flags::MS)],
        Sysno::mlock2 => &[Address, Size, Flags(&flags::MLOCK)],
        Sysno::mlockall => &[Flags(&flags::MCL)],
        Sysno::munlockall => &[],
        Sysno::mseal => &[Address, Size, Hex],
        Sysno::remap_file_pages => {
            &[Address, Size, Flags64(&flags::PROT), Size, Flags(&flags::MAP)]
        }
        Sysno::process_madvise => &[Int, RangesIn, Size, Choice(&flags::MADV), Hex],
        Sysno::mbind => {
            &[Address, Size, Flags64(&flags::MPOL), NodesIn, Size, Flags(&flags::MPOL_MF)]
        }
        Sysno::set_mempolicy => &[Flags(&flags::MPOL), NodesIn, Size],
        Sysno::set_mempolicy_home_node => &[Address, Size, Size, Hex],
        Sysno::move_pages => {
            &[Int, Size, PagesIn, PageNodesIn, PageStatusOut, Flags64(&flags::MPOL_MF)]
        }
        Sysno::migrate_pages => &[Int, Size, NodesOfSecond, NodesOfSecond],
        Sysno::get_mempolicy => &[PolicyOut, NodesOut, Size, Address, Flags64(&flags::MPOL_F)],
        Sysno::personality => &[Persona],
        Sysno::prctl => &[Choice(&flags::PR), PrctlTail, PrctlTail, PrctlTail, PrctlTail],
        Sysno::userfaultfd => &[Flags(&flags::UFFD)],
        Sysno::shmget => &[Hex, Size, Flags(&flags::SHMGET)],
        Sysno::shmat => &[Int, Address, Flags(&flags::SHMAT)],
        Sysno::shmdt => &[Address],
        Sysno::shmctl => &[Int, Choice(&flags::IPC), Address],
        Sysno::memfd_create => &[Text, Flags(&flags::MFD)],
        _ => return None,
    })
}

fn files(call: Sysno) -> Option<&'static [Arg]> {
    use Arg::{
        Address, BytesIn, BytesOut, Choice, CreateMode, DirFd, FcntlValue, Fd, Flags, Hex, Int,
        Long, Mode, PairOut, Path, PathOut, Request, RequestTail, Size, StatOut, Unsigned,
        VectorIn, VectorOut,
    };
    Some(match call {
        Sysno::read => &[Fd, BytesOut, Size],
        Sysno::write => &[Fd, BytesIn, Size],
        Sysno::pread64 => &[Fd, BytesOut, Size, Long],
        Sysno::pwrite64 => &[Fd, BytesIn, Size, Long],
        Sysno::readv => &[Fd, VectorOut, Size],
        Sysno::writev => &[Fd, VectorIn, Size],
        Sysno::sync => &[],
        Sysno::syncfs => &[Fd],
        Sysno::sync_file_range => &[Fd, Long, Long, Hex],
        Sysno::fadvise64 => &[Fd, Long, Long, Int],
        Sysno::readahead => &[Fd, Long, Size],
        Sysno::close_range => &[Unsigned, Unsigned, Hex],
        Sysno::preadv => &[Fd, VectorOut, Size, Long],
        Sysno::pwritev => &[Fd, VectorIn, Size, Long],
        Sysno::preadv2 => &[Fd, VectorOut, Size, Long, Hex, Hex],
        Sysno::pwritev2 => &[Fd, VectorIn, Size, Long, Hex, Hex],
        Sysno::open => &[Path, Flags(&flags::OPEN), CreateMode],
        Sysno::openat => &[DirFd, Path, Flags(&flags::OPEN), CreateMode],
        Sysno::creat => &[Path, Mode],
        Sysno::close | Sysno::dup | Sysno::fsync | Sysno::fdatasync | Sysno::fchdir => &[Fd],
        Sysno::dup2 => &[Fd, Fd],
        Sysno::dup3 => &[Fd, Fd, Flags(&flags::O_DESCRIPTOR)],
        Sysno::pipe => &[PairOut],
        Sysno::pipe2 => &[PairOut, Flags(&flags::O_DESCRIPTOR)],
        Sysno::lseek => &[Fd, Long, Choice(&flags::SEEK)],
        Sysno::fstat => &[Fd, StatOut],
        Sysno::stat | Sysno::lstat => &[Path, StatOut],
        Sysno::newfstatat => &[DirFd, Path, StatOut, Flags(&flags::AT)],
        Sysno::access => &[Path, Flags(&flags::ACCESS)],
        Sysno::faccessat => &[DirFd, Path, Flags(&flags::ACCESS)],
        Sysno::faccessat2 => &[DirFd, Path, Flags(&flags::ACCESS), Flags(&flags::AT)],
        Sysno::ioctl => &[Fd, Request, RequestTail],
        Sysno::fcntl => &[Fd, Choice(&flags::FCNTL), FcntlValue],
        Sysno::readlink => &[Path, BytesOut, Size],
        Sysno::readlinkat => &[DirFd, Path, BytesOut, Size],
        Sysno::getcwd => &[PathOut, Size],
        Sysno::chdir | Sysno::unlink | Sysno::rmdir => &[Path],
        Sysno::unlinkat => &[DirFd, Path, Flags(&flags::AT)],
        Sysno::rename => &[Path, Path],
        Sysno::mkdir | Sysno::chmod => &[Path, Mode],
        Sysno::umask => &[Mode],
        Sysno::ftruncate => &[Fd, Long],
        Sysno::fallocate => &[Fd, Flags(&flags::FALLOC), Long, Long],
        Sysno::getdents | Sysno::getdents64 => &[Fd, Address, Size],
        Sysno::poll => &[Address, Size, Int],
        Sysno::socketpair => &[Choice(&flags::AF), Int, Int, PairOut],
        Sysno::shutdown => &[Fd, Choice(&flags::SHUT)],
        _ => return None,
    })
}

fn process(call: Sysno) -> Option<&'static [Arg]> {
    use Arg::{
        ActionIn, ActionOut, Address, ArchValue, Choice, CloneFlags, CloneStack, CloneTail, Fd,
        Flags, FutexOp, FutexTail, Hex, Int, IntervalIn, IntervalOut, LimitIn, LimitOut, MicrosOut,
        NamesOut, RandomOut, Signal, SignalsIn, SignalsOut, Size, StackIn, StackOut, StatusOut,
        TimeIn, TimeOut, Unsigned,
    };
    Some(match call {
        Sysno::exit | Sysno::exit_group => &[Int],
        Sysno::arch_prctl => &[Choice(&flags::ARCH), ArchValue],
        Sysno::set_tid_address => &[Address],
        Sysno::set_robust_list => &[Address, Size],
        Sysno::rseq => &[Address, Hex, Int, Hex],
        Sysno::prlimit64 => &[Int, Choice(&flags::RLIMIT), LimitIn, LimitOut],
        Sysno::getrlimit => &[Choice(&flags::RLIMIT), LimitOut],
        Sysno::setrlimit => &[Choice(&flags::RLIMIT), LimitIn],
        Sysno::getrandom => &[RandomOut, Size, Flags(&flags::GRND)],
        Sysno::rt_sigaction => &[Signal, ActionIn, ActionOut, Size],
        Sysno::rt_sigprocmask => &[Choice(&flags::SIGMASK), SignalsIn, SignalsOut, Size],
        Sysno::rt_sigreturn => &[],
        Sysno::rt_sigpending => &[SignalsOut, Size],
        Sysno::rt_sigsuspend => &[SignalsIn, Size],
        Sysno::rt_sigtimedwait => &[SignalsIn, Address, TimeIn, Size],
        Sysno::rt_sigqueueinfo => &[Int, Signal, Address],
        Sysno::rt_tgsigqueueinfo => &[Int, Int, Signal, Address],
        Sysno::sigaltstack => &[StackIn, StackOut],
        Sysno::alarm => &[Unsigned],
        Sysno::setitimer => &[Choice(&flags::ITIMER), IntervalIn, IntervalOut],
        Sysno::getitimer => &[Choice(&flags::ITIMER), IntervalOut],
        Sysno::kill | Sysno::tkill => &[Int, Signal],
        Sysno::tgkill => &[Int, Int, Signal],
        Sysno::futex => &[Address, FutexOp, Unsigned, FutexTail, FutexTail, FutexTail],
        Sysno::clock_gettime | Sysno::clock_getres => &[Choice(&flags::CLOCK), TimeOut],
        Sysno::clock_nanosleep => &[Choice(&flags::CLOCK), Int, TimeIn, Address],
        Sysno::nanosleep => &[TimeIn, Address],
        Sysno::gettimeofday => &[MicrosOut, Address],
        Sysno::time | Sysno::times | Sysno::sysinfo => &[Address],
        Sysno::uname => &[NamesOut],
        Sysno::getpid
        | Sysno::gettid
        | Sysno::getppid
        | Sysno::getuid
        | Sysno::geteuid
        | Sysno::getgid
        | Sysno::getegid
        | Sysno::getpgrp
        | Sysno::fork
        | Sysno::vfork
        | Sysno::sched_yield
        | Sysno::pause
        | Sysno::restart_syscall => &[],
        Sysno::ppoll => &[Address, Size, TimeIn, SignalsIn, Size],
        Sysno::select => &[Int, Address, Address, Address, Address],
        Sysno::pselect6 => &[Int, Address, Address, Address, TimeIn, Address],
        Sysno::epoll_create => &[Int],
        Sysno::epoll_create1 => &[Hex],
        Sysno::epoll_ctl => &[Fd, Int, Fd, Address],
        Sysno::epoll_wait => &[Fd, Address, Int, Int],
        Sysno::epoll_pwait => &[Fd, Address, Int, Int, SignalsIn, Size],
        Sysno::epoll_pwait2 => &[Fd, Address, Int, TimeIn, SignalsIn, Size],
        Sysno::eventfd => &[Unsigned],
        Sysno::eventfd2 => &[Unsigned, Hex],
        Sysno::setpgid => &[Int, Int],
        Sysno::getsid => &[Int],
        Sysno::setsid => &[],
        Sysno::getpriority => &[Int, Int],
        Sysno::setpriority => &[Int, Int, Int],
        Sysno::getrusage => &[Int, Address],
        Sysno::pidfd_open => &[Int, Hex],
        Sysno::pidfd_send_signal => &[Fd, Signal, Address, Hex],
        Sysno::process_vm_readv | Sysno::process_vm_writev => {
            &[Int, Address, Size, Address, Size, Hex]
        }
        Sysno::sched_getaffinity => &[Int, Size, Address],
        Sysno::sched_setaffinity => &[Int, Size, Address],
        Sysno::sched_getscheduler => &[Int],
        Sysno::sched_setscheduler => &[Int, Int, Address],
        Sysno::sched_getparam | Sysno::sched_setparam | Sysno::sched_rr_get_interval => {
            &[Int, Address]
        }
        Sysno::sched_get_priority_max | Sysno::sched_get_priority_min => &[Int],
        Sysno::ioprio_get => &[Int, Int],
        Sysno::membarrier => &[Hex, Hex, Int],
        Sysno::getcpu => &[Address, Address, Address],
        Sysno::wait4 => &[Int, StatusOut, Flags(&flags::WAIT), Address],
        Sysno::waitid => &[Choice(&flags::P), Int, Address, Flags(&flags::WAIT), Address],
        Sysno::clone => &[CloneStack, CloneFlags, CloneTail, CloneTail, CloneTail],
        Sysno::getpgid => &[Int],
        Sysno::clone3 => &[Address, Size],
        Sysno::setuid | Sysno::setgid | Sysno::setfsuid | Sysno::setfsgid => &[Int],
        Sysno::setreuid | Sysno::setregid => &[Int, Int],
        Sysno::setresuid | Sysno::setresgid => &[Int, Int, Int],
        Sysno::getresuid | Sysno::getresgid => &[Address, Address, Address],
        Sysno::getgroups | Sysno::setgroups => &[Int, Address],
        Sysno::capget | Sysno::capset => &[Address, Address],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_linux_s_names_from_the_first_to_the_newest() {
        for (number, expected) in [
            (0, "read"),
            (9, "mmap"),
            (12, "brk"),
            (231, "exit_group"),
            (334, "rseq"),
            (335, "uretprobe"),
            (424, "pidfd_send_signal"),
            (462, "mseal"),
            (467, "open_tree_attr"),
            (469, "file_setattr"),
        ] {
            assert_eq!(name(number), Some(expected));
        }
    }

    #[test]
    fn numbers_without_a_call_have_no_name() {
        for number in [337, 423, 600, abi::OWN_CALLS - 1, abi::OWN_CALLS + 2, u64::MAX] {
            assert_eq!(name(number), None, "{number}");
        }
    }

    #[test]
    fn every_number_up_to_334_has_a_name() {
        for number in 0..=334 {
            assert!(name(number).is_some(), "{number}");
        }
    }

    #[test]
    fn mmvisor_s_own_calls_have_names() {
        assert_eq!(name(abi::CALL_RECOVER), Some("mmvisor_recover"));
        assert_eq!(name(abi::CALL_MAPS), Some("mmvisor_maps"));
    }

    #[test]
    fn no_call_has_more_than_six_arguments() {
        for call in (0..600).filter_map(Sysno::new) {
            assert!(arguments(call).is_none_or(|args| args.len() <= 6), "{}", call.name());
        }
    }
}
