//! A memory call's arguments, handed to the address space: what the system-call entry does in Linux.

use super::{Linux, Task};
use crate::addr::{TASK_SIZE, VirtAddr};
use crate::error::{Broken, CallError, CallResult, Errno};
use crate::replay::calls::{IoVec, Limit as RecordedLimit, MemoryCall, Pointee};
use crate::space::{MapRequest, RemapRequest};
use crate::vma::limits::{Capabilities, Limit};
use crate::vma::{MapFlags, Prot};

/// `RLIMIT_DATA`, `RLIMIT_STACK`, `RLIMIT_MEMLOCK`, `RLIMIT_AS`.
const DATA: u64 = 2;
const STACK: u64 = 3;
const MEMLOCK: u64 = 8;
const ADDRESS_SPACE: u64 = 9;
/// `PIDFD_SELF_THREAD`, `PIDFD_SELF_THREAD_GROUP`.
const PIDFD_SELF: [i32; 2] = [-10000, -10001];
/// Resources are numbered below.
const RESOURCES: u64 = 16;

/// `UIO_MAXIOV`.
const MAX_RANGES: usize = 1024;
/// `MAX_RW_COUNT`.
const MAX_TRANSFER: u64 = 0x7fff_f000;

/// What a call answers beside its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// Nothing.
    Nothing,
    /// mincore's vector.
    Resident(Vec<u8>),
    /// A limit.
    Limit(RecordedLimit),
    /// get_mempolicy's mode and nodes, each if it was asked for.
    Policy(Option<u64>, Option<Vec<u64>>),
}

/// The result of a call that is modelled; `None` for one that is not.
pub(super) type Answered = Option<(Result<u64, Errno>, Written)>;

impl Linux {
    /// Performs a memory call.
    ///
    /// # Errors
    /// [`Broken`] only: what the program gets is in the answer.
    pub fn call(&mut self, task: Task, call: &MemoryCall) -> Result<Answered, Broken> {
        match self.try_call(task, call) {
            Ok(answer) => Ok(answer.map(|(value, written)| (Ok(value), written))),
            Err(CallError::Errno(errno)) => Ok(Some((Err(errno), Written::Nothing))),
            Err(CallError::Broken(broken)) => Err(broken),
        }
    }

    fn try_call(&mut self, task: Task, call: &MemoryCall) -> CallResult<Option<(u64, Written)>> {
        use MemoryCall as M;
        let space = self.space(task)?;
        let mut space = space.change();
        let done = |result: CallResult<()>| result.map(|()| 0);
        let value = match *call {
            M::Mmap { addr, len, prot, flags, fd, offset } => {
                let flags = MapFlags::from_bits_retain(flags);
                let file = if flags.contains(MapFlags::ANONYMOUS) {
                    None
                } else {
                    Some(self.files(task)?.to_map(fd)?)
                };
                let prot = Prot::from_bits_retain(prot);
                space.mmap(&MapRequest { addr, len, prot, flags, file, offset })?.get()
            }
            M::Munmap { addr, len } => done(space.munmap(addr, len))?,
            M::Mprotect { addr, len, prot } => {
                done(space.mprotect(addr, len, Prot::from_bits_retain(prot)))?
            }
            M::PkeyMprotect { addr, len, prot, pkey } => {
                done(space.pkey_mprotect(addr, len, Prot::from_bits_retain(prot), pkey))?
            }
            M::Mremap { addr, old_len, new_len, flags, new_addr } => {
                space.mremap(&RemapRequest { addr, old_len, new_len, flags, new_addr })?.get()
            }
            M::Brk { addr } => space.brk(addr)?.get(),
            M::RemapFilePages { addr, len, prot, pgoff, flags } => {
                done(space.remap_file_pages(addr, len, prot, pgoff, flags))?
            }
            M::Madvise { addr, len, advice } => done(space.madvise(addr, len, int(advice)))?,
            M::ProcessMadvise { pidfd, ref ranges, advice, flags, .. } => {
                drop(space);
                return self.process_madvise(task, pidfd, ranges, advice, flags).map(Some);
            }
            M::Mlock { addr, len } => done(space.mlock2(addr, len, 0))?,
            M::Mlock2 { addr, len, flags } => done(space.mlock2(addr, len, flags))?,
            M::Munlock { addr, len } => done(space.munlock(addr, len))?,
            M::Mlockall { flags } => done(space.mlockall(flags))?,
            M::Munlockall => {
                space.munlockall();
                0
            }
            M::Mseal { addr, len, flags } => done(space.mseal(addr, len, flags))?,
            M::Msync { addr, len, flags } => done(space.msync(addr, len, flags))?,
            M::Mincore { addr, len, .. } => {
                let pages = space.mincore(addr, len)?;
                return Ok(Some((0, Written::Resident(pages))));
            }
            M::Mbind { addr, len, mode, ref nodes, flags, .. } => {
                done(space.mbind(addr, len, mode, mask(nodes), flags))?
            }
            M::Prctl { option, args, ref name } => {
                return prctl(&mut space, option, args, name.as_ref().map(|text| &text.bytes[..]));
            }
            // Another process's; pids are not known here.
            M::Prlimit { pid, .. } if pid != 0 => return Ok(None),
            M::Prlimit { resource, ref new, ref old, .. } => {
                return set_limit(&mut space, resource, new, *old != Pointee::Null);
            }
            M::Setrlimit { resource, ref new } => {
                return set_limit(&mut space, resource, new, false);
            }
            M::Getrlimit { resource, .. } => {
                return set_limit(&mut space, resource, &Pointee::Null, true);
            }
            M::Personality { persona } => {
                let persona = persona as u32;
                let before = space.modes().personality;
                if persona != u32::MAX {
                    space.modes_mut().personality = persona;
                }
                u64::from(before)
            }
            M::Userfaultfd { .. } => {
                drop(space);
                return Ok(Some((self.new_userfault(task)?, Written::Nothing)));
            }
            M::SetMempolicy { mode, ref nodes, .. } => {
                drop(space);
                return self.set_policy(task, mode, mask(nodes)).map(Some);
            }
            M::GetMempolicy { ref mode, ref nodes, addr, flags, .. } => {
                let wanted = (*mode != Pointee::Null, *nodes != Pointee::Null);
                drop(space);
                return self.get_policy(task, wanted, addr, flags);
            }
            M::Shmget { .. } | M::Shmat { .. } | M::Shmdt { .. } | M::Shmctl { .. } => {
                return Ok(None);
            }
        };
        Ok(Some((value, Written::Nothing)))
    }

