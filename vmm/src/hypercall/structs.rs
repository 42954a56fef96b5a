//! The structures behind pointers, printed as strace prints them. Each function gives `None` where the
//! memory cannot be read; then the address is printed.

use mm::addr::{PAGE_SIZE, VirtAddr, page_align};
use nix::libc;

use super::flags::{self, Names as _};
use super::identity::UTS_FIELD;
use super::text::{self, Reader, Style};

/// How many elements of an array are shown.
const SHOWN: u64 = 32;

/// `N` consecutive 64-bit words.
fn words<const N: usize>(at: u64, read: Reader<'_>) -> Option<[u64; N]> {
    let bytes = block(at, N * 8, read)?;
    let mut words = [0; N];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(chunk.try_into().ok()?);
    }
    Some(words)
}

fn block(at: u64, len: usize, read: Reader<'_>) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    (at != 0 && read(VirtAddr::new(at), &mut bytes)).then_some(bytes)
}

/// `struct rlimit`.
pub(crate) fn limit(at: u64, read: Reader<'_>) -> Option<String> {
    let [current, maximum] = words(at, read)?.map(text::limit);
    Some(format!("{{rlim_cur={current}, rlim_max={maximum}}}"))
}

/// The kernel's `struct sigaction`.
pub(crate) fn action(at: u64, read: Reader<'_>) -> Option<String> {
    let [handler, flag_bits, restorer, mask] = words(at, read)?;
    let handler = match handler {
        0 => "SIG_DFL".to_owned(),
        1 => "SIG_IGN".to_owned(),
        u64::MAX => "SIG_ERR".to_owned(),
        _ => format!("{handler:#x}"),
    };
    let mask = set_text(mask);
    let flag_text = flags::SA.text(flag_bits);
    let has_restorer = flag_bits & 0x0400_0000 != 0;
    let restorer = if has_restorer {
        format!(", sa_restorer={}", text::address(restorer))
    } else {
        String::new()
    };
    Some(format!("{{sa_handler={handler}, sa_mask={mask}, sa_flags={flag_text}{restorer}}}"))
}

/// `sigset_t`.
pub(crate) fn signals(at: u64, read: Reader<'_>) -> Option<String> {
    let [set] = words(at, read)?;
    Some(set_text(set))
}

/// The signals that are in the set, or, where those are more, the others.
fn set_text(set: u64) -> String {
    let (sign, set) = if set.count_ones() > 32 { ("~", !set) } else { ("", set) };
    let present = (1..=64).filter(|n| set & (1 << (n - 1)) != 0);
    let names: Vec<_> = present.filter_map(flags::signal).collect();
    format!("{sign}[{}]", names.join(" "))
}

/// `struct timespec`.
pub(crate) fn time(at: u64, read: Reader<'_>) -> Option<String> {
    let [seconds, nanoseconds] = words(at, read)?.map(text::signed);
    Some(format!("{{tv_sec={seconds}, tv_nsec={nanoseconds}}}"))
}

/// `struct timeval`.
pub(crate) fn micros(at: u64, read: Reader<'_>) -> Option<String> {
    let [seconds, microseconds] = words(at, read)?.map(text::signed);
    Some(format!("{{tv_sec={seconds}, tv_usec={microseconds}}}"))
}

/// `struct itimerval`.
pub(crate) fn interval(at: u64, read: Reader<'_>) -> Option<String> {
    let words: [u64; 4] = words(at, read)?;
    let [every, every_micros, value, micros] = words.map(text::signed);
    Some(format!(
        "{{it_interval={{tv_sec={every}, tv_usec={every_micros}}}, \
         it_value={{tv_sec={value}, tv_usec={micros}}}}}"
    ))
}

/// `stack_t`.
pub(crate) fn stack(at: u64, read: Reader<'_>) -> Option<String> {
    let [start, flag_bits, bytes] = words(at, read)?;
    let (start, flag_text) = (text::address(start), flags::SS.text(flag_bits & 0xffff_ffff));
    Some(format!("{{ss_sp={start}, ss_flags={flag_text}, ss_size={bytes}}}"))
}

/// `struct stat`: what strace shows of it, the mode and the size or the device.
pub(crate) fn stat(at: u64, read: Reader<'_>) -> Option<String> {
    let [_, _, _, mode, _, device, size] = words(at, read)?;
    let mode = mode & 0xffff_ffff;
    let kind = mode & u64::from(libc::S_IFMT);
    let kind_text = flags::FILE_TYPE.text(kind);
    let permissions = mode & !u64::from(libc::S_IFMT);
    let last = if kind == u64::from(libc::S_IFCHR) || kind == u64::from(libc::S_IFBLK) {
        let (major, minor) = (libc::major(device), libc::minor(device));
        let parts = [major, minor].map(|part| text::hex(u64::from(part)));
        format!("st_rdev=makedev({})", parts.join(", "))
    } else {
        format!("st_size={}", text::signed(size))
    };
    Some(format!("{{st_mode={kind_text}|{permissions:#05o}, {last}, ...}}").replace("0o", "0"))
}

/// `struct utsname`: the first two of its fields.
pub(crate) fn names(at: u64, read: Reader<'_>) -> Option<String> {
    let bytes = block(at, 6 * UTS_FIELD, read)?;
    let field = |index: usize| {
        let bytes = &bytes[index * UTS_FIELD..(index + 1) * UTS_FIELD];
        let name = bytes.split(|&b| b == 0).next().unwrap_or_default();
        text::quote(name, Style::Escaped)
    };
    Some(format!("{{sysname={}, nodename={}, ...}}", field(0), field(1)))
}

