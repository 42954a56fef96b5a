//! poll(2), ppoll(2), select(2), pselect(2): waiting for any of several descriptors (Linux's `fs/select.c`).
//!
//! What is ready without the host is known at once; the rest waits in one `ppoll` of the host's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mm::addr::VirtAddr;
use mm::error::Errno;
use nix::poll::{PollFd, PollFlags};

use super::pause::{continued, left};
use super::signals::SIGSET;
use super::{Context, Served, Stop, time, userfault};
use crate::files::{Object, Open};
use crate::task::{Continuation, Interrupted, Restart, SignalSet, rest};

/// What a regular file is ready for (`DEFAULT_POLLMASK`).
const ALWAYS: PollFlags = PollFlags::POLLIN
    .union(PollFlags::POLLOUT)
    .union(PollFlags::POLLRDNORM)
    .union(PollFlags::POLLWRNORM);

/// Events that select(2) counts as ready to read, ready to write, and exceptional (`POLLIN_SET` and its siblings).
const SETS: [PollFlags; 3] = [
    PollFlags::POLLIN
        .union(PollFlags::POLLRDNORM)
        .union(PollFlags::POLLRDBAND)
        .union(PollFlags::POLLHUP)
        .union(PollFlags::POLLERR)
        .union(PollFlags::POLLNVAL),
    PollFlags::POLLOUT
        .union(PollFlags::POLLWRNORM)
        .union(PollFlags::POLLWRBAND)
        .union(PollFlags::POLLERR)
        .union(PollFlags::POLLNVAL),
    PollFlags::POLLPRI.union(PollFlags::POLLNVAL),
];

/// What is waited for at one descriptor.
#[derive(Clone, Copy, Debug)]
struct Asked {
    fd: i32,
    events: PollFlags,
    /// What counts of what has happened.
    counts: PollFlags,
}

/// A descriptor as something to wait for.
enum Waitable {
    /// This is so, and stays so.
    Known(PollFlags),
    /// The host knows.
    Host(Arc<Open>, PollFlags),
}

fn waitable(c: &Context<'_>, asked: &Asked) -> Waitable {
    let Ok(open) = c.process.files.get(asked.fd) else {
        let ignored = asked.fd < 0;
        return Waitable::Known(if ignored { PollFlags::empty() } else { PollFlags::POLLNVAL });
    };
    match open.object() {
        Object::Place => return Waitable::Known(PollFlags::POLLNVAL),
        Object::Userfault(file) if !userfault::can_be_awaited(&open, file) => {
            return Waitable::Known(PollFlags::POLLERR);
        }
        _ => {}
    }
    match open.awaited().map(|awaited| PollFlags::from_bits_retain(awaited.events)) {
        Some(events) => Waitable::Host(open, asked.events & events),
        None => Waitable::Known(asked.events & ALWAYS),
    }
}

/// Waits until something that counts has happened at one of these, or up to a point in time: what has happened at each.
///
/// # Errors
/// Outer: what the host says. Inner: a signal came before anything happened.
fn wait(
    c: &Context<'_>,
    asked: &[Asked],
    until: Option<Instant>,
) -> Result<Result<Vec<PollFlags>, Interrupted>, Stop> {
    let mut happened = vec![PollFlags::empty(); asked.len()];
    let mut opens: Vec<(usize, Arc<Open>, PollFlags)> = Vec::new();
    for (index, asked) in asked.iter().enumerate() {
        match waitable(c, asked) {
            Waitable::Known(events) => happened[index] = events & asked.counts,
            Waitable::Host(open, events) => opens.push((index, open, events)),
        }
    }
    let known = happened.iter().any(|events| !events.is_empty());
    loop {
        let watched: Vec<(usize, Arc<Open>, PollFlags)> = opens.clone();
        let mut fds: Vec<PollFd<'_>> = watched
            .iter()
            .filter_map(|(_, open, events)| Some(PollFd::new(open.awaited()?.host, *events)))
            .collect();
        let time = if known { Some(Duration::ZERO) } else { until.map(left) };
        match rest(c.process, &mut fds, time) {
            Ok(ready) => ready?,
            // What is ready already counts.
            Err(_) if known => 0,
            Err(interrupted) => return Ok(Err(interrupted)),
        };
        let mut any = known;
        let mut over = Vec::new();
        for ((index, ..), fd) in watched.iter().zip(&fds) {
            let events = fd.revents().unwrap_or(PollFlags::empty());
            happened[*index] = events & asked[*index].counts;
            any |= !happened[*index].is_empty();
            if !events.is_empty() {
                over.push(*index);
            }
        }
        let is_late = until.is_some_and(|until| left(until).is_zero());
        if any || is_late || over.is_empty() {
            return Ok(Ok(happened));
        }
        // The other side of these is gone, which nobody asked for: they would never wait.
        opens.retain(|(index, ..)| !over.contains(index));
    }
}

