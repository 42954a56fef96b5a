//! Lines as strace prints them: recorded ones, and ones whose memory is made up here.

use super::recorded::{LINES, Recorded};
use super::*;
use mm::addr::VirtAddr;
use proptest::prelude::*;

/// The line of a call that is over.
fn line(call: Call, rax: u64, read: Reader<'_>) -> String {
    Line::enter(call, read).leave(rax, read)
}

/// The program's memory: pieces at addresses, nothing elsewhere.
struct Memory(Vec<(u64, Vec<u8>)>);

impl Memory {
    fn words(at: u64, words: &[u64]) -> Self {
        Memory(vec![(at, words.iter().flat_map(|w| w.to_le_bytes()).collect())])
    }

    fn and(mut self, at: u64, bytes: &[u8]) -> Self {
        // Memory is there by pages.
        let mut page = bytes.to_vec();
        page.resize(4096, 0);
        self.0.push((at, page));
        self
    }

    fn line(&self, number: i64, args: [u64; 6], result: i64) -> String {
        let read = |at: VirtAddr, buffer: &mut [u8]| {
            self.0.iter().any(|(start, bytes)| {
                let offset = at.get().checked_sub(*start).and_then(|o| usize::try_from(o).ok());
                let part = offset.and_then(|o| bytes.get(o..)?.get(..buffer.len()));
                part.map(|p| buffer.copy_from_slice(p)).is_some()
            })
        };
        let number = u64::try_from(number).unwrap();
        line(Call { number, args }, u64::from_le_bytes(result.to_le_bytes()), &read)
    }
}

/// No memory: pointers are printed as they are.
fn unreadable(_: VirtAddr, _: &mut [u8]) -> bool {
    false
}

fn nothing() -> Memory {
    Memory(Vec::new())
}

use nix::libc as c;

#[test]
fn lines_are_those_that_strace_printed() {
    for Recorded { number, args, result, line: expected } in LINES {
        let call = Call { number: *number, args: *args };
        let ours = match result {
            Some(result) => line(call, u64::from_le_bytes(result.to_le_bytes()), &unreadable),
            None => Line::enter(call, &unreadable).never_returns(&unreadable),
        };
        assert_eq!(ours, *expected);
    }
}

#[test]
fn newer_names_than_those_of_the_recorded_strace_are_known() {
    let line = |number, args, result| nothing().line(number, args, result);
    assert_eq!(
        line(c::SYS_madvise, [0x1000, 4096, 102, 0, 0, 0], 0),
        "madvise(0x1000, 4096, MADV_GUARD_INSTALL) = 0"
    );
    assert_eq!(
        line(462, [0x1000, 4096, 0, 0, 0, 0], -1),
        "mseal(0x1000, 4096, 0) = -1 EPERM (Operation not permitted)"
    );
    assert_eq!(
        line(c::SYS_mmap, [0, 4096, 3, 0x28, u64::MAX, 0], 0x1000),
        "mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_DROPPABLE|MAP_ANONYMOUS, -1, 0) = 0x1000"
    );
}

