//! Short traces of what real programs do around their memory calls. What Linux answers was looked up on
//! 6.18.

use std::sync::Arc;

use super::{Linux, Loader};
use crate::addr::VirtAddr;
use crate::error::CallResult;
use crate::replay::engine::{AddressMode, Mismatch, replay};
use crate::replay::trace::Reader;
use crate::space::{MapRequest, SharedSpace};
use crate::vma::{MapFlags, MapType, Prot};

/// Knows one program, `/bin/known`: a page of code at 0x400000, a heap behind it.
#[derive(Debug)]
struct OneProgram;

impl Loader for OneProgram {
    fn load(&self, space: &SharedSpace, path: &[u8]) -> CallResult<Option<Vec<u8>>> {
        let mut space = space.change();
        space.mmap(&MapRequest {
            addr: VirtAddr::new(0x40_0000),
            len: 4096,
            prot: Prot::READ | Prot::EXEC,
            flags: MapFlags::FIXED_NOREPLACE | MapFlags::ANONYMOUS | MapType::Private.into(),
            file: None,
            offset: 0,
        })?;
        space.set_start_brk(VirtAddr::new(0x40_1000));
        Ok((path == b"/bin/known").then(|| path.to_vec()))
    }
}

/// Replays a trace without a mismatch and gives the counts.
fn good(trace: &str, addresses: AddressMode) -> String {
    let mut mismatches = Vec::new();
    let mut note = |mismatch: Mismatch| mismatches.push(mismatch.to_string());
    let mut linux = Linux::new(4096).with_loader(Box::new(OneProgram));
    let report = replay(Reader::new(trace.as_bytes()), &mut linux, addresses, &mut note);
    assert_eq!(mismatches, [""; 0], "{trace}");
    assert_eq!(report.exit_status(), 0, "{trace}");
    // Everything that a process had goes with it.
    let system = linux.system();
    system.free_retired().unwrap();
    let frames = system.frames().stats();
    let left = (Arc::strong_count(system), frames.pages, frames.tables, system.committed());
    assert_eq!(left, (1, 0, 0, 0), "{trace}");
    report.summary.to_string()
}

fn exact(trace: &str) -> String {
    good(trace, AddressMode::Exact)
}

const KNOWN: &str = "execve(\"/bin/known\", [\"known\"], 0x1) = 0\n";
const UNKNOWN: &str = "execve(\"/bin/unknown\", [\"unknown\"], 0x1) = 0\n";
const FILE: &str = "openat(AT_FDCWD, \"/file\", O_RDONLY) = 3\n";
const MAP_FILE: &str = "mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3, 0)";

#[test]
fn a_program_that_was_loaded_has_its_maps_its_heap_and_the_vdso() {
    let trace = format!(
        "{KNOWN}mprotect(0x400000, 4096, PROT_READ) = 0\n\
         brk(NULL) = 0x401000\n\
         brk(0x402000) = 0x402000\n\
         @maps\n\
         00400000-00401000 r--p 00000000 00:00 0\n\
         00401000-00402000 rw-p 00000000 00:00 0 [heap]\n\
         7ffff7ff7000-7ffff7ffb000 r--p 00000000 00:00 0 [vvar]\n\
         7ffff7ffb000-7ffff7ffd000 r--p 00000000 00:00 0 [vvar_vclock]\n\
         7ffff7ffd000-7ffff7fff000 r-xp 00000000 00:00 0 [vdso]\n\
         @end\n"
    );
    assert_eq!(exact(&trace), "4 calls, 4 checks, 0 mismatches, 0 skipped, 0 assumed");
}

#[test]
fn nothing_is_left_of_a_program_that_could_not_be_loaded() {
    let trace = format!("{UNKNOWN}munmap(0x400000, 4096) = 0\n@maps\n@end\n");
    assert_eq!(exact(&trace), "2 calls, 2 checks, 0 mismatches, 0 skipped, 0 assumed");
}