    /// process_madvise(2) on the caller itself.
    fn process_madvise(
        &mut self,
        task: Task,
        pidfd: i32,
        ranges: &Pointee<Vec<IoVec>>,
        advice: u64,
        flags: u64,
    ) -> CallResult<(u64, Written)> {
        if flags != 0 {
            return Err(Errno::EINVAL.into());
        }
        let ranges = import(ranges.shown().map(Vec::as_slice).unwrap_or_default())?;
        if !PIDFD_SELF.contains(&pidfd) {
            return Err(Errno::EBADF.into());
        }
        let space = self.space(task)?;
        let mut space = space.change();
        let (mut done, mut left) = (0, ranges.iter().map(|range| range.len).sum::<u64>());
        for range in ranges {
            // With nothing left to do, even the advice is not looked at.
            if left == 0 {
                break;
            }
            left -= range.len;
            match space.madvise(range.base, range.len, int(advice)) {
                Ok(()) => done += range.len,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok((done, Written::Nothing))
    }
}

/// Checks a list of ranges (Linux's `import_iovec`). A range alone is cut short at what one call can
/// transfer; in a list, what is over is left out at its end.
fn import(ranges: &[IoVec]) -> Result<Vec<IoVec>, Errno> {
    let mut left = MAX_TRANSFER;
    let mut imported = Vec::with_capacity(ranges.len());
    if ranges.len() > MAX_RANGES || ranges.iter().any(|range| range.len > i64::MAX as u64) {
        return Err(Errno::EINVAL);
    }
    for &IoVec { base, len } in ranges {
        let checked = if ranges.len() == 1 { len.min(left) } else { len };
        if base.get().saturating_add(checked) > TASK_SIZE {
            return Err(Errno::EFAULT);
        }
        let len = len.min(left);
        left -= len;
        imported.push(IoVec { base, len });
    }
    Ok(imported)
}

/// An `int` argument: the upper half of the register does not count.
fn int(word: u64) -> i32 {
    word as i32
}

/// A node mask's first word; no machine here has more nodes.
pub(super) fn mask(nodes: &Pointee<Vec<u64>>) -> u64 {
    nodes.shown().and_then(|words| words.first().copied()).unwrap_or(0)
}

fn prctl(
    space: &mut crate::space::AddressSpace,
    option: u64,
    args: [u64; 4],
    name: Option<&[u8]>,
) -> CallResult<Option<(u64, Written)>> {
    const PR_SET_MM: u64 = 35;
    const PR_SET_THP_DISABLE: u64 = 41;
    const PR_GET_THP_DISABLE: u64 = 42;
    const PR_SET_MDWE: u64 = 65;
    const PR_GET_MDWE: u64 = 66;
    const PR_SET_VMA: u64 = 0x5356_4d41;
    let [a, b, c, d] = args;
    let value = match option {
        PR_SET_MM => space.set_mm(a, VirtAddr::new(b)).map(|()| 0)?,
        PR_SET_THP_DISABLE => space.set_thp_disable(a, b, [c, d]).map(|()| 0)?,
        PR_GET_THP_DISABLE if args == [0; 4] => space.modes().thp_disabled,
        PR_SET_MDWE => space.set_mdwe(a, [b, c, d]).map(|()| 0)?,
        PR_GET_MDWE => space.mdwe(args)?,
        PR_SET_VMA if a == 0 => space.set_name(VirtAddr::new(b), c, name).map(|()| 0)?,
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(Some((value, Written::Nothing)))
}

/// prlimit64(2) on the caller itself (Linux's `do_prlimit`); `None` for a limit that memory does not
/// depend on.
fn set_limit(
    space: &mut crate::space::AddressSpace,
    resource: u64,
    new: &Pointee<RecordedLimit>,
    wants_old: bool,
) -> CallResult<Option<(u64, Written)>> {
    if resource >= RESOURCES {
        return Err(Errno::EINVAL.into());
    }
    if new.shown().is_some_and(|new| new.current > new.maximum) {
        return Err(Errno::EINVAL.into());
    }
    let may_raise = space.limits().may(Capabilities::SYS_RESOURCE);
    let limits = space.limits_mut();
    let limit = match resource {
        DATA => &mut limits.data,
        STACK => &mut limits.stack,
        MEMLOCK => &mut limits.memlock,
        ADDRESS_SPACE => &mut limits.address_space,
        _ => return Ok(None),
    };
    let old = RecordedLimit { current: limit.soft, maximum: limit.hard };
    if let Some(new) = new.shown() {
        if new.maximum > limit.hard && !may_raise {
            return Err(Errno::EPERM.into());
        }
        *limit = Limit { soft: new.current, hard: new.maximum };
    }
    Ok(Some((0, if wants_old { Written::Limit(old) } else { Written::Nothing })))
}
