//! A process's users, or its groups: four of each (credentials(7)).

use mm::error::Errno;

/// What leaves a number as it is, and is none.
const NONE: u32 = u32::MAX;

/// What one may choose from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Choice {
    /// All there are: a capability is for that.
    All,
    /// What one has in one way or another.
    Own,
}

/// Four numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ids {
    /// Whose it is.
    pub real: u32,
    /// Whose rights it has.
    pub effective: u32,
    /// Whose it can have again.
    pub saved: u32,
    /// Whose it has with files.
    pub files: u32,
}

/// Which of them are to become what; `u32::MAX` leaves one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewIds {
    /// setuid(2): all of them, or the effective one.
    One(u32),
    /// setreuid(2): the real and the effective one.
    Two(u32, u32),
    /// setresuid(2): the real, the effective and the saved one.
    Three(u32, u32, u32),
}

impl Ids {
    /// All the same.
    #[must_use]
    pub const fn all(id: u32) -> Self {
        Ids { real: id, effective: id, saved: id, files: id }
    }

    /// Whether one of the first three is root's.
    pub(super) fn has_root(&self) -> bool {
        [self.real, self.effective, self.saved].contains(&0)
    }

    /// What they become.
    ///
    /// # Errors
    /// `EINVAL` [`NewIds::One`] is none; `EPERM` one that is none of those it may choose from.
    pub(super) fn changed(&self, new: NewIds, choice: Choice) -> Result<Self, Errno> {
        let Ids { real, effective, saved, .. } = *self;
        let or = |id: u32, old: u32| if id == NONE { old } else { id };
        let allowed =
            |id: u32, from: &[u32]| choice == Choice::All || id == NONE || from.contains(&id);
        let changed = match new {
            NewIds::One(NONE) => return Err(Errno::EINVAL),
            NewIds::One(id) if choice == Choice::All => Ids::all(id),
            NewIds::One(id) if [real, saved].contains(&id) => Ids { effective: id, ..*self },
            NewIds::One(_) => return Err(Errno::EPERM),
            NewIds::Two(a, b) => {
                if !allowed(a, &[real, effective]) || !allowed(b, &[real, effective, saved]) {
                    return Err(Errno::EPERM);
                }
                let now = or(b, effective);
                let saves = a != NONE || b != NONE && b != real;
                let saved = if saves { now } else { saved };
                Ids { real: or(a, real), effective: now, saved, files: now }
            }
            NewIds::Three(a, b, c) => {
                // Nothing at all, not even with files, if nothing changes.
                if [or(a, real), or(b, effective), or(c, saved)] == [real, effective, saved]
                    && (b == NONE || b == self.files)
                {
                    return Ok(*self);
                }
                if ![a, b, c].iter().all(|&id| allowed(id, &[real, effective, saved])) {
                    return Err(Errno::EPERM);
                }
                let (real, effective) = (or(a, real), or(b, effective));
                Ids { real, effective, saved: or(c, saved), files: effective }
            }
        };
        Ok(Ids { files: changed.effective, ..changed })
    }

    /// That of files becomes another, if it may.
    pub(super) fn set_files(&mut self, id: u32, choice: Choice) {
        let own = [self.real, self.effective, self.saved, self.files];
        if id != NONE && (choice == Choice::All || own.contains(&id)) {
            self.files = id;
        }
    }
}
