//! Why a vCPU stopped, told from what the guest cannot forge.

use guest::abi::{
    ENTRY_PAGE, ENTRY_STRIDE, PORT_CALL, PORT_FAULT, STUB_CALL, STUB_COMPAT, STUB_PAGE, VECTORS,
};
use guest::trampoline::{OUT_LENGTH, has_error_code};
use kvm_bindings::{kvm_regs, kvm_sregs};
use mm::addr::VirtAddr;

/// Why [`Vcpu::run`](super::Vcpu::run) returned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Exit {
    /// The program made a system call: number in rax, arguments in rdi rsi rdx r10 r8 r9. In
    /// [`Vcpu::registers`](super::Vcpu::registers) rip is where it continues (its rcx) and rflags what it
    /// had (its r11).
    Call,
    /// A 32-bit `SYSCALL` on AMD: there is no such ABI here. Registers as for a call.
    CompatCall,
    /// An exception at ring 3.
    Fault {
        /// Vector, 0 to 31.
        vector: u8,
        /// The error code, 0 for vectors without one.
        error: u64,
        /// CR2: the address, for a page fault (vector 14) only.
        address: VirtAddr,
        /// Where it happened.
        frame: UserFrame,
    },
    /// An `in` or `out` at ring 3 outside the stub that the I/O bitmap lets through (software KVM must
    /// let the call port through): a #GP to the program. rip may be past the instruction.
    UserPort {
        /// The port.
        port: u16,
    },
    /// A kick, or a signal to the thread.
    Interrupted(Position),
    /// The host has no bytes where the program's memory shows a file of its: somebody has made that shorter. To
    /// be run again once the page is gone from the page table; with all that is known.
    Unbacked(String),
    /// What must not happen: with all that is known. The machine stops.
    Broken(String),
}

/// Where a vCPU is that has stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Position {
    /// In the program: its registers may be read and changed.
    User,
    /// In the trampoline, before the `out`: it must be run again, to say why it is there, before anything else.
    Entering,
    /// In an exception's entry, behind the `out`, on its way back to the program: that has done nothing since the
    /// exception, so its registers are those of then, and may be changed.
    Leaving,
}

/// What the CPU pushed when it left ring 3 (Intel SDM volume 3, figure 6-9).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UserFrame {
    /// The instruction, or the next one for a trap.
    pub rip: u64,
    /// Code segment: always ring 3's.
    pub cs: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack segment.
    pub ss: u64,
}

/// A port access that stopped the vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PortAccess {
    pub(super) port: u16,
    pub(super) direction: Direction,
    /// Bytes, all repetitions together.
    pub(super) bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    In,
    Out,
}

/// What a port access means, before the exception frame has been read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Meaning {
    Call,
    CompatCall,
    /// An exception entry ran; its frame ends at the top of the stack.
    Entry {
        vector: u8,
    },
    /// Ring 3 outside the stub.
    User,
    /// Ring 0, but not as the trampoline does it.
    Impossible,
}

/// Bytes of a frame without an error code: five words.
const FRAME_BYTES: u64 = 40;
/// Words of a frame with an error code.
pub(super) const FRAME_WORDS: usize = 6;

/// Tells what a port access means.
///
/// - A call: the `out` at the stub's call offset. Ring 3 on software KVM, where the stub runs there and
///   where the program may jump to it: that is the same as a `SYSCALL` of its own.
/// - A fault: the `out` at the start of a vector's entry, at ring 0, on this vCPU's own stack, with
///   exactly the frame of that vector on it. Ring 3 cannot execute the entry page, and nothing but the
///   CPU's exception delivery enters it at ring 0.
pub(super) fn meaning(
    access: PortAccess,
    regs: &kvm_regs,
    sregs: &kvm_sregs,
    stack_top: u64,
) -> Meaning {
    let kernel = is_kernel(sregs);
    let elsewhere = if kernel { Meaning::Impossible } else { Meaning::User };
    if access.direction != Direction::Out || access.bytes != 1 {
        return elsewhere;
    }
    match access.port {
        PORT_CALL if is_out_at(regs.rip, STUB_PAGE + STUB_CALL) => Meaning::Call,
        PORT_CALL if is_out_at(regs.rip, STUB_PAGE + STUB_COMPAT) => Meaning::CompatCall,
        PORT_FAULT if kernel => entry(regs, stack_top).unwrap_or(Meaning::Impossible),
        _ => elsewhere,
    }
}

/// Where a vCPU is that stopped elsewhere than at an `out`. In the stub it may be at ring 3 (software KVM, or a
/// program that jumped there).
pub(super) fn position(regs: &kvm_regs, sregs: &kvm_sregs) -> Position {
    let at_call = [STUB_CALL, STUB_COMPAT].iter().any(|offset| regs.rip == STUB_PAGE + offset);
    let is_behind_out = |offset: u64| offset % ENTRY_STRIDE >= OUT_LENGTH;
    match regs.rip.checked_sub(ENTRY_PAGE).filter(|offset| *offset < VECTORS * ENTRY_STRIDE) {
        _ if at_call => Position::Entering,
        _ if !is_kernel(sregs) => Position::User,
        Some(offset) if is_behind_out(offset) => Position::Leaving,
        _ => Position::Entering,
    }
}

fn entry(regs: &kvm_regs, stack_top: u64) -> Option<Meaning> {
    let number = regs.rip.checked_sub(ENTRY_PAGE)? / ENTRY_STRIDE;
    let vector = u8::try_from(number).ok().filter(|vector| u64::from(*vector) < VECTORS)?;
    let frame_bytes = FRAME_BYTES + if has_error_code(vector) { 8 } else { 0 };
    let at_entry = is_out_at(regs.rip, ENTRY_PAGE + number * ENTRY_STRIDE);
    let on_stack = regs.rsp == stack_top.checked_sub(frame_bytes)?;
    (at_entry && on_stack).then_some(Meaning::Entry { vector })
}

