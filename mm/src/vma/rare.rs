//! What few VMAs have: a memory policy, a name, a userfaultfd, a promise of huge pages. It lies apart, behind one pointer, so that
//! a VMA is one cache line: with many of them, what a call costs is mostly the lines that it has to wait
//! for.

use std::sync::Arc;

use super::area::Vma;
use super::policy::Policy;
use crate::addr::VirtAddr;
use crate::backing::HugePromise;
use crate::userfault::Userfault;

/// What a VMA has beside what all have. Never changed: VMAs that were cut from one another share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Rare {
    policy: Option<Policy>,
    name: Option<Arc<str>>,
    userfault: Option<Arc<Userfault>>,
    promise: Option<Arc<HugePromise>>,
}

impl Rare {
    fn is_empty(&self) -> bool {
        self.policy.is_none()
            && self.name.is_none()
            && self.userfault.is_none()
            && self.promise.is_none()
    }

    /// What a child has of it.
    pub(super) fn for_child(self: &Arc<Rare>) -> Option<Arc<Rare>> {
        if self.userfault.is_none() && self.promise.is_none() {
            return Some(Arc::clone(self));
        }
        let rare = Rare { userfault: None, promise: None, ..Rare::clone(self) };
        (!rare.is_empty()).then(|| Arc::new(rare))
    }

    /// Equal policies, equal names, the same userfaultfd. VMAs with a promise do not merge.
    fn agrees_with(&self, other: &Rare) -> bool {
        let userfaults = match (&self.userfault, &other.userfault) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        userfaults && self.policy == other.policy && self.name == other.name
    }
}

impl Vma {
    /// From which nodes pages come, if the program said so (Linux's `vm_policy`).
    #[must_use]
    pub fn policy(&self) -> Option<&Policy> {
        self.rare.as_ref()?.policy.as_ref()
    }

    /// The policy of the memory at an address in the VMA; `None` for the running task's (Linux's `__get_vma_policy`).
    #[must_use]
    pub fn policy_of(&self, addr: VirtAddr) -> Option<Policy> {
        match self.backing.as_ref().and_then(|backing| backing.policies()) {
            Some(shared) => shared.of(self.page_index(addr)),
            None => self.policy().copied(),
        }
    }

    /// The name of anonymous memory, if the program gave one (`PR_SET_VMA_ANON_NAME`).
    #[must_use]
    pub fn name(&self) -> Option<&Arc<str>> {
        self.rare.as_ref()?.name.as_ref()
    }

    /// The userfaultfd that is told of its faults.
    #[must_use]
    pub fn userfault(&self) -> Option<&Arc<Userfault>> {
        self.rare.as_ref()?.userfault.as_ref()
    }

    /// What it has been promised of the pool of huge pages, if it is private.
    pub(crate) fn promise(&self) -> Option<&Arc<HugePromise>> {
        self.rare.as_ref()?.promise.as_ref()
    }

    /// Sets or takes away the promise of huge pages.
    pub(crate) fn set_promise(&mut self, promise: Option<Arc<HugePromise>>) {
        if promise.is_some() || self.promise().is_some() {
            self.change_rare(|rare| rare.promise = promise);
        }
    }

    /// Sets or takes away the policy.
    pub fn set_policy(&mut self, policy: Option<Policy>) {
        self.change_rare(|rare| rare.policy = policy);
    }

    /// Sets or takes away the name.
    pub fn set_name(&mut self, name: Option<Arc<str>>) {
        self.change_rare(|rare| rare.name = name);
    }

    /// Sets or takes away the userfaultfd.
    pub fn set_userfault(&mut self, userfault: Option<Arc<Userfault>>) {
        if userfault.is_some() || self.userfault().is_some() {
            self.change_rare(|rare| rare.userfault = userfault);
        }
    }

    /// Whether policy, name and userfaultfd are those of `other`.
    pub(super) fn has_rare_of(&self, other: &Vma) -> bool {
        match (&self.rare, &other.rare) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a.agrees_with(b),
            _ => false,
        }
    }

    fn change_rare(&mut self, change: impl FnOnce(&mut Rare)) {
        let mut rare = self.rare.as_deref().cloned().unwrap_or_default();
        change(&mut rare);
        self.rare = (!rare.is_empty()).then(|| Arc::new(rare));
    }
}
