//! Questions that `doctor` asks and the tests check: above all, whether a change of a page table is seen.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use mm::addr::Frame;
use mm::paging::TableChange;

use super::programs::{fill_xmm, fill_ymm, read_xmm, read_ymm};
use super::{DATA, Lab, LabError, READ, WRITE, Watchdog, count_up, expect, load_store, load_two};
use crate::kvm::{Exit, FlushPolicy, Kicker, Kind, Kvm, Registers, Vcpu, cpuid};

/// What a vCPU sees after a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Visibility {
    /// The page tables as they are.
    New,
    /// The page tables as they were.
    Stale,
}

/// What was seen after a flush, and how long the flush took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(crate) visibility: Visibility,
    pub(crate) flush: Duration,
}

/// A page is read, unmapped, flushed by the policy and read again.
pub(crate) fn revoked_page(kvm: &Kvm, policy: FlushPolicy) -> Result<Seen, LabError> {
    let lab = Lab::new(kvm, policy)?;
    let page = lab.map(DATA, READ);
    lab.store(page, 1);
    let mut vcpu = lab.vcpu(load_store())?;
    expect("the page's word", lab.run_to_call(&mut vcpu)?, 1)?;
    lab.clear(DATA);
    let flush = timed_flush(&lab, Change::Leaves(&[page]))?;
    let visibility = match lab.run(&mut vcpu)? {
        Exit::Fault { vector: 14, error: 4, .. } => Visibility::New,
        // It got past the read: the write was refused, or not even that.
        Exit::Fault { vector: 14, .. } | Exit::Call => Visibility::Stale,
        got => return Err(LabError::Unexpected { wanted: "a page fault", got }),
    };
    Ok(Seen { visibility, flush })
}

/// A page that was written is made read-only, flushed by the policy, read and written again. Once it may be
/// written again, nothing need be flushed.
pub(crate) fn write_protected_page(kvm: &Kvm, policy: FlushPolicy) -> Result<Seen, LabError> {
    let lab = Lab::new(kvm, policy)?;
    let page = lab.map(DATA, WRITE);
    lab.store(page, 1);
    let mut vcpu = lab.vcpu(load_store())?;
    let again = Registers { rsi: 2, ..*vcpu.registers() };
    vcpu.resume_user(&again)?;
    expect("the page's word", lab.run_to_call(&mut vcpu)?, 1)?;
    lab.run_to_call(&mut vcpu)?;
    lab.set(DATA, page, READ);
    let flush = timed_flush(&lab, Change::Writes(page))?;
    vcpu.resume_user(&Registers { rsi: 3, ..again })?;
    expect("the word that it wrote", lab.run_to_call(&mut vcpu)?, 2)?;
    let visibility = match lab.run(&mut vcpu)? {
        Exit::Fault { vector: 14, error: 7, .. } => Visibility::New,
        Exit::Call => return Ok(Seen { visibility: Visibility::Stale, flush }),
        got => return Err(LabError::Unexpected { wanted: "a page fault", got }),
    };
    expect("the word that it could not write", lab.load(page, 0), 2)?;
    lab.set(DATA, page, WRITE);
    vcpu.retry_fault();
    lab.run_to_call(&mut vcpu)?;
    expect("the word that it wrote again", lab.load(page, 0), 3)?;
    Ok(Seen { visibility, flush })
}

/// What is taken from vCPUs that write to a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Revoked {
    /// All of it.
    Page,
    /// Only the permission to write it.
    Writes,
}

