//! What mmvisor relies on, asked of the KVM at hand by guests of a few instructions.

mod flush;

use std::time::Duration;

use mm::addr::{Frame, FrameRun, PAGE_SIZE, VirtAddr};
use mm::phys::PhysMemory;

use super::lab::{self, CODE, DATA, KERNEL_PAGES, Lab, READ, WRITE, load_store, program};
use super::*;

/// The device, or `None` where the environment says that there is none.
fn kvm() -> Option<Kvm> {
    if std::env::var_os("MMVISOR_NO_KVM").is_some_and(|value| value == "1") {
        eprintln!("skipped: MMVISOR_NO_KVM=1");
        return None;
    }
    match Kvm::open() {
        Ok(kvm) => Some(kvm),
        Err(error) => panic!("this test needs KVM (MMVISOR_NO_KVM=1 skips it): {error}"),
    }
}

fn lab() -> Option<Lab> {
    Some(Lab::new(&kvm()?, FlushPolicy::Chosen).unwrap())
}

program!(call_twice:
    "mov $39, %eax",
    "syscall",
    "mov %rax, %rbx",
    "mov $60, %eax",
    "syscall",
    "ud2",
);

#[test]
fn a_system_call_leaves_ring_3_with_its_registers_and_returns_with_its_result() {
    let Some(lab) = lab() else { return };
    let mut vcpu = lab.vcpu(call_twice()).unwrap();
    assert_eq!(lab.run(&mut vcpu).unwrap(), Exit::Call);
    let mut registers = *vcpu.registers();
    assert_eq!((registers.rax, registers.rip), (39, CODE + 7));
    assert_eq!(registers.rflags & 0x200, 0x200, "interrupts are on at ring 3");
    registers.rax = 1234;
    vcpu.resume_user(&registers).unwrap();
    assert_eq!(lab.run(&mut vcpu).unwrap(), Exit::Call);
    assert_eq!((vcpu.registers().rax, vcpu.registers().rbx), (60, 1234));
}

#[test]
fn a_page_fault_tells_address_and_access_and_continues_once_the_page_is_there() {
    let Some(lab) = lab() else { return };
    let mut vcpu = lab.vcpu(load_store()).unwrap();
    let Exit::Fault { vector, error, address, frame } = lab.run(&mut vcpu).unwrap() else {
        panic!("no fault")
    };
    assert_eq!(
        (vector, error, address),
        (14, 4, VirtAddr::new(DATA)),
        "read by ring 3, not present"
    );
    assert_eq!((frame.rip, frame.cs, frame.ss), (CODE, 0x33, 0x2b));
    assert_eq!((vcpu.registers().rip, vcpu.registers().rdi), (CODE, DATA));

    let page = lab.map(DATA, READ);
    lab.store(page, 0x1122_3344_5566_7788);
    vcpu.retry_fault();
    assert_eq!(lab.run_to_call(&mut vcpu).unwrap(), 0x1122_3344_5566_7788);

    assert_eq!(lab.run_to_fault(&mut vcpu).unwrap(), (14, 7), "write by ring 3, present");
    lab.set(DATA, page, WRITE | 1 << 63);
    let registers = Registers { rsi: 42, ..*vcpu.registers() };
    vcpu.resume_user(&registers).unwrap();
    lab.run_to_call(&mut vcpu).unwrap();
    assert_eq!(lab.load(page, 0), 42, "repeated with a changed register");

    assert_eq!(lab.run_to_fault(&mut vcpu).unwrap(), (14, 0x15), "fetch by ring 3, present");
    assert_eq!(vcpu.registers().rip, DATA);
}

program!(trap: "int3", "nop");
program!(undefined: "ud2");
program!(privileged: "cli");
program!(divide: "xor %eax, %eax", "div %eax");
program!(halt: "hlt");
program!(far_port: "mov $0x80, %eax", "out %al, $0x4e");
program!(wide_port: "out %eax, $0x4d");
program!(other_port: "mov $0x3f8, %edx", "in (%dx), %al");

