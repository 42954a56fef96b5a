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
//!         (down to a multiple of 16)
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
        entries.extend(
            self.min_signal_stack
                .map(|size| (libc::AT_MINSIGSTKSZ, size)),
        );
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
        let StackInputs {
            top,
            execfn,
            argv,
            envp,
            aux,
            ..
        } = *inputs;
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
        let platform = below(align_down(arg_start), size(PLATFORM));
        let random = below(platform, aux.random.len() as u64);
        let auxv = aux.entries(random, execfn_at, platform);
        let pointers = (argv.len() + 1 + envp.len() + 1 + 1) as u64;
        let auxv_bytes = auxv.len() as u64 * 16;
        // The vector's place is worked out from an unaligned address, and moves down with rsp.
        let start = align_down(below(random, auxv_bytes + pointers * 8));

        // Bytes from the bottom up.
        let mut stack = Filler {
            start,
            bytes: Vec::new(),
        };
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
        return Err(LoadError::Place {
            start: inputs.top.get(),
            why,
        });
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
mod tests {
    use super::*;
    use crate::load::fixture::Waiting;

    const TOP: VirtAddr = VirtAddr::TASK_END;

    fn aux() -> Aux {
        Aux {
            vdso: None,
            min_signal_stack: None,
            hwcap: 0x178b_fbff,
            hwcap2: 2,
            program_headers: VirtAddr::new(0x40_0040),
            header_count: 10,
            base: VirtAddr::ZERO,
            entry: VirtAddr::new(0x40_1000),
            ids: [1, 2, 3, 4],
            random: *b"0123456789abcdef",
            rseq: None,
        }
    }

    fn strings(list: &[&str]) -> Vec<CString> {
        list.iter().map(|s| CString::new(*s).unwrap()).collect()
    }

    fn build(
        argv: &[CString],
        envp: &[CString],
        stack_limit: u64,
    ) -> Result<InitialStack, LoadError> {
        let execfn = c"/bin/program";
        InitialStack::build(&StackInputs {
            top: TOP,
            stack_limit,
            execfn,
            argv,
            envp,
            aux: aux(),
        })
    }

    fn word(stack: &InitialStack, address: VirtAddr) -> u64 {
        let at = usize::try_from(address.bytes_from(stack.start)).unwrap();
        u64::from_le_bytes(stack.bytes[at..at + 8].try_into().unwrap())
    }

    fn text(stack: &InitialStack, address: u64) -> &CStr {
        let at = usize::try_from(address - stack.start.get()).unwrap();
        CStr::from_bytes_until_nul(&stack.bytes[at..]).unwrap()
    }

    #[test]
    fn the_stack_pointer_is_16_byte_aligned_and_the_content_ends_at_the_top() {
        for arguments in 0..5 {
            for length in 0..17 {
                let argv = strings(&vec![&"xxxxxxxxxxxxxxxxx"[..length]; arguments]);
                let stack = build(&argv, &strings(&["A=1"]), 8 << 20).unwrap();
                assert_eq!(stack.start.get() % 16, 0);
                assert_eq!(stack.start.offset(stack.bytes.len() as u64), TOP);
                assert_eq!(word(&stack, TOP.checked_sub(8).unwrap()), 0);
            }
        }
    }

    #[test]
    fn pointers_lead_to_the_strings_in_their_order() {
        let stack = build(
            &strings(&["prog", "one"]),
            &strings(&["A=1", "B=2"]),
            8 << 20,
        )
        .unwrap();
        let pointer = |index: u64| word(&stack, stack.start.offset(index * 8));
        assert_eq!(pointer(0), 2);
        assert_eq!(text(&stack, pointer(1)), c"prog");
        assert_eq!(text(&stack, pointer(2)), c"one");
        assert_eq!(pointer(3), 0);
        assert_eq!(text(&stack, pointer(4)), c"A=1");
        assert_eq!(text(&stack, pointer(5)), c"B=2");
        assert_eq!(pointer(6), 0);
        assert_eq!(pointer(7), libc::AT_HWCAP);
        assert_eq!(
            (pointer(1), pointer(4)),
            (stack.arg_start.get(), stack.env_start.get())
        );
        assert_eq!((stack.arg_end.bytes_from(stack.arg_start)), 9);
        assert_eq!((stack.env_end.bytes_from(stack.env_start)), 8);
        let value = |key| {
            stack
                .auxv
                .iter()
                .find(|(k, _)| *k == key)
                .map(|(_, v)| *v)
                .unwrap()
        };
        assert_eq!(text(&stack, value(libc::AT_EXECFN)), c"/bin/program");
        assert_eq!(text(&stack, value(libc::AT_PLATFORM)), c"x86_64");
        assert!(
            text(&stack, value(libc::AT_RANDOM))
                .to_bytes()
                .starts_with(b"0123456789abcdef")
        );
    }

    #[test]
    fn a_program_without_arguments_gets_one_empty_one() {
        let stack = build(&[], &[], 8 << 20).unwrap();
        assert_eq!(word(&stack, stack.start), 1);
        assert_eq!(text(&stack, word(&stack, stack.start.offset(8))), c"");
    }

