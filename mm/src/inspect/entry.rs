//! A last-level entry for people, as the page-table dump and a page's history write it.
//!
//! The permissions are ring 3's, `held` where `PROT_NONE` hides a page that is there. A and D are the
//! hardware's bits, `a` an A that was cleared to spare a flush. `ahead`: brought in before it was asked for.

use std::fmt;

use crate::paging::{Access, Entry, Owner};

/// An entry that names a frame, without the frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rights(pub(super) Entry);

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = self.0;
        let letter = |set: bool, letter: char| if set { letter } else { '-' };
        let access = entry.access();
        if access.is_empty() {
            write!(f, "held ")?;
        } else {
            let letters = [(Access::READ, 'r'), (Access::WRITE, 'w'), (Access::EXECUTE, 'x')];
            let letters = letters.map(|(what, name)| letter(access.contains(what), name));
            write!(f, "{} ", letters.iter().collect::<String>())?;
        }
        let accessed = if entry.is_young() { 'A' } else { letter(entry.is_referenced(), 'a') };
        let owner = match entry.owner() {
            Owner::Process => "own",
            Owner::Backing => "backing",
        };
        let ahead = if entry.is_ahead() { " ahead" } else { "" };
        write!(f, "{accessed}{} {owner}{ahead}", letter(entry.is_dirty(), 'D'))
    }
}

/// An entry that names no frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frameless(pub(super) Entry);

impl fmt::Display for Frameless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.swap_slot() {
            Some(slot) => write!(f, "swapped, place {:#x}", slot.number()),
            None if self.0.is_guard() => f.write_str("guard"),
            None if self.0.is_poison() => f.write_str("poison"),
            None if self.0.is_protected() => f.write_str("protected"),
            None if self.0.is_empty() => f.write_str("empty"),
            None => f.write_str("unknown"),
        }
    }
}
