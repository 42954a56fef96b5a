//! From a typed call to text as strace prints it: the way back from [`super::decode`].

use std::fmt;

use nix::libc;

use super::{
    Call, Extent, FileCall, IoVec, Limit, MemoryCall, Outcome, Pointee, ProcessCall, Residency,
    Text,
};
use crate::addr::VirtAddr;
use crate::replay::names::{self, Names};
use crate::replay::text::{self, Style};

/// Arguments that are printed, one after the other.
#[derive(Default)]
struct Arguments(String);

impl Arguments {
    fn raw(mut self, text: impl AsRef<str>) -> Self {
        if !self.0.is_empty() {
            self.0.push_str(", ");
        }
        self.0.push_str(text.as_ref());
        self
    }

    fn address(self, addr: VirtAddr) -> Self {
        self.raw(text::address(addr.get()))
    }

    fn size(self, value: u64) -> Self {
        self.raw(value.to_string())
    }

    fn hex(self, value: u64) -> Self {
        self.raw(text::hex(value))
    }

    fn int(self, value: i32) -> Self {
        self.raw(value.to_string())
    }

    fn named(self, names: &dyn Names, value: u64) -> Self {
        self.raw(names.text(value))
    }

    fn pointee<T>(self, pointee: &Pointee<T>, text: impl FnOnce(&T) -> String) -> Self {
        match pointee {
            Pointee::Null => self.raw("NULL"),
            Pointee::Unread(addr) => self.address(*addr),
            Pointee::Shown(content) => self.raw(text(content)),
        }
    }
}

impl fmt::Display for Call {
    /// As strace prints it, without the result: `munmap(0x1000, 4096)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, arguments) = match self {
            Call::Memory(call) => memory(call),
            Call::File(call) => file(call),
            Call::Process(call) => process(call),
            Call::Other(call) => return write!(f, "{}({})", call.name, call.arguments),
        };
        write!(f, "{name}({})", arguments.0)
    }
}

impl Call {
    /// The result as strace prints it for this call: addresses in hexadecimal.
    #[must_use]
    pub fn outcome_text(&self, outcome: Outcome) -> String {
        let is_address = matches!(
            self,
            Call::Memory(
                MemoryCall::Mmap { .. }
                    | MemoryCall::Mremap { .. }
                    | MemoryCall::Brk { .. }
                    | MemoryCall::Shmat { .. }
                    | MemoryCall::Personality { .. }
            )
        );
        match outcome {
            Outcome::Value(value) if is_address => text::hex(value),
            Outcome::Value(value) => text::signed(value).to_string(),
            Outcome::Failed(errno) => names::errno_text(errno),
            Outcome::Unknown => "?".to_owned(),
        }
    }
}

