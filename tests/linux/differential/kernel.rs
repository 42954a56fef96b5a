//! What other kernels do otherwise, or were built without: each rule has a probe, the shortest acts that
//! show it. Where the host's kernel and our side differ in a probe, sequences that the rule may touch are
//! left out, and counted: what is compared on that kernel is then still true.

use libtest_mimic::Failed;
use mm::addr::{PAGE_SIZE as PAGE, VirtAddr};
use mm::paging::AccessKind;
use mm::replay::calls::{IoVec, MemoryCall as M, Pointee};

use super::act::{Act, Deed, Open};
use super::model::Start;
use super::run;
use crate::oracle::Oracle;

/// A rule that not every kernel has.
struct Probe {
    /// What it is about, and since when or with which option it is there.
    rule: &'static str,
    /// Acts that show it.
    acts: fn() -> Vec<Deed>,
    /// Which deeds it may touch.
    touches: fn(&Deed) -> bool,
}

/// The rules by which the host's kernel differs from ours.
pub struct Kernel {
    differs: Vec<&'static Probe>,
}

impl Kernel {
    /// Probes the host's kernel.
    pub fn probe(oracle: &mut Oracle, start: &Start) -> Result<Self, Failed> {
        let mut differs = Vec::new();
        for probe in PROBES {
            let acts: Vec<Act> =
                (probe.acts)().into_iter().map(|deed| Act { process: 0, deed }).collect();
            let ours = run::perform(start, &acts)?;
            if run::compare(oracle, &acts, &ours)?.is_some() {
                differs.push(probe);
            }
        }
        Ok(Kernel { differs })
    }

    /// Whether the host's kernel may answer these acts otherwise, rightly so.
    pub fn differs(&self, acts: &[Act]) -> bool {
        acts.iter().any(|act| self.differs.iter().any(|probe| (probe.touches)(&act.deed)))
    }

    /// The rules by which it differs.
    pub fn rules(&self) -> impl Iterator<Item = &'static str> {
        self.differs.iter().map(|probe| probe.rule)
    }
}

const A: u64 = 0x100_0000_0000;

const fn at(page: u64) -> VirtAddr {
    VirtAddr::new(A + page * PAGE)
}

/// Private memory, readable and writable.
fn map(page: u64, pages: u64) -> Deed {
    mmap(page, pages, 0x32)
}

fn mmap(page: u64, pages: u64, flags: u64) -> Deed {
    Deed::Call(M::Mmap { addr: at(page), len: pages * PAGE, prot: 3, flags, fd: -1, offset: 0 })
}

fn advise(page: u64, pages: u64, advice: u64) -> Deed {
    Deed::Call(M::Madvise { addr: at(page), len: pages * PAGE, advice })
}

fn is_advice(deed: &Deed, from: u64, to: u64) -> bool {
    matches!(deed, Deed::Call(M::Madvise { advice, .. } | M::ProcessMadvise { advice, .. })
        if (from..=to).contains(advice))
}

