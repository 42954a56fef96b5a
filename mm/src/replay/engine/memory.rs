//! A memory call of the trace: its addresses translated, performed, and compared.

use nix::libc;

use super::addresses::Part;
use super::order::Events;
use super::tasks::Known;
use super::{AddressMode, Answer, Engine, Executor, Output, Place, Reply, Sides};
use crate::addr::{VirtAddr, page_align};
use crate::error::Errno;
use crate::replay::calls::{Call, Extent, IoVec, MemoryCall, Outcome, Pointee};
use crate::replay::text;
use crate::replay::trace::Setting;

/// The flags that say where a map goes.
pub(super) const FIXED: u64 = (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) as u64;
pub(super) const MREMAP_FIXED: u64 = libc::MREMAP_FIXED as u64;
const MREMAP_DONTUNMAP: u64 = libc::MREMAP_DONTUNMAP as u64;

/// What a call of the trace becomes.
enum Plan {
    /// These calls, one after the other; usually it alone.
    Run(Vec<MemoryCall>, Expect),
    /// Nothing: the trace does not explain its addresses.
    Skip,
}

/// What a value must be for the call to be as the trace has it.
#[derive(Clone, Copy)]
enum Expect {
    /// The value of the trace.
    Same,
    /// This one: the trace's, translated.
    Exactly(u64),
    /// Any: success is what counts.
    Success,
}

