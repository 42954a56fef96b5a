//! What is refused and why, and what holds for whatever is accepted.

use super::super::fixture::Builder;
use super::*;
use proptest::prelude::*;

fn refusal(builder: &Builder) -> LoadError {
    Elf::from_bytes(&builder.bytes()).expect_err("this file is to be refused")
}

#[test]
fn a_good_program_has_its_segments_sorted_and_its_headers_found() {
    let mut builder = Builder::fixed();
    builder.segments.swap(0, 1);
    let elf = Elf::from_bytes(&builder.bytes()).unwrap();
    let starts: Vec<_> = elf.segments().iter().map(|s| s.address).collect();
    assert_eq!(starts, [0x40_0000, 0x40_1f00]);
    assert_eq!(elf.placement(), Placement::Fixed(VirtAddr::new(0x40_0000)));
    assert_eq!(elf.program_headers(), 0x40_0040);
    assert_eq!(elf.stack(), StackAccess::ReadWrite);
}

#[test]
fn the_header_says_what_kind_of_file_it_is_not() {
    type Case = (usize, &'static [u8], fn(&LoadError) -> bool);
    let cases: [Case; 9] = [
        (0, b"\x7fELG", |e| matches!(e, LoadError::NotElf)),
        (4, &[1], |e| matches!(e, LoadError::Not64Bit)),
        (5, &[2], |e| matches!(e, LoadError::BigEndian)),
        (
            18,
            &[183, 0],
            |e| matches!(e, LoadError::OtherMachine { machine } if machine.contains("aarch64")),
        ),
        (
            18,
            &[0x39, 0x30],
            |e| matches!(e, LoadError::OtherMachine { machine } if machine.contains("12345")),
        ),
        (16, &[1], |e| matches!(e, LoadError::ObjectFile)),
        (16, &[4], |e| matches!(e, LoadError::CoreDump)),
        (16, &[9], |e| matches!(e, LoadError::OtherType(9))),
        (54, &[64], |e| matches!(e, LoadError::HeaderSize(64))),
    ];
    for (offset, patch, expected) in cases {
        let mut bytes = Builder::fixed().bytes();
        bytes[offset..offset + patch.len()].copy_from_slice(patch);
        let error = Elf::from_bytes(&bytes).expect_err("refused");
        assert!(expected(&error), "byte {offset} gave {error:?}");
    }
}

#[test]
fn text_and_empty_files_are_no_programs_and_a_script_names_its_interpreter() {
    assert!(matches!(Elf::from_bytes(b""), Err(LoadError::NotElf)));
    assert!(matches!(Elf::from_bytes(b"hello\n"), Err(LoadError::NotElf)));
    let Err(LoadError::Script { interpreter }) = Elf::from_bytes(b"#! /bin/sh -e\necho\n") else {
        panic!("a script");
    };
    assert_eq!(interpreter, "/bin/sh -e");
    let Err(LoadError::Script { interpreter }) = Elf::from_bytes(b"#!\x1b[2J\xff") else {
        panic!("a script");
    };
    assert_eq!(interpreter, "\\x1b[2J\\xff", "a file cannot command the terminal");
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let bytes = Builder::fixed().bytes();
    for len in 0..bytes.len() {
        let error = Elf::from_bytes(&bytes[..len]).expect_err("refused");
        let expected = match len {
            0..4 => matches!(error, LoadError::NotElf),
            4..64 => matches!(error, LoadError::Truncated { what: "ELF header", .. }),
            64..232 => matches!(error, LoadError::Truncated { what: "program headers", .. }),
            _ => matches!(error, LoadError::TruncatedSegment { .. }),
        };
        assert!(expected, "{len} bytes gave {error:?}");
    }
}

#[test]
fn the_number_of_program_headers_is_1_to_1170_as_on_linux() {
    for (count, refused) in [(0, true), (1170, false), (1171, true)] {
        let mut builder = Builder::fixed();
        builder.header_count = Some(count);
        let mut bytes = builder.bytes();
        bytes.resize(bytes.len() + 1171 * 56, 0);
        let error = Elf::from_bytes(&bytes);
        assert_eq!(matches!(error, Err(LoadError::HeaderCount(_))), refused, "{count}");
    }
}

#[test]
fn a_segment_that_cannot_be_mapped_whole_is_refused_with_its_reason() {
    let with = |change: fn(&mut abi::Elf64_Phdr)| {
        let mut builder = Builder::fixed();
        change(&mut builder.segments[1]);
        refusal(&builder)
    };
    assert!(matches!(with(|p| p.p_offset += 1), LoadError::Misaligned { index: 1, .. }));
    assert!(matches!(with(|p| p.p_filesz = 1 << 20), LoadError::FileLargerThanMemory { .. }));
    assert!(matches!(with(|p| p.p_memsz = 0), LoadError::FileLargerThanMemory { .. }));
    assert!(matches!(with(|p| p.p_memsz = u64::MAX), LoadError::Overflow { what: "address", .. }));
    let far = with(|p| {
        p.p_offset = u64::MAX - 0xff;
        p.p_filesz = 0x200;
    });
    assert!(matches!(far, LoadError::Overflow { what: "file offset", .. }), "{far:?}");
    assert!(matches!(with(|p| p.p_memsz = 1 << 47), LoadError::OutsideUserHalf { .. }));
    let upper = with(|p| p.p_vaddr = 0xffff_ffff_8000_0f00);
    assert!(matches!(upper, LoadError::OutsideUserHalf { .. }));
    assert!(matches!(with(|p| p.p_vaddr = 0xf00), LoadError::TooLow { index: 1, start: 0 }));
    assert!(matches!(
        with(|p| p.p_vaddr = 0x40_0f00),
        LoadError::Overlap { first: 0, second: 1, page: 0x40_0000 }
    ));
}

#[test]
fn without_a_segment_to_load_there_is_nothing_to_run() {
    let mut builder = Builder::fixed();
    for segment in &mut builder.segments {
        segment.p_type = abi::PT_NOTE;
    }
    assert!(matches!(refusal(&builder), LoadError::NothingToLoad));
}

#[test]
fn an_entry_point_outside_the_code_is_refused() {
    for entry in [0, 0x40_1f00, 0x40_0900, 0xffff_ffff_8000_0000] {
        let builder = Builder { entry, ..Builder::fixed() };
        assert!(matches!(refusal(&builder), LoadError::EntryOutside(e) if e == entry));
    }
}

#[test]
fn a_dynamic_program_names_its_interpreter() {
    let mut builder = Builder::fixed();
    builder.interpreter = Some("/lib64/ld-linux-x86-64.so.2");
    let error = refusal(&builder);
    let text = error.to_string();
    assert!(text.contains("its interpreter is /lib64/ld-linux-x86-64.so.2"), "{text}");
    assert!(text.contains("-static"), "{text}");
}

#[test]
fn the_stack_is_executable_only_where_pt_gnu_stack_says_so() {
    let mut builder = Builder::fixed();
    builder.segments.push(abi::Elf64_Phdr {
        p_type: abi::PT_GNU_STACK,
        p_flags: abi::PF_R | abi::PF_W | abi::PF_X,
        ..Default::default()
    });
    let elf = Elf::from_bytes(&builder.bytes()).unwrap();
    assert_eq!(elf.stack(), StackAccess::Executable);
}

#[test]
fn the_alignment_is_the_largest_power_of_two_and_at_least_a_page() {
    for (p_align, expected) in [(0, 4096), (16, 4096), (0x3000, 4096), (1 << 21, 1 << 21)] {
        let mut builder = Builder::position_independent();
        builder.segments[0].p_align = p_align;
        let elf = Elf::from_bytes(&builder.bytes()).unwrap();
        assert_eq!(elf.placement(), Placement::Anywhere { size: 0x4000, alignment: expected });
    }
}

/// Numbers that headers go wrong with, among any others.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..0x3000_u64,
        (0..64_u32, -2..3_i64).prop_map(|(bit, off)| (1_u64 << bit).wrapping_add_signed(off)),
        (0x3f_f000..0x40_5000_u64),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn whatever_the_headers_say_parse_answers_and_what_it_accepts_can_be_mapped(
        pie in any::<bool>(),
        fields in prop::collection::vec((0..4_usize, 1..8_usize, number()), 0..4),
        bytes in prop::collection::vec((0..232_usize, any::<u8>()), 0..2),
        entry in prop_oneof![Just(0x40_0100), number()],
        start in prop_oneof![Just(0x7fff_f7f0_0000_u64), number()],
    ) {
        let base = if pie { Builder::position_independent() } else { Builder::fixed() };
        let entry = if pie && entry == 0x40_0100 { base.entry } else { entry };
        let mut file = Builder { entry, ..base }.bytes();
        for (segment, field, value) in fields {
            let at = 64 + segment % 3 * 56 + field * 8 - if field == 1 { 4 } else { 0 };
            let bytes = value.to_le_bytes();
            let size = if field == 1 { 4 } else { 8 };
            file[at..at + size].copy_from_slice(&bytes[..size]);
        }
        for (at, value) in bytes {
            file[at] = value;
        }
        let Ok(elf) = Elf::from_bytes(&file) else { return Ok(()) };
        for pair in elf.segments().windows(2) {
            prop_assert!(pair[0].pages.end() <= pair[1].pages.start());
        }
        for segment in elf.segments() {
            prop_assert!(segment.file_size <= segment.mem_size && segment.mem_size > 0);
            let in_file = segment.offset.checked_add(segment.file_size);
            let inside = in_file.is_some_and(|end| end <= file.len() as u64);
            prop_assert!(segment.file_size == 0 || inside);
            prop_assert!(segment.pages.start().get() <= segment.address);
            prop_assert!(segment.end() <= segment.pages.end().get());
        }
        let start = match elf.placement() {
            Placement::Fixed(start) => start,
            Placement::Anywhere { .. } => VirtAddr::new(start),
        };
        match elf.at(start) {
            Err(LoadError::Place { .. }) => prop_assert!(elf.placement() != Placement::Fixed(start)),
            Err(other) => prop_assert!(false, "{:?}", other),
            Ok(layout) => {
                for pair in layout.mappings.windows(2) {
                    prop_assert!(pair[0].range().end() <= pair[1].range().start());
                }
                let holds = |m: &super::super::Mapping| m.range().contains(layout.entry);
                prop_assert!(layout.mappings.iter().any(holds));
                prop_assert!(layout.start_brk.is_page_aligned());
            }
        }
    }
}
