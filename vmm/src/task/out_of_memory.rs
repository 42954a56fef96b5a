//! What is said when memory has run out: how much there is, what it is used for, and who has how much of it
//! (Linux's `dump_header` and `dump_tasks`, `mm/oom_kill.c`). Who needed one page more is killed.

use std::fmt;

use mm::addr::PAGE_SIZE;
use mm::phys::FrameStats;

use super::Family;

/// The state of memory at that moment. Others go on meanwhile, so the parts need not add up to the page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct OutOfMemory {
    /// Who is killed.
    pid: i32,
    frames: FrameStats,
    /// Pages of each process that lives, by class; what several share is counted for each.
    processes: Vec<(i32, [u64; 3])>,
}

impl OutOfMemory {
    /// As it is now, when process `pid` of the family has asked for more.
    pub(super) fn now(family: &Family, pid: i32) -> Self {
        let frames = family.machine().system().frames().stats();
        OutOfMemory { pid, frames, processes: family.resident() }
    }
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kib = |pages: u64| pages * (PAGE_SIZE >> 10);
        let FrameStats { total, pages, tables, .. } = self.frames;
        write!(
            f,
            "out of memory: process {} is killed; of {} kB, {} kB are pages and {} kB page tables; \
             resident, in kB:\n  pid        own      files     shared",
            self.pid,
            kib(total),
            kib(pages),
            kib(tables)
        )?;
        for (pid, [own, file, shared]) in &self.processes {
            let (own, file, shared) = (kib(*own), kib(*file), kib(*shared));
            write!(f, "\n{pid:>5} {own:>10} {file:>10} {shared:>10}")?;
        }
        Ok(())
    }
}
