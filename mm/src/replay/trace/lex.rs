//! The words of a line: what stands before an event, lists in brackets, numbers, names and strings.
//!
//! Nothing here knows what a call means. All of it takes any text and never panics: slices are cut at
//! ASCII bytes, arithmetic is checked.

use super::error::Syntax;
use crate::replay::calls::{Extent, Text};
use crate::replay::names::Names;

/// What stood before an event on its line, taken off.
pub(super) fn prefix(line: &str) -> (Option<u32>, &str) {
    let mut rest = line.trim();
    let mut pid = None;
    if let Some((number, after)) = rest.strip_prefix("[pid").and_then(|r| r.split_once(']'))
        && let Ok(number) = number.trim().parse()
    {
        pid = Some(number);
        rest = after.trim_start();
    }
    while let Some((word, after)) = first_word(rest) {
        if !is_time(word) {
            break;
        }
        // A plain number is the process, or after it a time in whole seconds.
        if pid.is_none() && word.bytes().all(|b| b.is_ascii_digit()) {
            let Ok(number) = word.parse() else { break };
            pid = Some(number);
        }
        rest = after;
    }
    (pid, rest)
}

/// The first word, where another follows. Time in parentheses, as `-r` prints it beside another, is one.
fn first_word(text: &str) -> Option<(&str, &str)> {
    let (word, rest) = match text.strip_prefix("(+") {
        Some(after) => after.split_once(')')?,
        None => text.split_once(char::is_whitespace)?,
    };
    Some((word.trim(), rest.trim_start()))
}

/// `12:03:22`, `12:03:22.001230`, `1700000000.123456`, `0.000123`, or a plain number.
fn is_time(word: &str) -> bool {
    let starts = word.starts_with(|c: char| c.is_ascii_digit());
    starts && word.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b':')
}

/// The elements of a list that ends with `close`, and what follows it. `text` begins after the opening
/// bracket. `None` where the list does not end.
pub(super) fn list(text: &str, close: u8) -> Option<(Vec<&str>, &str)> {
    let bytes = text.as_bytes();
    let mut elements = Vec::new();
    let (mut at, mut start, mut depth) = (0, 0, 0_usize);
    loop {
        match *bytes.get(at)? {
            b'"' => at = skip_string(bytes, at)?,
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                at += 2 + text.get(at + 2..)?.find("*/")? + 2;
            }
            b'<' if bytes.get(at + 1) == Some(&b'<') => at += 2,
            // Text in angle brackets after a descriptor is what it refers to.
            b'<' if at > 0 && bytes[at - 1].is_ascii_alphanumeric() => {
                at = skip_decoration(bytes, at)?;
            }
            b'(' | b'[' | b'{' => {
                depth += 1;
                at += 1;
            }
            b')' | b']' | b'}' if depth > 0 => {
                depth -= 1;
                at += 1;
            }
            byte if byte == close => {
                let last = text.get(start..at)?.trim();
                if !(last.is_empty() && elements.is_empty()) {
                    elements.push(last);
                }
                return Some((elements, text.get(at + 1..)?));
            }
            b')' | b']' | b'}' => return None,
            b',' if depth == 0 => {
                elements.push(text.get(start..at)?.trim());
                at += 1;
                start = at;
            }
            _ => at += 1,
        }
    }
}

/// The index after the string that begins at `at`.
fn skip_string(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        match bytes.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// The index after the `<...>` that begins at `at`; in it an arrow `->` may stand, and another pair.
fn skip_decoration(bytes: &[u8], at: usize) -> Option<usize> {
    let (mut at, mut depth) = (at + 1, 1_usize);
    while depth > 0 {
        match bytes.get(at)? {
            b'\\' => at += 1,
            b'<' => depth += 1,
            b'>' if bytes[at - 1] != b'-' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    Some(at)
}

/// The elements between a pair of brackets, and what follows it.
pub(crate) fn group<'a>(
    text: &'a str,
    open: char,
    expected: &'static str,
) -> Result<(Vec<&'a str>, &'a str), Syntax> {
    let close = if open == '[' { b']' } else { b'}' };
    let inside = text.strip_prefix(open);
    inside.and_then(|inside| list(inside, close)).ok_or_else(|| unexpected(text, expected))
}

/// The value of `name=value` among the fields of a structure.
pub(crate) fn field<'a>(fields: &[&'a str], name: &'static str) -> Result<&'a str, Syntax> {
    fields
        .iter()
        .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
        .ok_or(Syntax::Missing(name))
}

/// Text that stands where something else must, cut to a length that can be read.
pub(crate) fn unexpected(text: &str, expected: &'static str) -> Syntax {
    Syntax::Unexpected { text: shortened(text), expected }
}

/// At most 60 characters.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The text without `/* comments */`. It holds no strings.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, comment)) = rest.split_once("/*") {
        out.push_str(before);
        rest = comment.split_once("*/").map_or("", |(_, after)| after);
    }
    out + rest
}