/// poll(2).
pub(super) fn poll(c: &mut Context<'_>) -> Served {
    let millis = u64::try_from(c.int(2)).ok();
    let until = millis.and_then(|millis| Instant::now().checked_add(Duration::from_millis(millis)));
    poll_until(c, c.address(0), c.args[1], until)
}

/// The same, up to a point in time.
pub(super) fn poll_until(
    c: &mut Context<'_>,
    at: VirtAddr,
    count: u64,
    until: Option<Instant>,
) -> Served {
    poll_once(c, at, count, until)?
        .map_err(|_| continued(c, Continuation::Poll { at, count, until }))
}

/// ppoll(2). In this order: `EFAULT`, `EINVAL` the time; `EINVAL` the mask's size; `EFAULT` the mask; as of poll(2).
pub(super) fn ppoll(c: &mut Context<'_>) -> Served {
    let limit = Limit::timespec(c, c.address(2))?;
    let mask = mask(c, c.address(3), c.args[4])?;
    let answer = with_mask(c, mask, |c| {
        let polled = poll_once(c, c.address(0), c.args[1], limit.until())?;
        polled.map_err(|_| Stop::Interrupted(Restart::IfUnhandled))
    });
    limit.finish(c, answer)
}

fn poll_once(
    c: &Context<'_>,
    at: VirtAddr,
    count: u64,
    until: Option<Instant>,
) -> Result<Result<u64, Interrupted>, Stop> {
    if count > u64::from(c.process.most_files().unsigned_abs()) {
        return Err(Errno::EINVAL.into());
    }
    let bytes = c.read_bytes(at, usize::try_from(count * 8).unwrap_or(0))?;
    let asked: Vec<Asked> = bytes
        .chunks_exact(8)
        .map(|b| Asked {
            fd: i32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            events: PollFlags::from_bits_truncate(i16::from_le_bytes([b[4], b[5]])),
            counts: PollFlags::all(),
        })
        .collect();
    let Ok(happened) = wait(c, &asked, until)? else { return Ok(Err(Interrupted)) };
    for (index, events) in (0u64..).zip(&happened) {
        let at = at.checked_add(index * 8 + 6).ok_or(Errno::EFAULT)?;
        c.write_bytes(at, &events.bits().to_le_bytes())?;
    }
    Ok(Ok(happened.iter().filter(|events| !events.is_empty()).count() as u64))
}

/// How long a call waits at most, and where what is left of it goes.
struct Limit {
    /// Its end, and where and as what it is told.
    time: Option<(Instant, VirtAddr, Unit)>,
    /// Nothing is written of a time that was none.
    is_zero: bool,
}

/// What a second is divided into.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Micros,
    Nanos,
}

impl Limit {
    /// A `struct timespec`, if there is one.
    fn timespec(c: &Context<'_>, at: VirtAddr) -> Result<Self, Stop> {
        match at {
            VirtAddr::ZERO => Ok(Limit { time: None, is_zero: false }),
            at => Ok(Limit::new(time::timespec(c, at)?, at, Unit::Nanos)),
        }
    }

    /// A `struct timeval`, if there is one; a second's micros may be more than there are in one.
    fn timeval(c: &Context<'_>, at: VirtAddr) -> Result<Self, Stop> {
        if at == VirtAddr::ZERO {
            return Ok(Limit { time: None, is_zero: false });
        }
        let [seconds, micros] = c.read_words(at)?.map(u64::cast_signed);
        let seconds = seconds.wrapping_add(micros / 1_000_000);
        let (seconds, micros) = (u64::try_from(seconds), u64::try_from(micros % 1_000_000));
        let (Ok(seconds), Ok(micros)) = (seconds, micros) else { return Err(Errno::EINVAL.into()) };
        let time = Duration::from_secs(seconds) + Duration::from_micros(micros);
        Ok(Limit::new(time, at, Unit::Micros))
    }

    fn new(time: Duration, at: VirtAddr, unit: Unit) -> Self {
        Limit { time: Some((time::end_of(time), at, unit)), is_zero: time.is_zero() }
    }

    fn until(&self) -> Option<Instant> {
        self.time.map(|(until, ..)| until)
    }

    /// Says how much is left (`poll_select_finish`). A call that cannot say it is not made again after a signal.
    fn finish(&self, c: &Context<'_>, answer: Served) -> Served {
        let Some((until, at, unit)) = self.time.filter(|_| !self.is_zero) else { return answer };
        if matches!(answer, Err(Stop::Broken(_))) {
            return answer;
        }
        let left = left(until);
        let part = match unit {
            Unit::Micros => left.subsec_micros(),
            Unit::Nanos => left.subsec_nanos(),
        };
        match (c.write_words(at, &[left.as_secs(), part.into()]), &answer) {
            (Err(Stop::Broken(broken)), _) => Err(broken.into()),
            (Err(_), Err(Stop::Interrupted(_))) => Err(Errno::EINTR.into()),
            _ => answer,
        }
    }
}

