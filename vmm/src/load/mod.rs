//! What a program file asks to have mapped, and what its initial stack holds: the checking half of
//! `execve`. Nothing here touches an address space or KVM; who maps takes a [`Layout`] and an
//! [`InitialStack`] and carries them out.
//!
//! ```text
//!   file ──Image::open──> Elf ──Elf::at(start)──> Layout: mappings, entry, AT_PHDR, start_brk
//!                                                    │
//!   argv, envp, Aux ──InitialStack::build────────────┴──> bytes below the stack's top, rsp
//! ```
//!
//! The rules are those of Linux 6.18's `fs/binfmt_elf.c` and `fs/exec.c`. Where Linux would map a
//! malformed file and let the program die of `SIGSEGV` or `SIGBUS`, the file is refused here with a
//! sentence; [`LoadError`] says which cases those are.

mod elf;
mod error;
#[cfg(test)]
pub(crate) mod fixture;
mod layout;
mod machine;
mod stack;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use nix::unistd::{AccessFlags, access};

pub use elf::{Elf, Placement, Segment};
pub use error::LoadError;
pub use layout::{Layout, Mapping, StackAccess};
pub use stack::{Aux, InitialStack, Rseq, StackInputs};

/// A program file that was checked, held open so that what is mapped later is what was checked.
#[derive(Debug, Clone)]
pub struct Image {
    /// The file, open for reading; its mappings are private.
    pub file: Arc<File>,
    /// What its headers ask for.
    pub elf: Elf,
}

impl Image {
    /// Opens and checks the program at `path`.
    ///
    /// # Errors
    /// As `execve(2)`: no such file, a directory or another file that is not regular, no permission
    /// to execute or to read it (Linux can run a file it may not read; here its bytes must be read).
    /// Then those of [`Image::from_file`].
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        Self::from_file(Self::open_program(path)?)
    }

    /// Opens and checks the program at `path`, which may ask for an interpreter.
    ///
    /// # Errors
    /// As [`Image::open`], but for [`LoadError::Dynamic`].
    pub fn open_any(path: &Path) -> Result<Self, LoadError> {
        let file = Self::open_program(path)?;
        let len = file.metadata().map_err(LoadError::Read)?.len();
        let elf = Elf::parse_any(len, |offset, bytes| file.read_exact_at(bytes, offset))?;
        Ok(Image { file, elf })
    }

    fn open_program(path: &Path) -> Result<Arc<File>, LoadError> {
        // Without O_NONBLOCK the open of a FIFO would wait for a writer.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(path)
            .map_err(LoadError::from_open)?;
        Self::check_kind(&file)?;
        access(path, AccessFlags::X_OK).map_err(|_| LoadError::NotExecutable)?;
        Ok(Arc::new(file))
    }

    /// Checks an open file.
    ///
    /// # Errors
    /// Everything that [`Elf::parse`] refuses; a directory or another file that is not regular.
    pub fn from_file(file: Arc<File>) -> Result<Self, LoadError> {
        Self::check_kind(&file)?;
        let len = file.metadata().map_err(LoadError::Read)?.len();
        let elf = Elf::parse(len, |offset, bytes| file.read_exact_at(bytes, offset))?;
        Ok(Image { file, elf })
    }

    fn check_kind(file: &File) -> Result<(), LoadError> {
        let kind = file.metadata().map_err(LoadError::Read)?.file_type();
        if kind.is_dir() {
            return Err(LoadError::Directory);
        }
        if !kind.is_file() {
            return Err(LoadError::NotRegular);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A file in the temporary directory that is gone when the test ends.
    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str, bytes: &[u8], mode: u32) -> Self {
            let path = std::env::temp_dir().join(format!("mmvisor-{}-{name}", std::process::id()));
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn a_missing_file_a_directory_and_a_device_are_told_apart() {
        let open = |path| Image::open(Path::new(path));
        assert!(matches!(open("/nonexistent/program"), Err(LoadError::NotFound)));
        assert!(matches!(open("/dev/null/x"), Err(LoadError::NotFound)));
        assert!(matches!(open("/tmp"), Err(LoadError::Directory)));
        assert!(matches!(open("/dev/null"), Err(LoadError::NotRegular)));
    }

    #[test]
    fn a_file_without_an_execute_bit_is_refused_as_execve_does() {
        let bytes = fixture::Builder::fixed().bytes();
        let file = Scratch::new("noexec", &bytes, 0o644);
        assert!(matches!(Image::open(&file.0), Err(LoadError::NotExecutable)));
        let file = Scratch::new("exec", &bytes, 0o755);
        let image = Image::open(&file.0).unwrap();
        assert_eq!(image.elf.segments().len(), 2);
    }

    #[test]
    fn the_shell_is_dynamic_and_its_interpreter_is_named() {
        let Err(LoadError::Dynamic { interpreter }) = Image::open(Path::new("/bin/sh")) else {
            panic!("/bin/sh is expected to be dynamic");
        };
        assert!(interpreter.contains("ld-linux-x86-64.so.2"), "{interpreter}");
    }
}
