//! execve(2): another program in this process.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use mm::addr::VirtAddr;
use mm::backing::FileMode;
use mm::error::{AccessError, CallError, Errno};
use mm::phys::AllocError;
use nix::libc;

use super::paths::{EmptyPath, Target, last_link};
use super::{Context, Served, Stop};
use crate::files::tree::{LastLink, Node, Place};
use crate::files::{Access, FileKind, check_access};
use crate::load::{Image, LoadError};
use crate::task::{ExecError, Identity, Launch, Program, Replacement, exec_in};

/// The longest argument, its end included (`MAX_ARG_STRLEN`).
const LONGEST: usize = 32 * 4096;
/// What all arguments and variables may take at most, in bytes: three quarters of the default stack.
const MOST: usize = 6 << 20;
/// How often a script's interpreter may be a script.
const MOST_SCRIPTS: u32 = 5;
/// The most bytes of a script's first line (`BINPRM_BUF_SIZE`).
const FIRST_LINE: usize = 256;

/// execve(2).
pub(super) fn execve(c: &mut Context<'_>) -> Served {
    let path = c.read_path(c.address(0))?;
    let found = Found { path: path.clone(), file: c.program(libc::AT_FDCWD, &path)? };
    execute(c, found, c.address(1), c.address(2))
}

/// execveat(2).
pub(super) fn execveat(c: &mut Context<'_>) -> Served {
    let flags = c.int(4);
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    // Once: another task could write something else there.
    let path = c.read_path(c.address(1))?;
    let target = c.target_of(c.int(0), &path, last_link(flags), EmptyPath::of(flags))?;
    let place = match target {
        Target::Place(place) => place,
        Target::Open(open) => Arc::clone(open.place().ok_or(Errno::EACCES)?),
    };
    let path = match (path.first(), c.int(0)) {
        (None, fd) => format!("/dev/fd/{fd}").into_bytes(),
        (Some(b'/'), _) | (_, libc::AT_FDCWD) => path,
        (_, fd) => [format!("/dev/fd/{fd}/").as_bytes(), &path].concat(),
    };
    execute(c, Found { path, file: opened(c, &place)? }, c.address(2), c.address(3))
}

/// A file to be executed, and the path that it was found by.
struct Found {
    path: Vec<u8>,
    file: Executable,
}

/// A file to be executed.
struct Executable {
    file: Arc<File>,
    /// What maps and `/proc/self/exe` call it.
    path: String,
}

impl Context<'_> {
    /// The file that a path leads to, to be executed.
    fn program(&self, fd: i32, path: &[u8]) -> Result<Executable, Stop> {
        opened(self, &*self.find(fd, path, LastLink::Follow)?)
    }

    /// An array of strings.
    fn strings(&self, at: VirtAddr, left: &mut usize) -> Result<Vec<CString>, Stop> {
        let mut strings = Vec::new();
        if at == VirtAddr::ZERO {
            return Ok(strings);
        }
        for index in 0.. {
            let at = at.checked_add(index * 8).ok_or(Errno::EFAULT)?;
            let [pointer] = self.read_words(at)?;
            if pointer == 0 {
                break;
            }
            let text = self.read_text(VirtAddr::new(pointer), LONGEST)?.ok_or(Errno::E2BIG)?;
            *left = left.checked_sub(text.len() + 9).ok_or(Errno::E2BIG)?;
            // It ends where the first zero is.
            strings.push(CString::new(text).unwrap_or_default());
        }
        Ok(strings)
    }
}

/// Opens a file as execve(2) does: `EACCES` it is no regular file, or nobody may execute it.
fn opened(c: &Context<'_>, place: &Place) -> Result<Executable, Stop> {
    let node = place.node();
    match node.kind() {
        FileKind::Regular => check_access(node, Access::EXECUTE)?,
        FileKind::Link => return Err(Errno::ELOOP.into()),
        _ => return Err(Errno::EACCES.into()),
    }
    let path = place.shown();
    let file = match node {
        Node::Granted(file) => {
            let system = Arc::clone(c.process.space.look().system());
            let open = file.open(&system, FileMode::READ, &path)?;
            Arc::new(open.file().try_clone().map_err(|error| of_io(&error))?)
        }
        Node::File(file) => c.process.family.copies.add(file)?,
        _ => return Err(Errno::EACCES.into()),
    };
    Ok(Executable { file, path })
}

