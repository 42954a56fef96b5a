//! shmget(2), shmat(2), shmdt(2), shmctl(2) (Linux's `ipc/shm.c`). Who may do what goes by who asks
//! ([`Asker`](crate::segments::Asker)).

use std::sync::Arc;

use super::{Call, done};
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::backing::{
    Backing, BackingName, HugeMemory, LONGEST, SharedMemory, Stays, huge_page_size,
};
use crate::error::{CallResult, Errno};
use crate::promise::Payer;
use crate::segments::{Absent, LARGEST, MOST, Present, Segment, Status, Wanted};
use crate::space::{AddressSpace, AttachAt, AttachFlags};
use crate::vma::VmFlags;
use crate::vma::limits::{Capabilities, Resource};

const IPC_CREAT: i32 = 0o1000;
const IPC_EXCL: i32 = 0o2000;
const SHM_HUGETLB: i32 = 0o4000;
const SHM_NORESERVE: i32 = 0o10_000;
/// Where the logarithm of the size of huge pages is, and its bits.
const HUGE_SHIFT: i32 = 26;
const HUGE_MASK: i32 = 0x3f;

const IPC_RMID: i32 = 0;
const IPC_SET: i32 = 1;
const IPC_STAT: i32 = 2;
const IPC_INFO: i32 = 3;
const SHM_LOCK: i32 = 11;
const SHM_UNLOCK: i32 = 12;
const SHM_STAT: i32 = 13;
const SHM_INFO: i32 = 14;
const SHM_STAT_ANY: i32 = 15;

/// Reading, for everybody (`S_IRUGO`).
const READ: u32 = 0o444;

/// Bytes of a `struct shmid64_ds`.
const STATUS_BYTES: usize = 112;

/// shmget(2).
///
/// # Errors
/// As of [`Segments::get`](crate::segments::Segments::get), with these for its memory: `EINVAL` no huge pages of that
/// size, or longer than any file; `ENOMEM` the commit limit, or no huge pages.
pub(super) fn shmget(c: &Call<'_>) -> CallResult<u64> {
    let (key, len, flags) = (c.int(0), c.args[1], c.int(2));
    let absent = if flags & IPC_CREAT == 0 { Absent::Refuse } else { Absent::Make };
    let exclusive = flags & (IPC_CREAT | IPC_EXCL) == IPC_CREAT | IPC_EXCL;
    let present = if exclusive { Present::Refuse } else { Present::Tell };
    let wanted = Wanted { key, len, mode: flags.cast_unsigned() & 0o777, asker: c.caller.asker() };
    let space = c.caller.space().look();
    let make = |id: i32| memory(&space, &wanted, id, flags);
    let id = space.system().segments().get(&wanted, absent, present, make)?;
    Ok(number(id))
}

/// A number that is not negative, as a result.
fn number(id: i32) -> u64 {
    u64::from(id.unsigned_abs())
}

/// What a new segment's bytes are in (`newseg`).
fn memory(
    space: &AddressSpace,
    wanted: &Wanted,
    id: i32,
    flags: i32,
) -> Result<Arc<dyn Backing>, Errno> {
    let system = space.system();
    let path = format!("/SYSV{:08x} (deleted)", wanted.key);
    let name = BackingName { major: 0, minor: 1, inode: number(id), path };
    let unreserved = flags & SHM_NORESERVE != 0;
    if flags & SHM_HUGETLB != 0 {
        let log2 = u64::from((flags >> HUGE_SHIFT & HUGE_MASK).unsigned_abs());
        let pool = huge_page_size(log2).and_then(|size| system.huge_pool(size));
        let pool = pool.ok_or(Errno::EINVAL)?;
        let len = wanted.len.checked_next_multiple_of(pool.page_size()).ok_or(Errno::EINVAL)?;
        let flags = if unreserved { VmFlags::NORESERVE } else { VmFlags::empty() };
        return Ok(Arc::new(HugeMemory::segment(pool, len, name, flags)?));
    }
    if wanted.len > LONGEST {
        return Err(Errno::EINVAL);
    }
    let pages = wanted.len.div_ceil(PAGE_SIZE);
    let memory = SharedMemory::file(Arc::clone(system.frames()), pages, name);
    let memory = if unreserved && system.sysctl.honours_noreserve() {
        memory.promised_by_page(system.no_promise())
    } else {
        memory.promised(space.promise(pages)?)
    };
    Ok(memory.swappable(system))
}

/// shmat(2).
///
/// # Errors
/// In this order: `EINVAL` a negative number, or as of [`AttachAt::new`]; `EINVAL` no such segment; `EACCES`; `EIDRM` it has
/// gone meanwhile; as of [`AddressSpace::attach`].
pub(super) fn shmat(c: &Call<'_>) -> CallResult<u64> {
    let flags = AttachFlags::from_bits_truncate(c.int(2).cast_unsigned());
    if c.int(0) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let at = AttachAt::new(c.address(1), flags)?;
    let space = c.caller.space();
    let system = Arc::clone(space.look().system());
    let (segment, status) = system.segments().find(c.int(0))?;
    if !c.caller.asker().may(&status, flags.asked()) {
        return Err(Errno::EACCES.into());
    }
    // It is there until this is dropped, after the lock.
    let _attached = segment.attach()?;
    let attached = space.change().attach(&segment, at, flags);
    c.served(attached.map(VirtAddr::get))
}

