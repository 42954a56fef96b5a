//! What a vCPU has of its program beside the general registers: segments' bases, floating-point and vector state, debug
//! status.

use kvm_bindings::{kvm_segment, kvm_sregs};
use kvm_ioctls::SyncReg;

use super::{DR6_RESET, NonCanonical, Vcpu};
use crate::kvm::{KvmError, XsaveArea, XsaveLayout, state};

impl Vcpu {
    /// FS base: the thread pointer.
    #[must_use]
    pub fn fs_base(&self) -> u64 {
        self.fd.sync_regs().sregs.fs.base
    }

    /// GS base.
    #[must_use]
    pub fn gs_base(&self) -> u64 {
        self.fd.sync_regs().sregs.gs.base
    }

    /// Sets FS base from the next [`run`](Vcpu::run) on.
    ///
    /// # Errors
    /// [`NonCanonical`]: Linux's `arch_prctl` answers `EPERM`.
    pub fn set_fs_base(&mut self, address: u64) -> Result<(), NonCanonical> {
        self.set_base(address, |sregs| &mut sregs.fs)
    }

    /// Sets GS base from the next [`run`](Vcpu::run) on.
    ///
    /// # Errors
    /// [`NonCanonical`]: Linux's `arch_prctl` answers `EPERM`.
    pub fn set_gs_base(&mut self, address: u64) -> Result<(), NonCanonical> {
        self.set_base(address, |sregs| &mut sregs.gs)
    }

    fn set_base(
        &mut self,
        address: u64,
        segment: fn(&mut kvm_sregs) -> &mut kvm_segment,
    ) -> Result<(), NonCanonical> {
        if !state::is_canonical(address) {
            return Err(NonCanonical(address));
        }
        segment(&mut self.fd.sync_regs_mut().sregs).base = address;
        self.fd.set_sync_dirty_reg(SyncReg::SystemRegister);
        Ok(())
    }

    /// The floating-point and vector state.
    ///
    /// # Errors
    /// [`KvmError::Host`] if KVM refuses.
    pub fn xsave(&self) -> Result<XsaveArea, KvmError> {
        let mut area = XsaveArea::initial(self.initial.xsave_bytes)?;
        if self.initial.xsave_bytes == 0 {
            area.load_old(&self.fd)?;
        } else {
            area.load_from(&self.fd)?;
        }
        Ok(area)
    }

    /// What that state has in it.
    #[must_use]
    pub fn xsave_layout(&self) -> &XsaveLayout {
        &self.initial.layout
    }

    /// Sets it to that of a fresh program.
    ///
    /// # Errors
    /// [`KvmError::Host`] if KVM refuses.
    pub fn reset_xsave(&self) -> Result<(), KvmError> {
        self.initial.xsave.store_to(&self.fd)
    }

    /// Sets the floating-point and vector state.
    ///
    /// # Errors
    /// [`KvmError::Host`] if KVM refuses the image (`EINVAL`: reserved bits, as in a forged signal frame).
    pub fn set_xsave(&self, area: &XsaveArea) -> Result<(), KvmError> {
        area.store_to(&self.fd)
    }

    /// Sets it to an image of these bytes, as [`xsave_layout`](Vcpu::xsave_layout) has it.
    ///
    /// # Errors
    /// As of [`Vcpu::set_xsave`].
    pub fn set_xsave_bytes(&self, bytes: &[u8]) -> Result<(), KvmError> {
        let mut area = XsaveArea::initial(self.initial.xsave_bytes)?;
        area.set_bytes(bytes);
        self.set_xsave(&area)
    }

    /// DR6, which says why the last debug exception came; it is a reset CPU's again.
    ///
    /// # Errors
    /// [`KvmError::Host`] if KVM refuses.
    pub fn take_debug_status(&self) -> Result<u64, KvmError> {
        let mut debug = self.fd.get_debug_regs().map_err(KvmError::host("read debug registers"))?;
        let status = debug.dr6;
        if status != DR6_RESET {
            debug.dr6 = DR6_RESET;
            self.fd.set_debug_regs(&debug).map_err(KvmError::host("set debug registers"))?;
        }
        Ok(status)
    }

    /// Takes over the whole state that another vCPU's program has, as of its last exit: registers, segments,
    /// FS and GS base, floating-point and vector state. Only the page table is not copied.
    ///
    /// # Errors
    /// [`KvmError::Host`] if KVM refuses; the vCPU must then be reset before it is used.
    pub fn copy_program(&mut self, of: &Vcpu) -> Result<(), KvmError> {
        self.set_xsave(&of.xsave()?)?;
        let from = of.fd.sync_regs().sregs;
        let sregs = &mut self.fd.sync_regs_mut().sregs;
        (sregs.ds, sregs.es, sregs.fs, sregs.gs) = (from.ds, from.es, from.fs, from.gs);
        self.fd.set_sync_dirty_reg(SyncReg::SystemRegister);
        self.user = of.user;
        self.enter_user_at_next_run();
        Ok(())
    }
}
