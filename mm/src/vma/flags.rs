//! The flag words of Linux's memory calls and of its VMAs, with Linux's values.

use bitflags::bitflags;

use crate::paging::{Access, AccessKind};

bitflags! {
    /// `PROT_*` of mmap(2) and mprotect(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Prot: u64 {
        /// Pages may be read.
        const READ = 0x1;
        /// Pages may be written.
        const WRITE = 0x2;
        /// Pages may be executed.
        const EXEC = 0x4;
        /// Accepted and ignored on x86 (`PROT_SEM`).
        const SEM = 0x8;
        /// mprotect: extend the change to the start of a growsdown VMA.
        const GROWSDOWN = 0x0100_0000;
        /// mprotect: extend the change to the end of a growsup VMA.
        const GROWSUP = 0x0200_0000;
    }
}

bitflags! {
    /// `MAP_*` of mmap(2), without the type in the low four bits, which is [`MapType`].
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct MapFlags: u64 {
        /// Exactly there, replacing what is.
        const FIXED = 0x10;
        /// Not from a file.
        const ANONYMOUS = 0x20;
        /// Below 2 GiB.
        const BIT32 = 0x40;
        /// Grows when the page below it is touched.
        const GROWSDOWN = 0x0100;
        /// Ignored (`MAP_DENYWRITE`).
        const DENYWRITE = 0x0800;
        /// Ignored (`MAP_EXECUTABLE`).
        const EXECUTABLE = 0x1000;
        /// Locked in memory.
        const LOCKED = 0x2000;
        /// Not accounted against the commit limit.
        const NORESERVE = 0x4000;
        /// Faulted in at once.
        const POPULATE = 0x8000;
        /// With `POPULATE`: do not.
        const NONBLOCK = 0x1_0000;
        /// A hint that the program's stack goes there; no effect but on huge pages.
        const STACK = 0x2_0000;
        /// From the pool of huge pages.
        const HUGETLB = 0x4_0000;
        /// Only with a file that supports it.
        const SYNC = 0x8_0000;
        /// Exactly there, or `EEXIST`.
        const FIXED_NOREPLACE = 0x10_0000;
        /// Accepted and without meaning here (`MAP_UNINITIALIZED`).
        const UNINITIALIZED = 0x400_0000;
    }
}

/// The mapping's type: the low four bits of mmap's flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapType {
    /// Writes are seen by everyone who maps the object.
    Shared,
    /// Writes are the program's own.
    Private,
    /// Like shared; unknown flags are refused.
    SharedValidate,
}

impl MapType {
    /// From mmap's flags; `None` for a type that Linux refuses with `EINVAL`.
    #[must_use]
    pub fn from_flags(flags: u64) -> Option<Self> {
        match flags & 0xf {
            1 => Some(MapType::Shared),
            2 => Some(MapType::Private),
            3 => Some(MapType::SharedValidate),
            _ => None,
        }
    }
}

bitflags! {
    /// `VM_*` of a VMA (Linux's `include/linux/mm.h`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct VmFlags: u64 {
        /// May be read now.
        const READ = 0x1;
        /// May be written now.
        const WRITE = 0x2;
        /// May be executed now.
        const EXEC = 0x4;
        /// Writes go to the object.
        const SHARED = 0x8;
        /// mprotect may set `READ`.
        const MAYREAD = 0x10;
        /// mprotect may set `WRITE`.
        const MAYWRITE = 0x20;
        /// mprotect may set `EXEC`.
        const MAYEXEC = 0x40;
        /// Could be shared.
        const MAYSHARE = 0x80;
        /// Grows downwards on a touch below.
        const GROWSDOWN = 0x100;
        /// Locked in memory.
        const LOCKED = 0x2000;
        /// Not copied by fork.
        const DONTCOPY = 0x2_0000;
        /// Cannot grow by mremap.
        const DONTEXPAND = 0x4_0000;
        /// Charged against the commit limit.
        const ACCOUNT = 0x10_0000;
        /// Not charged on the program's wish.
        const NORESERVE = 0x20_0000;
        /// Written since the last time it was asked.
        const SOFTDIRTY = 0x800_0000;
        /// Never a huge page.
        const NOHUGEPAGE = 0x4000_0000;
        /// Huge pages are welcome.
        const HUGEPAGE = 0x2000_0000;
    }
}

impl VmFlags {
    /// The three that decide an access.
    pub const ACCESS: VmFlags = VmFlags::READ.union(VmFlags::WRITE).union(VmFlags::EXEC);
    /// What the `PROT_*` bits of a call become (Linux's `calc_vm_prot_bits`).
    #[must_use]
    pub fn from_prot(prot: Prot) -> Self {
        VmFlags::from_bits_truncate(prot.bits()) & VmFlags::ACCESS
    }

    /// The `MAY` flags that the access flags need: what mprotect(2) checks.
    #[must_use]
    pub fn needed_may(self) -> Self {
        VmFlags::from_bits_truncate((self & VmFlags::ACCESS).bits() << 4)
    }

    /// Whether an access of the kind is allowed. x86 without protection keys has no execute-only
    /// pages and no write-only ones: any of the three lets a page be read
    /// (`access_error` in Linux's `arch/x86/mm/fault.c`).
    #[must_use]
    pub fn allows(self, kind: AccessKind) -> bool {
        match kind {
            AccessKind::Read => self.intersects(VmFlags::ACCESS),
            AccessKind::Write => self.contains(VmFlags::WRITE),
            AccessKind::Execute => self.contains(VmFlags::EXEC),
        }
    }

    /// What a page-table entry of a page that the process may write in place lets it do.
    #[must_use]
    pub fn page_access(self) -> Access {
        let mut access = Access::empty();
        access.set(Access::READ, self.allows(AccessKind::Read));
        access.set(Access::WRITE, self.allows(AccessKind::Write));
        access.set(Access::EXECUTE, self.allows(AccessKind::Execute));
        access
    }

    /// Whether writes stay the process's own: Linux's `is_cow_mapping`.
    #[must_use]
    pub fn is_private_writable(self) -> bool {
        self.contains(VmFlags::MAYWRITE) && !self.contains(VmFlags::SHARED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_only_or_execute_only_page_can_be_read() {
        for flags in [VmFlags::READ, VmFlags::WRITE, VmFlags::EXEC] {
            assert!(flags.allows(AccessKind::Read));
        }
        assert!(!VmFlags::empty().allows(AccessKind::Read));
        assert!(!VmFlags::READ.allows(AccessKind::Execute));
    }
}