/// A page is unmapped, or made read-only, and flushed while two vCPUs on other threads count in it, each in a word of its own.
/// Stale as soon as one of them counts on, new when both have faulted instead.
pub(crate) fn running_vcpus(
    kvm: &Kvm,
    policy: FlushPolicy,
    revoked: Revoked,
) -> Result<Seen, LabError> {
    let lab = Lab::new(kvm, policy)?;
    let page = lab.map(DATA, WRITE);
    let vcpus = [DATA, DATA + 8]
        .into_iter()
        .map(|word| {
            let mut vcpu = lab.vcpu(count_up())?;
            vcpu.resume_user(&Registers { rdi: word, ..*vcpu.registers() })?;
            Ok(vcpu)
        })
        .collect::<Result<Vec<_>, LabError>>()?;
    let (done, faults) = (&AtomicBool::new(false), &[AtomicU64::new(0), AtomicU64::new(0)]);
    let (send, receive) = channel();
    thread::scope(|scope| {
        let runners: Vec<_> = vcpus
            .into_iter()
            .zip(faults)
            .map(|(mut vcpu, faults)| {
                let send = send.clone();
                scope.spawn(move || {
                    // The other side waits for every kicker before anything else, so it is there.
                    let _ = send.send(Kicker::of_this_thread());
                    count_until(&mut vcpu, done, faults)
                })
            })
            .collect();
        let kickers: Vec<_> = receive.iter().take(runners.len()).collect();
        let seen = revoke_while_counting(&lab, page, revoked, faults);
        done.store(true, Ordering::Release);
        for kicker in kickers {
            // A runner that has failed cannot be kicked any more, and says below why.
            let _ = kicker.kick();
        }
        for runner in runners {
            runner.join().map_err(|_| LabError::TimedOut)??;
        }
        seen
    })
}

/// Counts until it is told to stop; a page fault is noted and answered by repeating it.
fn count_until(vcpu: &mut Vcpu, done: &AtomicBool, faults: &AtomicU64) -> Result<(), LabError> {
    loop {
        match vcpu.run() {
            _ if done.load(Ordering::Acquire) => return Ok(()),
            Exit::Interrupted(_) => {}
            Exit::Fault { vector: 14, .. } => {
                faults.fetch_add(1, Ordering::AcqRel);
                vcpu.retry_fault();
            }
            got => return Err(LabError::Unexpected { wanted: "a page fault", got }),
        }
    }
}

fn revoke_while_counting(
    lab: &Lab,
    page: Frame,
    revoked: Revoked,
    faults: &[AtomicU64; 2],
) -> Result<Seen, LabError> {
    /// So many counts say that a vCPU runs at full speed.
    const WARM: u64 = 1000;
    let counts = || [0, 1].map(|index| lab.load(page, index));
    let faults = || [&faults[0], &faults[1]].map(|faults| faults.load(Ordering::Acquire));
    wait_until(|| counts().into_iter().all(|count| count >= WARM))?;
    let change = match revoked {
        Revoked::Page => {
            lab.clear(DATA);
            Change::Leaves(&[page])
        }
        Revoked::Writes => {
            lab.set(DATA, page, READ);
            Change::Writes(page)
        }
    };
    let flush = timed_flush(lab, change)?;
    // A vCPU's second fault from here on has begun after the flush: so no time need be guessed after which
    // one that had to wait its turn would have shown that it is stale.
    let (before, faulted) = (counts(), faults());
    let ran = || faults().into_iter().zip(faulted).all(|(now, then)| now > then + 1);
    wait_until(|| counts() != before || ran())?;
    let visibility = if counts() == before { Visibility::New } else { Visibility::Stale };
    Ok(Seen { visibility, flush })
}

/// Waits for something that other threads do.
fn wait_until(holds: impl Fn() -> bool) -> Result<(), LabError> {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > Watchdog::LIMIT {
            return Err(LabError::TimedOut);
        }
        thread::yield_now();
    }
    Ok(())
}

