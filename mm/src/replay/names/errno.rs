//! Error numbers by name, and the sentence that strace prints beside them.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::error::Errno;

/// The highest error number that a system call can answer with (`MAX_ERRNO`).
const MAX: i32 = 4095;

/// Second names of errors (`errno.h`).
const ALIASES: [(&str, Errno); 3] =
    [("EWOULDBLOCK", Errno::EAGAIN), ("EDEADLOCK", Errno::EDEADLK), ("ENOTSUP", Errno::EOPNOTSUPP)];

static BY_NAME: LazyLock<HashMap<String, Errno>> = LazyLock::new(|| {
    let known = (1..=MAX).map(Errno::from_raw).filter(|e| *e != Errno::UnknownErrno);
    let aliases = ALIASES.map(|(name, errno)| (name.to_owned(), errno));
    known.map(|errno| (format!("{errno:?}"), errno)).chain(aliases).collect()
});

/// The error of this name: `ENOMEM`.
#[must_use]
pub fn errno(name: &str) -> Option<Errno> {
    BY_NAME.get(name).copied()
}

/// What strace prints for a call that failed: `-1 EINVAL (Invalid argument)`, with strerror(3)'s
/// sentence.
#[must_use]
pub fn errno_text(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    let text = text.rsplit_once(" (os error").map_or(text.as_str(), |(text, _)| text);
    format!("-1 {errno:?} ({text})")
}

/// What strace prints for what move_pages(2) says of a page: a node, or `-ENOENT`.
#[must_use]
pub fn page_status(status: i32) -> String {
    match Errno::from_raw(status.wrapping_neg()) {
        errno if status < 0 && errno != Errno::UnknownErrno => format!("-{errno:?}"),
        _ => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_header() {
        assert_eq!(errno("EINVAL"), Some(Errno::EINVAL));
        assert_eq!(errno("EHWPOISON"), Some(Errno::EHWPOISON));
        assert_eq!(errno("ENOTSUP"), Some(Errno::EOPNOTSUPP));
        assert_eq!(errno("UnknownErrno"), None);
        assert_eq!(errno_text(Errno::ENOMEM), "-1 ENOMEM (Cannot allocate memory)");
    }
}
