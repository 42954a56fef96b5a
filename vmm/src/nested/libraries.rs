//! The shared libraries of an executable: what must go into the machine beside it.
//!
//! The dynamic loader itself is asked (`ld.so --list`, what ldd(1) does), because its search rules are
//! its own. It maps the libraries but runs nothing of the program.

use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::NestedError;

/// The dynamic loader and the shared libraries of `executable`, at the paths where it looks for them;
/// none if it is static or not an ELF file.
///
/// # Errors
/// [`NestedError::File`] if it cannot be read, [`NestedError::Libraries`] if its loader is not there or
/// does not find a library.
pub(super) fn libraries(executable: &Path) -> Result<Vec<PathBuf>, NestedError> {
    let file_error = |source| NestedError::File { path: executable.to_owned(), source };
    let file = File::open(executable).map_err(file_error)?;
    let Some(loader) = interpreter(&file) else { return Ok(Vec::new()) };
    let fail = |why: String| NestedError::Libraries { path: executable.to_owned(), why };
    let listing = Command::new(&loader)
        .arg("--list")
        .arg(executable)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| fail(format!("its loader {} cannot be run: {e}", loader.display())))?;
    if !listing.status.success() {
        return Err(fail(String::from_utf8_lossy(&listing.stderr).trim().to_owned()));
    }
    let mut paths = parse_listing(&String::from_utf8_lossy(&listing.stdout))
        .map_err(|library| fail(format!("{library} is not there")))?;
    if !paths.contains(&loader) {
        paths.push(loader);
    }
    Ok(paths)
}

/// Reads the loader's listing: lines of `NAME => PATH (ADDRESS)` or `PATH (ADDRESS)`. `Err` names a
/// library that was not found.
fn parse_listing(listing: &str) -> Result<Vec<PathBuf>, String> {
    let mut paths = Vec::new();
    for line in listing.lines().map(str::trim) {
        let (name, place) = line.split_once(" => ").unwrap_or((line, line));
        if place == "not found" {
            return Err(name.to_owned());
        }
        let path = place.rsplit_once(" (").map_or(place, |(path, _address)| path);
        // The vDSO has a name, but no path.
        if path.starts_with('/') {
            paths.push(PathBuf::from(path));
        }
    }
    Ok(paths)
}

/// The path in a 64-bit ELF file's `PT_INTERP` (elf(5)); `None` for a static executable and for
/// anything that is not such a file.
fn interpreter(file: &File) -> Option<PathBuf> {
    const PT_INTERP: u32 = 3;
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).ok()?;
    // EI_MAG, ELFCLASS64, ELFDATA2LSB.
    if header[..6] != *b"\x7fELF\x02\x01" {
        return None;
    }
    let table = u64_at(&header, 32)?;
    let entry_size = u64::from(u16_at(&header, 54)?);
    for index in 0..u64::from(u16_at(&header, 56)?) {
        let mut entry = [0; 56];
        file.read_exact_at(&mut entry, table.checked_add(index * entry_size)?).ok()?;
        if u32::from_le_bytes(entry[..4].try_into().ok()?) != PT_INTERP {
            continue;
        }
        let length = usize::try_from(u64_at(&entry, 32)?).ok()?;
        // PATH_MAX: a longer path could not be opened.
        if length == 0 || length > 4096 {
            return None;
        }
        let mut path = vec![0; length];
        file.read_exact_at(&mut path, u64_at(&entry, 8)?).ok()?;
        path.truncate(path.iter().position(|&b| b == 0)?);
        return Some(PathBuf::from(std::ffi::OsString::from_vec(path)));
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_listing_gives_the_paths_and_leaves_the_vdso_out() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\t/lib64/ld.so.2 (0x00007f)\n";
        let paths = parse_listing(listing).unwrap();
        assert_eq!(paths, [PathBuf::from("/lib/x/libc.so.6"), PathBuf::from("/lib64/ld.so.2")]);
    }

    #[test]
    fn a_library_that_is_not_there_is_named() {
        assert_eq!(parse_listing("\tlibz.so => not found\n").unwrap_err(), "libz.so");
    }

    #[test]
    fn this_test_needs_a_c_library_and_its_loader() {
        let own = std::env::current_exe().unwrap();
        let loader = interpreter(&File::open(&own).unwrap()).unwrap();
        let libraries = libraries(&own).unwrap();
        assert!(libraries.contains(&loader));
        assert!(
            libraries.iter().any(|l| l.file_name().is_some_and(|n| n == "libc.so.6")),
            "{libraries:?}"
        );
    }

    #[test]
    fn a_file_that_is_no_elf_has_no_libraries() {
        assert_eq!(libraries(Path::new("/etc/passwd")).unwrap(), Vec::<PathBuf>::new());
    }
}
