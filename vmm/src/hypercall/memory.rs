//! The memory calls: [`mm::calls`] serves them, this is what it needs of a process.

use std::sync::{Arc, PoisonError};

use mm::backing::Backing;
use mm::calls::{Caller, Reach};
use mm::error::Errno;
use mm::segments::Asker;
use mm::space::{SharedSpace, SpaceUser};
use mm::userfault::Served;
use mm::vma::policy::Policy;

use super::descriptors::close_on_exec;
use super::{Context, Served as Answer};
use crate::credentials::By;
use crate::files::{Object, Open, UserfaultFile};
use crate::task::Process;

impl Caller for Process {
    fn space(&self) -> &SharedSpace {
        &self.space
    }

    fn pid(&self) -> i32 {
        self.pid
    }

    fn other(&self, pid: i32) -> Result<Option<SpaceUser>, Errno> {
        let process = self.family.process(pid).ok_or(Errno::ESRCH)?.upgrade();
        // It has its own use meanwhile.
        Ok(process.map(|process| process.space.share()))
    }

    fn may_reach(&self, pid: i32, reach: Reach) -> bool {
        let Some(other) = self.family.credentials(pid) else { return true };
        let own = self.credentials.get();
        let memory = || {
            let process = self.family.process(pid).and_then(|process| process.upgrade());
            process.map(|process| process.space.look().modes().dumpable)
        };
        match reach {
            Reach::Attach | Reach::Place => own.may_look_into(&other, memory(), By::Real),
            Reach::Advise => own.may_watch() || own.may_look_into(&other, memory(), By::Files),
            Reach::Limit => own.may_limit(&other),
        }
    }

    fn asker(&self) -> Asker {
        let own = self.credentials.get();
        let groups = own.groups().iter().copied().chain([own.gids.files]).collect();
        let (user, group) = (own.uids.effective, own.gids.effective);
        Asker { user, group, groups, capabilities: own.of_memory() }
    }

    fn process_behind(&self, fd: i32) -> Result<i32, Errno> {
        super::pidfd::behind(self, fd).map(|(pid, _)| pid)
    }

    fn file(&self, fd: i32) -> Result<Arc<dyn Backing>, Errno> {
        self.files.get(fd)?.to_map()
    }

    fn install(&self, served: Served, flags: i32) -> Result<i32, Errno> {
        install_userfault(self, UserfaultFile::new(served, flags, self.space.hold())?)
    }

    fn policy(&self) -> Option<Policy> {
        *self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_policy(&self, policy: Option<Policy>) {
        *self.policy.lock().unwrap_or_else(PoisonError::into_inner) = policy;
    }
}

/// The lowest free descriptor for a userfaultfd.
pub(super) fn install_userfault(process: &Process, file: UserfaultFile) -> Result<i32, Errno> {
    let flags = file.queue().flags();
    let open = Open::new(Object::Userfault(Arc::new(file)));
    open.set_status(flags)?;
    process.open_as(Arc::new(open), 0, close_on_exec(flags))
}

/// Any memory call; `ENOSYS` for a call that is not one.
pub(super) fn serve(c: &mut Context<'_>) -> Answer {
    match mm::calls::serve(c.process, c.number, c.args) {
        Some(result) => Ok(result?),
        None => {
            log::debug!("call {} is not served", c.number);
            Err(Errno::ENOSYS.into())
        }
    }
}
