//! Written pages of a pager's memory are taken, and stay.
//!
//! The dirty bits of the entries are cleared and what vCPUs have cached of them flushed, so that whoever writes next
//! sets one again; then the bytes are read. Nobody's entry goes, and nobody has to fault.

use std::ops::Range;

use super::paged::Paged;
use super::pages::Outcome;
use crate::addr::Frame;
use crate::error::Errno;
use crate::paging::FlushBatch;
use crate::system::System;

impl Paged {
    /// Has those pages of the range taken that have been written.
    pub(super) fn take_written(&self, pages: &Range<u64>, system: &System) -> Result<(), Errno> {
        let mut batch = FlushBatch::new();
        let chosen: Vec<(u64, Frame)> = loop {
            // Not under the lock of the maps, which his closures may need.
            self.pages.settle(pages);
            let maps = self.maps.change();
            let mut held = self.pages.lock();
            if held.others_take(pages) {
                continue;
            }
            let chosen: Vec<_> = held.all_here(pages.clone()).collect();
            chosen.iter().for_each(|&(page, _)| held.take_out(page));
            drop(held);
            maps.clean(pages, system, &mut batch);
            break chosen;
        };
        let mut failed = system.finish(batch).is_err();
        for (page, frame) in chosen {
            if !failed && let Err(error) = self.take_if_written(page, frame, Some(system)) {
                log::warn!("{}: page {page} is not taken: {error}", self.pager.name);
                failed = true;
            }
            self.pages.done(page, Outcome::Stays);
        }
        if failed { Err(Errno::EIO) } else { Ok(()) }
    }
}
