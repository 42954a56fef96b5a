//! Files that the program is given: `--file HOST[:ro]`, descriptors from 3 up.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use mm::phys::FileAccess;
use mm::system::System;

use super::RunError;
use crate::files::{DESCRIPTORS, Descriptors, Object, Open};

/// A file as it was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FileArg {
    pub(super) path: PathBuf,
    pub(super) access: FileAccess,
}

impl FromStr for FileArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, access) = with_access(text);
        if path.is_empty() {
            return Err("a file is given as PATH, or PATH:ro".to_owned());
        }
        Ok(FileArg { path: path.into(), access })
    }
}

/// What was asked for, and how it may be used: `:ro` after it, and it is only read.
pub(super) fn with_access(text: &str) -> (&str, FileAccess) {
    match text.strip_suffix(":ro") {
        Some(text) => (text, FileAccess::Read),
        None => (text, FileAccess::ReadWrite),
    }
}

/// A file, opened.
#[derive(Debug)]
pub(super) struct Given {
    file: File,
    access: FileAccess,
    /// Where it is, without links: what maps call it.
    pub(super) path: PathBuf,
}

impl FileArg {
    /// Opens it.
    ///
    /// # Errors
    /// [`RunError::File`] if the host does not let it be opened so, or it is no regular file.
    pub(super) fn open(&self) -> Result<Given, RunError> {
        let refused = |why: String| RunError::File { path: self.path.clone(), why };
        // A pipe would wait for somebody at its other end.
        if std::fs::metadata(&self.path).is_ok_and(|data| !data.is_file()) {
            return Err(refused("it is not a regular file".to_owned()));
        }
        let write = self.access == FileAccess::ReadWrite;
        let file =
            OpenOptions::new().read(true).write(write).open(&self.path).map_err(|error| {
                let readable = write && error.kind() != ErrorKind::NotFound;
                let hint = if readable { " (with :ro after it, it is only read)" } else { "" };
                refused(format!("{error}{hint}"))
            })?;
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        Ok(Given { file, access: self.access, path })
    }
}

/// The first process's descriptors: the streams, then the files.
pub(super) fn descriptors(system: &System, given: Vec<Given>) -> Result<Descriptors, RunError> {
    let descriptors = Descriptors::default();
    for Given { file, access, path } in given {
        let refused = |why: String| RunError::File { path: path.clone(), why };
        let opened = system
            .open_file(file, access, shown(&path))
            .map_err(|error| refused(error.to_string()))?;
        let open = Arc::new(Open::new(Object::File(opened)));
        descriptors
            .insert(open, 3, DESCRIPTORS, 0)
            .map_err(|_| refused("there are too many".to_owned()))?;
    }
    Ok(descriptors)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_be_written_unless_ro_follows_it() {
        let parse = |text: &str| text.parse::<FileArg>().map(|arg| (arg.path, arg.access));
        assert_eq!(parse("a:b"), Ok(("a:b".into(), FileAccess::ReadWrite)));
        assert_eq!(parse("/x:ro"), Ok(("/x".into(), FileAccess::Read)));
        assert!(parse(":ro").is_err() && parse("").is_err());
    }
}
