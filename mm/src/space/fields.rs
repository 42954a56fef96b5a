//! `PR_SET_MM` of prctl(2): moving the fields that say where a program's parts are (Linux's
//! `prctl_set_mm`, `prctl_set_mm_map`, `validate_prctl_map_addr`).

use super::{AddressSpace, Layout};
use crate::addr::VirtAddr;
use crate::error::{CallResult, Errno};

/// Words of the saved auxiliary vector: 22 pairs of Linux's own, 3 of the architecture's, and the null
/// pair that ends it (`AT_VECTOR_SIZE` on x86-64).
pub const AUXV_WORDS: usize = 2 * (22 + 3 + 1);

/// A field that `PR_SET_MM` sets by itself, with its number there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "PR_SET_MM(2const) describes each")]
pub enum LayoutField {
    StartCode = 1,
    EndCode = 2,
    StartData = 3,
    EndData = 4,
    StartStack = 5,
    StartBrk = 6,
    Brk = 7,
    ArgStart = 8,
    ArgEnd = 9,
    EnvStart = 10,
    EnvEnd = 11,
}

/// The fields in the order of `struct prctl_mm_map`.
const IN_ORDER: [LayoutField; 11] = [
    LayoutField::StartCode,
    LayoutField::EndCode,
    LayoutField::StartData,
    LayoutField::EndData,
    LayoutField::StartBrk,
    LayoutField::Brk,
    LayoutField::StartStack,
    LayoutField::ArgStart,
    LayoutField::ArgEnd,
    LayoutField::EnvStart,
    LayoutField::EnvEnd,
];

impl LayoutField {
    /// From prctl's number.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        IN_ORDER.into_iter().find(|&field| field as u64 == number)
    }

    /// Whether something must be mapped where it points.
    fn points_into_memory(self) -> bool {
        matches!(
            self,
            LayoutField::StartStack
                | LayoutField::ArgStart
                | LayoutField::ArgEnd
                | LayoutField::EnvStart
                | LayoutField::EnvEnd
        )
    }

    fn of(self, layout: &mut Layout) -> &mut VirtAddr {
        match self {
            LayoutField::StartCode => &mut layout.start_code,
            LayoutField::EndCode => &mut layout.end_code,
            LayoutField::StartData => &mut layout.start_data,
            LayoutField::EndData => &mut layout.end_data,
            LayoutField::StartStack => &mut layout.start_stack,
            LayoutField::StartBrk => &mut layout.start_brk,
            LayoutField::Brk => &mut layout.brk,
            LayoutField::ArgStart => &mut layout.arg_start,
            LayoutField::ArgEnd => &mut layout.arg_end,
            LayoutField::EnvStart => &mut layout.env_start,
            LayoutField::EnvEnd => &mut layout.env_end,
        }
    }
}

/// All fields at once (`PR_SET_MM_MAP`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewLayout([VirtAddr; 11]);

impl NewLayout {
    /// The first eleven words of `struct prctl_mm_map`.
    #[must_use]
    pub fn from_words(words: [u64; 11]) -> Self {
        NewLayout(words.map(VirtAddr::new))
    }

    fn put_into(self, layout: &mut Layout) {
        for (field, addr) in IN_ORDER.into_iter().zip(self.0) {
            *field.of(layout) = addr;
        }
    }
}

impl AddressSpace {
    /// `prctl(PR_SET_MM, field, addr)`, for who may: the caller has asked for `CAP_SYS_RESOURCE`. `None`
    /// is a field that does not exist.
    ///
    /// # Errors
    /// In this order: `EINVAL` an address outside the user half or below `mmap_min_addr`, an unknown field,
    /// fields out of order or outside the user half, a heap past `RLIMIT_DATA`; `EFAULT` nothing mapped at
    /// or above an address that must be memory. Source: PR_SET_MM(2const), Linux's `prctl_set_mm`.
    pub fn set_mm(&mut self, field: Option<LayoutField>, addr: VirtAddr) -> CallResult<()> {
        let field = field.filter(|_| self.is_user_address(addr)).ok_or(Errno::EINVAL)?;
        let mut layout = self.layout.clone();
        *field.of(&mut layout) = addr;
        self.check_layout(&mut layout)?;
        if field.points_into_memory() && self.vmas.find(addr).is_none() {
            return Err(Errno::EFAULT.into());
        }
        self.layout = layout;
        Ok(())
    }

    /// Whether [`Self::set_layout`] would accept it.
    ///
    /// # Errors
    /// `EINVAL` it would not.
    pub fn check_new_layout(&self, new: &NewLayout) -> CallResult<()> {
        let mut layout = self.layout.clone();
        new.put_into(&mut layout);
        Ok(self.check_layout(&mut layout)?)
    }

    /// `prctl(PR_SET_MM, PR_SET_MM_MAP, ...)`: sets all fields. It needs no capability.
    ///
    /// # Errors
    /// `EINVAL` fields out of order or outside the user half, a heap past `RLIMIT_DATA`.
    pub fn set_layout(&mut self, new: &NewLayout) -> CallResult<()> {
        self.check_new_layout(new)?;
        new.put_into(&mut self.layout);
        Ok(())
    }

    /// `prctl(PR_SET_MM, PR_SET_MM_AUXV, ...)`: what /proc/PID/auxv shows; the stack is left as it is.
    pub fn set_auxv(&mut self, words: Vec<u64>) {
        self.layout.auxv = words;
    }

    fn is_user_address(&self, addr: VirtAddr) -> bool {
        addr.get() >= self.system.sysctl.mmap_min_addr() && addr < VirtAddr::TASK_END
    }

    /// Linux's `validate_prctl_map_addr`.
    fn check_layout(&self, layout: &mut Layout) -> Result<(), Errno> {
        let inside = IN_ORDER.into_iter().all(|field| self.is_user_address(*field.of(layout)));
        let in_order = layout.start_code < layout.end_code
            && layout.start_data <= layout.end_data
            && layout.start_brk <= layout.brk
            && layout.arg_start <= layout.arg_end
            && layout.env_start <= layout.env_end;
        let data = layout.end_data.get().saturating_sub(layout.start_data.get());
        let heap = layout.brk.get().saturating_sub(layout.start_brk.get());
        let fits = data.saturating_add(heap) <= self.limits.data.soft;
        if inside && in_order && fits { Ok(()) } else { Err(Errno::EINVAL) }
    }
}
