//! Programs that nobody here wrote.

use std::path::PathBuf;

use crate::case::{Case, Where};

/// awk's array script, with `n` elements.
fn awk(n: u32) -> String {
    format!(
        "BEGIN {{ for (i = 0; i < {n}; i++) a[i] = i * 7 % 1000; \
         s = 0; for (k in a) s += a[k]; print s, length(a) }}"
    )
}

/// Lines of text that are the same every time.
fn lines(n: u32) -> Vec<u8> {
    let mut state = 12345u32;
    let mut text = Vec::new();
    for _ in 0..n {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.extend_from_slice(format!("{:08x} {}\n", state, state >> 20).as_bytes());
    }
    text
}

/// A script for busybox.
const FILES: &str = include_str!("../../programs/files.sh");

/// All of them.
pub(super) fn all() -> Vec<Case> {
    let busybox = || PathBuf::from("/bin/busybox");
    let case = |name: &str, args: &[&str]| Case::new(name, busybox(), args).natively();
    vec![
        case("awk-300000", &["awk", &awk(300_000)]).only(Where::Direct),
        case("awk-20000", &["awk", &awk(20_000)]).only(Where::Nested),
        case("sha256sum", &["sha256sum"]).input(lines(50_000)),
        case("sort", &["sort", "-k2n"]).input(lines(50_000)).only(Where::Direct),
        case("sort-2000", &["sort", "-k2n"]).input(lines(2_000)).only(Where::Nested),
        case("bc", &["bc"]).input("scale=20\n2^521-1\n22/7\nquit\n"),
        case("dc", &["dc"]).input("2 100 ^ p 17 % p\n"),
        case("false", &["false"]),
        case("true", &["true"]),
        case("shell", &["sh", "-c", "echo $(seq 5 | sort -rn) | tr 1-5 a-e; (exit 3); echo $?"]),
        // In memory, and in a directory of the host.
        case("applets", &["sh", "-c", FILES, "sh", "/tmp"]),
        case("applets-granted", &["sh", "-c", FILES, "sh", "/tmp"])
            .option(&format!("--dir={}:/tmp", std::env::temp_dir().display()))
            .only(Where::Direct),
    ]
}
