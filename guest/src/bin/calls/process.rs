//! Limits, policies, personality, prctl(2), userfaultfd(2): what holds for the process as a whole.

use guest::call::number;
use guest::errno::Errno;
use guest::fault::{self, Answer};
use guest::memory::{self, PAGE};
use guest::{check_eq, must};

use super::area::{AREA, PRIVATE, READ, RW, call, fresh, map, out, page, put, scratch};

const RLIMIT_DATA: u64 = 2;
const RLIMIT_AS: u64 = 9;

pub(crate) fn all() {
    limits();
    policies();
    readable_is_executable();
    names_and_layout();
    userfaults();
    // For good, so it is last.
    no_executable_gain();
}

/// Sets a soft limit; the answer is the old one.
fn lower(resource: u64, bytes: u64) -> u64 {
    check_eq!(call(number::PRLIMIT64, [0, resource, 0, out()]), Ok(0), "prlimit64");
    let (soft, hard) = (scratch(0), scratch(1));
    check_eq!(call(number::SETRLIMIT, [resource, put(&[bytes, hard])]), Ok(0), "setrlimit");
    soft
}

fn limits() {
    fresh(1);
    let map_one = || call(number::MMAP, [page(8), PAGE, RW, PRIVATE, u64::MAX, 0]);
    out();
    let enomem = Err(Errno::ENOMEM);
    let old = lower(RLIMIT_AS, PAGE);
    check_eq!(map_one(), enomem, "mmap past RLIMIT_AS");
    let grown = call(number::MREMAP, [AREA, PAGE, 2 * PAGE, 1, 0]);
    check_eq!(grown, enomem, "mremap past RLIMIT_AS");
    restore(RLIMIT_AS, old);
    check_eq!(map_one(), Ok(page(8)), "mmap within RLIMIT_AS");
    let old = lower(RLIMIT_DATA, PAGE);
    // Past the limit already: it does not help that this is in place of as much.
    check_eq!(map_one(), enomem, "mmap past RLIMIT_DATA");
    map(16, 1, READ, PRIVATE);
    let writable = call(number::MPROTECT, [page(16), PAGE, RW]);
    check_eq!(writable, enomem, "mprotect past RLIMIT_DATA");
    let before = memory::brk(0);
    check_eq!(memory::brk(before + PAGE), before, "brk past RLIMIT_DATA");
    restore(RLIMIT_DATA, old);
    check_eq!(memory::brk(before + PAGE), before + PAGE, "brk");
    memory::store(before, 1);
    check_eq!(memory::brk(before), before, "brk back");
    check_eq!(call(number::GETRLIMIT, [16, out()]), Err(Errno::EINVAL), "an unknown limit");
    check_eq!(call(number::GETRLIMIT, [RLIMIT_AS, page(9)]), Err(Errno::EFAULT), "its pointer");
    let reversed = put(&[2, 1]);
    check_eq!(call(number::SETRLIMIT, [RLIMIT_AS, reversed]), Err(Errno::EINVAL), "soft past hard");
}

/// The scratch page is there: nothing has to be mapped for this.
fn restore(resource: u64, soft: u64) {
    let at = super::area::out_as_it_is();
    memory::store(at, soft);
    check_eq!(call(number::PRLIMIT64, [0, resource, at, 0]), Ok(0), "prlimit64");
}

fn policies() {
    fresh(1);
    let bind = |mode, at, bits| call(number::MBIND, [AREA, PAGE, mode, at, bits, 0]);
    if bind(0, 0, 0) == Err(Errno::ENOSYS) && !fault::in_mmvisor() {
        return;
    }
    let node = put(&[1]);
    check_eq!(bind(2, node, 64), Ok(0), "mbind");
    check_eq!(bind(99, node, 64), Err(Errno::EINVAL), "mbind's mode");
    check_eq!(bind(2, 0, 0), Err(Errno::EINVAL), "mbind to no node");
    check_eq!(bind(2, page(8), 64), Err(Errno::EFAULT), "mbind's mask");
    let get = |addr, flags| call(number::GET_MEMPOLICY, [out(), 0, 0, addr, flags]);
    check_eq!(get(AREA, 2), Ok(0), "get_mempolicy");
    check_eq!(scratch(0) & 0xffff_ffff, 2, "the policy of a range");
    check_eq!(get(page(8), 2), Err(Errno::EFAULT), "get_mempolicy of nothing");
    check_eq!(get(0, 8), Err(Errno::EINVAL), "get_mempolicy's flags");
    check_eq!(call(number::SET_MEMPOLICY, [3, put(&[1]), 64]), Ok(0), "set_mempolicy");
    check_eq!(get(0, 0), Ok(0), "get_mempolicy");
    check_eq!(scratch(0) & 0xffff_ffff, 3, "the process's policy");
    check_eq!(call(number::SET_MEMPOLICY, [0, 0, 0]), Ok(0), "set_mempolicy");
}

/// RET at the beginning of a page that may be read.
fn page_of_code() {
    map(0, 1, RW, PRIVATE);
    memory::store(AREA, 0xc3);
    check_eq!(call(number::MPROTECT, [AREA, PAGE, READ]), Ok(0), "mprotect");
}

#[allow(unsafe_code)]
fn run() -> Option<Answer> {
    // SAFETY: the page begins with RET.
    unsafe { fault::execute(AREA) }.err().map(|caught| caught.answer())
}

