//! The system registers of a vCPU that runs ring 3 from its first instruction.

use guest::abi::{
    GDT_PAGE, IDT_PAGE, KERNEL_CS, STUB_CALL, STUB_COMPAT, STUB_PAGE, TSS_SELECTOR, USER_CS,
    USER_DS,
};
use kvm_bindings::{
    KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW, kvm_dtable, kvm_msr_entry,
    kvm_segment, kvm_sregs, kvm_vcpu_events,
};

use crate::boot::VcpuArea;

/// CR0: PE, MP, ET, NE, WP, AM, PG, as Linux has them.
const CR0: u64 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 18 | 1 << 31;
/// CR4: PAE, OSFXSR, OSXMMEXCPT. Never SMEP or SMAP (ring 0 runs the user-executable stub), nor PCIDE.
const CR4: u64 = 1 << 5 | 1 << 9 | 1 << 10;
/// CR4.FSGSBASE.
pub(super) const CR4_FSGSBASE: u64 = 1 << 16;
/// CR4.OSXSAVE.
pub(super) const CR4_OSXSAVE: u64 = 1 << 18;
/// EFER: SCE, LME, LMA, NXE.
const EFER: u64 = 1 | 1 << 8 | 1 << 10 | 1 << 11;

/// RFLAGS: always 1.
const RFLAGS_FIXED: u64 = 1 << 1;
/// RFLAGS.TF.
const RFLAGS_TF: u64 = 1 << 8;
/// RFLAGS.IF.
const RFLAGS_IF: u64 = 1 << 9;
/// RFLAGS.DF.
const RFLAGS_DF: u64 = 1 << 10;
/// RFLAGS.IOPL.
const RFLAGS_IOPL: u64 = 3 << 12;
/// RFLAGS.NT.
const RFLAGS_NT: u64 = 1 << 14;
/// RFLAGS.RF.
const RFLAGS_RF: u64 = 1 << 16;
/// RFLAGS.AC.
const RFLAGS_AC: u64 = 1 << 18;
/// RFLAGS.ID.
const RFLAGS_ID: u64 = 1 << 21;
/// RFLAGS: CF, PF, AF, ZF, SF, OF.
const RFLAGS_STATUS: u64 = 1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 11;

/// What ring 3 may have set in its own RFLAGS. Not NT, which has no use but to make an `iret` fail,
/// nor RF, which hides a debug exception.
const RFLAGS_USER: u64 = RFLAGS_STATUS | RFLAGS_TF | RFLAGS_DF | RFLAGS_AC | RFLAGS_ID;

/// What `SYSCALL` clears on its way to the stub.
const SYSCALL_MASK: u64 = RFLAGS_STATUS
    | RFLAGS_TF
    | RFLAGS_IF
    | RFLAGS_DF
    | RFLAGS_IOPL
    | RFLAGS_NT
    | RFLAGS_RF
    | RFLAGS_AC;

/// The flags that ring 3 runs with when `wanted` is asked for.
pub(super) const fn user_rflags(wanted: u64) -> u64 {
    wanted & RFLAGS_USER | RFLAGS_FIXED | RFLAGS_IF
}

/// Whether an address has bits 47 to 63 alike. Entering ring 3 elsewhere faults in ring 0 or fails the
/// entry, so such an address never reaches KVM.
pub(super) const fn is_canonical(address: u64) -> bool {
    let high = address >> 47;
    high == 0 || high == 0x1_ffff
}

/// Ring 3's code segment.
pub(super) const USER_CODE: kvm_segment =
    kvm_segment { selector: USER_CS, type_: 11, dpl: 3, l: 1, db: 0, ..FLAT };
/// Ring 3's data segment.
pub(super) const USER_DATA: kvm_segment =
    kvm_segment { selector: USER_DS, type_: 3, dpl: 3, l: 0, db: 1, ..FLAT };
/// A data register of a fresh program: Linux starts one with null selectors.
const NULL_DATA: kvm_segment = kvm_segment { selector: 0, unusable: 1, present: 0, ..USER_DATA };

