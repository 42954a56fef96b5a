//! A guest's `/proc`, as the crate `procfs` reads it, which reads Linux's.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use libtest_mimic::{Completion, Failed, Trial};
use procfs::process::{
    LimitValue, Limits, MMPermissions, MMapPath, MemoryMap, MemoryMaps, PageInfo, SmapsRollup,
    Stat, StatM, Status,
};
use procfs::{CpuInfo, FromRead, LoadAverage, Meminfo, Uptime};

use crate::common::{self, MMVISOR, kvm_unusable};

const LIMIT: Duration = Duration::from_secs(60);
const MEMORY: u64 = 64 << 20;

/// The trials.
pub fn trials() -> Vec<Trial> {
    vec![Trial::ignorable_test("kvm::proc-files", || match kvm_unusable() {
        Some(why) => Ok(Completion::ignored_with(why)),
        None => parsed().map(|()| Completion::Completed),
    })]
}

/// Copies what a process of a guest has in `/proc` into a directory.
fn copied() -> Result<impl Fn(&str) -> Vec<u8>, Failed> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("proc-files");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory)?;
    let script = "cd /proc/self; for name in auxv limits maps smaps smaps_rollup stat statm status \
                  ../meminfo ../cpuinfo ../uptime ../loadavg; do cat $name > /d/${name#../}; done; \
                  dd if=pagemap of=/d/pagemap bs=8 count=16 skip=$((0x400)) 2>/dev/null";
    let mut command = Command::new(MMVISOR);
    command.args(["run", "--machine=kvm", "--aslr=1", "--hugetlb=2M:3"]);
    command.arg(format!("--mem={MEMORY}"));
    command.arg(format!("--dir={}:/d", directory.display()));
    // One process does it all, so that what is said fits together.
    command.args(["/bin/busybox", "sh", "-c", script]);
    let ran = common::run(&mut command, b"", LIMIT);
    if ran.status != Some(0) {
        return Err(format!("{ran:?}").into());
    }
    Ok(move |name: &str| fs::read(directory.join(name)).unwrap())
}

fn parsed() -> Result<(), Failed> {
    let file = copied()?;
    let maps = MemoryMaps::from_read(&*file("maps"))?.0;
    let smaps = MemoryMaps::from_read(&*file("smaps"))?.0;
    let status = Status::from_read(&*file("status"))?;
    let stat = Stat::from_read(&*file("stat"))?;
    let statm = StatM::from_read(&*file("statm"))?;
    let rollup = SmapsRollup::from_read(&*file("smaps_rollup"))?.memory_map_rollup.0;

    check_maps(&maps, &smaps, &rollup);
    // The shell waits for who reads.
    assert_eq!((&*status.name, &*stat.comm, stat.state), ("busybox", "busybox", 'S'));
    assert_eq!((status.ppid, stat.ppid, status.threads, stat.num_threads), (0, 0, 1, 1));
    assert_eq!((status.tgid, status.pid), (status.pid, status.pid));
    assert!(status.vmsize >= status.vmrss && status.vmpeak >= status.vmsize, "{status:?}");
    assert_eq!(status.vmsize.map(|size| size * 1024), Some(maps.iter().map(length).sum()));
    assert_eq!(status.fdsize, 64);
    assert_eq!((status.capeff, status.capprm), (status.capbnd.unwrap(), status.capbnd.unwrap()));
    assert_eq!(stat.vsize, status.vmsize.unwrap() * 1024);
    assert_eq!(statm.size, stat.vsize / 4096);
    assert!(statm.resident > 0 && statm.shared <= statm.resident, "{statm:?}");
    check_places(&stat, &maps, &file("auxv"));

    let limits = Limits::from_read(&*file("limits"))?;
    assert!(matches!(limits.max_stack_size.soft_limit, LimitValue::Value(0x80_0000)));
    assert!(matches!(limits.max_cpu_time.hard_limit, LimitValue::Unlimited));
    check_machine(&file)?;
    let words = file("pagemap");
    let words = words.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
    let present = |word| match PageInfo::parse_info(word) {
        PageInfo::MemoryPage(flags) => flags.contains(procfs::process::MemoryPageFlags::PRESENT),
        PageInfo::SwapPage(_) => false,
    };
    assert!(words.filter(|&word| present(word)).count() > 0);
    Ok(())
}

fn length(map: &MemoryMap) -> u64 {
    map.address.1 - map.address.0
}

