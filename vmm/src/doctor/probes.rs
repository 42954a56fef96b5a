//! The questions.

use std::time::{Duration, Instant};

use mm::paging::TableChange;
use mm::phys::PhysMemory;

use super::report::{Outcome, Probe};
use crate::kvm::lab::{
    self, CODE, DATA, KERNEL_PAGES, Lab, LabError, READ, Revoked, Seen, Visibility, WRITE, expect,
};
use crate::kvm::{Exit, FlushPolicy, Kicker, Kvm, Registers};

/// A question to a KVM.
pub(super) struct Question {
    name: &'static str,
    proves: &'static str,
    ask: Ask,
}

/// How it is asked.
enum Ask {
    /// Without a flush in it.
    Plain(fn(&Kvm) -> Result<Answer, LabError>),
    /// About flushing: it flushes as [`Flushes`] says.
    Flushing(fn(&Kvm, Flushes) -> Result<Answer, LabError>),
}

/// Whether the flushes that a question is about are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flushes {
    /// They are.
    Made,
    /// They are left out, and the question must fail wherever a missing flush shows.
    LeftOut,
}

impl Flushes {
    /// The policy for a flush that is wanted by this one.
    fn by(self, policy: FlushPolicy) -> FlushPolicy {
        match self {
            Flushes::Made => policy,
            Flushes::LeftOut => FlushPolicy::None,
        }
    }
}

/// What a pass says besides.
struct Answer {
    cost: Option<Duration>,
    detail: String,
}

impl Answer {
    fn new(cost: Duration, detail: impl Into<String>) -> Answer {
        Answer { cost: Some(cost), detail: detail.into() }
    }
}

impl Question {
    /// Asks it; [`FlushPolicy::None`] leaves out the flushes that it is about.
    pub(super) fn ask(&self, kvm: &Kvm, flush: FlushPolicy) -> Probe {
        log::debug!("{}: {}?", self.name, self.proves);
        let flushes = if flush == FlushPolicy::None { Flushes::LeftOut } else { Flushes::Made };
        let answer = match self.ask {
            Ask::Plain(ask) => ask(kvm),
            Ask::Flushing(ask) => ask(kvm, flushes),
        };
        let outcome = match answer {
            Ok(Answer { cost, detail }) => {
                Outcome::Pass { microseconds: cost.map(|cost| cost.as_secs_f64() * 1e6), detail }
            }
            Err(error) => Outcome::Fail { reason: error.to_string() },
        };
        Probe { name: self.name, proves: self.proves, outcome }
    }
}

/// All of them, the simplest first.
pub(super) fn all() -> impl Iterator<Item = Question> {
    [
        Question {
            name: "ring-3 entry",
            proves: "a vCPU runs ring 3 from its first instruction, without a kernel in the guest",
            ask: Ask::Plain(ring_3_entry),
        },
        Question {
            name: "system-call stub",
            proves: "SYSCALL reaches the host, and the host sets where ring 3 continues",
            ask: Ask::Plain(system_call),
        },
        Question {
            name: "page fault",
            proves: "a fault tells its address and access, and the instruction can be repeated",
            ask: Ask::Plain(page_fault),
        },
        Question {
            name: "ring-0 pages",
            proves: "ring 3 can neither read, write nor enter the descriptor tables, entries and stack",
            ask: Ask::Plain(ring_0_pages),
        },
        Question {
            name: "sync_regs",
            proves: "all registers go both ways through the run page",
            ask: Ask::Plain(sync_regs),
        },
        Question {
            name: "XSAVE",
            proves: "vector state can be saved, set, and cleared for another program",
            ask: Ask::Plain(xsave),
        },
        Question {
            name: "kick",
            proves: "a signal stops a vCPU even if it comes just before the run",
            ask: Ask::Plain(kick),
        },
        Question {
            name: "memory slots",
            proves: "guest memory can grow under a running machine",
            ask: Ask::Plain(memory_slots),
        },
        Question {
            name: "revoked, notifier",
            proves: "a page that the host unmaps is gone at once after a protection change",
            ask: Ask::Flushing(revoked_by_notifier),
        },
        Question {
            name: "revoked, dummy slot",
            proves: "a page that the host unmaps is gone at once after a slot's deletion",
            ask: Ask::Flushing(revoked_by_dummy_slot),
        },
        Question {
            name: "second vCPU, notifier",
            proves: "two running vCPUs write nothing more once a protection change has returned",
            ask: Ask::Flushing(running_by_notifier),
        },
        Question {
            name: "second vCPU, dummy",
            proves: "two running vCPUs write nothing more once a slot's deletion has returned",
            ask: Ask::Flushing(running_by_dummy_slot),
        },
        Question {
            name: "write protection",
            proves: "a page that may only be read from now on is written no more, and read on",
            ask: Ask::Flushing(write_protection),
        },
        Question {
            name: "second vCPU, protection",
            proves: "two running vCPUs write nothing more once write protection has returned",
            ask: Ask::Flushing(running_by_write_protection),
        },
        Question {
            name: "reused table",
            proves: "a page-table frame used again shows nothing of its old content",
            ask: Ask::Flushing(reused_table),
        },
        Question {
            name: "slot deletion",
            proves: "deleting a slot drops every translation (KVM_X86_QUIRK_SLOT_ZAP_ALL is enabled)",
            ask: Ask::Flushing(slot_deletion),
        },
    ]
    .into_iter()
}

