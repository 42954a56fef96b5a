//! The x87, SSE and AVX state of a vCPU, as one XSAVE image (Intel SDM volume 1, chapter 13).
//!
//! It must be copied at fork and signal and reset when a vCPU is used again: on software KVM the YMM
//! registers are live even where XCR0 does not say so.

use kvm_bindings::{Xsave, kvm_xsave};
use kvm_ioctls::VcpuFd;

use super::KvmError;

/// Words of 32 bits in the image that every KVM has.
const BASE_WORDS: usize = 1024;
/// Index of the word that holds FCW (low half) and FSW.
const FCW: usize = 0;
/// Index of MXCSR.
const MXCSR: usize = 6;
/// Index of the low half of XSTATE_BV: which components are not in their initial state.
const XSTATE_BV: usize = 128;
/// x87 control word after FNINIT: all exceptions masked, 64-bit precision.
const FCW_INITIAL: u32 = 0x37f;
/// MXCSR after a reset: all exceptions masked.
const MXCSR_INITIAL: u32 = 0x1f80;

/// An XSAVE image in the standard format, of the size that KVM asks for.
pub struct XsaveArea(Xsave);

impl XsaveArea {
    /// The state of a fresh program. `bytes` as `KVM_CAP_XSAVE2` says, 0 for the old size.
    pub(super) fn initial(bytes: usize) -> Result<Self, KvmError> {
        let extra = bytes.saturating_sub(size_of::<kvm_xsave>()).div_ceil(size_of::<u32>());
        let mut area = Xsave::new(extra).map_err(|error| KvmError::Host {
            what: "hold a vCPU's floating-point state",
            source: std::io::Error::other(format!("{error:?}")),
        })?;
        // SAFETY: the length of the image's variable part is not changed.
        let region = unsafe { &mut area.as_mut_fam_struct().xsave.region };
        region[FCW] = FCW_INITIAL;
        region[MXCSR] = MXCSR_INITIAL;
        // XSTATE_BV of zero: every component is in its initial state.
        region[XSTATE_BV] = 0;
        Ok(XsaveArea(area))
    }

    /// Reads a vCPU's state.
    pub(super) fn load_from(&mut self, vcpu: &VcpuFd) -> Result<(), KvmError> {
        // SAFETY: the image has the size that KVM_CAP_XSAVE2 gave for this machine.
        let result = unsafe { vcpu.get_xsave2(&mut self.0) };
        result.map_err(KvmError::host("read a vCPU's floating-point state"))
    }

    /// Reads a vCPU's state where KVM has only the old call.
    pub(super) fn load_old(&mut self, vcpu: &VcpuFd) -> Result<(), KvmError> {
        let old = vcpu.get_xsave().map_err(KvmError::host("read a vCPU's floating-point state"))?;
        // SAFETY: the length of the image's variable part is not changed.
        unsafe { self.0.as_mut_fam_struct() }.xsave.region = old.region;
        Ok(())
    }

    /// Writes a vCPU's state.
    pub(super) fn store_to(&self, vcpu: &VcpuFd) -> Result<(), KvmError> {
        // SAFETY: as in `load_from`: KVM reads as many bytes as it asked for.
        let result = unsafe { vcpu.set_xsave2(&self.0) };
        result.map_err(KvmError::host("set a vCPU's floating-point state"))
    }

    /// The image's bytes, as a signal frame holds them.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let base = &self.0.as_fam_struct_ref().xsave.region;
        base.iter().chain(self.0.as_slice()).flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Replaces the image's bytes by those of a signal frame, as many as fit. KVM checks them when they
    /// are set: the caller answers a refusal as a bad signal frame.
    pub fn set_bytes(&mut self, bytes: &[u8]) {
        let words: Vec<u32> = bytes
            .chunks_exact(size_of::<u32>())
            .map(|chunk| chunk.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte)))
            .collect();
        let (base, extra) = words.split_at(words.len().min(BASE_WORDS));
        // SAFETY: the length of the image's variable part is not changed.
        let region = unsafe { &mut self.0.as_mut_fam_struct().xsave.region };
        region[..base.len()].copy_from_slice(base);
        for (slot, word) in self.0.as_mut_slice().iter_mut().zip(extra) {
            *slot = *word;
        }
    }
}

impl std::fmt::Debug for XsaveArea {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("XsaveArea").finish_non_exhaustive()
    }
}