/// A mask for the time of a call, if there is one.
///
/// # Errors
/// `EINVAL` its size; `EFAULT`.
pub(super) fn mask(c: &Context<'_>, at: VirtAddr, size: u64) -> Result<Option<SignalSet>, Stop> {
    if at == VirtAddr::ZERO {
        return Ok(None);
    }
    if size != SIGSET {
        return Err(Errno::EINVAL.into());
    }
    let [set] = c.read_words(at)?;
    Ok(Some(SignalSet(set)))
}

/// Makes a call with another mask. The old one comes back after it; where a signal has ended it, once a handler has been
/// called.
pub(super) fn with_mask(
    c: &mut Context<'_>,
    mask: Option<SignalSet>,
    call: impl FnOnce(&mut Context<'_>) -> Served,
) -> Served {
    let Some(mask) = mask else { return call(c) };
    let before = c.process.signals.blocked();
    c.process.signals.set_blocked(mask);
    let answer = call(c);
    match answer {
        Err(Stop::Interrupted(_) | Stop::Errno(Errno::EINTR)) => {
            c.delivery.saved_mask = Some(before);
        }
        _ => c.process.signals.set_blocked(before),
    }
    answer
}

/// select(2). In this order: `EFAULT`, `EINVAL` the time; `EINVAL` a negative number of descriptors; `EFAULT` the sets;
/// `EBADF` one that is not open; `EFAULT`.
pub(super) fn select(c: &mut Context<'_>) -> Served {
    let limit = Limit::timeval(c, c.address(4))?;
    let answer = select_until(c, limit.until());
    limit.finish(c, answer)
}

/// pselect6(2). The mask and its size are behind one pointer, which is looked at first.
pub(super) fn pselect6(c: &mut Context<'_>) -> Served {
    let [set, size] = match c.address(5) {
        VirtAddr::ZERO => [0, 0],
        at => c.read_words(at)?,
    };
    let limit = Limit::timespec(c, c.address(4))?;
    let mask = mask(c, VirtAddr::new(set), size)?;
    let answer = with_mask(c, mask, |c| select_until(c, limit.until()));
    limit.finish(c, answer)
}

fn select_until(c: &mut Context<'_>, until: Option<Instant>) -> Served {
    let count = usize::try_from(c.int(0)).map_err(|_| Errno::EINVAL)?.min(table_size(c));
    let bytes = count.div_ceil(64) * 8;
    let places = [c.address(1), c.address(2), c.address(3)];
    let mut sets: [Option<Vec<u8>>; 3] = [None, None, None];
    for (set, &at) in sets.iter_mut().zip(&places) {
        if at != VirtAddr::ZERO {
            *set = Some(c.read_bytes(at, bytes)?);
        }
    }
    let mut asked = Vec::new();
    for fd in 0..count {
        let mut one = Asked { fd: 0, events: PollFlags::empty(), counts: PollFlags::empty() };
        for (set, events) in sets.iter().zip(SETS) {
            if set.as_ref().is_some_and(|set| set[fd / 8] >> (fd % 8) & 1 != 0) {
                one.counts |= events;
            }
        }
        if one.counts.is_empty() {
            continue;
        }
        one.fd = i32::try_from(fd).map_err(|_| Errno::EINVAL)?;
        // Those that cannot be asked for are told nonetheless.
        one.events = one.counts;
        c.process.files.get(one.fd)?;
        asked.push(one);
    }
    let Ok(happened) = wait(c, &asked, until)? else {
        return Err(Stop::Interrupted(Restart::IfUnhandled));
    };
    let mut answer = 0;
    for ((set, &at), events) in sets.iter_mut().zip(&places).zip(SETS) {
        let Some(set) = set else { continue };
        let mut ready = vec![0; bytes];
        for (one, happened) in asked.iter().zip(&happened) {
            let at = usize::try_from(one.fd).unwrap_or(0);
            if happened.intersects(events) && set[at / 8] >> (at % 8) & 1 != 0 {
                ready[at / 8] |= 1 << (at % 8);
                answer += 1;
            }
        }
        c.write_bytes(at, &ready)?;
    }
    Ok(answer)
}

/// How many descriptors are looked at, at the most: what is past the table is nobody's (`max_fds`).
fn table_size(c: &Context<'_>) -> usize {
    let highest = usize::try_from(c.process.files.highest() + 1).unwrap_or(0);
    match highest {
        0..=64 => 64,
        65..=256 => 256,
        _ => highest.next_power_of_two(),
    }
}
