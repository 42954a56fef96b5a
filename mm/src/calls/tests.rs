//! The order in which arguments are looked at, and what is written where.

mod pager;
mod userfault;

use std::cell::Cell;
use std::collections::BTreeMap;

use super::*;
use crate::addr::PAGE_SIZE;
use crate::backing::{FileMode, OpenFile};
use crate::replay::SoftwareMachine;
use crate::userfault::Userfault;
use crate::vma::VmFlags;
use crate::vma::limits::{Capabilities, Limits};

/// Nothing is ever mapped there, though it is in the user half.
const BAD: u64 = 0x6666_0000;
/// Outside the user half.
const KERNEL: u64 = u64::MAX - 0xfff;
/// Scratch memory of the program.
const SCRATCH: u64 = 0x2000_0000;
/// Where tests map things.
const BASE: u64 = 0x1_0000_0000;

/// A process with scratch memory at [`SCRATCH`] and a stream as descriptor 0.
struct Process {
    machine: SoftwareMachine,
    policy: Cell<Option<Policy>>,
    uffds: std::cell::RefCell<BTreeMap<i32, Arc<Userfault>>>,
    /// Descriptor 1, if it is open.
    file: std::cell::RefCell<Option<Arc<dyn Backing>>>,
}

impl Caller for Process {
    fn space(&self) -> &SharedSpace {
        &self.machine.space
    }
    fn pid(&self) -> i32 {
        7
    }
    fn file(&self, fd: i32) -> Result<Arc<dyn Backing>, Errno> {
        match fd {
            0 => Ok(Arc::new(OpenFile::unmappable(FileMode::READ))),
            1 => self.file.borrow().clone().ok_or(Errno::EBADF),
            _ => Err(Errno::EBADF),
        }
    }
    fn install(&self, _: Served, _: i32) -> Result<i32, Errno> {
        self.uffds.borrow_mut().insert(3, Arc::default());
        Ok(3)
    }
    fn policy(&self) -> Option<Policy> {
        self.policy.get()
    }
    fn set_policy(&self, policy: Option<Policy>) {
        self.policy.set(policy);
    }
}

impl Process {
    fn new() -> Self {
        let machine = SoftwareMachine::new(4096, Limits::default()).unwrap();
        let process = Process {
            machine,
            policy: Cell::new(None),
            uffds: Default::default(),
            file: Default::default(),
        };
        process.map(SCRATCH, 4);
        process
    }

    fn call<const N: usize>(&self, number: libc::c_long, args: [u64; N]) -> Result<u64, Errno> {
        let mut all = [0; 6];
        all[..N].copy_from_slice(&args);
        match serve(self, number.cast_unsigned(), all).unwrap() {
            Ok(value) => Ok(value),
            Err(CallError::Errno(errno)) => Err(errno),
            Err(CallError::Broken(broken)) => panic!("{broken}"),
        }
    }

    /// Maps `pages` readable and writable pages.
    fn map(&self, at: u64, pages: u64) {
        assert_eq!(self.call(libc::SYS_mmap, [at, pages * PAGE_SIZE, 3, 0x32, 0, 0]), Ok(at));
    }

    fn put(&self, at: u64, words: &[u64]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.machine.space.write(VirtAddr::new(at), &bytes).unwrap();
        at
    }

    fn words<const N: usize>(&self, at: u64) -> [u64; N] {
        let mut bytes = [[0; 8]; N];
        self.machine.space.read(VirtAddr::new(at), bytes.as_flattened_mut()).unwrap();
        bytes.map(u64::from_le_bytes)
    }

    fn flags(&self, at: u64) -> VmFlags {
        self.machine.space.look().vmas().find_exact(VirtAddr::new(at)).unwrap().flags
    }

    fn give(&self, capability: Capabilities) {
        self.machine.space.change().limits_mut().capabilities.insert(capability);
    }
}

#[test]
fn mmap_looks_at_the_offset_then_the_descriptor_then_the_length() {
    let p = Process::new();
    let map = |len, flags, fd, offset| p.call(libc::SYS_mmap, [0, len, 1, flags, fd, offset]);
    assert_eq!(map(0, 2, 99, 1), Err(Errno::EINVAL));
    assert_eq!(map(0, 2, 99, 0), Err(Errno::EBADF));
    assert_eq!(map(0, 2, 0, 0), Err(Errno::EINVAL));
    assert_eq!(map(PAGE_SIZE, 2, 0, 0), Err(Errno::ENODEV));
    // What a program gives as a descriptor with MAP_ANONYMOUS does not count.
    assert!(map(PAGE_SIZE, 0x22, 99, 0).is_ok());
}

