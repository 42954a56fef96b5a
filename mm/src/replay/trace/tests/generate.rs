//! Arbitrary events, with any number in every argument.

use crate::addr::VirtAddr;
use crate::error::Errno;
use crate::paging::AccessKind;
use crate::replay::calls::{
    Call, Extent, FileCall, IoVec, Limit, MemoryCall, OtherCall, Outcome, Pointee, ProcessCall,
    Residency, Text,
};
use crate::replay::trace::*;
use crate::sysctl::Thp;
use nix::libc as c;
use proptest::prelude::*;
use proptest::strategy::Union;

/// Numbers: small, large, single bits, round ones.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..256_u64,
        any::<u64>(),
        (0..64_u32).prop_map(|bit| 1 << bit),
        any::<u32>().prop_map(|pages| u64::from(pages) << 12),
        Just(u64::MAX),
    ]
}

fn addr() -> impl Strategy<Value = VirtAddr> {
    number().prop_map(VirtAddr::new)
}

fn extent() -> impl Strategy<Value = Extent> {
    prop_oneof![Just(Extent::Whole), Just(Extent::Cut)]
}

fn text() -> impl Strategy<Value = Text> {
    (prop::collection::vec(any::<u8>(), 0..8), extent())
        .prop_map(|(bytes, extent)| Text { bytes, extent })
}

fn pointee<T: std::fmt::Debug + Clone + 'static>(
    content: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Pointee<T>> {
    prop_oneof![
        Just(Pointee::Null),
        (1..=u64::MAX).prop_map(|addr| Pointee::Unread(VirtAddr::new(addr))),
        content.prop_map(Pointee::Shown),
    ]
}

fn limit() -> impl Strategy<Value = Pointee<Limit>> {
    pointee((number(), number()).prop_map(|(current, maximum)| Limit { current, maximum }))
}

fn nodes() -> impl Strategy<Value = Pointee<Vec<u64>>> {
    pointee(prop::collection::vec(number(), 0..3))
}

fn mapping() -> impl Strategy<Value = MemoryCall> {
    use MemoryCall as M;
    prop_oneof![
        (addr(), number(), number(), number(), any::<i32>(), number()).prop_map(
            |(addr, len, prot, flags, fd, offset)| M::Mmap { addr, len, prot, flags, fd, offset }
        ),
        (addr(), number()).prop_map(|(addr, len)| M::Munmap { addr, len }),
        (addr(), number(), number()).prop_map(|(addr, len, prot)| M::Mprotect { addr, len, prot }),
        (addr(), number(), number(), any::<i32>())
            .prop_map(|(addr, len, prot, pkey)| M::PkeyMprotect { addr, len, prot, pkey }),
        (addr(), number(), number(), number(), addr()).prop_map(
            |(addr, old_len, new_len, flags, new_addr)| M::Mremap {
                addr,
                old_len,
                new_len,
                flags,
                new_addr
            }
        ),
        addr().prop_map(|addr| M::Brk { addr }),
        (addr(), number(), number(), number(), number()).prop_map(
            |(addr, len, prot, pgoff, flags)| M::RemapFilePages { addr, len, prot, pgoff, flags }
        ),
        (addr(), number(), number()).prop_map(|(addr, len, advice)| M::Madvise {
            addr,
            len,
            advice
        }),
        (addr(), number()).prop_map(|(addr, len)| M::Mlock { addr, len }),
        (addr(), number(), number()).prop_map(|(addr, len, flags)| M::Mlock2 { addr, len, flags }),
        (addr(), number()).prop_map(|(addr, len)| M::Munlock { addr, len }),
        number().prop_map(|flags| M::Mlockall { flags }),
        Just(M::Munlockall),
        (addr(), number(), number()).prop_map(|(addr, len, flags)| M::Mseal { addr, len, flags }),
        (addr(), number(), number()).prop_map(|(addr, len, flags)| M::Msync { addr, len, flags }),
        (addr(), number(), pointee(residency())).prop_map(|(addr, len, vec)| M::Mincore {
            addr,
            len,
            vec
        }),
    ]
}

fn residency() -> impl Strategy<Value = Residency> {
    (prop::collection::vec(any::<u8>(), 0..4), extent())
        .prop_map(|(pages, extent)| Residency { pages, extent })
}

