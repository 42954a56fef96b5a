//! The initramfs: everything that is in the machine's file system when it starts.
//!
//! Not compressed: unpacking under emulation costs more than the copy. The format is the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst ("newc").

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use cpio::newc;

use super::NestedError;
use super::libraries::libraries;

/// The directories that the machine mounts something on, and mmvisor's own: no place for files of
/// the caller.
const RESERVED: [&str; 4] = ["/proc", "/sys", "/dev", "/mmvisor"];
/// Directories that are there even if nothing is put into them.
const DIRECTORIES: [&str; 5] = ["/dev", "/proc", "/root", "/sys", "/tmp"];

/// Where a file's bytes come from.
#[derive(Debug)]
enum Source {
    Host(PathBuf),
    Bytes(Vec<u8>),
}

/// A file system to be, sorted by path so that equal contents give equal bytes.
#[derive(Debug, Default)]
pub(super) struct Initramfs {
    files: BTreeMap<String, Source>,
}

impl Initramfs {
    /// Puts the host's file `host` at the path `guest`, with its permissions.
    ///
    /// # Errors
    /// [`NestedError::GuestPath`] for a path that is not absolute, has `..` in it, is not UTF-8 (the
    /// archive's names are), or is mmvisor's own; [`NestedError::File`] if `host` is not a readable
    /// regular file.
    pub(super) fn file(&mut self, host: &Path, guest: &Path) -> Result<(), NestedError> {
        let path = guest_path(guest)?;
        if path == "/init" || RESERVED.iter().any(|r| Path::new(&path).starts_with(r)) {
            return Err(NestedError::GuestPath(guest.to_owned()));
        }
        self.host_file(host, path)
    }

    /// As [`file`](Initramfs::file), and what the dynamic loader will look for when it runs.
    ///
    /// # Errors
    /// Those of [`file`](Initramfs::file) and of [`libraries`].
    pub(super) fn executable(&mut self, host: &Path, guest: &Path) -> Result<(), NestedError> {
        self.file(host, guest)?;
        self.libraries_of(host)
    }

    /// The machine's first process, with its libraries.
    ///
    /// # Errors
    /// As [`executable`](Initramfs::executable).
    pub(super) fn init(&mut self, host: &Path) -> Result<(), NestedError> {
        self.host_file(host, "/init".to_owned())?;
        self.libraries_of(host)
    }

    /// A file of mmvisor's own, at an absolute path.
    pub(super) fn bytes(&mut self, guest: &str, bytes: Vec<u8>) {
        self.files.insert(guest.to_owned(), Source::Bytes(bytes));
    }

    /// A kernel module of the cache.
    ///
    /// # Errors
    /// [`NestedError::File`] if it cannot be read.
    pub(super) fn module(&mut self, host: &Path, guest: &str) -> Result<(), NestedError> {
        self.host_file(host, guest.to_owned())
    }

    fn libraries_of(&mut self, host: &Path) -> Result<(), NestedError> {
        for library in libraries(host)? {
            self.file(&library, &library)?;
        }
        Ok(())
    }

