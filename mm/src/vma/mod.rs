//! Virtual memory areas: pure values, no frames, no tables.

pub mod tree;
