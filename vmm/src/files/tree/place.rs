//! Where something is: what it is, by which name, in which place (Linux's `path`).

use std::sync::Arc;

use mm::error::Errno;

use super::directory::MemoryTree;
use super::mounts::Mounts;
use super::node::Node;
use crate::files::room::Room;

/// A place that a path leads to.
#[derive(Debug)]
pub struct Place {
    node: Node,
    /// The directory, and the name there; `None` for the root.
    above: Option<(Arc<Place>, Vec<u8>)>,
    /// What hangs here and below.
    mounts: Option<Arc<Mounts>>,
}

impl Place {
    /// The root of everything: what hangs there.
    #[must_use]
    pub fn root(node: Node, mounts: Arc<Mounts>) -> Arc<Self> {
        let node = mounts.root().cloned().unwrap_or(node);
        Arc::new(Place { node, above: None, mounts: Some(mounts) })
    }

    /// A place that no path leads to, which calls itself `path`.
    #[must_use]
    pub fn alone(node: Node, path: &[u8]) -> Arc<Self> {
        let root = Node::Directory(MemoryTree::root(0, 0o555, &Room::new(0)));
        let root = Place::root(root, Arc::default());
        let name = path.strip_prefix(b"/").unwrap_or(path).to_vec();
        Arc::new(Place { node, above: Some((root, name)), mounts: None })
    }

    /// What is there.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its name in the directory above; empty for the root.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.above.as_ref().map_or(&[], |(_, name)| name)
    }

    /// Where a name in it leads, links not followed.
    ///
    /// # Errors
    /// As of [`Node::lookup`].
    pub fn child(self: &Arc<Self>, name: &[u8]) -> Result<Arc<Self>, Errno> {
        let mounts = self.mounts_of(name);
        let node = match mounts.as_ref().and_then(|mounts| mounts.root()) {
            Some(root) => root.clone(),
            None => self.node.lookup(name)?,
        };
        Ok(self.with(name, node))
    }

    /// The place of something that has just been found by a name in it.
    #[must_use]
    pub fn with(self: &Arc<Self>, name: &[u8], node: Node) -> Arc<Self> {
        let above = Some((Arc::clone(self), name.to_vec()));
        Arc::new(Place { node, above, mounts: self.mounts_of(name) })
    }

    fn mounts_of(&self, name: &[u8]) -> Option<Arc<Mounts>> {
        self.mounts.as_ref()?.below(name).cloned()
    }

    /// Whether a tree hangs at a name in it, or below: it cannot be moved or removed.
    #[must_use]
    pub fn is_busy(&self, name: &[u8]) -> bool {
        self.mounts_of(name).is_some()
    }

    /// Where `..` leads: the root's is itself.
    #[must_use]
    pub fn parent(self: &Arc<Self>) -> Arc<Self> {
        self.above.as_ref().map_or_else(|| Arc::clone(self), |(above, _)| Arc::clone(above))
    }

    /// Where it is now, if it is a directory in memory that was moved since it was found here, or one above it was.
    #[must_use]
    pub fn now(self: &Arc<Self>) -> Arc<Self> {
        let Node::Directory(own) = &self.node else { return Arc::clone(self) };
        if self.is_still_there() {
            return Arc::clone(self);
        }
        let Some((root, names)) = own.way() else { return Arc::clone(self) };
        let root = Node::Directory(root);
        let mut at = Some(Arc::clone(self));
        while let Some(place) = at {
            if place.node.is(&root) {
                let down = |place: Arc<Place>, (name, node): (Vec<u8>, _)| {
                    place.with(&name, Node::Directory(node))
                };
                return names.into_iter().fold(place, down);
            }
            at = place.above.as_ref().map(|(above, _)| Arc::clone(above));
        }
        Arc::clone(self)
    }

    /// Whether each directory in memory from here up is what its name leads to.
    fn is_still_there(&self) -> bool {
        let mut place = self;
        while let Some((above, name)) = &place.above {
            let hangs = place.mounts.as_ref().is_some_and(|mounts| mounts.root().is_some());
            if let (Node::Directory(directory), false) = (&above.node, hangs)
                && !directory.lookup(name).is_ok_and(|node| node.is(&place.node))
            {
                return false;
            }
            place = above;
        }
        true
    }

    /// Its path from the root.
    #[must_use]
    pub fn path(&self) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = self.above.as_ref();
        while let Some((above, name)) = at {
            names.push(name.as_slice());
            at = above.above.as_ref();
        }
        if names.is_empty() {
            return b"/".to_vec();
        }
        names.iter().rev().flat_map(|name| [b"/", *name].concat()).collect()
    }

    /// The same as text, as maps and messages have it.
    #[must_use]
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.path()).into_owned()
    }

    /// The path that a name in it has.
    #[must_use]
    pub fn shown_below(&self, name: &[u8]) -> String {
        let mut path = self.path();
        if path != b"/" {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        String::from_utf8_lossy(&path).into_owned()
    }

    /// Whether it is `other` or lies below that.
    #[must_use]
    pub fn is_within(&self, other: &Node) -> bool {
        let mut at = Some(self);
        while let Some(place) = at {
            if place.node.is(other) {
                return true;
            }
            at = place.above.as_ref().map(|(above, _)| &**above);
        }
        false
    }
}