/// `int[2]`.
pub(crate) fn pair(at: u64, read: Reader<'_>) -> Option<String> {
    let [both] = words(at, read)?;
    let [low, high] = [both, both >> 32].map(|half| half & 0xffff_ffff);
    Some(format!("[{low}, {high}]"))
}

/// An address that the call wrote.
pub(crate) fn written_address(at: u64, read: Reader<'_>) -> Option<String> {
    let [value] = words(at, read)?;
    Some(format!("[{}]", text::hex(value)))
}

/// `mincore`'s vector for `len` bytes.
pub(crate) fn resident(at: u64, len: u64, read: Reader<'_>) -> Option<String> {
    let pages = page_align(len)? / PAGE_SIZE;
    let bytes = match usize::try_from(pages.min(SHOWN)).ok()? {
        0 => Vec::new(),
        shown => block(at, shown, read)?,
    };
    let mut elements: Vec<_> = bytes.iter().map(|byte| (byte & 1).to_string()).collect();
    if pages > SHOWN {
        elements.push("...".to_owned());
    }
    Some(format!("[{}]", elements.join(", ")))
}

/// `struct iovec[count]`, of which the first `filled` bytes are shown: all that the program passes,
/// or as many as the call wrote.
pub(crate) fn vector(at: u64, count: u64, filled: u64, read: Reader<'_>) -> Option<String> {
    if count == 0 {
        return Some("[]".to_owned());
    }
    let mut elements = Vec::new();
    let mut left = filled;
    for index in 0..count.min(SHOWN) {
        let [base, len] = words(at.checked_add(index * 16)?, read)?;
        let content = text::bytes(base, len.min(left), Style::Escaped, read);
        left -= len.min(left);
        elements.push(format!("{{iov_base={content}, iov_len={len}}}"));
    }
    if count > SHOWN {
        elements.push("...".to_owned());
    }
    Some(format!("[{}]", elements.join(", ")))
}

/// An array of so many elements, each of so many bytes; of a long one the first are shown.
fn array(
    (at, count, size): (u64, u64, u64),
    mut element: impl FnMut(u64) -> Option<String>,
) -> Option<String> {
    let mut elements = Vec::new();
    for index in 0..count.min(SHOWN) {
        elements.push(element(at.checked_add(index * size)?)?);
    }
    if count > SHOWN {
        elements.push("...".to_owned());
    }
    (at != 0).then(|| format!("[{}]", elements.join(", ")))
}

/// `struct iovec[count]`, of which the addresses alone count.
pub(crate) fn ranges(at: u64, count: u64, read: Reader<'_>) -> Option<String> {
    array((at, count, 16), |at| {
        let [base, len] = words(at, read)?;
        Some(format!("{{iov_base={}, iov_len={len}}}", text::address(base)))
    })
}

/// `void *[count]`.
pub(crate) fn addresses(at: u64, count: u64, read: Reader<'_>) -> Option<String> {
    array((at, count, 8), |at| {
        let [address] = words(at, read)?;
        Some(text::address(address))
    })
}

/// `int[count]`.
pub(crate) fn ints(at: u64, count: u64, read: Reader<'_>) -> Option<String> {
    array((at, count, 4), |at| Some(int(at, read)?.to_string()))
}

/// What move_pages(2) says of pages: a node, or an errno.
pub(crate) fn statuses(at: u64, count: u64, read: Reader<'_>) -> Option<String> {
    array((at, count, 4), |at| Some(flags::page_status(int(at, read)?)))
}

fn int(at: u64, read: Reader<'_>) -> Option<i32> {
    Some(i32::from_le_bytes(block(at, 4, read)?.try_into().ok()?))
}

/// A mask of NUMA nodes that is said to have `maxnode` bits, of which the kernel looks at one fewer.
pub(crate) fn nodes(at: u64, maxnode: u64, read: Reader<'_>) -> Option<String> {
    let count = maxnode.saturating_sub(1).div_ceil(64);
    array((at, count, 8), |at| {
        let [word] = words(at, read)?;
        // As C's `%#016lx` has it: 0 has no prefix.
        Some(if word == 0 { "0".repeat(16) } else { format!("{word:#016x}") })
    })
}

/// A status that wait4(2) wrote, by the macros of wait(2).
pub(crate) fn status(at: u64, read: Reader<'_>) -> Option<String> {
    let bytes = block(at, 4, read)?;
    let word = i32::from_le_bytes(bytes.try_into().ok()?);
    let text = if libc::WIFEXITED(word) {
        format!("WIFEXITED(s) && WEXITSTATUS(s) == {}", libc::WEXITSTATUS(word))
    } else if libc::WIFSTOPPED(word) {
        format!("WIFSTOPPED(s) && WSTOPSIG(s) == {}", signal_name(libc::WSTOPSIG(word)))
    } else if libc::WIFCONTINUED(word) {
        "WIFCONTINUED(s)".to_owned()
    } else {
        format!("WIFSIGNALED(s) && WTERMSIG(s) == {}", signal_name(libc::WTERMSIG(word)))
    };
    Some(format!("[{{{text}}}]"))
}

fn signal_name(number: i32) -> String {
    let name = u64::try_from(number).ok().and_then(flags::signal);
    name.map_or_else(|| number.to_string(), |name| format!("SIG{name}"))
}

/// An `int` that the call wrote.
pub(crate) fn number(at: u64, read: Reader<'_>) -> Option<String> {
    Some(format!("[{}]", int(at, read)?))
}

/// A memory policy's mode, an `int`.
pub(crate) fn policy(at: u64, read: Reader<'_>) -> Option<String> {
    let mode = block(at, 4, read)?;
    let mode = u32::from_le_bytes(mode.try_into().ok()?);
    Some(format!("[{}]", flags::MPOL.text(u64::from(mode))))
}
