//! From the bytes of a trace to its events: lines, halves of calls joined, blocks of `@maps`.

use std::collections::HashMap;

use super::lex::{self, shortened};
use super::{Action, Directive, Event, Problem, TraceError, parse_at, parse_call, parse_maps};

/// How strace ends the first half of a call.
const UNFINISHED: &str = "<unfinished ...>";

/// Reads a trace: an iterator over its events. After an error it ends.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    line: usize,
    /// The first halves of calls, by process.
    halves: HashMap<Option<u32>, Half>,
    /// The beginning of a line that a message of strace's own was printed into.
    broken: Option<String>,
}

/// The first half of a call.
#[derive(Debug)]
struct Half {
    line: usize,
    text: String,
}

impl<'a> Reader<'a> {
    /// The trace is all of `text`. Bytes that are no UTF-8 are taken as unknown characters.
    #[must_use]
    pub fn new(text: &'a [u8]) -> Self {
        Reader { rest: text, line: 0, halves: HashMap::new(), broken: None }
    }

    /// The next line, without its end.
    fn next_line(&mut self) -> Option<String> {
        if self.rest.is_empty() {
            return None;
        }
        let end = self.rest.iter().position(|&b| b == b'\n').unwrap_or(self.rest.len());
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest.get(1..).unwrap_or_default();
        self.line += 1;
        Some(String::from_utf8_lossy(line).into_owned())
    }

    /// The event of a line; `None` where it has none of its own.
    fn event(&mut self, line: &str) -> Result<Option<Event>, Problem> {
        let Some(line) = self.without_messages(line) else { return Ok(None) };
        let (pid, text) = lex::prefix(&line);
        if text.is_empty() || text.starts_with('#') {
            return Ok(None);
        }
        let event = |line, action| Ok(Some(Event { line, begun: line, pid, action }));
        if let Some(directive) = text.strip_prefix('@') {
            let first = self.line;
            let action = Action::Directive(self.directive(directive)?);
            return event(first, action);
        }
        if text.starts_with("---") {
            return event(self.line, parse_call::signal(text)?);
        }
        if text.starts_with("+++") {
            let action = parse_call::end(text)?;
            self.halves.remove(&pid);
            if let Action::Superseded { by } = action
                && let Some(half) = self.halves.remove(&Some(by))
            {
                self.halves.insert(pid, half);
            }
            return event(self.line, action);
        }
        let joined;
        let (text, begun) = match text.strip_prefix("<... ") {
            Some(second) => {
                joined = self.join(pid, second)?;
                (joined.text.as_str(), joined.line)
            }
            None => (text, self.line),
        };
        if let Some(half) = text.strip_suffix(UNFINISHED) {
            let half = half.trim_end();
            parse_call::name(half)?;
            self.halves.insert(pid, Half { line: begun, text: half.to_owned() });
            return Ok(parse_call::begun(half).map(|call| Event {
                line: self.line,
                begun,
                pid,
                action: Action::Begun(call),
            }));
        }
        // A call whose process ended in it: `munmap(0x1000, 4096 <unfinished ...>) = ?`.
        let ended = text.strip_suffix("= ?").map(str::trim_end).and_then(|t| t.strip_suffix(')'));
        match ended.and_then(|text| text.trim_end().strip_suffix(UNFINISHED)) {
            Some(half) => {
                parse_call::name(half)?;
                Ok(None)
            }
            None => {
                self.halves.remove(&pid);
                let action = parse_call::call(text)?;
                Ok(Some(Event { line: self.line, begun, pid, action }))
            }
        }
    }

    /// The line without what strace says of itself, which it may say in the middle of a line:
    ///
    /// ```text
    ///   clone(child_stack=NULL, flags=SIGCHLDstrace: Process 12 attached
    ///   , child_tidptr=0x1000) = 12
    /// ```
    fn without_messages(&mut self, line: &str) -> Option<String> {
        let line = self.broken.take().unwrap_or_default() + line;
        let Some((before, message)) = line.split_once("strace: Process ") else {
            return Some(line);
        };
        if !(message.ends_with(" attached") || message.ends_with(" detached")) {
            return Some(line);
        }
        if !before.is_empty() {
            self.broken = Some(before.to_owned());
        }
        None
    }

    /// Joins the two halves of a call. `second` is `munmap resumed>) = 0`.
    fn join(&mut self, pid: Option<u32>, second: &str) -> Result<Half, Problem> {
        let no_event = || Problem::NoEvent(shortened(second));
        let (name, tail) = second.split_once(" resumed>").ok_or_else(no_event)?;
        let begins =
            |half: &Half| half.text.split_once('(').is_some_and(|(first, _)| first == name);
        let mut keys = self.halves.iter().filter(|(_, half)| begins(half)).map(|(key, _)| *key);
        // strace to a terminal prints no pid while there is a single process, so that a half may have
        // one and the other not.
        let key = match self.halves.get(&pid).filter(|half| begins(half)) {
            Some(_) => Some(pid),
            None if pid.is_some() => keys.find(Option::is_none),
            None => keys.next().filter(|_| keys.next().is_none()),
        };
        let half = key.and_then(|key| self.halves.remove(&key));
        let half = half.ok_or_else(|| Problem::NotBegun(shortened(name)))?;
        Ok(Half { text: half.text + tail, ..half })
    }

    fn directive(&mut self, text: &str) -> Result<Directive, Problem> {
        let Some(range) = parse_at::maps_header(text)? else { return parse_at::directive(text) };
        let first = self.line;
        let mut lines = Vec::new();
        while let Some(line) = self.next_line() {
            let (_, text) = lex::prefix(&line);
            match text {
                "@end" => return Ok(Directive::Maps { range, lines }),
                "" => {}
                comment if comment.starts_with('#') => {}
                other => lines.push(parse_maps::line(other)?),
            }
        }
        self.line = first;
        Err(Problem::UnendedMaps)
    }
}

impl Iterator for Reader<'_> {
    type Item = Result<Event, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let event = match self.next_line() {
                Some(line) => self.event(&line),
                // What a message cut off never came.
                None => Err(Problem::NoEvent(shortened(&self.broken.take()?))),
            };
            match event {
                Ok(Some(event)) => return Some(Ok(event)),
                Ok(None) => {}
                Err(problem) => {
                    self.rest = &[];
                    self.broken = None;
                    return Some(Err(TraceError { line: self.line, problem }));
                }
            }
        }
    }
}
