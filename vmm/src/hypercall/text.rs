//! Bytes and strings of the program, quoted as strace quotes them.

use mm::addr::{PAGE_SIZE, VirtAddr};

/// Reads the program's memory: fills the buffer from the address and says whether all of it could be
/// read.
pub(crate) type Reader<'a> = &'a dyn Fn(VirtAddr, &mut [u8]) -> bool;

/// How many bytes of a text or a buffer are shown (strace's `-s`).
const SHOWN: usize = 32;
/// The longest path that is read (`PATH_MAX`), in bytes.
const PATH_MAX: usize = 4096;

/// An address as strace prints pointers.
#[must_use]
pub(crate) fn address(value: u64) -> String {
    if value == 0 { "NULL".to_owned() } else { format!("{value:#x}") }
}

/// A number as C's `%#x` prints it.
#[must_use]
pub(crate) fn hex(value: u64) -> String {
    if value == 0 { "0".to_owned() } else { format!("{value:#x}") }
}

/// The same bits as a signed number.
#[must_use]
pub(crate) fn signed(value: u64) -> i64 {
    i64::from_le_bytes(value.to_le_bytes())
}

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

/// How bytes that cannot be printed are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Those alone as C's escapes, octal if need be.
    Escaped,
    /// All bytes in hexadecimal.
    Hex,
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
        let in_page = usize::try_from(PAGE_SIZE - next.page_offset()).unwrap_or(1);
        let mut chunk = vec![0; in_page.min(max - found.len()).min(256)];
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

/// In double quotes, with C's escapes.
pub(crate) fn quote(bytes: &[u8], style: Style) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for (index, &byte) in bytes.iter().enumerate() {
        match byte {
            _ if style == Style::Hex => out.push_str(&format!("\\x{byte:02x}")),
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\t' => out.push_str("\\t"),
            b'\n' => out.push_str("\\n"),
            0x0b => out.push_str("\\v"),
            0x0c => out.push_str("\\f"),
            b'\r' => out.push_str("\\r"),
            b' '..=b'~' => out.push(char::from(byte)),
            // A digit that follows would be read as part of a shorter number.
            _ if bytes.get(index + 1).is_some_and(u8::is_ascii_digit) => {
                out.push_str(&format!("\\{byte:03o}"));
            }
            _ => out.push_str(&format!("\\{byte:o}")),
        }
    }
    out.push('"');
    out
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
    fn what_cannot_be_printed_is_escaped_as_strace_does() {
        let quoted = quote(b"\x001\x00a\xe93\x1bz\x00\x00", Style::Escaped);
        assert_eq!(quoted, r#""\0001\0a\3513\33z\0\0""#);
        assert_eq!(quote(b"\"\\\t\n\r\x0b\x0c", Style::Escaped), r#""\"\\\t\n\r\v\f""#);
        assert_eq!(quote(b"\xcb(a", Style::Hex), r#""\xcb\x28\x61""#);
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
