//! Lines as strace prints them, and the way there and back.

use super::*;
use crate::addr::VirtAddr;
use crate::error::Errno;
use crate::replay::calls::{
    Extent, FileCall, Limit, MemoryCall, OtherCall, Pointee, Residency, Text,
};
use proptest::prelude::*;

pub(in crate::replay) mod generate;

fn read(text: &str) -> Result<Vec<Event>, TraceError> {
    Reader::new(text.as_bytes()).collect()
}

/// The one event of a line.
fn one(line: &str) -> Event {
    let mut events = read(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    assert_eq!(events.len(), 1, "{line}");
    events.remove(0)
}

fn call(line: &str) -> (Call, Outcome) {
    match one(line).action {
        Action::Call { call, outcome } => (call, outcome),
        other => panic!("{line} is {other:?}"),
    }
}

/// The sentence that a bad line is answered with.
fn problem(text: &str) -> String {
    read(text).expect_err(text).to_string()
}

fn at(addr: u64) -> VirtAddr {
    VirtAddr::new(addr)
}

fn whole(text: &str) -> Text {
    Text { bytes: text.as_bytes().to_vec(), extent: Extent::Whole }
}

#[test]
fn the_calls_of_the_specification_are_read() {
    let mmap = MemoryCall::Mmap {
        addr: VirtAddr::ZERO,
        len: 8192,
        prot: 3,
        flags: 0x22,
        fd: -1,
        offset: 0,
    };
    assert_eq!(
        call(
            "mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f33a2a5e000"
        ),
        (Call::Memory(mmap), Outcome::Value(0x7f33_a2a5_e000))
    );
    assert_eq!(
        call("munmap(0x7f33a2a5e001, 4096) = -1 EINVAL (Invalid argument)"),
        (
            Call::Memory(MemoryCall::Munmap { addr: at(0x7f33_a2a5_e001), len: 4096 }),
            Outcome::Failed(Errno::EINVAL)
        )
    );
    let event = one("1234  mremap(0x10000000000, 4096, 8192, MREMAP_MAYMOVE) = 0x10000001000");
    assert_eq!(event.pid, Some(1234));
}

#[test]
fn lines_that_strace_printed_are_read() {
    for line in [
        "24072 mincore(0x7f9a06aed000, 8192, [1, 0]) = 0",
        "24072 mincore(0x7f9a06aed000, 4097, 0x1) = -1 EFAULT (Bad address)",
        "24072 mbind(0x7f9a06aed000, 4096, MPOL_BIND|MPOL_F_STATIC_NODES, [0x00000000000001], 64, MPOL_MF_MOVE) = 0",
        "24072 get_mempolicy([0x8002 /* MPOL_??? */], [0x00000000000001], 64, 0x7f9a06aed000, MPOL_F_ADDR) = 0",
        "24072 get_mempolicy([MPOL_DEFAULT], NULL, 0, NULL, 0) = 0",
        "24072 set_mempolicy(0x63 /* MPOL_??? */, [0x00000000000001], 64) = -1 EINVAL (Invalid argument)",
        "24072 set_mempolicy_home_node(0x7f9a06aed000, 4096, 18446744073709551615, 0x1) = -1 EINVAL (Invalid argument)",
        "24072 move_pages(0, 4, [0x7f9a06aed000, 0x7f9a06aee000, 0x7f9a06aef000, NULL], NULL, [0, -ENOENT, 0, -EFAULT], 0) = 0",
        "24072 move_pages(0, 2, [0x7f9a06aed000, 0x7f9a06aee000], [0, 1], 0x7ffe92801d70, MPOL_MF_MOVE) = -1 ENODEV (No such device)",
        "24072 migrate_pages(0, 64, [0x00000000000001], [0x00000000000002]) = -1 EINVAL (Invalid argument)",
        "24072 mremap(0x7f9a06aed000, 4096, 4096, MREMAP_MAYMOVE|MREMAP_FIXED, 0x7f9a06bed000) = -1 EFAULT (Bad address)",
        "24072 remap_file_pages(0x7f9a06aed000, 4096, PROT_NONE, 0, MAP_FILE) = -1 EINVAL (Invalid argument)",
        "24072 madvise(0x7f9a06aed000, 4096, 0xffffffff /* MADV_??? */) = -1 EINVAL (Invalid argument)",
        "24072 process_madvise(3<anon_inode:[pidfd]>, [{iov_base=0x7f9a06aed000, iov_len=4096}, {iov_base=0x7f9a06aee000, iov_len=4096}], 2, MADV_COLD, 0) = -1 ENOMEM (Cannot allocate memory)",
        "24072 mlockall(MCL_CURRENT|MCL_FUTURE|MCL_ONFAULT) = 0",
        "24072 personality(0xffffffff)           = 0 (PER_LINUX)",
        "24072 personality(PER_LINUX|ADDR_NO_RANDOMIZE|READ_IMPLIES_EXEC) = 0x40000 (PER_LINUX|ADDR_NO_RANDOMIZE)",
        "24072 prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, 0x7f9a06aed000, 4096, \"hello\") = -1 EINVAL (Invalid argument)",
        "24072 prctl(PR_SET_MM, PR_SET_MM_BRK, 0x7f9a06aed000, 0, 0) = -1 EPERM (Operation not permitted)",
        "24072 prctl(0x41 /* PR_??? */, 0x1, 0, 0, 0) = 0",
        "24072 prlimit64(0, RLIMIT_AS, {rlim_cur=RLIM64_INFINITY, rlim_max=RLIM64_INFINITY}, NULL) = 0",
        "24072 setrlimit(RLIMIT_AS, NULL)        = -1 EFAULT (Bad address)",
        "24072 userfaultfd(UFFD_USER_MODE_ONLY|O_CLOEXEC) = 4<anon_inode:[userfaultfd]>",
        "24072 shmget(IPC_PRIVATE, 8192, IPC_CREAT|0600) = 0",
        "24072 shmat(0, 0x7f9a06aed000, SHM_RND|SHM_REMAP|SHM_EXEC) = -1 EACCES (Permission denied)",
        "24072 shmctl(0, IPC_STAT, {shm_perm={uid=0, gid=0, mode=01600, key=0, cuid=0, cgid=0}, shm_segsz=8192}) = 0",
        "24072 memfd_create(\"a\\\"b\", MFD_CLOEXEC|MFD_ALLOW_SEALING) = 5</memfd:a\\\"b>(deleted)",
        "24072 mmap(NULL, 8192, PROT_READ, MAP_SHARED, 5</memfd:a\\\"b>(deleted), 0x1000) = 0x7f9a06cea000",
        "24072 memfd_create(\"h\", MFD_HUGETLB|21<<MFD_HUGE_SHIFT) = 7</memfd:h>(deleted)",
        "24072 mmap(NULL, 4096, PROT_READ|PROT_SEM|0x30, 0x5 /* MAP_??? */|MAP_STACK|0x3e00000, -1, 0) = -1 EBADF (Bad file descriptor)",
        "24072 fcntl(5</memfd:a\\\"b>(deleted), F_ADD_SEALS, F_SEAL_SHRINK|F_SEAL_WRITE) = -1 EBUSY (Device or resource busy)",
        "24072 fcntl(5<x>, F_DUPFD_CLOEXEC, 10) = 11<x>",
        "24072 openat(AT_FDCWD</tmp>, \"/tmp/gone\", O_RDWR|O_CREAT|O_TRUNC, 0644) = 8</tmp/gone>",
        "24072 clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD, child_tidptr=0x7f9a06afda10) = 24073",
        "13106 clone3({flags=CLONE_VM|CLONE_THREAD|CLONE_SETTLS, child_tid=0x7f0e2b3ff990, parent_tid=0x7f0e2b3ff990, exit_signal=0, stack=0x7f0e2b300000, stack_size=0xfef80, tls=0x7f0e2b3ff6c0} => {parent_tid=[13107]}, 88) = 13107",
        "12989 execve(\"/usr/bin/gcc\", [\"gcc\", \"-plugin-opt=/usr/lib/gcc/x86_64-\"...], 0x7ffcaf0db298 /* 39 vars */) = 0",
        "12989 wait4(-1, [{WIFEXITED(s) && WEXITSTATUS(s) == 3}], 0, NULL) = 24073",
        "13061 06:14:23.498970 brk(NULL)         = 0x55b410819000 <0.000007>",
    ] {
        let event = one(line);
        assert!(
            matches!(
                event.action,
                Action::Call { call: Call::Memory(_) | Call::File(_) | Call::Process(_), .. }
            ),
            "{line}"
        );
        let again = one(&event.to_string());
        assert_eq!(again, event, "{line} printed as {event}");
    }
}

#[test]
fn mseal_is_known_to_a_strace_that_has_no_name_for_it() {
    let mseal = Call::Memory(MemoryCall::Mseal { addr: at(0x1000), len: 0x1000, flags: 0 });
    assert_eq!(call("syscall_0x1ce(0x1000, 0x1000, 0, 0, 0, 0) = 0").0, mseal);
    assert_eq!(call("mseal(0x1000, 4096, 0) = 0").0, mseal);
}

#[test]
fn what_pointers_point_to_is_read() {
    let infinite = Limit { current: 8 << 20, maximum: u64::MAX };
    let prlimit = MemoryCall::Prlimit {
        pid: 0,
        resource: 3,
        new: Pointee::Null,
        old: Pointee::Shown(infinite),
    };
    assert_eq!(
        call(
            "prlimit64(0, RLIMIT_STACK, NULL, {rlim_cur=8192*1024, rlim_max=RLIM64_INFINITY}) = 0"
        )
        .0,
        Call::Memory(prlimit)
    );
    let cut = Residency { pages: vec![1, 0], extent: Extent::Cut };
    let mincore = MemoryCall::Mincore { addr: at(0x1000), len: 1 << 20, vec: Pointee::Shown(cut) };
    assert_eq!(call("mincore(0x1000, 1048576, [1, 0, ...]) = 0").0, Call::Memory(mincore));
    let open = FileCall::Openat {
        dir: -100,
        path: Pointee::Shown(whole("/lib/x")),
        flags: 0o2_000_000,
        mode: 0,
    };
    assert_eq!(call("open(\"/lib/x\", O_RDONLY|O_CLOEXEC) = 3").0, Call::File(open));
}

#[test]
fn numbers_and_comments_stand_for_names() {
    let named = "mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANON, -1, 0) = 0x1000";
    let plain = "mmap(0, 0x2000, 3, 042 /* private, anonymous */, -1, 0) = 4096";
    assert_eq!(one(named), one(plain));
}

#[test]
fn calls_that_are_not_modelled_are_kept_as_text() {
    let other = OtherCall { name: "prctl".into(), arguments: "PR_SET_NAME, \"a)\"".into() };
    assert_eq!(call("prctl(PR_SET_NAME, \"a)\") = 0").0, Call::Other(other));
    let (_, outcome) = call("poll([{fd=3}], 1, -1) = 1 ([{fd=3, revents=POLLIN}])");
    assert_eq!(outcome, Outcome::Value(1));
    assert!(matches!(call("foo(%&!) = what").0, Call::Other(_)));
    let cut = "move_pages(0, 40, [0x1000, ...], NULL, [0, ...], 0) = 0";
    assert!(matches!(call(cut).0, Call::Other(_)));
    assert!(matches!(call("fcntl(3, F_SETFD, FD_CLOEXEC) = 0").0, Call::Other(_)));
}

#[test]
fn two_halves_are_one_call_where_it_resumes() {
    let events = read(
        "1 munmap(0x1000, 4096 <unfinished ...>\n\
         2 wait4(1,  <unfinished ...>\n\
         1 <... munmap resumed>)             = 0\n\
         2 <... wait4 resumed>[{WIFEXITED(s) && WEXITSTATUS(s) == 0}], 0, NULL) = 1\n",
    )
    .unwrap();
    assert_eq!(events.len(), 2);
    assert_eq!((events[0].line, events[0].pid), (3, Some(1)));
    assert_eq!(events[0].to_string(), "1  munmap(0x1000, 4096) = 0");
    assert_eq!(events[1].to_string(), "2  wait4(1, NULL, 0, NULL) = 1");
}

#[test]
fn a_call_that_makes_a_task_begins_before_it_returns() {
    let events = read(
        "vfork( <unfinished ...>\n\
         [pid 2] exit_group(0) = ?\n\
         [pid 1] <... vfork resumed>) = 2\n",
    )
    .unwrap();
    assert_eq!(events[0].action, Action::Begun(ProcessCall::Vfork));
    assert_eq!(events[2].to_string(), "1  vfork() = 2");
}

#[test]
fn halves_are_joined_although_pids_come_and_go() {
    let events = read(
        "wait4(-1,  <unfinished ...>\n\
         [pid 2] +++ exited with 0 +++\n\
         [pid 1] <... wait4 resumed>NULL, 0, NULL) = 2\n\
         [pid 1] wait4(-1,  <unfinished ...>\n\
         [pid 3] +++ exited with 0 +++\n\
         <... wait4 resumed>NULL, 0, NULL) = 3\n",
    )
    .unwrap();
    assert_eq!(events.len(), 4);
}

#[test]
fn strace_s_own_messages_are_left_out_even_of_the_middle_of_a_line() {
    let events = read(
        "strace: Process 1 attached\n\
         clone(child_stack=NULL, flags=CLONE_FS|SIGCHLDstrace: Process 12 attached\n\
         , child_tidptr=0x2341e690) = 12\n",
    )
    .unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].to_string(), "clone(child_stack=NULL, flags=CLONE_FS|SIGCHLD) = 12");
}

