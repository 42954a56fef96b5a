//! A symbolic link in memory.

use crate::files::attributes::Attributes;
use crate::files::room::Taken;
use crate::files::status::{FileKind, FileStatus};

/// A symbolic link.
#[derive(Debug)]
pub struct Link {
    target: Vec<u8>,
    attributes: Attributes,
    _room: Taken,
}

impl Link {
    /// A link that leads to `target`.
    #[must_use]
    pub fn new(target: Vec<u8>, device: u64, inode: u64, room: Taken) -> Self {
        let attributes = Attributes::new(FileKind::Link, device, inode, 0o777, 0);
        Link { target, attributes, _room: room }
    }

    /// Where it leads.
    #[must_use]
    pub fn target(&self) -> Vec<u8> {
        self.attributes.read();
        self.target.clone()
    }

    /// What it has beside that.
    #[must_use]
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// What lstat(2) says.
    #[must_use]
    pub fn status(&self) -> FileStatus {
        self.attributes.status(self.target.len() as u64, 4096, 0)
    }
}
