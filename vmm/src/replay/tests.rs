//! Short traces whose accesses are a vCPU's.

use std::sync::Arc;

use mm::inspect::audit;
use mm::replay::engine::{AddressMode, Mismatch, Task, replay};
use mm::replay::trace::Reader;

use super::*;
use crate::kvm::{FlushPolicy, Kind, Kvm};
use crate::machine::MachineConfig;

const MEMORY: u64 = 64 << 20;
const ANONYMOUS: &str = "MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0";

fn machine(flush: FlushPolicy) -> Option<Arc<Machine>> {
    if std::env::var_os("MMVISOR_NO_KVM").is_some_and(|value| value == "1") {
        eprintln!("skipped: MMVISOR_NO_KVM=1");
        return None;
    }
    let config = MachineConfig { memory: MEMORY, flush, nodes: 1 };
    Some(Arc::new(Machine::for_replay(config, None).unwrap()))
}

/// What differs from the trace.
fn mismatches(machine: &Arc<Machine>, trace: &str) -> Vec<String> {
    let mut linux = in_guest(machine).unwrap();
    let mut mismatches = Vec::new();
    let mut note = |mismatch: Mismatch| mismatches.push(mismatch.to_string());
    let report = replay(Reader::new(trace.as_bytes()), &mut linux, AddressMode::Exact, &mut note);
    assert!(report.ended.is_none(), "{:?}", report.ended);
    assert_eq!(report.summary.skipped, 0, "{trace}");
    mismatches
}

fn good(trace: &str) {
    let Some(machine) = machine(FlushPolicy::Chosen) else { return };
    assert_eq!(mismatches(&machine, trace), [""; 0]);
    assert_eq!(Arc::strong_count(machine.system()), 1, "something is left of a process");
}

#[test]
fn what_is_stored_is_loaded_and_a_touch_changes_nothing() {
    good(&format!(
        "mmap(0x10000, 8192, PROT_READ|PROT_WRITE|PROT_EXEC, {ANONYMOUS}) = 0x10000\n\
         @load 0x10007 = 0\n\
         @store 0x10007 0x2a\n\
         @touch 0x10007 w = ok\n\
         @touch 0x10007 r = ok\n\
         @touch 0x10007 x = ok\n\
         @load 0x10007 = 0x2a\n\
         @load 0x10fff = 0\n\
         @store 0x11fff 0xff\n\
         @load 0x11fff = 0xff\n"
    ));
}

#[test]
fn each_access_meets_the_permission_it_lacks() {
    for (prot, [read, write, execute]) in [
        ("PROT_NONE", ["SEGV_ACCERR"; 3]),
        ("PROT_READ", ["ok", "SEGV_ACCERR", "SEGV_ACCERR"]),
        ("PROT_READ|PROT_WRITE", ["ok", "ok", "SEGV_ACCERR"]),
        ("PROT_READ|PROT_EXEC", ["ok", "SEGV_ACCERR", "ok"]),
        ("PROT_READ|PROT_WRITE|PROT_EXEC", ["ok"; 3]),
    ] {
        let touches = format!(
            "@touch 0x10000 x = {execute}\n@touch 0x10000 w = {write}\n@touch 0x10000 r = {read}\n"
        );
        // Of a page that is absent, of one that is present, and where nothing is.
        good(&format!(
            "mmap(0x10000, 4096, {prot}, {ANONYMOUS}) = 0x10000\n{touches}{touches}\
             mprotect(0x10000, 4096, PROT_READ|PROT_WRITE) = 0\n\
             @store 0x10000 0x90\n\
             mprotect(0x10000, 4096, {prot}) = 0\n{touches}\
             munmap(0x10000, 4096) = 0\n{}",
            touches.replace("ok", "SEGV_MAPERR").replace("ACCERR", "MAPERR")
        ));
    }
}

#[test]
fn past_the_end_of_a_file_is_a_bus_error_and_the_upper_half_is_nobodys() {
    good(
        "@file 3 kind=memfd pages=1 mode=rw seals=0\n\
         mmap(0x10000, 8192, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_FIXED, 3, 0) = 0x10000\n\
         @store 0x10000 1\n\
         @touch 0x11000 r = BUS_ADRERR\n\
         @touch 0x7ffffffff000 r = SEGV_MAPERR\n\
         @touch 0x800000000000 w = SEGV_MAPERR\n\
         @touch 0xffffffff80000000 x = SEGV_MAPERR\n\
         @touch 0xffffffff80004000 r = SEGV_MAPERR\n",
    );
}