    #[test]
    fn a_string_may_have_128_kib_with_its_end_and_not_more() {
        let long = |len: usize| vec![CString::new(vec![b'x'; len]).unwrap()];
        assert!(build(&long(MAX_ARG_STRLEN - 1), &[], 8 << 20).is_ok());
        let error = build(&[], &long(MAX_ARG_STRLEN), 8 << 20).expect_err("too long");
        let expected = matches!(
            error,
            LoadError::StringTooLong {
                index: 0,
                len: 131_073,
                ..
            }
        );
        assert!(expected, "{error:?}");
    }

    #[test]
    fn strings_and_pointers_have_a_quarter_of_the_stack_limit() {
        // execfn is 13 bytes; each of these is 100 bytes and a pointer.
        let argv = |count| vec![CString::new(vec![b'x'; 99]).unwrap(); count];
        for (stack_limit, limit) in [(8 << 20, 2 << 20), (0, ARG_MAX), (u64::MAX, STRINGS_MAX)] {
            let most = usize::try_from((limit - 13) / 108).unwrap();
            assert!(
                build(&argv(most), &[], stack_limit).is_ok(),
                "{stack_limit}"
            );
            let error = build(&argv(most + 1), &[], stack_limit).expect_err("too much");
            assert!(matches!(error, LoadError::ArgumentsTooBig { limit: l, .. } if l == limit));
        }
    }

    #[test]
    fn a_top_without_room_below_it_is_refused() {
        for top in [0, 4096, LOWEST_TOP - 4096, 0x7fff_ffff_f001] {
            let inputs = StackInputs {
                top: VirtAddr::new(top),
                stack_limit: 8 << 20,
                execfn: c"x",
                argv: &[],
                envp: &[],
                aux: aux(),
            };
            let result = InitialStack::build(&inputs);
            assert!(matches!(result, Err(LoadError::Place { .. })), "{top:#x}");
        }
    }

    #[test]
    fn the_stack_is_byte_for_byte_what_the_host_kernel_builds() {
        type Case = (
            &'static [&'static str],
            &'static [(&'static str, &'static str)],
        );
        let cases: [Case; 3] = [
            (&["-"], &[]),
            (
                &["-", "/dev/null", "an argument with spaces"],
                &[("LC_ALL", "C"), ("X", "12345")],
            ),
            (
                &["-u"],
                &[
                    ("PATH", "/bin"),
                    ("EMPTY", ""),
                    ("LONG", "sixteen bytes..."),
                ],
            ),
        ];
        for (arguments, variables) in cases {
            let command: Vec<_> = ["/bin/cat"].iter().chain(arguments).copied().collect();
            let Some(cat) = Waiting::start(&command, variables) else {
                return;
            };
            let auxv = cat.auxv();
            let find = |key| auxv.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
            let get = |key| find(key).unwrap();
            let start = cat.stat(28);
            let memory = cat.memory(start, TOP.get());

            let split = |bytes: Vec<u8>| -> Vec<CString> {
                let texts = bytes.split_inclusive(|&b| b == 0);
                texts
                    .map(|t| CStr::from_bytes_with_nul(t).unwrap().to_owned())
                    .collect()
            };
            let random = usize::try_from(get(libc::AT_RANDOM) - start).unwrap();
            let inputs = StackInputs {
                top: TOP,
                stack_limit: 8 << 20,
                execfn: c"/bin/cat",
                argv: &split(cat.read("cmdline")),
                envp: &split(cat.read("environ")),
                aux: Aux {
                    vdso: find(libc::AT_SYSINFO_EHDR).map(VirtAddr::new),
                    min_signal_stack: find(libc::AT_MINSIGSTKSZ),
                    hwcap: get(libc::AT_HWCAP),
                    hwcap2: get(libc::AT_HWCAP2),
                    program_headers: VirtAddr::new(get(libc::AT_PHDR)),
                    header_count: u16::try_from(get(libc::AT_PHNUM)).unwrap(),
                    base: VirtAddr::new(get(libc::AT_BASE)),
                    entry: VirtAddr::new(get(libc::AT_ENTRY)),
                    ids: [libc::AT_UID, libc::AT_EUID, libc::AT_GID, libc::AT_EGID]
                        .map(|key| u32::try_from(get(key)).unwrap()),
                    random: memory[random..random + 16].try_into().unwrap(),
                    rseq: find(AT_RSEQ_FEATURE_SIZE).map(|feature_size| Rseq {
                        feature_size,
                        alignment: get(AT_RSEQ_ALIGN),
                    }),
                },
            };
            let built = InitialStack::build(&inputs).unwrap();
            assert_eq!(built.auxv, auxv);
            assert_eq!(built.start.get(), start);
            assert_eq!(built.bytes, memory);
            let fields = [48, 49, 50, 51].map(|field| VirtAddr::new(cat.stat(field)));
            let ours = [
                built.arg_start,
                built.arg_end,
                built.env_start,
                built.env_end,
            ];
            assert_eq!(ours, fields);
        }
    }
}