impl<E: Executor> Engine<'_, E> {
    pub(super) fn memory(
        &mut self,
        at: Place,
        call: &MemoryCall,
        recorded: Outcome,
        events: &mut Events<'_>,
    ) -> Result<(), E::Error> {
        let plan = match recorded {
            Outcome::Unknown => Plan::Skip,
            _ => self.plan(at, call, recorded)?,
        };
        let Plan::Run(steps, expect) = plan else {
            self.skip(at.line, || Call::Memory(call.clone()).to_string());
            return Ok(());
        };
        let mut answers = Vec::with_capacity(steps.len());
        for step in &steps {
            match self.executor.call(at.task, step, recorded)? {
                Reply::Is(answer) => answers.push(answer),
                Reply::Unsupported => {
                    self.skip(at.line, || Call::Memory(call.clone()).to_string());
                    return Ok(());
                }
            }
        }
        if let ([step], [answer]) = (&steps[..], &mut answers[..]) {
            self.in_another_order(at, step, recorded, answer, events)?;
        }
        let failed = answers.iter().find(|answer| answer.result.is_err());
        let Some(answer) = failed.or(answers.first()) else { return Ok(()) };
        self.compare_answer(at, call, recorded, expect, answer);
        if let (Outcome::Value(value), Ok(ours)) = (recorded, answer.result) {
            self.learn(at, call, value, ours);
        }
        Ok(())
    }

    fn compare_answer(
        &mut self,
        at: Place,
        call: &MemoryCall,
        recorded: Outcome,
        expect: Expect,
        answer: &Answer,
    ) {
        let got = match answer.result {
            Ok(value) => Outcome::Value(value),
            Err(errno) => Outcome::Failed(errno),
        };
        let expected = match (recorded, got, expect) {
            (Outcome::Value(_), Outcome::Value(any), Expect::Success) => Outcome::Value(any),
            (Outcome::Value(_), _, Expect::Exactly(value)) => Outcome::Value(value),
            _ => recorded,
        };
        let whole = || Call::Memory(call.clone());
        let sides = Sides::of(&expected, &got, |side| whole().outcome_text(*side));
        let equal = matches!(sides, Sides::Equal);
        self.compare(at.line, || whole().to_string(), sides);
        if equal && let Some(sides) = written(call, &answer.output) {
            self.compare(at.line, || whole().to_string(), sides);
        }
    }

    /// The calls to make. Ranges that must be there are assumed to be.
    fn plan(&mut self, at: Place, call: &MemoryCall, recorded: Outcome) -> Result<Plan, E::Error> {
        use MemoryCall as M;
        let known = self.tasks.space(at.task).map_or(Known::All, |space| space.known);
        if let (Known::Partly, M::Brk { .. }, Outcome::Value(value)) = (known, call, recorded) {
            self.assume_heap(at, value)?;
        }
        let same = match call {
            M::Userfaultfd { .. } | M::Shmget { .. } => Expect::Success,
            _ => Expect::Same,
        };
        let as_is = || Plan::Run(vec![call.clone()], same);
        if self.addresses == AddressMode::Exact && known == Known::All {
            return Ok(as_is());
        }
        // What a successful call worked on was there.
        let succeeded = matches!(recorded, Outcome::Value(_));
        if succeeded
            && needs_mapping(call)
            && let Some((addr, len)) = call.range()
        {
            self.assume(at, addr.get(), len)?;
        }
        if self.addresses == AddressMode::Exact {
            return Ok(as_is());
        }
        Ok(self.translated(at, call, recorded, same).unwrap_or(Plan::Skip))
    }

    /// Maps what of a range the trace has not explained.
    fn assume(&mut self, at: Place, start: u64, len: u64) -> Result<(), E::Error> {
        const ACCESS: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        const ANONYMOUS: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        const NOREPLACE: u64 = libc::MAP_FIXED_NOREPLACE as u64;
        let len = page_align(len).unwrap_or(len);
        let Some(space) = self.tasks.space(at.task) else { return Ok(()) };
        let unknown: Vec<Part> =
            space.addresses.parts(start, len).into_iter().filter(|p| p.ours.is_none()).collect();
        for Part { start, len, .. } in unknown {
            let (addr, placed) = match self.addresses {
                AddressMode::Exact => (start, NOREPLACE),
                AddressMode::Relocated => (0, 0),
            };
            let addr = VirtAddr::new(addr);
            let flags = ANONYMOUS | placed;
            let mmap = MemoryCall::Mmap { addr, len, prot: ACCESS, flags, fd: -1, offset: 0 };
            let reply = self.executor.call(at.task, &mmap, Outcome::Value(start))?;
            let ours = match reply {
                Reply::Is(Answer { result: Ok(ours), .. }) => {
                    self.summary.assumed += 1;
                    ours
                }
                // Something is there that the trace does not show: so much the better.
                Reply::Is(Answer { result: Err(Errno::EEXIST), .. }) => start,
                // The call itself will show what is missing.
                Reply::Is(Answer { result: Err(_), .. }) | Reply::Unsupported => continue,
            };
            if let Some(space) = self.tasks.space(at.task) {
                space.addresses.map(start, len, ours);
            }
        }
        Ok(())
    }

    /// Where the heap of a program that was not loaded begins, its first brk says. Translated, any place
    /// will do.
    fn assume_heap(&mut self, at: Place, start: u64) -> Result<(), E::Error> {
        let Some(space) = self.tasks.space(at.task) else { return Ok(()) };
        if self.addresses == AddressMode::Relocated || space.addresses.heap.is_some() {
            return Ok(());
        }
        let start = VirtAddr::new(start);
        let setting = Setting::Brk { start, current: start, data: None };
        if let Reply::Is(()) = self.executor.configure(at.task, &setting)? {
            self.summary.assumed += 1;
        }
        Ok(())
    }

    /// The call with addresses of ours; `None` where the trace does not explain them.
    fn translated(
        &mut self,
        at: Place,
        call: &MemoryCall,
        recorded: Outcome,
        same: Expect,
    ) -> Option<Plan> {
        use MemoryCall as M;
        let space = self.tasks.space(at.task)?;
        let map = &space.addresses;
        let value = match recorded {
            Outcome::Value(value) => Some(value),
            Outcome::Failed(_) | Outcome::Unknown => None,
        };
        // A hint, or an address in a failed call: ours if there is one, else as it is.
        let near = |addr: VirtAddr| VirtAddr::new(map.translate(addr.get()).unwrap_or(addr.get()));
        let one = |call| Plan::Run(vec![call], same);
        Some(match call {
            // In parts, some would succeed.
            M::Mmap { addr, len, flags, .. } if flags & FIXED != 0 && value.is_none() => {
                let ours = space.whole(addr.get(), page_align(*len)?)?;
                one(with_address(call, VirtAddr::new(ours))?)
            }
            M::Mmap { addr, len, flags, .. } if flags & FIXED != 0 => {
                let mut steps = Vec::new();
                for part in map.parts(addr.get(), page_align(*len)?) {
                    let offset = part.start - addr.get();
                    // Nobody knows what is there: the same address, unless we have something else there.
                    let free = map.is_free(part.start, part.len).then_some(part.start);
                    steps.push(mmap_part(call, part.ours.or(free)?, part.len, offset)?);
                }
                let first = steps.first().and_then(MemoryCall::range)?;
                Plan::Run(steps, Expect::Exactly(first.0.get()))
            }
            M::Mmap { addr, .. } => {
                Plan::Run(vec![with_address(call, near(*addr))?], Expect::Success)
            }
            M::Shmat { id, addr, flags } => {
                let addr = near(*addr);
                let expect = if addr == VirtAddr::ZERO {
                    Expect::Success
                } else {
                    Expect::Exactly(addr.get())
                };
                Plan::Run(vec![M::Shmat { id: *id, addr, flags: *flags }], expect)
            }
            M::Shmdt { addr } => one(M::Shmdt { addr: VirtAddr::new(map.translate(addr.get())?) }),
            M::Brk { addr } => {
                let expect = match (map.heap, value) {
                    (Some(heap), Some(value)) => Expect::Exactly(heap.translate(value)),
                    _ => Expect::Success,
                };
                let ours = match (addr.get(), map.heap) {
                    (0, _) => 0,
                    (addr, Some(heap)) => heap.translate(addr),
                    (_, None) => return None,
                };
                Plan::Run(vec![M::Brk { addr: VirtAddr::new(ours) }], expect)
            }
            M::Mremap { addr, old_len, new_len, flags, new_addr } => {
                let addr = VirtAddr::new(space.whole(addr.get(), *old_len)?);
                let fixed = flags & MREMAP_FIXED != 0;
                let target = match space.whole(new_addr.get(), *new_len) {
                    Some(ours) => ours,
                    None if fixed && !map.is_free(new_addr.get(), *new_len) => return None,
                    None => new_addr.get(),
                };
                let (old_len, new_len, flags) = (*old_len, *new_len, *flags);
                let new_addr = VirtAddr::new(target);
                let expect = if fixed { Expect::Exactly(target) } else { Expect::Success };
                Plan::Run(vec![M::Mremap { addr, old_len, new_len, flags, new_addr }], expect)
            }
            M::ProcessMadvise { pidfd, ranges: Pointee::Shown(ranges), count, advice, flags } => {
                let ours = |range: &IoVec| {
                    let base = VirtAddr::new(map.whole(range.base.get(), range.len)?);
                    Some(IoVec { base, len: range.len })
                };
                one(M::ProcessMadvise {
                    pidfd: *pidfd,
                    ranges: Pointee::Shown(ranges.iter().map(ours).collect::<Option<_>>()?),
                    count: *count,
                    advice: *advice,
                    flags: *flags,
                })
            }
            M::MovePages { pid, count, pages: Pointee::Shown(pages), nodes, status, flags } => {
                let ours = |page: &VirtAddr| map.translate(page.get()).map(VirtAddr::new);
                one(M::MovePages {
                    pid: *pid,
                    count: *count,
                    pages: Pointee::Shown(pages.iter().map(ours).collect::<Option<_>>()?),
                    nodes: nodes.clone(),
                    status: status.clone(),
                    flags: *flags,
                })
            }
            M::GetMempolicy { addr, .. } if *addr != VirtAddr::ZERO => {
                one(with_address(call, VirtAddr::new(map.translate(addr.get())?))?)
            }
            M::Prctl { option, args: [what, addr, rest @ ..], name } if *addr != 0 => {
                let args = [*what, map.translate(*addr)?, rest[0], rest[1]];
                one(M::Prctl { option: *option, args, name: name.clone() })
            }
            _ => match call.range() {
                None => one(call.clone()),
                Some((addr, len)) => self.on_range(at, call, addr, len, value)?,
            },
        })
    }

    /// A call on a range: one for each part that is in one piece with us.
    fn on_range(
        &mut self,
        at: Place,
        call: &MemoryCall,
        addr: VirtAddr,
        len: u64,
        value: Option<u64>,
    ) -> Option<Plan> {
        let space = self.tasks.space(at.task)?;
        let map = &space.addresses;
        let expect = Expect::Same;
        if value.is_none() || len == 0 {
            // What it has done before it failed is done here too.
            let ours = VirtAddr::new(space.whole(addr.get(), len)?);
            return Some(Plan::Run(vec![with_address(call, ours)?], expect));
        }
        let parts = map.parts(addr.get(), page_align(len)?);
        // munmap does not mind a hole. What else has one here could not be assumed.
        let holes_matter = !matches!(call, MemoryCall::Munmap { .. });
        if holes_matter && parts.iter().any(|part| part.ours.is_none()) {
            return None;
        }
        let is_one = parts.len() == 1;
        if !is_one && matches!(call, MemoryCall::Mincore { .. }) {
            return None;
        }
        let mut steps = Vec::new();
        for part in &parts {
            let Some(ours) = part.ours else { continue };
            let step = with_address(call, VirtAddr::new(ours))?;
            steps.push(if is_one { step } else { with_length(&step, part.len)? });
        }
        if steps.is_empty() {
            // Of nothing: it must succeed all the same.
            let ours = VirtAddr::new(space.whole(addr.get(), len)?);
            steps.push(with_address(call, ours)?);
        }
        Some(Plan::Run(steps, expect))
    }

    /// Notes what a successful call has mapped or unmapped.
    fn learn(&mut self, at: Place, call: &MemoryCall, value: u64, ours: u64) {
        use MemoryCall as M;
        if let M::Shmget { size, .. } = call
            && let Ok(id) = i32::try_from(value)
        {
            self.shm_sizes.insert(id, *size);
        }
        let attached = match call {
            M::Shmat { id, .. } => self.shm_sizes.get(id).copied(),
            _ => None,
        };
        let exact = self.addresses == AddressMode::Exact;
        let Some(space) = self.tasks.space(at.task) else { return };
        let map = &mut space.addresses;
        match call {
            M::Mmap { len, flags, .. } if exact || flags & FIXED == 0 => map.map(value, *len, ours),
            // In parts: each is where it was planned.
            M::Mmap { addr, len, .. } => {
                for part in map.parts(addr.get(), page_align(*len).unwrap_or(0)) {
                    map.map(part.start, part.len, part.ours.unwrap_or(part.start));
                }
            }
            M::Munmap { addr, len } => map.unmap(addr.get(), *len),
            M::Mremap { addr, old_len, new_len, flags, .. } => {
                if flags & MREMAP_DONTUNMAP == 0 {
                    map.unmap(addr.get(), *old_len);
                }
                map.map(value, *new_len, ours);
            }
            M::Brk { .. } => {
                let heap = match map.heap {
                    Some(heap) => heap,
                    None => {
                        map.start_heap(value, ours);
                        return;
                    }
                };
                if let Some(len) = value.checked_sub(heap.trace) {
                    map.map(heap.trace, len, heap.ours);
                }
            }
            M::Shmat { .. } => {
                let len = attached.unwrap_or(1);
                map.map(value, len, ours);
                map.attached.insert(value, len);
            }
            M::Shmdt { addr } => {
                if let Some(len) = map.attached.remove(&addr.get()) {
                    map.unmap(addr.get(), len);
                }
            }
            _ => {}
        }
    }
}

