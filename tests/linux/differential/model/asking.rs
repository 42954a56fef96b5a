//! Who asks a userfaultfd: its argument is where nothing else is, all other memory the process's.

use std::cell::RefCell;
use std::sync::Arc;

use mm::addr::VirtAddr;
use mm::backing::Backing;
use mm::calls::Caller;
use mm::error::{AccessError, Errno, Fault};
use mm::space::SharedSpace;
use mm::userfault::Served;
use mm::vma::policy::Policy;

/// Where the argument is.
pub(super) const ARGUMENT: VirtAddr = VirtAddr::new(0xffff_8000_0000_0000);

pub(super) struct Asking<'a> {
    pub(super) space: &'a SharedSpace,
    pub(super) argument: RefCell<[u64; 5]>,
}

impl Asking<'_> {
    /// The bytes of the argument from an address on, if it is there.
    fn at(&self, at: VirtAddr, len: usize) -> Option<std::ops::Range<usize>> {
        let from = usize::try_from(at.get().checked_sub(ARGUMENT.get())?).ok()?;
        (from + len <= 40).then_some(from..from + len)
    }
}

impl Caller for Asking<'_> {
    fn space(&self) -> &SharedSpace {
        self.space
    }

    fn pid(&self) -> i32 {
        0
    }

    fn read(&self, from: VirtAddr, into: &mut [u8]) -> Result<(), AccessError> {
        let Some(range) = self.at(from, into.len()) else { return self.space.read(from, into) };
        let bytes = self.argument.borrow().map(u64::to_le_bytes);
        into.copy_from_slice(&bytes.as_flattened()[range]);
        Ok(())
    }

    fn write(&self, to: VirtAddr, bytes: &[u8]) -> Result<(), AccessError> {
        let range = self.at(to, bytes.len()).ok_or(Fault::NotMapped(to))?;
        let mut all = self.argument.borrow().map(u64::to_le_bytes);
        all.as_flattened_mut()[range].copy_from_slice(bytes);
        *self.argument.borrow_mut() = all.map(u64::from_le_bytes);
        Ok(())
    }

    fn file(&self, _: i32) -> Result<Arc<dyn Backing>, Errno> {
        Err(Errno::EBADF)
    }

    fn install(&self, _: Served, _: i32) -> Result<i32, Errno> {
        Err(Errno::EMFILE)
    }

    fn policy(&self) -> Option<Policy> {
        None
    }

    fn set_policy(&self, _: Option<Policy>) {}
}
