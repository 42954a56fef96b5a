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
        // Whatever else a program passes survives to be refused.
        const _ = !0;
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
        /// Above 4 GiB.
        const ABOVE4G = 0x80;
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
        /// Which huge page size (`MAP_HUGE_MASK << MAP_HUGE_SHIFT`): its base-2 logarithm, 0 for the
        /// default.
        const HUGE_SIZE = 0x3f << 26;
        // Whatever else a program passes survives to be ignored or refused.
        const _ = !0;
    }
}

impl MapFlags {
    /// The bits that `MAP_SHARED_VALIDATE` knows (Linux's `LEGACY_MAP_MASK`), the type's included.
    pub const LEGACY: MapFlags = MapFlags::from_bits_retain(
        0x3 | MapFlags::FIXED.bits()
            | MapFlags::ANONYMOUS.bits()
            | MapFlags::BIT32.bits()
            | MapFlags::ABOVE4G.bits()
            | MapFlags::GROWSDOWN.bits()
            | MapFlags::DENYWRITE.bits()
            | MapFlags::EXECUTABLE.bits()
            | MapFlags::LOCKED.bits()
            | MapFlags::NORESERVE.bits()
            | MapFlags::POPULATE.bits()
            | MapFlags::NONBLOCK.bits()
            | MapFlags::STACK.bits()
            | MapFlags::HUGETLB.bits()
            | MapFlags::UNINITIALIZED.bits()
            | MapFlags::HUGE_SIZE.bits(),
    );

    /// The type in the low four bits; `None` for one that Linux refuses with `EINVAL`.
    #[must_use]
    pub fn map_type(self) -> Option<MapType> {
        match self.bits() & 0xf {
            1 => Some(MapType::Shared),
            2 => Some(MapType::Private),
            3 => Some(MapType::SharedValidate),
            8 => Some(MapType::Droppable),
            _ => None,
        }
    }
}

/// The mapping's type: the low four bits of mmap's flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapType {
    /// Writes are seen by everyone who maps the object (`MAP_SHARED`).
    Shared,
    /// Writes are the program's own (`MAP_PRIVATE`).
    Private,
    /// Like shared; unknown flags are refused (`MAP_SHARED_VALIDATE`).
    SharedValidate,
    /// Anonymous and private, and may vanish under memory pressure (`MAP_DROPPABLE`).
    Droppable,
}

impl From<MapType> for MapFlags {
    fn from(kind: MapType) -> Self {
        MapFlags::from_bits_retain(match kind {
            MapType::Shared => 1,
            MapType::Private => 2,
            MapType::SharedValidate => 3,
            MapType::Droppable => 8,
        })
    }
}

bitflags! {
    /// `VM_*` of a VMA (Linux's `include/linux/mm.h`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
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
        /// userfaultfd: missing pages are told.
        const UFFD_MISSING = 0x200;
        /// Pages without frame records: a device's, or the kernel's own.
        const PFNMAP = 0x400;
        /// Guard regions were installed in it (`MADV_GUARD_INSTALL`), and some may be there still.
        const MAYBE_GUARD = 0x800;
        /// userfaultfd: writes are told.
        const UFFD_WP = 0x1000;
        /// Locked in memory.
        const LOCKED = 0x2000;
        /// A device's memory.
        const IO = 0x4000;
        /// Will be read in order (`MADV_SEQUENTIAL`).
        const SEQ_READ = 0x8000;
        /// Will be read at random (`MADV_RANDOM`).
        const RAND_READ = 0x1_0000;
        /// Not copied by fork (`MADV_DONTFORK`).
        const DONTCOPY = 0x2_0000;
        /// Cannot grow by mremap.
        const DONTEXPAND = 0x4_0000;
        /// With `LOCKED`: only once touched.
        const LOCKONFAULT = 0x8_0000;
        /// Charged against the commit limit.
        const ACCOUNT = 0x10_0000;
        /// Not charged on the program's wish.
        const NORESERVE = 0x20_0000;
        /// Huge pages of the pool.
        const HUGETLB = 0x40_0000;
        /// Faults are synchronous with the file system (`MAP_SYNC`).
        const SYNC = 0x80_0000;
        /// Empty in the child of a fork (`MADV_WIPEONFORK`).
        const WIPEONFORK = 0x200_0000;
        /// Not in core files (`MADV_DONTDUMP`).
        const DONTDUMP = 0x400_0000;
        /// Written since the last time it was asked.
        const SOFTDIRTY = 0x800_0000;
        /// Pages with and without frame records.
        const MIXEDMAP = 0x1000_0000;
        /// Huge pages are welcome.
        const HUGEPAGE = 0x2000_0000;
        /// Never a huge page.
        const NOHUGEPAGE = 0x4000_0000;
        /// Equal pages may be shared (`MADV_MERGEABLE`).
        const MERGEABLE = 0x8000_0000;
        /// userfaultfd: pages that are there but not mapped are told.
        const UFFD_MINOR = 1 << 41;
        /// May vanish under memory pressure (`MAP_DROPPABLE`).
        const DROPPABLE = 1 << 40;
        /// Cannot be changed any more (mseal(2)).
        const SEALED = 1 << 42;
    }
}