#[test]
fn the_upper_half_of_an_int_does_not_count() {
    let p = Process::new();
    p.map(BASE, 1);
    let high = 5 << 32;
    assert_eq!(p.call(libc::SYS_madvise, [BASE, PAGE_SIZE, high | 1]), Ok(0));
    assert!(p.flags(BASE).contains(VmFlags::RAND_READ));
    assert_eq!(p.call(libc::SYS_msync, [BASE, PAGE_SIZE, high | 4]), Ok(0));
    assert_eq!(p.call(libc::SYS_mlock2, [BASE, PAGE_SIZE, high]), Ok(0));
    assert_eq!(p.call(libc::SYS_mlockall, [high]), Err(Errno::EINVAL));
    // mseal's flags are a long.
    assert_eq!(p.call(libc::SYS_mseal, [BASE, PAGE_SIZE, high]), Err(Errno::EINVAL));
}

#[test]
fn process_madvise_looks_at_flags_then_ranges_then_the_descriptor() {
    let p = Process::new();
    p.map(BASE, 4);
    let itself = (-10000_i64).cast_unsigned();
    let advise = |fd, at, count, advice, flags| {
        p.call(libc::SYS_process_madvise, [fd, at, count, advice, flags])
    };
    assert_eq!(advise(99, BAD, 1, 1, 1), Err(Errno::EINVAL));
    assert_eq!(advise(99, BAD, 1, 1, 0), Err(Errno::EFAULT));
    assert_eq!(advise(99, BAD, 1025, 1, 0), Err(Errno::EINVAL));
    let ranges = p.put(SCRATCH, &[BASE, PAGE_SIZE, BAD, PAGE_SIZE]);
    assert_eq!(advise(99, ranges, 2, 1, 0), Err(Errno::EBADF));
    // The first range counts, the second one fails.
    assert_eq!(advise(itself, ranges, 2, 1, 0), Ok(PAGE_SIZE));
    assert!(p.flags(BASE).contains(VmFlags::RAND_READ));
    assert_eq!(advise(itself, ranges + 16, 1, 1, 0), Err(Errno::ENOMEM));
    let kernel = p.put(SCRATCH, &[BASE, PAGE_SIZE, KERNEL, 1 << 20]);
    assert_eq!(advise(itself, kernel, 2, 1, 0), Err(Errno::EFAULT));
    assert_eq!(advise(itself, BAD, 0, 1, 0), Ok(0));
}

#[test]
fn mincore_has_written_what_lies_before_a_hole() {
    let p = Process::new();
    p.map(BASE, 2);
    p.map(BASE + 3 * PAGE_SIZE, 1);
    p.put(BASE + PAGE_SIZE, &[1]);
    p.put(SCRATCH, &[u64::MAX]);
    let mincore = |len, vector| p.call(libc::SYS_mincore, [BASE, len, vector]);
    assert_eq!(p.call(libc::SYS_mincore, [BASE + 1, PAGE_SIZE, KERNEL]), Err(Errno::EINVAL));
    assert_eq!(mincore(1 << 62, KERNEL), Err(Errno::ENOMEM));
    assert_eq!(mincore(4 * PAGE_SIZE, KERNEL), Err(Errno::EFAULT));
    assert_eq!(mincore(4 * PAGE_SIZE, SCRATCH), Err(Errno::ENOMEM));
    assert_eq!(p.words(SCRATCH), [0xffff_ffff_ffff_0100]);
    assert_eq!(mincore(2 * PAGE_SIZE, BAD), Err(Errno::EFAULT));
}

