//! How often something is done in the background: `--khugepaged`, `--ksm`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Milliseconds from one time to the next; none if it is never done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pause(Option<u64>);

impl Pause {
    /// Never.
    pub(super) const OFF: Self = Pause(None);

    /// So many milliseconds.
    pub(super) const fn of_millis(millis: u64) -> Self {
        Pause(Some(millis))
    }

    pub(super) fn duration(self) -> Option<Duration> {
        self.0.map(Duration::from_millis)
    }
}

impl FromStr for Pause {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Pause::OFF),
            _ => match text.parse() {
                Ok(millis) if millis > 0 => Ok(Pause(Some(millis))),
                _ => Err("it is a number of milliseconds, more than none, or off"),
            },
        }
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(millis) => write!(f, "{millis}"),
            None => f.write_str("off"),
        }
    }
}
