//! What the descriptors of the guest's processes stand for.
//!
//! ```text
//!   process ──> Descriptors ── number, FD_CLOEXEC ──> Open ── position, O_APPEND ──> object
//!               a child has a copy                    dup and fork share it          a stream, a userfaultfd,
//!                                                                                    or Content: a memfd, a file
//! ```
//!
//! Linux's names are `files_struct`, `file` and `inode`.

mod attributes;
mod content;
mod copies;
mod descriptors;
mod epoll;
mod memory_file;
mod namespace;
mod open;
mod permission;
mod room;
mod status;
mod stream;
pub mod tree;
mod userfault;

pub use attributes::{Attributes, SetTime};
pub use content::{Content, status_of};
pub use copies::Copies;
pub use descriptors::{DESCRIPTORS, Descriptors};
pub use epoll::{Epoll, Event};
pub use memory_file::{LONGEST_NAME, Memory, MemoryFile};
pub use namespace::{Grant, Paths, root};
pub use open::{Awaited, Object, Open};
pub use permission::{
    Access, check as check_access, check_link, check_owner, check_removal, check_status,
};
pub use room::{Room, Taken};
pub use status::{FileKind, FileStatus, STATX, Timestamp};
pub use stream::Stream;
pub use userfault::{MESSAGE, UserfaultFile};
pub(crate) use userfault::{Read as UserfaultRead, of_fork};
