//! A file that is a text (Linux's `seq_file`).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use mm::addr::VirtAddr;
use mm::calls::Caller;
use mm::error::{CallResult, Errno};

use super::Of;
use crate::files::FileKind;
use crate::files::tree::{Made, MadeFile};
use crate::task::Process;

/// What makes a text.
pub(super) type Maker = Arc<dyn Fn() -> Result<Vec<u8>, Errno> + Send + Sync>;
/// What takes what is written.
pub(super) type Taker = Arc<dyn Fn(&[u8]) -> Result<(), Errno> + Send + Sync>;

/// What answers requests of ioctl(2).
pub(super) type Asked = fn(Option<&Process>, &dyn Caller, u64, VirtAddr) -> CallResult<u64>;

/// A file that is a text.
#[derive(Clone)]
pub(super) struct Text {
    pub(super) inode: u64,
    pub(super) permissions: u32,
    pub(super) make: Maker,
    /// `None`: nothing can be written.
    pub(super) take: Option<Taker>,
    /// `None`: nothing can be asked.
    pub(super) ask: Option<(Of, Asked)>,
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "text {}", self.inode)
    }
}

impl Made for Text {
    fn kind(&self) -> FileKind {
        FileKind::Regular
    }

    fn inode(&self) -> u64 {
        self.inode
    }

    fn permissions(&self) -> u32 {
        self.permissions
    }

    fn open(&self) -> Result<Arc<dyn MadeFile>, Errno> {
        Ok(Arc::new(OpenText { text: self.clone(), made: Mutex::default() }))
    }
}

#[derive(Debug)]
struct OpenText {
    text: Text,
    /// As it was when it was last read from its beginning.
    made: Mutex<Option<Vec<u8>>>,
}

impl MadeFile for OpenText {
    fn read(&self, offset: u64, into: &mut [u8]) -> CallResult<usize> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let text = match &mut *made {
            Some(text) if offset > 0 => text,
            made => made.insert((self.text.make)()?),
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
        let rest = &text[from..];
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write(&self, _: u64, bytes: &[u8]) -> CallResult<usize> {
        let take = self.text.take.as_ref().ok_or(Errno::EIO)?;
        take(bytes)?;
        Ok(bytes.len())
    }

    fn ioctl(&self, caller: &dyn Caller, request: u64, argument: VirtAddr) -> CallResult<u64> {
        let (of, answer) = self.text.ask.as_ref().ok_or(Errno::ENOTTY)?;
        answer(of.get().ok().as_deref(), caller, request, argument)
    }
}

/// A number that is written as text, in C's way: decimal, octal after 0, hexadecimal after 0x.
pub(super) fn number(bytes: &[u8]) -> Result<i64, Errno> {
    let text = std::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    // One sign, and no other.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'x') {
        return Err(Errno::EINVAL);
    }
    let value = match digits.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16),
        None if digits.len() > 1 && digits.starts_with('0') => i64::from_str_radix(digits, 8),
        None => digits.parse(),
    };
    let value = value.map_err(|_| Errno::EINVAL)?;
    Ok(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_in_cs_way() {
        for (text, value) in [("7\n", 7), ("-17", -17), ("010", 8), ("0x1F", 31), ("0", 0)] {
            assert_eq!(number(text.as_bytes()), Ok(value), "{text}");
        }
        for text in ["", "x", "1 2", "--1", "0x-1", "+1"] {
            assert_eq!(number(text.as_bytes()), Err(Errno::EINVAL), "{text}");
        }
    }
}
