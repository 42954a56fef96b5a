//! The bytes of the descriptor tables and of the task-state segment (Intel SDM volume 3, sections
//! 3.4.5, 6.14.1, 7.7 and 18.5.2; AMD APM volume 2, chapter 4).

use guest::abi::{
    ENTRY_PAGE, ENTRY_STRIDE, KERNEL_CS, KERNEL_DS, PORT_CALL, USER_CS, USER_DS, VECTORS,
};

use super::CallPort;

/// Ring-0 64-bit code: present, DPL 0, execute and read, accessed, L.
const KERNEL_CODE: u64 = 0x00af_9b00_0000_ffff;
/// Ring-0 data: present, DPL 0, read and write, accessed.
const KERNEL_DATA: u64 = 0x00cf_9300_0000_ffff;
/// Ring-3 64-bit code: as the ring-0 one, DPL 3.
const USER_CODE: u64 = 0x00af_fb00_0000_ffff;
/// Ring-3 data: as the ring-0 one, DPL 3.
const USER_DATA: u64 = 0x00cf_f300_0000_ffff;

/// A present 64-bit interrupt gate with DPL 0.
const GATE_KERNEL: u64 = 0x8e00;
/// The same with DPL 3: an `int n` may name it.
const GATE_USER: u64 = 0xee00;

/// Vectors that ring 3 may raise by instruction: #BP and #OF, as Linux's `set_system_intr_gate`.
const USER_VECTORS: [u64; 2] = [3, 4];

/// Which entry of the TSS's interrupt stack table every gate uses. With it the CPU starts each frame
/// at the top of the vCPU's stack whatever the stack pointer was, so a fault at ring 0, which the
/// program's stack pointer survives into through `SYSCALL`, can neither write where the program
/// points nor leave a frame where ring 3's would be taken for it.
const INTERRUPT_STACK: u64 = 1;

/// Offset of RSP0 in a 64-bit TSS.
const TSS_RSP0: usize = 4;
/// Offset of IST1.
const TSS_IST1: usize = 36;
/// Offset of the 16-bit offset of the I/O permission bitmap.
const TSS_IO_MAP_BASE: usize = 102;
/// Bytes before the bitmap.
const TSS_HEADER: usize = 104;
/// Bytes of the bitmap up to and with the call port's; ports past the segment's limit are denied.
const BITMAP: usize = PORT_CALL as usize / 8 + 1;
/// Bytes of the whole segment. The CPU reads two bytes of bitmap at a time, so one of ones follows.
const TSS_BYTES: usize = TSS_HEADER + BITMAP + 1;

/// Limit of the GDT: the last byte of its last descriptor. The TSS has no descriptor: each vCPU's task
/// register is loaded by the host, and no `ltr` or task switch ever happens.
pub(crate) const GDT_LIMIT: u16 = USER_CS | 7;
/// Limit of the IDT: a vector past the exceptions raises #GP.
#[allow(clippy::cast_possible_truncation, reason = "32 gates of 16 bytes")]
pub(crate) const IDT_LIMIT: u16 = VECTORS as u16 * 16 - 1;
/// Limit of every TSS.
#[allow(clippy::cast_possible_truncation, reason = "under 128")]
pub(crate) const TSS_LIMIT: u32 = TSS_BYTES as u32 - 1;

/// The global descriptor table. Accessed bits are set, because its page is read-only and the CPU
/// would write them. There is no 32-bit code segment: a program cannot leave 64-bit mode.
pub(super) fn gdt() -> Vec<u8> {
    let mut table = vec![0_u64; usize::from(GDT_LIMIT / 8) + 1];
    for (selector, descriptor) in [
        (KERNEL_CS, KERNEL_CODE),
        (KERNEL_DS, KERNEL_DATA),
        (USER_DS, USER_DATA),
        (USER_CS, USER_CODE),
    ] {
        if let Some(slot) = table.get_mut(usize::from(selector / 8)) {
            *slot = descriptor;
        }
    }
    table.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// The interrupt descriptor table: a gate for each exception, to its entry.
pub(super) fn idt() -> Vec<u8> {
    (0..VECTORS)
        .flat_map(|vector| {
            let entry = ENTRY_PAGE + vector * ENTRY_STRIDE;
            let kind = if USER_VECTORS.contains(&vector) { GATE_USER } else { GATE_KERNEL };
            let low = (entry & 0xffff)
                | u64::from(KERNEL_CS) << 16
                | INTERRUPT_STACK << 32
                | kind << 32
                | (entry >> 16 & 0xffff) << 48;
            [low, entry >> 32]
        })
        .flat_map(u64::to_le_bytes)
        .collect()
}

/// A vCPU's task-state segment: its ring-0 stack, and the I/O bitmap. Software KVM forces IOPL to 0, so
/// there the bitmap decides whether an `out` at ring 3 exits or raises #GP. A map base of 0 would have
/// the segment's own bytes read as the bitmap.
pub(super) fn tss(stack_top: u64, call_port: CallPort) -> Vec<u8> {
    let mut segment = vec![0_u8; TSS_HEADER];
    for offset in [TSS_RSP0, TSS_IST1] {
        segment[offset..offset + 8].copy_from_slice(&stack_top.to_le_bytes());
    }
    segment[TSS_IO_MAP_BASE] = TSS_HEADER.to_le_bytes()[0];
    segment.resize(TSS_BYTES, 0xff);
    if call_port == CallPort::UserMayWrite {
        segment[TSS_HEADER + usize::from(PORT_CALL / 8)] &= !(1 << (PORT_CALL % 8));
    }
    segment
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(segment: &[u8], port: usize) -> bool {
        let base = usize::from(u16::from_le_bytes([segment[102], segment[103]]));
        segment.get(base + port / 8).is_some_and(|byte| byte & (1 << (port % 8)) == 0)
    }

    #[test]
    fn the_bitmap_allows_the_call_port_alone_and_only_where_asked() {
        let open = tss(0x1000, CallPort::UserMayWrite);
        let ports: Vec<_> = (0..0x1_0000).filter(|port| allowed(&open, *port)).collect();
        assert_eq!(ports, [usize::from(PORT_CALL)]);
        let closed = tss(0x1000, CallPort::KernelOnly);
        assert!((0..0x1_0000).all(|port| !allowed(&closed, port)));
    }

    #[test]
    fn the_gdt_has_four_segments_and_none_of_32_bit_code() {
        let table = gdt();
        assert_eq!(table.len(), usize::from(GDT_LIMIT) + 1);
        let words: Vec<u64> = table
            .chunks_exact(8)
            .map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap()))
            .collect();
        let present: Vec<_> =
            words.iter().enumerate().filter(|(_, word)| **word != 0).map(|(n, _)| n * 8).collect();
        assert_eq!(present, [0x10, 0x18, 0x28, 0x30]);
        let code = |word: &u64| *word >> 40 & 0x18 == 0x18;
        assert!(words.iter().filter(|word| code(word)).all(|word| word >> 53 & 1 == 1), "L bit");
    }

    #[test]
    fn ring_3_may_raise_only_breakpoint_and_overflow_by_instruction() {
        let table = idt();
        let user: Vec<_> = (0..32).filter(|vector| table[vector * 16 + 5] >> 5 & 3 == 3).collect();
        assert_eq!(user, [3, 4]);
    }
}
