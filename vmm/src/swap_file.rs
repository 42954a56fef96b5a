//! The swap area's pages in an unlinked file of the host: `--swap SIZE`. It is sparse, and gone with mmvisor however
//! that ends.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use mm::addr::{PAGE_SIZE, SwapSlot};
use mm::swap::SwapStore;
use rustix::fs::OFlags;

/// A file without a name.
#[derive(Debug)]
pub struct SwapFile {
    file: File,
    slots: u64,
}

impl SwapFile {
    /// Makes one of so many bytes, rounded down to pages, on the file system of a directory.
    ///
    /// # Errors
    /// What the host says.
    pub fn new(directory: &Path, bytes: u64) -> io::Result<Self> {
        let file = unlinked(directory)?;
        let slots = bytes / PAGE_SIZE;
        file.set_len(slots * PAGE_SIZE)?;
        Ok(SwapFile { file, slots })
    }
}

/// A new file that has no name; not every file system makes one without.
fn unlinked(directory: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let nameless =
        options.clone().custom_flags(OFlags::TMPFILE.bits().cast_signed()).open(directory);
    nameless.or_else(|_| {
        let path = directory.join(format!("mmvisor-swap-{}", std::process::id()));
        let file = options.create_new(true).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    })
}

fn offset(slot: SwapSlot) -> u64 {
    slot.number() * PAGE_SIZE
}

impl SwapStore for SwapFile {
    fn slots(&self) -> u64 {
        self.slots
    }

    fn write(&self, first: SwapSlot, pages: &[u8]) -> io::Result<()> {
        self.file.write_all_at(pages, offset(first))
    }

    fn read(&self, first: SwapSlot, pages: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(pages, offset(first))
    }
}

#[cfg(test)]
mod tests {
    use mm::addr::PAGE_BYTES;

    use super::*;

    #[test]
    fn pages_are_read_as_they_were_written_and_nothing_is_left_in_the_directory() {
        let directory = std::env::temp_dir().join(format!("mmvisor-swap-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let file = SwapFile::new(&directory, 10 * PAGE_SIZE + 1).unwrap();
        assert_eq!(file.slots(), 10);
        let pages = [[1; PAGE_BYTES], [2; PAGE_BYTES]].concat();
        file.write(SwapSlot::new(8), &pages).unwrap();
        let mut read = vec![0; pages.len()];
        file.read(SwapSlot::new(8), &mut read).unwrap();
        assert_eq!(read, pages);
        let mut page = [0; PAGE_BYTES];
        file.read(SwapSlot::new(0), &mut page).unwrap();
        assert_eq!(page, [0; PAGE_BYTES]);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
        std::fs::remove_dir(&directory).unwrap();
    }
}