#[test]
fn what_the_program_passes_is_shown_and_what_the_call_wrote_only_if_it_succeeded() {
    let at = 0x7000;
    let write = nothing().and(at, b"hello\n");
    assert_eq!(write.line(c::SYS_write, [1, at, 6, 0, 0, 0], 6), r#"write(1, "hello\n", 6) = 6"#);
    let bad = r#"write(99, "hello\n", 6) = -1 EBADF (Bad file descriptor)"#;
    assert_eq!(write.line(c::SYS_write, [99, at, 6, 0, 0, 0], -9), bad);
    assert_eq!(write.line(c::SYS_write, [1, 1, 5, 0, 0, 0], 5), "write(1, 0x1, 5) = 5");
    let read = write.line(c::SYS_read, [3, at, 100, 0, 0, 0], 5);
    assert_eq!(read, r#"read(3, "hello", 100) = 5"#);
    let read = write.line(c::SYS_read, [3, at, 100, 0, 0, 0], -14);
    assert_eq!(read, "read(3, 0x7000, 100) = -1 EFAULT (Bad address)");
    let random = nothing().and(at, b"\xcb(a\x00");
    let line = random.line(c::SYS_getrandom, [at, 4, 1, 0, 0, 0], 4);
    assert_eq!(line, r#"getrandom("\xcb\x28\x61\x00", 4, GRND_NONBLOCK) = 4"#);
}

#[test]
fn structures_are_shown_as_strace_does() {
    let at = 0x7000;
    let limits = Memory::words(at, &[8 << 20, u64::MAX]);
    assert_eq!(
        limits.line(c::SYS_prlimit64, [0, 3, 0, at, 0, 0], 0),
        "prlimit64(0, RLIMIT_STACK, NULL, {rlim_cur=8192*1024, rlim_max=RLIM64_INFINITY}) = 0"
    );
    let limits = Memory::words(at, &[1000, 1024]);
    assert_eq!(
        limits.line(c::SYS_setrlimit, [8, at, 0, 0, 0, 0], -1),
        "setrlimit(RLIMIT_MEMLOCK, {rlim_cur=1000, rlim_max=1024}) = -1 EPERM (Operation not permitted)"
    );
    let fs = Memory::words(at, &[0x4af380]);
    let line = fs.line(c::SYS_arch_prctl, [0x1003, at, 0, 0, 0, 0], 0);
    assert_eq!(line, "arch_prctl(ARCH_GET_FS, [0x4af380]) = 0");
    let action = Memory::words(at, &[0x401615, 0x1400_0004, 0x4099a0, 1 << 1 | 1 << 39]);
    assert_eq!(
        action.line(c::SYS_rt_sigaction, [11, at, 0, 8, 0, 0], 0),
        "rt_sigaction(SIGSEGV, {sa_handler=0x401615, sa_mask=[INT RT_8], \
         sa_flags=SA_RESTORER|SA_RESTART|SA_SIGINFO, sa_restorer=0x4099a0}, NULL, 8) = 0"
    );
    let default = Memory::words(at, &[0; 4]);
    assert_eq!(
        default.line(c::SYS_rt_sigaction, [12, 0, at, 8, 0, 0], 0),
        "rt_sigaction(SIGUSR2, NULL, {sa_handler=SIG_DFL, sa_mask=[], sa_flags=0}, 8) = 0"
    );
    let set = Memory::words(at, &[!(1 << 31 | 1 << 32)]);
    assert_eq!(
        set.line(c::SYS_rt_sigprocmask, [2, at, 0, 8, 0, 0], 0),
        "rt_sigprocmask(SIG_SETMASK, ~[RTMIN RT_1], NULL, 8) = 0"
    );
    let vector = Memory::words(at, &[0x9000, 2, 0x9002, 1, 0, 0]).and(0x9000, b"ab\n");
    assert_eq!(
        vector.line(c::SYS_writev, [1, at, 3, 0, 0, 0], 3),
        r#"writev(1, [{iov_base="ab", iov_len=2}, {iov_base="\n", iov_len=1}, {iov_base=NULL, iov_len=0}], 3) = 3"#
    );
    let vector = Memory::words(at, &[0x9000, 3, 0x9010, 4]).and(0x9000, b" 0;xxxxxxxxxxxxx}\n");
    assert_eq!(
        vector.line(c::SYS_readv, [3, at, 2, 0, 0, 0], 5),
        r#"readv(3, [{iov_base=" 0;", iov_len=3}, {iov_base="}\n", iov_len=4}], 2) = 5"#
    );
    let resident = nothing().and(at, &[1, 0, 1]);
    let line = resident.line(c::SYS_mincore, [0x10000, 8193, at, 0, 0, 0], 0);
    assert_eq!(line, "mincore(0x10000, 8193, [1, 0, 1]) = 0");
    let time = Memory::words(at, &[1393, 711_291_053]);
    assert_eq!(
        time.line(c::SYS_clock_gettime, [1, at, 0, 0, 0, 0], 0),
        "clock_gettime(CLOCK_MONOTONIC, {tv_sec=1393, tv_nsec=711291053}) = 0"
    );
    let device = Memory::words(at, &[0, 0, 0, 0o20666, 0, 0x103, 0]).and(0x9000, b"\0");
    assert_eq!(
        device.line(c::SYS_newfstatat, [0, 0x9000, at, 0x1000, 0, 0], 0),
        r#"newfstatat(0, "", {st_mode=S_IFCHR|0666, st_rdev=makedev(0x1, 0x3), ...}, AT_EMPTY_PATH) = 0"#
    );
    let file = Memory::words(at, &[0, 0, 0, 0o100_644, 0, 0, 22]);
    let line = file.line(c::SYS_fstat, [3, at, 0, 0, 0, 0], 0);
    assert_eq!(line, "fstat(3, {st_mode=S_IFREG|0644, st_size=22, ...}) = 0");
    let path = nothing().and(at, b"/tmp/x\0");
    assert_eq!(
        path.line(c::SYS_openat, [u64::MAX - 99, at, 0o101, 0o644, 0, 0], 3),
        r#"openat(AT_FDCWD, "/tmp/x", O_WRONLY|O_CREAT, 0644) = 3"#
    );
    assert_eq!(path.line(c::SYS_getcwd, [at, 64, 0, 0, 0, 0], 7), r#"getcwd("/tmp/x", 64) = 7"#);
}

#[test]
fn policies_ranges_names_and_layouts_are_shown_as_strace_does() {
    let at = 0x7000;
    let mask = Memory::words(at, &[1, 0]);
    assert_eq!(
        mask.line(c::SYS_mbind, [0x1000, 4096, 0x8002, at, 64, 2], 0),
        "mbind(0x1000, 4096, MPOL_BIND|MPOL_F_STATIC_NODES, [0x00000000000001], 64, MPOL_MF_MOVE) = 0"
    );
    assert_eq!(
        mask.line(c::SYS_set_mempolicy, [0x63, at, 64, 0, 0, 0], -22),
        "set_mempolicy(0x63 /* MPOL_??? */, [0x00000000000001], 64) = -1 EINVAL (Invalid argument)"
    );
    assert_eq!(
        mask.line(c::SYS_get_mempolicy, [at, at, 65, 0x1000, 2, 0], 0),
        "get_mempolicy([MPOL_PREFERRED], [0x00000000000001], 65, 0x1000, MPOL_F_ADDR) = 0"
    );
    assert_eq!(
        mask.line(c::SYS_get_mempolicy, [at, 0, 0, 0, 0, 0], -14),
        "get_mempolicy(0x7000, NULL, 0, NULL, 0) = -1 EFAULT (Bad address)"
    );
    assert_eq!(
        mask.line(c::SYS_set_mempolicy_home_node, [0x1000, 4096, u64::MAX, 1, 0, 0], -22),
        "set_mempolicy_home_node(0x1000, 4096, 18446744073709551615, 0x1) = -1 EINVAL (Invalid argument)"
    );
    assert_eq!(
        mask.line(c::SYS_migrate_pages, [0, 65, at, at + 8, 0, 0], 0),
        "migrate_pages(0, 65, [0x00000000000001], [0000000000000000]) = 0"
    );
    let pages = Memory::words(0x1000, &[0x7f9a_06ae_d000, 0])
        .and(at, &[0, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff]);
    assert_eq!(
        pages.line(c::SYS_move_pages, [0, 2, 0x1000, 0, at, 0], 0),
        "move_pages(0, 2, [0x7f9a06aed000, NULL], NULL, [0, -ENOENT], 0) = 0"
    );
    assert_eq!(
        pages.line(c::SYS_move_pages, [u64::MAX, 2, 0x1000, at, at, 2], -3),
        "move_pages(-1, 2, [0x7f9a06aed000, NULL], [0, -2], 0x7000, MPOL_MF_MOVE) = -1 ESRCH (No such process)"
    );
    let ranges = Memory::words(at, &[0x1000, 4096, 0x3000, 8192]);
    assert_eq!(
        ranges.line(c::SYS_process_madvise, [u64::MAX - 9999, at, 2, 20, 0, 0], 12288),
        "process_madvise(-10000, [{iov_base=0x1000, iov_len=4096}, {iov_base=0x3000, \
         iov_len=8192}], 2, MADV_COLD, 0) = 12288"
    );
    let name = nothing().and(at, b"hello\0");
    assert_eq!(
        name.line(c::SYS_prctl, [0x5356_4d41, 0, 0x1000, 4096, at, 0], 0),
        r#"prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, 0x1000, 4096, "hello") = 0"#
    );
    let line = |number, args, result| nothing().line(number, args, result);
    assert_eq!(
        line(c::SYS_prctl, [41, 1, 0, 0, 9, 0], -22),
        "prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0x9) = -1 EINVAL (Invalid argument)"
    );
    assert_eq!(
        line(c::SYS_prctl, [35, 7, 0x1000, 0, 0, 0], -1),
        "prctl(PR_SET_MM, PR_SET_MM_BRK, 0x1000, 0, 0) = -1 EPERM (Operation not permitted)"
    );
    assert_eq!(
        line(c::SYS_personality, [0xffff_ffff, 0, 0, 0, 0, 0], 0),
        "personality(0xffffffff) = 0"
    );
    assert_eq!(
        line(c::SYS_personality, [0x44_0000, 0, 0, 0, 0, 0], 0x4_0000),
        "personality(PER_LINUX|ADDR_NO_RANDOMIZE|READ_IMPLIES_EXEC) = 0x40000"
    );
    assert_eq!(
        line(c::SYS_userfaultfd, [0o2_000_001, 0, 0, 0, 0, 0], 4),
        "userfaultfd(UFFD_USER_MODE_ONLY|O_CLOEXEC) = 4"
    );
    assert_eq!(
        line(c::SYS_ioctl, [4, 0xc020_aa00, 0x7000, 0, 0, 0], 0),
        "ioctl(4, UFFDIO_REGISTER, 0x7000) = 0"
    );
}

#[test]
fn at_entry_everything_up_to_the_first_written_argument_is_known() {
    let call = |number, args| Line::enter(Call { number, args }, &unreadable);
    assert_eq!(call(0, [3, 0x7000, 5, 0, 0, 0]).text, "read(3");
    assert_eq!(call(11, [0x7000, 5, 0, 0, 0, 0]).text, "munmap(0x7000, 5");
    assert_eq!(call(39, [0; 6]).text, "getpid(");
}

#[test]
fn calls_without_an_entry_show_six_numbers_and_ours_their_names() {
    let line = |number, args, result| nothing().line(number, args, result);
    assert_eq!(line(c::SYS_acct, [1, 2, 0, 0, 0, 0], 0), "acct(0x1, 0x2, 0, 0, 0, 0) = 0");
    let recover = i64::try_from(guest::abi::CALL_RECOVER).unwrap();
    assert_eq!(line(recover, [0x401000, 0, 0, 0, 0, 0], 0), "mmvisor_recover(0x401000) = 0");
}

#[test]
fn error_texts_are_those_of_strerror() {
    for (number, text) in [
        (1, "-1 EPERM (Operation not permitted)"),
        (4, "-1 EINTR (Interrupted system call)"),
        (11, "-1 EAGAIN (Resource temporarily unavailable)"),
        (12, "-1 ENOMEM (Cannot allocate memory)"),
        (13, "-1 EACCES (Permission denied)"),
        (17, "-1 EEXIST (File exists)"),
        (25, "-1 ENOTTY (Inappropriate ioctl for device)"),
        (34, "-1 ERANGE (Numerical result out of range)"),
        (35, "-1 EDEADLK (Resource deadlock avoided)"),
        (38, "-1 ENOSYS (Function not implemented)"),
        (75, "-1 EOVERFLOW (Value too large for defined data type)"),
        (95, "-1 EOPNOTSUPP (Operation not supported)"),
        (4095, "-1 (errno 4095)"),
    ] {
        assert_eq!(error_text(number), text);
    }
    assert_eq!(error_number(u64::MAX - 4095), None);
    assert_eq!(error_number(u64::MAX - 4094), Some(4095));
    assert_eq!(error_number(0), None);
}

proptest! {
    #[test]
    fn any_call_with_any_memory_is_one_line(
        number in prop_oneof![0..480_u64, any::<u64>()],
        args in any::<[u64; 6]>(),
        small in any::<[u8; 6]>(),
        result in any::<u64>(),
        fill in any::<u8>(),
    ) {
        let full = |_: VirtAddr, buffer: &mut [u8]| { buffer.fill(fill); true };
        for args in [args, small.map(u64::from)] {
            for read in [&full as Reader<'_>, &unreadable] {
                let line = line(Call { number, args }, result, read);
                prop_assert!(!line.contains('\n') && line.is_ascii());
                prop_assert!(line.contains('(') && line.contains(") = "), "{}", line);
                prop_assert!(line.len() < 40_000);
            }
        }
    }
}