#[test]
fn calls_that_never_return_leave_nothing_behind() {
    let events = read(
        "1 munmap(0x1000, 4096 <unfinished ...>) = ?\n\
         1 brk(NULL <unfinished ...>\n\
         1 +++ killed by SIGKILL +++\n\
         1 <... brk resumed>) = 0x1000\n",
    );
    assert_eq!(
        events.unwrap_err().to_string(),
        "line 4: brk is resumed here, but no `<unfinished ...>` line of this process began it"
    );
}

#[test]
fn a_thread_that_calls_execve_takes_the_leader_s_pid() {
    let events = read(
        "2 execve(\"/bin/true\", [\"true\"], 0x1 <unfinished ...>\n\
         1 +++ superseded by execve in pid 2 +++\n\
         1 <... execve resumed>) = 0\n",
    )
    .unwrap();
    assert_eq!(events[0].action, Action::Superseded { by: 2 });
    assert_eq!(events[1].pid, Some(1));
}

#[test]
fn ends_and_signals_are_read() {
    assert_eq!(one("+++ exited with 3 +++").action, Action::Exited { status: 3 });
    let killed = Action::Killed("SIGSEGV (core dumped)".to_owned());
    assert_eq!(one("7 +++ killed by SIGSEGV (core dumped) +++").action, killed);
    let signal = "--- SIGCHLD {si_signo=SIGCHLD, si_stime=1 /* 0.01 s */} ---";
    assert_eq!(one(signal).to_string(), signal);
    assert_eq!(call("exit_group(0) = ?").1, Outcome::Unknown);
    assert_eq!(call("pause() = ? ERESTARTNOHAND (To be restarted)").1, Outcome::Unknown);
}

