//! A process goes on with another program (Linux's `begin_new_exec`).

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mm::space::Dumpable;

use super::process::{Identity, Process, sole};
use super::{Delivery, Loaded, Task, TaskError};
use crate::files::Descriptors;

/// The program that comes instead.
#[derive(Debug)]
pub struct Replacement {
    /// It, in memory.
    pub loaded: Loaded,
    /// What the process is called from now on.
    pub identity: Identity,
}

impl Task {
    /// Has the process go on with another program. What it had of memory is given up, but where others share it; its
    /// descriptors are its own from now on, and those that are closed on exec are; handlers of signals are no more.
    ///
    /// # Errors
    /// [`TaskError`] if mmvisor cannot go on.
    pub(super) fn replace(&mut self, by: Replacement) -> Result<(), TaskError> {
        let Replacement { loaded, identity } = by;
        let old = self.process();
        let files: Descriptors = old.files.copy();
        files.close_on_exec();
        old.signals.begin_program();
        let credentials = old.credentials.get().executed();
        if credentials.has_others_rights() {
            loaded.space.change().modes_mut().dumpable = Dumpable::No;
        }
        old.credentials.set(Arc::new(credentials));
        let policy = *old.policy.lock().unwrap_or_else(PoisonError::into_inner);
        let counters = Arc::clone(loaded.space.look().counters());
        let new = Arc::new(Process {
            family: Arc::clone(&old.family),
            pid: old.pid,
            space: loaded.space,
            files: Arc::new(files),
            paths: Arc::clone(&old.paths),
            identity,
            signals: Arc::clone(&old.signals),
            credentials: old.credentials.clone(),
            policy: Mutex::new(policy),
            oom_adjustment: AtomicI32::new(old.oom_adjustment.load(Ordering::Relaxed)),
            recovery: AtomicU64::new(0),
            clear_at_exit: AtomicU64::new(0),
        });
        let broken = |error: crate::kvm::KvmError| TaskError::Vcpu(error.to_string());
        self.vcpu_mut().reset().map_err(broken)?;
        // No alternate stack, nothing that was interrupted.
        self.delivery = Delivery::default();
        new.apply_credentials();
        let old = self.start(new, loaded.entry, loaded.stack)?;
        let family = Arc::clone(&old.family);
        family.show(self.process());
        let old = sole(old);
        family.replaced(old, counters)?;
        Ok(())
    }
}