/// Whatever the bytes are, they are fetched; and what they would do, they do not.
#[test]
fn any_instruction_can_be_executed() {
    let instructions: [&[u8]; 13] = [
        &[0x00, 0x00],                                     // add %al, (%rax)
        &[0x90],                                           // nop
        &[0xc3],                                           // ret
        &[0xcc],                                           // int3
        &[0xcd, 0x80],                                     // int 0x80
        &[0x0f, 0x05],                                     // syscall
        &[0x0f, 0x0b],                                     // ud2
        &[0xeb, 0xfe],                                     // jmp to itself
        &[0xf4],                                           // hlt
        &[0xe6, 0x4d],                                     // out, to the port of calls
        &[0xff, 0x04, 0xc0],                               // incl (%rax, %rax, 8)
        &[0x9d],                                           // popf
        &[0x80, 0x05, 0xf9, 0xff, 0xff, 0xff, 0x01, 0x90], // addb $1, itself
    ];
    let last = 0x10000 + 64 * instructions.len();
    let mut trace =
        format!("mmap(0x10000, 4096, PROT_READ|PROT_WRITE|PROT_EXEC, {ANONYMOUS}) = 0x10000\n");
    for (index, bytes) in instructions.iter().enumerate() {
        let at = 0x10000 + 64 * index;
        for (offset, byte) in bytes.iter().enumerate() {
            trace += &format!("@store {:#x} {byte:#x}\n", at + offset);
        }
        trace += &format!("@touch {at:#x} x = ok\n@load {last:#x} = 0\n");
    }
    good(&trace);
}

#[test]
fn processes_that_take_turns_on_one_vcpu_see_their_own_memory() {
    let mut trace = format!(
        "7  mmap(0x10000, 8192, PROT_READ|PROT_WRITE, {ANONYMOUS}) = 0x10000\n\
         7  @store 0x10000 1\n\
         7  fork() = 8\n"
    );
    for byte in 2..9 {
        trace += &format!(
            "8  @load 0x10000 = {0:#x}\n8  @store 0x11000 {byte:#x}\n7  @store 0x10000 {byte:#x}\n\
             8  @store 0x10000 {1:#x}\n7  @load 0x10000 = {byte:#x}\n7  @load 0x11000 = 0\n",
            if byte == 2 { 1 } else { 0x3f + byte },
            0x40 + byte,
        );
    }
    // The child's root may be the next process's.
    trace += "8  munmap(0x10000, 4096) = 0\n\
              8  +++ exited with 0 +++\n\
              7  @load 0x10000 = 0x8\n\
              7  fork() = 9\n\
              9  @load 0x11000 = 0\n\
              9  @touch 0x10000 w = ok\n\
              9  @load 0x10000 = 0x8\n";
    good(&trace);
}

#[test]
fn a_machine_that_runs_programs_has_no_accesses_in_its_kernel_half() {
    if machine(FlushPolicy::Chosen).is_none() {
        return;
    }
    let config = MachineConfig { memory: MEMORY, flush: FlushPolicy::Chosen, nodes: 1 };
    let machine = Arc::new(Machine::new(config).unwrap());
    let mut linux = in_guest(&machine).unwrap();
    linux.start(Task(0)).unwrap();
    let read = ByteAccess::Touch(AccessKind::Read);
    match linux.access(Task(0), VirtAddr::new(0x10000), read) {
        Err(AccessError::Broken(broken)) => {
            let text = broken.to_string();
            assert!(text.contains("ended in Fault { vector: 14"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn calls_and_accesses_agree_about_what_is_in_memory() {
    let Some(machine) = machine(FlushPolicy::Chosen) else { return };
    let mut linux = in_guest(&machine).unwrap();
    linux.start(Task(0)).unwrap();
    let trace = "0  mmap(0x10000, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)";
    for event in Reader::new(format!("{trace} = 0x10000\n").as_bytes()) {
        let mm::replay::trace::Action::Call { call, .. } = event.unwrap().action else { panic!() };
        let mm::replay::calls::Call::Memory(call) = call else { panic!() };
        linux.call(Task(0), &call).unwrap().unwrap().0.unwrap();
    }
    let at = VirtAddr::new(0x10123);
    linux.access(Task(0), at, ByteAccess::Store(7)).unwrap();
    let mut byte = [0];
    linux.space(Task(0)).unwrap().read(at, &mut byte).unwrap();
    assert_eq!(byte, [7]);
    linux.space(Task(0)).unwrap().write(at, &[9]).unwrap();
    let read = linux.access(Task(0), at, ByteAccess::Touch(AccessKind::Read)).unwrap();
    assert_eq!(read, 9);
    assert_eq!(audit(&linux.space(Task(0)).unwrap().look()), Ok(()));
}

/// Shadow paging remembers what nobody has flushed.
#[test]
fn without_flushes_an_access_shows_what_was_there_before() {
    if !Kvm::open().is_ok_and(|kvm| matches!(kvm.kind(), Kind::Soft | Kind::Shadow)) {
        return;
    }
    let trace = format!(
        "mmap(0x10000, 4096, PROT_READ|PROT_WRITE, {ANONYMOUS}) = 0x10000\n\
         @store 0x10000 1\n\
         munmap(0x10000, 4096) = 0\n\
         @touch 0x10000 r = SEGV_MAPERR\n"
    );
    good(&trace);
    let Some(machine) = machine(FlushPolicy::None) else { return };
    assert_eq!(mismatches(&machine, &trace), ["4: @touch 0x10000 r: expected SEGV_MAPERR, got ok"]);
}
