//! How an address space behaves beyond its VMAs: personality(2), prctl(2), and what mlockall(2) and
//! fork(2) carry on (Linux's `def_flags` and `MMF_*`).

use std::sync::Arc;

use super::AddressSpace;
use super::merge_any::MergeAny;
use super::range::CallRange;
use crate::addr::VirtAddr;
use crate::error::{CallResult, Errno};
use crate::vma::{VmFlags, Vma};

/// `READ_IMPLIES_EXEC` of personality(2).
pub(super) const READ_IMPLIES_EXEC: u32 = 0x0040_0000;

/// `ADDR_COMPAT_LAYOUT` of personality(2).
pub const ADDR_COMPAT_LAYOUT: u32 = 0x0020_0000;

/// Whether memory may be writable and executable (`PR_SET_MDWE`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mdwe {
    /// It may.
    #[default]
    Off,
    /// It may not, nor in children.
    RefuseExecGain,
    /// It may not; children may.
    RefuseExecGainNotInherited,
}

/// How an address space behaves beyond its VMAs.
#[derive(Clone, Debug)]
pub struct Modes {
    /// The process's personality(2).
    pub personality: u32,
    /// What every new mapping has as well: `LOCKED` after `mlockall(MCL_FUTURE)`.
    pub default_flags: VmFlags,
    /// `PR_SET_MDWE`.
    pub mdwe: Mdwe,
    /// `PR_SET_THP_DISABLE`, as the call was given it: 0 for off.
    pub thp_disabled: u64,
    /// Whether the process may leave a core file (`PR_SET_DUMPABLE`).
    pub dumpable: Dumpable,
    /// Which memory a core file has, a bit each (`/proc/PID/coredump_filter`, core(5)).
    pub core_filter: u32,
    /// `PR_SET_MEMORY_MERGE`.
    pub merge_any: MergeAny,
    /// Which barriers it is registered for: the bits of the commands that did it (membarrier(2)).
    pub barriers: u32,
}

/// Whether a process may leave a core file (`MMF_DUMPABLE_MASK`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Dumpable {
    /// It may not.
    No,
    /// It may, as its user.
    #[default]
    Yes,
}

/// Anonymous memory, the first page of ELF files, private huge pages (`MMF_DUMP_FILTER_DEFAULT`).
const CORE_FILTER_DEFAULT: u32 = 0x33;

impl Default for Modes {
    fn default() -> Self {
        Modes {
            personality: 0,
            default_flags: VmFlags::empty(),
            mdwe: Mdwe::Off,
            thp_disabled: 0,
            dumpable: Dumpable::Yes,
            core_filter: CORE_FILTER_DEFAULT,
            merge_any: MergeAny::No,
            barriers: 0,
        }
    }
}

impl Modes {
    /// Whether readable memory is executable too (an old program's wish).
    #[must_use]
    pub fn read_implies_exec(&self) -> bool {
        self.personality & READ_IMPLIES_EXEC != 0
    }

    /// Whether maps are placed from the bottom up, as old programs have it.
    #[must_use]
    pub fn compat_layout(&self) -> bool {
        self.personality & ADDR_COMPAT_LAYOUT != 0
    }

    /// Whether changing memory from `old` to `new` flags is denied (Linux's `map_deny_write_exec`).
    pub(super) fn denies_write_exec(&self, old: VmFlags, new: VmFlags) -> bool {
        self.mdwe != Mdwe::Off
            && new.contains(VmFlags::EXEC)
            && (new.contains(VmFlags::WRITE) || !old.contains(VmFlags::EXEC))
    }

    /// A forked child's: of the default flags what `VM_INIT_DEF_MASK` keeps, of the rest all but a MDWE
    /// that is not for children (Linux's `mmf_init_legacy_flags`, `MMF_INIT_LEGACY_MASK`).
    pub(super) fn inherited(&self) -> Self {
        let mdwe = match self.mdwe {
            Mdwe::RefuseExecGainNotInherited => Mdwe::Off,
            mdwe => mdwe,
        };
        Modes { mdwe, default_flags: self.default_flags & VmFlags::NOHUGEPAGE, ..self.clone() }
    }
}

/// `PR_MDWE_REFUSE_EXEC_GAIN`.
const REFUSE_EXEC_GAIN: u64 = 1;
/// `PR_MDWE_NO_INHERIT`.
const NO_INHERIT: u64 = 2;
/// The longest name of anonymous memory, its end included (`ANON_VMA_NAME_MAX_LEN`).
const NAME_MAX: usize = 80;

impl AddressSpace {
    /// How it behaves, to be changed: personality(2).
    pub fn modes_mut(&mut self) -> &mut Modes {
        &mut self.modes
    }