#[test]
fn prlimit_reads_the_new_limit_first_and_getrlimit_writes_last() {
    let p = Process::new();
    let prlimit = |pid, resource, new, old| p.call(libc::SYS_prlimit64, [pid, resource, new, old]);
    let new = p.put(SCRATCH, &[1 << 20, 2 << 20]);
    assert_eq!(prlimit(99, 99, BAD, BAD), Err(Errno::EFAULT));
    assert_eq!(prlimit(99, 99, new, BAD), Err(Errno::ESRCH));
    assert_eq!(prlimit(7, 99, new, BAD), Err(Errno::EINVAL));
    assert_eq!(prlimit(0, 8, new, BAD), Err(Errno::EFAULT));
    // The limit is set although the old one could not be told.
    assert_eq!(p.call(libc::SYS_getrlimit, [8, SCRATCH + 64]), Ok(0));
    assert_eq!(p.words(SCRATCH + 64), [1 << 20, 2 << 20]);
    assert_eq!(p.call(libc::SYS_getrlimit, [16, BAD]), Err(Errno::EINVAL));
    assert_eq!(p.call(libc::SYS_getrlimit, [8, BAD]), Err(Errno::EFAULT));
    let raised = p.put(SCRATCH, &[0, 3 << 20]);
    assert_eq!(p.call(libc::SYS_setrlimit, [8, raised]), Err(Errno::EPERM));
    p.give(Capabilities::SYS_RESOURCE);
    assert_eq!(p.call(libc::SYS_setrlimit, [8, raised]), Ok(0));
    let reversed = p.put(SCRATCH, &[2, 1]);
    assert_eq!(p.call(libc::SYS_setrlimit, [3, reversed]), Err(Errno::EINVAL));
    let files = p.put(SCRATCH, &[1, 1 << 21]);
    assert_eq!(p.call(libc::SYS_setrlimit, [7, files]), Err(Errno::EPERM));
}

#[test]
fn a_node_mask_has_one_bit_fewer_than_is_said() {
    let p = Process::new();
    p.map(BASE, 1);
    let mask = p.put(SCRATCH, &[0b10, 0]);
    let mbind =
        |mode, at, maxnode| p.call(libc::SYS_mbind, [BASE, PAGE_SIZE, mode, at, maxnode, 0]);
    // Bit 1, a node that is not there, is cut off: an empty mask, which MPOL_DEFAULT wants.
    assert_eq!(mbind(0, mask, 2), Ok(0));
    assert_eq!(mbind(0, mask, 3), Err(Errno::EINVAL));
    assert_eq!(mbind(99, BAD, 3), Err(Errno::EINVAL), "the mode comes first");
    assert_eq!(mbind(2, BAD, 3), Err(Errno::EFAULT));
    assert_eq!(mbind(2, mask, 0), Err(Errno::EINVAL), "a mask of 2^64 - 1 bits");
    assert_eq!(mbind(2, mask, 8 * PAGE_SIZE + 2), Err(Errno::EINVAL));
    let far = p.put(SCRATCH, &[&[1][..], &[0; 15], &[1]].concat());
    assert_eq!(mbind(2, far, 17 * 64 + 1), Err(Errno::EINVAL), "bits that no kernel knows");
    assert_eq!(mbind(2, far, 16 * 64 + 1), Ok(0));
}

#[test]
fn get_mempolicy_writes_an_int_and_a_whole_mask() {
    let p = Process::new();
    let mask = p.put(SCRATCH, &[1]);
    assert_eq!(p.call(libc::SYS_set_mempolicy, [2, mask, 64]), Ok(0));
    p.put(SCRATCH, &[u64::MAX; 4]);
    let get = |mode, nodes, maxnode, addr, flags| {
        p.call(libc::SYS_get_mempolicy, [mode, nodes, maxnode, addr, flags])
    };
    assert_eq!(get(SCRATCH, SCRATCH + 8, 129, 0, 0), Ok(0));
    assert_eq!(p.words(SCRATCH), [0xffff_ffff_0000_0002, 1, 0, u64::MAX]);
    assert_eq!(get(0, SCRATCH, 0, 0, 99), Err(Errno::EINVAL), "the mask is too short");
    assert_eq!(get(BAD, 0, 0, 0, 0), Err(Errno::EFAULT));
    assert_eq!(get(0, 0, 0, BAD, 2), Err(Errno::EFAULT));
    assert_eq!(get(0, 0, 0, BASE, 0), Err(Errno::EINVAL), "an address without MPOL_F_ADDR");
    assert_eq!(get(0, 0, 0, 0, 1), Err(Errno::EINVAL), "MPOL_BIND takes no turns");
    assert_eq!(get(SCRATCH, 0, 0, SCRATCH, 3), Ok(0));
    assert_eq!(p.words(SCRATCH), [0xffff_ffff_0000_0000], "the page's node");
}

