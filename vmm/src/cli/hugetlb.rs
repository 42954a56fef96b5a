//! The pool of huge pages on the command line: `2M:16`.

use std::fmt;
use std::str::FromStr;

use mm::error::Broken;
use mm::system::System;

use super::size::Size;

/// So many huge pages of a size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PoolPages {
    size: Size,
    count: u64,
}

/// Why the machine does not have the huge pages that were asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum PoolError {
    #[error(
        "--hugetlb {asked}: the machine's memory has room for {had} such pages in one piece each; \
         a larger --mem helps"
    )]
    NoRoom { asked: PoolPages, had: u64 },
    #[error(transparent)]
    Broken(#[from] Broken),
}

impl PoolPages {
    /// Has the machine's pool take them.
    ///
    /// # Errors
    /// [`PoolError`]: memory is too small for them.
    pub(super) fn take(self, system: &System) -> Result<(), PoolError> {
        let Some(pool) = system.huge_pool(self.size.bytes()) else { return Ok(()) };
        match pool.resize(self.count)? {
            had if had < self.count => Err(PoolError::NoRoom { asked: self, had }),
            _ => Ok(()),
        }
    }
}

impl FromStr for PoolPages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pages = text.split_once(':').and_then(|(size, count)| {
            let size = size.parse().ok().filter(|size: &Size| {
                let bytes = size.bytes();
                bytes == 1 << 21 || bytes == 1 << 30
            });
            Some(PoolPages { size: size?, count: count.parse().ok()? })
        });
        pages.ok_or_else(|| "huge pages are given as 2M:NUMBER or 1G:NUMBER".to_owned())
    }
}

impl fmt::Display for PoolPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = if self.size.bytes() == 1 << 30 { "1G" } else { "2M" };
        write!(f, "{unit}:{}", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_and_a_number_are_huge_pages_and_nothing_else_is() {
        for text in ["2M:16", "1G:0"] {
            assert_eq!(text.parse::<PoolPages>().unwrap().to_string(), text);
        }
        assert_eq!("2MiB:3".parse::<PoolPages>(), "2M:3".parse());
        for text in ["2M", "4M:1", "2M:", ":1", "2M:-1", "2M:1:1", "2M:x"] {
            assert!(text.parse::<PoolPages>().is_err(), "{text}");
        }
    }
}
