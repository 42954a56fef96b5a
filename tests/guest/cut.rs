//! A file that is made longer and shorter on the host while programs have it mapped. Under the host's KVM only.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use libtest_mimic::{Completion, Failed, Trial};

use crate::common::{self, MMVISOR, Ran, c_program, kvm_unusable};

/// Processes that touch the file, one after the other.
const ROUNDS: &str = "2000";
/// The file's length, at most.
const LONGEST: u64 = 64 * 4096;

/// The trial.
pub fn trials() -> Vec<Trial> {
    vec![Trial::ignorable_test("kvm::a-file-is-cut-while-it-is-mapped", || {
        if let Some(why) = kvm_unusable() {
            return Ok(Completion::ignored_with(why));
        }
        let ran = cut_beside(Path::new(env!("CARGO_TARGET_TMPDIR")).join("cut").as_path());
        if ran.status == Some(0) && !ran.left_behind {
            return Ok(Completion::Completed);
        }
        Err(Failed::from(format!("{ran:?}")))
    })]
}

/// Runs the program, and cuts the file all the while.
fn cut_beside(path: &Path) -> Ran {
    let file = File::create(path).unwrap();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut random: u64 = 1;
            while !ended.load(Ordering::Relaxed) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Half of the time it is whole, and for long enough that a process can end.
                let whole = random >> 63 == 0;
                // Never through a word.
                let part = (random >> 33) % LONGEST / 8 * 8;
                file.set_len(if whole { LONGEST } else { part }).unwrap();
                thread::sleep(Duration::from_micros(if whole { 2000 } else { 10 }));
            }
        });
        let mut command = Command::new(MMVISOR);
        command.args(["run", "--machine=kvm", "--file"]).arg(path);
        command.arg(c_program("cut", "gcc", &["-static"])).arg(ROUNDS);
        let ran = common::run(&mut command, &[], Duration::from_secs(300));
        ended.store(true, Ordering::Relaxed);
        ran
    })
}
