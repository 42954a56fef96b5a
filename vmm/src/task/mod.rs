//! Processes and tasks: a process is an address space, descriptors and limits; a task is a vCPU on a host
//! thread that runs in it.
//!
//! ```text
//!   Family ── the table of all processes: parents, zombies, waiting, signals, the common end
//!     Task ── a vCPU and its run loop, on a host thread of its own
//!       Process ── address space, descriptors, signals; birth: how one makes another
//! ```

mod background;
mod birth;
mod core_file;
mod exec;
mod family;
mod futex;
mod groups;
mod out_of_memory;
mod pidfd;
mod process;
mod replace;
mod rest;
mod run;
mod scheduling;
mod signals;
mod stats;
mod status;
mod table;
mod timers;
mod usage;

pub use background::Background;
pub use birth::{ChildOf, Handlers, Newborn, Parent, Request, Sharing, spawn};
pub use core_file::CoreFiles;
pub use exec::{ExecError, Launch, Loaded, Program, exec, exec_in};
pub(crate) use exec::{clear_tails, map_image};
pub use family::{Family, FaultTotals, StartError, Target, Totals};
pub use futex::{Futexes, Wait, Woken};
pub use pidfd::Pidfd;
pub use process::{Identity, Process};
pub use replace::Replacement;
pub use rest::{Interrupted, rest, rest_of_thread};
pub use run::{End, Task, TaskError, Timing};
pub use scheduling::{Children, Policy, Scheduling};
pub use signals::{
    AltStack, ChildChange, Continuation, Core, Death, Delivery, Due, Effect, Info, InterruptedCall,
    KEPT, Place, QueueFull, Queued, Restart, SI_TKILL, SI_USER, Sent, Signal, SignalAction,
    SignalSet, Signals, To,
};
pub(crate) use signals::{
    FRAME_FLAGS, FRAME_MASK, FRAME_REGISTERS, FRAME_STACK, NoState, REGISTER_WORDS, Returned,
    Selectors, frame_bytes, from_frame,
};
pub use stats::{CallStats, Exits, Stats};
pub use status::{Status, Usage, ticks};
pub use table::{Asked, Kinds, Taking, Told, Wanted, Which};
pub use timers::{Measured, Setting};
