//! What is told about a signal: the kernel's `siginfo_t`, kept as the bytes that the program will see.
//!
//! ```text
//!    0 si_signo   4 si_errno   8 si_code
//!   16 si_pid    20 si_uid    24 si_value                       kill, sigqueue
//!   16 si_pid    20 si_uid    24 si_status  32 si_utime  40 si_stime    SIGCHLD
//!   16 si_addr                                                  a fault
//! ```

use std::fmt;

use super::{Signal, SignalSet};

/// Bytes that the kernel keeps (`kernel_siginfo_t`); the rest of what a program gets is zeros.
pub const KEPT: usize = 48;
/// Bytes of the program's `siginfo_t`.
pub(super) const SIGINFO: usize = 128;

const CODE: usize = 8;
const PID: usize = 16;
const UID: usize = 20;
const STATUS: usize = 24;
/// `si_addr_lsb`.
const ADDR_LSB: usize = 24;
const UTIME: usize = 32;
const STIME: usize = 40;

/// `BUS_MCEERR_AR`.
const BUS_MCEERR_AR: i32 = 4;
/// How many bits of an address are a lost page's.
const PAGE_BITS: u16 = 12;

/// `SI_USER`: by a process.
pub const SI_USER: i32 = 0;
/// `SI_KERNEL`: by the kernel.
pub(super) const SI_KERNEL: i32 = 0x80;
/// `SI_TKILL`: by tkill or tgkill.
pub const SI_TKILL: i32 = -6;

/// A signal with what is told about it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Info([u8; KEPT]);

/// What became of a child, as its parent is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChildChange {
    /// The child.
    pub pid: i32,
    /// Whose it is.
    pub uid: u32,
    /// `CLD_*`.
    pub cause: i32,
    /// Its exit status, or the signal that ended, stopped or continued it.
    pub status: i32,
    /// Its processor time in ticks: of its own, and in the kernel.
    pub ticks: [u64; 2],
}

impl Info {
    fn new(signal: Signal, code: i32) -> Self {
        let mut info = Info([0; KEPT]);
        info.put(0, &signal.number().to_le_bytes());
        info.put(CODE, &code.to_le_bytes());
        info
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn word(&self, at: usize) -> i32 {
        let bytes = self.0.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, i32::from_le_bytes)
    }

    /// Sent by process `pid`, which is root's, with this code: `SI_USER` or `SI_TKILL`.
    #[must_use]
    pub fn from_process(signal: Signal, code: i32, pid: i32) -> Self {
        let mut info = Info::new(signal, code);
        info.put(PID, &pid.to_le_bytes());
        info
    }

    /// The same, of another user's.
    #[must_use]
    pub fn of_user(mut self, uid: u32) -> Self {
        self.put(UID, &uid.to_le_bytes());
        self
    }

    /// Sent by the kernel, which says no more.
    #[must_use]
    pub fn from_kernel(signal: Signal) -> Self {
        Info::new(signal, SI_KERNEL)
    }

    /// Caused by an instruction, with a code of that signal's own and `si_addr`.
    #[must_use]
    pub fn fault(signal: Signal, code: i32, address: u64) -> Self {
        let mut info = Info::new(signal, code);
        info.put(PID, &address.to_le_bytes());
        info
    }

    /// The page at an address is lost, and was needed (`force_sig_mceerr`).
    #[must_use]
    pub fn lost_page(address: u64) -> Self {
        let mut info = Info::fault(Signal::BUS, BUS_MCEERR_AR, address);
        info.put(ADDR_LSB, &PAGE_BITS.to_le_bytes());
        info
    }

    /// What a parent is sent about its child.
    #[must_use]
    pub fn child(signal: Signal, change: &ChildChange) -> Self {
        let mut info = Info::new(signal, change.cause);
        info.put(PID, &change.pid.to_le_bytes());
        info.put(UID, &change.uid.to_le_bytes());
        info.put(STATUS, &change.status.to_le_bytes());
        info.put(UTIME, &change.ticks[0].to_le_bytes());
        info.put(STIME, &change.ticks[1].to_le_bytes());
        info
    }

    /// What is told about one whose own was lost for want of room: `SI_USER` from nobody.
    pub(super) fn lost(signal: Signal) -> Self {
        Info::new(signal, SI_USER)
    }

    /// As a program made it up (rt_sigqueueinfo(2)), but for the signal's number.
    #[must_use]
    pub fn given(signal: Signal, bytes: [u8; KEPT]) -> Self {
        let mut info = Info(bytes);
        info.put(0, &signal.number().to_le_bytes());
        info
    }

    /// The signal.
    #[must_use]
    pub fn signal(&self) -> Signal {
        // Every constructor puts one there.
        Signal::new(self.word(0)).unwrap_or(Signal::KILL)
    }

