//! From a path to a place (Linux's `fs/namei.c`, path_resolution(7)).

use std::sync::Arc;

use mm::error::Errno;

use super::LONGEST_NAME;
use super::node::Node;
use super::place::Place;
use crate::files::status::FileKind;
use crate::files::{Access, check_access};

/// The most links that are followed in one walk (`MAXSYMLINKS`).
const MOST_LINKS: u32 = 40;

/// What is done about a link that the whole path leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LastLink {
    /// It is followed.
    Follow,
    /// It is what is wanted.
    Stay,
}

/// How a path ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Last {
    /// With a name.
    Name(Vec<u8>),
    /// With `.`.
    Here,
    /// With `..`.
    Above,
    /// It is `/`, as often as one likes.
    Root,
}

/// Where a path leads, but for its last part.
#[derive(Clone, Debug)]
pub struct Walked {
    /// The directory.
    pub directory: Arc<Place>,
    /// What follows.
    pub last: Last,
    /// Whether a slash follows that: it must be a directory then.
    pub slash: bool,
}

/// Where a walk begins, and how far it may go.
struct Walk<'a> {
    root: &'a Arc<Place>,
    links: u32,
}

/// Walks to what a path leads to.
///
/// # Errors
/// `ENOENT` an empty path, or nothing there; `EACCES` a directory that it may not walk through; `ENOTDIR` a name in, or a slash after, what is no directory; `ELOOP` too many
/// links; `ENAMETOOLONG` a name; what the host says.
pub fn find(
    root: &Arc<Place>,
    from: &Arc<Place>,
    path: &[u8],
    last: LastLink,
) -> Result<Arc<Place>, Errno> {
    Walk { root, links: 0 }.find(from, path, last)
}

/// Walks to the directory of what a path leads to, which need not be there.
///
/// # Errors
/// As of [`find`].
pub fn find_parent(root: &Arc<Place>, from: &Arc<Place>, path: &[u8]) -> Result<Walked, Errno> {
    Walk { root, links: 0 }.parent(from, path)
}

impl Walk<'_> {
    fn find(
        &mut self,
        from: &Arc<Place>,
        path: &[u8],
        last: LastLink,
    ) -> Result<Arc<Place>, Errno> {
        let walked = self.parent(from, path)?;
        let directory = walked.directory;
        let found = match walked.last {
            Last::Root | Last::Here => directory,
            Last::Above => directory.parent(),
            Last::Name(name) => {
                let found = directory.child(&name)?;
                let follow = last == LastLink::Follow || walked.slash;
                if follow { self.follow(&directory, found)? } else { found }
            }
        };
        if walked.slash && !found.node().is_directory() {
            return Err(Errno::ENOTDIR);
        }
        Ok(found)
    }

    /// Goes on where something leads, if it is a link.
    fn follow(&mut self, directory: &Arc<Place>, found: Arc<Place>) -> Result<Arc<Place>, Errno> {
        if found.node().kind() != FileKind::Link {
            return Ok(found);
        }
        if self.links == MOST_LINKS {
            return Err(Errno::ELOOP);
        }
        self.links += 1;
        if let Node::Made(made) = found.node()
            && let Some(jump) = made.jump()
        {
            return jump;
        }
        self.find(directory, &found.node().target()?, LastLink::Follow)
    }

    fn parent(&mut self, from: &Arc<Place>, path: &[u8]) -> Result<Walked, Errno> {
        let mut at = match path.first() {
            None => return Err(Errno::ENOENT),
            Some(b'/') => Arc::clone(self.root),
            Some(_) => Arc::clone(from),
        };
        let slash = path.last() == Some(&b'/');
        let mut parts = path.split(|&byte| byte == b'/').filter(|part| !part.is_empty()).peekable();
        let mut last = Last::Root;
        while let Some(part) = parts.next() {
            if !at.node().is_directory() {
                return Err(Errno::ENOTDIR);
            }
            check_access(at.node(), Access::EXECUTE)?;
            last = match part {
                b"." => Last::Here,
                b".." => Last::Above,
                name if name.len() > LONGEST_NAME => return Err(Errno::ENAMETOOLONG),
                name => Last::Name(name.to_vec()),
            };
            if parts.peek().is_some() {
                at = match &last {
                    Last::Root | Last::Here => at,
                    Last::Above => at.parent(),
                    Last::Name(name) => {
                        let found = at.child(name)?;
                        self.follow(&at, found)?
                    }
                };
            }
        }
        if !at.node().is_directory() {
            return Err(Errno::ENOTDIR);
        }
        Ok(Walked { directory: at, last, slash })
    }
}
