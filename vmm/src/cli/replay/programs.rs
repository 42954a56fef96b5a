//! The programs that a trace executes: files of this host, found and mapped as execve(2) does.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use mm::addr::VirtAddr;
use mm::error::{AccessError, CallError, CallResult};
use mm::replay::linux::Loader;
use mm::space::SharedSpace;

use crate::load::{Image, LoadError};
use crate::task::{ExecError, clear_tails, map_image};

/// How many scripts may name each other as interpreters (Linux's `exec_binprm`).
const MOST_SCRIPTS: usize = 5;
/// Bytes of arguments and environment, of which a trace says little: the stack's first size depends on
/// them, and nothing else.
const ARGUMENTS: u64 = 4096;

/// The host's programs.
#[derive(Debug)]
pub(super) struct Programs;

impl Loader for Programs {
    fn load(&self, space: &SharedSpace, path: &[u8]) -> CallResult<Option<Vec<u8>>> {
        let loaded = find(Path::new(OsStr::from_bytes(path)))
            .map_err(ExecError::from)
            .and_then(|(path, image)| map(space, &path, &image).map(|()| path));
        match loaded {
            Ok(path) => Ok(Some(path.into_os_string().into_encoded_bytes())),
            Err(ExecError::Map(CallError::Broken(broken)))
            | Err(ExecError::Fill(AccessError::Broken(broken))) => Err(broken.into()),
            Err(error) => {
                log::info!("{}: {error}", path.escape_ascii());
                Ok(None)
            }
        }
    }
}

/// The program that is run for a path: its own file, or its script's interpreter.
fn find(path: &Path) -> Result<(PathBuf, Image), LoadError> {
    let mut path = path.to_owned();
    let mut scripts = 0;
    loop {
        match Image::open_any(&path) {
            Ok(image) => return Ok((path, image)),
            Err(LoadError::Script { interpreter }) if scripts < MOST_SCRIPTS => {
                scripts += 1;
                // What follows the first word is an argument.
                let word = interpreter.split([' ', '\t']).next().unwrap_or_default();
                path = PathBuf::from(word);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Linux's `load_elf_binary`.
fn map(space: &SharedSpace, path: &Path, image: &Image) -> Result<(), ExecError> {
    let interpreter = match image.elf.interpreter() {
        Some(interpreter) => Some((Path::new(interpreter), Image::open(Path::new(interpreter))?)),
        None => None,
    };
    let mut layouts = Vec::new();
    {
        let mut space = space.change();
        let program = map_image(&mut space, image, path)?;
        space.map_stack(VirtAddr::TASK_END, ARGUMENTS, program.stack.into())?;
        space.set_start_stack(VirtAddr::new(VirtAddr::TASK_END.get() - ARGUMENTS));
        space.set_start_brk(program.start_brk);
        layouts.push(program);
        if let Some((path, image)) = interpreter {
            layouts.push(map_image(&mut space, &image, path)?);
        }
    }
    layouts.iter().try_for_each(|layout| clear_tails(space, layout))
}
