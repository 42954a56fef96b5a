//! Where a mapping goes when the program leaves it open (Linux's `get_unmapped_area`,
//! `arch_get_unmapped_area_topdown`, `vm_unmapped_area`, `__thp_get_unmapped_area`).

use super::area::Vma;
use super::aslr::Aslr;
use super::flags::{MapFlags, VmFlags};
use super::tree::Tree;
use crate::addr::{PAGE_SIZE, TABLE_SPAN, TASK_SIZE, VirtAddr};
use crate::backing::Placement;
use crate::error::Errno;

/// Bytes that stay free below a VMA that grows down (`stack_guard_gap`, 256 pages).
pub const STACK_GUARD_GAP: u64 = 256 * PAGE_SIZE;

/// From which side free space is searched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From `mmap_base` down, as today's programs have it.
    TopDown,
    /// From `mmap_base` up, as old programs wish (`ADDR_COMPAT_LAYOUT`).
    BottomUp,
}

/// The bounds of placement (`arch_pick_mmap_layout`).
#[derive(Clone, Copy, Debug)]
pub struct PlaceLayout {
    /// Where the search begins.
    pub mmap_base: VirtAddr,
    /// Where the search upwards begins when the one downwards finds nothing
    /// (`mmap_legacy_base`, a third of the user half).
    pub legacy_base: VirtAddr,
    /// Which way.
    pub direction: Direction,
}

impl PlaceLayout {
    /// Linux's layout for a stack limit in bytes, from the top down and without randomization.
    #[must_use]
    pub fn for_stack_limit(stack_limit: u64) -> Self {
        PlaceLayout::pick(stack_limit, Direction::TopDown, &Aslr::OFF)
    }

    /// Linux's layout for a stack limit in bytes (x86's `arch_pick_mmap_layout`). From the top down, the
    /// gap below the stack is the limit (at least 128 MiB, at most five sixths of the user half), the
    /// stack's guard gap, and room for the stack's randomness. An infinite limit, too, is only the largest
    /// gap: maps go upwards because the program's personality says so, and for nothing else.
    #[must_use]
    pub fn pick(stack_limit: u64, direction: Direction, aslr: &Aslr) -> Self {
        let pad = STACK_GUARD_GAP + aslr.stack_room();
        let gap = stack_limit.saturating_add(pad).clamp(128 << 20, TASK_SIZE / 6 * 5);
        let random = aslr.mmap_bytes();
        let top_down = VirtAddr::new(TASK_SIZE - gap - random).page_ceil().unwrap_or_default();
        let third = VirtAddr::new(TASK_SIZE / 3).page_ceil().unwrap_or_default();
        let legacy_base = third.offset(random);
        let mmap_base = match direction {
            Direction::TopDown => top_down,
            Direction::BottomUp => legacy_base,
        };
        PlaceLayout { mmap_base, legacy_base, direction }
    }
}

/// What is to be placed.
#[derive(Clone, Copy, Debug)]
pub struct PlaceRequest {
    /// The program's hint, 0 for none.
    pub hint: VirtAddr,
    /// Length in bytes, whole pages.
    pub len: u64,
    /// Of mmap(2): `FIXED` and `BIT32` matter here.
    pub flags: MapFlags,
    /// What it is: that decides about huge page alignment.
    pub source: PlaceSource,
    /// Nothing is placed below (`mmap_min_addr`).
    pub min_addr: VirtAddr,
}

/// What kind of memory is placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlaceSource {
    /// Anonymous private memory: multiples of 2 MiB are aligned to 2 MiB.
    Anonymous,
    /// Anonymous shared memory.
    SharedAnonymous,
    /// A file, placed as it wants, from a page of it on.
    File(Placement, u64),
}

impl PlaceSource {
    /// Bytes of which its place and its length are multiples.
    fn alignment(self) -> u64 {
        match self {
            PlaceSource::File(placement, _) => placement.page_size(),
            PlaceSource::Anonymous | PlaceSource::SharedAnonymous => PAGE_SIZE,
        }
    }
}