#[test]
fn get_mempolicy_tells_the_memorys_own_policy_and_the_nodes_that_were_asked_for() {
    let p = Process::new();
    let mask = p.put(SCRATCH, &[3]);
    assert_eq!(p.call(libc::SYS_set_mempolicy, [2 | 1 << 15, mask, 64]), Ok(0));
    let get = |addr, flags| {
        let got = p.call(libc::SYS_get_mempolicy, [SCRATCH + 8, SCRATCH + 16, 64, addr, flags]);
        (got, p.words::<3>(SCRATCH)[1] & 0xffff_ffff, p.words::<3>(SCRATCH)[2])
    };
    p.put(SCRATCH, &[3, 0, 0]);
    assert_eq!(get(0, 0), (Ok(0), 0x8002, 3), "also those that are not there");
    assert_eq!(get(SCRATCH, 2), (Ok(0), 0, 0), "the task's is not the memory's");
}

#[test]
fn a_name_is_read_before_anything_else_of_prctl_is_looked_at() {
    let p = Process::new();
    p.map(BASE, 1);
    let name = |addr, at| p.call(libc::SYS_prctl, [0x5356_4d41, 0, addr, PAGE_SIZE, at]);
    assert_eq!(name(BASE + 1, BAD), Err(Errno::EFAULT));
    p.put(SCRATCH, &[0x6161_6161_6161_6161; 10]);
    assert_eq!(name(BASE, SCRATCH), Err(Errno::EINVAL), "80 letters");
    assert_eq!(name(BASE, SCRATCH + 1), Ok(0), "79");
    assert_eq!(name(BASE, 0), Ok(0));
    assert_eq!(p.call(libc::SYS_prctl, [0x5356_4d41, 1, BASE, PAGE_SIZE]), Err(Errno::EINVAL));
    assert_eq!(p.call(libc::SYS_prctl, [9999]), Err(Errno::EINVAL));
}

#[test]
fn prctl_sets_the_layout_field_by_field_or_at_once() {
    let p = Process::new();
    let set = |args: [u64; 4]| p.call(libc::SYS_prctl, [35, args[0], args[1], args[2], args[3]]);
    assert_eq!(set([7, BASE, 0, 0]), Err(Errno::EPERM));
    assert_eq!(set([7, BASE, 1, 0]), Err(Errno::EINVAL), "an argument too many comes first");
    assert_eq!(set([15, SCRATCH, 0, 0]), Ok(0));
    assert_eq!(p.words(SCRATCH), [104]);
    // All at once needs no capability.
    let fields = [0x40_0000, 0x40_1000, 0x40_2000, 0x40_3000, BASE, BASE + 9, SCRATCH];
    let stack = [SCRATCH, SCRATCH + 8, SCRATCH + 8, SCRATCH + 16];
    let no_auxv = [0, u64::MAX << 32];
    let map = p.put(SCRATCH, &[&fields[..], &stack, &no_auxv].concat());
    assert_eq!(set([14, map, 103, 0]), Err(Errno::EINVAL));
    assert_eq!(set([14, BAD, 104, 0]), Err(Errno::EFAULT));
    assert_eq!(set([14, map, 104, 0]), Ok(0));
    assert_eq!(p.machine.space.look().layout().brk.get(), BASE + 9);
    p.give(Capabilities::SYS_RESOURCE);
    assert_eq!(set([7, BASE - 1, 0, 0]), Err(Errno::EINVAL), "a break below its start");
    assert_eq!(set([7, BASE + PAGE_SIZE, 0, 0]), Ok(0));
    assert_eq!(set([5, BASE << 8, 0, 0]), Err(Errno::EFAULT), "nothing mapped at or above");
    assert_eq!(set([99, BASE, 0, 0]), Err(Errno::EINVAL));
    let auxv = p.put(SCRATCH, &[3, 4]);
    assert_eq!(set([12, auxv, 417, 0]), Err(Errno::EINVAL));
    assert_eq!(set([12, auxv, 16, 0]), Ok(0));
    assert_eq!(p.call(libc::SYS_prctl, [0x4155_5856, SCRATCH + 64, 24]), Ok(416));
    assert_eq!(p.words(SCRATCH + 64), [3, 4, 0]);
}
