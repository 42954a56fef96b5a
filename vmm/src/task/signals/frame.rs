//! The frame that a handler finds on its stack, as Linux's `struct rt_sigframe` (arch/x86/include/asm/sigframe.h,
//! uapi/asm/sigcontext.h).
//!
//! ```text
//!   rsp of the program
//!     128 bytes that are the program's own (the red zone)
//!     XSAVE image, 4 bytes of magic number       from a multiple of 64
//!     ...
//!   +312  siginfo           128 bytes, with SA_SIGINFO
//!   +304  uc_sigmask
//!   +240  8 words that the kernel leaves as they are
//!   + 48  uc_mcontext       r8 ... rsp, rip, flags, cs gs fs ss, err, trapno, oldmask, cr2, fpstate
//!   + 24  uc_stack
//!   +  8  uc_flags, uc_link
//!   +  0  the restorer's address               8 below a multiple of 16: the handler's rsp
//! ```

use super::stack::AltStack;
use super::{SignalSet, Trap};
use crate::kvm::Registers;

/// Bytes of a frame without the XSAVE image.
pub(super) const FRAME: u64 = 440;
/// Offset of `ucontext`, and of its `uc_flags`.
pub(crate) const CONTEXT: u64 = 8;
/// Offset of `uc_stack`.
pub(crate) const STACK: u64 = CONTEXT + 16;
/// Offset of `uc_mcontext`.
pub(crate) const REGISTERS: u64 = STACK + 24;
/// Offset of `uc_sigmask`.
pub(crate) const MASK: u64 = REGISTERS + 256;
/// Offset of `siginfo`.
pub(super) const INFO: u64 = MASK + 8;
/// Words of `uc_mcontext` that the kernel reads and writes.
pub(crate) const REGISTER_WORDS: usize = 24;
/// Words of the frame up to those that the kernel leaves as they are.
const HEAD_WORDS: usize = 6 + REGISTER_WORDS;

/// Bytes below the stack pointer that are the program's own.
const RED_ZONE: u64 = 128;
/// What an XSAVE image's address is a multiple of.
const XSAVE_ALIGNMENT: u64 = 64;
/// What the address of a frame is a multiple of, but for the 8 bytes of a call.
const FRAME_ALIGNMENT: u64 = 16;
/// Bytes of Linux's largest frame without the XSAVE image, which is one of 32-bit programs (`sigframe_ia32`).
const LARGEST_FRAME: u64 = 732;
/// Bytes of the FSAVE image that 32-bit programs get besides.
const FSAVE: u64 = 112;

/// `UC_FP_XSTATE`, `UC_SIGCONTEXT_SS`, `UC_STRICT_RESTORE_SS`.
const UC_FP_XSTATE: u64 = 1;
const UC_SIGCONTEXT_SS: u64 = 2;
const UC_STRICT_RESTORE_SS: u64 = 4;

/// Flags that a frame may change (`FIX_EFLAGS`): AC, RF, OF, DF, TF, SF, ZF, AF, PF, CF.
const RESTORED_FLAGS: u64 = 0x5_0dd5;

/// Ring 3's code and stack segment, as a frame has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Selectors {
    /// CS.
    pub code: u16,
    /// SS.
    pub stack: u16,
}

impl Selectors {
    /// Those of 64-bit programs.
    pub const USER: Selectors = Selectors { code: guest::abi::USER_CS, stack: guest::abi::USER_DS };

    /// The error code of the #GP that a return to ring 3 with them raises: there are no others here.
    #[must_use]
    pub fn error(self) -> Option<u64> {
        let wrong = match self {
            Selectors::USER => return None,
            Selectors { code: guest::abi::USER_CS, stack } => stack,
            Selectors { code, .. } => code,
        };
        Some(u64::from(wrong & !3))
    }
}

/// Where the parts of a frame go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Placement {
    /// The frame.
    pub frame: u64,
    /// The XSAVE image.
    pub fpstate: u64,
}

impl Placement {
    /// Of a program with the stack pointer `rsp`, whose XSAVE image has so many bytes, with its magic number
    /// (`get_sigframe`). `stack` is the alternate one if the handler wants it. `None` where that is too small.
    #[must_use]
    pub(super) fn of(rsp: u64, image: u64, alternate: &AltStack, stack: Wanted) -> Option<Self> {
        let nested = alternate.is_in_use(rsp);
        let below = rsp.wrapping_sub(RED_ZONE);
        let entering = stack == Wanted::Alternate && alternate.is_free(below);
        let top = if entering { alternate.start.wrapping_add(alternate.bytes) } else { below };
        let fpstate = top.wrapping_sub(image) & !(XSAVE_ALIGNMENT - 1);
        let frame = (fpstate.wrapping_sub(FRAME) & !(FRAME_ALIGNMENT - 1)).wrapping_sub(8);
        let fits = !(nested || entering) || alternate.contains(frame);
        fits.then_some(Placement { frame, fpstate })
    }

