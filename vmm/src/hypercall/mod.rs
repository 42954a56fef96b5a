//! System calls: which there are and how they are printed.

pub mod decode;
pub mod flags;
mod structs;
pub mod table;
pub mod text;