/// Whether the vCPU stopped for the `out` at `address`: hardware KVM leaves RIP at the instruction
/// until the next entry, software KVM is past it already.
fn is_out_at(rip: u64, address: u64) -> bool {
    rip == address || rip == address + OUT_LENGTH
}

/// Whether the vCPU is at ring 0.
pub(super) fn is_kernel(sregs: &kvm_sregs) -> bool {
    sregs.cs.selector & 3 == 0
}

/// Takes apart the six words at the top of the stack: the error code (0 for a vector without one) and
/// what the CPU saved of ring 3. `None` if it was not ring 3 that was interrupted.
pub(super) fn parse_frame(vector: u8, words: [u64; FRAME_WORDS]) -> Option<(u64, UserFrame)> {
    let [error, rip, cs, rflags, rsp, ss] = words;
    let error = if has_error_code(vector) { error } else { 0 };
    (cs & 3 == 3).then_some((error, UserFrame { rip, cs, rflags, rsp, ss }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: u64 = 0xffff_ffff_8010_2000;

    fn at(rip: u64, rsp: u64, cs: u16, access: PortAccess) -> Meaning {
        let regs = kvm_regs { rip, rsp, ..Default::default() };
        let mut sregs = kvm_sregs::default();
        sregs.cs.selector = cs;
        meaning(access, &regs, &sregs, TOP)
    }

    fn out(port: u16) -> PortAccess {
        PortAccess { port, direction: Direction::Out, bytes: 1 }
    }

    #[test]
    fn a_fault_counts_only_from_ring_0_at_its_entry_on_its_stack() {
        let page_fault = ENTRY_PAGE + 14 * ENTRY_STRIDE;
        let entry = Meaning::Entry { vector: 14 };
        assert_eq!(at(page_fault, TOP - 48, 0x10, out(PORT_FAULT)), entry);
        assert_eq!(at(page_fault + 2, TOP - 48, 0x10, out(PORT_FAULT)), entry);
        assert_eq!(at(page_fault, TOP - 48, 0x33, out(PORT_FAULT)), Meaning::User);
        assert_eq!(at(page_fault, TOP - 40, 0x10, out(PORT_FAULT)), Meaning::Impossible);
        assert_eq!(at(page_fault, 0x1000 - 48, 0x10, out(PORT_FAULT)), Meaning::Impossible);
        assert_eq!(at(page_fault + 1, TOP - 48, 0x10, out(PORT_FAULT)), Meaning::Impossible);
        assert_eq!(
            at(ENTRY_PAGE + 32 * ENTRY_STRIDE, TOP - 40, 0x10, out(PORT_FAULT)),
            Meaning::Impossible
        );
        assert_eq!(at(0x40_0000, TOP - 48, 0x33, out(PORT_FAULT)), Meaning::User);
    }

    #[test]
    fn a_call_counts_only_from_the_stub() {
        assert_eq!(at(STUB_PAGE, 0, 0x10, out(PORT_CALL)), Meaning::Call);
        assert_eq!(at(STUB_PAGE + 2, 0, 0x33, out(PORT_CALL)), Meaning::Call);
        assert_eq!(at(STUB_PAGE + STUB_COMPAT, 0, 0x10, out(PORT_CALL)), Meaning::CompatCall);
        assert_eq!(at(0x40_0002, 0, 0x33, out(PORT_CALL)), Meaning::User);
        let wide = PortAccess { bytes: 4, ..out(PORT_CALL) };
        assert_eq!(at(STUB_PAGE, 0, 0x33, wide), Meaning::User);
        let inward = PortAccess { direction: Direction::In, ..out(PORT_CALL) };
        assert_eq!(at(STUB_PAGE, 0, 0x33, inward), Meaning::User);
    }

    #[test]
    fn a_vcpu_in_the_trampoline_is_on_its_way_in_up_to_the_out_and_out_behind_it() {
        let at = |rip, cs| {
            let mut sregs = kvm_sregs::default();
            sregs.cs.selector = cs;
            position(&kvm_regs { rip, ..Default::default() }, &sregs)
        };
        let page_fault = ENTRY_PAGE + 14 * ENTRY_STRIDE;
        assert_eq!(at(0x40_0000, 0x33), Position::User);
        assert_eq!(at(page_fault, 0x10), Position::Entering);
        assert_eq!(at(page_fault + OUT_LENGTH, 0x10), Position::Leaving);
        assert_eq!(at(page_fault + OUT_LENGTH + 4, 0x10), Position::Leaving);
        assert_eq!(at(page_fault + OUT_LENGTH, 0x33), Position::User, "a jump that faults next");
        assert_eq!(at(STUB_PAGE, 0x10), Position::Entering);
        assert_eq!(at(STUB_PAGE, 0x33), Position::Entering);
        assert_eq!(at(STUB_PAGE + STUB_COMPAT, 0x33), Position::Entering);
        assert_eq!(at(STUB_PAGE + 2, 0x33), Position::User);
    }

    #[test]
    fn a_frame_that_is_not_ring_3s_is_refused() {
        let frame = UserFrame { rip: 1, cs: 0x33, rflags: 2, rsp: 3, ss: 0x2b };
        assert_eq!(parse_frame(14, [7, 1, 0x33, 2, 3, 0x2b]), Some((7, frame)));
        assert_eq!(parse_frame(3, [7, 1, 0x33, 2, 3, 0x2b]), Some((0, frame)), "no error code");
        assert_eq!(parse_frame(14, [7, 1, 0x10, 2, 3, 0x18]), None);
    }
}
