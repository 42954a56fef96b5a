//! Memory policies of a shared object, by page: who maps it has them in common (Linux's `shared_policy`,
//! `mpol_set_shared_policy`, `mpol_shared_policy_lookup`).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Errno;
use crate::vma::policy::Policy;

/// The most ranges that an object has: they are in the host's memory.
const MOST: usize = 1 << 16;

/// The policies of an object's pages.
#[derive(Debug)]
pub struct SharedPolicies {
    /// What is added to a page's index where pages are interleaved: so objects do not all begin with one node.
    base: u64,
    /// By the first page, with the page after the last one. No two overlap. A leaf lock.
    ranges: Mutex<BTreeMap<u64, (u64, Policy)>>,
}

impl SharedPolicies {
    /// None; `base` is added to a page's index where pages are interleaved.
    pub(super) fn new(base: u64) -> Self {
        SharedPolicies { base, ranges: Mutex::default() }
    }

    /// What is added to a page's index where pages are interleaved.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// The policy of a page; `None` for the running task's.
    pub(crate) fn of(&self, page: u64) -> Option<Policy> {
        let ranges = self.lock();
        let (_, &(end, policy)) = ranges.range(..=page).next_back()?;
        (page < end).then_some(policy)
    }

    /// Sets the policy of pages, or takes it away.
    ///
    /// # Errors
    /// `ENOMEM`: it has [`MOST`] ranges already, and what adjoins has other policies.
    pub(crate) fn set(&self, pages: Range<u64>, policy: Option<Policy>) -> Result<(), Errno> {
        let mut ranges = self.lock();
        let Some(policy) = policy else {
            clear(&mut ranges, &pages);
            return Ok(());
        };
        if pages.is_empty() {
            return Ok(());
        }
        if ranges.len() >= MOST {
            return Err(Errno::ENOMEM);
        }
        clear(&mut ranges, &pages);
        let (mut start, mut end) = (pages.start, pages.end);
        let before = ranges.range(..start).next_back().map(|(&start, &range)| (start, range));
        if let Some((first, _)) = before.filter(|&(_, range)| range == (start, policy)) {
            start = first;
        }
        if let Some((after, _)) = ranges.get(&end).copied().filter(|&(_, other)| other == policy) {
            ranges.remove(&end);
            end = after;
        }
        ranges.insert(start, (end, policy));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, (u64, Policy)>> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes away what is known of pages.
fn clear(ranges: &mut BTreeMap<u64, (u64, Policy)>, pages: &Range<u64>) {
    let last = ranges.range(..pages.end).next_back().map(|(&start, &range)| (start, range));
    if let Some((_, (end, after))) = last.filter(|(_, (end, _))| *end > pages.end) {
        ranges.insert(pages.end, (end, after));
    }
    if let Some((_, (end, _))) = ranges.range_mut(..pages.start).next_back() {
        *end = pages.start.min(*end);
    }
    let covered: Vec<u64> = ranges.range(pages.clone()).map(|(&start, _)| start).collect();
    for start in covered {
        ranges.remove(&start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_for_the_middle_leaves_the_ends_and_one_over_all_leaves_none() {
        let (bind, prefer) = (Policy::new(2, 1, 3).unwrap(), Policy::new(1, 2, 3).unwrap());
        let policies = SharedPolicies::new(0);
        let all = || (0..8).map(|page| policies.of(page)).collect::<Vec<_>>();
        policies.set(1..7, bind).unwrap();
        assert_eq!(all(), [None, bind, bind, bind, bind, bind, bind, None]);
        policies.set(3..5, prefer).unwrap();
        assert_eq!(all(), [None, bind, bind, prefer, prefer, bind, bind, None]);
        policies.set(4..6, None).unwrap();
        assert_eq!(all(), [None, bind, bind, prefer, None, None, bind, None]);
        policies.set(0..8, bind).unwrap();
        assert_eq!(all(), [bind; 8]);
        policies.set(2..u64::MAX, None).unwrap();
        assert_eq!(all(), [bind, bind, None, None, None, None, None, None]);
        // What is alike is one range.
        policies.set(2..3, bind).unwrap();
        policies.set(4..5, bind).unwrap();
        policies.set(3..4, bind).unwrap();
        assert_eq!(
            (all()[..6].to_vec(), policies.lock().len()),
            ([bind, bind, bind, bind, bind, None].to_vec(), 1)
        );
    }
}