/// Two last-level tables are unlinked and linked again with their roles swapped and other pages in them.
///
/// ```text
///   before   DATA ──> table 1 ──> page a        after   DATA ──> table 2 ──> page c
///            OTHER ─> table 2 ──> page b                OTHER ─> table 1 ──> page d
/// ```
pub(crate) fn reused_tables(
    kvm: &Kvm,
    policy: FlushPolicy,
    change: TableChange,
) -> Result<Seen, LabError> {
    const OTHER: u64 = DATA + (2 << 20);
    let lab = Lab::new(kvm, policy)?;
    let pages = [DATA, OTHER].map(|address| lab.map(address, READ));
    let mut vcpu = lab.vcpu(load_two())?;
    lab.run_to_call(&mut vcpu)?;

    for address in [DATA, OTHER] {
        lab.clear(address);
    }
    let tables = [DATA, OTHER].map(|address| lab.table_entry(address).swap(0, Ordering::AcqRel));
    let flush = timed_flush(&lab, Change::Tables(&pages, change))?;
    lab.table_entry(DATA).store(tables[1], Ordering::Release);
    lab.table_entry(OTHER).store(tables[0], Ordering::Release);
    for (address, word) in [(DATA, 0xc), (OTHER, 0xd)] {
        let page = lab.map(address, READ);
        lab.store(page, word);
    }
    let read = (lab.run_to_call(&mut vcpu)?, vcpu.registers().rbx);
    let visibility = if read == (0xc, 0xd) { Visibility::New } else { Visibility::Stale };
    Ok(Seen { visibility, flush })
}

/// What was changed, of these frames.
#[derive(Clone, Copy)]
enum Change<'a> {
    Leaves(&'a [Frame]),
    Tables(&'a [Frame], TableChange),
    Writes(Frame),
}

fn timed_flush(lab: &Lab, change: Change<'_>) -> Result<Duration, LabError> {
    let start = Instant::now();
    match change {
        Change::Leaves(frames) => lab.flush(frames, TableChange::None)?,
        Change::Tables(frames, change) => lab.flush(frames, change)?,
        Change::Writes(frame) => lab.flush_writes(frame)?,
    }
    Ok(start.elapsed())
}

/// Vector registers, MXCSR and FS base: gone when a vCPU is used again, back when its state is set.
/// Says which registers could be asked.
pub(crate) fn vector_state(kvm: &Kvm) -> Result<&'static str, LabError> {
    /// Where the programs store ymm5 and ymm15 (4 words each), and MXCSR.
    const VECTORS: usize = 8;
    const MXCSR_MASK: u64 = 0xffff_ffff;
    let lab = Lab::new(kvm, FlushPolicy::Chosen)?;
    // Software KVM has AVX wherever the CPU has it, whatever the table and XCR0 say.
    let offered = cpuid::xcr0(lab.vm.cpuid()).is_some_and(|xcr0| xcr0 & cpuid::AVX != 0);
    let wide =
        (offered || lab.vm.kind() == Kind::Soft) && std::arch::is_x86_feature_detected!("avx");
    let (fill, read, name, stored) = if wide {
        (fill_ymm(), read_ymm(), "YMM", [0, 1, 2, 3, 4, 5, 6, 7].as_slice())
    } else {
        (fill_xmm(), read_xmm(), "XMM", [0, 1, 4, 5].as_slice())
    };
    let page = lab.map(DATA, WRITE);
    let mut vcpu = lab.vcpu(fill)?;
    vcpu.set_fs_base(0x1234)?;
    lab.run_to_call(&mut vcpu)?;
    expect("FS base", vcpu.fs_base(), 0x1234)?;
    let image = vcpu.xsave()?;
    lab.pool.give_back(vcpu);

    let mut vcpu = lab.vcpu(read)?;
    expect("the reused vCPU's number", u64::from(vcpu.index()), 0)?;
    lab.run_to_call(&mut vcpu)?;
    expect("FS base after reuse", vcpu.fs_base(), 0)?;
    for index in stored {
        expect("a vector register after reuse", lab.load(page, *index), 0)?;
    }
    expect("MXCSR after reuse", lab.load(page, VECTORS) & MXCSR_MASK, 0x1f80)?;

    lab.pool.give_back(vcpu);
    let mut vcpu = lab.vcpu(read)?;
    vcpu.set_xsave(&image)?;
    lab.run_to_call(&mut vcpu)?;
    for index in stored {
        expect("a vector register set again", lab.load(page, *index), u64::MAX)?;
    }
    expect("MXCSR set again", lab.load(page, VECTORS) & MXCSR_MASK, 0x1f00)?;
    Ok(name)
}
