//! `--khugepaged`: how often small pages are made huge ones.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use mm::khugepaged::SCAN_SLEEP_MILLISECS;

use super::HugePages;
use crate::task::{self, Family};

/// Milliseconds from one look to the next; none if there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Khugepaged(Option<u64>);

impl Khugepaged {
    /// Begins it, where there are huge pages at all.
    pub(super) fn start(
        self,
        thp: HugePages,
        family: &Arc<Family>,
    ) -> io::Result<Option<task::Khugepaged>> {
        let every = self.0.filter(|_| thp != HugePages::Never).map(Duration::from_millis);
        every.map(|every| task::Khugepaged::start(family, every)).transpose()
    }
}

impl Default for Khugepaged {
    fn default() -> Self {
        Khugepaged(Some(SCAN_SLEEP_MILLISECS))
    }
}

impl FromStr for Khugepaged {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Khugepaged(None)),
            _ => match text.parse() {
                Ok(millis) if millis > 0 => Ok(Khugepaged(Some(millis))),
                _ => Err("it is a number of milliseconds, more than none, or off"),
            },
        }
    }
}

impl fmt::Display for Khugepaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(millis) => write!(f, "{millis}"),
            None => f.write_str("off"),
        }
    }
}
