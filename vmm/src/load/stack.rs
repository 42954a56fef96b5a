//! The initial stack: the strings, the auxiliary vector and the pointers that a program finds above
//! its first stack pointer, byte for byte where Linux puts them (`copy_strings` in `fs/exec.c`,
//! `create_elf_tables` in `fs/binfmt_elf.c`).
//!
//! ```text
//!   top   8 null bytes
//!         execfn         "/bin/busybox\0"            AT_EXECFN
//!         envp[n-1] ... the strings, the first one lowest
//!         envp[0]                                     env_start
//!         argv[n-1] ...
//!         argv[0]                                     arg_start
//!         (with ASLR up to 8 KiB free; down to a multiple of 16)
//!         "x86_64\0"                                  AT_PLATFORM
//!         16 random bytes                             AT_RANDOM
//!         (down to where rsp becomes a multiple of 16)
//!         auxv           pairs of 8 bytes, the last one AT_NULL
//!         envp           pointers, then null
//!         argv           pointers, then null
//!   rsp   argc           8 bytes
//! ```

use std::ffi::{CStr, CString};

use mm::addr::{PAGE_SIZE, VirtAddr};
use nix::libc;

use super::{Layout, LoadError};

/// The longest argument or variable in bytes, its end included (`MAX_ARG_STRLEN`).
pub(crate) const MAX_ARG_STRLEN: usize = 131_072;
/// What the strings may always have, however small the stack limit (`ARG_MAX`), in bytes.
const ARG_MAX: u64 = 131_072;
/// What they may have at most: three quarters of the default stack limit (`_STK_LIM`), in bytes.
const STRINGS_MAX: u64 = (8 << 20) / 4 * 3;
/// More than any initial stack is long, in bytes.
const LOWEST_TOP: u64 = 2 * STRINGS_MAX;
/// `AT_CLKTCK`: ticks in a second for `times(2)` (`USER_HZ`).
const CLOCK_TICKS: u64 = 100;
/// `AT_PLATFORM`.
const PLATFORM: &CStr = c"x86_64";
/// Numbers that libc does not have (include/uapi/linux/auxvec.h).
const AT_RSEQ_FEATURE_SIZE: u64 = 27;
const AT_RSEQ_ALIGN: u64 = 28;

/// What the kernel would say of `rseq(2)`; nothing, where the call is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rseq {
    /// `AT_RSEQ_FEATURE_SIZE`, in bytes.
    pub feature_size: u64,
    /// `AT_RSEQ_ALIGN`, in bytes.
    pub alignment: u64,
}

/// The auxiliary vector's values (`getauxval(3)`), as far as they vary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aux {
    /// `AT_SYSINFO_EHDR`: the vDSO, if there is one.
    pub vdso: Option<VirtAddr>,
    /// `AT_MINSIGSTKSZ`: bytes a signal frame needs at most, XSAVE area included.
    pub min_signal_stack: Option<u64>,
    /// `AT_HWCAP`: EDX of CPUID leaf 1, as the guest sees it.
    pub hwcap: u64,
    /// `AT_HWCAP2`: bit 0 for ring-3 MWAIT, bit 1 for FSGSBASE.
    pub hwcap2: u64,
    /// `AT_PHDR`.
    pub program_headers: VirtAddr,
    /// `AT_PHNUM`.
    pub header_count: u16,
    /// `AT_BASE`: where the dynamic linker is; 0 for a static program.
    pub base: VirtAddr,
    /// `AT_ENTRY`.
    pub entry: VirtAddr,
    /// `AT_UID`, `AT_EUID`, `AT_GID`, `AT_EGID`.
    pub ids: [u32; 4],
    /// The bytes that `AT_RANDOM` points to.
    pub random: [u8; 16],
    /// `AT_RSEQ_*`.
    pub rseq: Option<Rseq>,
}

impl Aux {
    /// For a static program at `layout`, on a CPU with these capabilities, run by root.
    #[must_use]
    pub fn of(layout: &Layout, hwcap: u64, hwcap2: u64, random: [u8; 16]) -> Self {
        Aux {
            vdso: None,
            min_signal_stack: None,
            hwcap,
            hwcap2,
            program_headers: layout.program_headers,
            header_count: layout.header_count,
            base: VirtAddr::ZERO,
            entry: layout.entry,
            ids: [0; 4],
            random,
            rseq: None,
        }
    }