fn memory(call: &MemoryCall) -> (&'static str, Arguments) {
    use MemoryCall as M;
    let a = Arguments::default();
    match call {
        M::Mmap { addr, len, prot, flags, fd, offset } => (
            "mmap",
            a.address(*addr)
                .size(*len)
                .named(&names::PROT, *prot)
                .named(&names::MAP, *flags)
                .int(*fd)
                .hex(*offset),
        ),
        M::Munmap { addr, len } => ("munmap", a.address(*addr).size(*len)),
        M::Mprotect { addr, len, prot } => {
            ("mprotect", a.address(*addr).size(*len).named(&names::PROT, *prot))
        }
        M::PkeyMprotect { addr, len, prot, pkey } => {
            ("pkey_mprotect", a.address(*addr).size(*len).named(&names::PROT, *prot).int(*pkey))
        }
        M::Mremap { addr, old_len, new_len, flags, new_addr } => {
            /// strace prints the new address with both.
            const MOVED: u64 = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
            let a = a.address(*addr).size(*old_len).size(*new_len).named(&names::MREMAP, *flags);
            let has_target = flags & MOVED == MOVED || *new_addr != VirtAddr::ZERO;
            ("mremap", if has_target { a.address(*new_addr) } else { a })
        }
        M::Brk { addr } => ("brk", a.address(*addr)),
        M::RemapFilePages { addr, len, prot, pgoff, flags } => (
            "remap_file_pages",
            a.address(*addr)
                .size(*len)
                .named(&names::PROT, *prot)
                .size(*pgoff)
                .named(&names::MAP, *flags),
        ),
        M::Madvise { addr, len, advice } => {
            ("madvise", a.address(*addr).size(*len).named(&names::MADV, *advice))
        }
        M::ProcessMadvise { pidfd, ranges, count, advice, flags } => (
            "process_madvise",
            a.int(*pidfd)
                .pointee(ranges, |ranges| array(ranges.iter().map(io_vector), Extent::Whole))
                .size(*count)
                .named(&names::MADV, *advice)
                .hex(*flags),
        ),
        M::Mlock { addr, len } => ("mlock", a.address(*addr).size(*len)),
        M::Mlock2 { addr, len, flags } => {
            ("mlock2", a.address(*addr).size(*len).named(&names::MLOCK, *flags))
        }
        M::Munlock { addr, len } => ("munlock", a.address(*addr).size(*len)),
        M::Mlockall { flags } => ("mlockall", a.named(&names::MCL, *flags)),
        M::Munlockall => ("munlockall", a),
        M::Mseal { addr, len, flags } => ("mseal", a.address(*addr).size(*len).hex(*flags)),
        M::Msync { addr, len, flags } => {
            ("msync", a.address(*addr).size(*len).named(&names::MS, *flags))
        }
        M::Mincore { addr, len, vec } => {
            ("mincore", a.address(*addr).size(*len).pointee(vec, residency))
        }
        M::Mbind { addr, len, mode, nodes, maxnode, flags } => (
            "mbind",
            a.address(*addr)
                .size(*len)
                .named(&names::MPOL, *mode)
                .pointee(nodes, node_words)
                .size(*maxnode)
                .named(&names::MPOL_MF, *flags),
        ),
        M::SetMempolicy { mode, nodes, maxnode } => (
            "set_mempolicy",
            a.named(&names::MPOL, *mode).pointee(nodes, node_words).size(*maxnode),
        ),
        M::GetMempolicy { mode, nodes, maxnode, addr, flags } => (
            "get_mempolicy",
            a.pointee(mode, |mode| format!("[{}]", names::MPOL.text(*mode)))
                .pointee(nodes, node_words)
                .size(*maxnode)
                .address(*addr)
                .named(&names::MPOL_F, *flags),
        ),
        M::SetMempolicyHomeNode { addr, len, node, flags } => {
            ("set_mempolicy_home_node", a.address(*addr).size(*len).size(*node).hex(*flags))
        }
        M::MovePages { pid, count, pages, nodes, status, flags } => (
            "move_pages",
            a.int(*pid)
                .size(*count)
                .pointee(pages, |pages| {
                    array(pages.iter().map(|page| text::address(page.get())), Extent::Whole)
                })
                .pointee(nodes, |nodes| array(nodes.iter().map(i32::to_string), Extent::Whole))
                .pointee(status, |status| {
                    array(status.iter().copied().map(names::page_status), Extent::Whole)
                })
                .named(&names::MPOL_MF, *flags),
        ),
        M::MigratePages { pid, maxnode, old, new } => (
            "migrate_pages",
            a.int(*pid).size(*maxnode).pointee(old, node_words).pointee(new, node_words),
        ),
        M::Prctl { option, args, name } => ("prctl", prctl(*option, args, name.as_ref())),
        M::Prlimit { pid, resource, new, old } => (
            "prlimit64",
            a.int(*pid).named(&names::RLIMIT, *resource).pointee(new, limit).pointee(old, limit),
        ),
        M::Setrlimit { resource, new } => {
            ("setrlimit", a.named(&names::RLIMIT, *resource).pointee(new, limit))
        }
        M::Getrlimit { resource, old } => {
            ("getrlimit", a.named(&names::RLIMIT, *resource).pointee(old, limit))
        }
        // The value that only asks is no set of flags.
        M::Personality { persona: 0xffff_ffff } => ("personality", a.hex(0xffff_ffff)),
        M::Personality { persona } => ("personality", a.named(&names::PERSONALITY, *persona)),
        M::Userfaultfd { flags } => ("userfaultfd", a.named(&names::UFFD, *flags)),
        M::Shmget { key, size, flags } => {
            let a = if *key == 0 { a.raw("IPC_PRIVATE") } else { a.hex(*key) };
            ("shmget", a.size(*size).raw(shm_flags(*flags)))
        }
        M::Shmat { id, addr, flags } => {
            ("shmat", a.int(*id).address(*addr).named(&names::SHMAT, *flags))
        }
        M::Shmdt { addr } => ("shmdt", a.address(*addr)),
        M::Shmctl { id, command } => {
            ("shmctl", a.int(*id).named(&names::IPC, *command).raw("NULL"))
        }
    }
}

/// prctl: the names of the second argument depend on the first.
fn prctl(option: u64, args: &[u64; 4], name: Option<&Text>) -> Arguments {
    use nix::libc as c;
    let a = Arguments::default().named(&names::PR, option);
    let [first, second, third, fourth] = *args;
    let is = |known: c::c_int| u64::try_from(known) == Ok(option);
    let a = if is(c::PR_SET_VMA) {
        a.named(&names::PR_SET_VMA, first)
    } else if is(c::PR_SET_MM) {
        a.named(&names::PR_SET_MM, first)
    } else if is(c::PR_SET_MDWE) {
        a.named(&names::PR_MDWE, first)
    } else {
        a.hex(first)
    };
    let a = a.hex(second).hex(third);
    match name {
        Some(name) => a.raw(string(name)),
        None => a.hex(fourth),
    }
}