const PROBES: &[Probe] = &[
    Probe {
        rule: "mremap moves several VMAs at once (6.17)",
        acts: || {
            let lock = M::Mlock { addr: at(0), len: PAGE };
            let (addr, len) = (at(0), 2 * PAGE);
            let remap = M::Mremap { addr, old_len: len, new_len: len, flags: 3, new_addr: at(8) };
            vec![map(0, 2), Deed::Call(lock), Deed::Call(remap)]
        },
        touches: |deed| matches!(deed, Deed::Call(M::Mremap { flags, .. }) if flags & 2 != 0),
    },
    Probe {
        rule: "mseal (6.10)",
        acts: || {
            let seal = M::Mseal { addr: at(0), len: PAGE, flags: 0 };
            vec![map(0, 1), Deed::Call(seal), Deed::Call(M::Munmap { addr: at(0), len: PAGE })]
        },
        touches: |deed| matches!(deed, Deed::Call(M::Mseal { .. })),
    },
    Probe {
        rule: "guards, also in files, and their sticky flag (6.13, 6.15, 6.18)",
        acts: || {
            vec![map(0, 2), advise(0, 1, 102), Deed::Load(A), advise(0, 1, 103), Deed::Load(A)]
        },
        touches: |deed| is_advice(deed, 102, 103),
    },
    Probe {
        rule: "MAP_DROPPABLE (6.11)",
        acts: || vec![mmap(0, 2, 0x38)],
        touches: |deed| matches!(deed, Deed::Call(M::Mmap { flags, .. }) if flags & 15 == 8),
    },
    Probe {
        rule: "process_madvise of oneself by PIDFD_SELF (6.15)",
        acts: || {
            let ranges = Pointee::Shown(vec![IoVec { base: at(0), len: PAGE }]);
            let call = M::ProcessMadvise { pidfd: -10000, ranges, count: 1, advice: 4, flags: 0 };
            vec![map(0, 1), Deed::Call(call)]
        },
        touches: |deed| matches!(deed, Deed::Call(M::ProcessMadvise { .. })),
    },
    Probe {
        rule: "KSM (CONFIG_KSM)",
        acts: || vec![map(0, 2), advise(0, 1, 12)],
        touches: |deed| is_advice(deed, 12, 13),
    },
    Probe {
        rule: "huge pages: their advice (CONFIG_TRANSPARENT_HUGEPAGE)",
        acts: || vec![map(0, 2), advise(0, 1, 14)],
        touches: |deed| is_advice(deed, 14, 15) || is_advice(deed, 25, 25),
    },
    Probe {
        rule: "huge pages: where exact multiples are placed (6.7)",
        acts: || {
            let addr = VirtAddr::ZERO;
            let len = 512 * PAGE;
            vec![Deed::Call(M::Mmap { addr, len, prot: 3, flags: 0x22, fd: -1, offset: 0 })]
        },
        touches: |deed| match deed {
            Deed::Call(M::Mmap { len, .. }) => *len >= 512 * PAGE,
            Deed::Call(M::Mremap { new_len, .. }) => *new_len >= 512 * PAGE,
            _ => false,
        },
    },
    Probe {
        rule: "MAP_HUGETLB: 2 MiB and 1 GiB (hugetlbfs), and none in the pool (vm.nr_hugepages=0)",
        acts: || {
            const UNPROMISED: u64 = 0x4_4032;
            let gigantic = UNPROMISED | 30 << libc::MAP_HUGE_SHIFT;
            let memfd = Deed::Open(3, Open::HugeMemfd(21));
            let promised = mmap(0, 512, UNPROMISED - 0x4000);
            let maps = [mmap(0, 1, UNPROMISED), mmap(1 << 18, 1, gigantic)];
            let touches = [Deed::Load(A), Deed::Load(A + (1 << 30))];
            maps.into_iter().chain(touches).chain([promised, memfd]).collect()
        },
        touches: |deed| match deed {
            Deed::Call(M::Mmap { flags, .. }) => flags & libc::MAP_HUGETLB as u64 != 0,
            Deed::Open(_, open) => matches!(open, Open::HugeMemfd(_)),
            _ => false,
        },
    },
    Probe {
        rule: "MADV_COLLAPSE (6.1)",
        acts: || vec![map(0, 2), advise(0, 1, 25)],
        touches: |deed| is_advice(deed, 25, 25),
    },
    Probe {
        rule: "the largest file: ext4's",
        acts: || {
            let last = ((1 << 32) - 2) * PAGE;
            let file = |page, offset| {
                let (addr, len) = (at(page), PAGE);
                Deed::Call(M::Mmap { addr, len, prot: 3, flags: 0x11, fd: 3, offset })
            };
            let maps = [Deed::Open(3, Open::File(1)), file(0, last), file(1, last + PAGE)];
            maps.into_iter().chain([advise(0, 1, 9), advise(1, 1, 9)]).collect()
        },
        touches: |deed| is_advice(deed, 9, 9),
    },
    Probe {
        rule: "populating advice (5.14), MADV_DONTNEED_LOCKED (5.18)",
        acts: || vec![map(0, 2), advise(0, 1, 22), advise(0, 1, 23), advise(0, 2, 24)],
        touches: |deed| is_advice(deed, 22, 24),
    },
    Probe {
        rule: "memory policies (CONFIG_NUMA), weighted interleave (6.9)",
        acts: || {
            let nodes = Pointee::Shown(vec![1]);
            let (addr, len) = (at(0), PAGE);
            let bind = M::Mbind { addr, len, mode: 6, nodes, maxnode: 64, flags: 0 };
            vec![map(0, 2), Deed::Call(bind)]
        },
        touches: |deed| {
            matches!(
                deed,
                Deed::Call(
                    M::Mbind { .. }
                        | M::SetMempolicy { .. }
                        | M::GetMempolicy { .. }
                        | M::SetMempolicyHomeNode { .. }
                        | M::MovePages { .. }
                        | M::MigratePages { .. }
                )
            )
        },
    },
    Probe {
        rule: "userfaultfd (CONFIG_USERFAULTFD), with write protection and minor faults",
        acts: || {
            let range = |mode| Deed::Uffd(3, A, PAGE, mode);
            vec![map(0, 2), Deed::Userfault(3), range(1), range(0), range(2), range(0), range(4)]
        },
        touches: |deed| {
            matches!(deed, Deed::Uffd(..) | Deed::Userfault(_) | Deed::ServedUserfault(_))
        },
    },
    Probe {
        rule: "PR_SET_MDWE (6.3), PR_SET_THP_DISABLE with flags (6.18)",
        acts: || {
            let prctl =
                |option, a, b| Deed::Call(M::Prctl { option, args: [a, b, 0, 0], name: None });
            vec![prctl(41, 1, 2), prctl(42, 0, 0), prctl(65, 1, 0), prctl(66, 0, 0)]
        },
        touches: |deed| matches!(deed, Deed::Call(M::Prctl { .. })),
    },
    Probe {
        rule: "huge pages: only where advised, and then also for a read (enabled=madvise)",
        acts: || {
            let touch = |page| Deed::Touch(A + page * PAGE, AccessKind::Read);
            let remap = |page| {
                let (addr, new_addr) = (at(page), at(page + 100));
                Deed::Call(M::Mremap { addr, old_len: PAGE, new_len: PAGE, flags: 3, new_addr })
            };
            let huge = [map(0, 1024), touch(600), remap(0), map(2048, 1024)];
            let advised = [advise(2048, 1024, 14), touch(2648), remap(2048)];
            huge.into_iter().chain(advised).collect()
        },
        touches: |deed| matches!(deed, Deed::Call(M::Mmap { len, .. }) if *len >= 512 * PAGE),
    },
    Probe {
        rule: "a write makes identity, and neighbours that differ in access share it",
        acts: || {
            let touch = |page| Deed::Touch(A + page * PAGE, AccessKind::Write);
            let protect = |prot| Deed::Call(M::Mprotect { addr: at(1), len: PAGE, prot });
            vec![map(0, 1), touch(0), map(1, 1), protect(1), protect(3), touch(1)]
        },
        touches: |_| true,
    },
];
