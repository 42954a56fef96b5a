//! What `/proc` says of the whole machine: its memory, its settings.

use std::fmt::Write as _;
use std::sync::Arc;

use mm::addr::PAGE_SIZE;
use mm::error::Errno;
use mm::system::System;
use mm::vma::Aslr;

use super::numbered;
use super::settings::{self, Setting, SettingFile};
use super::text::Text;
use crate::files::FileKind;
use crate::files::tree::{Entry, Made};
use crate::kvm::CpuNames;
use crate::task::Family;

/// What a name is.
#[derive(Clone, Copy)]
enum What {
    Text(fn(&Family) -> String),
    Directory(&'static [(&'static str, What)]),
    Settings(&'static [(&'static str, Setting)]),
}

const NAMES: &[(&str, What)] = &[
    ("cpuinfo", What::Text(cpuinfo)),
    ("filesystems", What::Text(|_| "nodev\tproc\nnodev\ttmpfs\n".to_owned())),
    ("loadavg", What::Text(|family| format!("0.00 0.00 0.00 1/{} 0\n", family.count()))),
    ("meminfo", What::Text(meminfo)),
    ("sys", What::Directory(SYS)),
    (
        "sysvipc",
        What::Directory(&[("shm", What::Text(|family| segments(family.machine().system())))]),
    ),
    (
        "uptime",
        What::Text(|_| {
            let up = crate::hypercall::uptime().as_millis() / 10;
            format!("{}.{:02} 0.00\n", up / 100, up % 100)
        }),
    ),
    ("version", What::Text(|_| "Linux version 6.18.0 (mmvisor) #1 SMP\n".to_owned())),
];

/// Segments of System V shared memory, a line each.
fn segments(system: &System) -> String {
    let mut text = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      \
                    atime      dtime      ctime                   rss                  swap\n"
        .to_owned();
    for (segment, s) in system.segments().all() {
        let (resident, swapped) = segment.present();
        let (id, len) = (segment.id(), segment.len());
        // Writing to a text cannot fail.
        let _ = writeln!(
            text,
            "{:10} {id:10}  {:4o} {len:21} {:5} {:5}  {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10} {:21} {:21}",
            s.key,
            s.mode,
            s.creator,
            s.last,
            s.attached,
            s.owner,
            s.group,
            s.made_by,
            s.made_by_group,
            s.attached_at,
            s.detached_at,
            s.changed,
            resident * PAGE_SIZE,
            swapped * PAGE_SIZE
        );
    }
    text
}

const SYS: &[(&str, What)] =
    &[("kernel", What::Directory(KERNEL)), ("vm", What::Settings(&settings::VM))];

const KERNEL: &[(&str, What)] = &[
    ("hostname", What::Text(|_| "mmvisor\n".to_owned())),
    ("osrelease", What::Text(|_| "6.18.0\n".to_owned())),
    ("ostype", What::Text(|_| "Linux\n".to_owned())),
    ("pid_max", What::Text(|_| "32768\n".to_owned())),
    ("randomize_va_space", What::Text(randomize)),
    ("version", What::Text(|_| "#1 SMP\n".to_owned())),
];

/// `randomize_va_space`: 2 if programs' parts are moved, the heap too, 0 if not. All are started the same way.
fn randomize(family: &Family) -> String {
    let process = family.process(mm::current::pid()).and_then(|process| process.upgrade());
    let moves = process.is_some_and(|process| process.identity.launch.aslr != Aslr::OFF);
    number(if moves { 2 } else { 0 })
}

/// Bytes of a huge page.
const HUGE: u64 = 2 << 20;

fn number(value: u64) -> String {
    format!("{value}\n")
}

fn kind(what: What) -> FileKind {
    match what {
        What::Text(_) => FileKind::Regular,
        What::Directory(_) | What::Settings(_) => FileKind::Directory,
    }
}

/// The names beside the processes'.
pub(super) fn names() -> impl Iterator<Item = (&'static str, FileKind)> {
    NAMES.iter().map(|&(name, what)| (name, kind(what)))
}

/// What has a name there.
pub(super) fn lookup(family: &Arc<Family>, name: &[u8]) -> Result<Arc<dyn Made>, Errno> {
    found(family, NAMES, name, 3)
}

/// What has a name in a directory whose names' inode numbers begin with `first`.
fn found(
    family: &Arc<Family>,
    names: &'static [(&'static str, What)],
    name: &[u8],
    first: u64,
) -> Result<Arc<dyn Made>, Errno> {
    let found = (first..).zip(names).find(|(_, (known, _))| known.as_bytes() == name);
    let (inode, &(_, what)) = found.ok_or(Errno::ENOENT)?;
    let family = Arc::downgrade(family);
    Ok(match what {
        What::Text(make) => {
            let family = move || family.upgrade().ok_or(Errno::ENOENT);
            let make = Arc::new(move || Ok(make(&*family()?).into_bytes()));
            Arc::new(Text { inode, permissions: 0o444, make, take: None, ask: None })
        }
        What::Directory(names) => Arc::new(Directory { family, names, inode }),
        What::Settings(names) => Arc::new(Settings { family, names, inode }),
    })
}