    /// The vector in Linux 6.18's order, its end included.
    fn entries(&self, random: VirtAddr, execfn: VirtAddr, platform: VirtAddr) -> Vec<(u64, u64)> {
        let [uid, euid, gid, egid] = self.ids.map(u64::from);
        let mut entries = Vec::with_capacity(22);
        entries.extend(self.vdso.map(|at| (libc::AT_SYSINFO_EHDR, at.get())));
        entries.extend(self.min_signal_stack.map(|size| (libc::AT_MINSIGSTKSZ, size)));
        entries.extend([
            (libc::AT_HWCAP, self.hwcap),
            (libc::AT_PAGESZ, PAGE_SIZE),
            (libc::AT_CLKTCK, CLOCK_TICKS),
            (libc::AT_PHDR, self.program_headers.get()),
            (libc::AT_PHENT, Layout::HEADER_SIZE),
            (libc::AT_PHNUM, u64::from(self.header_count)),
            (libc::AT_BASE, self.base.get()),
            (libc::AT_FLAGS, 0),
            (libc::AT_ENTRY, self.entry.get()),
            (libc::AT_UID, uid),
            (libc::AT_EUID, euid),
            (libc::AT_GID, gid),
            (libc::AT_EGID, egid),
            (libc::AT_SECURE, 0),
            (libc::AT_RANDOM, random.get()),
            (libc::AT_HWCAP2, self.hwcap2),
            (libc::AT_EXECFN, execfn.get()),
            (libc::AT_PLATFORM, platform.get()),
        ]);
        if let Some(rseq) = self.rseq {
            entries.push((AT_RSEQ_FEATURE_SIZE, rseq.feature_size));
            entries.push((AT_RSEQ_ALIGN, rseq.alignment));
        }
        entries.push((libc::AT_NULL, 0));
        entries
    }
}

/// What the stack is built from.
#[derive(Debug, Clone, Copy)]
pub struct StackInputs<'a> {
    /// The first address past the stack, page-aligned: 0x7ffffffff000 without ASLR.
    pub top: VirtAddr,
    /// `RLIMIT_STACK`'s soft limit, in bytes; `u64::MAX` for none.
    pub stack_limit: u64,
    /// Bytes left free below the strings, fewer than 8,192; 0 without ASLR.
    pub random_gap: u64,
    /// The path as it was given to `execve`.
    pub execfn: &'a CStr,
    /// The arguments, the program's name first. If there are none, one empty string is passed, as
    /// Linux does since 5.18.
    pub argv: &'a [CString],
    /// The environment, `NAME=value` each.
    pub envp: &'a [CString],
    /// The auxiliary vector's values.
    pub aux: Aux,
}

/// The stack's content when the program starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitialStack {
    /// The address of the first of `bytes`: the first stack pointer, a multiple of 16.
    pub start: VirtAddr,
    /// Everything from `start` to the top.
    pub bytes: Vec<u8>,
    /// `arg_start`: the first argument's string.
    pub arg_start: VirtAddr,
    /// `arg_end`: past the last argument's.
    pub arg_end: VirtAddr,
    /// `env_start`: the first variable's string.
    pub env_start: VirtAddr,
    /// `env_end`: past the last variable's.
    pub env_end: VirtAddr,
    /// `saved_auxv`, what `/proc/PID/auxv` says, its end included.
    pub auxv: Vec<(u64, u64)>,
}

