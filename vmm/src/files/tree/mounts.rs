//! Which trees hang where.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::node::Node;

/// What is mounted at a path, and below it.
#[derive(Clone, Debug, Default)]
pub struct Mounts {
    root: Option<Node>,
    below: BTreeMap<Vec<u8>, Arc<Mounts>>,
}

impl Mounts {
    /// Hangs a tree at a path, in place of what hung there; what hangs below stays.
    pub fn add(&mut self, path: &[&[u8]], node: Node) {
        match path {
            [] => self.root = Some(node),
            [first, rest @ ..] => {
                let below = self.below.entry(first.to_vec()).or_default();
                Arc::make_mut(below).add(rest, node);
            }
        }
    }

    /// What hangs exactly here.
    #[must_use]
    pub fn root(&self) -> Option<&Node> {
        self.root.as_ref()
    }

    /// What hangs at a name, and below it.
    #[must_use]
    pub fn below(&self, name: &[u8]) -> Option<&Arc<Mounts>> {
        self.below.get(name)
    }
}
