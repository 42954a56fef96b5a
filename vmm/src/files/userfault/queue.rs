//! What a userfaultfd is told, and who waits for it (Linux's `fault_pending_wqh`, `fault_wqh` and `event_wqh`).
//!
//! ```text
//!   a fault ──> pending ── read ──> told ─┬─ woken, or given up ──> its thread goes on
//!                  └──────────────────────┘
//!   an event ─> events ── read, or nobody will ──> its thread goes on
//! ```
//!
//! Each thread that waits has a bell of its own, and readers wait for the queue's, which rings while there is something to
//! be read. Woken is who is not in the queue any more.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mm::addr::{PageRange, VirtAddr};
use mm::error::Errno;
use mm::space::{SpaceHolder, SpaceUser};
use mm::userfault::{Accessor, Asked, Event, Features, GivenUp, Handler, Userfault, Waiting};

use super::bell::Bell;
use super::message::{Message, of_event, of_fault};
use crate::task::rest_of_thread;

/// The queue of a userfaultfd.
#[derive(Clone, Debug)]
pub(crate) struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    bell: Bell,
    /// What userfaultfd(2) was given, which that of a child has, too.
    flags: i32,
}

#[derive(Debug, Default)]
struct State {
    /// The memory that it is about.
    space: Option<SpaceHolder>,
    pending: VecDeque<Waiter>,
    told: Vec<Waiter>,
    events: VecDeque<EventWaiter>,
    /// Forks that a reader is about to have descriptors for.
    forks: Vec<EventWaiter>,
    next: u64,
    released: bool,
}

/// Who waits for a fault.
#[derive(Debug)]
struct Waiter {
    number: u64,
    /// What is looked at to wake it.
    addr: VirtAddr,
    message: Message,
    bell: Arc<Bell>,
}

/// Who waits until an event has been read.
#[derive(Debug)]
struct EventWaiter {
    number: u64,
    event: Event,
    bell: Arc<Bell>,
    /// Whether it has been read.
    read: Arc<AtomicBool>,
}

impl EventWaiter {
    /// It has been read.
    fn complete(self) {
        self.read.store(true, Ordering::Release);
        self.bell.ring();
    }
}

/// What was read.
#[derive(Debug)]
pub(crate) enum Read {
    /// A message.
    Message(Message),
    /// A fork: the child's userfaultfd is to be opened. Its number is told to [`Queue::forked`].
    Fork(u64, Arc<Userfault>),
}

