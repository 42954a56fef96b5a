//! The frame table and the allocator of frames.

use crate::addr::{Frame, FrameRun};
use crate::error::Broken;

/// What a frame is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    /// A page of a program.
    Data,
    /// A page table.
    Table,
}

/// Counts of the frame table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrameStats {}

/// All frames of one machine.
#[derive(Debug)]
pub struct Frames {}

impl Frames {
    /// Gives up one reference to each frame of the run.
    pub(crate) fn put_run(&self, _run: FrameRun) -> Result<(), Broken> {
        Ok(())
    }
    /// Gives up one reference.
    pub fn put(&self, _frame: Frame) {}
}
