//! What Linux calls the processor's features in `/proc/cpuinfo` (`arch/x86/include/asm/cpufeatures.h`), and the
//! processor itself, as the guest's CPUID has them.

use std::arch::x86_64::{__cpuid_count, CpuidResult};

use kvm_bindings::CpuId;

use super::Kind;

/// A register of a leaf.
type Register = fn(&CpuidResult) -> u32;

/// Where 32 features are, and their names from bit 0 on; `-` is none, or one that is not shown.
const WORDS: [(u32, Register, &str); 7] = [
    (
        1,
        |leaf| leaf.edx,
        "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - dts acpi mmx fxsr sse \
         sse2 ss ht tm ia64 pbe",
    ),
    (
        0x8000_0001,
        |leaf| leaf.edx,
        "- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow",
    ),
    (
        1,
        |leaf| leaf.ecx,
        "pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - pcid dca sse4_1 \
         sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave - avx f16c rdrand hypervisor",
    ),
    (
        0x8000_0001,
        |leaf| leaf.ecx,
        "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp \
         fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext ptsc perfctr_llc mwaitx - -",
    ),
    (
        7,
        |leaf| leaf.ebx,
        "fsgsbase tsc_adjust sgx bmi1 hle avx2 - smep bmi2 erms invpcid rtm cqm - mpx rdt_a avx512f avx512dq rdseed \
         adx smap avx512ifma - clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl",
    ),
    (
        7,
        |leaf| leaf.ecx,
        "- avx512vbmi umip pku ospke waitpkg avx512_vbmi2 - gfni vaes vpclmulqdq avx512_vnni avx512_bitalg tme \
         avx512_vpopcntdq - la57 - - - - - rdpid - bus_lock_detect cldemote - movdiri movdir64b enqcmd sgx_lc -",
    ),
    (
        7,
        |leaf| leaf.edx,
        "- - avx512_4vnniw avx512_4fmaps fsrm - - - avx512_vp2intersect - md_clear - - - serialize - tsxldtrk - \
         pconfig arch_lbr ibt - amx_bf16 avx512_fp16 amx_tile amx_int8 - - flush_l1d arch_capabilities - -",
    ),
];

/// A processor as `/proc/cpuinfo` has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CpuNames {
    /// `vendor_id`.
    pub vendor: String,
    /// `cpu family`, `model`, `stepping`.
    pub version: [u32; 3],
    /// `model name`.
    pub model: String,
    /// `flags`, with a space between two.
    pub flags: String,
}

/// The processor that ring 3 finds: the table's, or the real one on software KVM, whatever the table says there.
pub(super) fn cpu_names(kind: Kind, table: &CpuId) -> CpuNames {
    match kind {
        Kind::Soft => named(real_leaf),
        _ => named(|function| leaf(table, function)),
    }
}

/// A leaf of a table; zeros where it has none.
fn leaf(table: &CpuId, function: u32) -> CpuidResult {
    let found = table.as_slice().iter().find(|leaf| leaf.function == function && leaf.index == 0);
    let registers = found.map_or([0; 4], |leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]);
    let [eax, ebx, ecx, edx] = registers;
    CpuidResult { eax, ebx, ecx, edx }
}

/// A leaf of the processor that this runs on; zeros past its last one.
fn real_leaf(function: u32) -> CpuidResult {
    // The first leaf of each range says which is its last.
    let last = __cpuid_count(function & 0x8000_0000, 0).eax;
    if function > last {
        return CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    }
    __cpuid_count(function, 0)
}

fn named(of: impl Fn(u32) -> CpuidResult) -> CpuNames {
    let first = of(0);
    let model = [0x8000_0002, 0x8000_0003, 0x8000_0004].map(&of);
    let model = model.map(|leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]);
    let flags = WORDS.iter().flat_map(|(function, register, names)| {
        let bits = register(&of(*function));
        let named = names.split_whitespace().enumerate();
        named.filter(move |(bit, name)| bits >> bit & 1 == 1 && *name != "-").map(|(_, name)| name)
    });
    CpuNames {
        vendor: text(&[first.ebx, first.edx, first.ecx]),
        version: version(of(1).eax),
        model: text(model.as_flattened()),
        flags: flags.collect::<Vec<_>>().join(" "),
    }
}

/// Family, model and stepping (SDM volume 2, CPUID, figure 3-6).
fn version(eax: u32) -> [u32; 3] {
    let field = |shift: u32, mask: u32| eax >> shift & mask;
    let family = match field(8, 0xf) {
        0xf => 0xf + field(20, 0xff),
        family => family,
    };
    let high = if family == 6 || family >= 0xf { field(16, 0xf) << 4 } else { 0 };
    [family, high | field(4, 0xf), field(0, 0xf)]
}

/// Letters in registers, up to a zero, without spaces around.
fn text(registers: &[u32]) -> String {
    let bytes = registers.iter().flat_map(|register| register.to_le_bytes());
    let bytes: Vec<u8> = bytes.take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use kvm_bindings::kvm_cpuid_entry2;

    use super::*;

    #[test]
    fn each_word_has_32_names_and_none_twice() {
        let mut all = Vec::new();
        for (_, _, names) in WORDS {
            let names: Vec<&str> = names.split_whitespace().collect();
            assert_eq!(names.len(), 32, "{names:?}");
            all.extend(names.into_iter().filter(|name| *name != "-"));
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn a_table_is_told_in_words() {
        let leaf = |function, eax, ebx, ecx, edx| kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        };
        let word = |text: &[u8; 4]| u32::from_le_bytes(*text);
        let entries = [
            leaf(0, 0, word(b"Genu"), word(b"ntel"), word(b"ineI")),
            leaf(1, 0x00a0_0f11, 0, 1 << 31 | 1, 1 << 25 | 1),
            leaf(0x8000_0002, word(b"  A "), word(b"CPU\0"), 0, 0),
            leaf(0x8000_0001, 0, 0, 1, 1 << 29),
        ];
        let names = cpu_names(Kind::Npt, &CpuId::from_entries(&entries).unwrap());
        assert_eq!((&*names.vendor, &*names.model), ("GenuineIntel", "A CPU"));
        assert_eq!(names.version, [0x19, 1, 1]);
        assert_eq!(names.flags, "fpu sse lm pni hypervisor lahf_lm");
    }
}
