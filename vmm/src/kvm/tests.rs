//! What mmvisor relies on, asked of the KVM at hand by guests of a few instructions.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mm::addr::{PAGE_SIZE, VirtAddr};
use mm::paging::TableChange;
use mm::phys::PhysMemory;

use super::testing::*;
use super::*;

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
    let Some(machine) = machine(FlushPolicy::Chosen) else {
        return;
    };
    let mut vcpu = machine.vcpu(call_twice());
    assert_eq!(run(&mut vcpu), Exit::Call);
    let mut registers = *vcpu.registers();
    assert_eq!((registers.rax, registers.rip), (39, CODE + 7));
    assert_eq!(registers.rflags & 0x200, 0x200, "interrupts are on at ring 3");
    registers.rax = 1234;
    vcpu.resume_user(&registers).unwrap();
    assert_eq!(run(&mut vcpu), Exit::Call);
    assert_eq!((vcpu.registers().rax, vcpu.registers().rbx), (60, 1234));
}

program!(load_store:
    "mov (%rdi), %rax",
    "syscall",
    "mov (%rdi), %rax",
    "mov %rsi, (%rdi)",
    "syscall",
    "jmp *%rdi",
);

#[test]
fn a_page_fault_tells_address_and_access_and_continues_once_the_page_is_there() {
    let Some(machine) = machine(FlushPolicy::Chosen) else {
        return;
    };
    let mut vcpu = machine.vcpu(load_store());
    let Exit::Fault { vector, error, address, frame } = run(&mut vcpu) else { panic!("no fault") };
    assert_eq!(
        (vector, error, address),
        (14, 4, VirtAddr::new(DATA)),
        "read by ring 3, not present"
    );
    assert_eq!((frame.rip, frame.cs, frame.ss), (CODE, 0x33, 0x2b));
    let before = *vcpu.registers();
    assert_eq!((before.rip, before.rdi), (CODE, DATA));

    let page = machine.map(DATA, READ);
    machine.store(page, 0x1122_3344_5566_7788);
    vcpu.retry_fault();
    assert_eq!(run_to_call(&mut vcpu), 0x1122_3344_5566_7788);

    assert_eq!(run_to_fault(&mut vcpu), (14, 7), "write by ring 3, present");
    machine.set(DATA, page, WRITE | 1 << 63);
    let mut registers = *vcpu.registers();
    registers.rsi = 42;
    vcpu.resume_user(&registers).unwrap();
    run_to_call(&mut vcpu);
    assert_eq!(machine.load(page), 42, "repeated with a changed register");

    assert_eq!(run_to_fault(&mut vcpu), (14, 0x15), "fetch by ring 3, present");
    assert_eq!(vcpu.registers().rip, DATA);
}

program!(breakpoint: "int3", "nop");
program!(undefined: "ud2");
program!(privileged: "cli");
program!(divide: "xor %eax, %eax", "div %eax");
program!(halt: "hlt");
program!(far_port: "mov $0x80, %eax", "out %al, $0x4e");
program!(wide_port: "out %eax, $0x4d");
program!(other_port: "mov $0x3f8, %edx", "in (%dx), %al");

#[test]
fn each_exception_arrives_with_its_vector_and_saved_rip() {
    let Some(machine) = machine(FlushPolicy::Chosen) else {
        return;
    };
    for (name, program, vector, error, rip) in [
        ("int3", breakpoint(), 3, 0, 1),
        ("ud2", undefined(), 6, 0, 0),
        ("cli", privileged(), 13, 0, 0),
        ("hlt", halt(), 13, 0, 0),
        ("div", divide(), 0, 0, 2),
        ("out to the fault port", far_port(), 13, 0, 5),
        ("four bytes to the call port", wide_port(), 13, 0, 0),
        ("in from a serial port", other_port(), 13, 0, 5),
    ] {
        let mut vcpu = machine.vcpu(program);
        assert_eq!(run_to_fault(&mut vcpu), (vector, error), "{name}");
        assert_eq!(vcpu.registers().rip, CODE + rip, "{name}");
    }
}

program!(user_port: "mov $7, %eax", "out %al, $0x4d", "syscall");
program!(user_port_in: "mov $7, %eax", "in $0x4d, %al", "syscall");

