//! A call with its result, and the lines between `---` or `+++`.

use super::lex::{list, number, shortened};
use super::{Action, Problem};
use crate::error::Errno;
use crate::replay::calls::{Call, Outcome, ProcessCall, decode};
use crate::replay::names;

/// `NAME(ARGUMENTS) = RESULT`.
pub(super) fn call(text: &str) -> Result<Action, Problem> {
    let (name, after) = name(text)?;
    let (words, rest) = list(after, b')').ok_or_else(|| Problem::Unclosed(name.to_owned()))?;
    let arguments = &after[..after.len() - rest.len() - 1];
    let call = decode(name, &words, arguments.trim())?;
    let result = rest.trim().strip_prefix('=').ok_or_else(|| Problem::NoResult(name.to_owned()))?;
    let outcome = match outcome(name, result.trim()) {
        // What an unknown call answered does not matter.
        Err(_) if matches!(call, Call::Other(_)) => Outcome::Unknown,
        outcome => outcome?,
    };
    Ok(Action::Call { call, outcome })
}

/// The first half of a call that makes a task; `None` for another, or where its flags are not yet shown.
pub(super) fn begun(first_half: &str) -> Option<ProcessCall> {
    let (name, after) = name(first_half).ok()?;
    let closed = format!("{after})");
    let (words, _) = list(&closed, b')')?;
    match decode(name, &words, "").ok()? {
        Call::Process(call) if call.clone_flags().is_some() => Some(call),
        _ => None,
    }
}

/// The name before the opening parenthesis, and what follows that.
pub(super) fn name(text: &str) -> Result<(&str, &str), Problem> {
    let no_event = || Problem::NoEvent(shortened(text));
    let (name, after) = text.split_once('(').ok_or_else(no_event)?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let good = !name.is_empty() && name.bytes().all(is_name);
    good.then_some((name, after)).ok_or_else(no_event)
}

/// `0x1000`, `3</path>`, `-1 ENOMEM (Cannot allocate memory)`, `?`, each perhaps with `<0.000012>`.
fn outcome(call: &str, text: &str) -> Result<Outcome, Problem> {
    let bad = || Problem::BadResult { call: call.to_owned(), text: shortened(text) };
    let end = text.find(|c: char| c.is_whitespace() || c == '<').unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    if word == "?" {
        return Ok(Outcome::Unknown);
    }
    let value = number(word).map_err(|_| bad())?;
    let rest = rest.trim_start();
    if word == "-1"
        && let Some(errno) = errno(rest)
    {
        return errno.map(Outcome::Failed);
    }
    if rest.is_empty() || rest.starts_with(['(', '<']) {
        return Ok(Outcome::Value(value));
    }
    Err(bad())
}

/// `EINVAL (Invalid argument)`, `(errno 22)`; `None` where no error stands.
fn errno(text: &str) -> Option<Result<Errno, Problem>> {
    let by_number = text.strip_prefix("(errno ").and_then(|rest| rest.split_once(')'));
    let errno = match by_number {
        Some((number, _)) => {
            let errno = number.trim().parse().map(Errno::from_raw);
            errno.ok().filter(|errno| *errno != Errno::UnknownErrno).ok_or(number)
        }
        None if text.starts_with('E') => {
            let name = text.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
            names::errno(name).ok_or(name)
        }
        None => return None,
    };
    Some(errno.map_err(|text| Problem::UnknownErrno(shortened(text))))
}

/// `--- SIGSEGV {si_signo=SIGSEGV, ...} ---`, `--- stopped by SIGSTOP ---`.
pub(super) fn signal(text: &str) -> Result<Action, Problem> {
    let inside = text.strip_prefix("---").and_then(|rest| rest.strip_suffix("---"));
    let inside = inside.ok_or_else(|| Problem::NoEvent(shortened(text)))?;
    Ok(Action::Signal(inside.trim().to_owned()))
}

/// `+++ exited with 0 +++`, `+++ killed by SIGKILL +++`, `+++ superseded by execve in pid 12 +++`.
pub(super) fn end(text: &str) -> Result<Action, Problem> {
    let no_event = || Problem::NoEvent(shortened(text));
    let inside = text.strip_prefix("+++").and_then(|rest| rest.strip_suffix("+++"));
    let inside = inside.ok_or_else(no_event)?.trim();
    if let Some(status) = inside.strip_prefix("exited with ") {
        return Ok(Action::Exited { status: status.parse().map_err(|_| no_event())? });
    }
    if let Some(signal) = inside.strip_prefix("killed by ") {
        return Ok(Action::Killed(signal.to_owned()));
    }
    let pid = inside.strip_prefix("superseded by execve in pid ").ok_or_else(no_event)?;
    Ok(Action::Superseded { by: pid.parse().map_err(|_| no_event())? })
}
