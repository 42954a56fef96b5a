//! The ioctl of `/proc/PID/pagemap` (Linux's `do_pagemap_scan`, `fs/proc/task_mmu.c`).

use super::{Call, Caller};
use crate::addr::{PageRange, VirtAddr};
use crate::error::{CallError, CallResult, Errno};
use crate::inspect::{Categories, PageRegion, ScanFlags, ScanRequest, ScanRoom, Scanned, scan};
use crate::space::{Protection, SharedSpace};

/// `PAGEMAP_SCAN` (include/uapi/linux/fs.h): finds pages by what they are.
pub const PAGEMAP_SCAN: u64 = 0xc060_6610;

/// Words of `struct pm_scan_arg`: size, flags, start, end, where the walk ended, regions, how many of them, how many
/// pages; categories that are inverted, all wanted, some wanted, told.
const WORDS: usize = 12;
/// Which of them says where the walk ended.
const WALK_END: u64 = 4;
/// Bytes of a `struct page_region`.
const REGION: u64 = 24;
/// How many regions are kept at once (`PAGEMAP_WALK_SIZE` in pages).
const KEPT: u32 = 512;

/// What is asked for, and where the answer goes.
struct Argument {
    request: ScanRequest,
    start: VirtAddr,
    end: VirtAddr,
    vec: VirtAddr,
    vec_len: u64,
    pages: u64,
}

/// `PAGEMAP_SCAN` of an address space, `None` if that has ended, where there is nothing then; `argument` is the pointer
/// that the program passed. Answers with how many regions were written.
///
/// # Errors
/// In this order: `EFAULT` it cannot be read; `EINVAL` its size, unknown flags or categories, a start that is no page's;
/// `EFAULT` a range outside the user half; `EINVAL` a length without a vector; `EFAULT` a vector outside. Then, with
/// everything written that was found before: `EPERM` a VMA whose writes are not noted
/// ([`ScanFlags::CHECK_WPASYNC`]); `EFAULT` a region or the place reached cannot be written.
pub fn pagemap_scan(
    caller: &dyn Caller,
    of: Option<&SharedSpace>,
    argument: VirtAddr,
) -> CallResult<u64> {
    let c = Call { caller, args: [0; 6] };
    let mut wanted = Argument::read(&c, argument)?;
    let (answer, walk_end) = scanned(&c, of, &mut wanted);
    let reached = walk_end.unwrap_or(wanted.end);
    c.write_words(argument.checked_add(WALK_END * 8).ok_or(Errno::EFAULT)?, &[reached.get()])?;
    answer
}

impl Argument {
    fn read(c: &Call<'_>, at: VirtAddr) -> CallResult<Self> {
        let words: [u64; WORDS] = c.read_words(at)?;
        let [size, flags, start, end, _, vec, vec_len, pages, kinds @ ..] = words;
        let flags = ScanFlags::from_bits(flags);
        let kinds = kinds.map(Categories::from_bits);
        let (WORDS_SIZE, Some(flags), [Some(inverted), Some(all), Some(any), Some(told)]) =
            (size, flags, kinds)
        else {
            return Err(Errno::EINVAL.into());
        };
        if !VirtAddr::new(start).is_page_aligned() {
            return Err(Errno::EINVAL.into());
        }
        Call::check_user(VirtAddr::new(start), end.wrapping_sub(start))?;
        if vec == 0 && vec_len != 0 {
            return Err(Errno::EINVAL.into());
        }
        if vec != 0 {
            Call::check_user(VirtAddr::new(vec), vec_len.saturating_mul(REGION))?;
        }
        Ok(Argument {
            request: ScanRequest { flags, inverted, all, any, told },
            start: VirtAddr::new(start),
            end: VirtAddr::new(end).page_ceil().ok_or(Errno::EFAULT)?,
            vec: VirtAddr::new(vec),
            vec_len,
            pages: if pages == 0 { u64::MAX } else { pages },
        })
    }
}

/// What the argument says of its own size.
const WORDS_SIZE: u64 = WORDS as u64 * 8;

/// How many regions were written, and where the walk ended, if not at the range's end. As on Linux, that is where what
/// is kept at once was last full, also if the walk went on from there and came to the end.
fn scanned(
    c: &Call<'_>,
    of: Option<&SharedSpace>,
    wanted: &mut Argument,
) -> (CallResult<u64>, Option<VirtAddr>) {
    if wanted.vec_len == 0 && wanted.request.flags.contains(ScanFlags::WP_MATCHING) {
        return (protect_all(of, wanted), None);
    }
    let mut written = 0;
    let mut walk_end = None;
    let kept = |left: u64| usize::try_from(left.min(KEPT.into())).unwrap_or(0);
    let mut room = ScanRoom::new(kept(wanted.vec_len), wanted.pages);
    let mut at = wanted.start;
    while let (Some(space), Some(range)) = (of, PageRange::new(at, wanted.end)) {
        let (result, regions) = look(space, range, &wanted.request, &mut room);
        if let Ok(Scanned::UpTo(end)) = result {
            walk_end = Some(end);
            at = end;
        }
        let to = VirtAddr::new(wanted.vec.get().wrapping_add(written * REGION));
        if let Err(error) = c.write_words(to, &words(&regions)) {
            return (Err(error), walk_end);
        }
        written += regions.len() as u64;
        let left = wanted.vec_len - written;
        match result {
            Err(error) => return (Err(error), walk_end),
            Ok(Scanned::UpTo(_)) if left > 0 && room.pages_left() > 0 => room.allow(kept(left)),
            Ok(_) => break,
        }
    }
    (Ok(written), walk_end)
}

/// Looks at a range, and gives what it found. What is to be protected is so under the same lock: no write of it goes by
/// unseen.
fn look(
    space: &SharedSpace,
    range: PageRange,
    request: &ScanRequest,
    room: &mut ScanRoom,
) -> (CallResult<Scanned>, Vec<PageRegion>) {
    if !request.flags.contains(ScanFlags::WP_MATCHING) {
        let result = scan(&space.look(), range, request, room);
        return (result.map_err(CallError::Errno), room.take());
    }
    let mut space = space.change();
    let result = scan(&space, range, request, room).map_err(CallError::Errno);
    let regions = room.take();
    let protect = |region: &PageRegion| space.userfault_protect(region.range, Protection::On);
    let protected = regions.iter().try_for_each(protect);
    (protected.and(result), regions)
}

/// The same without a vector: nothing is told, however much it is.
fn protect_all(of: Option<&SharedSpace>, wanted: &Argument) -> CallResult<u64> {
    let mut at = wanted.start;
    while let (Some(space), Some(range)) = (of, PageRange::new(at, wanted.end)) {
        let mut room = ScanRoom::new(KEPT as usize, u64::MAX);
        match look(space, range, &wanted.request, &mut room).0? {
            Scanned::UpTo(end) => at = end,
            Scanned::All => break,
        }
    }
    Ok(0)
}

/// As `struct page_region`s.
fn words(regions: &[PageRegion]) -> Vec<u64> {
    let words = |region: &PageRegion| {
        [region.range.start().get(), region.range.end().get(), region.told.bits()]
    };
    regions.iter().flat_map(words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PAGE_SIZE;

    #[test]
    fn the_words_are_the_structure_s() {
        // The request's number has its size.
        assert_eq!(PAGEMAP_SCAN >> 16 & 0x3fff, WORDS_SIZE);
        assert_eq!(u64::from(KEPT) * PAGE_SIZE, 2 << 20);
    }
}