#[test]
fn the_first_brk_says_where_the_heap_of_an_unknown_program_is() {
    let heap = "brk(NULL) = 0x55758aefe000\n\
                brk(0x55758af1fd40) = 0x55758af1fd40\n\
                brk(NULL) = 0x55758af1fd40\n\
                brk(0x55758af00000) = 0x55758af00000\n";
    let trace = format!("{UNKNOWN}{heap}");
    assert_eq!(exact(&trace), "5 calls, 4 checks, 0 mismatches, 0 skipped, 1 assumed");
    let summary = good(&trace, AddressMode::Relocated);
    assert_eq!(summary, "5 calls, 4 checks, 0 mismatches, 0 skipped, 0 assumed");
}

#[test]
fn a_process_s_own_program_is_the_one_it_executed_or_that_is_mapped_lowest() {
    let own =
        "execve(\"/proc/self/exe\", [\"a\"], 0x1) = 0\nmprotect(0x400000, 1, PROT_READ) = 0\n";
    let maps = "@maps\n00500000-00501000 r-xp 00000000 08:01 7 /bin/known\n@end\n";
    for before in [KNOWN.to_owned(), format!("{UNKNOWN}{maps}")] {
        let summary = exact(&format!("{before}{own}"));
        assert_eq!(summary, "3 calls, 1 checks, 0 mismatches, 0 skipped, 0 assumed");
    }
    let summary = exact(&format!("{UNKNOWN}{own}"));
    assert_eq!(summary, "3 calls, 1 checks, 0 mismatches, 0 skipped, 1 assumed");
}

#[test]
fn limits_personality_and_descriptors_outlive_execve() {
    let trace = format!(
        "prlimit64(0, RLIMIT_STACK, {{rlim_cur=65536*1024, rlim_max=RLIM64_INFINITY}}, NULL) = 0\n\
         personality(PER_LINUX|ADDR_NO_RANDOMIZE) = 0\n\
         {FILE}{KNOWN}\
         prlimit64(0, RLIMIT_STACK, NULL, {{rlim_cur=65536*1024, rlim_max=RLIM64_INFINITY}}) = 0\n\
         personality(0xffffffff) = 0x40000\n\
         {MAP_FILE} = 0x7ffff7ff6000\n"
    );
    assert_eq!(exact(&trace), "7 calls, 6 checks, 0 mismatches, 0 skipped, 0 assumed");
}

#[test]
fn read_implies_exec_does_not_outlive_execve() {
    let trace = format!(
        "personality(PER_LINUX|READ_IMPLIES_EXEC) = 0\n{KNOWN}personality(0xffffffff) = 0\n"
    );
    assert_eq!(exact(&trace), "3 calls, 2 checks, 0 mismatches, 0 skipped, 0 assumed");
}

/// As posix_spawn(3) does: the child has its parent's memory, and descriptors of its own.
#[test]
fn what_a_vforked_child_closes_stays_open_in_its_parent() {
    let trace = format!(
        "12 {FILE}12 vfork( <unfinished ...>\n\
         13 close(3) = 0\n\
         13 {MAP_FILE} = -1 EBADF (Bad file descriptor)\n\
         13 {KNOWN}\
         12 <... vfork resumed>) = 13\n\
         12 {MAP_FILE} = 0x7ffff7ffe000\n"
    );
    assert_eq!(exact(&trace), "6 calls, 2 checks, 0 mismatches, 0 skipped, 0 assumed");
}

#[test]
fn a_thread_closes_for_all_threads() {
    let flags = "CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM";
    let trace = format!(
        "12 {FILE}12 clone(child_stack=0x1000, flags={flags}) = 13\n\
         13 close(3) = 0\n\
         12 {MAP_FILE} = -1 EBADF (Bad file descriptor)\n"
    );
    assert_eq!(exact(&trace), "4 calls, 1 checks, 0 mismatches, 0 skipped, 0 assumed");
}

