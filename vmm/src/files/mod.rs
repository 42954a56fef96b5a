//! What the descriptors of the guest's processes stand for.
//!
//! ```text
//!   process ──> Descriptors ── number, FD_CLOEXEC ──> Open ── position, O_APPEND ──> object
//!               a child has a copy                    dup and fork share it          stream, memfd,
//!                                                                                    userfaultfd
//! ```
//!
//! Linux's names are `files_struct`, `file` and `inode`.

mod descriptors;
mod memfd;
mod open;
mod stream;

pub use descriptors::{DESCRIPTORS, Descriptors};
pub use memfd::{LONGEST_NAME, Memfd};
pub use open::{Object, Open};
pub use stream::Stream;
