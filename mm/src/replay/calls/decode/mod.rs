//! From a call's name and the words of its arguments to a typed call.

mod fields;
mod memory;
mod values;

use nix::libc as c;

use self::fields::Fields;
use self::memory::memory;
use self::values::{is_one_of, texts};
use super::{Call, FileCall, OtherCall, ProcessCall};
use crate::addr::VirtAddr;
use crate::replay::names::{self, Names};
use crate::replay::trace::{Problem, Syntax, lex};

/// `fcntl` commands that decide what a mapping may do.
const FCNTL_MODELLED: [c::c_int; 4] =
    [c::F_DUPFD, c::F_DUPFD_CLOEXEC, c::F_ADD_SEALS, c::F_GET_SEALS];

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

fn file(name: &str, f: &mut Fields<'_>) -> Result<Option<FileCall>, Problem> {
    use FileCall as F;
    let call = match name {
        "open" | "openat" => F::Openat {
            dir: if name == "open" { c::AT_FDCWD } else { f.descriptor("dirfd")? },
            path: f.text("pathname")?,
            flags: f.named("flags", &names::OPEN)?,
            mode: f.optional_number("mode")?.unwrap_or(0),
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
    let flags = lex::field(f.all(), "flags").and_then(clone_flags);
    let stack = lex::field(f.all(), "child_stack").and_then(|word| lex::value(word, &[]));
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