impl InitialStack {
    /// Lays out and fills the stack.
    ///
    /// # Errors
    /// Both are `execve`'s `E2BIG`: [`LoadError::StringTooLong`] for a string of more than 128 KiB,
    /// [`LoadError::ArgumentsTooBig`] where strings and pointers exceed a quarter of the stack limit
    /// (at least 128 KiB, at most 6 MiB; `bprm_stack_limits`). [`LoadError::Place`] for a top that
    /// is not page-aligned or in the lowest 12 MiB.
    pub fn build(inputs: &StackInputs<'_>) -> Result<Self, LoadError> {
        let StackInputs { top, random_gap, execfn, argv, envp, aux, .. } = *inputs;
        let no_name = [CString::default()];
        let argv = if argv.is_empty() { &no_name } else { argv };
        check_sizes(inputs, argv)?;

        // Addresses from the top down.
        let text = |strings: &[CString]| strings.iter().map(|s| size(s)).sum::<u64>();
        let below = |at: VirtAddr, bytes: u64| VirtAddr::new(at.get() - bytes);
        let null = below(top, 8);
        let execfn_at = below(null, size(execfn));
        let env_start = below(execfn_at, text(envp));
        let arg_start = below(env_start, text(argv));
        let platform = below(align_down(below(arg_start, random_gap)), size(PLATFORM));
        let random = below(platform, aux.random.len() as u64);
        let auxv = aux.entries(random, execfn_at, platform);
        let pointers = (argv.len() + 1 + envp.len() + 1 + 1) as u64;
        let auxv_bytes = auxv.len() as u64 * 16;
        // The vector's place is worked out from an unaligned address, and moves down with rsp.
        let start = align_down(below(random, auxv_bytes + pointers * 8));

        // Bytes from the bottom up.
        let mut stack = Filler { start, bytes: Vec::new() };
        stack.word(argv.len() as u64);
        stack.pointers(arg_start, argv);
        stack.pointers(env_start, envp);
        for &(key, value) in &auxv {
            stack.word(key);
            stack.word(value);
        }
        stack.at(random, &aux.random);
        stack.at(platform, PLATFORM.to_bytes_with_nul());
        stack.strings(arg_start, argv);
        stack.strings(env_start, envp);
        stack.at(execfn_at, execfn.to_bytes_with_nul());
        stack.at(null, &[0; 8]);
        Ok(InitialStack {
            start,
            bytes: stack.bytes,
            arg_start,
            arg_end: env_start,
            env_start,
            env_end: execfn_at,
            auxv,
        })
    }
}

/// Bytes of a string, its end included.
fn size(string: &CStr) -> u64 {
    string.to_bytes_with_nul().len() as u64
}

fn align_down(at: VirtAddr) -> VirtAddr {
    VirtAddr::new(at.get() & !15)
}

/// The limits of `bprm_stack_limits` and `valid_arg_len`.
fn check_sizes(inputs: &StackInputs<'_>, argv: &[CString]) -> Result<(), LoadError> {
    for (what, strings) in [("argument", argv), ("environment variable", inputs.envp)] {
        for (index, string) in strings.iter().enumerate() {
            let len = string.to_bytes_with_nul().len();
            if len > MAX_ARG_STRLEN {
                return Err(LoadError::StringTooLong { what, index, len });
            }
        }
    }
    if inputs.top.get() < LOWEST_TOP || !inputs.top.is_page_aligned() {
        let why = "the top of its stack is too low or not at a page";
        return Err(LoadError::Place { start: inputs.top.get(), why });
    }
    let limit = STRINGS_MAX.min(inputs.stack_limit / 4).max(ARG_MAX);
    let strings = argv.iter().chain(inputs.envp);
    let needed = size(inputs.execfn) + strings.map(|s| size(s) + 8).sum::<u64>();
    if needed > limit {
        return Err(LoadError::ArgumentsTooBig { needed, limit });
    }
    Ok(())
}

/// Bytes that grow upwards from `start`; what is skipped is zero.
struct Filler {
    start: VirtAddr,
    bytes: Vec<u8>,
}

impl Filler {
    fn word(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// `bytes` at an address that is not below what is filled already.
    fn at(&mut self, address: VirtAddr, bytes: &[u8]) {
        let offset = usize::try_from(address.bytes_from(self.start)).unwrap_or(usize::MAX);
        self.bytes.resize(offset, 0);
        self.bytes.extend_from_slice(bytes);
    }

    /// Pointers to `strings`, which lie one after another from `first`, and a null.
    fn pointers(&mut self, first: VirtAddr, strings: &[CString]) {
        let mut next = first;
        for string in strings {
            self.word(next.get());
            next = next.offset(size(string));
        }
        self.word(0);
    }

    fn strings(&mut self, first: VirtAddr, strings: &[CString]) {
        self.at(first, &[]);
        for string in strings {
            self.bytes.extend_from_slice(string.to_bytes_with_nul());
        }
    }
}

#[cfg(test)]
mod tests;