#[test]
fn each_exception_arrives_with_its_vector_and_saved_rip() {
    let Some(lab) = lab() else { return };
    for (name, program, vector, error, rip) in [
        ("int3", trap(), 3, 0, 1),
        ("ud2", undefined(), 6, 0, 0),
        ("cli", privileged(), 13, 0, 0),
        ("hlt", halt(), 13, 0, 0),
        ("div", divide(), 0, 0, 2),
        ("out to the fault port", far_port(), 13, 0, 5),
        ("four bytes to the call port", wide_port(), 13, 0, 0),
        ("in from a serial port", other_port(), 13, 0, 5),
    ] {
        let mut vcpu = lab.vcpu(program).unwrap();
        assert_eq!(lab.run_to_fault(&mut vcpu).unwrap(), (vector, error), "{name}");
        assert_eq!(vcpu.registers().rip, CODE + rip, "{name}");
    }
}

program!(user_out: "mov $7, %eax", "out %al, $0x4d", "syscall");
program!(user_in: "mov $7, %eax", "in $0x4d, %al", "syscall");

#[test]
fn the_call_port_outside_the_stub_is_no_call() {
    let Some(lab) = lab() else { return };
    for program in [user_out(), user_in()] {
        let mut vcpu = lab.vcpu(program).unwrap();
        match lab.run(&mut vcpu).unwrap() {
            Exit::UserPort { port: guest::abi::PORT_CALL } | Exit::Fault { vector: 13, .. } => {}
            other => panic!("{other:?}"),
        }
        // Diverted, as to a signal handler: nothing of the access may come after.
        let registers = Registers { rip: CODE + 7, rax: 99, ..*vcpu.registers() };
        vcpu.resume_user(&registers).unwrap();
        assert_eq!(lab.run_to_call(&mut vcpu).unwrap(), 99);
    }
}

#[test]
fn ring_3_reaches_nothing_of_the_kernel_half_but_the_stub() {
    let Some(lab) = lab() else { return };
    let mut vcpu = lab.vcpu(load_store()).unwrap();
    let mut fault_of = |rip: u64, rdi: u64| {
        let registers = Registers { rip, rdi, ..*vcpu.registers() };
        vcpu.resume_user(&registers).unwrap();
        (lab.run_to_fault(&mut vcpu).unwrap(), vcpu.registers().rip)
    };
    let (load, store) = (CODE, CODE + lab::STORE_OFFSET);
    for page in KERNEL_PAGES {
        assert_eq!(fault_of(load, page), ((14, 5), load), "read of {page:#x}");
        assert_eq!(fault_of(store, page).0.0, 14, "write of {page:#x}");
        let ((vector, _), rip) = fault_of(page, 0);
        assert_eq!((vector, rip), (14, page), "jump to {page:#x}");
    }
    assert_eq!(fault_of(store, guest::abi::STUB_PAGE), ((14, 7), store), "the stub is read-only");
}

#[test]
fn a_jump_to_any_byte_of_the_stub_page_ends_at_ring_3() {
    let Some(lab) = lab() else { return };
    let mut vcpu = lab.vcpu(call_twice()).unwrap();
    for offset in 0..PAGE_SIZE {
        let registers = Registers {
            rip: guest::abi::STUB_PAGE + offset,
            rcx: CODE,
            r11: u64::MAX,
            // A stack pointer where the exception frames are: they must not end up elsewhere.
            rsp: guest::abi::VCPU_BASE + guest::abi::VCPU_STRIDE - 16,
            ..*vcpu.registers()
        };
        vcpu.resume_user(&registers).unwrap();
        match lab.run(&mut vcpu).unwrap() {
            Exit::Call | Exit::CompatCall => {
                assert!(lab.vm.kind() == Kind::Soft && matches!(offset, 0 | 0x40), "{offset:#x}");
            }
            Exit::Fault { frame, .. } => assert_eq!(frame.cs, 0x33, "{offset:#x}"),
            other => panic!("stub page + {offset:#x}: {other:?}"),
        }
    }
}

program!(set_flags:
    "pushf",
    "orq $0x244cd5, (%rsp)",
    "popf",
    "syscall",
    "nop",
    "pushf",
    "pop %rax",
    "syscall",
);

