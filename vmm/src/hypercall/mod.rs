//! Hypercalls: Linux's system calls, served on the host. One file for each family.
//!
//! The guest is not trusted: every pointer, length and descriptor is checked before use, and what it
//! points to is copied once.

mod attributes;
mod barrier;
mod clone;
mod credentials;
mod decode;
mod descriptors;
mod directory;
mod epoll;
mod exec;
mod extent;
mod files;
mod flags;
mod futex;
mod history;
mod identity;
mod memory;
mod names;
mod open;
mod own;
mod paths;
mod pause;
mod pidfd;
mod pipes;
mod policy;
mod poll;
mod process;
mod schedule;
mod send;
mod signals;
mod stat;
mod structs;
mod sync;
mod table;
mod text;
mod time;
mod timers;
mod trace;
mod transfer;
mod user;
mod userfault;
mod wait;

pub use decode::Call;
pub use extent::{Extent, calls_table, extent};
pub use futex::{Awaited, Reach};
pub use table::name;
pub(crate) use time::uptime;
pub use trace::{TraceTarget, Tracer};

use mm::error::{AccessError, Broken, CallError, Errno};
use nix::libc;

use crate::kvm::Vcpu;
use crate::task::{Delivery, Interrupted, Newborn, Process, Replacement, Restart};

/// What a call came to.
#[derive(Debug)]
pub enum Answer {
    /// It returns this.
    Value(u64),
    /// It returns this errno, negated.
    Error(Errno),
    /// The program has ended with this exit status.
    Exit(u8),
    /// Another program comes instead.
    Exec(Box<Replacement>),
    /// A signal came while it waited.
    Interrupted(Restart),
    /// A handler has returned: the program goes on where [`Delivery::returned`] says.
    Returned,
    /// Likewise, but its frame cannot be: that is a `SIGSEGV` there.
    BadFrame,
}

impl Answer {
    /// What the program finds in rax, if it goes on.
    #[must_use]
    pub fn rax(&self) -> Option<u64> {
        match self {
            Answer::Value(value) => Some(*value),
            Answer::Error(errno) => Some(negated(*errno)),
            Answer::Exec(_) => Some(0),
            _ => None,
        }
    }
}

/// An errno as rax holds it.
pub(crate) fn negated(errno: Errno) -> u64 {
    i64::from(-(errno as i32)).cast_unsigned()
}

/// Why a call does not simply return a value.
#[derive(Debug)]
enum Stop {
    Errno(Errno),
    Exit(u8),
    Exec(Box<Replacement>),
    Interrupted(Restart),
    Returned,
    BadFrame,
    Broken(Broken),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Stop::Errno(errno)
    }
}

impl From<CallError> for Stop {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Errno(errno) => Stop::Errno(errno),
            CallError::Broken(broken) => Stop::Broken(broken),
        }
    }
}

/// Inside a call a bad pointer is `EFAULT`.
impl From<AccessError> for Stop {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Fault(_) => Stop::Errno(Errno::EFAULT),
            AccessError::Broken(broken) => Stop::Broken(broken),
        }
    }
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        Stop::Broken(broken)
    }
}

/// As most calls that wait are interrupted (`ERESTARTSYS`).
impl From<Interrupted> for Stop {
    fn from(_: Interrupted) -> Self {
        Stop::Interrupted(Restart::IfAsked)
    }
}

impl From<rustix::io::Errno> for Stop {
    fn from(errno: rustix::io::Errno) -> Self {
        Stop::Errno(Errno::from_raw(errno.raw_os_error()))
    }
}

/// What a call returns to its program.
type Served = Result<u64, Stop>;

/// Who calls, and with what.
struct Context<'a> {
    number: u64,
    args: [u64; 6],
    process: &'a Process,
    vcpu: &'a mut Vcpu,
    delivery: &'a mut Delivery,
    newborn: &'a mut Option<Newborn>,
}

