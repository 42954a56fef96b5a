//! The `@` lines, each a few words.

use super::lex::{self, shortened};
use super::{
    Directive, File, FileKind, Held, OpenMode, Problem, Rss, Setting, Span, Syntax, Touched,
    UffdChange, UffdModes, parse_maps,
};
use crate::addr::VirtAddr;
use crate::paging::AccessKind;
use crate::replay::names;
use crate::sysctl::Thp;

/// The most pages an `@resident` line may be about: more than fit on any line.
const MOST_PAGES: usize = 1 << 20;

/// The words of a line, taken one after the other.
struct Words<'a> {
    directive: &'a str,
    rest: std::str::SplitWhitespace<'a>,
}

impl<'a> Words<'a> {
    fn next(&mut self, field: &'static str) -> Result<&'a str, Problem> {
        self.rest.next().ok_or_else(|| self.wrong(field, Syntax::Missing(field)))
    }

    /// All that are left.
    fn all(&mut self) -> std::str::SplitWhitespace<'a> {
        std::mem::replace(&mut self.rest, "".split_whitespace())
    }

    fn wrong(&self, field: &'static str, problem: Syntax) -> Problem {
        Problem::Argument { call: format!("@{}", self.directive), field, problem }
    }

    fn parse<T>(
        &mut self,
        field: &'static str,
        parse: impl FnOnce(&'a str) -> Result<T, Syntax>,
    ) -> Result<T, Problem> {
        let word = self.next(field)?;
        parse(word).map_err(|problem| self.wrong(field, problem))
    }

    /// The last word, which may be left out.
    fn last<T>(
        &mut self,
        field: &'static str,
        parse: impl FnOnce(&'a str) -> Result<T, Syntax>,
    ) -> Result<Option<T>, Problem> {
        let word = self.rest.next();
        word.map(parse).transpose().map_err(|problem| self.wrong(field, problem))
    }

    fn address(&mut self, field: &'static str) -> Result<VirtAddr, Problem> {
        self.parse(field, lex::number).map(VirtAddr::new)
    }

    fn byte(&mut self) -> Result<u8, Problem> {
        self.parse("byte", |word| {
            u8::try_from(lex::number(word)?).map_err(|_| Syntax::TooLarge(word.to_owned()))
        })
    }

    fn equals(&mut self) -> Result<(), Problem> {
        self.parse("=", |word| (word == "=").then_some(()).ok_or_else(|| other(word, "`=`")))
    }

    /// `ADDRESS+PAGES`.
    fn pages(&mut self) -> Result<(VirtAddr, u64), Problem> {
        self.parse("range", |word| {
            let halves = word.split_once('+').ok_or_else(|| other(word, "ADDRESS+PAGES"))?;
            Ok((VirtAddr::new(lex::number(halves.0)?), lex::number(halves.1)?))
        })
    }

    /// One of several words.
    fn choice<T: Copy>(
        &mut self,
        field: &'static str,
        choices: &[(&str, T)],
        expected: &'static str,
    ) -> Result<T, Problem> {
        self.parse(field, |word| choice(word, choices, expected))
    }
}

fn other(word: &str, expected: &'static str) -> Syntax {
    lex::unexpected(word, expected)
}

fn choice<T: Copy>(word: &str, choices: &[(&str, T)], expected: &'static str) -> Result<T, Syntax> {
    let found = choices.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
    found.ok_or_else(|| other(word, expected))
}

pub(super) const KINDS: [(&str, AccessKind); 3] =
    [("r", AccessKind::Read), ("w", AccessKind::Write), ("x", AccessKind::Execute)];
pub(super) const TOUCHED: [(&str, Touched); 4] = [
    ("ok", Touched::Done),
    ("SEGV_MAPERR", Touched::MapErr),
    ("SEGV_ACCERR", Touched::AccErr),
    ("BUS_ADRERR", Touched::BusErr),
];
pub(super) const HELD: [(&str, Held); 2] = [("yes", Held::Yes), ("no", Held::No)];
pub(super) const THP: [(&str, Thp); 3] =
    [("madvise", Thp::Madvise), ("always", Thp::Always), ("never", Thp::Never)];
const THP_EXPECTED: &str = "madvise, always, never or a size's as in 64k:always";
pub(super) const FILES: [(&str, FileKind); 5] = [
    ("memfd", FileKind::Memfd),
    ("file", FileKind::File),
    ("dir", FileKind::Dir),
    ("device", FileKind::Device),
    ("pipe", FileKind::Pipe),
];
pub(super) const MODES: [(&str, OpenMode); 3] =
    [("r", OpenMode::Read), ("w", OpenMode::Write), ("rw", OpenMode::ReadWrite)];
pub(super) const UFFD: [(&str, UffdModes); 3] =
    [("missing", UffdModes::MISSING), ("wp", UffdModes::WP), ("minor", UffdModes::MINOR)];

/// Of the text after `@`: the range of an `@maps` line, which begins a block; `None` of another line.
pub(super) fn maps_header(text: &str) -> Result<Option<Option<Span>>, Problem> {
    let mut rest = text.split_whitespace();
    let Some(directive @ "maps") = rest.next() else { return Ok(None) };
    let mut words = Words { directive, rest };
    let range = words.last("range", parse_maps::span)?;
    end(words)?;
    Ok(Some(range))
}

/// The text after `@`, of a line other than `@maps`.
pub(super) fn directive(text: &str) -> Result<Directive, Problem> {
    let mut rest = text.split_whitespace();
    let directive = rest.next().unwrap_or_default();
    let mut words = Words { directive, rest };
    let w = &mut words;
    let value = match directive {
        "touch" => {
            let addr = w.address("address")?;
            let kind = w.choice("access", &KINDS, "r, w or x")?;
            w.equals()?;
            let expected = "ok, SEGV_MAPERR, SEGV_ACCERR or BUS_ADRERR";
            Directive::Touch { addr, kind, result: w.choice("result", &TOUCHED, expected)? }
        }
        "store" => Directive::Store { addr: w.address("address")?, byte: w.byte()? },
        "load" => {
            let addr = w.address("address")?;
            w.equals()?;
            Directive::Load { addr, byte: w.byte()? }
        }
        "flags" => {
            let addr = w.address("address")?;
            w.equals()?;
            let flags = parse_maps::flags(w.all());
            Directive::Flags { addr, flags: flags.map_err(|problem| w.wrong("flags", problem))? }
        }
        "resident" => resident(w)?,
        "rss" => Directive::Rss(rss(w)?),
        _ => Directive::Setting(setting(directive, w)?),
    };
    end(words)?;
    Ok(value)
}

/// Nothing is left.
fn end(words: Words<'_>) -> Result<(), Problem> {
    let rest: Vec<_> = words.rest.collect();
    if rest.is_empty() {
        return Ok(());
    }
    let directive = words.directive.to_owned();
    Err(Problem::DirectiveRest { directive, rest: shortened(&rest.join(" ")) })
}

fn setting(directive: &str, w: &mut Words<'_>) -> Result<Setting, Problem> {
    Ok(match directive {
        "file" => file(w)?,
        "uffd" => uffd(w)?,
        "limit" => Setting::Limit {
            resource: w.parse("resource", |word| lex::value(word, &[&names::RLIMIT]))?,
            value: w.parse("value", |word| match word {
                "unlimited" => Ok(u64::MAX),
                value => lex::value(value, &[]),
            })?,
        },
        "sysctl" => Setting::Sysctl {
            name: w.next("name")?.to_owned(),
            value: w.parse("value", lex::number)?,
        },
        "cap" => Setting::Capability {
            name: w.next("name")?.to_owned(),
            held: w.choice("held", &HELD, "yes or no")?,
        },
        "thp" => w.parse("mode", |word| match word.parse() {
            Ok(of_size) => Ok(Setting::ThpOf(of_size)),
            Err(_) => choice(word, &THP, THP_EXPECTED).map(Setting::Thp),
        })?,
        "personality" => Setting::Personality(
            w.parse("persona", |word| lex::value(word, &[&names::PERSONALITY]))?,
        ),
        "mmap_base" => Setting::MmapBase(w.address("address")?),
        "brk" => Setting::Brk {
            start: w.address("start")?,
            current: w.address("current")?,
            data: w.last("data", parse_maps::span)?,
        },
        unknown => return Err(Problem::UnknownDirective(shortened(unknown))),
    })
}

fn resident(w: &mut Words<'_>) -> Result<Directive, Problem> {
    let (addr, count) = w.pages()?;
    w.equals()?;
    let mut pages = Vec::new();
    for word in w.all().take(MOST_PAGES) {
        let page = choice(word, &[("0", 0), ("1", 1)], "0 or 1");
        pages.push(page.map_err(|problem| w.wrong("pages", problem))?);
    }
    if u64::try_from(pages.len()) != Ok(count) {
        let found = Syntax::Unexpected {
            text: format!("{} pages", pages.len()),
            expected: "as many as the range has",
        };
        return Err(w.wrong("pages", found));
    }
    Ok(Directive::Resident { addr, pages })
}

fn rss(w: &mut Words<'_>) -> Result<Rss, Problem> {
    let mut rss = Rss::default();
    for word in w.all() {
        let expected = "anon=N, file=N, shmem=N or swap=N";
        let parsed = word.split_once('=').ok_or_else(|| other(word, expected));
        let parsed = parsed.and_then(|(name, value)| {
            let field = match name {
                "anon" => &mut rss.anon,
                "file" => &mut rss.file,
                "shmem" => &mut rss.shmem,
                "swap" => &mut rss.swap,
                _ => return Err(other(word, expected)),
            };
            *field = Some(lex::number(value)?);
            Ok(())
        });
        parsed.map_err(|problem| w.wrong("counter", problem))?;
    }
    Ok(rss)
}

fn uffd(w: &mut Words<'_>) -> Result<Setting, Problem> {
    let verb = w.next("change")?;
    let (addr, pages) = w.pages()?;
    let change = match verb {
        "unregister" => UffdChange::Unregister,
        "register" => {
            let mut modes = UffdModes::empty();
            // `missing|wp` or `missing wp`.
            for word in w.all().flat_map(|word| word.split('|')) {
                let mode = choice(word, &UFFD, "missing, wp or minor");
                modes |= mode.map_err(|problem| w.wrong("mode", problem))?;
            }
            UffdChange::Register(modes)
        }
        word => return Err(w.wrong("change", other(word, "register or unregister"))),
    };
    Ok(Setting::Uffd { addr, pages, change })
}

/// `@file 3 kind=memfd pages=32 mode=rw seals=0`, `@file 5 same=3 mode=r`, `@file 3 kind=closed`.
fn file(w: &mut Words<'_>) -> Result<Setting, Problem> {
    let fd = w.parse("fd", lex::int)?;
    let (mut kind, mut same) = (None, None);
    let (mut pages, mut mode, mut seals) = (0, OpenMode::ReadWrite, 0);
    for word in w.all() {
        let expected = "kind=, pages=, mode=, seals= or same=";
        let parsed = word.split_once('=').ok_or_else(|| other(word, expected));
        let parsed = parsed.and_then(|(name, value)| {
            match name {
                "kind" if value == "closed" => kind = Some(None),
                "kind" => {
                    let kinds = "memfd, file, dir, device, pipe or closed";
                    kind = Some(Some(choice(value, &FILES, kinds)?));
                }
                "pages" => pages = lex::number(value)?,
                "mode" => mode = choice(value, &MODES, "r, w or rw")?,
                "seals" => seals = lex::value(value, &[&names::F_SEAL])?,
                "same" => same = Some(lex::int(value)?),
                _ => return Err(other(word, expected)),
            }
            Ok(())
        });
        parsed.map_err(|problem| w.wrong("file", problem))?;
    }
    let file = match (same, kind) {
        (Some(fd), _) => File::Same { fd, mode },
        (None, Some(None)) => File::Closed,
        (None, Some(Some(kind))) => File::New { kind, pages, mode, seals },
        (None, None) => return Err(w.wrong("kind", Syntax::Missing("kind= or same="))),
    };
    Ok(Setting::File { fd, file })
}
