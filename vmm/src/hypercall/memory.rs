//! The memory calls: [`mm::calls`] serves them, this is what it needs of a process.

use std::sync::{Arc, PoisonError};

use mm::backing::Backing;
use mm::calls::Caller;
use mm::error::Errno;
use mm::space::{SharedSpace, SpaceUser};
use mm::userfault::Served;
use mm::vma::policy::Policy;

use super::descriptors::close_on_exec;
use super::{Context, Served as Answer};
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
