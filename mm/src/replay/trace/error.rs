//! What can be wrong with a trace, in sentences.

/// A trace that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct TraceError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Neither a call nor anything else.
    #[error(
        "`{0}` is no event: a line is `NAME(ARGUMENTS) = RESULT`, `@...`, `---...---`, `+++...+++` \
         or a comment that begins with `#`"
    )]
    NoEvent(String),
    /// The arguments do not end.
    #[error("the arguments of {0} have no closing `)`; was the line cut?")]
    Unclosed(String),
    /// The result is missing.
    #[error("{0} has no result: ` = VALUE`, ` = -1 ERROR` or ` = ?` must follow its `)`")]
    NoResult(String),
    /// The result is none.
    #[error("`{text}` is no result of {call}: it must be a number, `-1 ERROR` or `?`")]
    BadResult {
        /// The call.
        call: String,
        /// What stands there.
        text: String,
    },
    /// An error name that does not exist.
    #[error("`{0}` is no error's name")]
    UnknownErrno(String),
    /// Too few arguments.
    #[error("{call} has {found} arguments; its `{missing}` is missing")]
    MissingArgument {
        /// The call.
        call: String,
        /// How many there are.
        found: usize,
        /// The first that is not there.
        missing: &'static str,
    },
    /// Too many arguments.
    #[error("{call} has {found} arguments; it takes {takes}")]
    ExtraArgument {
        /// The call.
        call: String,
        /// How many there are.
        found: usize,
        /// How many it takes.
        takes: usize,
    },
    /// An argument that is not what it must be.
    #[error("`{field}` of {call}: {problem}")]
    Argument {
        /// The call or the `@` line.
        call: String,
        /// The argument's name.
        field: &'static str,
        /// What is wrong with it.
        problem: Syntax,
    },
    /// `<... resumed>` without its beginning.
    #[error("{0} is resumed here, but no `<unfinished ...>` line of this process began it")]
    NotBegun(String),
    /// An `@` line that does not exist.
    #[error(
        "`@{0}` is unknown: there are @maps, @touch, @store, @load, @flags, @resident, @rss, @file, \
         @uffd, @limit, @sysctl, @cap, @thp, @personality, @mmap_base and @brk"
    )]
    UnknownDirective(String),
    /// An `@` line with too much on it.
    #[error("@{directive}: `{rest}` is too much")]
    DirectiveRest {
        /// Its name.
        directive: String,
        /// What must not follow.
        rest: String,
    },
    /// `@maps` without its end.
    #[error("@maps has no @end")]
    UnendedMaps,
    /// A line between `@maps` and `@end` that is none of the file's.
    #[error("`{text}` is no line of /proc/PID/maps: {problem}")]
    BadMapsLine {
        /// The line.
        text: String,
        /// Why.
        problem: Syntax,
    },
}

/// What is wrong with a word.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Syntax {
    /// Not a number.
    #[error("`{0}` is no number (decimal, 0x hexadecimal or 0 octal)")]
    NotANumber(String),
    /// More than 64 bits, or fewer where fewer count.
    #[error("`{0}` is too large a number here")]
    TooLarge(String),
    /// A name that is not among those of the argument.
    #[error("`{0}` is no name of a value here; its number will do")]
    UnknownName(String),
    /// Something other than what must stand there.
    #[error("`{text}` stands where {expected} must")]
    Unexpected {
        /// What stands there.
        text: String,
        /// What must.
        expected: &'static str,
    },
    /// Nothing where something must stand.
    #[error("{0} is missing")]
    Missing(&'static str),
}
