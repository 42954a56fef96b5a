//! A process makes another: fork(2), vfork(2) and clone(2) without threads (Linux's `kernel_clone`).
//!
//! ```text
//!   spawn ─ vCPU ─ address space ─ registers ─ number ─ thread, at its gate ──> Newborn
//!              each step that fails gives back what those before it took
//!   Newborn::begin ─ gate opened ─ vfork: the parent waits until the child has ended
//! ```
//!
//! The child does not run before its parent's call has been written to the trace, so that a trace names a
//! process before it shows what that does.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use mm::addr::VirtAddr;
use mm::error::{Broken, CallError, Errno};
use mm::space::{Counters, SpaceUser, Vcpus};

use super::process::{Identity, Process};
use super::table::Birth;
use super::usage::of_space;
use super::{AltStack, Delivery, Signals, Task, Usage};
use crate::credentials::SharedCredentials;
use crate::kvm::{KvmError, Vcpu};
use crate::machine::VcpuError;

/// Whether the child has something of its own or the parent's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// A copy.
    Copied,
    /// The same.
    Shared,
}

/// What becomes of the handlers of signals in a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handlers {
    /// They stay.
    Kept,
    /// Only what is ignored stays so (`CLONE_CLEAR_SIGHAND`).
    Gone,
}

/// Whether the parent goes on while the child runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parent {
    /// It does.
    GoesOn,
    /// It waits until the child has ended (`CLONE_VFORK`).
    Waits,
}

/// Whose child the new process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChildOf {
    /// Of the process that calls.
    Caller,
    /// Of its parent (`CLONE_PARENT`).
    CallersParent,
}

/// What is asked for. The addresses are the program's; `None` for nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// The address space (`CLONE_VM`).
    pub space: Sharing,
    /// The descriptors (`CLONE_FILES`).
    pub files: Sharing,
    /// The current directory and the umask (`CLONE_FS`).
    pub paths: Sharing,
    /// What is done about signals (`CLONE_SIGHAND`).
    pub actions: Sharing,
    /// Whether a copy of that has handlers.
    pub handlers: Handlers,
    /// Whether the parent waits.
    pub parent: Parent,
    /// Whose child it is.
    pub child_of: ChildOf,
    /// What its parent is sent at its end; 0 for nothing.
    pub exit_signal: i32,
    /// Its stack pointer; `None` for the parent's.
    pub stack: Option<VirtAddr>,
    /// Its FS base (`CLONE_SETTLS`); `None` for the parent's.
    pub thread_pointer: Option<u64>,
    /// Where its number goes in its own memory (`CLONE_CHILD_SETTID`).
    pub tid_in_child: Option<VirtAddr>,
    /// Where its number goes in the parent's memory (`CLONE_PARENT_SETTID`).
    pub tid_in_parent: Option<VirtAddr>,
    /// Where a zero goes when it ends (`CLONE_CHILD_CLEARTID`).
    pub clear_at_exit: Option<VirtAddr>,
}

/// A process that has not begun.
#[derive(Debug)]
#[must_use = "its parent may have to wait for it"]
pub struct Newborn {
    /// Its number.
    pub pid: i32,
    parent: Parent,
    /// Its thread waits until this is dropped.
    gate: Sender<()>,
}

impl Newborn {
    /// Lets it run, and has its parent wait if that is what it asked for.
    pub(super) fn begin(self, parent: &Process) {
        parent.family.tracer().several();
        drop(self.gate);
        if self.parent == Parent::Waits {
            parent.family.wait_for_release(parent.pid, self.pid);
            // The child may have given up some of its own, in memory that was this one's.
            parent.apply_credentials();
        }
    }
}

