//! From a call's name and the words of its arguments to a typed call.

use nix::libc as c;

use super::{
    Call, Extent, FileCall, IoVec, Limit, MemoryCall, OtherCall, Pointee, ProcessCall, Residency,
    Text,
};
use crate::addr::VirtAddr;
use crate::replay::names::{self, Names};
use crate::replay::trace::lex;
use crate::replay::trace::{Problem, Syntax};

/// `prctl` options that are about memory.
const PRCTL_MODELLED: [c::c_int; 8] = [
    c::PR_SET_VMA,
    c::PR_SET_MM,
    c::PR_SET_MDWE,
    c::PR_GET_MDWE,
    c::PR_SET_THP_DISABLE,
    c::PR_GET_THP_DISABLE,
    c::PR_SET_MEMORY_MERGE,
    c::PR_GET_MEMORY_MERGE,
];

/// `fcntl` commands that decide what a mapping may do.
const FCNTL_MODELLED: [c::c_int; 4] =
    [c::F_DUPFD, c::F_DUPFD_CLOEXEC, c::F_ADD_SEALS, c::F_GET_SEALS];

/// The arguments of a call, taken one after the other.
pub(crate) struct Fields<'a> {
    call: &'a str,
    words: &'a [&'a str],
    next: usize,
}

impl<'a> Fields<'a> {
    /// The words between a call's parentheses.
    pub(crate) fn new(call: &'a str, words: &'a [&'a str]) -> Self {
        Fields { call, words, next: 0 }
    }

    fn word(&mut self, field: &'static str) -> Result<&'a str, Problem> {
        let word = self.optional().ok_or_else(|| Problem::MissingArgument {
            call: self.call.to_owned(),
            found: self.words.len(),
            missing: field,
        })?;
        Ok(word)
    }

    /// The next argument, where there is one.
    fn optional(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.next).copied();
        self.next += 1;
        word
    }

    fn parse<T>(
        &mut self,
        field: &'static str,
        parse: impl FnOnce(&'a str) -> Result<T, Syntax>,
    ) -> Result<T, Problem> {
        let word = self.word(field)?;
        parse(word).map_err(|problem| self.wrong(field, problem))
    }

    fn wrong(&self, field: &'static str, problem: Syntax) -> Problem {
        Problem::Argument { call: self.call.to_owned(), field, problem }
    }

    fn number(&mut self, field: &'static str) -> Result<u64, Problem> {
        self.parse(field, |word| lex::value(word, &[]))
    }

    fn address(&mut self, field: &'static str) -> Result<VirtAddr, Problem> {
        self.number(field).map(VirtAddr::new)
    }

    fn named(&mut self, field: &'static str, names: &dyn Names) -> Result<u64, Problem> {
        self.parse(field, |word| lex::value(word, &[names]))
    }

    fn int(&mut self, field: &'static str) -> Result<i32, Problem> {
        self.parse(field, lex::int)
    }

    fn descriptor(&mut self, field: &'static str) -> Result<i32, Problem> {
        self.parse(field, lex::descriptor)
    }

    fn pointee<T>(
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

    fn text(&mut self, field: &'static str) -> Result<Pointee<Text>, Problem> {
        self.pointee(field, lex::string)
    }

    /// No argument is left over.
    fn end(&self) -> Result<(), Problem> {
        if self.words.len() > self.next {
            return Err(Problem::ExtraArgument {
                call: self.call.to_owned(),
                found: self.words.len(),
                takes: self.next,
            });
        }
        Ok(())
    }
}

/// The call, or [`Call::Other`] where memory does not depend on it. `arguments` is their text.
pub(crate) fn decode(name: &str, words: &[&str], arguments: &str) -> Result<Call, Problem> {
    let mut fields = Fields::new(name, words);
    if let Some(call) = memory(name, &mut fields)? {
        fields.end()?;
        return Ok(Call::Memory(call));
    }
    if let Some(call) = file(name, &mut fields)? {
        fields.end()?;
        return Ok(Call::File(call));
    }
    if let Some(call) = process(name, &mut fields)? {
        return Ok(Call::Process(call));
    }
    Ok(Call::Other(OtherCall { name: name.to_owned(), arguments: arguments.to_owned() }))
}

fn memory(name: &str, f: &mut Fields<'_>) -> Result<Option<MemoryCall>, Problem> {
    use MemoryCall as M;
    // strace evaluates arguments from the left, and so does Rust: fields stand in the call's order.
    let call = match name {
        "mmap" => M::Mmap {
            addr: f.address("addr")?,
            len: f.number("len")?,
            prot: f.named("prot", &names::PROT)?,
            flags: f.named("flags", &names::MAP)?,
            fd: f.descriptor("fd")?,
            offset: f.number("offset")?,
        },
        "munmap" => M::Munmap { addr: f.address("addr")?, len: f.number("len")? },
        "mprotect" => M::Mprotect {
            addr: f.address("addr")?,
            len: f.number("len")?,
            prot: f.named("prot", &names::PROT)?,
        },
        "pkey_mprotect" => M::PkeyMprotect {
            addr: f.address("addr")?,
            len: f.number("len")?,
            prot: f.named("prot", &names::PROT)?,
            pkey: f.int("pkey")?,
        },
        "mremap" => M::Mremap {
            addr: f.address("old_address")?,
            old_len: f.number("old_size")?,
            new_len: f.number("new_size")?,
            flags: f.named("flags", &names::MREMAP)?,
            // strace leaves it out where MREMAP_FIXED is not set.
            new_addr: optional_number(f, "new_address")?.map_or(VirtAddr::ZERO, VirtAddr::new),
        },
        "brk" => M::Brk { addr: f.address("addr")? },
        "remap_file_pages" => M::RemapFilePages {
            addr: f.address("addr")?,
            len: f.number("size")?,
            prot: f.named("prot", &names::PROT)?,
            pgoff: f.number("pgoff")?,
            flags: f.named("flags", &names::MAP)?,
        },
        "madvise" => M::Madvise {
            addr: f.address("addr")?,
            len: f.number("length")?,
            advice: f.named("advice", &names::MADV)?,
        },
        "process_madvise" => M::ProcessMadvise {
            pidfd: f.descriptor("pidfd")?,
            ranges: f.pointee("iovec", io_vectors)?,
            count: f.number("vlen")?,
            advice: f.named("advice", &names::MADV)?,
            flags: f.number("flags")?,
        },
        "mlock" => M::Mlock { addr: f.address("addr")?, len: f.number("len")? },
        "mlock2" => M::Mlock2 {
            addr: f.address("addr")?,
            len: f.number("len")?,
            flags: f.named("flags", &names::MLOCK)?,
        },
        "munlock" => M::Munlock { addr: f.address("addr")?, len: f.number("len")? },
        "mlockall" => M::Mlockall { flags: f.named("flags", &names::MCL)? },
        "munlockall" => M::Munlockall,
        "mseal" => mseal(f)?,
        // strace before 6.10 has no name for mseal, and prints six arguments.
        "syscall_0x1ce" => {
            let call = mseal(f)?;
            f.next = f.next.max(f.words.len().min(6));
            call
        }
        "msync" => M::Msync {
            addr: f.address("addr")?,
            len: f.number("length")?,
            flags: f.named("flags", &names::MS)?,
        },
        "mincore" => M::Mincore {
            addr: f.address("addr")?,
            len: f.number("length")?,
            vec: f.pointee("vec", residency)?,
        },
        "mbind" => M::Mbind {
            addr: f.address("addr")?,
            len: f.number("len")?,
            mode: f.named("mode", &names::MPOL)?,
            nodes: f.pointee("nodemask", words)?,
            maxnode: f.number("maxnode")?,
            flags: f.named("flags", &names::MPOL_MF)?,
        },
        "set_mempolicy" => M::SetMempolicy {
            mode: f.named("mode", &names::MPOL)?,
            nodes: f.pointee("nodemask", words)?,
            maxnode: f.number("maxnode")?,
        },
        "get_mempolicy" => M::GetMempolicy {
            mode: f.pointee("mode", policy)?,
            nodes: f.pointee("nodemask", words)?,
            maxnode: f.number("maxnode")?,
            addr: f.address("addr")?,
            flags: f.named("flags", &names::MPOL_F)?,
        },
        "set_mempolicy_home_node" => M::SetMempolicyHomeNode {
            addr: f.address("start")?,
            len: f.number("len")?,
            node: f.number("home_node")?,
            flags: f.number("flags")?,
        },
        "move_pages" => return move_pages(f),
        "migrate_pages" => M::MigratePages {
            pid: f.int("pid")?,
            maxnode: f.number("maxnode")?,
            old: f.pointee("old_nodes", words)?,
            new: f.pointee("new_nodes", words)?,
        },
        "prctl" => return prctl(f),
        "prlimit64" => M::Prlimit {
            pid: f.int("pid")?,
            resource: f.named("resource", &names::RLIMIT)?,
            new: f.pointee("new_limit", limit)?,
            old: f.pointee("old_limit", limit)?,
        },
        "setrlimit" => M::Setrlimit {
            resource: f.named("resource", &names::RLIMIT)?,
            new: f.pointee("rlim", limit)?,
        },
        "getrlimit" => M::Getrlimit {
            resource: f.named("resource", &names::RLIMIT)?,
            old: f.pointee("rlim", limit)?,
        },
        "personality" => M::Personality { persona: f.named("persona", &names::PERSONALITY)? },
        "userfaultfd" => M::Userfaultfd { flags: f.named("flags", &names::UFFD)? },
        "shmget" => M::Shmget {
            key: f.parse("key", |word| match word {
                "IPC_PRIVATE" => Ok(0),
                key => lex::value(key, &[]),
            })?,
            size: f.number("size")?,
            flags: f.named("shmflg", &names::SHMGET)?,
        },
        "shmat" => M::Shmat {
            id: f.int("shmid")?,
            addr: f.address("shmaddr")?,
            flags: f.named("shmflg", &names::SHMAT)?,
        },
        "shmdt" => M::Shmdt { addr: f.address("shmaddr")? },
        "shmctl" => {
            let id = f.int("shmid")?;
            // strace shows IPC_64 or not, as the C library passes it or not: Linux ignores it here.
            let command = f.parse("op", |word| {
                lex::value(word.trim_start_matches("IPC_64|"), &[&names::IPC])
            })?;
            f.word("buf")?;
            M::Shmctl { id, command }
        }
        _ => return Ok(None),
    };
    Ok(Some(call))
}

fn mseal(f: &mut Fields<'_>) -> Result<MemoryCall, Problem> {
    let (addr, len) = (f.address("addr")?, f.number("len")?);
    Ok(MemoryCall::Mseal { addr, len, flags: f.number("flags")? })
}

/// move_pages, of which all pages are shown.
fn move_pages(f: &mut Fields<'_>) -> Result<Option<MemoryCall>, Problem> {
    let address = |word: &str| lex::value(word, &[]).map(VirtAddr::new);
    let (pid, count) = (f.int("pid")?, f.number("count")?);
    let pages = f.pointee("pages", |word| array(word, address))?;
    let nodes = f.pointee("nodes", |word| array(word, lex::int))?;
    let status = f.pointee("status", |word| array(word, status))?;
    let flags = f.named("flags", &names::MPOL_MF)?;
    let (Some(pages), Some(nodes)) = (whole(pages), whole(nodes)) else { return Ok(None) };
    let status = status.map(|(status, _)| status);
    Ok(Some(MemoryCall::MovePages { pid, count, pages, nodes, status, flags }))
}

/// What is shown, if it is all.
fn whole<T>(shown: Pointee<(T, Extent)>) -> Option<Pointee<T>> {
    let is_cut = matches!(&shown, Pointee::Shown((_, Extent::Cut)));
    (!is_cut).then(|| shown.map(|(content, _)| content))
}

/// What move_pages says of a page: `1`, `-ENOENT`.
fn status(word: &str) -> Result<i32, Syntax> {
    match word.strip_prefix('-').and_then(names::errno) {
        Some(errno) => Ok(-(errno as i32)),
        None => lex::int(word),
    }
}

/// prctl, with an option that is about memory and arguments that are shown as numbers.
fn prctl(f: &mut Fields<'_>) -> Result<Option<MemoryCall>, Problem> {
    // A name that is not in the table is another option.
    let Ok(option) = lex::value(f.word("op")?, &[&names::PR]) else { return Ok(None) };
    if !is_one_of(option, &PRCTL_MODELLED) {
        return Ok(None);
    }
    let (mut args, mut name) = ([0; 4], None);
    for arg in &mut args {
        match f.words.get(f.next) {
            Some(word) if word.starts_with('"') => name = Some(f.parse("arg5", lex::string)?),
            // A structure (PR_SET_MM_MAP): not modelled.
            Some(word) if word.starts_with(['{', '[']) => return Ok(None),
            Some(_) => {
                *arg = f.parse("arg", |word| {
                    lex::value(word, &[&names::PR_SET_VMA, &names::PR_SET_MM, &names::PR_MDWE])
                })?;
            }
            None => break,
        }
    }
    Ok(Some(MemoryCall::Prctl { option, args, name }))
}

fn file(name: &str, f: &mut Fields<'_>) -> Result<Option<FileCall>, Problem> {
    use FileCall as F;
    let call = match name {
        "open" | "openat" => F::Openat {
            dir: if name == "open" { c::AT_FDCWD } else { f.descriptor("dirfd")? },
            path: f.text("pathname")?,
            flags: f.named("flags", &names::OPEN)?,
            mode: optional_number(f, "mode")?.unwrap_or(0),
        },
        "close" => F::Close { fd: f.descriptor("fd")? },
        "dup" => F::Dup { fd: f.descriptor("oldfd")? },
        "dup2" => F::Dup2 { fd: f.descriptor("oldfd")?, new: f.descriptor("newfd")? },
        "dup3" => F::Dup3 {
            fd: f.descriptor("oldfd")?,
            new: f.descriptor("newfd")?,
            flags: f.named("flags", &names::O_DESCRIPTOR)?,
        },
        "fcntl" => {
            let fd = f.descriptor("fd")?;
            // A name that is not in the table is another command.
            let Ok(command) = lex::value(f.word("op")?, &[&names::FCNTL]) else { return Ok(None) };
            if !is_one_of(command, &FCNTL_MODELLED) {
                return Ok(None);
            }
            let value = match f.optional() {
                Some(word) => {
                    let value = lex::value(word, &[&names::F_SEAL]);
                    value.map_err(|problem| f.wrong("arg", problem))?
                }
                None => 0,
            };
            F::Fcntl { fd, command, value }
        }
        "ftruncate" => F::Ftruncate { fd: f.descriptor("fd")?, len: f.number("length")? },
        "memfd_create" => {
            F::MemfdCreate { name: f.text("name")?, flags: f.named("flags", &names::MFD)? }
        }
        _ => return Ok(None),
    };
    Ok(Some(call))
}

/// Calls about processes; the arguments that memory does not depend on are not looked at.
fn process(name: &str, f: &mut Fields<'_>) -> Result<Option<ProcessCall>, Problem> {
    use ProcessCall as P;
    let call = match name {
        "fork" => P::Fork,
        "vfork" => P::Vfork,
        "clone" => clone(f)?,
        "clone3" => f.parse("cl_args", clone3)?,
        "execve" => P::Execve {
            path: f.text("pathname")?,
            argv: f.pointee("argv", texts)?,
            envp: f.parse("envp", |word| match word {
                shown if shown.starts_with('[') => Ok(VirtAddr::ZERO),
                address => lex::value(address, &[]).map(VirtAddr::new),
            })?,
        },
        "exit" => P::Exit { status: f.int("status")? },
        "exit_group" => P::ExitGroup { status: f.int("status")? },
        "wait4" => P::Wait4 { pid: f.int("pid")? },
        _ => return Ok(None),
    };
    Ok(Some(call))
}

/// clone, whose arguments strace names: `child_stack=NULL, flags=...`.
fn clone(f: &mut Fields<'_>) -> Result<ProcessCall, Problem> {
    let flags = lex::field(f.words, "flags").and_then(clone_flags);
    let stack = lex::field(f.words, "child_stack").and_then(|word| lex::value(word, &[]));
    Ok(ProcessCall::Clone {
        flags: flags.map_err(|problem| f.wrong("flags", problem))?,
        stack: VirtAddr::new(stack.map_err(|problem| f.wrong("child_stack", problem))?),
    })
}

fn clone_flags(word: &str) -> Result<u64, Syntax> {
    lex::value(word, &[&names::CLONE, &names::SIGNAL])
}

/// `struct clone_args`; its fields that are zero may be left out.
fn clone3(word: &str) -> Result<ProcessCall, Syntax> {
    if !word.starts_with('{') {
        // Not readable, so the call failed.
        lex::value(word, &[])?;
        let stack = VirtAddr::ZERO;
        return Ok(ProcessCall::Clone3 { flags: 0, exit_signal: 0, stack, stack_size: 0 });
    }
    let (fields, _) = lex::group(word, '{', "a structure")?;
    let field = |name, names: &[&dyn Names]| match lex::field(&fields, name) {
        Ok(word) => lex::value(word, names),
        Err(_) => Ok(0),
    };
    Ok(ProcessCall::Clone3 {
        flags: field("flags", &[&names::CLONE])?,
        exit_signal: field("exit_signal", &[&names::SIGNAL])?,
        stack: VirtAddr::new(field("stack", &[])?),
        stack_size: field("stack_size", &[])?,
    })
}

fn is_one_of(value: u64, known: &[c::c_int]) -> bool {
    known.iter().any(|known| u64::try_from(*known) == Ok(value))
}

fn optional_number(f: &mut Fields<'_>, field: &'static str) -> Result<Option<u64>, Problem> {
    let parse = |word| lex::value(word, &[]).map_err(|problem| f.wrong(field, problem));
    match f.words.get(f.next) {
        Some(word) => {
            let value = parse(word)?;
            f.next += 1;
            Ok(Some(value))
        }
        None => Ok(None),
    }
}

/// An array, and whether all of it is shown.
fn array<T>(
    word: &str,
    element: impl Fn(&str) -> Result<T, Syntax>,
) -> Result<(Vec<T>, Extent), Syntax> {
    let (words, _) = lex::group(word, '[', "an array")?;
    let (words, extent) = match words.split_last() {
        Some((&"...", shown)) => (shown, Extent::Cut),
        _ => (&words[..], Extent::Whole),
    };
    let elements = words.iter().map(|word| element(word)).collect::<Result<_, _>>()?;
    Ok((elements, extent))
}

fn words(word: &str) -> Result<Vec<u64>, Syntax> {
    array(word, |word| lex::value(word, &[])).map(|(words, _)| words)
}

fn texts(word: &str) -> Result<Vec<Text>, Syntax> {
    array(word, lex::string).map(|(texts, _)| texts)
}

/// What get_mempolicy wrote: `[MPOL_DEFAULT]`, or with MPOL_F_NODE a node's number.
fn policy(word: &str) -> Result<u64, Syntax> {
    let (words, _) = lex::group(word, '[', "a policy in brackets")?;
    lex::value(words.first().ok_or(Syntax::Missing("the policy"))?, &[&names::MPOL])
}

fn residency(word: &str) -> Result<Residency, Syntax> {
    let page = |word: &str| {
        let value = lex::value(word, &[])?;
        u8::try_from(value).map_err(|_| Syntax::TooLarge(word.to_owned()))
    };
    array(word, page).map(|(pages, extent)| Residency { pages, extent })
}

fn limit(word: &str) -> Result<Limit, Syntax> {
    let (fields, _) = lex::group(word, '{', "a limit")?;
    let field = |name| lex::value(lex::field(&fields, name)?, &[]);
    Ok(Limit { current: field("rlim_cur")?, maximum: field("rlim_max")? })
}

fn io_vectors(word: &str) -> Result<Vec<IoVec>, Syntax> {
    let vector = |word: &str| {
        let (fields, _) = lex::group(word, '{', "an iovec")?;
        let field = |name| lex::value(lex::field(&fields, name)?, &[]);
        Ok(IoVec { base: VirtAddr::new(field("iov_base")?), len: field("iov_len")? })
    };
    array(word, vector).map(|(vectors, _)| vectors)
}