#[test]
fn every_line_of_what_strace_cannot_see_is_read_and_printed() {
    for line in [
        "@maps\n10000000000-10000002000 rw-p 00000000 00:00 0\n@end",
        "@maps 10000000000-10000002000\n@end",
        "@maps\n7ffff7fc6000-7ffff7fca000 r--s 00001000 fe:01 4711                       /lib/a b;c\n@end",
        "@maps\n00400000-00401000 rw-p 00000000 00:00 0                                  [heap] ; rd wr mr mw me ac ; anon=inherited:3 pgoff=5\n@end",
        "@maps\n00400000-00401000 rw-p 00000000 00:00 0 ; anon=none\n@end",
        "@touch 0x10000000000 w = ok",
        "@touch 0x10000000000 x = SEGV_ACCERR",
        "@store 0x10000000000 0x2a",
        "@load 0x10000000000 = 0x2a",
        "@flags 0x10000000000 = rd wr mr mw me ac",
        "@resident 0x10000000000+4 = 1 0 0 1",
        "@rss anon=12 file=0 shmem=0 swap=0",
        "@rss anon=12",
        "@file 3 kind=memfd pages=32 mode=rw seals=0",
        "@file 5 same=3 mode=r",
        "@file 5 kind=closed",
        "@uffd register 0x10000000000+4 missing|wp",
        "@uffd unregister 0x10000000000+4",
        "@limit RLIMIT_DATA 1048576",
        "@sysctl vm.max_map_count 65530",
        "@cap CAP_IPC_LOCK no",
        "@thp madvise",
        "@thp 64k:always",
        "@thp 2m:inherit",
        "@personality 0x0040000",
        "@mmap_base 0x7ffff7fff000",
        "@brk 0x555555559000 0x55555557a000",
        "@brk 0x555555559000 0x55555557a000 555555558010-555555558020",
        "12  @thp never",
    ] {
        assert_eq!(one(line).to_string(), line);
    }
}