/// A number: decimal, hexadecimal or octal; a negative one is its 64-bit complement.
pub(crate) fn number(text: &str) -> Result<u64, Syntax> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (radix, digits) = match digits.strip_prefix("0x") {
        Some(hex) => (16, hex),
        None if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        None => (10, digits),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(Syntax::NotANumber(shortened(text)));
    }
    let magnitude = u64::from_str_radix(digits, radix).ok();
    let value = match (negative, magnitude) {
        (false, value) => value,
        (true, Some(value)) if value <= 1 << 63 => Some(value.wrapping_neg()),
        (true, _) => None,
    };
    value.ok_or_else(|| Syntax::TooLarge(shortened(text)))
}

/// A value of names and numbers: `PROT_READ|PROT_WRITE`, `21<<MAP_HUGE_SHIFT`, `8192*1024`.
pub(crate) fn value(text: &str, names: &[&dyn Names]) -> Result<u64, Syntax> {
    let text = without_comments(text);
    let atom = |text: &str| {
        let text = text.trim();
        if !text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            return number(text);
        }
        let known = match text {
            "NULL" => Some(0),
            "RLIM64_INFINITY" | "RLIM_INFINITY" => Some(u64::MAX),
            name => names.iter().find_map(|names| names.value(name)),
        };
        known.ok_or_else(|| Syntax::UnknownName(shortened(text)))
    };
    let mut value = 0;
    for term in text.split('|') {
        let too_large = || Syntax::TooLarge(shortened(term.trim()));
        value |= if let Some((left, right)) = term.split_once("<<") {
            let (left, right) = (atom(left)?, atom(right)?);
            let shift = u32::try_from(right).map_err(|_| too_large())?;
            left.checked_shl(shift).filter(|v| v >> shift == left).ok_or_else(too_large)?
        } else if let Some((left, right)) = term.split_once('*') {
            atom(left)?.checked_mul(atom(right)?).ok_or_else(too_large)?
        } else {
            atom(term)?
        };
    }
    Ok(value)
}

/// `int`: a number that fits, signed or as its 32-bit pattern.
pub(crate) fn int(text: &str) -> Result<i32, Syntax> {
    let value = value(text, &[])?;
    let signed = i32::try_from(value.cast_signed()).ok();
    let pattern = || u32::try_from(value).ok().map(u32::cast_signed);
    signed.or_else(pattern).ok_or_else(|| Syntax::TooLarge(shortened(text)))
}

/// A descriptor: `3`, `3</lib/libc.so.6>`, `AT_FDCWD`.
pub(crate) fn descriptor(text: &str) -> Result<i32, Syntax> {
    let number = text.split_once('<').map_or(text, |(number, _)| number);
    if number == "AT_FDCWD" { Ok(nix::libc::AT_FDCWD) } else { int(number) }
}

/// A string in double quotes, with `...` after it where it was cut.
pub(crate) fn string(text: &str) -> Result<Text, Syntax> {
    let wrong = || unexpected(text, "a string in double quotes");
    let inside = text.strip_prefix('"').ok_or_else(wrong)?;
    let end = skip_string(text.as_bytes(), 0).ok_or_else(wrong)?;
    let extent = match text.get(end..) {
        Some("") => Extent::Whole,
        Some("...") => Extent::Cut,
        _ => return Err(wrong()),
    };
    let bytes = unescaped(&inside.as_bytes()[..end - 2]).ok_or_else(wrong)?;
    Ok(Text { bytes, extent })
}