/// How often a thing is done to find its cost.
const ROUNDS: u32 = 500;
/// How often a machine is made to find the cost of a flush.
const MACHINES: usize = 5;

fn ring_3_entry(kvm: &Kvm) -> Result<Answer, LabError> {
    let start = Instant::now();
    let lab = Lab::new(kvm, FlushPolicy::Chosen)?;
    let mut vcpu = lab.vcpu(lab::breakpoint())?;
    let exit = lab.run(&mut vcpu)?;
    let cost = start.elapsed();
    match exit {
        Exit::Fault { vector: 3, frame, .. } => {
            expect("the code segment", frame.cs, u64::from(guest::abi::USER_CS))?;
            expect("rip", frame.rip, CODE + 1)?;
            Ok(Answer::new(cost, "from no machine to its first exit"))
        }
        got => Err(LabError::Unexpected { wanted: "a breakpoint", got }),
    }
}

fn system_call(kvm: &Kvm) -> Result<Answer, LabError> {
    let lab = Lab::new(kvm, FlushPolicy::Chosen)?;
    let mut vcpu = lab.vcpu(lab::call_loop())?;
    vcpu.resume_user(&Registers { rax: 77, ..*vcpu.registers() })?;
    expect("rax at the first call", lab.run_to_call(&mut vcpu)?, 77)?;
    vcpu.resume_user(&Registers { rax: 78, ..*vcpu.registers() })?;
    expect("rax at the second call", lab.run_to_call(&mut vcpu)?, 78)?;
    let start = Instant::now();
    for _ in 0..ROUNDS {
        lab.run_to_call(&mut vcpu)?;
    }
    Ok(Answer::new(start.elapsed() / ROUNDS, "a call and its return"))
}

fn page_fault(kvm: &Kvm) -> Result<Answer, LabError> {
    /// Read, write and fetch by ring 3; the last two of a page that is present.
    const ERRORS: [u64; 3] = [4, 7, 0x15];
    let lab = Lab::new(kvm, FlushPolicy::Chosen)?;
    let mut vcpu = lab.vcpu(lab::load_store())?;
    let page = lab.frame();
    for (error, bits) in ERRORS.into_iter().zip([READ, WRITE | 1 << 63, READ]) {
        match lab.run(&mut vcpu)? {
            Exit::Fault { vector: 14, error: got, address, .. } => {
                expect("the page-fault error code", got, error)?;
                expect("the page-fault address", address.get(), DATA)?;
            }
            got => return Err(LabError::Unexpected { wanted: "a page fault", got }),
        }
        lab.set(DATA, page, bits);
        vcpu.retry_fault();
        if error != ERRORS[2] {
            lab.run_to_call(&mut vcpu)?;
        }
    }
    lab.pool.give_back(vcpu);

    let lab = Lab::new(kvm, FlushPolicy::Chosen)?;
    let mut vcpu = lab.vcpu(lab::load_loop())?;
    let start = Instant::now();
    for _ in 0..ROUNDS {
        lab.run_to_fault(&mut vcpu)?;
        vcpu.retry_fault();
    }
    Ok(Answer::new(start.elapsed() / ROUNDS, "a fault and the instruction again"))
}

fn ring_0_pages(kvm: &Kvm) -> Result<Answer, LabError> {
    let lab = Lab::new(kvm, FlushPolicy::Chosen)?;
    let mut vcpu = lab.vcpu(lab::load_store())?;
    for page in KERNEL_PAGES {
        for (rip, rdi) in [(CODE, page), (CODE + lab::STORE_OFFSET, page), (page, 0)] {
            vcpu.resume_user(&Registers { rip, rdi, ..*vcpu.registers() })?;
            let (vector, _) = lab.run_to_fault(&mut vcpu)?;
            expect("the exception", u64::from(vector), 14)?;
            expect("where it happened", vcpu.registers().rip, rip)?;
        }
    }
    Ok(Answer { cost: None, detail: "ring 3 can do nothing with them".to_owned() })
}

