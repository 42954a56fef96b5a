//! The lines of /proc/PID/maps, and what a line of a starting state may say beside them.

use super::lex::{number, shortened, unexpected};
use super::{AnonOrigin, Hidden, MapLine, Problem, Span, Syntax, VmFlagNames};
use crate::addr::VirtAddr;

/// A line between `@maps` and `@end`.
pub(super) fn line(text: &str) -> Result<MapLine, Problem> {
    parse(text).map_err(|problem| Problem::BadMapsLine { text: shortened(text), problem })
}

fn parse(text: &str) -> Result<MapLine, Syntax> {
    let mut rest = text;
    let mut column = |name| {
        let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        rest = after.trim_start();
        if word.is_empty() { Err(Syntax::Missing(name)) } else { Ok(word) }
    };
    let span = span(column("the range")?)?;
    let permissions = permissions(column("the permissions")?)?;
    let offset = hex(column("the offset")?)?;
    let device = column("the device")?;
    let (major, minor) = device.split_once(':').ok_or_else(|| unexpected(device, "MAJOR:MINOR"))?;
    let inode = number(column("the inode")?)?;
    let (name, hidden) = name_and_hidden(rest);
    Ok(MapLine {
        span,
        permissions,
        offset,
        device: (hex32(major)?, hex32(minor)?),
        inode,
        name: name.to_owned(),
        hidden,
    })
}

/// `START-END` in hexadecimal, with or without `0x`.
pub(super) fn span(text: &str) -> Result<Span, Syntax> {
    let halves = text.split_once('-').ok_or_else(|| unexpected(text, "START-END"))?;
    let (start, end) = (VirtAddr::new(hex(halves.0)?), VirtAddr::new(hex(halves.1)?));
    if start >= end {
        return Err(unexpected(text, "a range that ends after its start"));
    }
    Ok(Span { start, end })
}

fn hex(text: &str) -> Result<u64, Syntax> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Syntax::NotANumber(shortened(text)));
    }
    u64::from_str_radix(digits, 16).map_err(|_| Syntax::TooLarge(shortened(text)))
}

fn hex32(text: &str) -> Result<u32, Syntax> {
    u32::try_from(hex(text)?).map_err(|_| Syntax::TooLarge(shortened(text)))
}

fn permissions(text: &str) -> Result<[u8; 4], Syntax> {
    let wrong = || unexpected(text, "four permissions like rw-p");
    let letters: [u8; 4] = text.as_bytes().try_into().map_err(|_| wrong())?;
    let allowed = [b"r-", b"w-", b"x-", b"ps"];
    let good = letters.iter().zip(allowed).all(|(letter, allowed)| allowed.contains(letter));
    good.then_some(letters).ok_or_else(wrong)
}

/// Flags of two letters each.
pub(super) fn flags<'a>(words: impl Iterator<Item = &'a str>) -> Result<VmFlagNames, Syntax> {
    let flag = |word: &str| {
        let letters: Option<[u8; 2]> = word.as_bytes().try_into().ok();
        let letters = letters.filter(|both| both.iter().all(u8::is_ascii_alphanumeric));
        letters.ok_or_else(|| unexpected(word, "a flag of two letters"))
    };
    words.map(flag).collect::<Result<_, _>>().map(VmFlagNames)
}

/// The name, and what follows it: `[heap] ; rd wr mr mw me ac ; anon=own pgoff=5`. A `;` that nothing of
/// the kind follows belongs to the name.
fn name_and_hidden(text: &str) -> (&str, Hidden) {
    let plain = (text, Hidden::default());
    let Some((before, last)) = text.rsplit_once(';') else { return plain };
    // Either section may be there without the other.
    let two = before.rsplit_once(';').and_then(|(name, first)| {
        let flags = flags(first.split_whitespace()).ok()?;
        Some((name, Hidden { flags: some_flags(flags), ..origin(last)? }))
    });
    let one = || {
        let hidden = match flags(last.split_whitespace()) {
            Ok(flags) => Hidden { flags: some_flags(flags), ..Hidden::default() },
            Err(_) => origin(last)?,
        };
        Some((before, hidden))
    };
    match two.or_else(one) {
        Some((name, hidden)) if name.is_empty() || name.ends_with(' ') => (name.trim_end(), hidden),
        _ => plain,
    }
}

fn some_flags(flags: VmFlagNames) -> Option<VmFlagNames> {
    (!flags.0.is_empty()).then_some(flags)
}

/// `anon=own pgoff=5`.
fn origin(text: &str) -> Option<Hidden> {
    let mut hidden = Hidden::default();
    for word in text.split_whitespace() {
        match word.split_once('=')? {
            ("anon", "none") => hidden.anon = Some(AnonOrigin::None),
            ("anon", "own") => hidden.anon = Some(AnonOrigin::Own),
            ("anon", other) => {
                let id = number(other.strip_prefix("inherited:")?).ok()?;
                hidden.anon = Some(AnonOrigin::Inherited(id));
            }
            ("pgoff", pages) => hidden.pgoff = Some(number(pages).ok()?),
            _ => return None,
        }
    }
    Some(hidden)
}