    /// The address of `siginfo`.
    #[must_use]
    pub(super) fn info(&self) -> u64 {
        self.frame.wrapping_add(INFO)
    }

    /// The address of `ucontext`.
    #[must_use]
    pub(super) fn context(&self) -> u64 {
        self.frame.wrapping_add(CONTEXT)
    }
}

/// Which stack a handler wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    /// The one in use.
    Current,
    /// The alternate one, if there is one (`SA_ONSTACK`).
    Alternate,
}

/// The most bytes that a frame takes of a stack, with an XSAVE image of so many: `AT_MINSIGSTKSZ`.
#[must_use]
pub(crate) fn largest(image: u64) -> u64 {
    let padding = (XSAVE_ALIGNMENT - 1) + (FRAME_ALIGNMENT - 1);
    (LARGEST_FRAME + padding + image + FSAVE).next_multiple_of(FRAME_ALIGNMENT)
}

/// What a handler is told about the program it interrupts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interrupted<'a> {
    /// Its registers.
    pub registers: &'a Registers,
    /// Its segments.
    pub selectors: Selectors,
    /// Its last exception.
    pub trap: Trap,
    /// Its alternate stack.
    pub stack: AltStack,
    /// Its blocked signals.
    pub mask: SignalSet,
    /// Where its XSAVE image is.
    pub fpstate: u64,
    /// The restorer.
    pub restorer: u64,
}

impl Interrupted<'_> {
    /// The frame up to what the kernel leaves as it is; `uc_sigmask` is apart.
    #[must_use]
    pub(super) fn head(&self) -> Vec<u8> {
        let r = self.registers;
        let is_64_bit = self.selectors.code == guest::abi::USER_CS;
        let strict = if is_64_bit { UC_STRICT_RESTORE_SS } else { 0 };
        let [sp, flags, bytes] = self.stack.words();
        let segments = u64::from(self.selectors.code) | u64::from(self.selectors.stack) << 48;
        let words: [u64; HEAD_WORDS] = [
            self.restorer,
            UC_FP_XSTATE | UC_SIGCONTEXT_SS | strict,
            0,
            sp,
            flags,
            bytes,
            r.r8,
            r.r9,
            r.r10,
            r.r11,
            r.r12,
            r.r13,
            r.r14,
            r.r15,
            r.rdi,
            r.rsi,
            r.rbp,
            r.rbx,
            r.rdx,
            r.rax,
            r.rcx,
            r.rsp,
            r.rip,
            r.rflags,
            segments,
            self.trap.error,
            u64::from(self.trap.vector),
            self.mask.0,
            self.trap.cr2,
            self.fpstate,
        ];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

/// What a frame gives back.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Returned {
    /// Registers.
    pub registers: Registers,
    /// Segments, always at ring 3.
    pub selectors: Selectors,
    /// Where the XSAVE image is; 0 for none.
    pub fpstate: u64,
}