/// Who makes a call.
#[derive(Debug)]
pub struct Caller<'a> {
    /// The process.
    pub process: &'a Process,
    /// Its vCPU, which has stopped for the call.
    pub vcpu: &'a mut Vcpu,
    /// What delivery of signals knows of its task.
    pub delivery: &'a mut Delivery,
    /// Where a process goes that the call makes, to begin once the answer is known.
    pub newborn: &'a mut Option<Newborn>,
}

/// Serves a call.
///
/// # Errors
/// [`Broken`] when the machine must stop.
pub fn serve(call: &Call, caller: Caller<'_>) -> Result<Answer, Broken> {
    let handler = handler(call.number).unwrap_or(memory::serve);
    let Caller { process, vcpu, delivery, newborn } = caller;
    let (number, args) = (call.number, call.args);
    let mut context = Context { number, args, process, vcpu, delivery, newborn };
    match handler(&mut context) {
        Ok(value) => Ok(Answer::Value(value)),
        Err(Stop::Errno(errno)) => Ok(Answer::Error(errno)),
        Err(Stop::Exit(status)) => Ok(Answer::Exit(status)),
        Err(Stop::Exec(replacement)) => Ok(Answer::Exec(replacement)),
        Err(Stop::Interrupted(restart)) => Ok(Answer::Interrupted(restart)),
        Err(Stop::Returned) => Ok(Answer::Returned),
        Err(Stop::BadFrame) => Ok(Answer::BadFrame),
        Err(Stop::Broken(broken)) => Err(broken),
    }
}