#[test]
fn the_call_port_outside_the_stub_is_no_call() {
    let Some(machine) = machine(FlushPolicy::Chosen) else {
        return;
    };
    for program in [user_port(), user_port_in()] {
        let mut vcpu = machine.vcpu(program);
        match run(&mut vcpu) {
            Exit::UserPort { port: guest::abi::PORT_CALL } => {}
            Exit::Fault { vector: 13, .. } => {}
            other => panic!("{other:?}"),
        }
        // Diverted, as to a signal handler: nothing of the access may come after.
        let registers = Registers { rip: CODE + 7, rax: 99, ..*vcpu.registers() };
        vcpu.resume_user(&registers).unwrap();
        assert_eq!(run_to_call(&mut vcpu), 99);
    }
}

#[test]
fn ring_3_reaches_nothing_of_the_kernel_half_but_the_stub() {
    let Some(machine) = machine(FlushPolicy::Chosen) else {
        return;
    };
    let mut vcpu = machine.vcpu(load_store());
    for page in KERNEL_PAGES {
        let registers = Registers { rip: CODE, rdi: page, ..*vcpu.registers() };
        vcpu.resume_user(&registers).unwrap();
        assert_eq!(run_to_fault(&mut vcpu), (14, 5), "read of {page:#x}");
        let registers = Registers { rip: CODE + 8, rdi: page, ..*vcpu.registers() };
        vcpu.resume_user(&registers).unwrap();
        assert_eq!(run_to_fault(&mut vcpu).0, 14, "write of {page:#x}");
        let registers = Registers { rip: page, ..*vcpu.registers() };
        vcpu.resume_user(&registers).unwrap();
        let (vector, _) = run_to_fault(&mut vcpu);
        assert_eq!((vector, vcpu.registers().rip), (14, page), "jump to {page:#x}");
    }
    let registers = Registers { rip: CODE + 8, rdi: guest::abi::STUB_PAGE, ..*vcpu.registers() };
    vcpu.resume_user(&registers).unwrap();
    assert_eq!(run_to_fault(&mut vcpu), (14, 7), "the stub is read-only");
}

#[test]
fn a_jump_to_any_byte_of_the_stub_page_ends_at_ring_3() {
    let Some(machine) = machine(FlushPolicy::Chosen) else {
        return;
    };
    let mut vcpu = machine.vcpu(call_twice());
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
        match run(&mut vcpu) {
            Exit::Call | Exit::CompatCall => {
                assert!(
                    machine.vm.kind() == Kind::Soft && matches!(offset, 0 | 0x40),
                    "{offset:#x}"
                );
            }
            Exit::Fault { frame, .. } => assert_eq!(frame.cs, 0x33, "{offset:#x}"),
            other => panic!("stub page + {offset:#x}: {other:?}"),
        }
    }
}

program!(flags:
    "pushf",
    "orq $0x244dd5, (%rsp)",
    "popf",
    "syscall",
    "nop",
    "pushf",
    "pop %rax",
    "syscall",
);

#[test]
fn flags_that_ring_3_sets_do_not_reach_ring_0_and_privileged_ones_are_never_given() {
    let Some(machine) = machine(FlushPolicy::Chosen) else {
        return;
    };
    let stack = DATA + PAGE_SIZE;
    machine.map(DATA, WRITE);
    let mut vcpu = machine.vcpu(flags());
    let registers = Registers { rsp: stack, ..*vcpu.registers() };
    vcpu.resume_user(&registers).unwrap();
    // TF was not set by the program (0x244dd5 lacks it): AC, NT, DF, ID and the status flags were.
    assert_eq!(run(&mut vcpu), Exit::Call);
    assert_eq!(vcpu.registers().rflags & 0x24_4000, 0x24_4000, "as the program had them");
    let registers = Registers { rflags: !0x100, ..*vcpu.registers() };
    vcpu.resume_user(&registers).unwrap();
    let flags = run_to_call(&mut vcpu);
    assert_eq!(flags & 0x1b_7000, 0, "no IOPL, NT, RF, VM, VIF, VIP: {flags:#x}");
    assert_eq!(flags & 0x24_0ed7, 0x24_0ed7, "{flags:#x}");

    let registers = Registers { rip: CODE + 13, rflags: 0x102, ..*vcpu.registers() };
    vcpu.resume_user(&registers).unwrap();
    assert_eq!(run_to_fault(&mut vcpu).0, 1, "a single step traps after one instruction");
    assert_eq!(vcpu.registers().rip, CODE + 14);
}

