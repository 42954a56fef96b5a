//! alarm(2), setitimer(2), getitimer(2).

use std::time::Duration;

use mm::addr::VirtAddr;
use mm::error::Errno;

use super::time::thread_time;
use super::{Context, Served, Stop};
use crate::task::{Measured, Setting};

const MICROS: u64 = 1_000_000;
/// What is left of a second that alarm(2) takes for a whole one.
const HALF: Duration = Duration::from_millis(500);

/// Which timer argument 0 names.
fn which(c: &Context<'_>) -> Result<(i32, Measured), Errno> {
    let measured = match c.int(0) {
        0 => Measured::Real,
        1 => Measured::Virtual,
        2 => Measured::Profile,
        _ => return Err(Errno::EINVAL),
    };
    Ok((c.process.pid, measured))
}

fn set(c: &Context<'_>, which: (i32, Measured), setting: Setting) -> Result<Setting, Stop> {
    let family = &c.process.family;
    family.set_timer(which, setting, thread_time()).map_err(|error| {
        log::info!("no timer: the host refuses a thread: {error}");
        Errno::EAGAIN.into()
    })
}

/// alarm(2): what was left of the one before, in seconds.
pub(super) fn alarm(c: &mut Context<'_>) -> Served {
    let seconds = u64::from(c.int(0).cast_unsigned());
    let setting = Setting { value: Duration::from_secs(seconds), interval: Duration::ZERO };
    let left = set(c, (c.process.pid, Measured::Real), setting)?.value;
    let rest = left - Duration::from_secs(left.as_secs());
    let rounded_up = rest >= HALF || (left.as_secs() == 0 && !rest.is_zero());
    Ok(left.as_secs() + u64::from(rounded_up))
}

/// setitimer(2). No new value is a value of zero.
pub(super) fn setitimer(c: &mut Context<'_>) -> Served {
    let setting = match c.address(1) {
        VirtAddr::ZERO => Setting::default(),
        at => {
            let [interval, interval_micros, value, value_micros] = c.read_words(at)?;
            Setting {
                value: time(value, value_micros)?,
                interval: time(interval, interval_micros)?,
            }
        }
    };
    let before = set(c, which(c)?, setting)?;
    if c.address(2) != VirtAddr::ZERO {
        c.write_words(c.address(2), &words(before))?;
    }
    Ok(0)
}

/// getitimer(2).
pub(super) fn getitimer(c: &mut Context<'_>) -> Served {
    let now = c.process.family.timer(which(c)?, thread_time());
    c.write_words(c.address(1), &words(now))?;
    Ok(0)
}

/// Of a `struct timeval`.
fn time(seconds: u64, micros: u64) -> Result<Duration, Errno> {
    if micros >= MICROS || i64::try_from(seconds).is_err() {
        return Err(Errno::EINVAL);
    }
    Ok(Duration::from_secs(seconds) + Duration::from_micros(micros))
}

/// As a `struct itimerval`.
fn words(setting: Setting) -> [u64; 4] {
    let [interval, value] = [setting.interval, setting.value]
        .map(|time| [time.as_secs(), u64::from(time.subsec_micros())]);
    [interval[0], interval[1], value[0], value[1]]
}
