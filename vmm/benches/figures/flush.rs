//! What the flush of a page costs where another vCPU may use it: one that is outside KVM, or inside it. Then
//! the flush waits until page faults have been handled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mm::addr::FrameRun;
use mm::paging::{FlushRequest, FlushSink, Others};
use mm::phys::{Contents, FrameKind};

use crate::program;
use crate::rounds::{Outcome, Pair, Spent, alternate};
use crate::subject::Subject;

/// Flushes in a round.
pub(crate) const FLUSHES: u64 = 50;

/// The floor: the vCPU is outside.
pub(crate) fn beside_a_vcpu(effort: u32) -> Outcome<Pair> {
    let file = Arc::new(program::in_memory(&program::calls())?);
    let mut subject = Subject::start(&file)?;
    subject.run_calls(1)?;
    let machine = Arc::clone(subject.machine());
    let start = machine
        .system()
        .frames()
        .alloc(FrameKind::Anonymous, Contents::Zeroed)
        .map_err(|error| format!("no frame to flush: {error:?}"))?;
    let flushes = || {
        for _ in 0..FLUSHES {
            let leaves = vec![FrameRun { start, count: 1 }];
            let others = Others::MayRun;
            machine.sink().flush(&FlushRequest { leaves, others, ..FlushRequest::default() })?;
        }
        Ok(())
    };
    let mut inside = || {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let vcpu = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    subject.run_calls(1).map_err(|error| error.to_string())?;
                }
                Ok::<(), String>(())
            });
            let spent = Spent::on(flushes);
            stop.store(true, Ordering::Relaxed);
            vcpu.join().map_err(|_| "the vCPU's thread ended")??;
            spent
        })
    };
    alternate(effort, || Spent::on(flushes), &mut inside)
}
