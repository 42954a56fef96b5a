//! What the random calls have to meet.

/// Calls, and all answers that they meet with the fixed seeds.
pub const EXPECTED: &[(&str, &str)] = &[];
