//! Guest memory in ordinary memory.

/// Guest memory in ordinary memory.
#[derive(Debug)]
pub struct SoftwareMemory {}