type Handler = fn(&mut Context<'_>) -> Served;

/// The dispatcher: which calls are served here, and by whom. The others may be memory calls. What of a call is not served
/// is said in `extent`.
fn handler(number: u64) -> Option<Handler> {
    use guest::abi;
    let own = match number {
        abi::CALL_RECOVER => Some(own::recover as Handler),
        abi::CALL_MAPS => Some(own::maps as Handler),
        _ => None,
    };
    if own.is_some() {
        return own;
    }
    Some(match libc::c_long::try_from(number).ok()? {
        libc::SYS_read => transfer::read,
        libc::SYS_write => transfer::write,
        libc::SYS_readv => transfer::readv,
        libc::SYS_writev => transfer::writev,
        libc::SYS_pread64 => transfer::pread64,
        libc::SYS_pwrite64 => transfer::pwrite64,
        libc::SYS_preadv => transfer::preadv,
        libc::SYS_pwritev => transfer::pwritev,
        libc::SYS_preadv2 => transfer::preadv2,
        libc::SYS_pwritev2 => transfer::pwritev2,
        libc::SYS_memfd_create => files::memfd_create,
        libc::SYS_ftruncate => files::ftruncate,
        libc::SYS_fallocate => files::fallocate,
        libc::SYS_fsync | libc::SYS_fdatasync => sync::fsync,
        libc::SYS_sync => sync::sync,
        libc::SYS_syncfs => sync::syncfs,
        libc::SYS_sync_file_range => sync::sync_file_range,
        libc::SYS_fadvise64 => sync::fadvise64,
        libc::SYS_readahead => sync::readahead,
        libc::SYS_close_range => descriptors::close_range,
        libc::SYS_close => descriptors::close,
        libc::SYS_lseek => files::lseek,
        libc::SYS_ioctl => descriptors::ioctl,
        libc::SYS_fcntl => descriptors::fcntl,
        libc::SYS_dup => descriptors::dup,
        libc::SYS_dup2 => descriptors::dup2,
        libc::SYS_dup3 => descriptors::dup3,
        libc::SYS_poll => poll::poll,
        libc::SYS_ppoll => poll::ppoll,
        libc::SYS_select => poll::select,
        libc::SYS_pselect6 => poll::pselect6,
        libc::SYS_epoll_create => epoll::epoll_create,
        libc::SYS_epoll_create1 => epoll::epoll_create1,
        libc::SYS_epoll_ctl => epoll::epoll_ctl,
        libc::SYS_epoll_wait => epoll::epoll_wait,
        libc::SYS_epoll_pwait => epoll::epoll_pwait,
        libc::SYS_epoll_pwait2 => epoll::epoll_pwait2,
        libc::SYS_eventfd => epoll::eventfd,
        libc::SYS_eventfd2 => epoll::eventfd2,
        libc::SYS_pipe => pipes::pipe,
        libc::SYS_pipe2 => pipes::pipe2,
        libc::SYS_socketpair => pipes::socketpair,
        libc::SYS_shutdown => pipes::shutdown,

        libc::SYS_open => open::open,
        libc::SYS_openat => open::openat,
        libc::SYS_creat => open::creat,
        libc::SYS_stat => stat::stat,
        libc::SYS_lstat => stat::lstat,
        libc::SYS_fstat => stat::fstat,
        libc::SYS_newfstatat => stat::newfstatat,
        libc::SYS_statx => stat::statx,
        libc::SYS_access => stat::access,
        libc::SYS_faccessat => stat::faccessat,
        libc::SYS_faccessat2 => stat::faccessat2,
        libc::SYS_mkdir => names::mkdir,
        libc::SYS_mkdirat => names::mkdirat,
        libc::SYS_mknod => names::mknod,
        libc::SYS_mknodat => names::mknodat,
        libc::SYS_symlink => names::symlink,
        libc::SYS_symlinkat => names::symlinkat,
        libc::SYS_link => names::link,
        libc::SYS_linkat => names::linkat,
        libc::SYS_unlink => names::unlink,
        libc::SYS_unlinkat => names::unlinkat,
        libc::SYS_rmdir => names::rmdir,
        libc::SYS_rename => names::rename,
        libc::SYS_renameat => names::renameat,
        libc::SYS_renameat2 => names::renameat2,
        libc::SYS_getdents => directory::getdents,
        libc::SYS_getdents64 => directory::getdents64,
        libc::SYS_chdir => directory::chdir,
        libc::SYS_fchdir => directory::fchdir,
        libc::SYS_getcwd => directory::getcwd,
        libc::SYS_chmod => attributes::chmod,
        libc::SYS_fchmod => attributes::fchmod,
        libc::SYS_fchmodat => attributes::fchmodat,
        libc::SYS_fchmodat2 => attributes::fchmodat2,
        libc::SYS_chown => attributes::chown,
        libc::SYS_lchown => attributes::lchown,
        libc::SYS_fchown => attributes::fchown,
        libc::SYS_fchownat => attributes::fchownat,
        libc::SYS_utimensat => attributes::utimensat,
        libc::SYS_truncate => attributes::truncate,
        libc::SYS_umask => attributes::umask,
        libc::SYS_statfs => attributes::statfs,
        libc::SYS_fstatfs => attributes::fstatfs,
        libc::SYS_readlink => paths::readlink,
        libc::SYS_readlinkat => paths::readlinkat,

        libc::SYS_fork => clone::fork,
        libc::SYS_vfork => clone::vfork,
        libc::SYS_clone => clone::clone,
        libc::SYS_clone3 => clone::clone3,
        libc::SYS_execve => exec::execve,
        libc::SYS_execveat => exec::execveat,
        libc::SYS_wait4 => wait::wait4,
        libc::SYS_waitid => wait::waitid,
        libc::SYS_exit | libc::SYS_exit_group => process::exit,
        libc::SYS_arch_prctl => process::arch_prctl,
        libc::SYS_set_tid_address => process::set_tid_address,
        libc::SYS_set_robust_list => process::set_robust_list,
        libc::SYS_prctl => process::prctl,
        libc::SYS_sched_yield => schedule::sched_yield,
        libc::SYS_getcpu => schedule::getcpu,
        libc::SYS_sched_getaffinity => schedule::sched_getaffinity,
        libc::SYS_sched_setaffinity => schedule::sched_setaffinity,
        libc::SYS_sched_getscheduler => policy::sched_getscheduler,
        libc::SYS_sched_setscheduler => policy::sched_setscheduler,
        libc::SYS_sched_getparam => policy::sched_getparam,
        libc::SYS_sched_setparam => policy::sched_setparam,
        libc::SYS_sched_get_priority_max => policy::sched_get_priority_max,
        libc::SYS_sched_get_priority_min => policy::sched_get_priority_min,
        libc::SYS_sched_rr_get_interval => policy::sched_rr_get_interval,
        libc::SYS_ioprio_get => policy::ioprio_get,
        libc::SYS_membarrier => barrier::membarrier,
        libc::SYS_getpriority => schedule::getpriority,
        libc::SYS_setpriority => schedule::setpriority,
        libc::SYS_getrusage => process::getrusage,

        libc::SYS_pidfd_open => pidfd::pidfd_open,
        libc::SYS_pidfd_send_signal => pidfd::pidfd_send_signal,
        libc::SYS_kill => send::kill,
        libc::SYS_tkill => send::tkill,
        libc::SYS_tgkill => send::tgkill,
        libc::SYS_rt_sigqueueinfo => send::rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo => send::rt_tgsigqueueinfo,
        libc::SYS_rt_sigaction => signals::rt_sigaction,
        libc::SYS_rt_sigprocmask => signals::rt_sigprocmask,
        libc::SYS_rt_sigpending => signals::rt_sigpending,
        libc::SYS_rt_sigreturn => signals::rt_sigreturn,
        libc::SYS_sigaltstack => signals::sigaltstack,
        libc::SYS_rt_sigsuspend => pause::rt_sigsuspend,
        libc::SYS_rt_sigtimedwait => pause::rt_sigtimedwait,
        libc::SYS_pause => pause::pause,
        libc::SYS_alarm => timers::alarm,
        libc::SYS_setitimer => timers::setitimer,
        libc::SYS_getitimer => timers::getitimer,
        libc::SYS_restart_syscall => pause::restart_syscall,
        libc::SYS_futex => futex::futex,

        libc::SYS_getpid | libc::SYS_gettid => identity::getpid,
        libc::SYS_getppid => identity::getppid,
        libc::SYS_getpgrp => identity::getpgrp,
        libc::SYS_getpgid => identity::getpgid,
        libc::SYS_getsid => identity::getsid,
        libc::SYS_setpgid => identity::setpgid,
        libc::SYS_setsid => identity::setsid,
        libc::SYS_getuid => credentials::getuid,
        libc::SYS_geteuid => credentials::geteuid,
        libc::SYS_getgid => credentials::getgid,
        libc::SYS_getegid => credentials::getegid,
        libc::SYS_getresuid => credentials::getresuid,
        libc::SYS_getresgid => credentials::getresgid,
        libc::SYS_setuid => credentials::setuid,
        libc::SYS_setreuid => credentials::setreuid,
        libc::SYS_setresuid => credentials::setresuid,
        libc::SYS_setgid => credentials::setgid,
        libc::SYS_setregid => credentials::setregid,
        libc::SYS_setresgid => credentials::setresgid,
        libc::SYS_setfsuid => credentials::setfsuid,
        libc::SYS_setfsgid => credentials::setfsgid,
        libc::SYS_getgroups => credentials::getgroups,
        libc::SYS_setgroups => credentials::setgroups,
        libc::SYS_capget => credentials::capget,
        libc::SYS_capset => credentials::capset,
        libc::SYS_uname => identity::uname,
        libc::SYS_sysinfo => identity::sysinfo,
        libc::SYS_getrandom => identity::getrandom,

        libc::SYS_clock_gettime => time::clock_gettime,
        libc::SYS_clock_getres => time::clock_getres,
        libc::SYS_gettimeofday => time::gettimeofday,
        libc::SYS_time => time::time,
        libc::SYS_nanosleep => time::nanosleep,
        libc::SYS_clock_nanosleep => time::clock_nanosleep,
        libc::SYS_times => time::times,
        _ => return None,
    })
}