fn of_io(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

fn execute(c: &Context<'_>, found: Found, argv: VirtAddr, envp: VirtAddr) -> Served {
    let mut left = MOST;
    let argv = c.strings(argv, &mut left)?;
    let envp = c.strings(envp, &mut left)?;
    let name = CString::new(found.path.clone()).unwrap_or_default();
    let (executable, argv) = interpreted(c, found, argv)?;
    let image = Image::from_file(Arc::clone(&executable.file)).map_err(|error| refused(&error))?;
    let old = c.process.space.look();
    let space = old.for_exec().map_err(|error| match error {
        AllocError::OutOfMemory => Stop::Errno(Errno::ENOMEM),
        AllocError::Broken(broken) => Stop::Broken(broken),
    })?;
    let personality = old.modes().personality;
    drop(old);

    let who = c.process.credentials.get();
    let ids = [who.uids.real, who.uids.effective, who.gids.real, who.gids.effective];
    let launch = Launch { personality, ids, ..c.process.identity.launch };
    let path = PathBuf::from(&executable.path);
    let program = Program { image: &image, path: &path, name: &name, argv: &argv, envp: &envp };
    let loaded = exec_in(space, &program, &launch).map_err(|error| match error {
        ExecError::Load(error) => refused(&error),
        ExecError::Map(CallError::Errno(errno)) => errno.into(),
        ExecError::Fill(AccessError::Fault(_)) | ExecError::Space(AllocError::OutOfMemory) => {
            Errno::ENOMEM.into()
        }
        ExecError::Random(error) => of_io(&error).into(),
        ExecError::Map(CallError::Broken(broken))
        | ExecError::Fill(AccessError::Broken(broken))
        | ExecError::Space(AllocError::Broken(broken)) => Stop::Broken(broken),
    })?;
    let identity = Identity::new(&name, executable.path, executable.file, launch);
    Err(Stop::Exec(Box::new(Replacement { loaded, identity })))
}

/// The errno of a file that cannot be run.
fn refused(error: &LoadError) -> Stop {
    log::info!("execve: {error}");
    match error {
        LoadError::StringTooLong { .. } | LoadError::ArgumentsTooBig { .. } => Errno::E2BIG,
        LoadError::Read(error) => of_io(error),
        LoadError::Directory | LoadError::NotRegular | LoadError::NotExecutable => Errno::EACCES,
        _ => Errno::ENOEXEC,
    }
    .into()
}

/// A script's interpreter, and what it is called with (Linux's `load_script`); else the file itself.
///
/// In this order: `ENOEXEC` no interpreter is named, or its name does not end; what its path leads to; `ELOOP` too
/// many of them.
fn interpreted(
    c: &Context<'_>,
    mut found: Found,
    mut argv: Vec<CString>,
) -> Result<(Executable, Vec<CString>), Stop> {
    for _ in 0..=MOST_SCRIPTS {
        let mut line = [0; FIRST_LINE];
        let count = found.file.file.read_at(&mut line, 0).map_err(|error| of_io(&error))?;
        let Some(line) = line[..count].strip_prefix(b"#!") else {
            return Ok((found.file, argv));
        };
        let (interpreter, argument) = parts(line).ok_or(Errno::ENOEXEC)?;
        let script = CString::new(found.path).unwrap_or_default();
        let own = argv.drain(..).skip(1);
        let text = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
        let first = [Some(text(interpreter)), argument.map(text), Some(script)];
        let whole: Vec<CString> = first.into_iter().flatten().chain(own).collect();
        argv = whole;
        let file = c.program(libc::AT_FDCWD, interpreter)?;
        found = Found { path: interpreter.to_vec(), file };
    }
    Err(Errno::ELOOP.into())
}

/// The interpreter's path and its one argument, of a first line without its `#!`.
fn parts(line: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let end = line.iter().position(|&byte| byte == b'\n');
    let whole = line.get(..end.unwrap_or(line.len()))?;
    let whole = whole.trim_ascii_end();
    let start = whole.iter().position(|byte| !is_blank(byte))?;
    let whole = &whole[start..];
    let Some(space) = whole.iter().position(is_blank) else {
        // It may go on where nobody looks.
        return end
            .map(|_| (whole, None))
            .or_else(|| (line.len() < FIRST_LINE - 2).then_some((whole, None)));
    };
    let (interpreter, rest) = whole.split_at(space);
    let argument = rest.iter().position(|byte| !is_blank(byte)).map(|at| &rest[at..]);
    Some((interpreter, argument))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_names_its_interpreter_and_one_argument() {
        let both = |line: &'static str| parts(line.as_bytes());
        assert_eq!(both("/bin/sh\nx"), Some((b"/bin/sh".as_slice(), None)));
        assert_eq!(
            both(" /bin/sh  -e f \n"),
            Some((b"/bin/sh".as_slice(), Some(b"-e f".as_slice())))
        );
        assert_eq!(both("/bin/sh"), Some((b"/bin/sh".as_slice(), None)));
        assert_eq!(both(" \t\n/bin/sh"), None);
        assert_eq!(both(""), None);
    }
}
