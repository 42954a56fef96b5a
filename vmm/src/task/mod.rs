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
mod disposition;
mod exec;
mod family;
mod out_of_memory;
mod process;
mod replace;
mod rest;
mod run;
mod signal;
mod stats;
mod status;
mod table;

pub use background::Background;
pub use birth::{ChildOf, Newborn, Parent, Request, Sharing, spawn};
pub use disposition::{Sent, SignalAction, Signals};
pub use exec::{ExecError, Launch, Loaded, Program, exec, exec_in};
pub(crate) use exec::{clear_tails, map_image};
pub use family::{Family, FaultTotals, StartError, Target, Totals, usage};
pub use process::{Identity, Process, current};
pub use replace::Replacement;
pub use rest::rest;
pub use run::{End, Task, TaskError, Timing};
pub use signal::{Code, Death, Place, Signalled};
pub use stats::{CallStats, Exits, Stats};
pub use status::{Status, Usage};
pub use table::{Ended, Ends, Kinds, Taking, Wanted, Which};
