//! The VMA set.
