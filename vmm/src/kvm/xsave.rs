//! The x87, SSE and AVX state of a vCPU, as one XSAVE image (Intel SDM volume 1, chapter 13).
//!
//! It must be copied at fork and signal and reset when a vCPU is used again: on software KVM the YMM
//! registers are live even where XCR0 does not say so.

use kvm_bindings::{Xsave, kvm_xsave};
use kvm_ioctls::VcpuFd;

use super::KvmError;

/// Index of the word that holds FCW (low half) and FSW.
const FCW: usize = 0;
/// Index of MXCSR.
const MXCSR: usize = 6;
/// Index of the low half of XSTATE_BV: which components are not in their initial state.
const XSTATE_BV: usize = 128;
/// XSTATE_BV: x87 and SSE.
const X87_AND_SSE: u32 = 3;
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
        // x87 and SSE are given, as zeros but for these two words; every other component is in its initial
        // state. With a bit of 0 for SSE, too, some kernels would leave MXCSR as it was.
        region[XSTATE_BV] = X87_AND_SSE;
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

    /// Takes over an image's bytes, as far as there is room for them.
    pub(super) fn set_bytes(&mut self, bytes: &[u8]) {
        // SAFETY: the length of the image's variable part is not changed.
        let base = unsafe { &mut self.0.as_mut_fam_struct().xsave.region };
        let (first, rest) = bytes.split_at(bytes.len().min(size_of_val(base)));
        copy_words(base, first);
        copy_words(self.0.as_mut_slice(), rest);
    }

    /// The image's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let base = &self.0.as_fam_struct_ref().xsave.region;
        base.iter().chain(self.0.as_slice()).flat_map(|word| word.to_le_bytes()).collect()
    }
}

fn copy_words(words: &mut [u32], bytes: &[u8]) {
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(size_of::<u32>())) {
        *word = chunk.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
    }
}

impl std::fmt::Debug for XsaveArea {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("XsaveArea").finish_non_exhaustive()
    }
}
