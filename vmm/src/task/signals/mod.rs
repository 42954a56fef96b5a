//! Signals: what a process wants done about them, those that wait, and how a handler is called (signal(7)).
//!
//! ```text
//!   number ── info ── actions      a signal; what is told about it; what is wanted
//!   pending ── state               those that wait; all about one process's
//!   trap                           from an exception to a signal
//!   stack ── frame ── xstate       what a handler finds on its stack (pure)
//!   restart                        what becomes of a call that is interrupted
//!   deliver                        what is due as a task goes back to its program
//!   timers                         signals at a time
//!   death                          how a program was killed
//!   doing                          whether a task runs, sleeps or has stopped
//! ```

mod actions;
mod death;
mod deliver;
mod doing;
mod frame;
mod info;
mod number;
mod pending;
mod restart;
mod stack;
mod state;
mod trap;
mod xstate;

pub use actions::SignalAction;
pub use death::{Core, Death, Place};
pub use deliver::Delivery;
pub(crate) use frame::{
    CONTEXT as FRAME_FLAGS, MASK as FRAME_MASK, REGISTER_WORDS, REGISTERS as FRAME_REGISTERS,
    Returned, STACK as FRAME_STACK, Selectors, largest,
};
pub use info::{ChildChange, Info, KEPT, SI_TKILL, SI_USER};
pub use number::{Effect, Signal, SignalSet};
pub use pending::{QueueFull, Queued};
pub use restart::{Continuation, InterruptedCall, Restart};
pub use stack::AltStack;
pub use state::{Due, Sent, Signals, To};
pub(super) use trap::{Details, Trap};
pub(crate) use trap::{PAGE_FAULT, exception, general_protection, page_fault};
pub(crate) use xstate::{NoState, frame_bytes, from_frame, raised};
