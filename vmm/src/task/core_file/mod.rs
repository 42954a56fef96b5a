//! Core files: what was in a process's memory and registers when a signal killed it (core(5)).
//!
//! ```text
//!   header │ program headers: notes, each VMA │ notes │ pages, sparse
//! ```
//!
//! It is written to a file without a name, and gets its name when it is whole.

mod image;
mod notes;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use mm::inspect::core_segments;
use mm::space::Dumpable;
use mm::vma::limits::Resource;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::{Core, Effect, Info, Process, Task};
use crate::kvm::Registers;
use notes::{ARGUMENTS, Cpu, Who};

/// The least that a core file may be (`ELF_EXEC_PAGESIZE`).
const LEAST: u64 = 4096;

/// Where core files go. In the name `%p` stands for the process's number, and `%%` for `%`.
#[derive(Clone, Debug)]
pub struct CoreFiles(PathBuf);

impl CoreFiles {
    /// Files by this name.
    ///
    /// # Errors
    /// The host's, if no file can be made in that directory.
    pub fn new(name: &Path) -> io::Result<Self> {
        nameless_beside(name)?;
        Ok(CoreFiles(name.to_owned()))
    }

    fn of(&self, pid: i32) -> PathBuf {
        let mut name = Vec::new();
        let mut bytes = self.0.as_os_str().as_bytes().iter();
        while let Some(&byte) = bytes.next() {
            match (byte, bytes.as_slice().first()) {
                (b'%', Some(b'p')) => name.extend(pid.to_string().into_bytes()),
                (b'%', Some(b'%')) => name.push(b'%'),
                _ => {
                    name.push(byte);
                    continue;
                }
            }
            bytes.next();
        }
        OsString::from_vec(name).into()
    }
}

impl Task {
    /// Writes the core file of a process that this kills (`do_coredump`), if it is to have one. What goes wrong is said
    /// in the log.
    pub(super) fn write_core(&self, by: &Info, at: &Registers) -> Core {
        let (Some(files), Some(limit)) =
            (&self.process.family.core_files, most_bytes(&self.process, by))
        else {
            return Core::None;
        };
        let path = files.of(self.process.pid);
        match self.try_write(&path, by, at, limit) {
            Ok(()) => Core::Dumped,
            Err(error) => {
                let (path, pid) = (path.display(), self.process.pid);
                log::warn!("{path}: no core file of process {pid}: {error}");
                Core::None
            }
        }
    }

    fn try_write(&self, path: &Path, by: &Info, at: &Registers, limit: u64) -> io::Result<()> {
        let segments = core_segments(&self.process.space.look());
        let notes = notes::notes(&self.who(by), &self.cpu(at)?, &segments);
        let file = nameless_beside(path)?;
        image::write(&file, &self.process.space, &segments, &notes, limit)?;
        give_name(&file, path)
    }

    fn who<'a>(&self, by: &'a Info) -> Who<'a> {
        let process = &self.process;
        let (auxv, start, end) = {
            let space = process.space.look();
            let layout = space.layout();
            (layout.auxv.clone(), layout.arg_start, layout.arg_end)
        };
        let mut arguments = [0; ARGUMENTS];
        let len = usize::try_from(end.get().saturating_sub(start.get())).unwrap_or(ARGUMENTS);
        let len = len.min(ARGUMENTS - 1);
        // What cannot be read stays zeros.
        let _ = process.space.read_forced(start, &mut arguments[..len]);
        let shown = arguments[..len].iter_mut().filter(|byte| **byte == 0);
        shown.for_each(|byte| *byte = b' ');
        let own = process.family.usage(process);
        let children = process.family.children_usage(process.pid);
        Who {
            pid: process.pid,
            parent: process.family.parent(process.pid),
            group: process.family.group(process.pid),
            session: process.family.session(process.pid),
            name: *process.identity.name.lock().unwrap_or_else(PoisonError::into_inner),
            arguments,
            info: by,
            waiting: process.signals.waiting(),
            blocked: process.signals.blocked(),
            times: [own.user, own.system, children.user, children.system],
            auxv,
        }
    }

    fn cpu(&self, at: &Registers) -> io::Result<Cpu> {
        let mut registers = *at;
        // A call that is given up has not yet been made to begin again.
        if let Some(interrupted) = &self.delivery.interrupted {
            registers.rax = interrupted.restart.code();
        }
        let layout = self.vcpu.xsave_layout();
        let state = self.vcpu.xsave().map_err(|error| io::Error::other(error.to_string()))?;
        let mut xsave = state.to_bytes();
        xsave.truncate(layout.bytes());
        Ok(Cpu {
            registers,
            selectors: self.delivery.selectors,
            calling: self.calling,
            fs_base: self.vcpu.fs_base(),
            gs_base: self.vcpu.gs_base(),
            xsave,
            layout: layout.clone(),
        })
    }
}

/// How many bytes the core file of a process that this kills may have; `None` for no file.
fn most_bytes(process: &Process, by: &Info) -> Option<u64> {
    let space = process.space.look();
    let limit = space.limits().get(Resource::Core).soft;
    let dumps = by.signal().effect() == Effect::DumpsCore;
    (dumps && space.modes().dumpable == Dumpable::Yes && limit >= LEAST).then_some(limit)
}

/// A file in the directory of this one, that nobody can find.
fn nameless_beside(path: &Path) -> io::Result<File> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// Puts a file in the place of whatever has the name: first under another, which is free.
fn give_name(file: &File, path: &Path) -> io::Result<()> {
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    rustix::fs::linkat(CWD, own, CWD, &beside, AtFlags::SYMLINK_FOLLOW)?;
    let renamed = std::fs::rename(&beside, path);
    if renamed.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    renamed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_the_process_s_number() {
        for (name, of_7) in [("core", "core"), ("c.%p", "c.7"), ("%%p%p%", "%p7%"), ("a%x", "a%x")]
        {
            assert_eq!(CoreFiles(name.into()).of(7), Path::new(of_7));
        }
    }
}
