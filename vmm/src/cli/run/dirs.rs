//! Directories that the program is granted: `--dir HOST[:GUEST][:ro]`.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use mm::phys::FileAccess;

use super::RunError;
use super::files::with_access;
use crate::files::Grant;
use crate::files::tree::GrantedTree;

/// A directory as it was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct DirArg {
    pub(super) host: PathBuf,
    guest: Option<PathBuf>,
    pub(super) access: FileAccess,
}

impl FromStr for DirArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (text, access) = with_access(text);
        let (host, guest) = match text.split_once(':') {
            Some((host, guest)) => (host, Some(PathBuf::from(guest))),
            None => (text, None),
        };
        if host.is_empty() {
            return Err(
                "a directory is given as HOST, HOST:GUEST, HOST:ro or HOST:GUEST:ro".to_owned()
            );
        }
        let plain = |path: &Path| {
            path.has_root() && path.components().all(|part| part != Component::ParentDir)
        };
        if guest.as_deref().is_some_and(|guest| !plain(guest)) {
            return Err("where the guest finds it is an absolute path without `..`".to_owned());
        }
        Ok(DirArg { host: host.into(), guest, access })
    }
}

impl fmt::Display for DirArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.host.display())?;
        if let Some(guest) = &self.guest {
            write!(f, ":{}", guest.display())?;
        }
        match self.access {
            FileAccess::Read => f.write_str(":ro"),
            FileAccess::ReadWrite => Ok(()),
        }
    }
}

impl DirArg {
    /// Opens it.
    ///
    /// # Errors
    /// [`RunError::Dir`] if the host does not let it be opened, or it is no directory.
    pub(super) fn open(&self) -> Result<Grant, RunError> {
        let refused = |why: String| RunError::Dir { path: self.host.clone(), why };
        let path = self.host.canonicalize().map_err(|error| refused(error.to_string()))?;
        let directory = GrantedTree::grant(&path, self.access)
            .map_err(|errno| refused(errno.desc().to_owned()))?;
        Ok(Grant { directory, at: self.guest.clone().unwrap_or(path) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_where_the_host_has_it_or_elsewhere_and_may_be_read_only() {
        for text in ["a", "/a:/b", "a:ro", "/a:/b:ro", "/a:/"] {
            assert_eq!(text.parse::<DirArg>().unwrap().to_string(), text);
        }
        for text in ["", ":ro", ":/b", "/a:b", "/a:/b/../c", "/a:"] {
            assert!(text.parse::<DirArg>().is_err(), "{text}");
        }
    }
}
