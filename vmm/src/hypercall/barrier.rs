//! membarrier(2). A process has one vCPU, but others may have its memory or some of it: so each barrier is one of the host's
//! on all of mmvisor's threads, which a vCPU that runs leaves the guest for.

use mm::error::Errno;
use rustix::thread::{MembarrierCommand, membarrier as hosts};

use super::{Context, Served};

const QUERY: i32 = 0;
const GLOBAL: i32 = 1;
const GLOBAL_EXPEDITED: i32 = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: i32 = 1 << 2;
const PRIVATE_EXPEDITED: i32 = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: i32 = 1 << 4;
const PRIVATE_EXPEDITED_SYNC_CORE: i32 = 1 << 5;
const REGISTER_PRIVATE_EXPEDITED_SYNC_CORE: i32 = 1 << 6;
const GET_REGISTRATIONS: i32 = 1 << 9;
/// All that are served: but those for restartable sequences, which there are none of.
const SERVED: i32 = GLOBAL
    | GLOBAL_EXPEDITED
    | REGISTER_GLOBAL_EXPEDITED
    | PRIVATE_EXPEDITED
    | REGISTER_PRIVATE_EXPEDITED
    | PRIVATE_EXPEDITED_SYNC_CORE
    | REGISTER_PRIVATE_EXPEDITED_SYNC_CORE
    | GET_REGISTRATIONS;

/// membarrier(2). In this order: `EINVAL` flags, or no such command; `EPERM` one that the memory is not registered for.
pub(super) fn membarrier(c: &mut Context<'_>) -> Served {
    let (command, flags) = (c.int(0), c.int(1));
    if flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    let registered = || c.process.space.look().modes().barriers;
    match command {
        QUERY => return Ok(SERVED.unsigned_abs().into()),
        GET_REGISTRATIONS => return Ok(registered().into()),
        GLOBAL | GLOBAL_EXPEDITED => barrier()?,
        PRIVATE_EXPEDITED | PRIVATE_EXPEDITED_SYNC_CORE => {
            // The command that registers is the next bit.
            if registered() & (command << 1).unsigned_abs() == 0 {
                return Err(Errno::EPERM.into());
            }
            barrier()?;
        }
        REGISTER_GLOBAL_EXPEDITED
        | REGISTER_PRIVATE_EXPEDITED
        | REGISTER_PRIVATE_EXPEDITED_SYNC_CORE => {
            c.process.space.change().modes_mut().barriers |= command.unsigned_abs();
        }
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// A barrier on all threads of mmvisor.
fn barrier() -> Result<(), Errno> {
    let errno = |errno: rustix::io::Errno| Errno::from_raw(errno.raw_os_error());
    hosts(MembarrierCommand::RegisterPrivateExpedited).map_err(errno)?;
    hosts(MembarrierCommand::PrivateExpedited).map_err(errno)
}
