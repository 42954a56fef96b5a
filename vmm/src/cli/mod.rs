//! The command line.

pub mod nested;