/// Whether the call can only succeed on a range that is mapped throughout.
fn needs_mapping(call: &MemoryCall) -> bool {
    use MemoryCall as M;
    !matches!(call, M::Mmap { .. } | M::Munmap { .. })
}

/// A part of an mmap at a fixed address.
fn mmap_part(call: &MemoryCall, ours: u64, part_len: u64, skipped: u64) -> Option<MemoryCall> {
    let MemoryCall::Mmap { len, prot, flags, fd, offset, .. } = *call else { return None };
    let addr = VirtAddr::new(ours);
    // The last part keeps an odd length.
    let len = part_len.min(len.checked_sub(skipped)?);
    Some(MemoryCall::Mmap { addr, len, prot, flags, fd, offset: offset.checked_add(skipped)? })
}

/// The same call at another address.
fn with_address(call: &MemoryCall, ours: VirtAddr) -> Option<MemoryCall> {
    use MemoryCall as M;
    let mut call = call.clone();
    match &mut call {
        M::Mmap { addr, .. }
        | M::Munmap { addr, .. }
        | M::Mprotect { addr, .. }
        | M::PkeyMprotect { addr, .. }
        | M::RemapFilePages { addr, .. }
        | M::Madvise { addr, .. }
        | M::Mlock { addr, .. }
        | M::Mlock2 { addr, .. }
        | M::Munlock { addr, .. }
        | M::Mseal { addr, .. }
        | M::Msync { addr, .. }
        | M::Mincore { addr, .. }
        | M::Mbind { addr, .. }
        | M::SetMempolicyHomeNode { addr, .. }
        | M::GetMempolicy { addr, .. } => *addr = ours,
        _ => return None,
    }
    Some(call)
}