#[test]
fn hidden_state_is_told_from_a_name_with_a_semicolon() {
    let line = |text: &str| match one(&format!("@maps\n{text}\n@end")).action {
        Action::Directive(Directive::Maps { mut lines, .. }) => lines.remove(0),
        other => panic!("{other:?}"),
    };
    let plain = line("1000-2000 r--p 00000000 fe:01 7 /a ; b;c");
    assert_eq!((plain.name.as_str(), plain.hidden), ("/a ; b;c", Hidden::default()));
    let both = line("1000-2000 r--p 00000000 fe:01 7 /a;b ; rd mr ; anon=own pgoff=1");
    assert_eq!(both.name, "/a;b");
    assert_eq!(both.hidden.anon, Some(AnonOrigin::Own));
    assert_eq!(both.hidden.pgoff, Some(1));
    assert_eq!(both.hidden.flags, Some(VmFlagNames(vec![*b"rd", *b"mr"])));
    let vsyscall = line("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]");
    assert_eq!(vsyscall.span.start, at(0xffff_ffff_ff60_0000));
}

#[test]
fn blank_lines_and_remarks_are_ignored_and_counted() {
    let events = read("\n# a remark\n   \nbrk(NULL) = 0x1000\r\n").unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].line, 4);
}

#[test]
fn a_malformed_line_is_named_and_nothing_follows_it() {
    let mut reader = Reader::new(b"brk(NULL) = 0x1000\nbrk(NULL = 0\nbrk(NULL) = 0x1000\n");
    assert!(reader.next().unwrap().is_ok());
    assert_eq!(
        reader.next().unwrap().unwrap_err().to_string(),
        "line 2: the arguments of brk have no closing `)`; was the line cut?"
    );
    assert!(reader.next().is_none());
}