    fn host_file(&mut self, host: &Path, guest: String) -> Result<(), NestedError> {
        // Asked now, so that a wrong path is told before anything starts.
        let file_error = |source| NestedError::File { path: host.to_owned(), source };
        let about = File::open(host).and_then(|f| f.metadata()).map_err(file_error)?;
        if about.is_dir() {
            return Err(file_error(io::ErrorKind::IsADirectory.into()));
        }
        if !about.is_file() {
            return Err(file_error(io::Error::other("not a regular file")));
        }
        self.files.insert(guest, Source::Host(host.to_owned()));
        Ok(())
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// [`NestedError::File`] if a file cannot be read any more or is larger than 4 GiB,
    /// [`NestedError::Host`] if `out` cannot be written.
    pub(super) fn write_to(&self, out: &mut File) -> Result<(), NestedError> {
        let write_error = || NestedError::host("writing the file system");
        let mut out = io::BufWriter::with_capacity(1 << 20, out);
        let mut number = 0;
        for directory in self.directories() {
            number += 1;
            let mode = if directory == "/tmp" { 0o041_777 } else { 0o040_755 };
            entry(&directory, number, mode).write(&mut out, 0).finish().map_err(write_error())?;
        }
        for (path, source) in &self.files {
            number += 1;
            let (name, bytes, mode) = match source {
                Source::Host(host) => {
                    let file_error = |source| NestedError::File { path: host.clone(), source };
                    let mode = fs::metadata(host).map_err(file_error)?.permissions().mode();
                    (
                        host.as_path(),
                        &fs::read(host).map_err(file_error)?,
                        0o100_000 | mode & 0o7777,
                    )
                }
                Source::Bytes(bytes) => (Path::new(path), bytes, 0o100_644),
            };
            let size = u32::try_from(bytes.len()).map_err(|_| NestedError::File {
                path: name.to_owned(),
                source: io::ErrorKind::FileTooLarge.into(),
            })?;
            let mut archive = entry(path, number, mode).write(&mut out, size);
            archive.write_all(bytes).and_then(|()| archive.finish()).map_err(write_error())?;
        }
        newc::trailer(&mut out).map_err(write_error())?;
        out.flush().map_err(write_error())
    }

    /// Every directory that a file needs, parents before children.
    fn directories(&self) -> BTreeSet<String> {
        let mut all: BTreeSet<String> = DIRECTORIES.map(str::to_owned).into();
        for path in self.files.keys() {
            let parents =
                path.match_indices('/').map(|(at, _)| &path[..at]).filter(|p| !p.is_empty());
            all.extend(parents.map(str::to_owned));
        }
        all
    }
}

/// An entry's description. The kernel links entries with the same number, so each has its own.
fn entry(path: &str, number: u32, mode: u32) -> newc::Builder {
    newc::Builder::new(path.trim_start_matches('/')).ino(number).mode(mode).nlink(1)
}

/// The path as the archive names it: absolute, without `.` and doubled slashes.
fn guest_path(path: &Path) -> Result<String, NestedError> {
    let refuse = || NestedError::GuestPath(path.to_owned());
    let mut name = String::new();
    if !path.has_root() {
        return Err(refuse());
    }
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => {
                name.push('/');
                name.push_str(part.to_str().ok_or_else(refuse)?);
            }
            Component::ParentDir | Component::Prefix(_) => return Err(refuse()),
        }
    }
    if name.is_empty() { Err(refuse()) } else { Ok(name) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    fn listing(initramfs: &Initramfs) -> Vec<(String, u32, Vec<u8>)> {
        let memory =
            nix::sys::memfd::memfd_create(c"test", nix::sys::memfd::MFdFlags::empty()).unwrap();
        let mut file = File::from(memory);
        initramfs.write_to(&mut file).unwrap();
        file.rewind().unwrap();
        let mut entries = Vec::new();
        let mut inner = file;
        loop {
            let mut reader = newc::Reader::new(inner).unwrap();
            if reader.entry().is_trailer() {
                return entries;
            }
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            entries.push((name, mode, bytes));
            inner = reader.finish().unwrap();
        }
    }

    #[test]
    fn a_file_is_listed_after_its_directories_with_its_bytes_and_permissions() {
        let mut initramfs = Initramfs::default();
        initramfs.bytes("/mmvisor/jobs.json", b"{}".to_vec());
        initramfs.file(Path::new("/bin/sh"), Path::new("/a/./b//sh")).unwrap();
        let entries = listing(&initramfs);
        let names: Vec<_> = entries.iter().map(|e| e.0.as_str()).collect();
        assert_eq!(
            names,
            [
                "a",
                "a/b",
                "dev",
                "mmvisor",
                "proc",
                "root",
                "sys",
                "tmp",
                "a/b/sh",
                "mmvisor/jobs.json"
            ]
        );
        let (_, mode, bytes) = &entries[8];
        assert_eq!(*mode & 0o777, 0o755);
        assert_eq!(*bytes, fs::read("/bin/sh").unwrap());
        assert_eq!(entries[9].2, b"{}");
    }

    #[test]
    fn paths_that_leave_the_machine_or_are_its_own_are_refused() {
        for path in [
            "relative",
            "/../x",
            "/",
            "/proc/x",
            "/dev/kvm",
            "/mmvisor/jobs.json",
            "/init",
            "//init",
        ] {
            let refused = Initramfs::default().file(Path::new("/bin/sh"), Path::new(path));
            assert!(matches!(refused, Err(NestedError::GuestPath(_))), "{path}");
        }
    }

    #[test]
    fn a_missing_file_a_directory_and_a_device_are_refused_by_name() {
        for path in ["/no/such/program", "/etc", "/dev/null"] {
            let refused = Initramfs::default().executable(Path::new(path), Path::new("/x"));
            assert!(
                matches!(&refused, Err(NestedError::File { path: p, .. }) if p == Path::new(path)),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn a_dynamic_executable_brings_its_loader() {
        let mut initramfs = Initramfs::default();
        let own = std::env::current_exe().unwrap();
        initramfs.init(&own).unwrap();
        assert!(
            initramfs.files.keys().any(|path| path.contains("ld-linux")),
            "{:?}",
            initramfs.files
        );
    }
}
