//! What paths lead to.
//!
//! ```text
//!   "/tmp/a/../b" ──> walk ──> Place ── name, above ──> Node
//!                      │        (a dentry with its mount)  ├ Directory, File, Link   in memory: /, /tmp, /dev/shm
//!                      │                                   ├ Device                  /dev/null ...
//!                      └ symbolic links, .., mounts        ├ Granted                 a directory of the host
//!                                                          └ Made                    /proc
//! ```
//!
//! A walk goes from name to name itself, and asks each node for the next one only: nothing of the host is ever found by a
//! path of the guest's, and `..` leads to where the walk came from. So there is no way out of what was granted, by a
//! link, by `..`, or by somebody who moves a directory meanwhile. Linux's names are `path`, `dentry` and `inode`.

mod device;
mod directory;
mod granted;
mod link;
mod made;
mod mounts;
mod node;
mod place;
mod rename;
mod walk;

pub use device::Device;
pub use directory::{DEVICES, Directory, MemoryTree};
pub use granted::{Granted, GrantedTree};
pub use link::Link;
pub use made::{Jump, Made, MadeFile, Offsets};
pub use mounts::Mounts;
pub use node::{Entry, Make, Node, Removed};
pub use place::Place;
pub use rename::Renaming;
pub use walk::{Last, LastLink, Walked, find, find_parent};

/// The longest name, in bytes (`NAME_MAX`).
pub const LONGEST_NAME: usize = 255;
