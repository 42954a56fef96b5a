//! Signals by number, and sets of them (signal(7)).

use std::fmt;
use std::ops::{BitAnd, BitOr, Not, Sub};

use mm::replay::names;

/// How many signals there are.
pub(super) const SIGNALS: usize = 64;
/// The first real-time signal, as the kernel counts: those from it up queue, those below coalesce.
const REAL_TIME: u8 = 32;

/// A signal, 1 to 64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(u8);

/// What becomes of a process that gets a signal and has said nothing about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing.
    None,
    /// It stops.
    Stops,
    /// It dies.
    Dies,
    /// It dies, and would leave a core file.
    DumpsCore,
}

#[allow(missing_docs, reason = "signal(7) describes each")]
impl Signal {
    pub const HUP: Signal = Signal(1);
    pub const QUIT: Signal = Signal(3);
    pub const ILL: Signal = Signal(4);
    pub const TRAP: Signal = Signal(5);
    pub const ABRT: Signal = Signal(6);
    pub const BUS: Signal = Signal(7);
    pub const FPE: Signal = Signal(8);
    pub const KILL: Signal = Signal(9);
    pub const USR1: Signal = Signal(10);
    pub const SEGV: Signal = Signal(11);
    pub const USR2: Signal = Signal(12);
    pub const PIPE: Signal = Signal(13);
    pub const ALRM: Signal = Signal(14);
    pub const TERM: Signal = Signal(15);
    pub const CHLD: Signal = Signal(17);
    pub const CONT: Signal = Signal(18);
    pub const STOP: Signal = Signal(19);
    pub const TSTP: Signal = Signal(20);
    pub const TTIN: Signal = Signal(21);
    pub const TTOU: Signal = Signal(22);
    pub const URG: Signal = Signal(23);
    pub const XCPU: Signal = Signal(24);
    pub const XFSZ: Signal = Signal(25);
    pub const VTALRM: Signal = Signal(26);
    pub const PROF: Signal = Signal(27);
    pub const WINCH: Signal = Signal(28);
    pub const SYS: Signal = Signal(31);
}

impl Signal {
    /// The signal with this number; `None` where there is none.
    #[must_use]
    pub fn new(number: i32) -> Option<Self> {
        let number = u8::try_from(number).ok()?;
        (1..=SIGNALS).contains(&usize::from(number)).then_some(Signal(number))
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> i32 {
        i32::from(self.0)
    }

    /// Its place among all, from 0.
    pub(super) fn index(self) -> usize {
        usize::from(self.0 - 1)
    }

    /// Whether each one that is sent is delivered, not only one of those that wait.
    #[must_use]
    pub fn is_real_time(self) -> bool {
        self.0 >= REAL_TIME
    }

    /// What comes of it by default.
    #[must_use]
    pub fn effect(self) -> Effect {
        match self {
            Signal::CONT | Signal::CHLD | Signal::WINCH | Signal::URG => Effect::None,
            stop if SignalSet::STOPS.contains(stop) => Effect::Stops,
            Signal::QUIT
            | Signal::ILL
            | Signal::TRAP
            | Signal::ABRT
            | Signal::BUS
            | Signal::FPE
            | Signal::SEGV
            | Signal::XCPU
            | Signal::XFSZ
            | Signal::SYS => Effect::DumpsCore,
            _ => Effect::Dies,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match names::signal(u64::from(self.0)) {
            Some(name) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A set of signals: the kernel's `sigset_t`, signal 1 the lowest bit.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SignalSet(pub u64);

impl SignalSet {
    /// No signal.
    pub const NONE: SignalSet = SignalSet(0);
    /// Those that cannot be blocked, ignored or caught.
    pub const UNBLOCKABLE: SignalSet = SignalSet::of(&[Signal::KILL, Signal::STOP]);
    /// Those that stop a process by default.
    pub const STOPS: SignalSet =
        SignalSet::of(&[Signal::STOP, Signal::TSTP, Signal::TTIN, Signal::TTOU]);
    /// Those that an instruction can cause: they come before others (`SYNCHRONOUS_MASK`).
    pub const SYNCHRONOUS: SignalSet = SignalSet::of(&[
        Signal::SEGV,
        Signal::BUS,
        Signal::ILL,
        Signal::TRAP,
        Signal::FPE,
        Signal::SYS,
    ]);

    /// Of these.
    #[must_use]
    pub const fn of(signals: &[Signal]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < signals.len() {
            bits |= 1 << (signals[index].0 - 1);
            index += 1;
        }
        SignalSet(bits)
    }

    /// Whether the signal is one of them.
    #[must_use]
    pub fn contains(self, signal: Signal) -> bool {
        self.0 >> signal.index() & 1 == 1
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The one to be delivered first: one that an instruction can cause, else the lowest (`next_signal`).
    #[must_use]
    pub fn first(self) -> Option<Signal> {
        let synchronous = self & SignalSet::SYNCHRONOUS;
        let among = if synchronous.is_empty() { self } else { synchronous };
        Signal::new(i32::try_from(among.0.trailing_zeros()).ok()? + 1)
    }
}

impl From<Signal> for SignalSet {
    fn from(signal: Signal) -> Self {
        SignalSet::of(&[signal])
    }
}

impl BitOr for SignalSet {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        SignalSet(self.0 | other.0)
    }
}

impl BitAnd for SignalSet {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        SignalSet(self.0 & other.0)
    }
}

impl Sub for SignalSet {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        SignalSet(self.0 & !other.0)
    }
}

impl Not for SignalSet {
    type Output = Self;
    fn not(self) -> Self {
        SignalSet(!self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_64_signals_and_the_upper_half_queues() {
        assert_eq!([0, 65, -1].map(Signal::new), [None; 3]);
        assert_eq!(Signal::new(31), Some(Signal::SYS));
        assert!(!Signal::SYS.is_real_time() && Signal::new(32).is_some_and(Signal::is_real_time));
        assert_eq!(Signal::new(64).map(|last| last.to_string()), Some("SIGRT_32".to_owned()));
    }

    #[test]
    fn faults_come_first_then_the_lowest_number() {
        let set = SignalSet::of(&[Signal::TERM, Signal::USR1, Signal::SEGV]);
        assert_eq!(set.first(), Some(Signal::SEGV));
        assert_eq!((set - Signal::SEGV.into()).first(), Some(Signal::USR1));
        assert_eq!(SignalSet::NONE.first(), None);
        assert_eq!((!SignalSet::NONE).first(), Some(Signal::ILL));
    }
}