const FLAT: kvm_segment = kvm_segment {
    base: 0,
    limit: 0xffff_ffff,
    selector: 0,
    type_: 0,
    present: 1,
    dpl: 0,
    db: 0,
    s: 1,
    l: 0,
    g: 1,
    avl: 0,
    unusable: 0,
    padding: 0,
};

/// Ring 3 on the given tables. `initial` is what KVM gave the new vCPU; what is not named stays.
pub(super) fn user_sregs(initial: &kvm_sregs, area: &VcpuArea, root: u64, cr4: u64) -> kvm_sregs {
    kvm_sregs {
        cs: USER_CODE,
        ss: USER_DATA,
        ds: NULL_DATA,
        es: NULL_DATA,
        fs: NULL_DATA,
        gs: NULL_DATA,
        ldt: kvm_segment { type_: 2, s: 0, g: 0, limit: 0, present: 0, unusable: 1, ..FLAT },
        tr: kvm_segment {
            base: area.tss,
            limit: crate::boot::TSS_LIMIT,
            selector: TSS_SELECTOR,
            type_: 11,
            s: 0,
            g: 0,
            ..FLAT
        },
        gdt: kvm_dtable { base: GDT_PAGE, limit: crate::boot::GDT_LIMIT, padding: [0; 3] },
        idt: kvm_dtable { base: IDT_PAGE, limit: crate::boot::IDT_LIMIT, padding: [0; 3] },
        cr0: CR0,
        cr2: 0,
        cr3: root,
        cr4: CR4 | cr4,
        cr8: 0,
        efer: EFER,
        apic_base: initial.apic_base,
        interrupt_bitmap: [0; 4],
    }
}

/// Nothing injected, pending or masked. What is not named valid (SMM, SIPI), KVM leaves as it is:
/// neither is to be had here.
pub(super) fn no_events() -> kvm_vcpu_events {
    kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        ..Default::default()
    }
}

/// Whether the registers are ring 3's, so that a resume need not write them.
pub(super) fn runs_user_segments(sregs: &kvm_sregs) -> bool {
    sregs.cs.selector == USER_CS
        && sregs.cs.dpl == 3
        && sregs.cs.l == 1
        && sregs.ss.selector == USER_DS
        && sregs.ss.dpl == 3
}

/// The model-specific registers that ring 3 can reach or depends on.
pub(super) fn msrs() -> [kvm_msr_entry; 8] {
    /// Selectors of SYSCALL (bits 32 to 47) and SYSRET (48 to 63).
    const STAR: u32 = 0xc000_0081;
    const LSTAR: u32 = 0xc000_0082;
    const CSTAR: u32 = 0xc000_0083;
    const SFMASK: u32 = 0xc000_0084;
    const KERNEL_GS_BASE: u32 = 0xc000_0102;
    /// SYSENTER with a null code segment raises #GP.
    const SYSENTER_CS: u32 = 0x174;
    const SYSENTER_ESP: u32 = 0x175;
    const SYSENTER_EIP: u32 = 0x176;
    let star = u64::from(KERNEL_CS) << 32 | u64::from(USER_DS - 8) << 48;
    [
        (STAR, star),
        (LSTAR, STUB_PAGE + STUB_CALL),
        (CSTAR, STUB_PAGE + STUB_COMPAT),
        (SFMASK, SYSCALL_MASK),
        (KERNEL_GS_BASE, 0),
        (SYSENTER_CS, 0),
        (SYSENTER_ESP, 0),
        (SYSENTER_EIP, 0),
    ]
    .map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_3_keeps_its_own_flags_and_gets_no_privileged_one() {
        assert_eq!(user_rflags(0), 0x202);
        assert_eq!(user_rflags(u64::MAX), 0x24_0fd7);
    }

    #[test]
    fn canonical_addresses_are_those_of_the_two_halves() {
        for (address, canonical) in [
            (0, true),
            (0x7fff_ffff_ffff, true),
            (0x8000_0000_0000, false),
            (0xffff_7fff_ffff_ffff, false),
            (0xffff_8000_0000_0000, true),
            (u64::MAX, true),
        ] {
            assert_eq!(is_canonical(address), canonical, "{address:#x}");
        }
    }
}
