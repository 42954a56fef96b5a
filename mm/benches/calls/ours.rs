//! The calls in process, on an address space of `mm`: each takes the space's lock, as the run loop does
//! for a guest's call. Only find_vma, which is no call, runs under a lock that is held already.

use std::hint::black_box;

use mm::addr::VirtAddr;
use mm::replay::SoftwareMachine;
use mm::space::{MapRequest, SharedSpace, Vcpus};
use mm::vma::limits::Limits;
use mm::vma::{MapFlags, Prot};

use crate::rounds::Outcome;
use crate::shape::{Figure, LARGE, PAGE, Places, Shape, VMA};

/// Frames of memory: for page tables, since nothing is touched.
const FRAMES: u64 = 4096;
/// Where the heap begins: where a program's does that is not randomized.
const HEAP: u64 = 0x5555_5555_9000;
/// Bytes of the heap: as glibc's first step.
const HEAP_BYTES: u64 = 33 * PAGE;
/// Of msync(2).
const MS_ASYNC: u64 = 1;
const WRITABLE: Prot = Prot::READ.union(Prot::WRITE);

/// An address space of ours in the shape.
#[derive(Debug)]
pub(crate) struct Ours {
    machine: SoftwareMachine,
    places: Places,
    brk: VirtAddr,
}

impl Ours {
    /// With that many VMAs, and a heap.
    pub(crate) fn new(vmas: u64) -> Outcome<Ours> {
        let machine = SoftwareMachine::new(FRAMES, Limits::default())?;
        let mut space = machine.space.change();
        // The heap, what a figure adds, and what it cuts.
        space.system().sysctl.set_max_map_count(vmas + 16);
        let anywhere =
            |len, prot| MapRequest::anonymous(VirtAddr::ZERO, len, prot, MapFlags::empty());
        let base = space.mmap(&anywhere(Shape::bytes(vmas), Prot::empty()))?;
        space.munmap(base, Shape::bytes(vmas))?;
        let shape = Shape { base: base.get(), vmas };
        for start in shape.starts() {
            space.mmap(&exactly(start, VMA, WRITABLE))?;
        }
        space.set_start_brk(VirtAddr::new(HEAP));
        let brk = space.brk(VirtAddr::new(HEAP + HEAP_BYTES))?;
        let large = space.mmap(&anywhere(LARGE, Prot::READ))?;
        if large > base {
            return Err(format!("{large} was free, above {base}, where all holes are small").into());
        }
        space.munmap(large, LARGE)?;
        drop(space);
        Ok(Ours { machine, places: Places::of(shape), brk })
    }

    /// Does it `calls` times.
    pub(crate) fn run(&mut self, figure: Figure, calls: u64) -> Outcome<()> {
        let Ours { machine, places, brk } = self;
        let space = &machine.space;
        for _ in 0..calls {
            match figure {
                Figure::Map => {
                    let addr = places.hole();
                    space.change().mmap(&exactly(addr, PAGE, Prot::READ))?;
                    space.change().munmap(VirtAddr::new(addr), PAGE)?;
                }
                Figure::Protect => {
                    let addr = VirtAddr::new(places.inside());
                    space.change().mprotect(addr, PAGE, Prot::READ)?;
                    space.change().mprotect(addr, PAGE, WRITABLE)?;
                }
                Figure::Find => return find(space, places, calls),
                Figure::Sync => {
                    space.msync(VirtAddr::new(places.inside()), PAGE, MS_ASYNC)?;
                }
                Figure::Place => place(space)?,
                Figure::Heap => {
                    let up = space.change().brk(brk.offset(PAGE))?;
                    let down = space.change().brk(*brk)?;
                    if (up, down) != (brk.offset(PAGE), *brk) {
                        return Err(format!("brk went to {up} and {down}, from {brk}").into());
                    }
                }
                Figure::Fork => {
                    let child = space.change().fork(Vcpus::Stopped)?;
                    child.exit()?;
                }
                Figure::Gap => {
                    let high = VirtAddr::new(places.inside());
                    let low = VirtAddr::new(PAGE);
                    black_box(space.look().vmas().highest_gap(LARGE, low, high));
                }
                Figure::Empty | Figure::Borrow => {
                    return Err(format!("{} is the kernel's only", figure.name()).into());
                }
            }
        }
        Ok(())
    }
}

/// find_vma is no call: who uses it holds the lock.
fn find(space: &SharedSpace, places: &mut Places, calls: u64) -> Outcome<()> {
    let space = space.look();
    for _ in 0..calls {
        let addr = VirtAddr::new(places.inside());
        black_box(space.vmas().find(addr).map(|vma| vma.flags));
    }
    Ok(())
}

fn place(space: &SharedSpace) -> Outcome<()> {
    let anywhere = MapRequest::anonymous(VirtAddr::ZERO, LARGE, Prot::READ, MapFlags::empty());
    let at = space.change().mmap(&anywhere)?;
    Ok(space.change().munmap(at, LARGE)?)
}

fn exactly(addr: u64, len: u64, prot: Prot) -> MapRequest {
    MapRequest::anonymous(VirtAddr::new(addr), len, prot, MapFlags::FIXED_NOREPLACE)
}
