//! The layout rules one by one, and all at once: the host kernel builds the same bytes.

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

fn build(argv: &[CString], envp: &[CString], stack_limit: u64) -> Result<InitialStack, LoadError> {
    let execfn = c"/bin/program";
    let (top, random_gap, aux) = (TOP, 0, aux());
    InitialStack::build(&StackInputs { top, stack_limit, random_gap, execfn, argv, envp, aux })
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
    let stack = build(&strings(&["prog", "one"]), &strings(&["A=1", "B=2"]), 8 << 20).unwrap();
    let pointer = |index: u64| word(&stack, stack.start.offset(index * 8));
    assert_eq!(pointer(0), 2);
    assert_eq!(text(&stack, pointer(1)), c"prog");
    assert_eq!(text(&stack, pointer(2)), c"one");
    assert_eq!(pointer(3), 0);
    assert_eq!(text(&stack, pointer(4)), c"A=1");
    assert_eq!(text(&stack, pointer(5)), c"B=2");
    assert_eq!(pointer(6), 0);
    assert_eq!(pointer(7), libc::AT_HWCAP);
    assert_eq!((pointer(1), pointer(4)), (stack.arg_start.get(), stack.env_start.get()));
    assert_eq!((stack.arg_end.bytes_from(stack.arg_start)), 9);
    assert_eq!((stack.env_end.bytes_from(stack.env_start)), 8);
    let value = |key| stack.auxv.iter().find(|(k, _)| *k == key).map(|(_, v)| *v).unwrap();
    assert_eq!(text(&stack, value(libc::AT_EXECFN)), c"/bin/program");
    assert_eq!(text(&stack, value(libc::AT_PLATFORM)), c"x86_64");
    assert!(text(&stack, value(libc::AT_RANDOM)).to_bytes().starts_with(b"0123456789abcdef"));
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
    let expected = matches!(error, LoadError::StringTooLong { index: 0, len: 131_073, .. });
    assert!(expected, "{error:?}");
}

#[test]
fn strings_and_pointers_have_a_quarter_of_the_stack_limit() {
    // execfn is 13 bytes; each of these is 100 bytes and a pointer.
    let argv = |count| vec![CString::new(vec![b'x'; 99]).unwrap(); count];
    for (stack_limit, limit) in [(8 << 20, 2 << 20), (0, ARG_MAX), (u64::MAX, STRINGS_MAX)] {
        let most = usize::try_from((limit - 13) / 108).unwrap();
        assert!(build(&argv(most), &[], stack_limit).is_ok(), "{stack_limit}");
        let error = build(&argv(most + 1), &[], stack_limit).expect_err("too much");
        assert!(matches!(error, LoadError::ArgumentsTooBig { limit: l, .. } if l == limit));
    }
}

#[test]
fn a_random_gap_lies_below_the_strings_and_leaves_the_pointer_aligned() {
    let (argv, envp) = (strings(&["program"]), strings(&["A=b"]));
    let of = |random_gap| {
        let (top, stack_limit, execfn) = (TOP, 8 << 20, c"x");
        let (argv, envp, aux) = (&argv[..], &envp[..], aux());
        InitialStack::build(&StackInputs { top, stack_limit, random_gap, execfn, argv, envp, aux })
            .unwrap()
    };
    let without = of(0);
    for gap in [1, 16, 4095, 8191] {
        let stack = of(gap);
        assert_eq!(stack.arg_start, without.arg_start);
        assert_eq!(stack.start.get() % 16, 0);
        let moved = without.start.bytes_from(stack.start);
        assert!(moved.abs_diff(gap) < 16, "{moved} bytes for {gap}");
    }
}

#[test]
fn a_top_without_room_below_it_is_refused() {
    for top in [0, 4096, LOWEST_TOP - 4096, 0x7fff_ffff_f001] {
        let inputs = StackInputs {
            top: VirtAddr::new(top),
            stack_limit: 8 << 20,
            random_gap: 0,
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
    type Case = (&'static [&'static str], &'static [(&'static str, &'static str)]);
    let cases: [Case; 3] = [
        (&["-"], &[]),
        (&["-", "/dev/null", "an argument with spaces"], &[("LC_ALL", "C"), ("X", "12345")]),
        (&["-u"], &[("PATH", "/bin"), ("EMPTY", ""), ("LONG", "sixteen bytes...")]),
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
            texts.map(|t| CStr::from_bytes_with_nul(t).unwrap().to_owned()).collect()
        };
        let random = usize::try_from(get(libc::AT_RANDOM) - start).unwrap();
        let inputs = StackInputs {
            top: TOP,
            stack_limit: 8 << 20,
            random_gap: 0,
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
                rseq: find(AT_RSEQ_FEATURE_SIZE)
                    .map(|feature_size| Rseq { feature_size, alignment: get(AT_RSEQ_ALIGN) }),
            },
        };
        let built = InitialStack::build(&inputs).unwrap();
        assert_eq!(built.auxv, auxv);
        assert_eq!(built.start.get(), start);
        assert_eq!(built.bytes, memory);
        let fields = [48, 49, 50, 51].map(|field| VirtAddr::new(cat.stat(field)));
        let ours = [built.arg_start, built.arg_end, built.env_start, built.env_end];
        assert_eq!(ours, fields);
    }
}