/// The first byte that must stay free below the VMA: its start less its guard gap
/// (`vm_start_gap`).
#[must_use]
pub fn start_gap(vma: &Vma) -> VirtAddr {
    let start = vma.range().start();
    if vma.flags.contains(VmFlags::GROWSDOWN) {
        VirtAddr::new(start.get().saturating_sub(STACK_GUARD_GAP))
    } else {
        start
    }
}

/// Finds the address of a mapping.
///
/// # Errors
/// `ENOMEM` when nothing fits or a fixed range passes the end of the user half; `EINVAL` for a fixed
/// address that is not page-aligned.
pub fn get_unmapped_area(
    tree: &Tree<Vma>,
    layout: &PlaceLayout,
    request: &PlaceRequest,
) -> Result<VirtAddr, Errno> {
    if request.len > TASK_SIZE {
        return Err(Errno::ENOMEM);
    }
    let align = request.source.alignment();
    if !request.len.is_multiple_of(align) {
        return Err(Errno::EINVAL);
    }
    let addr = if request.flags.contains(MapFlags::FIXED) {
        if align > PAGE_SIZE && !request.hint.get().is_multiple_of(align) {
            return Err(Errno::EINVAL);
        }
        // The last page of all addresses is where Linux's functions return errors.
        let error = request.hint.get().wrapping_neg();
        if let (1..4096, Ok(error)) = (error, i32::try_from(error)) {
            return Err(Errno::from_raw(error));
        }
        request.hint
    } else {
        let huge = match request.source {
            PlaceSource::Anonymous
                if request.hint == VirtAddr::ZERO && request.len.is_multiple_of(TABLE_SPAN) =>
            {
                huge_aligned(tree, layout, request, 0)
            }
            PlaceSource::File(Placement::HugeAligned, pgoff) => {
                huge_aligned(tree, layout, request, pgoff)
            }
            _ => None,
        };
        let search = || {
            let hint = request.hint.get().checked_next_multiple_of(align).unwrap_or(0);
            let hint = if align > PAGE_SIZE { VirtAddr::new(hint) } else { request.hint };
            search(tree, layout, &PlaceRequest { hint, ..*request })
        };
        huge.or_else(search).ok_or(Errno::ENOMEM)?
    };
    if addr.get() > TASK_SIZE - request.len {
        return Err(Errno::ENOMEM);
    }
    if !addr.is_page_aligned() {
        return Err(Errno::EINVAL);
    }
    Ok(addr)
}

/// Places with 2 MiB to spare, then so that huge pages of the memory lie on huge pages of addresses
/// (`__thp_get_unmapped_area`). `None` where no huge page fits.
fn huge_aligned(
    tree: &Tree<Vma>,
    layout: &PlaceLayout,
    request: &PlaceRequest,
    pgoff: u64,
) -> Option<VirtAddr> {
    // Offsets are signed in Linux, and wrap: what does not fit a file is refused only later.
    let offset = pgoff.wrapping_mul(PAGE_SIZE);
    let end = offset.wrapping_add(request.len);
    let first_huge = (offset.wrapping_sub(1) | (TABLE_SPAN - 1)).wrapping_add(1);
    if end.cast_signed() <= first_huge.cast_signed() || end.wrapping_sub(first_huge) < TABLE_SPAN {
        return None;
    }
    let padded = PlaceRequest { len: request.len.checked_add(TABLE_SPAN)?, ..*request };
    offset.checked_add(padded.len)?;
    let base = search(tree, layout, &padded)?;
    if base == request.hint {
        // The program's own choice, with room to spare.
        return Some(base);
    }
    let up = offset.wrapping_sub(base.get()) % TABLE_SPAN;
    if up == 0 && layout.direction == Direction::TopDown {
        return base.checked_add(TABLE_SPAN);
    }
    base.checked_add(up)
}