impl Queue {
    /// An empty one; `flags` are userfaultfd(2)'s.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE` the host allows no more.
    pub(super) fn new(flags: i32) -> Result<Self, Errno> {
        Ok(Queue(Arc::new(Shared { state: Mutex::default(), bell: Bell::new()?, flags })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What userfaultfd(2) was given.
    pub(crate) fn flags(&self) -> i32 {
        self.0.flags
    }

    /// Rings while there is something to be read.
    pub(crate) fn bell(&self) -> &Bell {
        &self.0.bell
    }

    /// Takes the next message, if there is one: faults come first.
    pub(crate) fn read(&self) -> Option<Read> {
        let mut state = self.lock();
        let read = match state.pending.pop_front() {
            Some(waiter) => {
                let message = waiter.message;
                state.told.push(waiter);
                Some(Read::Message(message))
            }
            None => state.events.pop_front().map(|waiter| match &waiter.event {
                Event::Fork(child) => {
                    let read = Read::Fork(waiter.number, Arc::clone(child));
                    // It waits on, but nobody else reads it.
                    state.forks.push(waiter);
                    read
                }
                event => {
                    let message = of_event(event);
                    waiter.complete();
                    Read::Message(message)
                }
            }),
        };
        self.set_bell(&state);
        read
    }

    /// The reader of a fork has its descriptor, or cannot have one: then it is to be read again.
    pub(crate) fn forked(&self, number: u64, outcome: Result<(), Errno>) {
        let mut state = self.lock();
        let Some(at) = state.forks.iter().position(|waiter| waiter.number == number) else {
            // Who forked is gone.
            return;
        };
        let waiter = state.forks.remove(at);
        match outcome {
            Ok(()) => waiter.complete(),
            Err(_) => state.events.push_front(waiter),
        }
        self.set_bell(&state);
    }

    /// What is done with the memory that it is about, while that is there.
    pub(crate) fn with_space<T>(&self, act: impl FnOnce(Option<&SpaceUser>) -> T) -> T {
        let user = self.lock().space.as_ref().and_then(SpaceHolder::user);
        let result = act(user.as_ref());
        if let Some(user) = user
            && let Err(broken) = user.put()
        {
            log::error!("memory that a userfaultfd was about cannot be given up: {broken}");
        }
        result
    }

    /// Nobody has it open any more: who waits goes on, once nothing is registered with it.
    pub(super) fn release(&self, uffd: &Arc<Userfault>) {
        uffd.release();
        self.with_space(|space| {
            if let Some(space) = space
                && let Err(broken) = space.change().userfault_release(uffd)
            {
                log::error!("memory stays registered with a userfaultfd: {broken}");
            }
        });
        let mut state = self.lock();
        state.released = true;
        let State { space, pending, told, events, forks, .. } = &mut *state;
        let holder = space.take();
        pending.drain(..).chain(told.drain(..)).for_each(|waiter| waiter.bell.ring());
        events.drain(..).chain(forks.drain(..)).for_each(|waiter| waiter.bell.ring());
        drop(state);
        if let Some(holder) = holder
            && let Err(broken) = holder.put()
        {
            log::error!("memory that a userfaultfd was about cannot be freed: {broken}");
        }
    }

    /// Who waits goes on by itself: it is not to be told any more.
    fn forget(&self, number: u64) {
        let mut state = self.lock();
        state.pending.retain(|waiter| waiter.number != number);
        state.told.retain(|waiter| waiter.number != number);
        state.events.retain(|waiter| waiter.number != number);
        state.forks.retain(|waiter| waiter.number != number);
        self.set_bell(&state);
    }

    /// Rings the bell if there is something to be read, and only then.
    fn set_bell(&self, state: &State) {
        if state.pending.is_empty() && state.events.is_empty() {
            self.0.bell.silence();
        } else {
            self.0.bell.ring();
        }
    }
}

impl Handler for Queue {
    fn ask(&self, asked: Asked, features: Features) -> Box<dyn Waiting> {
        let bell = match Bell::new() {
            Ok(bell) => Arc::new(bell),
            Err(errno) => return Box::new(Refused(errno)),
        };
        let message = of_fault(&asked, features, mm::current::pid());
        let mut state = self.lock();
        let number = state.number();
        if state.released {
            bell.ring();
        } else {
            let waiter =
                Waiter { number, addr: asked.told_at(features), message, bell: Arc::clone(&bell) };
            state.pending.push_back(waiter);
        }
        self.set_bell(&state);
        Box::new(Wait { queue: self.clone(), number, bell })
    }

    fn wake(&self, range: PageRange) {
        let mut state = self.lock();
        let State { pending, told, .. } = &mut *state;
        let stays = |waiter: &Waiter| {
            let woken = range.contains(waiter.addr);
            if woken {
                waiter.bell.ring();
            }
            !woken
        };
        pending.retain(stays);
        told.retain(stays);
        self.set_bell(&state);
    }

    fn tell(&self, event: Event) -> Box<dyn Waiting> {
        let bell = match Bell::new() {
            Ok(bell) => Arc::new(bell),
            Err(errno) => return Box::new(Refused(errno)),
        };
        let read = Arc::new(AtomicBool::new(false));
        let mut state = self.lock();
        let number = state.number();
        if state.released {
            bell.ring();
        } else {
            let (bell, read) = (Arc::clone(&bell), Arc::clone(&read));
            state.events.push_back(EventWaiter { number, event, bell, read });
        }
        self.set_bell(&state);
        Box::new(EventWait { wait: Wait { queue: self.clone(), number, bell }, read })
    }

    fn of_child(&self) -> Result<Arc<dyn Handler>, Errno> {
        let queue = Queue::new(self.0.flags).map_err(|_| Errno::ENOMEM)?;
        Ok(Arc::new(queue))
    }

    fn set_space(&self, space: SpaceHolder) {
        self.lock().space = Some(space);
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// A thread's wait.
struct Wait {
    queue: Queue,
    number: u64,
    bell: Arc<Bell>,
}

impl Waiting for Wait {
    fn wait(self: Box<Self>, accessor: Accessor) -> Result<(), GivenUp> {
        let waited = rest_of_thread(self.bell.host(), accessor);
        self.queue.forget(self.number);
        waited.map_err(|_| GivenUp)
    }
}

/// The same for an event.
struct EventWait {
    wait: Wait,
    read: Arc<AtomicBool>,
}

impl Waiting for EventWait {
    fn wait(self: Box<Self>, accessor: Accessor) -> Result<(), GivenUp> {
        let EventWait { wait, read } = *self;
        // Read is read, also if a signal came as well.
        let _ = Box::new(wait).wait(accessor);
        if read.load(Ordering::Acquire) { Ok(()) } else { Err(GivenUp) }
    }
}

/// There is nothing to wait with.
struct Refused(Errno);

impl Waiting for Refused {
    fn wait(self: Box<Self>, _: Accessor) -> Result<(), GivenUp> {
        log::error!("a userfaultfd's fault cannot be waited for: {}", self.0);
        // A program's access comes again.
        std::thread::yield_now();
        Err(GivenUp)
    }
}
