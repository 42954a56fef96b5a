//! Memory calls.

use nix::libc as c;

use super::super::{Extent, MemoryCall, Pointee};
use super::fields::Fields;
use super::values::{array, io_vectors, is_one_of, limit, policy, residency, words};
use crate::addr::VirtAddr;
use crate::replay::names;
use crate::replay::trace::{Problem, Syntax, lex};

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

pub(super) fn memory(name: &str, f: &mut Fields<'_>) -> Result<Option<MemoryCall>, Problem> {
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
            new_addr: f.optional_number("new_address")?.map_or(VirtAddr::ZERO, VirtAddr::new),
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
            f.skip_to(6);
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
        match f.peek() {
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