/// The same call on another length.
fn with_length(call: &MemoryCall, part: u64) -> Option<MemoryCall> {
    use MemoryCall as M;
    let mut call = call.clone();
    match &mut call {
        M::Munmap { len, .. }
        | M::Mprotect { len, .. }
        | M::PkeyMprotect { len, .. }
        | M::RemapFilePages { len, .. }
        | M::Madvise { len, .. }
        | M::Mlock { len, .. }
        | M::Mlock2 { len, .. }
        | M::Munlock { len, .. }
        | M::Mseal { len, .. }
        | M::Msync { len, .. }
        | M::Mbind { len, .. }
        | M::SetMempolicyHomeNode { len, .. } => *len = part,
        _ => return None,
    }
    Some(call)
}

/// Compares what the trace shows the call to have written with what the executor wrote; `None` where one
/// of the two is not known.
fn written(call: &MemoryCall, output: &Output) -> Option<Sides> {
    use MemoryCall as M;
    Some(match (call, output) {
        (M::Mincore { vec: Pointee::Shown(shown), .. }, Output::Resident(pages)) => {
            let bits = |pages: &[u8]| pages.iter().map(|page| page & 1).collect::<Vec<_>>();
            let mut got = bits(pages);
            if shown.extent == Extent::Cut {
                got.truncate(shown.pages.len());
            }
            Sides::of(&bits(&shown.pages), &got, |pages| format!("{pages:?}"))
        }
        (
            M::Prlimit { old: Pointee::Shown(shown), .. }
            | M::Getrlimit { old: Pointee::Shown(shown), .. },
            Output::Limit(limit),
        ) => Sides::of(shown, limit, |limit| {
            let (current, maximum) = (text::limit(limit.current), text::limit(limit.maximum));
            format!("{{rlim_cur={current}, rlim_max={maximum}}}")
        }),
        (M::MovePages { status: Pointee::Shown(shown), .. }, Output::Statuses(statuses)) => {
            let mut got = statuses.clone();
            got.resize(shown.len(), 0);
            Sides::of(shown, &got, |statuses| format!("{statuses:?}"))
        }
        (
            M::GetMempolicy { mode, nodes, .. },
            Output::Policy { mode: our_mode, nodes: our_nodes },
        ) => {
            // What was not asked for, or is not shown, is not compared.
            let mode = mode.shown().copied().filter(|_| our_mode.is_some());
            let nodes = nodes.shown().filter(|_| our_nodes.is_some());
            // A bitmap may be longer than there are nodes.
            let set = |words: &Vec<u64>| {
                let len = words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
                words[..len].to_vec()
            };
            let expected = (mode, nodes.map(set));
            let got = (
                our_mode.filter(|_| mode.is_some()),
                our_nodes.as_ref().filter(|_| nodes.is_some()).map(set),
            );
            Sides::of(&expected, &got, |(mode, nodes)| format!("mode {mode:?}, nodes {nodes:x?}"))
        }
        _ => return None,
    })
}