#[test]
fn a_non_canonical_address_never_reaches_kvm() {
    let Some(machine) = machine(FlushPolicy::Chosen) else {
        return;
    };
    let mut vcpu = machine.vcpu(call_twice());
    let registers = Registers { rip: 1 << 47, ..*vcpu.registers() };
    assert_eq!(vcpu.resume_user(&registers), Err(NonCanonical(1 << 47)));
    assert_eq!(vcpu.set_fs_base(1 << 63), Err(NonCanonical(1 << 63)));
    assert_eq!(run_to_call(&mut vcpu), 39, "and changed nothing");
}

program!(non_canonical_stack: "mov $0x800000001000, %rsp", "syscall", "push %rax");
program!(non_canonical_jump: "mov $0x800000000000, %rax", "jmp *%rax");
program!(bad_selector: "mov $0x10, %eax", "mov %eax, %ss");
program!(compat_far: "mov $0x400, %esp", "push $0x23", "push $0", "lretq");

#[test]
fn stacks_jumps_and_selectors_that_are_wrong_are_the_programs_own_fault() {
    let Some(machine) = machine(FlushPolicy::Chosen) else {
        return;
    };
    machine.map(0, WRITE);
    let mut vcpu = machine.vcpu(non_canonical_stack());
    run_to_call(&mut vcpu);
    assert_eq!(run_to_fault(&mut vcpu).0, 12, "push to a non-canonical stack: #SS");
    let mut vcpu = machine.vcpu(non_canonical_jump());
    assert_eq!(run_to_fault(&mut vcpu).0, 13);
    let mut vcpu = machine.vcpu(bad_selector());
    assert_eq!(run_to_fault(&mut vcpu), (13, 0x10));
    let mut vcpu = machine.vcpu(compat_far());
    assert_eq!(run_to_fault(&mut vcpu), (13, 0x20), "no 32-bit code segment");
}

/// Maps a page, lets the vCPU use it, unmaps it: does the vCPU still see it?
fn sees_revoked_page(policy: FlushPolicy) -> Option<bool> {
    let machine = machine(policy)?;
    let page = machine.map(DATA, READ);
    machine.store(page, 1);
    let mut vcpu = machine.vcpu(load_store());
    run_to_call(&mut vcpu);
    machine.set(DATA, page, 0);
    machine.flush(&[page], TableChange::None);
    Some(!matches!(run(&mut vcpu), Exit::Fault { vector: 14, error: 4, .. }))
}

#[test]
fn a_revoked_page_is_seen_at_once_with_either_method_and_not_without() {
    for policy in [FlushPolicy::Chosen, FlushPolicy::NotifierOnly, FlushPolicy::DummyOnly] {
        let Some(stale) = sees_revoked_page(policy) else {
            return;
        };
        assert!(!stale, "{policy:?}");
    }
    if caches_translations_between_runs() {
        assert_eq!(sees_revoked_page(FlushPolicy::None), Some(true), "without a flush it is stale");
    }
}

/// Shadow paging keeps a translation until it is told; hardware that flushes at each entry does not.
fn caches_translations_between_runs() -> bool {
    matches!(Kind::detect(), Kind::Soft | Kind::Shadow)
}

program!(count_up: "1: incq (%rdi)", "jmp 1b");

/// Unmaps a page while another vCPU counts in it: does it count on afterwards?
fn running_vcpu_goes_on(policy: FlushPolicy) -> Option<bool> {
    let machine = machine(policy)?;
    install_kick_handler().unwrap();
    let page = machine.map(DATA, WRITE);
    let mut vcpu = machine.vcpu(count_up());
    let done = AtomicBool::new(false);
    let (send, receive) = std::sync::mpsc::channel();
    Some(std::thread::scope(|scope| {
        scope.spawn(|| {
            send.send(Kicker::of_this_thread()).unwrap();
            loop {
                match vcpu.run() {
                    Exit::Interrupted(_) if done.load(Ordering::Acquire) => return,
                    Exit::Interrupted(_) => {}
                    // A fault is answered by repeating it: it stays in the fault until it is told.
                    Exit::Fault { vector: 14, .. } => vcpu.retry_fault(),
                    other => panic!("{other:?}"),
                }
            }
        });
        let kicker = receive.recv().unwrap();
        wait_until(|| machine.load(page) > 1000);
        machine.set(DATA, page, 0);
        machine.flush(&[page], TableChange::None);
        let before = machine.load(page);
        std::thread::sleep(Duration::from_millis(50));
        let after = machine.load(page);
        done.store(true, Ordering::Release);
        kicker.kick().unwrap();
        before != after
    }))
}

fn wait_until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "the vCPU does not run");
        std::thread::yield_now();
    }
}

