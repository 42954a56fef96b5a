//! Files to be mapped: memfds, and files of /tmp that have lost their names.

#![allow(unsafe_code)]

use guest::call::number;
use guest::errno::Errno;
use guest::memory::PAGE;

use crate::acts::Generator;
use crate::trace::put;
use crate::turns::UNMAPPABLE;

/// The descriptors that are used for them.
const FIRST: u64 = 3;
const COUNT: usize = 10;
const O_RDWR: u64 = 2;
const O_CREAT: u64 = 0o100;
const O_EXCL: u64 = 0o200;
/// The name that a file has at first. Natively others may use it at the same time: each has another file.
const PATH: &core::ffi::CStr = c"/tmp/generator";

/// Which of the descriptors are open.
#[derive(Debug)]
pub(crate) struct Files {
    open: [bool; COUNT],
}

impl Files {
    /// None.
    pub(crate) const fn new() -> Self {
        Files { open: [false; COUNT] }
    }

    fn open(&self) -> impl Iterator<Item = u64> + Clone {
        (FIRST..).zip(self.open).filter(|&(_, open)| open).map(|(fd, _)| fd)
    }

    fn set(&mut self, fd: u64, open: bool) {
        let at = fd.checked_sub(FIRST).and_then(|at| usize::try_from(at).ok());
        if let Some(slot) = at.and_then(|at| self.open.get_mut(at)) {
            *slot = open;
        }
    }
}

impl Generator {
    /// One of the files that are open.
    pub(crate) fn some_file(&mut self) -> Option<u64> {
        let count = self.files.open().count() as u64;
        let at = usize::try_from(self.below(count)).unwrap_or(0);
        self.files.open().nth(at)
    }

    pub(crate) fn open_or_close(&mut self) {
        let file = self.some_file();
        let count = self.files.open().count();
        if let Some(fd) = file
            && (count > 6 || self.chance(25))
        {
            self.files.set(fd, false);
            let result = Self::make(number::CLOSE, [fd]);
            return self.tell("close", format_args!("close({fd})"), &result);
        }
        let pages = self.below(8);
        if self.chance(60) {
            let result = Self::make(number::MEMFD_CREATE, [c"generator".as_ptr() as u64, 0]);
            self.tell("memfd_create", format_args!("memfd_create(\"generator\", 0)"), &result);
            if let Ok(fd) = result {
                self.files.set(fd, true);
                self.set_len(fd, pages * PAGE);
            }
            return;
        }
        let fd = guest::must!(Self::open_nameless());
        let result = Self::make(number::FTRUNCATE, [fd, pages * PAGE]);
        self.count(if result.is_ok() { "open" } else { "refused" });
        self.files.set(fd, true);
        put!(&mut self.trace, "{} @file {fd} kind=file pages={pages} mode=rw\n", self.process);
    }

    /// A fresh file, without a name by now.
    fn open_nameless() -> Result<u64, Errno> {
        let path = PATH.as_ptr() as u64;
        loop {
            // There may be none.
            let _ = Self::make(number::UNLINK, [path]);
            let made = Self::make(number::OPEN, [path, O_RDWR | O_CREAT | O_EXCL, 0o600]);
            if made != Err(Errno::EEXIST) {
                let _ = Self::make(number::UNLINK, [path]);
                return made;
            }
        }
    }

    /// A file shorter or longer, now and then within a page.
    pub(crate) fn truncate(&mut self) {
        let Some(fd) = self.some_file() else { return };
        let fd = if self.chance(2) { self.pick([77, UNMAPPABLE]) } else { fd };
        let part = if self.chance(25) { self.below(PAGE) } else { 0 };
        let len = self.below(9) * PAGE + part;
        let len = if self.chance(2) { self.pick([u64::MAX, 1 << 63, 600 * PAGE]) } else { len };
        self.set_len(fd, len);
    }

    fn set_len(&mut self, fd: u64, len: u64) {
        let result = Self::make(number::FTRUNCATE, [fd, len]);
        let shown = len.cast_signed();
        self.tell("ftruncate", format_args!("ftruncate({fd}, {shown})"), &result);
    }
}
