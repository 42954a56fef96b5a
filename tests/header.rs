//! The C header says what the crate `guest` says, and what Linux says: every constant in it is compared.

#![allow(clippy::unwrap_used, reason = "a test is a crate of its own")]

use std::collections::BTreeMap;

use guest::abi;
use libc::c_long;

/// The header's constants, `MMVISOR_NAME value`, by their names without the prefix.
fn constants() -> BTreeMap<&'static str, i64> {
    let header = include_str!("../resources/mmvisor.h");
    let defined = header.lines().filter_map(|line| line.strip_prefix("#define MMVISOR_"));
    // The guard against a second inclusion has no value.
    defined
        .filter_map(|rest| rest.split_once(' '))
        .map(|(name, value)| (name, number(value)))
        .collect()
}

/// A C constant: decimal or hexadecimal, negative ones in parentheses, a long.
fn number(text: &str) -> i64 {
    let digits = text.trim_matches(['(', ')']).trim_end_matches('L');
    match digits.strip_prefix("0x") {
        Some(hexadecimal) => i64::from_str_radix(hexadecimal, 16).unwrap(),
        None => digits.parse().unwrap(),
    }
}

#[test]
fn every_constant_of_the_c_header_is_the_crates_or_linuxs() {
    let own = |value: u64| i64::try_from(value).unwrap();
    let linux: fn(c_long) -> i64 = i64::from;
    let flag = |value: libc::c_int| i64::from(value);
    let expected = BTreeMap::from([
        ("CALL_RECOVER", own(abi::CALL_RECOVER)),
        ("CALL_MAPS", own(abi::CALL_MAPS)),
        ("PAGE", own(mm::addr::PAGE_SIZE)),
        ("NR_read", linux(libc::SYS_read)),
        ("NR_write", linux(libc::SYS_write)),
        ("NR_mmap", linux(libc::SYS_mmap)),
        ("NR_mprotect", linux(libc::SYS_mprotect)),
        ("NR_munmap", linux(libc::SYS_munmap)),
        ("NR_brk", linux(libc::SYS_brk)),
        ("NR_mremap", linux(libc::SYS_mremap)),
        ("NR_exit_group", linux(libc::SYS_exit_group)),
        ("PROT_NONE", flag(libc::PROT_NONE)),
        ("PROT_READ", flag(libc::PROT_READ)),
        ("PROT_WRITE", flag(libc::PROT_WRITE)),
        ("PROT_EXEC", flag(libc::PROT_EXEC)),
        ("MAP_PRIVATE", flag(libc::MAP_PRIVATE)),
        ("MAP_FIXED", flag(libc::MAP_FIXED)),
        ("MAP_ANONYMOUS", flag(libc::MAP_ANONYMOUS)),
        ("MAP_FIXED_NOREPLACE", flag(libc::MAP_FIXED_NOREPLACE)),
        ("ENOSYS", -flag(libc::ENOSYS)),
    ]);
    assert_eq!(constants(), expected);
}