    /// `prctl(PR_SET_MDWE, bits, rest...)`: from here on no memory becomes executable that is or was
    /// writable.
    ///
    /// # Errors
    /// `EINVAL`: unknown bits, bits after them, or `NO_INHERIT` alone. `EPERM`: it was set otherwise.
    /// Source: PR_SET_MDWE(2const), Linux's `prctl_set_mdwe`.
    pub fn set_mdwe(&mut self, bits: u64, rest: [u64; 3]) -> CallResult<()> {
        let wanted = match bits {
            _ if rest != [0; 3] || bits & !(REFUSE_EXEC_GAIN | NO_INHERIT) != 0 => {
                return Err(Errno::EINVAL.into());
            }
            NO_INHERIT => return Err(Errno::EINVAL.into()),
            0 => Mdwe::Off,
            REFUSE_EXEC_GAIN => Mdwe::RefuseExecGain,
            _ => Mdwe::RefuseExecGainNotInherited,
        };
        if self.modes.mdwe != Mdwe::Off && self.modes.mdwe != wanted {
            return Err(Errno::EPERM.into());
        }
        self.modes.mdwe = wanted;
        Ok(())
    }

    /// `prctl(PR_GET_MDWE, rest...)`.
    ///
    /// # Errors
    /// `EINVAL`: an argument is not 0. Source: PR_GET_MDWE(2const).
    pub fn mdwe(&self, rest: [u64; 4]) -> CallResult<u64> {
        if rest != [0; 4] {
            return Err(Errno::EINVAL.into());
        }
        Ok(match self.modes.mdwe {
            Mdwe::Off => 0,
            Mdwe::RefuseExecGain => REFUSE_EXEC_GAIN,
            Mdwe::RefuseExecGainNotInherited => REFUSE_EXEC_GAIN | NO_INHERIT,
        })
    }

    /// `prctl(PR_SET_THP_DISABLE, disable, flags, rest...)`: no huge pages in this process.
    ///
    /// # Errors
    /// `EINVAL`: unknown flags, or arguments after them. Source: PR_SET_THP_DISABLE(2const).
    pub fn set_thp_disable(&mut self, disable: u64, flags: u64, rest: [u64; 2]) -> CallResult<()> {
        /// `PR_THP_DISABLE_EXCEPT_ADVISED`.
        const EXCEPT_ADVISED: u64 = 2;
        if rest != [0; 2] || flags & !EXCEPT_ADVISED != 0 || disable == 0 && flags != 0 {
            return Err(Errno::EINVAL.into());
        }
        self.thp_changes()?;
        self.modes.thp_disabled = if disable == 0 { 0 } else { 1 | flags };
        Ok(())
    }

    /// `prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, addr, len, name)`: names anonymous memory, or takes
    /// the name away. `name` without the byte 0 at its end.
    ///
    /// # Errors
    /// In this order: `EINVAL` a name too long, or with a byte that is not printable, or one of
    /// `[ ] \ $` and the grave accent; `EINVAL` address unaligned, length overflows; `EBADF` memory of a
    /// file; `EAGAIN` too many VMAs, or no memory for one more; `ENOMEM` a hole, after the rest is named.
    /// Source: PR_SET_VMA(2const), Linux's `madvise_set_anon_name`.
    pub fn set_name(&mut self, addr: VirtAddr, len: u64, name: Option<&[u8]>) -> CallResult<()> {
        let name = match name {
            None => None,
            Some(bytes) => Some(check_name(bytes)?),
        };
        let Some(range) = CallRange::aligned(addr, len)? else { return Ok(()) };
        let unnamed = name.is_none();
        self.walk(range, |space, vma_range| {
            let vma = space.vmas.find_exact(vma_range.start()).ok_or(Errno::ENOMEM)?;
            if vma.backing.as_ref().is_some_and(|backing| !backing.is_shared_anonymous()) {
                return Err(Errno::EBADF.into());
            }
            if unnamed && vma.name().is_none() || vma.name() == name.as_ref() {
                return Ok(vma.range().end().min(vma_range.end()));
            }
            let old = vma.flags;
            let mut changed: Vma = vma.part(vma_range);
            changed.set_name(name.clone());
            space.modify(changed, old).map_err(super::advise::later)
        })
    }
}

/// Linux's `is_valid_name_char` for a whole name.
fn check_name(bytes: &[u8]) -> Result<Arc<str>, Errno> {
    let valid = |&byte: &u8| {
        byte > 0x1f && byte < 0x7f && !matches!(byte, b'\\' | b'`' | b'$' | b'[' | b']')
    };
    if bytes.len() >= NAME_MAX || !bytes.iter().all(valid) {
        return Err(Errno::EINVAL);
    }
    Ok(Arc::from(String::from_utf8_lossy(bytes)))
}