/// Makes a child of `parent`, whose `vcpu` has stopped for the call. `delivery` is the parent's.
///
/// # Errors
/// `EAGAIN`: no vCPU, number or thread for it; `ENOMEM`: no memory, or the first process has ended.
/// [`Broken`] when the machine must stop.
pub fn spawn(
    parent: &Process,
    vcpu: &mut Vcpu,
    delivery: &Delivery,
    request: &Request,
) -> Result<Newborn, CallError> {
    let family = &parent.family;
    family.join_ended();
    let child_vcpu = match family.machine().take_vcpu() {
        Ok(vcpu) => vcpu,
        Err(VcpuError::OutOfMemory) => return Err(Errno::ENOMEM.into()),
        Err(VcpuError::Broken(broken)) => return Err(broken.into()),
        Err(VcpuError::Refused(error)) => {
            log::info!("no more processes: {error}");
            return Err(Errno::EAGAIN.into());
        }
    };
    let space = match request.space {
        Sharing::Shared => Ok(parent.space.share()),
        Sharing::Copied => {
            // This vCPU has stopped. Another task of the space, if there is one, may run.
            let alone = parent.space.users() == 1;
            let vcpus = if alone { Vcpus::Stopped } else { Vcpus::Running };
            let system = family.machine().system();
            let forked = system.or_page_out(|| parent.space.change().fork(vcpus));
            // The parent's own root may be another one now.
            vcpu.set_root_if_other(parent.space.look().table().root());
            forked.map(SpaceUser::new)
        }
    };
    let space = match space {
        Ok(space) => space,
        Err(error) => {
            family.machine().give_back(child_vcpu);
            return Err(error);
        }
    };
    let signals = match request.actions {
        Sharing::Shared => parent.signals.share(),
        Sharing::Copied => parent.signals.copy(),
    };
    if request.handlers == Handlers::Gone {
        signals.begin_program();
    }
    let signals = Arc::new(signals);
    let counters = Arc::clone(space.look().counters());
    let credentials = SharedCredentials::new(parent.credentials.get());
    let birth = enter(parent, Arc::clone(&signals), counters, credentials.clone(), request);
    let (pid, refused) = match birth {
        Ok(pid) => (pid, None),
        Err(errno) => (0, Some(errno)),
    };
    let process = child_process(parent, pid, space, signals, credentials, request);
    let delivery = delivery.of_child(match (request.space, request.parent) {
        // Both would use it at once.
        (Sharing::Shared, Parent::GoesOn) => AltStack::NONE,
        _ => delivery.stack,
    });
    let mut child = Task::from_parts(child_vcpu, Arc::new(process), delivery);
    if let Some(errno) = refused {
        discard(child)?;
        return Err(errno.into());
    }
    if let Err(broken) = child.take_over(vcpu, request) {
        discard(child)?;
        return Err(broken.into());
    }
    tell_number(child.process(), request.tid_in_child, pid);
    let gate = start(child)?;
    tell_number(parent, request.tid_in_parent, pid);
    family.totals().processes += 1;
    Ok(Newborn { pid, parent: request.parent, gate })
}

/// Puts the child into the process table, so that it has a number.
fn enter(
    parent: &Process,
    signals: Arc<Signals>,
    counters: Arc<Counters>,
    credentials: SharedCredentials,
    request: &Request,
) -> Result<i32, Errno> {
    let mut table = parent.family.lock();
    if table.closing {
        return Err(Errno::ENOMEM);
    }
    let (of, exit_signal) = match (request.child_of, table.get(parent.pid)) {
        // A sibling: also in what its parent is sent.
        (ChildOf::CallersParent, Some(caller)) => (caller.parent, caller.exit_signal),
        _ => (parent.pid, request.exit_signal),
    };
    let holds_parent = request.parent == Parent::Waits;
    let base = match request.space {
        Sharing::Shared => of_space(&counters),
        Sharing::Copied => Usage::default(),
    };
    let birth =
        Birth { parent: of, exit_signal, signals, counters, base, credentials, holds_parent };
    table.add(birth).ok_or(Errno::EAGAIN)
}