/// Linux's `arch_get_unmapped_area` and its sibling from the top down.
fn search(tree: &Tree<Vma>, layout: &PlaceLayout, request: &PlaceRequest) -> Option<VirtAddr> {
    let (len, hint) = (request.len, request.hint);
    let space = Space { len, align: request.source.alignment() };
    let below_2g = request.flags.contains(MapFlags::BIT32);
    let above_4g = request.flags.contains(MapFlags::ABOVE4G);
    let min = request.min_addr;
    let upwards = || {
        let (begin, end) = if below_2g {
            (VirtAddr::new(0x4000_0000), VirtAddr::new(0x8000_0000))
        } else {
            (layout.legacy_base, VirtAddr::TASK_END)
        };
        if len > end.get() {
            return None;
        }
        let wanted = hint.page_ceil().filter(|&hint| hint != VirtAddr::ZERO);
        if let Some(hint) = wanted
            && hint.checked_add(len).is_some_and(|stop| stop <= end)
            && is_free(tree, hint, len)
        {
            return Some(hint);
        }
        let low = if above_4g && !below_2g { begin.max(VirtAddr::new(4 << 30)) } else { begin };
        lowest(tree, space, low.max(min), end)
    };
    if layout.direction == Direction::BottomUp || below_2g {
        return upwards();
    }
    let wanted = hint.page_floor();
    if wanted != VirtAddr::ZERO
        && wanted.checked_add(len).is_some_and(|stop| stop <= VirtAddr::TASK_END)
        && is_free(tree, wanted, len)
    {
        return Some(wanted);
    }
    let low = VirtAddr::new(if above_4g { 4 << 30 } else { PAGE_SIZE });
    highest(tree, space, low.max(min), layout.mmap_base).or_else(upwards)
}

/// Whether nothing lies in the range, nor grows down into it.
fn is_free(tree: &Tree<Vma>, addr: VirtAddr, len: u64) -> bool {
    tree.find(addr).is_none_or(|next| addr.offset(len) <= start_gap(next))
}

/// Free space that is looked for: so many bytes, at a multiple of the alignment (Linux's
/// `vm_unmapped_area_info`).
#[derive(Clone, Copy)]
struct Space {
    len: u64,
    align: u64,
}

impl Space {
    /// Bytes among which it lies wherever they are: what is looked for first. `None` if too many.
    fn padded(self) -> Option<u64> {
        self.len.checked_add(self.align - PAGE_SIZE)
    }
}

/// The highest free place, guard gaps kept (`unmapped_area_topdown`).
fn highest(tree: &Tree<Vma>, space: Space, low: VirtAddr, high: VirtAddr) -> Option<VirtAddr> {
    let (padded, mut high) = (space.padded()?, high);
    loop {
        let at = tree.highest_gap(padded, low, high)?;
        let end = at.offset(padded);
        match tree.find(at).map(start_gap) {
            Some(limit) if limit < end => high = limit,
            _ => return Some(VirtAddr::new((end.get() - space.len) & !(space.align - 1))),
        }
    }
}