fn setting_call() -> impl Strategy<Value = MemoryCall> {
    use MemoryCall as M;
    let vectors =
        prop::collection::vec((addr(), number()).prop_map(|(base, len)| IoVec { base, len }), 0..3);
    let options = prop::sample::select(vec![
        c::PR_SET_VMA,
        c::PR_SET_MM,
        c::PR_SET_MDWE,
        c::PR_GET_MDWE,
        c::PR_SET_THP_DISABLE,
        c::PR_GET_THP_DISABLE,
        c::PR_SET_MEMORY_MERGE,
        c::PR_GET_MEMORY_MERGE,
    ]);
    let prctl = (options, any::<[u64; 4]>(), prop::option::of(text()));
    prop_oneof![
        (any::<i32>(), pointee(vectors), number(), number(), number()).prop_map(
            |(pidfd, ranges, count, advice, flags)| M::ProcessMadvise {
                pidfd,
                ranges,
                count,
                advice,
                flags
            }
        ),
        (addr(), number(), number(), nodes(), number(), number()).prop_map(
            |(addr, len, mode, nodes, maxnode, flags)| M::Mbind {
                addr,
                len,
                mode,
                nodes,
                maxnode,
                flags
            }
        ),
        (number(), nodes(), number()).prop_map(|(mode, nodes, maxnode)| M::SetMempolicy {
            mode,
            nodes,
            maxnode
        }),
        (pointee(number()), nodes(), number(), addr(), number()).prop_map(
            |(mode, nodes, maxnode, addr, flags)| M::GetMempolicy {
                mode,
                nodes,
                maxnode,
                addr,
                flags
            }
        ),
        (addr(), number(), number(), number()).prop_map(|(addr, len, node, flags)| {
            M::SetMempolicyHomeNode { addr, len, node, flags }
        }),
        (
            any::<i32>(),
            number(),
            pointee(prop::collection::vec(addr(), 0..3)),
            pointee(prop::collection::vec(any::<i32>(), 0..3)),
            pointee(prop::collection::vec(-200..200, 0..3)),
            number()
        )
            .prop_map(|(pid, count, pages, nodes, status, flags)| M::MovePages {
                pid,
                count,
                pages,
                nodes,
                status,
                flags
            }),
        (any::<i32>(), number(), nodes(), nodes())
            .prop_map(|(pid, maxnode, old, new)| M::MigratePages { pid, maxnode, old, new }),
        prctl.prop_map(|(option, mut args, name)| {
            if name.is_some() {
                args[3] = 0;
            }
            M::Prctl { option: u64::try_from(option).unwrap(), args, name }
        }),
        (any::<i32>(), number(), limit(), limit())
            .prop_map(|(pid, resource, new, old)| M::Prlimit { pid, resource, new, old }),
        (number(), limit()).prop_map(|(resource, new)| M::Setrlimit { resource, new }),
        (number(), limit()).prop_map(|(resource, old)| M::Getrlimit { resource, old }),
        number().prop_map(|persona| M::Personality { persona }),
        number().prop_map(|flags| M::Userfaultfd { flags }),
        (number(), number(), number()).prop_map(|(key, size, flags)| M::Shmget {
            key,
            size,
            flags
        }),
        (any::<i32>(), addr(), number()).prop_map(|(id, addr, flags)| M::Shmat { id, addr, flags }),
        addr().prop_map(|addr| M::Shmdt { addr }),
        (any::<i32>(), number()).prop_map(|(id, command)| M::Shmctl { id, command }),
    ]
}

fn file_call() -> impl Strategy<Value = FileCall> {
    use FileCall as F;
    let commands =
        prop::sample::select(vec![c::F_DUPFD, c::F_DUPFD_CLOEXEC, c::F_ADD_SEALS, c::F_GET_SEALS]);
    prop_oneof![
        (any::<i32>(), pointee(text()), number(), number())
            .prop_map(|(dir, path, flags, mode)| F::Openat { dir, path, flags, mode }),
        any::<i32>().prop_map(|fd| F::Close { fd }),
        any::<i32>().prop_map(|fd| F::Dup { fd }),
        (any::<i32>(), any::<i32>()).prop_map(|(fd, new)| F::Dup2 { fd, new }),
        (any::<i32>(), any::<i32>(), number()).prop_map(|(fd, new, flags)| F::Dup3 {
            fd,
            new,
            flags
        }),
        (any::<i32>(), commands, number()).prop_map(|(fd, command, value)| F::Fcntl {
            fd,
            command: u64::try_from(command).unwrap(),
            value
        }),
        (any::<i32>(), number()).prop_map(|(fd, len)| F::Ftruncate { fd, len }),
        (pointee(text()), number()).prop_map(|(name, flags)| F::MemfdCreate { name, flags }),
    ]
}