/// What the child inherits, and what it has of its own.
fn child_process(
    parent: &Process,
    pid: i32,
    space: SpaceUser,
    signals: Arc<Signals>,
    credentials: SharedCredentials,
    request: &Request,
) -> Process {
    let name = *parent.identity.name.lock().unwrap_or_else(PoisonError::into_inner);
    let files = match request.files {
        Sharing::Shared => Arc::clone(&parent.files),
        Sharing::Copied => Arc::new(parent.files.copy()),
    };
    let paths = match request.paths {
        Sharing::Shared => Arc::clone(&parent.paths),
        Sharing::Copied => Arc::new(parent.paths.copy()),
    };
    let policy = *parent.policy.lock().unwrap_or_else(PoisonError::into_inner);
    Process {
        family: Arc::clone(&parent.family),
        pid,
        space,
        files,
        paths,
        identity: Identity {
            executable: parent.identity.executable.clone(),
            image: Arc::clone(&parent.identity.image),
            launch: parent.identity.launch,
            name: Mutex::new(name),
        },
        signals,
        credentials,
        policy: Mutex::new(policy),
        oom_adjustment: AtomicI32::new(parent.oom_adjustment.load(Ordering::Relaxed)),
        recovery: AtomicU64::new(parent.recovery.load(Ordering::Relaxed)),
        clear_at_exit: AtomicU64::new(request.clear_at_exit.map_or(0, VirtAddr::get)),
    }
}

/// Gives the child its thread, which waits at the gate that is given back.
fn start(child: Task) -> Result<Sender<()>, CallError> {
    let (family, pid) = (Arc::clone(&child.process().family), child.process().pid);
    // Its parent may look at it before it runs.
    let shown = Arc::downgrade(child.process());
    let (gate, opened) = channel::<()>();
    // The thread takes its task only when it runs: where there is none, it is still here.
    let handed = Arc::new(Mutex::new(Some(child)));
    let taken = Arc::clone(&handed);
    let body = move || {
        // The other end is dropped, never sent to.
        let _ = opened.recv();
        let child = taken.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(child) = child {
            child.live();
        }
    };
    // Locked, so that a thread that ends at once finds its handle.
    let mut table = family.lock();
    match thread::Builder::new().name(format!("process {pid}")).spawn(body) {
        Ok(thread) => {
            if let Some(member) = table.get_mut(pid) {
                member.thread = Some(thread);
                member.process = shown;
            }
            Ok(gate)
        }
        Err(error) => {
            drop(table);
            log::info!("no more processes: the host refuses a thread: {error}");
            if let Some(child) = handed.lock().unwrap_or_else(PoisonError::into_inner).take() {
                discard(child)?;
            }
            Err(Errno::EAGAIN.into())
        }
    }
}

/// Writes a process's number where it was asked for. Linux does not say if it cannot.
fn tell_number(process: &Process, at: Option<VirtAddr>, pid: i32) {
    if let Some(at) = at
        && let Err(error) = process.space.write(at, &pid.to_le_bytes())
    {
        log::debug!("a process's number is not told: {error}");
    }
}

/// Takes apart a child that has not run.
fn discard(child: Task) -> Result<(), Broken> {
    let (vcpu, process, _) = child.into_parts();
    process.family.lock().remove(process.pid);
    process.family.machine().give_back(vcpu);
    if let Some(process) = Arc::into_inner(process) {
        process.space.put()?;
    }
    Ok(())
}

impl Task {
    /// Makes the child's vCPU what the parent's is at its call, which returns 0 here.
    fn take_over(&mut self, parent: &Vcpu, request: &Request) -> Result<(), Broken> {
        let broken = |error: KvmError| Broken::Invariant(error.to_string());
        let root = self.process().space.look().table().root();
        let vcpu = self.vcpu_mut();
        vcpu.copy_program(parent).map_err(broken)?;
        vcpu.set_root(root);
        let mut registers = *vcpu.registers();
        registers.rax = 0;
        if let Some(stack) = request.stack {
            registers.rsp = stack.get();
        }
        vcpu.resume_user(&registers)?;
        if let Some(pointer) = request.thread_pointer {
            vcpu.set_fs_base(pointer)?;
        }
        Ok(())
    }
}