#[test]
fn errors_say_what_is_wrong() {
    for (text, said) in [
        ("hello", "`hello` is no event"),
        ("munmap(0x1000, 4096)", "munmap has no result"),
        ("munmap(0x1000) = 0", "munmap has 1 arguments; its `len` is missing"),
        ("munmap(0x1000, 4096, 1) = 0", "munmap has 3 arguments; it takes 2"),
        ("munmap(0x1000, 40z6) = 0", "`len` of munmap: `40z6` is no number"),
        ("munmap(0x1000, 99999999999999999999) = 0", "is too large a number here"),
        ("munmap(0x1000, 4096) = -1 EFOO (Foo)", "`EFOO` is no error's name"),
        ("munmap(0x1000, 4096) = zero", "`zero` is no result of munmap"),
        ("mprotect(0x1000, 1, PROT_ALL) = 0", "`PROT_ALL` is no name of a value here"),
        ("close(AT_FDCWD1) = 0", "`fd` of close: `AT_FDCWD1` is no name"),
        ("prlimit64(0, RLIMIT_AS, {rlim_cur=1}, NULL) = 0", "rlim_max is missing"),
        ("@foo 1", "`@foo` is unknown"),
        (
            "@thp sometimes",
            "`mode` of @thp: `sometimes` stands where madvise, always, never or a size's as in 64k:always must",
        ),
        ("@thp", "`mode` of @thp: mode is missing"),
        ("@thp never never", "@thp: `never` is too much"),
        ("@resident 0x1000+2 = 1", "`1 pages` stands where as many as the range has must"),
        ("@store 0x1000 256", "`256` is too large"),
        ("\n\n@maps\n", "line 3: @maps has no @end"),
        (
            "@maps\n1000-2000 rw-p\n@end",
            "line 2: `1000-2000 rw-p` is no line of /proc/PID/maps: the offset",
        ),
        ("@maps\n2000-1000 rw-p 0 0:0 0\n@end", "a range that ends after its start"),
        ("<... brk resumed>) = 0", "no `<unfinished ...>` line of this process began it"),
    ] {
        let problem = problem(text);
        assert!(problem.contains(said), "{text}: {problem}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_printed_reads_back_the_same(event in generate::event()) {
        let text = event.to_string();
        let events = read(&text);
        prop_assert!(events.is_ok(), "{}: {:?}", text, events);
        prop_assert_eq!(events.unwrap(), vec![event], "{}", text);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        for event in Reader::new(&bytes).flatten() {
            let _ = event.to_string();
        }
    }

    #[test]
    fn no_damaged_line_makes_it_panic(
        event in generate::event(),
        at in any::<prop::sample::Index>(),
        with in prop::collection::vec(prop::sample::select(b"()[]{}<>\"\\|,=*-0x9/ \n\xff@+A".to_vec()), 0..4),
    ) {
        let mut text = event.to_string().into_bytes();
        let at = at.index(text.len());
        text.splice(at..=at, with);
        for event in Reader::new(&text).flatten() {
            let again = event.to_string();
            prop_assert!(Reader::new(again.as_bytes()).all(|e| e.is_ok()), "{}", again);
        }
    }
}
