//! The words of a call's arguments, each as what it stands for.

use super::super::{Pointee, Text};
use crate::addr::VirtAddr;
use crate::replay::names::Names;
use crate::replay::trace::{Problem, Syntax, lex};

/// The arguments of a call, taken one after the other.
pub(super) struct Fields<'a> {
    call: &'a str,
    words: &'a [&'a str],
    next: usize,
}

impl<'a> Fields<'a> {
    /// The words between a call's parentheses.
    pub(super) fn new(call: &'a str, words: &'a [&'a str]) -> Self {
        Fields { call, words, next: 0 }
    }

    pub(super) fn word(&mut self, field: &'static str) -> Result<&'a str, Problem> {
        let word = self.optional().ok_or_else(|| Problem::MissingArgument {
            call: self.call.to_owned(),
            found: self.words.len(),
            missing: field,
        })?;
        Ok(word)
    }

    /// The next argument, where there is one.
    pub(super) fn optional(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.next).copied();
        self.next += 1;
        word
    }

    pub(super) fn parse<T>(
        &mut self,
        field: &'static str,
        parse: impl FnOnce(&'a str) -> Result<T, Syntax>,
    ) -> Result<T, Problem> {
        let word = self.word(field)?;
        parse(word).map_err(|problem| self.wrong(field, problem))
    }

    pub(super) fn wrong(&self, field: &'static str, problem: Syntax) -> Problem {
        Problem::Argument { call: self.call.to_owned(), field, problem }
    }

    pub(super) fn number(&mut self, field: &'static str) -> Result<u64, Problem> {
        self.parse(field, |word| lex::value(word, &[]))
    }

    pub(super) fn address(&mut self, field: &'static str) -> Result<VirtAddr, Problem> {
        self.number(field).map(VirtAddr::new)
    }

    pub(super) fn named(&mut self, field: &'static str, names: &dyn Names) -> Result<u64, Problem> {
        self.parse(field, |word| lex::value(word, &[names]))
    }

    pub(super) fn int(&mut self, field: &'static str) -> Result<i32, Problem> {
        self.parse(field, lex::int)
    }

    pub(super) fn descriptor(&mut self, field: &'static str) -> Result<i32, Problem> {
        self.parse(field, lex::descriptor)
    }

    pub(super) fn pointee<T>(
        &mut self,
        field: &'static str,
        parse: impl FnOnce(&'a str) -> Result<T, Syntax>,
    ) -> Result<Pointee<T>, Problem> {
        self.parse(field, |word| {
            if word == "NULL" {
                return Ok(Pointee::Null);
            }
            if word.starts_with(|first: char| first.is_ascii_digit()) {
                return Ok(match lex::value(word, &[])? {
                    0 => Pointee::Null,
                    addr => Pointee::Unread(VirtAddr::new(addr)),
                });
            }
            parse(word).map(Pointee::Shown)
        })
    }

    pub(super) fn text(&mut self, field: &'static str) -> Result<Pointee<Text>, Problem> {
        self.pointee(field, lex::string)
    }

    /// No argument is left over.
    pub(super) fn end(&self) -> Result<(), Problem> {
        if self.words.len() > self.next {
            return Err(Problem::ExtraArgument {
                call: self.call.to_owned(),
                found: self.words.len(),
                takes: self.next,
            });
        }
        Ok(())
    }

    /// The next argument, which stays the next one.
    pub(super) fn peek(&self) -> Option<&'a str> {
        self.words.get(self.next).copied()
    }

    /// A number, where there is another argument.
    pub(super) fn optional_number(&mut self, field: &'static str) -> Result<Option<u64>, Problem> {
        self.peek().map(|_| self.number(field)).transpose()
    }

    /// Passes over arguments up to so many, as far as there are any.
    pub(super) fn skip_to(&mut self, count: usize) {
        self.next = self.next.max(self.words.len().min(count));
    }

    /// All arguments.
    pub(super) fn all(&self) -> &'a [&'a str] {
        self.words
    }
}