/// The bytes that C's escapes stand for; `None` for an escape that strace does not use.
fn unescaped(quoted: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(quoted.len());
    let mut rest = quoted.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let (radix, most, mut code) = match rest.next()? {
            b'n' => (0, 0, u32::from(b'\n')),
            b't' => (0, 0, u32::from(b'\t')),
            b'r' => (0, 0, u32::from(b'\r')),
            b'v' => (0, 0, 0x0b),
            b'f' => (0, 0, 0x0c),
            b'x' => (16, 2, 0),
            digit @ b'0'..=b'7' => (8, 2, u32::from(digit - b'0')),
            other @ (b'"' | b'\\' | b'\'') => (0, 0, u32::from(other)),
            _ => return None,
        };
        for _ in 0..most {
            let digit = rest.peek().and_then(|&next| char::from(next).to_digit(radix));
            let Some(digit) = digit else { break };
            code = code * radix + digit;
            rest.next();
        }
        bytes.push(u8::try_from(code).ok()?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::names::{MAP, PROT};

    #[test]
    fn every_prefix_of_strace_is_taken_off() {
        for (line, pid) in [
            ("brk(NULL)", None),
            ("12  brk(NULL)", Some(12)),
            ("[pid 12] brk(NULL)", Some(12)),
            ("[pid    12] brk(NULL)", Some(12)),
            ("06:14:23 brk(NULL)", None),
            ("06:14:23.498715 brk(NULL)", None),
            ("12 06:14:23.498715 brk(NULL)", Some(12)),
            ("12 1795241663.581435 brk(NULL)", Some(12)),
            ("12 1795241663 brk(NULL)", Some(12)),
            ("12      0.000489 brk(NULL)", Some(12)),
            ("     0.000489 brk(NULL)", None),
            ("[pid 12] 06:14:23 (+     0.000489) brk(NULL)", Some(12)),
        ] {
            assert_eq!(prefix(line), (pid, "brk(NULL)"), "{line}");
        }
        assert_eq!(prefix("99999999999 brk()").0, None);
    }

    #[test]
    fn commas_in_strings_comments_paths_and_brackets_do_not_separate() {
        let text = r#"3</a,b>, "x\",)", [1, 2], {a=1, b=f(2, 3)}, 0x1 /* a, ) */, 1<<2) = 0"#;
        let (elements, rest) = list(text, b')').unwrap();
        assert_eq!(
            elements,
            ["3</a,b>", r#""x\",)""#, "[1, 2]", "{a=1, b=f(2, 3)}", "0x1 /* a, ) */", "1<<2"]
        );
        assert_eq!(rest, " = 0");
    }

    #[test]
    fn a_path_may_hold_a_quote_an_arrow_and_brackets() {
        let text =
            r#"5</memfd:a\"b>(deleted), 6<TCP:[1.2.3.4:5->6.7.8.9:0]>, 0</dev/null<char 1:3>>)"#;
        assert_eq!(list(text, b')').unwrap().0.len(), 3);
    }

    #[test]
    fn numbers_are_decimal_hexadecimal_or_octal() {
        assert_eq!(number("0"), Ok(0));
        assert_eq!(number("0x1f"), Ok(31));
        assert_eq!(number("017"), Ok(15));
        assert_eq!(number("-1"), Ok(u64::MAX));
        assert_eq!(number("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(number("-9223372036854775808"), Ok(1 << 63));
        for bad in ["", "-", "0x", "08", "1a", "+1", "--1", "0x-1"] {
            assert_eq!(number(bad), Err(Syntax::NotANumber(bad.to_owned())));
        }
        for large in ["18446744073709551616", "0x10000000000000000", "-9223372036854775809"] {
            assert_eq!(number(large), Err(Syntax::TooLarge(large.to_owned())));
        }
    }

    #[test]
    fn values_are_names_numbers_shifts_and_products() {
        let parse = |text| value(text, &[&PROT, &MAP]);
        assert_eq!(parse("PROT_READ|PROT_WRITE|0x100"), Ok(0x103));
        assert_eq!(parse("PROT_NONE"), Ok(0));
        assert_eq!(parse("0x5 /* MAP_??? */|MAP_STACK"), Ok(0x2_0005));
        assert_eq!(parse("MAP_PRIVATE|21<<MAP_HUGE_SHIFT"), Ok(2 | 21 << 26));
        assert_eq!(parse("8192*1024"), Ok(8 << 20));
        assert_eq!(parse("RLIM64_INFINITY"), Ok(u64::MAX));
        assert_eq!(parse("1<<64"), Err(Syntax::TooLarge("1<<64".to_owned())));
        assert_eq!(parse("3<<63"), Err(Syntax::TooLarge("3<<63".to_owned())));
        assert_eq!(
            parse("18446744073709551615*2"),
            Err(Syntax::TooLarge("18446744073709551615*2".to_owned()))
        );
        assert_eq!(parse("PROT_ALL"), Err(Syntax::UnknownName("PROT_ALL".to_owned())));
        assert!(parse("PROT_READ|").is_err());
    }

    #[test]
    fn strings_have_c_s_escapes() {
        let bytes = |text| string(text).map(|t| t.bytes).ok();
        assert_eq!(bytes(r#""a\"\\\n\0011\0\351\x4a""#), Some(b"a\"\\\n\x011\0\xe9J".to_vec()));
        assert_eq!(bytes(r#""\q""#), None);
        assert_eq!(bytes(r#""\777""#), None);
        assert_eq!(bytes("\"a"), None);
        assert_eq!(bytes(r#""a"b"#), None);
        assert_eq!(string(r#""a"..."#).unwrap().extent, Extent::Cut);
    }

    #[test]
    fn descriptors_are_ints_with_or_without_their_path() {
        assert_eq!(descriptor("3</lib/a b>"), Ok(3));
        assert_eq!(descriptor("AT_FDCWD</tmp>"), Ok(-100));
        assert_eq!(descriptor("-1"), Ok(-1));
        assert_eq!(descriptor("4294967295"), Ok(-1));
        assert_eq!(descriptor("4294967296"), Err(Syntax::TooLarge("4294967296".to_owned())));
    }
}
