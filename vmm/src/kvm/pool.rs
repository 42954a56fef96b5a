//! vCPUs for use and reuse. KVM never gives a vCPU back before its machine ends, and setting one back to
//! its start (56 us) is cheaper than a new one.

use std::sync::{Arc, Mutex, PoisonError};

use log::warn;

use super::{KvmError, Vcpu, Vm};
use crate::boot::{FrameSource, KernelHalf, VcpuArea};

/// The vCPUs of one machine.
#[derive(Debug)]
pub struct VcpuPool {
    vm: Arc<Vm>,
    half: Arc<KernelHalf>,
    state: Mutex<PoolState>,
}

#[derive(Debug, Default)]
struct PoolState {
    /// Set back to their start, ready.
    idle: Vec<Vcpu>,
    /// The pages of a vCPU that the host then refused: the next one's.
    area: Option<VcpuArea>,
    /// How many were made: the next one's number.
    made: u32,
}

impl VcpuPool {
    /// An empty pool for `vm`, whose kernel half is `half`.
    #[must_use]
    pub fn new(vm: Arc<Vm>, half: Arc<KernelHalf>) -> VcpuPool {
        VcpuPool { vm, half, state: Mutex::default() }
    }

    /// The machine that they are of.
    #[must_use]
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// A vCPU at its start; a new one if none is idle, whose pages come from `frames`.
    ///
    /// # Errors
    /// [`KvmError::TooManyVcpus`] if there are as many as KVM allows, [`KvmError::Host`] if the host makes
    /// no more of them, [`KvmError::Broken`] if there are no frames.
    pub fn take(&self, frames: &mut FrameSource<'_>) -> Result<Vcpu, KvmError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(vcpu) = state.idle.pop() {
            return Ok(vcpu);
        }
        let area = match state.area {
            Some(area) => area,
            None => {
                let most = self.vm.most_vcpus();
                if usize::try_from(state.made).map_or(true, |made| made >= most) {
                    return Err(KvmError::TooManyVcpus { most });
                }
                self.half.add_vcpu(self.vm.memory().as_ref(), state.made, frames)?
            }
        };
        // Kept for the next attempt, unless KVM has made the vCPU and only a later step failed: then its
        // number is gone.
        let fd = Vcpu::create(&self.vm, area.index).inspect_err(|_| state.area = Some(area))?;
        state.area = None;
        state.made = area.index + 1;
        Vcpu::new(&self.vm, fd, area)
    }

    /// Takes a vCPU back. It is set back to its start now, so that nothing of its program lingers; one
    /// that cannot be is dropped.
    pub fn give_back(&self, mut vcpu: Vcpu) {
        match vcpu.reset() {
            Ok(()) => self.state.lock().unwrap_or_else(PoisonError::into_inner).idle.push(vcpu),
            Err(error) => warn!("vCPU {} is not used again: {error}", vcpu.index()),
        }
    }
}
