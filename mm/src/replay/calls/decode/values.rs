//! Arguments of several parts: arrays and structures.

use nix::libc as c;

use super::super::{Extent, IoVec, Limit, Residency, Text};
use crate::addr::VirtAddr;
use crate::replay::names;
use crate::replay::trace::{Syntax, lex};

pub(super) fn is_one_of(value: u64, known: &[c::c_int]) -> bool {
    known.iter().any(|known| u64::try_from(*known) == Ok(value))
}

/// An array, and whether all of it is shown.
pub(super) fn array<T>(
    word: &str,
    element: impl Fn(&str) -> Result<T, Syntax>,
) -> Result<(Vec<T>, Extent), Syntax> {
    let (words, _) = lex::group(word, '[', "an array")?;
    let (words, extent) = match words.split_last() {
        Some((&"...", shown)) => (shown, Extent::Cut),
        _ => (&words[..], Extent::Whole),
    };
    let elements = words.iter().map(|word| element(word)).collect::<Result<_, _>>()?;
    Ok((elements, extent))
}

pub(super) fn words(word: &str) -> Result<Vec<u64>, Syntax> {
    array(word, |word| lex::value(word, &[])).map(|(words, _)| words)
}

pub(super) fn texts(word: &str) -> Result<Vec<Text>, Syntax> {
    array(word, lex::string).map(|(texts, _)| texts)
}

/// What get_mempolicy wrote: `[MPOL_DEFAULT]`, or with MPOL_F_NODE a node's number.
pub(super) fn policy(word: &str) -> Result<u64, Syntax> {
    let (words, _) = lex::group(word, '[', "a policy in brackets")?;
    lex::value(words.first().ok_or(Syntax::Missing("the policy"))?, &[&names::MPOL])
}

pub(super) fn residency(word: &str) -> Result<Residency, Syntax> {
    let page = |word: &str| {
        let value = lex::value(word, &[])?;
        u8::try_from(value).map_err(|_| Syntax::TooLarge(word.to_owned()))
    };
    array(word, page).map(|(pages, extent)| Residency { pages, extent })
}

pub(super) fn limit(word: &str) -> Result<Limit, Syntax> {
    let (fields, _) = lex::group(word, '{', "a limit")?;
    let field = |name| lex::value(lex::field(&fields, name)?, &[]);
    Ok(Limit { current: field("rlim_cur")?, maximum: field("rlim_max")? })
}

pub(super) fn io_vectors(word: &str) -> Result<Vec<IoVec>, Syntax> {
    let vector = |word: &str| {
        let (fields, _) = lex::group(word, '{', "an iovec")?;
        let field = |name| lex::value(lex::field(&fields, name)?, &[]);
        Ok(IoVec { base: VirtAddr::new(field("iov_base")?), len: field("iov_len")? })
    };
    array(word, vector).map(|(vectors, _)| vectors)
}