/// smaps' two letters for each flag, in the order in which the line `VmFlags` has them: that of the
/// bits (`show_smap_vma_flags`).
const MNEMONICS: [(VmFlags, &str); 34] = [
    (VmFlags::READ, "rd"),
    (VmFlags::WRITE, "wr"),
    (VmFlags::EXEC, "ex"),
    (VmFlags::SHARED, "sh"),
    (VmFlags::MAYREAD, "mr"),
    (VmFlags::MAYWRITE, "mw"),
    (VmFlags::MAYEXEC, "me"),
    (VmFlags::MAYSHARE, "ms"),
    (VmFlags::GROWSDOWN, "gd"),
    (VmFlags::UFFD_MISSING, "um"),
    (VmFlags::PFNMAP, "pf"),
    (VmFlags::MAYBE_GUARD, "gu"),
    (VmFlags::UFFD_WP, "uw"),
    (VmFlags::LOCKED, "lo"),
    (VmFlags::IO, "io"),
    (VmFlags::SEQ_READ, "sr"),
    (VmFlags::RAND_READ, "rr"),
    (VmFlags::DONTCOPY, "dc"),
    (VmFlags::DONTEXPAND, "de"),
    (VmFlags::LOCKONFAULT, "lf"),
    (VmFlags::ACCOUNT, "ac"),
    (VmFlags::NORESERVE, "nr"),
    (VmFlags::HUGETLB, "ht"),
    (VmFlags::SYNC, "sf"),
    (VmFlags::WIPEONFORK, "wf"),
    (VmFlags::DONTDUMP, "dd"),
    (VmFlags::SOFTDIRTY, "sd"),
    (VmFlags::MIXEDMAP, "mm"),
    (VmFlags::HUGEPAGE, "hg"),
    (VmFlags::NOHUGEPAGE, "nh"),
    (VmFlags::MERGEABLE, "mg"),
    (VmFlags::DROPPABLE, "dp"),
    (VmFlags::UFFD_MINOR, "ui"),
    (VmFlags::SEALED, "sl"),
];

impl VmFlags {
    /// The three that decide an access.
    pub const ACCESS: VmFlags = VmFlags::READ.union(VmFlags::WRITE).union(VmFlags::EXEC);
    /// Which mprotect(2) may be set.
    pub const MAY: VmFlags = VmFlags::MAYREAD.union(VmFlags::MAYWRITE).union(VmFlags::MAYEXEC);
    /// What is never locked, whatever it is told (Linux's `vma_supports_mlock`).
    pub const UNLOCKABLE: VmFlags =
        VmFlags::SPECIAL.union(VmFlags::HUGETLB).union(VmFlags::DROPPABLE);
    /// What mlock2(2) sets (Linux's `VM_LOCKED_MASK`).
    pub const LOCKED_MASK: VmFlags = VmFlags::LOCKED.union(VmFlags::LOCKONFAULT);
    /// Such VMAs never merge, and many calls pass them over.
    pub const SPECIAL: VmFlags =
        VmFlags::IO.union(VmFlags::DONTEXPAND).union(VmFlags::PFNMAP).union(VmFlags::MIXEDMAP);
    /// What stays with memory that merges: VMAs merge although they differ in it, and what comes of them
    /// has it if one of them had (Linux's `VM_STICKY`).
    pub const STICKY: VmFlags = VmFlags::SOFTDIRTY.union(VmFlags::MAYBE_GUARD);
    /// What userfaultfd(2) sets (Linux's `__VM_UFFD_FLAGS`).
    pub const UFFD: VmFlags =
        VmFlags::UFFD_MISSING.union(VmFlags::UFFD_WP).union(VmFlags::UFFD_MINOR);
    /// A fresh heap or stack of data (Linux's `VM_DATA_FLAGS_TSK_EXEC` without the exec).
    pub const DATA_DEFAULT: VmFlags = VmFlags::READ.union(VmFlags::WRITE).union(VmFlags::MAY);

    /// What the `PROT_*` bits of a call become (Linux's `calc_vm_prot_bits`).
    #[must_use]
    pub fn from_prot(prot: Prot) -> Self {
        VmFlags::from_bits_truncate(prot.bits()) & VmFlags::ACCESS
    }

    /// What mmap's flags become directly (Linux's `calc_vm_flag_bits`).
    #[must_use]
    pub fn from_map(map: MapFlags) -> Self {
        let mut flags = VmFlags::empty();
        flags.set(VmFlags::GROWSDOWN, map.contains(MapFlags::GROWSDOWN));
        flags.set(VmFlags::LOCKED, map.contains(MapFlags::LOCKED));
        flags.set(VmFlags::SYNC, map.contains(MapFlags::SYNC));
        flags.set(VmFlags::NOHUGEPAGE, map.contains(MapFlags::STACK));
        flags
    }

    /// The `PROT_*` bits that would give these access flags.
    #[must_use]
    pub fn prot(self) -> Prot {
        Prot::from_bits_truncate((self & VmFlags::ACCESS).bits())
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

    /// smaps' letters for the flags, in its order: the line `VmFlags` (proc(5)).
    pub fn mnemonics(self) -> impl Iterator<Item = &'static str> {
        MNEMONICS.into_iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| name)
    }

    /// The flag of smaps' two letters.
    #[must_use]
    pub fn from_mnemonic(name: &str) -> Option<Self> {
        MNEMONICS.into_iter().find(|(_, known)| *known == name).map(|(flag, _)| flag)
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

    #[test]
    fn the_letters_of_smaps_name_every_flag_once() {
        for flag in VmFlags::all().iter() {
            let names: Vec<_> = flag.mnemonics().collect();
            assert_eq!(names.len(), 1, "{flag:?}");
            assert_eq!(VmFlags::from_mnemonic(names[0]), Some(flag));
        }
        assert_eq!(VmFlags::from_mnemonic("zz"), None);
    }
}