fn sync_regs(kvm: &Kvm) -> Result<Answer, LabError> {
    let lab = Lab::new(kvm, FlushPolicy::Chosen)?;
    let mut vcpu = lab.vcpu(lab::sum_registers())?;
    // Different powers of two: the sum tells a register that did not arrive, or arrived twice.
    #[rustfmt::skip]
    let registers = Registers {
        rax: 1, rbx: 1 << 1, rdx: 1 << 2, rsi: 1 << 3, rdi: 1 << 4, rbp: 1 << 5, rsp: 1 << 6,
        r8: 1 << 7, r9: 1 << 8, r10: 1 << 9, r12: 1 << 10, r13: 1 << 11, r14: 1 << 12, r15: 1 << 13,
        ..*vcpu.registers()
    };
    vcpu.resume_user(&registers)?;
    expect("the sum of all registers", lab.run_to_call(&mut vcpu)?, (1 << 14) - 1)?;
    let after = Registers { rax: 1, ..*vcpu.registers() };
    expect("the sum of all registers after the call", sum(&after), (1 << 14) - 1)?;
    let start = Instant::now();
    for _ in 0..ROUNDS {
        vcpu.resume_user(&registers)?;
    }
    Ok(Answer::new(start.elapsed() / ROUNDS, "setting them all"))
}

/// The sum of all registers that SYSCALL leaves alone.
fn sum(r: &Registers) -> u64 {
    [r.rax, r.rbx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r12, r.r13, r.r14, r.r15]
        .into_iter()
        .fold(0, u64::wrapping_add)
}

fn xsave(kvm: &Kvm) -> Result<Answer, LabError> {
    let registers = lab::vector_state(kvm)?;
    let lab = Lab::new(kvm, FlushPolicy::Chosen)?;
    let vcpu = lab.vcpu(lab::breakpoint())?;
    let start = Instant::now();
    for _ in 0..ROUNDS {
        vcpu.set_xsave(&vcpu.xsave()?)?;
    }
    Ok(Answer::new(start.elapsed() / ROUNDS, format!("saving and setting; {registers} registers")))
}

fn kick(kvm: &Kvm) -> Result<Answer, LabError> {
    let lab = Lab::new(kvm, FlushPolicy::Chosen)?;
    let mut vcpu = lab.vcpu(lab::count_up())?;
    lab.map(DATA, WRITE);
    let kicker = Kicker::of_this_thread();
    let start = Instant::now();
    for _ in 0..ROUNDS {
        kicker.kick()?;
        match vcpu.run() {
            Exit::Interrupted(_) if lab.watchdog().has_barked() => return Err(LabError::TimedOut),
            Exit::Interrupted(_) => {}
            got => return Err(LabError::Unexpected { wanted: "an interruption", got }),
        }
    }
    Ok(Answer::new(start.elapsed() / ROUNDS, "a signal and the run that it ends"))
}

fn memory_slots(kvm: &Kvm) -> Result<Answer, LabError> {
    let lab = Lab::new(kvm, FlushPolicy::Chosen)?;
    let mut vcpu = lab.vcpu(lab::load_store())?;
    expect("the fault before", u64::from(lab.run_to_fault(&mut vcpu)?.0), 14)?;
    let before = lab.memory().frames();
    let start = Instant::now();
    let frames = lab.memory().grow()?;
    let cost = start.elapsed();
    let last = mm::addr::Frame::new(frames - 1);
    lab.set(DATA, last, READ);
    lab.store(last, 0x5107);
    vcpu.retry_fault();
    expect("the new slot's last word", lab.run_to_call(&mut vcpu)?, 0x5107)?;
    Ok(Answer::new(cost, format!("{} MiB more", (frames - before) >> 8)))
}

fn revoked_by_notifier(kvm: &Kvm, flushes: Flushes) -> Result<Answer, LabError> {
    let cost =
        flush_cost(MACHINES, || lab::revoked_page(kvm, flushes.by(FlushPolicy::NotifierOnly)))?;
    let without = lab::revoked_page(kvm, FlushPolicy::None)?.visibility;
    Ok(Answer::new(cost, format!("one page; {}", without_a_flush(without))))
}

fn revoked_by_dummy_slot(kvm: &Kvm, flushes: Flushes) -> Result<Answer, LabError> {
    let cost = flush_cost(MACHINES, || lab::revoked_page(kvm, flushes.by(FlushPolicy::DummyOnly)))?;
    Ok(Answer::new(cost, "every page of the machine"))
}

fn running(kvm: &Kvm, policy: FlushPolicy) -> Result<Seen, LabError> {
    lab::running_vcpus(kvm, policy, Revoked::Page)
}

