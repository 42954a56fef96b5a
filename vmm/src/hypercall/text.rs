//! Bytes and strings of the program, quoted as strace quotes them.

use mm::addr::VirtAddr;
pub(crate) use mm::replay::text::{Style, address, hex, limit, octal, quote, signed};

use super::user::PATH_MAX;

/// Reads the program's memory: fills the buffer from the address and says whether all of it could be
/// read.
pub(crate) type Reader<'a> = &'a dyn Fn(VirtAddr, &mut [u8]) -> bool;

/// How many bytes of a text or a buffer are shown (strace's `-s`).
const SHOWN: usize = 32;

/// A path: up to its null, whole.
pub(crate) fn path(at: u64, read: Reader<'_>) -> String {
    match null_terminated(at, PATH_MAX, read) {
        Some((bytes, Ended::Yes)) => quote(&bytes, Style::Escaped),
        Some((bytes, Ended::No)) => quote(&bytes, Style::Escaped) + "...",
        None => address(at),
    }
}

/// A text: up to its null, at most 32 bytes of it.
pub(crate) fn text(at: u64, read: Reader<'_>) -> String {
    match null_terminated(at, SHOWN + 1, read) {
        Some((bytes, Ended::Yes)) => quote(&bytes, Style::Escaped),
        Some((bytes, Ended::No)) => quote(&bytes[..SHOWN], Style::Escaped) + "...",
        None => address(at),
    }
}

/// `len` bytes, at most 32 of them.
pub(crate) fn bytes(at: u64, len: u64, style: Style, read: Reader<'_>) -> String {
    let whole = usize::try_from(len).unwrap_or(usize::MAX);
    let mut buffer = vec![0; whole.min(SHOWN)];
    if at == 0 || !(buffer.is_empty() || read(VirtAddr::new(at), &mut buffer)) {
        return address(at);
    }
    let dots = if whole > SHOWN { "..." } else { "" };
    quote(&buffer, style) + dots
}

/// Whether a string's null was found.
enum Ended {
    Yes,
    No,
}

/// The bytes before the null, at most `max`; `None` where the string cannot be read up to there.
fn null_terminated(at: u64, max: usize, read: Reader<'_>) -> Option<(Vec<u8>, Ended)> {
    if at == 0 {
        return None;
    }
    let mut found = Vec::new();
    let mut next = VirtAddr::new(at);
    while found.len() < max {
        // A string may end just before an unmapped page, so no read crosses into the next one.
        let mut chunk = vec![0; next.left_in_page().min(max - found.len()).min(256)];
        if !read(next, &mut chunk) {
            return None;
        }
        if let Some(end) = chunk.iter().position(|&b| b == 0) {
            found.extend_from_slice(&chunk[..end]);
            return Some((found, Ended::Yes));
        }
        found.extend_from_slice(&chunk);
        next = next.checked_add(chunk.len() as u64)?;
    }
    Some((found, Ended::No))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory of two pages at 0x1000, then nothing.
    fn read(content: &[u8]) -> impl Fn(VirtAddr, &mut [u8]) -> bool {
        let mut memory = vec![0; 0x2000];
        memory[0x2000 - content.len()..].copy_from_slice(content);
        move |at, buffer| {
            let from = at.get().checked_sub(0x1000).and_then(|o| usize::try_from(o).ok());
            let part = from.and_then(|o| memory.get(o..)?.get(..buffer.len()));
            part.map(|p| buffer.copy_from_slice(p)).is_some()
        }
    }

    #[test]
    fn a_path_may_end_where_memory_ends_and_is_an_address_if_it_goes_on() {
        assert_eq!(path(0x2ffb, &read(b"/tmp\0")), "\"/tmp\"");
        assert_eq!(path(0x2ffc, &read(b"/tmp")), "0x2ffc");
        assert_eq!(path(0, &read(b"")), "NULL");
        assert_eq!(path(u64::MAX, &read(b"")), "0xffffffffffffffff");
    }

    #[test]
    fn a_path_longer_than_path_max_is_cut() {
        let long = path(0x1000, &read(&[b'x'; 0x2000]));
        assert_eq!(long.len(), PATH_MAX + 2 + 3);
    }

    #[test]
    fn texts_and_buffers_show_32_bytes() {
        let longer = [b'x'; 33];
        let x32 = "x".repeat(32);
        assert_eq!(bytes(0x3000 - 33, 33, Style::Escaped, &read(&longer)), format!("\"{x32}\"..."));
        assert_eq!(bytes(0x3000 - 32, 32, Style::Escaped, &read(&longer)), format!("\"{x32}\""));
        assert_eq!(bytes(0x3000 - 31, 32, Style::Escaped, &read(&longer)), "0x2fe1");
        assert_eq!(bytes(0x9000, 0, Style::Escaped, &read(b"")), "\"\"");
        assert_eq!(text(0x3000 - 33, &read(&longer)), format!("\"{x32}\"..."));
    }
}