#[test]
fn flags_that_ring_3_sets_do_not_reach_ring_0_and_privileged_ones_are_never_given() {
    /// Where the `nop` is.
    const AFTER_CALL: u64 = CODE + 12;
    let Some(lab) = lab() else { return };
    lab.map(DATA, WRITE);
    let mut vcpu = lab.vcpu(set_flags()).unwrap();
    let registers = Registers { rsp: DATA + PAGE_SIZE, ..*vcpu.registers() };
    vcpu.resume_user(&registers).unwrap();
    assert_eq!(lab.run(&mut vcpu).unwrap(), Exit::Call);
    let flags = vcpu.registers().rflags;
    assert_eq!(flags & 0x24_4cd5, 0x24_4cd5, "AC, NT, DF, ID and status as the program had them");
    let registers = Registers { rip: AFTER_CALL, rflags: !0x100, ..*vcpu.registers() };
    vcpu.resume_user(&registers).unwrap();
    let flags = lab.run_to_call(&mut vcpu).unwrap();
    assert_eq!(flags & 0x1b_7000, 0, "no IOPL, NT, RF, VM, VIF, VIP: {flags:#x}");
    assert_eq!(flags & 0x24_0ed7, 0x24_0ed7, "{flags:#x}");

    let registers = Registers { rip: AFTER_CALL, rflags: 0x102, ..*vcpu.registers() };
    vcpu.resume_user(&registers).unwrap();
    assert_eq!(
        lab.run_to_fault(&mut vcpu).unwrap().0,
        1,
        "a single step traps after an instruction"
    );
    assert_eq!(vcpu.registers().rip, AFTER_CALL + 1);
}

#[test]
fn a_non_canonical_address_never_reaches_kvm() {
    let Some(lab) = lab() else { return };
    let mut vcpu = lab.vcpu(call_twice()).unwrap();
    let registers = Registers { rip: 1 << 47, ..*vcpu.registers() };
    assert_eq!(vcpu.resume_user(&registers), Err(NonCanonical(1 << 47)));
    assert_eq!(vcpu.set_fs_base(1 << 63), Err(NonCanonical(1 << 63)));
    assert_eq!(lab.run_to_call(&mut vcpu).unwrap(), 39, "and changed nothing");
}

program!(non_canonical_stack: "mov $0x800000001000, %rsp", "syscall", "push %rax");
program!(non_canonical_jump: "mov $0x800000000000, %rax", "jmp *%rax");
program!(bad_selector: "mov $0x10, %eax", "mov %eax, %ss");
program!(compat_far: "mov $0x400, %esp", "push $0x23", "push $0", "lretq");

#[test]
fn stacks_jumps_and_selectors_that_are_wrong_are_the_programs_own_fault() {
    let Some(lab) = lab() else { return };
    lab.map(0, WRITE);
    let fault_of = |program: &[u8], calls: usize| {
        let mut vcpu = lab.vcpu(program).unwrap();
        for _ in 0..calls {
            lab.run_to_call(&mut vcpu).unwrap();
        }
        lab.run_to_fault(&mut vcpu).unwrap()
    };
    let (vector, error) = fault_of(non_canonical_stack(), 1);
    // QEMU's emulated processors say #GP where real ones say #SS.
    assert!(matches!(vector, 12 | 13) && error == 0, "after a call with that stack: {vector}");
    assert_eq!(fault_of(non_canonical_jump(), 0), (13, 0));
    assert_eq!(fault_of(bad_selector(), 0), (13, 0x10));
    assert_eq!(fault_of(compat_far(), 0), (13, 0x20), "no 32-bit code segment");
}

#[test]
fn a_vcpu_from_the_pool_has_nothing_of_its_last_program_and_takes_back_a_saved_state() {
    let Some(kvm) = kvm() else { return };
    let asked = lab::vector_state(&kvm).unwrap();
    let avx = Kind::detect() == Kind::Soft && std::arch::is_x86_feature_detected!("avx");
    assert!(asked == "YMM" || !avx, "{asked}");
}

#[test]
fn a_new_vcpu_starts_like_one_that_was_set_back() {
    let Some(lab) = lab() else { return };
    // x87 control word, MXCSR, the ST and XMM registers (Intel SDM volume 1, table 10-2), FS base, and
    // what ring 3 sees of its own registers.
    let start = || {
        let mut vcpu = lab.vcpu(call_twice()).unwrap();
        lab.run_to_call(&mut vcpu).unwrap();
        let image = vcpu.xsave().unwrap().to_bytes();
        let vectors = image[32..416].iter().filter(|&&byte| byte != 0).count();
        let control = [image[0..2].to_vec(), image[24..28].to_vec()].concat();
        let seen = (vectors, control, vcpu.fs_base(), *vcpu.registers());
        (vcpu.index(), seen, vcpu)
    };
    let (number, new, vcpu) = start();
    lab.pool.give_back(vcpu);
    let (again, set_back, _vcpu) = start();
    assert_eq!((number, &new), (again, &set_back));
    assert_eq!((new.0, new.1), (0, vec![0x7f, 0x03, 0x80, 0x1f, 0, 0]));
}

