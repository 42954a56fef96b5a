//! The trace: gathered while a process has the turn, and written out before it passes it on.

use guest::print::{Buffer, Stream};

/// What is written, a few lines at a time.
pub(crate) type Trace = Buffer<{ 16 << 10 }>;

/// Nothing yet.
pub(crate) const fn begin() -> Trace {
    Buffer::new(Stream::Output)
}

/// Adds to the trace, which takes everything.
macro_rules! put {
    ($trace:expr, $($text:tt)*) => {
        let _ = ::core::fmt::Write::write_fmt($trace, ::core::format_args!($($text)*));
    };
}

pub(crate) use put;