    /// `si_code`.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.word(CODE)
    }

    /// `si_addr` of one that an instruction caused and that has an address.
    #[must_use]
    pub fn address(&self) -> Option<u64> {
        let has = self.code() > 0 && self.code() != SI_KERNEL;
        let is_fault = SignalSet::SYNCHRONOUS.contains(self.signal());
        let bytes = self.0.get(PID..PID + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_le_bytes).filter(|_| has && is_fault)
    }

    /// `si_pid`, `si_uid` and `si_status`, where the code has them.
    fn sender(&self) -> (i32, u32, i32) {
        (self.word(PID), self.word(PID + 4).cast_unsigned(), self.word(STATUS))
    }

    /// Whether it is how a page fault ends for which there is no memory left.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        self.signal() == Signal::KILL && self.code() == SI_KERNEL
    }

    /// The bytes that a program gets.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; SIGINFO] {
        let mut bytes = [0; SIGINFO];
        bytes[..KEPT].copy_from_slice(&self.0);
        bytes
    }

    /// The name of its code, or the number where it has none.
    #[must_use]
    pub fn code_name(&self) -> String {
        let code = self.code();
        let general = match code {
            SI_USER => "SI_USER",
            SI_KERNEL => "SI_KERNEL",
            -1 => "SI_QUEUE",
            -2 => "SI_TIMER",
            -3 => "SI_MESGQ",
            -4 => "SI_ASYNCIO",
            -5 => "SI_SIGIO",
            SI_TKILL => "SI_TKILL",
            _ => "",
        };
        let own: &[&str] = match self.signal() {
            Signal::ILL => &["ILL_ILLOPC", "ILL_ILLOPN"],
            Signal::FPE => &[
                "FPE_INTDIV",
                "FPE_INTOVF",
                "FPE_FLTDIV",
                "FPE_FLTOVF",
                "FPE_FLTUND",
                "FPE_FLTRES",
                "FPE_FLTINV",
            ],
            Signal::SEGV => &["SEGV_MAPERR", "SEGV_ACCERR"],
            Signal::BUS => &["BUS_ADRALN", "BUS_ADRERR", "BUS_OBJERR", "BUS_MCEERR_AR"],
            Signal::TRAP => &["TRAP_BRKPT", "TRAP_TRACE"],
            Signal::CHLD => &[
                "CLD_EXITED",
                "CLD_KILLED",
                "CLD_DUMPED",
                "CLD_TRAPPED",
                "CLD_STOPPED",
                "CLD_CONTINUED",
            ],
            _ => &[],
        };
        let index = usize::try_from(code).ok().and_then(|code| code.checked_sub(1));
        match (general, index.and_then(|index| own.get(index))) {
            ("", None) => code.to_string(),
            ("", Some(name)) => (*name).to_owned(),
            (name, _) => name.to_owned(),
        }
    }
}

/// As strace prints it.
impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pid, uid, status) = self.sender();
        write!(f, "{{si_signo={}, si_code={}", self.signal(), self.code_name())?;
        match self.code() {
            SI_KERNEL => {}
            code if code <= 0 => write!(f, ", si_pid={pid}, si_uid={uid}")?,
            _ if self.signal() == Signal::CHLD => {
                write!(f, ", si_pid={pid}, si_uid={uid}, si_status={status}")?;
            }
            _ => {
                if let Some(address) = self.address() {
                    write!(f, ", si_addr={address:#x}")?;
                }
            }
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_where_siginfo_t_has_them() {
        let change = ChildChange { pid: 7, uid: 0, cause: 1, status: 3, ticks: [9, 4] };
        let bytes = Info::child(Signal::CHLD, &change).to_bytes();
        let word = |at: usize| i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!([0, 4, 8, 16, 20, 24, 32, 40].map(word), [17, 0, 1, 7, 0, 3, 9, 4]);
        let fault = Info::fault(Signal::SEGV, 2, 0x1234_5678_9abc).to_bytes();
        assert_eq!(fault[16..24], 0x1234_5678_9abc_u64.to_le_bytes());
        assert!(fault[KEPT..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_made_up_info_cannot_name_another_signal() {
        let info = Info::given(Signal::USR1, [0xff; KEPT]);
        assert_eq!((info.signal(), info.code()), (Signal::USR1, -1));
    }

    #[test]
    fn it_prints_as_strace_has_it() {
        for (info, text) in [
            (
                Info::fault(Signal::SEGV, 1, 16),
                "{si_signo=SIGSEGV, si_code=SEGV_MAPERR, si_addr=0x10}",
            ),
            (Info::from_kernel(Signal::ALRM), "{si_signo=SIGALRM, si_code=SI_KERNEL}"),
            (
                Info::from_process(Signal::USR1, SI_TKILL, 2),
                "{si_signo=SIGUSR1, si_code=SI_TKILL, si_pid=2, si_uid=0}",
            ),
        ] {
            assert_eq!(info.to_string(), text);
        }
    }
}
