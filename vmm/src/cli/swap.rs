//! The swap area on the command line: `--swap SIZE`.

use std::io;
use std::path::PathBuf;

use mm::swap::SwapStore;

use super::size::Size;
use crate::swap_file::SwapFile;

/// Why there is no file for the swap area.
#[derive(Debug, thiserror::Error)]
#[error("--swap: no file in {}: {source}", .directory.display())]
pub(super) struct SwapError {
    directory: PathBuf,
    source: io::Error,
}

/// The file for the swap area that was asked for.
///
/// # Errors
/// [`SwapError`]: the host makes none.
pub(super) fn store(size: Option<Size>) -> Result<Option<Box<dyn SwapStore>>, SwapError> {
    let Some(size) = size else { return Ok(None) };
    let directory = std::env::temp_dir();
    match SwapFile::new(&directory, size.bytes()) {
        Ok(file) => Ok(Some(Box::new(file))),
        Err(source) => Err(SwapError { directory, source }),
    }
}
