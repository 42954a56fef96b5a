//! The alternate stack of a task (sigaltstack(2)).

use mm::error::Errno;

/// `SS_ONSTACK`: it is in use.
pub(super) const SS_ONSTACK: i32 = 1;
/// `SS_DISABLE`: there is none.
pub(super) const SS_DISABLE: i32 = 2;
/// `SS_AUTODISARM`: it is forgotten while a handler runs on it.
pub(super) const SS_AUTODISARM: i32 = i32::MIN;
/// Fewer bytes than these are no stack (`MINSIGSTKSZ`).
const SMALLEST: u64 = 2048;

/// An alternate stack, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AltStack {
    /// Its lowest address.
    pub start: u64,
    /// Its bytes; 0 where there is none.
    pub bytes: u64,
    /// `SS_*`, as they were given.
    pub flags: i32,
}

impl AltStack {
    /// None, as after [`SS_AUTODISARM`] has done its work.
    pub const NONE: AltStack = AltStack { start: 0, bytes: 0, flags: SS_DISABLE };

    /// Whether a stack pointer is on it; its lowest address is not, its end is (`__on_sig_stack`).
    #[must_use]
    pub fn contains(&self, rsp: u64) -> bool {
        rsp > self.start && rsp - self.start <= self.bytes
    }

    /// Whether it is in use by a task with this stack pointer.
    #[must_use]
    pub fn is_in_use(&self, rsp: u64) -> bool {
        self.flags & SS_AUTODISARM == 0 && self.contains(rsp)
    }

    /// Whether a handler can be put on it now.
    #[must_use]
    pub fn is_free(&self, rsp: u64) -> bool {
        self.bytes != 0 && !self.is_in_use(rsp)
    }

    /// What sigaltstack(2) says of it.
    #[must_use]
    pub fn told(&self, rsp: u64) -> Self {
        let state = match (self.bytes, self.is_in_use(rsp)) {
            (0, _) => SS_DISABLE,
            (_, true) => SS_ONSTACK,
            (_, false) => 0,
        };
        AltStack { flags: state | self.flags & SS_AUTODISARM, ..*self }
    }

    /// Puts `new` in its place (`do_sigaltstack`).
    ///
    /// # Errors
    /// `EPERM`: it is in use. `EINVAL`: flags. `ENOMEM`: too small.
    pub fn replace(&mut self, new: AltStack, rsp: u64) -> Result<(), Errno> {
        if self.is_in_use(rsp) {
            return Err(Errno::EPERM);
        }
        let mode = new.flags & !SS_AUTODISARM;
        if ![0, SS_ONSTACK, SS_DISABLE].contains(&mode) {
            return Err(Errno::EINVAL);
        }
        if mode == SS_DISABLE {
            *self = AltStack { start: 0, bytes: 0, flags: new.flags };
            return Ok(());
        }
        if *self != new && new.bytes < SMALLEST {
            return Err(Errno::ENOMEM);
        }
        *self = new;
        Ok(())
    }

    /// As a `stack_t`.
    #[must_use]
    pub fn words(&self) -> [u64; 3] {
        [self.start, u64::from(self.flags.cast_unsigned()), self.bytes]
    }

    /// Of a `stack_t`.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "ss_flags is an int")]
    pub fn from_words([start, flags, bytes]: [u64; 3]) -> Self {
        AltStack { start, bytes, flags: flags as u32 as i32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STACK: AltStack = AltStack { start: 0x1000, bytes: 0x2000, flags: 0 };

    #[test]
    fn it_cannot_be_changed_from_itself_nor_be_small_nor_have_other_flags() {
        let mut stack = AltStack::default();
        assert_eq!(stack.told(0), AltStack { flags: SS_DISABLE, ..AltStack::default() });
        let small = AltStack { bytes: SMALLEST - 1, ..STACK };
        assert_eq!(stack.replace(small, 0), Err(Errno::ENOMEM));
        assert_eq!(stack.replace(AltStack { flags: 4, ..STACK }, 0), Err(Errno::EINVAL));
        stack.replace(STACK, 0).unwrap();
        assert_eq!(stack.replace(STACK, 0x3000), Err(Errno::EPERM));
        assert_eq!((stack.told(0x3000).flags, stack.told(0x1000).flags), (SS_ONSTACK, 0));
        stack.replace(AltStack { flags: SS_DISABLE, ..small }, 0).unwrap();
        assert_eq!(stack, AltStack::NONE);
    }

    #[test]
    fn one_that_disarms_itself_is_never_in_use() {
        let mut stack = AltStack { flags: SS_AUTODISARM, ..STACK };
        assert_eq!((stack.is_in_use(0x2000), stack.told(0x2000).flags), (false, SS_AUTODISARM));
        assert_eq!(stack.replace(STACK, 0x2000), Ok(()));
    }
}