impl Returned {
    /// From `uc_flags` and the words of `uc_mcontext` (`restore_sigcontext`). `now` are the registers at the call.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "a selector is 16 bits of its word")]
    pub(crate) fn from_words(flags: u64, words: [u64; REGISTER_WORDS], now: &Registers) -> Self {
        let [r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, ..] =
            words;
        let [.., rip, given, segments, _, _, _, _, fpstate] = words;
        let rflags = now.rflags & !RESTORED_FLAGS | given & RESTORED_FLAGS;
        let code = segments as u16 | 3;
        let stack = (segments >> 48) as u16 | 3;
        // A program of old, which knows nothing of SS, gets one that works (`force_valid_ss`).
        let lenient = flags & UC_STRICT_RESTORE_SS == 0 && code == guest::abi::USER_CS;
        let stack = if lenient { guest::abi::USER_DS } else { stack };
        Returned {
            registers: Registers {
                r8,
                r9,
                r10,
                r11,
                r12,
                r13,
                r14,
                r15,
                rdi,
                rsi,
                rbp,
                rbx,
                rdx,
                rax,
                rcx,
                rsp,
                rip,
                rflags,
            },
            selectors: Selectors { code, stack },
            fpstate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_STACK: AltStack = AltStack::NONE;

    #[test]
    fn a_frame_is_placed_where_linux_6_18_placed_it() {
        // Seen natively: an image of 2,440 bytes.
        let placed = Placement::of(0x7ffe_486f_63f0, 2444, &NO_STACK, Wanted::Current).unwrap();
        assert_eq!(placed.fpstate, 0x7ffe_486f_59c0);
        assert_eq!((placed.context(), placed.info()), (0x7ffe_486f_5800, 0x7ffe_486f_5930));
        assert_eq!(largest(2444), 3376);
    }

    #[test]
    fn no_frame_takes_more_than_it_is_said_to() {
        let image = 2436;
        for rsp in 0x10_0000..0x10_0100 {
            let placed = Placement::of(rsp, image, &NO_STACK, Wanted::Current).unwrap();
            assert!(rsp - RED_ZONE - placed.frame <= largest(image));
            assert_eq!(placed.frame % 16, 8);
        }
    }

    #[test]
    fn the_alternate_stack_is_used_from_its_end_and_must_hold_the_frame() {
        let stack = AltStack { start: 0x10_0000, bytes: 0x2000, flags: 0 };
        let place = |rsp, stack: &AltStack| Placement::of(rsp, 580, stack, Wanted::Alternate);
        let placed = place(0x7000_0000, &stack).unwrap();
        assert_eq!(placed.fpstate, (0x10_2000 - 580) & !63);
        let nested = place(placed.frame, &stack).unwrap();
        assert_eq!(nested.fpstate, (placed.frame - 128 - 580) & !63, "no second entry");
        assert_eq!(place(0x10_0400, &stack), None, "overflow");
        let small = AltStack { bytes: 0x400, ..stack };
        assert_eq!(place(0x7000_0000, &small), None);
        let current = Placement::of(0x7000_0000, 580, &small, Wanted::Current);
        assert!(current.is_some(), "it is not asked for");
    }

    #[test]
    fn what_is_written_is_what_is_given_back() {
        let registers =
            Registers { rip: 1, rsp: 2, r8: 3, rcx: 4, rflags: 0x246, ..Default::default() };
        let trap = Trap { vector: 14, error: 6, cr2: 0x1000 };
        let interrupted = Interrupted {
            registers: &registers,
            selectors: Selectors::USER,
            trap,
            stack: NO_STACK,
            mask: SignalSet(5),
            fpstate: 0x4000,
            restorer: 9,
        };
        let head = interrupted.head();
        assert_eq!(head.len() as u64, REGISTERS + 8 * REGISTER_WORDS as u64);
        let word = |index: usize| u64::from_le_bytes(head[index * 8..][..8].try_into().unwrap());
        assert_eq!([word(0), word(1), word(4)], [9, 7, 2]);
        let words = std::array::from_fn(|index| word(6 + index));
        assert_eq!(words[19..], [6, 14, 5, 0x1000, 0x4000]);
        let back = Returned::from_words(7, words, &registers);
        let whole = Returned { registers, selectors: Selectors::USER, fpstate: 0x4000 };
        assert_eq!(back, whole);
    }

    #[test]
    fn flags_are_the_programs_own_and_segments_ring_3s() {
        let now = Registers { rflags: 0x20_0202, ..Default::default() };
        let back = |flags, rflags, segments| {
            let mut words = [0; REGISTER_WORDS];
            (words[17], words[18]) = (rflags, segments);
            let back = Returned::from_words(flags, words, &now);
            (back.registers.rflags, back.selectors)
        };
        let good = 0x002b_0000_0000_0033;
        assert_eq!(back(7, u64::MAX, good), (0x25_0fd7, Selectors::USER), "no IOPL, NT, VM");
        assert_eq!(back(7, 0, good).0, now.rflags, "ID and IF stay");
        assert_eq!(back(7, 0, 0x30).1.error(), Some(0), "CS is 0x33, SS is null");
        assert_eq!(back(3, 0, 0x30).1, Selectors::USER, "SS is not looked at");
        assert_eq!(back(7, 0, 0x002b_0000_0000_0000).1, Selectors { code: 3, stack: 0x2b });
        assert_eq!(back(7, 0, 0x0033_0000_0000_0033).1.error(), Some(0x30));
        assert_eq!(back(7, 0, 0x002b_0000_0000_0053).1.error(), Some(0x50));
    }
}
