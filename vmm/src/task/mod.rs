//! Processes and tasks: a process is an address space, streams and limits; a task is a vCPU on a host
//! thread that runs in it.

mod exec;
mod process;
mod run;
mod signal;
mod stats;

pub use exec::{ExecError, Launch, Loaded, exec};
pub(crate) use exec::{clear_tails, map_image};
pub use process::{Identity, Process, SignalAction};
pub use run::{End, Task, TaskError, Timing};
pub use signal::{Code, Death, Place, Signalled};
pub use stats::{CallStats, Exits, Stats};