/// A directory of texts.
struct Directory {
    family: std::sync::Weak<Family>,
    names: &'static [(&'static str, What)],
    inode: u64,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "directory {}", self.inode)
    }
}

impl Made for Directory {
    fn inode(&self) -> u64 {
        self.inode
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Made>, Errno> {
        let family = self.family.upgrade().ok_or(Errno::ENOENT)?;
        found(&family, self.names, name, self.inode * 32)
    }

    fn entries(&self, from: u64) -> Result<Vec<Entry>, Errno> {
        let names = self.names.iter().map(|&(name, what)| (name.as_bytes().to_vec(), kind(what)));
        Ok(numbered(names, from))
    }
}

/// A directory of settings.
struct Settings {
    family: std::sync::Weak<Family>,
    names: &'static [(&'static str, Setting)],
    inode: u64,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "settings {}", self.inode)
    }
}

impl Made for Settings {
    fn inode(&self) -> u64 {
        self.inode
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Made>, Errno> {
        let numbered = (self.inode * 32..).zip(self.names);
        let found = numbered.into_iter().find(|(_, (known, _))| known.as_bytes() == name);
        let (inode, &(_, setting)) = found.ok_or(Errno::ENOENT)?;
        Ok(Arc::new(SettingFile { inode, setting, family: self.family.clone() }))
    }

    fn entries(&self, from: u64) -> Result<Vec<Entry>, Errno> {
        let names =
            self.names.iter().map(|(name, _)| (name.as_bytes().to_vec(), FileKind::Regular));
        Ok(numbered(names, from))
    }
}

/// `meminfo`: what there is of a machine without a kernel; all else is 0, or is not said where readers do without.
/// All pages count as active. What several processes map is counted for each, up to what there is.
fn meminfo(family: &Family) -> String {
    let system = family.machine().system();
    let stats = system.frames().stats();
    let swap = system.swap().map(mm::swap::Swap::stats).unwrap_or_default();
    let pools = system.huge_pools();
    let pool = pools.iter().find(|pool| pool.page_size() == HUGE).map(|pool| pool.stats());
    let pool = pool.unwrap_or_default();
    let in_pools: u64 =
        pools.iter().map(|pool| pool.stats().total * pool.page_size() / PAGE_SIZE).sum();
    let total = system.sysctl.total_pages();
    let free = total.saturating_sub(stats.pages + stats.tables);
    let limit = system.sysctl.commit_limit();
    let active = stats.pages.saturating_sub(in_pools);
    let mapped = |class: fn([u64; 3]) -> u64| {
        family.resident().into_iter().map(|(_, pages)| class(pages)).sum::<u64>().min(active)
    };
    let pages = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", swap.cached),
        ("Active", active),
        ("Inactive", 0),
        ("SwapTotal", swap.total),
        ("SwapFree", swap.total - swap.used),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", mapped(|[own, _, _]| own)),
        ("Mapped", mapped(|[_, file, shared]| file + shared)),
        ("Slab", 0),
        ("PageTables", stats.tables),
        ("CommitLimit", limit),
        ("Committed_AS", system.committed()),
        ("VmallocTotal", 0),
        ("VmallocUsed", 0),
        ("VmallocChunk", 0),
    ];
    let mut text = String::new();
    for (name, pages) in pages {
        let _ = writeln!(text, "{:<16}{:>8} kB", format!("{name}:"), (pages * PAGE_SIZE) >> 10);
    }
    let counts = [
        ("HugePages_Total", pool.total),
        ("HugePages_Free", pool.free),
        ("HugePages_Rsvd", pool.reserved),
        ("HugePages_Surp", 0),
    ];
    for (name, count) in counts {
        let _ = writeln!(text, "{:<16}{count:>8}", format!("{name}:"));
    }
    for (name, bytes) in [("Hugepagesize", HUGE), ("Hugetlb", in_pools * PAGE_SIZE)] {
        let _ = writeln!(text, "{:<16}{:>8} kB", format!("{name}:"), bytes >> 10);
    }
    text
}

/// `cpuinfo`: of the one processor that a program runs on at a time, as its CPUID has it. Caches and clocks are the
/// host's, and nothing is said of them but the line that clflush writes back.
fn cpuinfo(family: &Family) -> String {
    let CpuNames { vendor, version: [number, model, stepping], model: name, flags } =
        family.machine().cpu_names();
    format!(
        "processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {number}\nmodel\t\t: {model}\nmodel name\t: {name}\n\
         stepping\t: {stepping}\nphysical id\t: 0\nsiblings\t: 1\ncore id\t\t: 0\ncpu cores\t: 1\napicid\t\t: 0\n\
         fpu\t\t: yes\nfpu_exception\t: yes\nwp\t\t: yes\nflags\t\t: {flags}\nclflush size\t: 64\n\
         cache_alignment\t: 64\naddress sizes\t: 46 bits physical, 48 bits virtual\npower management:\n\n"
    )
}
