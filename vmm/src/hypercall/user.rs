//! Reading arguments out of a program's memory, and writing results into it.

use mm::addr::VirtAddr;
use mm::error::Errno;
use nix::libc;

use super::{Context, Stop};

/// The longest path, its end included (`PATH_MAX`).
pub(super) const PATH_MAX: usize = libc::PATH_MAX as usize;

impl Context<'_> {
    /// Argument `index` as an address.
    pub(super) fn address(&self, index: usize) -> VirtAddr {
        VirtAddr::new(self.args[index])
    }

    /// Argument `index` as a C `int`: the upper half of the register is not looked at.
    #[allow(clippy::cast_possible_truncation, reason = "the kernel truncates too")]
    pub(super) fn int(&self, index: usize) -> i32 {
        self.args[index] as u32 as i32
    }

    /// Whether `len` bytes lie in the user half at all (Linux's `access_ok`), which calls check before
    /// anything else about a buffer.
    pub(super) fn check_user(&self, at: VirtAddr, len: u64) -> Result<(), Stop> {
        let end = at.checked_add(len).filter(|&end| end <= VirtAddr::TASK_END);
        end.map(|_| ()).ok_or_else(|| Errno::EFAULT.into())
    }

    /// Copies bytes in.
    pub(super) fn read_bytes(&self, from: VirtAddr, len: usize) -> Result<Vec<u8>, Stop> {
        let mut bytes = vec![0; len];
        self.process.space.read(from, &mut bytes)?;
        Ok(bytes)
    }

    /// Copies bytes out.
    pub(super) fn write_bytes(&self, to: VirtAddr, bytes: &[u8]) -> Result<(), Stop> {
        Ok(self.process.space.write(to, bytes)?)
    }

    /// Copies 64-bit words in.
    pub(super) fn read_words<const N: usize>(&self, from: VirtAddr) -> Result<[u64; N], Stop> {
        let mut words = [0; N];
        for (index, word) in words.iter_mut().enumerate() {
            let mut bytes = [0; 8];
            let at = from.checked_add(index as u64 * 8).ok_or(Errno::EFAULT)?;
            self.process.space.read(at, &mut bytes)?;
            *word = u64::from_le_bytes(bytes);
        }
        Ok(words)
    }

    /// Copies 64-bit words out.
    pub(super) fn write_words(&self, to: VirtAddr, words: &[u64]) -> Result<(), Stop> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.write_bytes(to, &bytes)
    }

    /// Copies a path in: bytes up to the zero.
    ///
    /// # Errors
    /// `EFAULT`, or `ENAMETOOLONG` when 4,096 bytes hold no zero.
    pub(super) fn read_path(&self, from: VirtAddr) -> Result<Vec<u8>, Stop> {
        self.read_text(from, PATH_MAX)?.ok_or_else(|| Errno::ENAMETOOLONG.into())
    }

    /// Copies a text in: bytes up to the zero; `None` if there is none among the first `most` bytes.
    pub(super) fn read_text(&self, from: VirtAddr, most: usize) -> Result<Option<Vec<u8>>, Stop> {
        let mut text = Vec::new();
        let mut at = from;
        while text.len() < most {
            // Never past the page: the next one may not be there, and need not be.
            let part = self.read_bytes(at, at.left_in_page().min(most - text.len()))?;
            if let Some(end) = part.iter().position(|&byte| byte == 0) {
                text.extend_from_slice(&part[..end]);
                return Ok(Some(text));
            }
            text.extend_from_slice(&part);
            at = at.checked_add(part.len() as u64).ok_or(Errno::EFAULT)?;
        }
        Ok(None)
    }
}