#[test]
fn limits_that_memory_does_not_depend_on_are_skipped_but_for_their_errors() {
    let trace = "prlimit64(0, RLIMIT_NOFILE, NULL, {rlim_cur=20000, rlim_max=20000}) = 0\n\
                 prlimit64(0, RLIMIT_NOFILE, {rlim_cur=2, rlim_max=1}, NULL) = -1 EINVAL (Invalid argument)\n\
                 prlimit64(0, 0x10 /* RLIMIT_??? */, NULL, NULL) = -1 EINVAL (Invalid argument)\n\
                 prlimit64(99, RLIMIT_STACK, NULL, {rlim_cur=1, rlim_max=2}) = 0\n";
    assert_eq!(exact(trace), "4 calls, 2 checks, 0 mismatches, 2 skipped, 0 assumed");
}

#[test]
fn a_memfd_grows_and_is_sealed_and_its_copies_with_it() {
    let trace = "memfd_create(\"a\", MFD_ALLOW_SEALING) = 3\n\
                 ftruncate(3, 8192) = 0\n\
                 fcntl(3, F_DUPFD_CLOEXEC, 10) = 10\n\
                 mmap(NULL, 4096, PROT_READ, MAP_SHARED, 10, 0x1000) = 0x7ffff7ffe000\n\
                 @touch 0x7ffff7ffe000 r = ok\n\
                 fcntl(10, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) = 0\n\
                 mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, 3, 0) = -1 EPERM (Operation not permitted)\n";
    assert_eq!(exact(trace), "6 calls, 3 checks, 0 mismatches, 0 skipped, 0 assumed");
}

#[test]
fn a_memfd_of_huge_pages_is_mapped_in_whole_ones() {
    let trace = "memfd_create(\"h\", MFD_HUGETLB|21<<MFD_HUGE_SHIFT) = 3\n\
                 mmap(NULL, 4096, PROT_READ, MAP_SHARED, 3, 0) = -1 ENOMEM (Cannot allocate memory)\n\
                 mmap(0x10000000000, 4096, PROT_READ, MAP_SHARED|MAP_FIXED|MAP_NORESERVE, 3, 0) = 0x10000000000\n\
                 munmap(0x10000000000, 4096) = -1 EINVAL (Invalid argument)\n\
                 @touch 0x10000000000 r = BUS_ADRERR\n\
                 munmap(0x10000000000, 2097152) = 0\n";
    assert_eq!(exact(trace), "5 calls, 5 checks, 0 mismatches, 0 skipped, 0 assumed");
}

/// As the JVM asks.
#[test]
fn a_node_mask_may_be_longer_than_there_are_nodes() {
    let trace =
        "get_mempolicy([MPOL_DEFAULT], [0000000000000000, 0000000000000000], 128, NULL, 0) = 0\n";
    assert_eq!(exact(trace), "1 calls, 2 checks, 0 mismatches, 0 skipped, 0 assumed");
}

#[test]
fn a_file_of_the_starting_state_is_as_long_as_its_maps_say() {
    let trace = "@maps\n\
                 00400000-00401000 r--p 00000000 08:01 7 /bin/a\n\
                 00401000-00403000 r-xp 00001000 08:01 7 /bin/a\n\
                 @end\n\
                 @touch 0x402000 x = ok\n";
    assert_eq!(exact(trace), "0 calls, 1 checks, 0 mismatches, 0 skipped, 0 assumed");
}

const THREAD: &str =
    "12 clone(child_stack=0x1000, flags=CLONE_VM|CLONE_FILES|CLONE_THREAD|CLONE_SIGHAND) = 13\n";
const ANONYMOUS: &str = "PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0";