#[test]
fn a_running_vcpu_writes_nothing_more_once_a_flush_has_returned() {
    for policy in [FlushPolicy::NotifierOnly, FlushPolicy::DummyOnly] {
        let Some(goes_on) = running_vcpu_goes_on(policy) else {
            return;
        };
        assert!(!goes_on, "{policy:?}");
    }
    if caches_translations_between_runs() {
        assert_eq!(running_vcpu_goes_on(FlushPolicy::None), Some(true), "without a flush it does");
    }
}

/// Two tables unlinked and linked again with their roles swapped: what do the two addresses read?
fn reads_through_reused_tables(policy: FlushPolicy, change: TableChange) -> Option<(u64, u64)> {
    const OTHER: u64 = DATA + (2 << 20);
    let machine = machine(policy)?;
    let pages = [machine.map(DATA, READ), machine.map(OTHER, READ)];
    let mut vcpu = machine.vcpu(load_two());
    run_to_call(&mut vcpu);

    let upper = |address: u64| {
        let words = machine.memory().words(machine.root);
        let third = frame_of(words[0].load(Ordering::Acquire));
        let second = frame_of(machine.memory().words(third)[0].load(Ordering::Acquire));
        &machine.memory().words(second)[(address >> 21) as usize]
    };
    machine.set(DATA, pages[0], 0);
    machine.set(OTHER, pages[1], 0);
    let tables = [DATA, OTHER].map(|address| upper(address).swap(0, Ordering::AcqRel));
    machine.flush(&pages, change);
    upper(DATA).store(tables[1], Ordering::Release);
    upper(OTHER).store(tables[0], Ordering::Release);
    for (address, value) in [(DATA, 0xc), (OTHER, 0xd)] {
        let page = machine.map(address, READ);
        machine.store(page, value);
    }
    run_to_call(&mut vcpu);
    Some((vcpu.registers().rax, vcpu.registers().rbx))
}

program!(load_two:
    "1: mov (%rdi), %rax",
    "mov 0x200000(%rdi), %rbx",
    "syscall",
    "jmp 1b",
);

#[test]
fn a_reused_table_shows_its_new_content_after_the_dummy_slot_and_not_after_the_notifier() {
    for policy in [FlushPolicy::Chosen, FlushPolicy::NotifierOnly, FlushPolicy::DummyOnly] {
        let Some(read) = reads_through_reused_tables(policy, TableChange::Unlinked) else {
            return;
        };
        assert_eq!(read, (0xc, 0xd), "{policy:?}");
    }
    if caches_translations_between_runs() {
        // Why an unlinked table must be said: leaf notifiers alone give the other address's page.
        let read =
            reads_through_reused_tables(FlushPolicy::NotifierOnly, TableChange::None).unwrap();
        assert_ne!(read, (0xc, 0xd));
    }
}

#[test]
fn each_flush_is_counted_by_its_method() {
    let Some(machine) = machine(FlushPolicy::Chosen) else {
        return;
    };
    let page = machine.map(DATA, READ);
    machine.flush(&[page, page.offset(1), page.offset(5)], TableChange::None);
    machine.flush(&[page], TableChange::Unlinked);
    let scattered: Vec<_> = (0..200).map(|n| page.offset(2 * n)).collect();
    machine.flush(&scattered, TableChange::None);
    let counts = machine.sink.counts();
    assert_eq!((counts.notifier, counts.notifier_runs, counts.notifier_frames), (1, 2, 3));
    assert_eq!(counts.dummy_slot, 2, "a table, and 200 scattered runs");
}

program!(fill_vectors:
    "vpcmpeqd %ymm5, %ymm5, %ymm5",
    "vmovaps %ymm5, %ymm15",
    "mov $0x1f00, %eax",
    "push %rax",
    "ldmxcsr (%rsp)",
    "mov $0x1234, %eax",
    "wrfsbase %rax",
    "syscall",
);
program!(read_vectors:
    "vmovups %ymm5, (%rdi)",
    "vmovups %ymm15, 32(%rdi)",
    "stmxcsr 64(%rdi)",
    "rdfsbase %rax",
    "syscall",
);

