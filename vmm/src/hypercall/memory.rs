//! The memory calls: [`mm::calls`] serves them, this is what it needs of a process.

use std::sync::{Arc, PoisonError};

use mm::backing::Backing;
use mm::calls::Caller;
use mm::error::Errno;
use mm::space::SharedSpace;
use mm::vma::Userfault;
use mm::vma::policy::Policy;
use nix::libc;

use super::{Context, Served};
use crate::files::{Object, Open};
use crate::task::Process;

impl Caller for Process {
    fn space(&self) -> &SharedSpace {
        &self.space
    }

    fn pid(&self) -> i32 {
        self.pid
    }

    fn file(&self, fd: i32) -> Result<Arc<dyn Backing>, Errno> {
        self.files.get(fd)?.to_map()
    }

    fn install(&self, uffd: Arc<Userfault>, flags: i32) -> Result<i32, Errno> {
        let close_on_exec = if flags & libc::O_CLOEXEC == 0 { 0 } else { libc::FD_CLOEXEC };
        self.files.insert(Arc::new(Open::new(Object::Userfault(uffd))), 0, close_on_exec)
    }

    fn policy(&self) -> Option<Policy> {
        *self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_policy(&self, policy: Option<Policy>) {
        *self.policy.lock().unwrap_or_else(PoisonError::into_inner) = policy;
    }
}

/// Any memory call; `ENOSYS` for a call that is not one.
pub(super) fn serve(c: &mut Context<'_>) -> Served {
    match mm::calls::serve(c.process, c.number, c.args) {
        Some(result) => Ok(result?),
        None => {
            log::debug!("call {} is not served", c.number);
            Err(Errno::ENOSYS.into())
        }
    }
}
