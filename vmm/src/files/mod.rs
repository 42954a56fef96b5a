//! What the descriptors of the guest's processes stand for.
//!
//! ```text
//!   process ──> Descriptors ── number, FD_CLOEXEC ──> Open ── position, O_APPEND ──> object
//!               a child has a copy                    dup and fork share it          a stream, a userfaultfd,
//!                                                                                    or Content: a memfd, a file
//! ```
//!
//! Linux's names are `files_struct`, `file` and `inode`.

mod content;
mod descriptors;
mod memfd;
mod open;
mod stream;

pub use content::{Content, Stat, stat_of};
pub use descriptors::{DESCRIPTORS, Descriptors};
pub use memfd::{LONGEST_NAME, Memfd, Memory};
pub use open::{Object, Open};
pub use stream::Stream;