fn running_by_notifier(kvm: &Kvm, flushes: Flushes) -> Result<Answer, LabError> {
    let cost = flush_cost(1, || running(kvm, flushes.by(FlushPolicy::NotifierOnly)))?;
    let without = running(kvm, FlushPolicy::None)?.visibility;
    Ok(Answer::new(cost, format!("while it runs; {}", without_a_flush(without))))
}

fn running_by_dummy_slot(kvm: &Kvm, flushes: Flushes) -> Result<Answer, LabError> {
    let cost = flush_cost(1, || running(kvm, flushes.by(FlushPolicy::DummyOnly)))?;
    Ok(Answer::new(cost, "while it runs"))
}

/// How a page is write-protected: by its slot, but under two-dimensional paging.
const PROTECTING: FlushPolicy = FlushPolicy::WriteProtection;

fn write_protection(kvm: &Kvm, flushes: Flushes) -> Result<Answer, LabError> {
    let ask = |policy| lab::write_protected_page(kvm, policy);
    let cost = flush_cost(MACHINES, || ask(flushes.by(PROTECTING)))?;
    let without = ask(FlushPolicy::None)?.visibility;
    Ok(Answer::new(cost, format!("one page; {}", without_a_flush(without))))
}

fn running_by_write_protection(kvm: &Kvm, flushes: Flushes) -> Result<Answer, LabError> {
    let ask = |policy| lab::running_vcpus(kvm, policy, Revoked::Writes);
    let cost = flush_cost(1, || ask(flushes.by(PROTECTING)))?;
    Ok(Answer::new(cost, "while it runs"))
}

fn reused_table(kvm: &Kvm, flushes: Flushes) -> Result<Answer, LabError> {
    let reuse = |policy, change| lab::reused_tables(kvm, policy, change);
    let chosen = flushes.by(FlushPolicy::Chosen);
    let cost = flush_cost(MACHINES, || reuse(chosen, TableChange::Unlinked))?;
    let leaves = reuse(FlushPolicy::NotifierOnly, TableChange::None)?.visibility;
    let detail = match leaves {
        Visibility::Stale => "dummy slot; a notifier on the data pages alone is not enough",
        Visibility::New => "dummy slot; a notifier on the data pages would do",
    };
    Ok(Answer::new(cost, detail))
}

fn slot_deletion(kvm: &Kvm, flushes: Flushes) -> Result<Answer, LabError> {
    expect_new(lab::revoked_page(kvm, flushes.by(FlushPolicy::DummyOnly))?)?;
    let detail = if kvm.slot_deletion_is_a_quirk() {
        "it does; the quirk is known and left enabled"
    } else {
        "it does; this kernel always does"
    };
    Ok(Answer { cost: None, detail: detail.to_owned() })
}

/// The median cost of a flush after which the change must be seen.
fn flush_cost(
    times: usize,
    mut ask: impl FnMut() -> Result<Seen, LabError>,
) -> Result<Duration, LabError> {
    let mut costs = (0..times).map(|_| expect_new(ask()?)).collect::<Result<Vec<_>, _>>()?;
    costs.sort_unstable();
    Ok(costs.get(times / 2).copied().unwrap_or_default())
}

fn expect_new(seen: Seen) -> Result<Duration, LabError> {
    match seen.visibility {
        Visibility::New => Ok(seen.flush),
        Visibility::Stale => Err(LabError::Stale),
    }
}

fn without_a_flush(visibility: Visibility) -> &'static str {
    match visibility {
        Visibility::Stale => "without it the old page stays visible",
        Visibility::New => "seen without it, too",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::Kind;

    fn kvm() -> Option<Kvm> {
        if std::env::var_os("MMVISOR_NO_KVM").is_some_and(|value| value == "1") {
            eprintln!("skipped: MMVISOR_NO_KVM=1");
            return None;
        }
        Some(Kvm::open().expect("this test needs KVM (MMVISOR_NO_KVM=1 skips it)"))
    }

    #[test]
    fn every_probe_passes_where_the_tests_run() {
        let Some(kvm) = kvm() else { return };
        for probe in all().map(|question| question.ask(&kvm, FlushPolicy::Chosen)) {
            assert!(matches!(probe.outcome, Outcome::Pass { .. }), "{probe}");
        }
    }

    #[test]
    fn without_flushes_the_probes_of_flushing_fail_and_no_other() {
        let Some(kvm) = kvm() else { return };
        if !matches!(kvm.kind(), Kind::Soft | Kind::Shadow) {
            eprintln!("skipped: this KVM need not show that a flush is missing");
            return;
        }
        for question in all() {
            let probe = question.ask(&kvm, FlushPolicy::None);
            let failed = matches!(probe.outcome, Outcome::Fail { .. });
            assert_eq!(failed, matches!(question.ask, Ask::Flushing(_)), "{probe}");
        }
    }
}
