//! The host's pool of huge pages (`vm.nr_hugepages`). Ours gets as many pages as nobody uses there, mostly none. Where
//! it has some, scripts take turns, since what one of them uses the others would miss.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;

/// How long pages may take to come back from a script that has ended.
const LIMIT: Duration = Duration::from_secs(5);

static IDLE: OnceLock<u64> = OnceLock::new();
static TURN: Mutex<()> = Mutex::new(());

/// How many pages of the default size nobody used, nor was promised, when this was first asked: before any script.
pub fn pages() -> u64 {
    *IDLE.get_or_init(|| now().unwrap_or(0))
}

/// A script's turn to use the pool; none is needed where it is empty.
#[derive(Debug)]
pub struct Turn(Option<MutexGuard<'static, ()>>);

impl Turn {
    /// Waits for it.
    pub fn take() -> Self {
        Turn((pages() > 0).then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Waits until what the script had has come back.
    pub fn end(self) -> Result<(), Failed> {
        let began = Instant::now();
        while self.0.is_some() && now() != Some(pages()) {
            if began.elapsed() > LIMIT {
                return Err("huge pages of the host are lost, or somebody else uses them".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// How many pages are free and promised to nobody.
fn now() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = |name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<u64>().ok()
    };
    line("HugePages_Free:")?.checked_sub(line("HugePages_Rsvd:")?)
}
