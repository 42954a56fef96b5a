//! System calls: which there are and how they are printed.

mod decode;
mod flags;
mod structs;
mod table;
mod text;

pub use decode::{Call, Line, line};
pub use table::name;
