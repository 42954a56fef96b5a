//! A vCPU in software, with a translation cache that is only as right as the flushes are.
//!
//! ```text
//!   access ──> cached? ──> use it ────────────────┐ all of it under the vCPU's own lock: a flush waits for
//!                │ no                             ├ the instruction in progress, as a shootdown does
//!                └──> walk, set A and D, cache ───┘
//!                        │ not allowed
//!                        └──> SharedSpace::fault, then again
//! ```

use std::collections::BTreeMap;

use mm::addr::{Frame, FrameRun, VirtAddr, index};
use mm::error::{AccessError, Broken};
use mm::paging::{AccessKind, Entry, FlushRequest, FlushSink, TableChange, Touch};
use mm::phys::Frames;
use mm::space::SpaceUser;
use shuttle::sync::atomic::Ordering;
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;

/// How long a flush takes to begin.
const FLUSH_STEPS: u32 = 20;
/// How long it takes if that is so long that whole calls can be made meanwhile.
const LONG_FLUSH_STEPS: u32 = 6000;

/// A cached translation.
#[derive(Clone, Copy, Debug)]
struct Cached {
    frame: Frame,
    /// Whether it was cached for writing, with D set.
    written: bool,
}

type Tlb = Mutex<BTreeMap<VirtAddr, Cached>>;

/// Flushes the caches of all vCPUs, of exactly what it is asked for.
#[derive(Debug, Default)]
pub struct Tlbs {
    all: Mutex<Vec<Arc<Tlb>>>,
    /// Whether flushes begin at once. Not a place where another thread may go on.
    quick: std::sync::atomic::AtomicBool,
    /// Whether they take long.
    slow: std::sync::atomic::AtomicBool,
}

impl Tlbs {
    /// From now on flushes begin at once: more may happen between two steps of another thread.
    pub fn hurry(&self) {
        self.quick.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// From now on flushes take long to begin: others make whole calls meanwhile.
    pub fn linger(&self) {
        self.slow.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

impl FlushSink for Tlbs {
    fn flush(&self, request: &FlushRequest) -> Result<(), Broken> {
        // It takes its time, in which whoever need not wait goes on.
        if !self.quick.load(std::sync::atomic::Ordering::Relaxed) {
            let slow = self.slow.load(std::sync::atomic::Ordering::Relaxed);
            let steps = if slow { LONG_FLUSH_STEPS } else { FLUSH_STEPS };
            (0..steps).for_each(|_| thread::yield_now());
        }
        let all = self.all.lock().unwrap().clone();
        let named = |runs: &[FrameRun], frame: Frame| {
            runs.iter().any(|run| run.start <= frame && frame < run.start.offset(run.count))
        };
        let keep = |cached: &mut Cached| {
            // Write protection takes no more than that.
            cached.written &= !named(&request.writes, cached.frame);
            request.tables == TableChange::None && !named(&request.leaves, cached.frame)
        };
        for tlb in all {
            tlb.lock().unwrap().retain(|_, cached| keep(cached));
        }
        Ok(())
    }
}

/// A vCPU that runs in one space.
pub struct Vcpu {
    frames: Arc<Frames>,
    user: SpaceUser,
    root: Frame,
    tlb: Arc<Tlb>,
}

impl Vcpu {
    /// It uses the space from now on.
    pub fn new(tlbs: &Tlbs, user: SpaceUser) -> Vcpu {
        let tlb = Arc::new(Mutex::new(BTreeMap::new()));
        tlbs.all.lock().unwrap().push(Arc::clone(&tlb));
        let looked = user.look();
        let (frames, root) = (Arc::clone(looked.system().frames()), looked.table().root());
        drop(looked);
        Vcpu { frames, user, root, tlb }
    }

    /// It does not run any more.
    pub fn end(self) {
        self.user.put().unwrap();
    }

    pub fn load(&self, addr: VirtAddr) -> Result<u64, AccessError> {
        self.access(addr, AccessKind::Read, None)
    }

    pub fn store(&self, addr: VirtAddr, word: u64) -> Result<(), AccessError> {
        self.access(addr, AccessKind::Write, Some(word)).map(drop)
    }

    fn access(
        &self,
        addr: VirtAddr,
        kind: AccessKind,
        word: Option<u64>,
    ) -> Result<u64, AccessError> {
        loop {
            if let Some(found) = self.try_access(addr, word) {
                return Ok(found);
            }
            self.user.fault(addr, kind)?;
        }
    }

    fn try_access(&self, addr: VirtAddr, word: Option<u64>) -> Option<u64> {
        let page = addr.page_floor();
        let mut tlb = self.tlb.lock().unwrap();
        let cached = match tlb.get(&page) {
            Some(cached) if cached.written || word.is_none() => *cached,
            _ => {
                let walked = self.walk(page, word)?;
                tlb.insert(page, walked);
                walked
            }
        };
        assert!(self.frames.references(cached.frame) > 0, "{addr} leads to a frame that is free");
        let at = &self.frames.memory().words(cached.frame)[index(addr.page_offset() / 8)];
        if let Some(word) = word {
            at.store(word, Ordering::SeqCst);
        }
        Some(at.load(Ordering::SeqCst))
    }

    fn walk(&self, page: VirtAddr, word: Option<u64>) -> Option<Cached> {
        let words = |frame: Frame| self.frames.memory().words(frame);
        let place = |level: u64| index(page.get() >> (12 + 9 * (level - 1)) & 511);
        let mut table = self.root;
        let mut level = 4;
        let slot = loop {
            let slot = &words(table)[place(level)];
            let entry = Entry::new(slot.load(Ordering::SeqCst));
            if level == 1 || entry.is_large() {
                break slot;
            }
            table = entry.frame().filter(|_| entry.is_present())?;
            assert!(self.frames.references(table) > 0, "{page} leads through a table that is free");
            level -= 1;
        };
        let written = word.is_some();
        let touch = if written { Touch::Written } else { Touch::Read };
        let mut raw = slot.load(Ordering::SeqCst);
        loop {
            let entry = Entry::new(raw);
            // Anything may be there by now.
            if !entry.is_present()
                || written && !entry.is_writable()
                || entry.is_large() != (level == 2)
            {
                return None;
            }
            let touched = entry.touched(touch).raw();
            match slot.compare_exchange(raw, touched, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) if level == 2 => {
                    return Some(Cached { frame: entry.page_at(page).frame()?, written });
                }
                Ok(_) => return Some(Cached { frame: entry.frame()?, written }),
                Err(now) => raw = now,
            }
        }
    }
}