#[test]
fn a_vcpu_from_the_pool_has_nothing_of_its_last_program() {
    if !std::arch::is_x86_feature_detected!("avx2") {
        eprintln!("skipped: no AVX2");
        return;
    }
    let Some(machine) = machine(FlushPolicy::Chosen) else {
        return;
    };
    let page = machine.map(DATA, WRITE);
    let mut vcpu = machine.vcpu(fill_vectors());
    let registers = Registers { rsp: DATA + PAGE_SIZE, r15: 5, ..*vcpu.registers() };
    vcpu.resume_user(&registers).unwrap();
    run_to_call(&mut vcpu);
    assert_eq!(vcpu.fs_base(), 0x1234);
    let image = vcpu.xsave().unwrap();

    machine.pool.give_back(vcpu);
    let mut vcpu = machine.vcpu(read_vectors());
    assert_eq!(vcpu.index(), 0, "the same one");
    assert_eq!(vcpu.registers().r15, 0);
    assert_eq!(run_to_call(&mut vcpu), 0, "FS base");
    let words = |n: usize| machine.memory().words(page)[n].load(Ordering::Acquire);
    assert!((0..8).all(|n| words(n) == 0), "YMM");
    assert_eq!(words(8) & 0xffff_ffff, 0x1f80, "MXCSR");

    // And an image set again brings it all back.
    vcpu.set_xsave(&image).unwrap();
    let registers = Registers { rip: CODE, ..*vcpu.registers() };
    vcpu.resume_user(&registers).unwrap();
    run_to_call(&mut vcpu);
    assert!((0..8).all(|n| words(n) == u64::MAX), "YMM");
    assert_eq!(words(8) & 0xffff_ffff, 0x1f00, "MXCSR");
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
    let Some(machine) = machine(FlushPolicy::Chosen) else {
        return;
    };
    let mut vcpu = machine.vcpu(shuffle());
    let set = Registers {
        rax: 1,
        rbx: 2,
        rcx: 3,
        rdx: 4,
        rsi: 5,
        rdi: 6,
        rsp: 7,
        rbp: 8,
        r8: 9,
        r9: 10,
        r10: 11,
        r11: 12,
        r12: 13,
        r13: 14,
        r14: 15,
        r15: 16,
        rip: CODE,
        rflags: 0x202,
    };
    vcpu.resume_user(&set).unwrap();
    assert_eq!(run_to_fault(&mut vcpu), (3, 0));
    let seen = Registers {
        rax: 2,
        rbx: 1,
        rcx: 9,
        rdx: 10,
        rsi: 11,
        rdi: 13,
        rsp: 15,
        rbp: 14,
        r8: 3,
        r9: 4,
        r10: 5,
        r11: 12,
        r12: 6,
        r13: 8,
        r14: 7,
        r15: !16,
        rip: CODE + shuffle().len() as u64,
        rflags: vcpu.registers().rflags,
    };
    assert_eq!(*vcpu.registers(), seen);
}

program!(spin: "1: jmp 1b");

#[test]
fn a_kick_stops_a_vcpu_whenever_it_comes() {
    let Some(machine) = machine(FlushPolicy::Chosen) else {
        return;
    };
    install_kick_handler().unwrap();
    let mut vcpu = machine.vcpu(spin());
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
}

#[test]
fn memory_grows_to_its_limit_and_keeps_what_was_written() {
    let Some(machine) = machine(FlushPolicy::Chosen) else {
        return;
    };
    let memory = machine.memory();
    assert_eq!(memory.frames(), 4096, "16 MiB at first");
    machine.store(mm::addr::Frame::new(4095), 77);
    assert_eq!(memory.grow().unwrap(), 8192);
    assert_eq!(memory.grow().unwrap(), 16384);
    assert_eq!(memory.grow().unwrap(), 16384, "as large as it may become");
    let last = mm::addr::Frame::new(16383);
    assert_eq!((machine.load(mm::addr::Frame::new(4095)), machine.load(last)), (77, 0));
    machine.set(DATA, last, WRITE);
    let mut vcpu = machine.vcpu(load_store());
    machine.store(last, 5);
    assert_eq!(run_to_call(&mut vcpu), 5, "the guest reaches the last slot");
}

#[test]
fn released_frames_read_as_zeros_to_host_and_guest() {
    let Some(machine) = machine(FlushPolicy::Chosen) else {
        return;
    };
    let page = machine.map(DATA, READ);
    let run = mm::addr::FrameRun { start: page, count: 1 };
    machine.memory().populate(run);
    machine.store(page, 9);
    let mut vcpu = machine.vcpu(load_store());
    assert_eq!(run_to_call(&mut vcpu), 9);
    machine.memory().release(run).unwrap();
    assert_eq!(machine.load(page), 0);
    let registers = Registers { rip: CODE, ..*vcpu.registers() };
    vcpu.resume_user(&registers).unwrap();
    assert_eq!(run_to_call(&mut vcpu), 0);
}
