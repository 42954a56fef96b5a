//! What the nested machine is made of and where it is kept: QEMU, and in the cache a kernel with the
//! modules it needs. Nothing is fetched here; that is `setup`.
//!
//! ```text
//!   $MMVISOR_CACHE, else $XDG_CACHE_HOME/mmvisor, else ~/.cache/mmvisor
//!   └── nested-1/                 the 1: this layout
//!       ├── .lock                 held by a running setup
//!       └── 6.1.0-56-cloud-amd64/ complete or not there: made elsewhere, then renamed
//!           ├── manifest.json     the modules in the order in which they are loaded
//!           ├── vmlinuz
//!           └── kvm.ko ...
//! ```

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::NestedError;

/// QEMU's program.
pub(super) const QEMU: &str = "qemu-system-x86_64";
/// The kernel's file in the cache.
pub(super) const KERNEL: &str = "vmlinuz";
/// The list of modules in the cache.
pub(super) const MANIFEST: &str = "manifest.json";

/// What a kernel's directory in the cache says about itself.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Files of the modules that carry the streams, in load order.
    pub(super) transport: Vec<String>,
    /// Files of KVM's modules, in load order; the last is kvm-amd.
    pub(super) kvm: Vec<String>,
}

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Assets {
    /// QEMU's executable.
    pub qemu: PathBuf,
    /// The kernel's directory in the cache.
    pub kernel: PathBuf,
}

/// A part of the nested machine that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// `qemu-system-x86_64` is in no directory of `PATH`.
    Qemu,
    /// No kernel in this directory.
    Kernel(PathBuf),
}

/// What is not there, as the sentence a person reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing(pub Vec<Part>);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.0 {
            match part {
                Part::Qemu => {
                    write!(f, "{QEMU} is not installed (Debian's package qemu-system-x86); ")?
                }
                Part::Kernel(directory) => {
                    write!(
                        f,
                        "no kernel is in {} (from Debian's linux-image-cloud-amd64); ",
                        directory.display()
                    )?;
                }
            }
        }
        f.write_str(
            "`mmvisor nested setup` fetches what it can and says what is left to install by hand",
        )
    }
}

impl Assets {
    /// Finds QEMU and the newest kernel of the cache.
    ///
    /// # Errors
    /// [`NestedError::NotSetUp`] lists what is missing; [`NestedError::NoCacheDirectory`].
    pub fn find() -> Result<Self, NestedError> {
        let cache = cache_directory()?;
        match (find_program(QEMU), newest_kernel(&cache)) {
            (Some(qemu), Some(kernel)) => Ok(Assets { qemu, kernel }),
            (qemu, kernel) => {
                let mut missing = Vec::new();
                if qemu.is_none() {
                    missing.push(Part::Qemu);
                }
                if kernel.is_none() {
                    missing.push(Part::Kernel(cache));
                }
                Err(NestedError::NotSetUp(Missing(missing)))
            }
        }
    }

    /// The kernel's list of modules.
    ///
    /// # Errors
    /// [`NestedError::Cache`] if it cannot be read or is not one.
    pub(super) fn manifest(&self) -> Result<Manifest, NestedError> {
        let path = self.kernel.join(MANIFEST);
        fs::read(&path)
            .and_then(|bytes| Ok(serde_json::from_slice(&bytes)?))
            .map_err(|source| NestedError::Cache { path, source })
    }
}

/// Where kernels are kept.
///
/// # Errors
/// [`NestedError::NoCacheDirectory`] if no variable says where.
pub fn cache_directory() -> Result<PathBuf, NestedError> {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    variable("MMVISOR_CACHE")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("mmvisor")))
        .or_else(|| Some(variable("HOME")?.join(".cache/mmvisor")))
        .map(|cache| cache.join("nested-1"))
        .ok_or(NestedError::NoCacheDirectory)
}

/// The program's file in `PATH`.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    use nix::unistd::{AccessFlags, access};
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file() && access(file, AccessFlags::X_OK).is_ok())
}

/// The kernel that was put into the cache last.
pub(super) fn newest_kernel(cache: &Path) -> Option<PathBuf> {
    let directories = fs::read_dir(cache).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    directories
        .filter(|path| {
            !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
        })
        .filter_map(|path| Some((fs::metadata(path.join(MANIFEST)).ok()?.modified().ok()?, path)))
        .max()
        .map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_with_the_packages_to_install() {
        let missing = Missing(vec![Part::Qemu, Part::Kernel("/c".into())]).to_string();
        for word in [
            "qemu-system-x86_64",
            "qemu-system-x86)",
            "/c",
            "linux-image-cloud-amd64",
            "mmvisor nested setup",
        ] {
            assert!(missing.contains(word), "{missing}");
        }
    }

    #[test]
    fn a_kernel_still_being_made_is_not_found() {
        let cache = std::env::temp_dir().join(format!("mmvisor-assets-{}", std::process::id()));
        fs::create_dir_all(cache.join(".staging-1")).unwrap();
        fs::write(cache.join(".staging-1").join(MANIFEST), "").unwrap();
        assert_eq!(newest_kernel(&cache), None);
        fs::create_dir_all(cache.join("6.1")).unwrap();
        assert_eq!(newest_kernel(&cache), None);
        fs::write(cache.join("6.1").join(MANIFEST), "").unwrap();
        assert_eq!(newest_kernel(&cache), Some(cache.join("6.1")));
        fs::remove_dir_all(cache).unwrap();
    }
}