/// shmdt(2).
pub(super) fn shmdt(c: &Call<'_>) -> CallResult<u64> {
    let detached = c.caller.space().change().detach(c.address(0));
    c.served(done(detached))
}

/// shmctl(2).
///
/// # Errors
/// In this order: `EINVAL` a negative number or command; `EFAULT` what is to be set; `EINVAL` an unknown command, no such
/// segment; `EACCES` it may not be looked at; `EPERM` it is another's to set, remove or lock, or locking without
/// `CAP_IPC_LOCK` where nothing may be locked; `EINVAL` no such user or group; `EFAULT`.
pub(super) fn shmctl(c: &Call<'_>) -> CallResult<u64> {
    let (id, command, at) = (c.int(0), c.int(1), c.address(2));
    if id < 0 || command < 0 {
        return Err(Errno::EINVAL.into());
    }
    let system = Arc::clone(c.caller.space().look().system());
    let segments = system.segments();
    match command {
        IPC_INFO => {
            let most = u64::from(MOST);
            c.write_words(at, &[LARGEST, 1, most, most, LARGEST, 0, 0, 0, 0])?;
            Ok(segments.highest().into())
        }
        SHM_INFO => {
            let now = segments.totals();
            // What was tried of the swap area, and with which success, Linux does not count any more.
            c.write_words(at, &[now.segments, now.pages, now.resident, now.swapped, 0, 0])?;
            Ok(segments.highest().into())
        }
        SHM_STAT | SHM_STAT_ANY => {
            let (segment, status) = segments.find_at(id)?;
            if command == SHM_STAT {
                may_look(c, &status)?;
            }
            c.write(at, &status_bytes(&segment, &status))?;
            Ok(number(segment.id()))
        }
        IPC_STAT => {
            let (segment, status) = segments.find(id)?;
            may_look(c, &status)?;
            done(c.write(at, &status_bytes(&segment, &status)))
        }
        IPC_SET => set(c, id, at),
        IPC_RMID => Ok(segments.remove(id, &c.caller.asker()).map(|()| 0)?),
        SHM_LOCK | SHM_UNLOCK => lock(c, id, command),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// `EACCES` where a segment may not be read.
fn may_look(c: &Call<'_>, status: &Status) -> Result<(), Errno> {
    if c.caller.asker().may(status, READ) { Ok(()) } else { Err(Errno::EACCES) }
}

/// A `struct shmid64_ds`.
fn status_bytes(segment: &Segment, status: &Status) -> [u8; STATUS_BYTES] {
    let mut bytes = [0; STATUS_BYTES];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &status.key.to_le_bytes());
    put(4, &status.owner.to_le_bytes());
    put(8, &status.group.to_le_bytes());
    put(12, &status.made_by.to_le_bytes());
    put(16, &status.made_by_group.to_le_bytes());
    put(20, &status.mode.to_le_bytes());
    put(24, &segment.sequence().to_le_bytes());
    put(48, &segment.len().to_le_bytes());
    put(56, &status.attached_at.to_le_bytes());
    put(64, &status.detached_at.to_le_bytes());
    put(72, &status.changed.to_le_bytes());
    put(80, &status.creator.to_le_bytes());
    put(84, &status.last.to_le_bytes());
    put(88, &status.attached.to_le_bytes());
    bytes
}

/// `IPC_SET`: owner, group and mode.
fn set(c: &Call<'_>, id: i32, at: VirtAddr) -> CallResult<u64> {
    let mut bytes = [0; STATUS_BYTES];
    c.read(at, &mut bytes)?;
    let field =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let system = Arc::clone(c.caller.space().look().system());
    let (owner, group, mode) = (field(4), field(8), field(20));
    Ok(system.segments().set(id, owner, group, mode, &c.caller.asker()).map(|()| 0)?)
}

/// `SHM_LOCK`, `SHM_UNLOCK`: whether its pages may leave memory (`shmctl_do_lock`). Huge pages never do.
fn lock(c: &Call<'_>, id: i32, command: i32) -> CallResult<u64> {
    let (system, unlimited, some) = {
        let space = c.caller.space().look();
        let unlimited = space.limits().may(Capabilities::IPC_LOCK);
        let some = space.limits().get(Resource::LockedMemory).soft != 0;
        (Arc::clone(space.system()), unlimited, some)
    };
    let (segment, status) = system.segments().find(id)?;
    let may_lock = c.caller.asker().has(&status) && (command == SHM_UNLOCK || some);
    if !unlimited && !may_lock {
        return Err(Errno::EPERM.into());
    }
    let Some(memory) = segment.object().shared_memory() else { return Ok(0) };
    let locks = command == SHM_LOCK;
    memory.stay(if locks { Stays::InMemory } else { Stays::Nowhere });
    let changed = system.segments().change(id, |status| {
        status.mode = status.mode & !Status::LOCKED | if locks { Status::LOCKED } else { 0 };
    });
    Ok(changed.map(|()| 0)?)
}
