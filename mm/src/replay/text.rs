//! Numbers and bytes as strace writes them.

use std::fmt::Write as _;

/// An address as strace prints pointers.
#[must_use]
pub fn address(value: u64) -> String {
    if value == 0 { "NULL".to_owned() } else { format!("{value:#x}") }
}

/// A number as C's `%#x` prints it.
#[must_use]
pub fn hex(value: u64) -> String {
    if value == 0 { "0".to_owned() } else { format!("{value:#x}") }
}

/// The same bits as a signed number.
#[must_use]
pub fn signed(value: u64) -> i64 {
    value.cast_signed()
}

/// At least three digits with a leading zero: `0644`, `022`.
#[must_use]
pub fn octal(value: u64) -> String {
    if value < 0o100 { format!("{value:03o}") } else { format!("0{value:o}") }
}

/// A limit: `8192*1024`, `RLIM64_INFINITY`.
#[must_use]
pub fn limit(value: u64) -> String {
    match value {
        u64::MAX => "RLIM64_INFINITY".to_owned(),
        _ if value > 1024 && value.is_multiple_of(1024) => format!("{}*1024", value / 1024),
        _ => value.to_string(),
    }
}

/// How bytes that cannot be printed are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Those alone as C's escapes, octal if need be.
    Escaped,
    /// All bytes in hexadecimal.
    Hex,
}

/// In double quotes, with C's escapes.
#[must_use]
pub fn quote(bytes: &[u8], style: Style) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for (index, &byte) in bytes.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = match byte {
            _ if style == Style::Hex => write!(out, "\\x{byte:02x}"),
            b'"' => out.write_str("\\\""),
            b'\\' => out.write_str("\\\\"),
            b'\t' => out.write_str("\\t"),
            b'\n' => out.write_str("\\n"),
            0x0b => out.write_str("\\v"),
            0x0c => out.write_str("\\f"),
            b'\r' => out.write_str("\\r"),
            b' '..=b'~' => out.write_char(char::from(byte)),
            // A digit that follows would be read as part of a shorter number.
            _ if bytes.get(index + 1).is_some_and(u8::is_ascii_digit) => {
                write!(out, "\\{byte:03o}")
            }
            _ => write!(out, "\\{byte:o}"),
        };
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_printed_is_escaped_as_strace_does() {
        let quoted = quote(b"\x001\x00a\xe93\x1bz\x00\x00", Style::Escaped);
        assert_eq!(quoted, r#""\0001\0a\3513\33z\0\0""#);
        assert_eq!(quote(b"\"\\\t\n\r\x0b\x0c", Style::Escaped), r#""\"\\\t\n\r\v\f""#);
        assert_eq!(quote(b"\xcb(a", Style::Hex), r#""\xcb\x28\x61""#);
    }

    #[test]
    fn limits_are_multiples_of_1024_where_they_can_be() {
        assert_eq!(limit(8 << 20), "8192*1024");
        assert_eq!(limit(1024), "1024");
        assert_eq!(limit(u64::MAX), "RLIM64_INFINITY");
    }
}