program!(shuffle:
    "xchg %rax, %rbx",
    "xchg %rcx, %r8",
    "xchg %rdx, %r9",
    "xchg %rsi, %r10",
    "xchg %rdi, %r12",
    "xchg %rbp, %r13",
    "xchg %rsp, %r14",
    "not %r15",
    "int3",
);

#[test]
fn all_general_registers_go_both_ways_through_the_run_page() {
    let Some(lab) = lab() else { return };
    let mut vcpu = lab.vcpu(shuffle()).unwrap();
    #[rustfmt::skip]
    let set = Registers {
        rax: 1, rbx: 2, rcx: 3, rdx: 4, rsi: 5, rdi: 6, rsp: 7, rbp: 8,
        r8: 9, r9: 10, r10: 11, r11: 12, r12: 13, r13: 14, r14: 15, r15: 16,
        rip: CODE, rflags: 0x202,
    };
    vcpu.resume_user(&set).unwrap();
    assert_eq!(lab.run_to_fault(&mut vcpu).unwrap(), (3, 0));
    #[rustfmt::skip]
    let seen = Registers {
        rax: 2, rbx: 1, rcx: 9, rdx: 10, rsi: 11, rdi: 13, rsp: 15, rbp: 14,
        r8: 3, r9: 4, r10: 5, r11: 12, r12: 6, r13: 8, r14: 7, r15: !16,
        rip: CODE + shuffle().len() as u64, rflags: vcpu.registers().rflags,
    };
    assert_eq!(*vcpu.registers(), seen);
}

program!(spin: "1: jmp 1b");

#[test]
fn a_kick_stops_a_vcpu_whenever_it_comes() {
    let Some(lab) = lab() else { return };
    let mut vcpu = lab.vcpu(spin()).unwrap();
    // Before the run: it must not be lost.
    Kicker::of_this_thread().kick().unwrap();
    assert_eq!(vcpu.run(), Exit::Interrupted(Position::User));
    // During it.
    let kicker = Kicker::of_this_thread();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            kicker.kick().unwrap();
        });
        assert_eq!(vcpu.run(), Exit::Interrupted(Position::User));
    });
    assert_eq!(vcpu.registers().rip, CODE);
    assert!(!lab.watchdog().has_barked(), "it was the watchdog that stopped it");
}

#[test]
fn memory_grows_to_its_limit_and_keeps_what_was_written() {
    let Some(lab) = lab() else { return };
    let memory = lab.memory();
    let (before, last) = (Frame::new(4095), Frame::new(16383));
    assert_eq!(memory.frames(), 4096, "16 MiB at first");
    lab.store(before, 77);
    assert_eq!(memory.grow().unwrap(), 8192);
    assert_eq!(memory.grow().unwrap(), 16384);
    assert_eq!(memory.grow().unwrap(), 16384, "as large as it may become");
    assert_eq!((lab.load(before, 0), lab.load(last, 0)), (77, 0));
    lab.set(DATA, last, WRITE);
    let mut vcpu = lab.vcpu(load_store()).unwrap();
    lab.store(last, 5);
    assert_eq!(lab.run_to_call(&mut vcpu).unwrap(), 5, "the guest reaches the last slot");
}

#[test]
fn an_impossible_memory_size_is_refused_with_a_reason() {
    let Some(kvm) = kvm() else { return };
    for bytes in [0, u64::MAX, 1 << 60] {
        let error = Vm::new(&kvm, bytes, 1).unwrap_err();
        assert!(matches!(error, KvmError::MemorySize { .. }), "{bytes}: {error}");
    }
}

#[test]
fn released_frames_read_as_zeros_to_host_and_guest() {
    let Some(lab) = lab() else { return };
    let page = lab.map(DATA, READ);
    let run = FrameRun { start: page, count: 1 };
    lab.memory().populate(run);
    lab.store(page, 9);
    let mut vcpu = lab.vcpu(load_store()).unwrap();
    assert_eq!(lab.run_to_call(&mut vcpu).unwrap(), 9);
    lab.memory().release(run).unwrap();
    assert_eq!(lab.load(page, 0), 0);
    let registers = Registers { rip: CODE, ..*vcpu.registers() };
    vcpu.resume_user(&registers).unwrap();
    assert_eq!(lab.run_to_call(&mut vcpu).unwrap(), 0);
}
