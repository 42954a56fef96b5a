//! The frames that a backing keeps, by page index (Linux's page cache of one inode).

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::BackingError;
use super::folios::{Folio, Folios};
use crate::addr::{Frame, FrameRun, GuestPhysAddr, PAGE_BYTES, PAGE_SIZE, index};
use crate::error::Broken;
use crate::phys::{Contents, FrameKind, Frames, Marks, Wish};

/// Frames by page index; the cache holds one reference to each until it is dropped.
#[derive(Debug)]
pub(super) struct PageCache {
    frames: Arc<Frames>,
    kind: FrameKind,
    pages: Mutex<Pages>,
    /// Whether any have ever been one piece: most objects' have not, and faults ask.
    has_folios: AtomicBool,
}

#[derive(Debug, Default)]
struct Pages {
    frames: BTreeMap<u64, Frame>,
    /// Which of them are one piece of memory: their frames are, too.
    folios: Folios,
}

impl PageCache {
    /// An empty one, whose frames will be of this kind.
    pub(super) fn new(frames: Arc<Frames>, kind: FrameKind) -> Self {
        PageCache { frames, kind, pages: Mutex::default(), has_folios: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The frame of the page, with a reference for the caller; made and filled if it is not there.
    /// A new one comes from where `wish` says. `fill` runs under the cache's lock, so that nobody sees a frame half filled.
    pub(super) fn page(
        &self,
        index: u64,
        contents: Contents,
        wish: impl FnOnce() -> Wish,
        fill: impl FnOnce(&Frames, Frame) -> Result<(), BackingError>,
    ) -> Result<Frame, BackingError> {
        let frames = &*self.frames;
        let mut pages = self.lock();
        let frame = match pages.frames.get(&index) {
            Some(&frame) => frame,
            None => {
                let frame = frames.alloc_on(self.kind, contents, wish())?;
                if let Err(error) = fill(frames, frame) {
                    frames.put(frame)?;
                    return Err(error);
                }
                pages.frames.insert(index, frame);
                frame
            }
        };
        frames.get(frame);
        Ok(frame)
    }

    /// Whether the page is there.
    pub(super) fn holds(&self, index: u64) -> bool {
        self.get(index).is_some()
    }

    /// The frame of the page, if it is there. It stays for as long as nobody may give it up.
    pub(super) fn get(&self, index: u64) -> Option<Frame> {
        self.lock().frames.get(&index).copied()
    }

    /// Looks at a page, whether it is there or not: nobody brings it in meanwhile.
    pub(super) fn look<T>(&self, index: u64, what: impl FnOnce(Option<Frame>) -> T) -> T {
        let pages = self.lock();
        what(pages.frames.get(&index).copied())
    }

    /// The allocator that its frames are of.
    pub(super) fn frames(&self) -> &Frames {
        &self.frames
    }

    /// The pages of a range that are there.
    pub(super) fn held(&self, range: Range<u64>) -> Vec<(u64, Frame)> {
        self.lock().frames.range(range).map(|(&page, &frame)| (page, frame)).collect()
    }

    /// The same, a place for each page.
    pub(super) fn at_hand(&self, range: Range<u64>) -> Vec<Option<Frame>> {
        let mut frames = vec![None; index(range.end - range.start)];
        for (&page, &frame) in self.lock().frames.range(range.clone()) {
            frames[index(page - range.start)] = Some(frame);
        }
        frames
    }

    /// At most so many of the pages from `page` on that are there.
    pub(super) fn held_from(&self, page: u64, most: usize) -> Vec<(u64, Frame)> {
        self.lock().frames.range(page..).take(most).map(|(&page, &frame)| (page, frame)).collect()
    }

    /// The page's frame is in the caller's hands from now on, with the reference to it.
    pub(super) fn take(&self, page: u64) -> Option<Frame> {
        let mut pages = self.lock();
        pages.folios.part(page..page + 1);
        pages.frames.remove(&page)
    }

    /// The larger folio that a page is in, and its frames, if it is in one.
    pub(super) fn folio(&self, page: u64) -> Option<(Folio, FrameRun)> {
        if !self.has_folios.load(Ordering::Relaxed) {
            return None;
        }
        let pages = self.lock();
        let folio = pages.folios.of(page);
        let start = pages.frames.get(&folio.first).copied().filter(|_| folio.order > 0)?;
        Some((folio, FrameRun { start, count: 1 << folio.order }))
    }

    /// Splits a page off the larger folio that it is in, and says which that was.
    pub(super) fn split_at(&self, page: u64) -> Option<Folio> {
        self.lock().folios.split_at(page)
    }

    /// The larger folios that pages of a range are in.
    pub(super) fn folios(&self, pages: Range<u64>) -> Vec<Folio> {
        if !self.has_folios.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.lock().folios.within(pages)
    }

    /// Pages are in no larger folio any more, nor is what was together with them.
    pub(super) fn part(&self, pages: Range<u64>) {
        self.lock().folios.part(pages);
    }

    /// Makes pages one: their bytes are in the frames of `run` from then on, with the references to these. What is
    /// not there is filled. Nobody looks for one of the pages meanwhile, nor has it but the cache.
    ///
    /// # Errors
    /// What `fill` says; nothing has changed then.
    pub(super) fn join(
        &self,
        folio: Folio,
        run: FrameRun,
        mut fill: impl FnMut(u64, Frame) -> io::Result<()>,
    ) -> io::Result<Result<(), Broken>> {
        let mut pages = self.lock();
        let memory = self.frames.memory();
        for (page, to) in folio.pages().zip(0..).map(|(page, i)| (page, run.start.offset(i))) {
            match pages.frames.get(&page) {
                Some(&from) => memory.copy(from, to),
                None => fill(page, to)?,
            }
        }
        pages.folios.join(folio);
        self.has_folios.store(true, Ordering::Relaxed);
        let exchanged = folio.pages().zip(0..).try_for_each(|(page, i)| {
            let new = run.start.offset(i);
            self.frames.mark(new, Marks::DIRTY);
            pages.frames.insert(page, new).map_or(Ok(()), |old| self.frames.put(old))
        });
        Ok(exchanged)
    }

    /// How many pages are there.
    pub(super) fn count(&self) -> u64 {
        self.lock().frames.len() as u64
    }

    /// The first page from `index` on that is there.
    pub(super) fn next_held(&self, index: u64) -> Option<u64> {
        self.lock().frames.range(index..).next().map(|(&page, _)| page)
    }

    /// The first page from `index` on that is not there.
    pub(super) fn next_missing(&self, index: u64) -> u64 {
        let pages = self.lock();
        let run = (index..).zip(pages.frames.range(index..));
        run.take_while(|&(expected, (&page, _))| page == expected).fold(index, |at, _| at + 1)
    }

    /// Clears the rest of the page that `end`, in bytes, lies in, if it is there.
    pub(super) fn clear_from(&self, end: u64) {
        self.clear(end..end.next_multiple_of(PAGE_SIZE));
    }

    /// Clears a range of bytes, which lies in one page, if that is there.
    pub(super) fn clear(&self, bytes: Range<u64>) {
        let pages = self.lock();
        let Some(&frame) =
            pages.frames.get(&(bytes.start / PAGE_SIZE)).filter(|_| !bytes.is_empty())
        else {
            return;
        };
        let zeros = [0; PAGE_BYTES];
        let at = GuestPhysAddr::new(frame.addr().get() + bytes.start % PAGE_SIZE);
        self.frames.memory().write(at, &zeros[..index(bytes.end - bytes.start)]);
        self.frames.mark(frame, Marks::DIRTY);
    }

    /// Puts another frame in the place of a page's, if that is the one given, with the reference to it.
    pub(super) fn exchange(&self, index: u64, old: Frame, new: Frame) -> bool {
        let mut pages = self.lock();
        let Some(frame) = pages.frames.get_mut(&index).filter(|frame| **frame == old) else {
            return false;
        };
        *frame = new;
        pages.folios.part(index..index + 1);
        true
    }

    /// Gives up the pages of a range, and says how many there were. Whoever has mapped them keeps them.
    pub(super) fn forget(&self, range: Range<u64>) -> Result<u64, Broken> {
        let mut pages = self.lock();
        let gone: Vec<(u64, Frame)> =
            pages.frames.range(range.clone()).map(|(&i, &f)| (i, f)).collect();
        pages.folios.part(range);
        for &(index, frame) in &gone {
            pages.frames.remove(&index);
            self.frames.put(frame)?;
        }
        Ok(gone.len() as u64)
    }
}

impl Drop for PageCache {
    fn drop(&mut self) {
        let pages = self.pages.get_mut().unwrap_or_else(PoisonError::into_inner);
        for &frame in pages.frames.values() {
            if let Err(broken) = self.frames.put(frame) {
                log::error!("a backing cannot give up {frame:?}: {broken}");
            }
        }
    }
}
