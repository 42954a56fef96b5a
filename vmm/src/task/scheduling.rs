//! How a process wants to be scheduled (sched(7)). It is kept and told; the host's scheduler knows nothing of it.

/// How a process wants to be scheduled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scheduling {
    /// By which of the policies that are not for real time.
    pub policy: Policy,
    /// How nice it is, from -20 to 19.
    pub nice: i32,
    /// What its children have of it.
    pub children: Children,
}

/// A policy, with its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// `SCHED_OTHER`.
    #[default]
    Other = 0,
    /// `SCHED_BATCH`.
    Batch = 3,
    /// `SCHED_IDLE`.
    Idle = 5,
}

/// What children have of their parent's scheduling.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Children {
    /// The same.
    #[default]
    Same,
    /// None that is less nice than usual (`SCHED_RESET_ON_FORK`).
    NotLessNice,
}

impl Scheduling {
    /// A child's (`sched_fork`).
    #[must_use]
    pub fn inherited(self) -> Self {
        match self.children {
            Children::Same => self,
            Children::NotLessNice => {
                Scheduling { nice: self.nice.max(0), children: Children::Same, ..self }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_as_its_parent_unless_that_is_reset() {
        let own = Scheduling { policy: Policy::Idle, nice: -5, children: Children::Same };
        assert_eq!(own.inherited(), own);
        let own = Scheduling { children: Children::NotLessNice, ..own };
        let child = Scheduling { policy: Policy::Idle, nice: 0, children: Children::Same };
        assert_eq!(own.inherited(), child);
        assert_eq!(Scheduling { nice: 3, ..own }.inherited().nice, 3);
    }
}