fn file(call: &FileCall) -> (&'static str, Arguments) {
    use FileCall as F;
    let a = Arguments::default();
    match call {
        F::Openat { dir, path, flags, mode } => {
            let at_cwd = *dir == libc::AT_FDCWD;
            let a = if at_cwd { a.raw("AT_FDCWD") } else { a.int(*dir) };
            let a = a.pointee(path, string).named(&names::OPEN, *flags);
            let has_mode = names::makes_file(*flags) || *mode != 0;
            ("openat", if has_mode { a.raw(text::octal(*mode)) } else { a })
        }
        F::Close { fd } => ("close", a.int(*fd)),
        F::Dup { fd } => ("dup", a.int(*fd)),
        F::Dup2 { fd, new } => ("dup2", a.int(*fd).int(*new)),
        F::Dup3 { fd, new, flags } => {
            ("dup3", a.int(*fd).int(*new).named(&names::O_DESCRIPTOR, *flags))
        }
        F::Fcntl { fd, command, value } => {
            let a = a.int(*fd).named(&names::FCNTL, *command);
            let command = i32::try_from(*command).unwrap_or(-1);
            let a = match command {
                nix::libc::F_ADD_SEALS => a.named(&names::F_SEAL, *value),
                nix::libc::F_GET_SEALS if *value == 0 => a,
                _ => a.size(*value),
            };
            ("fcntl", a)
        }
        F::Ftruncate { fd, len } => ("ftruncate", a.int(*fd).raw(text::signed(*len).to_string())),
        F::MemfdCreate { name, flags } => {
            ("memfd_create", a.pointee(name, string).named(&names::MFD, *flags))
        }
    }
}

fn process(call: &ProcessCall) -> (&'static str, Arguments) {
    use ProcessCall as P;
    let a = Arguments::default();
    match call {
        P::Fork => ("fork", a),
        P::Vfork => ("vfork", a),
        P::Clone { flags, stack } => (
            "clone",
            a.raw(format!("child_stack={}", text::address(stack.get())))
                .raw(format!("flags={}", clone_flags(*flags))),
        ),
        P::Clone3 { flags, exit_signal, stack, stack_size } => {
            /// Bytes of the first version of `struct clone_args` (`CLONE_ARGS_SIZE_VER0`).
            const SIZE: u64 = 64;
            let (flags, signal) = (names::CLONE.text(*flags), names::SIGNAL.text(*exit_signal));
            let (stack, size) = (text::address(stack.get()), text::hex(*stack_size));
            let fields = format!(
                "{{flags={flags}, exit_signal={signal}, stack={stack}, stack_size={size}}}"
            );
            ("clone3", a.raw(fields).size(SIZE))
        }
        P::Execve { path, argv, envp } => (
            "execve",
            a.pointee(path, string)
                .pointee(argv, |argv| array(argv.iter().map(string), Extent::Whole))
                .address(*envp),
        ),
        P::Exit { status } => ("exit", a.int(*status)),
        P::ExitGroup { status } => ("exit_group", a.int(*status)),
        P::Wait4 { pid } => ("wait4", a.int(*pid).raw("NULL").raw("0").raw("NULL")),
    }
}

/// Flags, and the exit signal in the lowest byte.
fn clone_flags(flags: u64) -> String {
    let (mut parts, rest) = names::CLONE.split(flags & !0xff);
    parts.extend((rest != 0).then(|| text::hex(rest)));
    let signal = flags & 0xff;
    match names::signal(signal) {
        Some(name) => parts.push(format!("SIG{name}")),
        None if signal != 0 || parts.is_empty() => parts.push(signal.to_string()),
        None => {}
    }
    parts.join("|")
}

/// shmget's flags, and the permissions in octal.
fn shm_flags(flags: u64) -> String {
    let (mut parts, rest) = names::SHMGET.split(flags);
    parts.push(text::octal(rest));
    parts.join("|")
}

fn array(elements: impl Iterator<Item = String>, extent: Extent) -> String {
    let dots = (extent == Extent::Cut).then(|| "...".to_owned());
    let elements: Vec<_> = elements.chain(dots).collect();
    format!("[{}]", elements.join(", "))
}

fn string(text: &Text) -> String {
    let dots = if text.extent == Extent::Cut { "..." } else { "" };
    text::quote(&text.bytes, Style::Escaped) + dots
}

fn residency(residency: &Residency) -> String {
    array(residency.pages.iter().map(ToString::to_string), residency.extent)
}

fn limit(limit: &Limit) -> String {
    let (current, maximum) = (text::limit(limit.current), text::limit(limit.maximum));
    format!("{{rlim_cur={current}, rlim_max={maximum}}}")
}

fn io_vector(vector: &IoVec) -> String {
    format!("{{iov_base={}, iov_len={}}}", text::address(vector.base.get()), vector.len)
}

/// A bitmap of nodes: all digits of each word.
#[allow(clippy::ptr_arg, reason = "called with what a Pointee holds")]
fn node_words(words: &Vec<u64>) -> String {
    array(words.iter().map(|word| format!("{word:#018x}")), Extent::Whole)
}