/// Calls that make a task.
fn cloning() -> impl Strategy<Value = ProcessCall> {
    use ProcessCall as P;
    prop_oneof![
        Just(P::Fork),
        Just(P::Vfork),
        (number(), addr()).prop_map(|(flags, stack)| P::Clone { flags, stack }),
        (number(), number(), addr(), number()).prop_map(
            |(flags, exit_signal, stack, stack_size)| P::Clone3 {
                flags,
                exit_signal,
                stack,
                stack_size
            }
        ),
    ]
}

fn process_call() -> impl Strategy<Value = ProcessCall> {
    use ProcessCall as P;
    let argv = prop::collection::vec(text(), 0..3);
    prop_oneof![
        4 => cloning(),
        1 => (pointee(text()), pointee(argv), addr())
            .prop_map(|(path, argv, envp)| P::Execve { path, argv, envp }),
        1 => any::<i32>().prop_map(|status| P::Exit { status }),
        1 => any::<i32>().prop_map(|status| P::ExitGroup { status }),
        1 => any::<i32>().prop_map(|pid| P::Wait4 { pid }),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let errno =
        (1..200).prop_map(Errno::from_raw).prop_filter("known", |e| *e != Errno::UnknownErrno);
    prop_oneof![
        number().prop_map(Outcome::Value),
        errno.prop_map(Outcome::Failed),
        Just(Outcome::Unknown),
    ]
}

fn call() -> impl Strategy<Value = Action> {
    let other = ("[a-z]{3,8}_x", "[a-z0-9, ]{0,12}").prop_map(|(name, arguments)| {
        Call::Other(OtherCall { name, arguments: arguments.trim().to_owned() })
    });
    let call = prop_oneof![
        8 => mapping().prop_map(Call::Memory),
        6 => setting_call().prop_map(Call::Memory),
        4 => file_call().prop_map(Call::File),
        3 => process_call().prop_map(Call::Process),
        1 => other,
    ];
    (call, outcome()).prop_map(|(call, outcome)| Action::Call { call, outcome })
}

fn flags(least: usize) -> impl Strategy<Value = VmFlagNames> {
    let names = [*b"rd", *b"wr", *b"mr", *b"me", *b"ac", *b"??"];
    let known = prop::sample::select(names[..5].to_vec());
    prop::collection::vec(known, least..6).prop_map(VmFlagNames)
}

fn span() -> impl Strategy<Value = Span> {
    (any::<u64>(), any::<u64>()).prop_filter_map("not empty", |(a, b)| {
        let (start, end) = (VirtAddr::new(a.min(b)), VirtAddr::new(a.max(b)));
        (start < end).then_some(Span { start, end })
    })
}

fn map_line() -> impl Strategy<Value = MapLine> {
    let anon = prop_oneof![
        Just(AnonOrigin::None),
        Just(AnonOrigin::Own),
        any::<u64>().prop_map(AnonOrigin::Inherited),
    ];
    let hidden = (prop::option::of(flags(1)), prop::option::of(anon), prop::option::of(number()))
        .prop_map(|(flags, anon, pgoff)| Hidden { flags, anon, pgoff });
    let permissions = prop::sample::select(vec![*b"rw-p", *b"r-xs", *b"---p"]);
    (span(), permissions, number(), any::<(u32, u32)>(), any::<u64>(), "[a-z/\\[]{0,9}", hidden)
        .prop_map(|(span, permissions, offset, device, inode, name, hidden)| MapLine {
            span,
            permissions,
            offset,
            device,
            inode,
            name,
            hidden,
        })
}

fn setting() -> impl Strategy<Value = Setting> {
    let mode = || prop::sample::select(vec![OpenMode::Read, OpenMode::Write, OpenMode::ReadWrite]);
    let kind = prop::sample::select(vec![
        FileKind::Memfd,
        FileKind::File,
        FileKind::Dir,
        FileKind::Device,
        FileKind::Pipe,
    ]);
    let file = prop_oneof![
        (any::<i32>(), mode()).prop_map(|(fd, mode)| File::Same { fd, mode }),
        (kind, number(), mode(), number()).prop_map(|(kind, pages, mode, seals)| File::New {
            kind,
            pages,
            mode,
            seals
        }),
        Just(File::Closed),
    ];
    let change = prop_oneof![
        Just(UffdChange::Unregister),
        (0..8_u8).prop_map(|bits| UffdChange::Register(UffdModes::from_bits_truncate(bits))),
    ];
    prop_oneof![
        (any::<i32>(), file).prop_map(|(fd, file)| Setting::File { fd, file }),
        (addr(), number(), change).prop_map(|(addr, pages, change)| Setting::Uffd {
            addr,
            pages,
            change
        }),
        (number(), number()).prop_map(|(resource, value)| Setting::Limit { resource, value }),
        ("[a-z.]{1,9}", number()).prop_map(|(name, value)| Setting::Sysctl { name, value }),
        ("[A-Z_]{1,9}", prop::sample::select(vec![Held::Yes, Held::No]))
            .prop_map(|(name, held)| Setting::Capability { name, held }),
        prop::sample::select(vec![Thp::Madvise, Thp::Always, Thp::Never]).prop_map(Setting::Thp),
        prop::sample::select(vec!["16k:always", "512k:madvise", "1m:inherit", "2m:never"])
            .prop_map(|of_size| Setting::ThpOf(of_size.parse().unwrap())),
        number().prop_map(Setting::Personality),
        addr().prop_map(Setting::MmapBase),
        (addr(), addr(), prop::option::of(span()))
            .prop_map(|(start, current, data)| Setting::Brk { start, current, data }),
    ]
}

fn directive() -> impl Strategy<Value = Directive> {
    let kinds = vec![AccessKind::Read, AccessKind::Write, AccessKind::Execute];
    let results = vec![Touched::Done, Touched::MapErr, Touched::AccErr, Touched::BusErr];
    let counter = || prop::option::of(number());
    prop_oneof![
        (prop::option::of(span()), prop::collection::vec(map_line(), 0..3))
            .prop_map(|(range, lines)| Directive::Maps { range, lines }),
        (addr(), prop::sample::select(kinds), prop::sample::select(results))
            .prop_map(|(addr, kind, result)| Directive::Touch { addr, kind, result }),
        (addr(), any::<u8>()).prop_map(|(addr, byte)| Directive::Store { addr, byte }),
        (addr(), any::<u8>()).prop_map(|(addr, byte)| Directive::Load { addr, byte }),
        (addr(), flags(0)).prop_map(|(addr, flags)| Directive::Flags { addr, flags }),
        (addr(), prop::collection::vec(0..2_u8, 0..5))
            .prop_map(|(addr, pages)| Directive::Resident { addr, pages }),
        (counter(), counter(), counter(), counter())
            .prop_map(|(anon, file, shmem, swap)| Directive::Rss(Rss { anon, file, shmem, swap })),
        setting().prop_map(Directive::Setting),
    ]
}

/// Any event, on line 1.
pub(in crate::replay) fn event() -> impl Strategy<Value = Event> {
    let action = Union::new_weighted(vec![
        (8, call().boxed()),
        (1, cloning().prop_map(Action::Begun).boxed()),
        (1, "SIG[A-Z]{2,5} \\{[a-z_=0-9, ]{0,9}\\}".prop_map(Action::Signal).boxed()),
        (1, any::<i32>().prop_map(|status| Action::Exited { status }).boxed()),
        (1, "SIG[A-Z]{2,5}".prop_map(Action::Killed).boxed()),
        (1, any::<u32>().prop_map(|by| Action::Superseded { by }).boxed()),
        (6, directive().prop_map(Action::Directive).boxed()),
    ]);
    (prop::option::of(any::<u32>()), action).prop_map(|(pid, action)| Event {
        line: 1,
        begun: 1,
        pid,
        action,
    })
}