/// The lowest free place, guard gaps kept (`unmapped_area`). As in Linux the gap of what follows is kept
/// from more than is needed where the place is aligned.
fn lowest(tree: &Tree<Vma>, space: Space, low: VirtAddr, high: VirtAddr) -> Option<VirtAddr> {
    let (padded, mut low) = (space.padded()?, low);
    loop {
        let gap = tree.lowest_gap(padded, low, high)?;
        let at = VirtAddr::new(gap.get().checked_next_multiple_of(space.align)?);
        let grows = |next: &&Vma| next.flags.contains(VmFlags::GROWSDOWN);
        match tree.find(gap).filter(grows) {
            Some(next) if start_gap(next) < at.offset(padded) => low = next.range().end(),
            _ => return Some(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PageRange;

    fn layout() -> PlaceLayout {
        PlaceLayout::for_stack_limit(8 << 20)
    }

    fn tree(ranges: &[(u64, u64, VmFlags)]) -> Tree<Vma> {
        let mut tree = Tree::new();
        for &(start, end, flags) in ranges {
            let range = PageRange::new(VirtAddr::new(start), VirtAddr::new(end)).unwrap();
            tree.insert(Vma::anonymous(range, flags)).unwrap();
        }
        tree
    }

    fn place(tree: &Tree<Vma>, hint: u64, len: u64, flags: MapFlags) -> Result<u64, Errno> {
        let hint = VirtAddr::new(hint);
        let min_addr = VirtAddr::new(PAGE_SIZE);
        let source = PlaceSource::Anonymous;
        let request = PlaceRequest { hint, len, flags, source, min_addr };
        get_unmapped_area(tree, &layout(), &request).map(VirtAddr::get)
    }

    const NONE: MapFlags = MapFlags::empty();

    #[test]
    fn mmap_base_lies_128_mib_and_the_guard_gap_below_the_top() {
        assert_eq!(layout().mmap_base.get(), 0x7fff_ffff_f000 - (128 << 20));
    }

    #[test]
    fn an_infinite_stack_limit_leaves_a_sixth_of_the_user_half_below_mmap_base() {
        let infinite = PlaceLayout::for_stack_limit(u64::MAX);
        assert_eq!(infinite.direction, Direction::TopDown);
        assert_eq!(infinite.mmap_base.get(), 0x1555_5555_6000);
    }

    #[test]
    fn maps_go_upwards_from_a_third_of_the_user_half_where_the_program_wishes_so() {
        let legacy = PlaceLayout::pick(8 << 20, Direction::BottomUp, &Aslr::OFF);
        assert_eq!(legacy.mmap_base.get(), 0x2aaa_aaaa_b000);
        let request = PlaceRequest {
            hint: VirtAddr::ZERO,
            len: 0x3000,
            flags: NONE,
            source: PlaceSource::Anonymous,
            min_addr: VirtAddr::new(PAGE_SIZE),
        };
        let place = |tree: &Tree<Vma>| get_unmapped_area(tree, &legacy, &request).unwrap().get();
        assert_eq!(place(&tree(&[])), 0x2aaa_aaaa_b000);
        let one = tree(&[(0x2aaa_aaaa_b000, 0x2aaa_aaaa_e000, VmFlags::READ)]);
        assert_eq!(place(&one), 0x2aaa_aaaa_e000);
    }

    #[test]
    fn a_seed_moves_mmap_base_down_within_a_tebibyte_and_keeps_room_for_the_stack() {
        let highest = TASK_SIZE - (16 << 30) - (8 << 20) - STACK_GUARD_GAP + PAGE_SIZE;
        for seed in 0..50 {
            let aslr = Aslr::from_seed(seed);
            let base = PlaceLayout::pick(8 << 20, Direction::TopDown, &aslr).mmap_base.get();
            assert_eq!(base, highest - aslr.mmap_bytes());
            assert!(base.is_multiple_of(PAGE_SIZE) && base > highest - (1 << 40));
        }
    }

    #[test]
    fn the_first_mapping_ends_at_mmap_base_and_the_next_lies_below_it() {
        let base = layout().mmap_base.get();
        assert_eq!(place(&tree(&[]), 0, 0x3000, NONE), Ok(base - 0x3000));
        let one = tree(&[(base - 0x3000, base, VmFlags::READ)]);
        assert_eq!(place(&one, 0, 0x1000, NONE), Ok(base - 0x4000));
    }

    #[test]
    fn an_exact_multiple_of_2_mib_is_aligned_and_anything_else_is_not() {
        let at = place(&tree(&[]), 0, 2 << 20, NONE).unwrap();
        assert_eq!(at % (2 << 20), 0);
        let at = place(&tree(&[]), 0, (2 << 20) + 4096, NONE).unwrap();
        assert_ne!(at % (2 << 20), 0);
    }

    fn place_huge(tree: &Tree<Vma>, hint: u64, len: u64, flags: MapFlags) -> Result<u64, Errno> {
        let source = PlaceSource::File(Placement::HugePages(TABLE_SPAN), 0);
        let (hint, min_addr) = (VirtAddr::new(hint), VirtAddr::new(PAGE_SIZE));
        let request = PlaceRequest { hint, len, flags, source, min_addr };
        get_unmapped_area(tree, &layout(), &request).map(VirtAddr::get)
    }

    #[test]
    fn huge_pages_lie_on_their_multiples_where_a_whole_one_more_would_fit() {
        let base = layout().mmap_base.get();
        let first = place_huge(&tree(&[]), 0, TABLE_SPAN, NONE).unwrap();
        assert_eq!(first, (base - TABLE_SPAN) & !(TABLE_SPAN - 1));
        // One fits where a page too few for any place of it is free: it is not looked for there.
        let (low, high) = (0x1_0000_0000, 0x1_0000_0000 + 2 * TABLE_SPAN - 2 * PAGE_SIZE);
        let full = [(PAGE_SIZE, low, VmFlags::READ), (high, base, VmFlags::READ)];
        let third = VirtAddr::new(TASK_SIZE / 3).page_ceil().unwrap().get();
        assert!(third < base && high < third);
        let at = place_huge(&tree(&full), 0, TABLE_SPAN, NONE).unwrap();
        assert!(at > base, "{at:#x}");
    }

    #[test]
    fn a_hint_for_huge_pages_is_rounded_up_and_a_fixed_address_is_refused() {
        let hint = 0x1_0000_0000;
        assert_eq!(place_huge(&tree(&[]), hint + 1, TABLE_SPAN, NONE), Ok(hint + TABLE_SPAN));
        let fixed = |at, len| place_huge(&tree(&[]), at, len, MapFlags::FIXED);
        assert_eq!(fixed(hint, TABLE_SPAN), Ok(hint));
        assert_eq!(fixed(hint + PAGE_SIZE, TABLE_SPAN), Err(Errno::EINVAL));
        assert_eq!(fixed(hint, PAGE_SIZE), Err(Errno::EINVAL));
    }

    #[test]
    fn the_search_upwards_for_huge_pages_keeps_the_gap_of_a_stack_from_a_page_more_than_it_needs() {
        let start = 0x4000_0000;
        let stack = start + 2 * TABLE_SPAN;
        let tree = tree(&[(stack, stack + PAGE_SIZE, VmFlags::GROWSDOWN)]);
        let at = place_huge(&tree, 0, TABLE_SPAN, MapFlags::BIT32);
        assert_eq!(at, Ok(start + 3 * TABLE_SPAN));
    }

    #[test]
    fn a_free_hint_is_taken_and_rounded_down() {
        assert_eq!(place(&tree(&[]), 0x1_0000_0123, 0x1000, NONE), Ok(0x1_0000_0000));
    }

    #[test]
    fn a_hint_inside_a_stack_guard_gap_is_not_taken() {
        let stack = tree(&[(0x1_0010_0000, 0x1_0020_0000, VmFlags::GROWSDOWN)]);
        let gap_start = 0x1_0010_0000 - STACK_GUARD_GAP;
        assert_eq!(place(&stack, gap_start - 0x1000, 0x1000, NONE), Ok(gap_start - 0x1000));
        assert_ne!(place(&stack, gap_start, 0x1000, NONE), Ok(gap_start));
    }

    #[test]
    fn map_32bit_searches_upwards_from_1_gib() {
        assert_eq!(place(&tree(&[]), 0, 0x1000, MapFlags::BIT32), Ok(0x4000_0000));
    }

    #[test]
    fn a_fixed_address_is_checked_for_the_end_before_alignment() {
        let fixed = MapFlags::FIXED;
        assert_eq!(place(&tree(&[]), 0x7fff_ffff_f001, 0x1000, fixed), Err(Errno::ENOMEM));
        assert_eq!(place(&tree(&[]), 0x1001, 0x1000, fixed), Err(Errno::EINVAL));
        assert_eq!(place(&tree(&[]), 0, TASK_SIZE + 0x1000, NONE), Err(Errno::ENOMEM));
    }
}
