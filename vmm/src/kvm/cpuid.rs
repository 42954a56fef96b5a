//! What the guest's CPUID says, and the XCR0 that goes with it.
//!
//! The table is the host's own (`KVM_GET_SUPPORTED_CPUID`) less what a program could not use or whose
//! state would not be saved. On software KVM ring 3's CPUID is the real CPU's, whatever the table says.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

use super::{Component, KvmError, XsaveLayout};

/// XCR0: x87, always there.
const X87: u64 = 1;
/// XCR0: SSE.
const SSE: u64 = 1 << 1;
/// XCR0: the upper halves of the YMM registers.
pub(super) const AVX: u64 = 1 << 2;
/// XCR0: opmask, upper ZMM halves, ZMM 16 to 31; enabled together or not at all.
const AVX512: u64 = 7 << 5;

/// Leaf 1, ecx: MONITOR (a program has no use for it, and KVM may exit on it).
const MONITOR: u32 = 1 << 3;
/// Leaf 1, ecx: XSAVE.
const XSAVE: u32 = 1 << 26;
/// Leaf 7, ecx: PKU and OSPKE (protection keys are in no page table here), SHSTK.
const LEAF7_ECX: u32 = 1 << 3 | 1 << 4 | 1 << 7;
/// Leaf 7, edx: IBT, AMX-BF16, AMX-TILE, AMX-INT8 (state of 8 KiB a vCPU, and a permission).
const LEAF7_EDX: u32 = 1 << 20 | 1 << 22 | 1 << 24 | 1 << 25;
/// Leaf 7, ebx: FSGSBASE.
const FSGSBASE: u32 = 1;

/// The table for the guest.
pub(super) fn offered(supported: &CpuId) -> Result<CpuId, KvmError> {
    let mut entries = supported.as_slice().to_vec();
    let xcr0 = xcr0_of(&entries);
    for entry in &mut entries {
        match (entry.function, entry.index) {
            (1, _) => entry.ecx &= !MONITOR,
            (7, 0) => {
                entry.ecx &= !LEAF7_ECX;
                entry.edx &= !LEAF7_EDX;
            }
            (0xd, 0) => [entry.eax, entry.edx] = halves(xcr0),
            _ => {}
        }
    }
    // A component that XCR0 cannot hold has no sub-leaf either; XSS components (bit 0 of ecx) stay out.
    entries.retain(|entry| {
        entry.function != 0xd || entry.index < 2 || xcr0 >> entry.index.min(63) & 1 == 1
    });
    CpuId::from_entries(&entries).map_err(|error| KvmError::Host {
        what: "hold the guest's CPUID table",
        source: std::io::Error::other(format!("{error:?}")),
    })
}

/// The XCR0 for a table, or `None` where XSAVE is not offered.
pub(super) fn xcr0(table: &CpuId) -> Option<u64> {
    let has_xsave =
        table.as_slice().iter().any(|entry| entry.function == 1 && entry.ecx & XSAVE != 0);
    has_xsave.then(|| xcr0_of(table.as_slice()))
}

/// What an image of a vCPU's state has in it. On software KVM ring 3 has the real CPU's components, whether the
/// table offers XSAVE or not.
pub(super) fn xsave_layout(table: &CpuId) -> XsaveLayout {
    let entries = table.as_slice();
    let xcr0 = xcr0_of(entries);
    let parts = entries.iter().filter(|entry| entry.function == 0xd && entry.index >= 2);
    let parts = parts.filter(|entry| xcr0 >> entry.index.min(63) & 1 == 1);
    let component = |entry: &kvm_cpuid_entry2| Component {
        bit: entry.index,
        offset: entry.ebx as usize,
        bytes: entry.eax as usize,
    };
    XsaveLayout::new(parts.map(component).collect())
}

/// Whether ring 3 may be given RDFSBASE and its like (CR4.FSGSBASE).
pub(super) fn has_fsgsbase(table: &CpuId) -> bool {
    table
        .as_slice()
        .iter()
        .any(|entry| entry.function == 7 && entry.index == 0 && entry.ebx & FSGSBASE != 0)
}

fn xcr0_of(entries: &[kvm_cpuid_entry2]) -> u64 {
    let possible = entries
        .iter()
        .find(|entry| entry.function == 0xd && entry.index == 0)
        .map_or(0, |entry| u64::from(entry.edx) << 32 | u64::from(entry.eax));
    let mut xcr0 = X87 | possible & (SSE | AVX);
    if possible & AVX512 == AVX512 && xcr0 & AVX != 0 {
        xcr0 |= AVX512;
    }
    xcr0
}

/// Low and high 32 bits.
fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_xcr0(eax: u32) -> Vec<kvm_cpuid_entry2> {
        vec![kvm_cpuid_entry2 { function: 0xd, eax, ..Default::default() }]
    }

    #[test]
    fn an_image_has_the_parts_that_xcr0_enables() {
        let part = |index, eax, ebx| kvm_cpuid_entry2 {
            function: 0xd,
            index,
            eax,
            ebx,
            ..Default::default()
        };
        let mut entries = with_xcr0(0x207);
        entries.extend([part(1, 15, 0), part(2, 256, 576), part(9, 8, 2688)]);
        let layout = xsave_layout(&CpuId::from_entries(&entries).unwrap());
        assert_eq!((layout.features(), layout.bytes()), (7, 832), "no protection keys");
        let none = xsave_layout(&CpuId::from_entries(&[]).unwrap());
        assert_eq!((none.features(), none.bytes()), (3, 576));
    }

    #[test]
    fn avx512_is_enabled_whole_or_not_at_all_and_amx_and_pkru_never() {
        assert_eq!(xcr0_of(&with_xcr0(0x0006_02ff)), 0xe7);
        assert_eq!(xcr0_of(&with_xcr0(0x67)), 7, "one AVX-512 part is missing");
        assert_eq!(xcr0_of(&with_xcr0(0xe3)), 3, "AVX is missing");
        assert_eq!(xcr0_of(&[]), 1);
    }
}
