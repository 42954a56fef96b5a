//! Stopping a vCPU from another thread, without a race.
//!
//! A signal alone could arrive just before `KVM_RUN` and be lost. So the handler also sets the run
//! page's `immediate_exit`, through a pointer of its own thread:
//!
//! ```text
//!   signal before `arm`            handler sets PENDING          arm: sees it, sets immediate_exit
//!   signal between arm and ioctl   handler sets immediate_exit   KVM_RUN returns EINTR at once
//!   signal during KVM_RUN          handler sets immediate_exit   KVM_RUN returns EINTR
//! ```

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{Ordering, compiler_fence};

use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::errno::Error as Errno;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    /// This thread's vCPU's `immediate_exit`, while it is in `KVM_RUN`. Constant and without a destructor,
    /// so that the handler's access neither allocates nor locks.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
    /// A kick that found no vCPU.
    static PENDING: Cell<bool> = const { Cell::new(false) };
}

extern "C" fn on_kick(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if flag.is_null() {
        PENDING.set(true);
    } else {
        // SAFETY: `arm` set it to a byte of this thread's vCPU's run page and takes it back before that
        // page can go; only the kernel reads it at the same time.
        unsafe { flag.write_volatile(1) };
    }
}

/// Installs the handler of the signal that kicks use. Once for the whole process; again is harmless.
///
/// # Errors
/// The host's, if it refuses.
pub fn install_kick_handler() -> io::Result<()> {
    static RESULT: OnceLock<Result<(), i32>> = OnceLock::new();
    RESULT
        .get_or_init(|| register_signal_handler(SIGRTMIN(), on_kick).map_err(Errno::errno))
        .map_err(io::Error::from_raw_os_error)
}

/// Stops whatever vCPU one thread is running, or the next one it runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Kicker {
    thread: libc::pid_t,
}

impl Kicker {
    /// For the calling thread.
    #[must_use]
    pub fn of_this_thread() -> Kicker {
        // SAFETY: gettid has no preconditions.
        Kicker { thread: unsafe { libc::gettid() } }
    }

    /// The host's number of that thread.
    #[must_use]
    pub fn thread_id(self) -> i32 {
        self.thread
    }

    /// Makes that thread's [`Vcpu::run`](super::Vcpu::run) return
    /// [`Exit::Interrupted`](super::Exit::Interrupted) soon, once. The handler must be installed and the
    /// thread alive.
    ///
    /// # Errors
    /// The host's: `ESRCH` if the thread has ended.
    pub fn kick(self) -> io::Result<()> {
        // SAFETY: getpid has no preconditions.
        let process = unsafe { libc::getpid() };
        // SAFETY: tgkill takes three numbers; a wrong one is answered with an error.
        let status = unsafe { libc::syscall(libc::SYS_tgkill, process, self.thread, SIGRTMIN()) };
        if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Points this thread's handler at a run page for as long as the guard lives.
pub(super) struct Armed(());

/// Arms the handler with the address of a run page's `immediate_exit`, which outlives the guard.
pub(super) fn arm(immediate_exit: *mut u8) -> Armed {
    IMMEDIATE_EXIT.set(immediate_exit);
    // The handler runs on this thread, so the order of instructions is all that matters.
    compiler_fence(Ordering::SeqCst);
    if PENDING.take() {
        // SAFETY: the caller's promise; a byte that only this thread and the kernel touch.
        unsafe { immediate_exit.write_volatile(1) };
    }
    Armed(())
}

impl Drop for Armed {
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}