#[test]
fn of_two_maps_at_once_the_addresses_tell_which_came_first() {
    let trace = format!(
        "{THREAD}12 mmap(NULL, 8192, {ANONYMOUS} <unfinished ...>\n\
         13 mmap(NULL, 4096, {ANONYMOUS} <unfinished ...>\n\
         12 <... mmap resumed>) = 0x7ffff7ffc000\n\
         13 <... mmap resumed>) = 0x7ffff7ffe000\n\
         13 mmap(NULL, 4096, {ANONYMOUS}) = 0x7ffff7ffb000\n"
    );
    assert_eq!(exact(&trace), "4 calls, 3 checks, 0 mismatches, 0 skipped, 0 assumed");
}

#[test]
fn of_two_maps_that_grow_at_once_the_addresses_tell_which_came_first() {
    let map = |at| format!("12 mmap(NULL, 4096, {ANONYMOUS}) = {at}\n");
    let trace = THREAD.to_owned()
        + &map("0x7ffff7ffe000")
        + &map("0x7ffff7ffd000")
        + &map("0x7ffff7ffc000")
        + "12 mremap(0x7ffff7ffc000, 4096, 8192, MREMAP_MAYMOVE <unfinished ...>\n\
           13 mremap(0x7ffff7ffd000, 4096, 8192, MREMAP_MAYMOVE <unfinished ...>\n\
           12 <... mremap resumed>) = 0x7ffff7ffc000\n\
           13 <... mremap resumed>) = 0x7ffff7ffa000\n\
           12 munmap(0x7ffff7ffa000, 20480) = 0\n";
    assert_eq!(exact(&trace), "7 calls, 6 checks, 0 mismatches, 0 skipped, 0 assumed");
}

#[test]
fn what_a_call_under_way_has_freed_can_be_mapped_again_before_it_returns() {
    let trace = format!(
        "{THREAD}12 mmap(NULL, 4096, {ANONYMOUS}) = 0x7ffff7ffe000\n\
         12 munmap(0x7ffff7ffe000, 4096 <unfinished ...>\n\
         13 mmap(NULL, 4096, {ANONYMOUS}) = 0x7ffff7ffe000\n\
         12 <... munmap resumed>) = 0\n\
         13 mprotect(0x7ffff7ffe000, 4096, PROT_READ) = 0\n"
    );
    for addresses in [AddressMode::Exact, AddressMode::Relocated] {
        let summary = good(&trace, addresses);
        assert_eq!(summary, "5 calls, 4 checks, 0 mismatches, 0 skipped, 0 assumed");
    }
}

#[test]
fn a_map_under_way_may_come_before_what_was_freed_meanwhile() {
    let trace = format!(
        "{THREAD}12 mmap(NULL, 4096, {ANONYMOUS}) = 0x7ffff7ffe000\n\
         12 mmap(NULL, 4096, {ANONYMOUS} <unfinished ...>\n\
         13 munmap(0x7ffff7ffe000, 4096) = 0\n\
         12 <... mmap resumed>) = 0x7ffff7ffd000\n\
         12 mmap(NULL, 4096, {ANONYMOUS}) = 0x7ffff7ffe000\n"
    );
    assert_eq!(exact(&trace), "5 calls, 4 checks, 0 mismatches, 0 skipped, 0 assumed");
}

#[test]
fn calls_that_were_not_at_once_are_in_the_order_of_the_trace() {
    for (thread, beside) in [(THREAD, "13"), ("", "12")] {
        let trace = format!(
            "{thread}12 mmap(NULL, 8192, {ANONYMOUS}) = 0x7ffff7ffc000\n\
             {beside} mmap(NULL, 4096, {ANONYMOUS}) = 0x7ffff7ffe000\n"
        );
        let mut mismatches = 0;
        let mut note = |_| mismatches += 1;
        let mut linux = Linux::new(4096);
        replay(Reader::new(trace.as_bytes()), &mut linux, AddressMode::Exact, &mut note);
        assert_eq!(mismatches, 2);
    }
}
