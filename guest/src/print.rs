//! Printing: [`print!`](crate::print!), [`println!`](crate::println!) and
//! [`eprintln!`](crate::eprintln!), a line at a time, because each write is an exit to the host.

use core::fmt::{self, Write};

use crate::process;

/// Where a text goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// File descriptor 1.
    Output,
    /// File descriptor 2.
    Error,
}

impl Stream {
    const fn descriptor(self) -> u64 {
        match self {
            Stream::Output => 1,
            Stream::Error => 2,
        }
    }
}

/// Bytes gathered before they are written.
const LINE: usize = 512;

/// Gathers a text, of so many bytes at a time, and writes it out in as few calls as it fits in.
#[derive(Debug)]
pub struct Buffer<const BYTES: usize> {
    stream: Stream,
    bytes: [u8; BYTES],
    used: usize,
}

impl<const BYTES: usize> Buffer<BYTES> {
    /// Nothing yet, for this stream.
    #[must_use]
    pub const fn new(stream: Stream) -> Self {
        Buffer { stream, bytes: [0; BYTES], used: 0 }
    }

    /// Writes out what was gathered. What the stream refuses is dropped.
    pub fn flush(&mut self) {
        let text = self.bytes.get(..self.used).unwrap_or(&[]);
        process::write_all(self.stream.descriptor(), text);
        self.used = 0;
    }
}

impl<const BYTES: usize> Write for Buffer<BYTES> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let space = self.bytes.get_mut(self.used..).unwrap_or(&mut []);
            let take = rest.len().min(space.len());
            if take == 0 {
                self.flush();
                continue;
            }
            let (now, later) = rest.split_at(take);
            if let Some(space) = space.get_mut(..take) {
                space.copy_from_slice(now);
            }
            self.used += take;
            rest = later;
        }
        Ok(())
    }
}

/// Writes formatted text to a stream. An output that is closed or full is not a payload's failure:
/// its text is dropped.
pub fn print(stream: Stream, text: fmt::Arguments<'_>) {
    let mut buffer = Buffer::<LINE>::new(stream);
    // A Buffer takes everything; an error could only come from a value's own Display.
    let _ = buffer.write_fmt(text);
    buffer.flush();
}

/// Prints to standard output.
#[macro_export]
macro_rules! print {
    ($($text:tt)*) => {
        $crate::print::print($crate::print::Stream::Output, ::core::format_args!($($text)*))
    };
}

/// Prints to standard output, and ends the line.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($format:literal $($rest:tt)*) => { $crate::print!("{}\n", ::core::format_args!($format $($rest)*)) };
}

/// Prints to standard error, and ends the line.
#[macro_export]
macro_rules! eprintln {
    ($format:literal $($rest:tt)*) => {
        $crate::print::print(
            $crate::print::Stream::Error,
            ::core::format_args!("{}\n", ::core::format_args!($format $($rest)*)),
        )
    };
}
