//! How a payload says that something is wrong: one line on standard error, and a status that is
//! not 0.

use core::fmt;

use crate::{eprintln, process};

/// The status a payload exits with when what it checked was not so.
pub const FAILED: u8 = 1;

/// Says what was wrong, and ends the payload with [`FAILED`].
pub fn fail(what: fmt::Arguments<'_>) -> ! {
    eprintln!("{}: FAILED: {what}", process::name());
    process::exit(FAILED)
}

/// Ends the payload with a line of what was wrong (a format string and its values), unless the
/// condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($wrong:tt)+) => {
        if !$condition {
            $crate::check::fail(::core::format_args!($($wrong)+));
        }
    };
}

/// Ends the payload, unless the first value equals the second; the line says what was looked at
/// (a format string and its values), what came and what should have come.
#[macro_export]
macro_rules! check_eq {
    ($came:expr, $wanted:expr, $($what:tt)+) => {
        match (&$came, &$wanted) {
            (came, wanted) => if *came != *wanted {
                $crate::check::fail(::core::format_args!(
                    "{}: {:?}, not {:?}", ::core::format_args!($($what)+), came, wanted
                ));
            }
        }
    };
}

/// The value of a call that must succeed; otherwise ends the payload with the call's name and error.
#[macro_export]
macro_rules! must {
    ($call:expr) => {
        match $call {
            Ok(value) => value,
            Err(error) => $crate::check::fail(::core::format_args!(
                "{}: {error:?}",
                ::core::stringify!($call)
            )),
        }
    };
}