fn readable_is_executable() {
    const READ_IMPLIES_EXEC: u64 = 0x40_0000;
    fresh(1);
    page_of_code();
    check_eq!(run(), Some(Answer::denied(AREA)), "running a page that may be read");
    let before = must!(call(number::PERSONALITY, [0xffff_ffff]));
    let set = call(number::PERSONALITY, [before | READ_IMPLIES_EXEC]);
    check_eq!(set, Ok(before), "personality");
    page_of_code();
    check_eq!(run(), None, "running a page that may be read with READ_IMPLIES_EXEC");
    let reset = call(number::PERSONALITY, [before]);
    check_eq!(reset, Ok(before | READ_IMPLIES_EXEC), "personality");
}

fn names_and_layout() {
    const PR_SET_MM: u64 = 35;
    const PR_SET_THP_DISABLE: u64 = 41;
    const PR_GET_THP_DISABLE: u64 = 42;
    const PR_SET_VMA: u64 = 0x5356_4d41;
    fresh(2);
    let prctl = |args: [u64; 5]| call(number::PRCTL, args);
    check_eq!(prctl([PR_SET_THP_DISABLE, 1, 0, 0, 0]), Ok(0), "PR_SET_THP_DISABLE");
    check_eq!(prctl([PR_GET_THP_DISABLE, 0, 0, 0, 0]), Ok(1), "PR_GET_THP_DISABLE");
    check_eq!(prctl([PR_SET_THP_DISABLE, 0, 0, 0, 0]), Ok(0), "PR_SET_THP_DISABLE");
    check_eq!(prctl([PR_SET_THP_DISABLE, 1, 0, 0, 9]), Err(Errno::EINVAL), "what follows");
    check_eq!(prctl([PR_SET_MM, 7, AREA, 0, 9]), Err(Errno::EINVAL), "PR_SET_MM, what follows");
    if fault::in_mmvisor() {
        let name = put(&[u64::from_le_bytes(*b"a heap\0\0")]);
        check_eq!(prctl([PR_SET_VMA, 0, AREA, PAGE, name]), Ok(0), "PR_SET_VMA");
        check_eq!(prctl([PR_SET_VMA, 0, AREA, PAGE, page(8)]), Err(Errno::EFAULT), "its name");
        check_eq!(prctl([PR_SET_MM, 7, AREA, 0, 0]), Err(Errno::EPERM), "PR_SET_MM");
    }
}

fn userfaults() {
    const IOCTL_API: u64 = 0xc018_aa3f;
    const IOCTL_REGISTER: u64 = 0xc020_aa00;
    const IOCTL_UNREGISTER: u64 = 0x8010_aa01;
    fresh(2);
    check_eq!(call(number::USERFAULTFD, [2]).is_err(), true, "userfaultfd's flags");
    if !fault::in_mmvisor() {
        return;
    }
    let fd = must!(call(number::USERFAULTFD, [1]));
    let ioctl = |request, at| call(number::IOCTL, [fd, request, at]);
    let range = [AREA, PAGE, 1, 0];
    check_eq!(ioctl(IOCTL_REGISTER, put(&range)), Err(Errno::EINVAL), "before UFFDIO_API");
    check_eq!(ioctl(IOCTL_API, put(&[0xaa, 0, 0])), Ok(0), "UFFDIO_API");
    check_eq!(ioctl(IOCTL_REGISTER, put(&range)), Ok(0), "UFFDIO_REGISTER");
    check_eq!(scratch(3) & 0x1c, 0x1c, "what the range can be asked");
    check_eq!(ioctl(IOCTL_REGISTER, page(8)), Err(Errno::EFAULT), "its pointer");
    check_eq!(ioctl(IOCTL_UNREGISTER, put(&range)), Ok(0), "UFFDIO_UNREGISTER");
    check_eq!(call(number::MMAP, [0, PAGE, 1, 2, fd, 0]), Err(Errno::ENODEV), "mmap of it");
    check_eq!(call(number::CLOSE, [fd]), Ok(0), "close");
}

fn no_executable_gain() {
    const PR_SET_MDWE: u64 = 65;
    const PR_GET_MDWE: u64 = 66;
    fresh(2);
    let prctl = |option, bits| call(number::PRCTL, [option, bits, 0, 0, 0]);
    check_eq!(prctl(PR_SET_MDWE, 2), Err(Errno::EINVAL), "PR_MDWE_NO_INHERIT alone");
    check_eq!(prctl(PR_SET_MDWE, 1), Ok(0), "PR_SET_MDWE");
    check_eq!(prctl(PR_GET_MDWE, 0), Ok(1), "PR_GET_MDWE");
    check_eq!(prctl(PR_SET_MDWE, 0), Err(Errno::EPERM), "taking PR_SET_MDWE back");
    let map = |prot| call(number::MMAP, [page(8), PAGE, prot, PRIVATE, u64::MAX, 0]);
    check_eq!(map(7), Err(Errno::EACCES), "mmap of writable code");
    let protect = |prot| call(number::MPROTECT, [AREA, PAGE, prot]);
    check_eq!(protect(5), Err(Errno::EACCES), "mprotect of data to code");
    check_eq!(protect(READ), Ok(0), "mprotect");
    check_eq!(map(5), Ok(page(8)), "mmap of code");
}