fn check_maps(maps: &[MemoryMap], smaps: &[MemoryMap], rollup: &[MemoryMap]) {
    assert!(maps.is_sorted_by_key(|map| map.address));
    for kind in [MMapPath::Heap, MMapPath::Stack] {
        let map = maps.iter().find(|map| map.pathname == kind).unwrap();
        assert_eq!(map.perms, MMPermissions::READ | MMPermissions::WRITE | MMPermissions::PRIVATE);
    }
    let code = MMPermissions::READ | MMPermissions::EXECUTE | MMPermissions::PRIVATE;
    assert!(maps.iter().any(|map| map.perms == code && matches!(map.pathname, MMapPath::Path(_))));
    // Each has all of what Linux says.
    let first: BTreeSet<_> = smaps[0].extension.map.keys().cloned().collect();
    for name in ["Rss", "Pss", "Private_Dirty", "Referenced", "AnonHugePages", "Swap", "Locked"] {
        assert!(first.contains(name), "{name}");
    }
    for map in smaps {
        assert_eq!(map.extension.map.keys().cloned().collect::<BTreeSet<_>>(), first);
        let of = |name: &str| map.extension.map[name];
        assert_eq!(of("Size"), length(map));
        let parts = ["Shared_Clean", "Shared_Dirty", "Private_Clean", "Private_Dirty"];
        assert_eq!(parts.map(of).iter().sum::<u64>(), of("Rss"));
    }
    let rss = |maps: &[MemoryMap]| -> u64 { maps.iter().map(|map| map.extension.map["Rss"]).sum() };
    assert!(rss(smaps) > 0 && rss(rollup) > 0);
    assert_eq!(rollup.len(), 1);
}

/// What stat says of addresses, and the auxiliary vector.
fn check_places(stat: &Stat, maps: &[MemoryMap], auxv: &[u8]) {
    let within = |addr: u64| maps.iter().any(|map| (map.address.0..=map.address.1).contains(&addr));
    let code = maps.iter().find(|map| map.perms.contains(MMPermissions::EXECUTE)).unwrap();
    let words: Vec<u64> =
        auxv.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
    let value = |key| words.chunks_exact(2).find(|pair| pair[0] == key).unwrap()[1];
    assert_eq!(words.len() % 2, 0);
    assert_eq!((words[words.len() - 2], value(nix::libc::AT_PAGESZ)), (0, 4096));
    let entry = value(nix::libc::AT_ENTRY);
    assert!((code.address.0..code.address.1).contains(&entry));
    assert!(within(value(nix::libc::AT_RANDOM)) && within(value(nix::libc::AT_PHDR)));
    assert!((stat.startcode..=stat.endcode).contains(&entry));
    let places = [stat.start_data, stat.end_data, stat.start_brk, stat.arg_start, stat.env_end];
    for at in places.into_iter().flatten().chain([stat.startstack]) {
        assert!(at == 0 || within(at), "{at:x}");
    }
}

fn check_machine(file: &impl Fn(&str) -> Vec<u8>) -> Result<(), Failed> {
    let meminfo = Meminfo::from_read(&*file("meminfo"))?;
    assert_eq!(meminfo.mem_total, MEMORY);
    assert!(meminfo.mem_free < MEMORY && meminfo.mem_available.unwrap() <= MEMORY);
    assert_eq!((meminfo.hugepages_total, meminfo.hugepages_free), (Some(3), Some(3)));
    assert_eq!((meminfo.hugepagesize, meminfo.swap_total), (Some(2 << 20), 0));
    let anon = meminfo.anon_pages.unwrap();
    assert!(anon > 0 && anon < meminfo.active && meminfo.mapped > 0, "{meminfo:?}");
    assert!(meminfo.active + meminfo.mem_free < MEMORY);
    assert!(meminfo.commit_limit.unwrap() < MEMORY && meminfo.committed_as > 0);

    let cpuinfo = CpuInfo::from_read(&*file("cpuinfo"))?;
    assert_eq!(cpuinfo.num_cores(), 1);
    let flags: BTreeSet<&str> = cpuinfo.flags(0).unwrap().into_iter().collect();
    for flag in ["fpu", "tsc", "cx8", "cmov", "mmx", "fxsr", "sse", "sse2", "syscall", "nx", "lm"] {
        assert!(flags.contains(flag), "{flag} is not in {flags:?}");
    }
    // What ring 3 may use is what the host has.
    let host = CpuInfo::from_read(fs::File::open("/proc/cpuinfo")?)?;
    let host: BTreeSet<&str> = host.flags(0).unwrap().into_iter().collect();
    for flag in ["avx2", "avx512f", "sse4_2", "aes", "rdrand", "bmi2", "fma", "sha_ni"] {
        assert_eq!(host.contains(flag), flags.contains(flag), "{flag}");
    }
    let host = fs::read_to_string("/proc/cpuinfo")?;
    for said in [cpuinfo.vendor_id(0).unwrap(), cpuinfo.model_name(0).unwrap()] {
        assert!(!said.is_empty() && host.contains(said), "{said:?} is not the host's");
    }
    assert!(Uptime::from_read(&*file("uptime"))?.uptime >= 0.0);
    assert!(LoadAverage::from_read(&*file("loadavg"))?.max >= 1);
    Ok(())
}
