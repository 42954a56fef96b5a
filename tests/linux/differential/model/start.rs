//! The state that every sequence begins with, and the machine that it is on.

use std::ops::Range;

use guest::call::number::BRK;
use guest::script::{self, Name, Op};
use libtest_mimic::Failed;
use mm::addr::{PAGE_SIZE, TASK_SIZE, VirtAddr};
use mm::phys::Order;
use mm::replay::trace::{AnonOrigin, Hidden, MapLine, Setting, Span, VmFlagNames};
use mm::rules::Rule;
use mm::sysctl::{OfSize, SizeThp};
use vmm::load::{Image, Placement};

use super::{FRAMES, Model};
use crate::common;
use crate::differential::pool;
use crate::oracle::Oracle;
use crate::script::{Answer, Script};

/// What the player sets for itself, with personality(2).
const ADDR_NO_RANDOMIZE: u64 = libc::ADDR_NO_RANDOMIZE as u64;

/// The state that every script begins with.
#[derive(Clone, Debug)]
pub struct Start {
    pub(super) lines: Vec<MapLine>,
    pub(super) brk: u64,
    pub(super) data: Range<u64>,
    /// What the host has: promises beyond it are refused.
    total_pages: u64,
    pub(super) swap: Swap,
    /// Ours, if we have one.
    pub(super) area: Area,
    pub(super) serving: Serving,
    /// Whether what is resident is told.
    pub(super) residency: Residency,
    /// Huge pages in the pool.
    pool: u64,
    /// The sizes in which anonymous memory is given.
    thp: Vec<OfSize>,
    /// Rules that our side does without.
    pub(super) without: Vec<Rule>,
    /// Settings of the machine by name, the later ones last.
    settings: Vec<(&'static str, u64)>,
}

impl Start {
    /// The same without one of our rules.
    pub fn without(mut self, rule: Rule) -> Self {
        self.without.push(rule);
        self
    }

    /// The same on a machine with so many pages of memory, none in its pool of huge ones, and nothing set for
    /// transparent ones.
    pub fn on_machine(self, total_pages: u64) -> Self {
        Start { total_pages, pool: 0, thp: Vec::new(), ..self }
    }

    /// The same with these settings of the machine (`vm.*`) beside those that it has.
    pub fn set(mut self, settings: &[(&'static str, u64)]) -> Self {
        self.settings.extend(settings);
        self
    }

    /// The same on a machine with a swap area of its own.
    pub fn with_area(self, area: Area) -> Self {
        Start { area, residency: Residency::Told, ..self }
    }

    /// The same, but that nothing is told of what is resident: for a host without a swap area, against one with.
    pub fn untold(self) -> Self {
        Start { residency: Residency::Untold, ..self }
    }

    /// The same on a machine that gives anonymous memory in these sizes, whatever the host does.
    pub fn with_thp(self, thp: Vec<OfSize>) -> Self {
        Start { thp, ..self }
    }

    /// The same where acts serve a userfaultfd.
    pub fn with_serving(self) -> Self {
        Start { serving: Serving::Yes, ..self }
    }

    /// Whether acts serve a userfaultfd.
    pub fn serving(&self) -> Serving {
        self.serving
    }

    /// The machine's swap area.
    pub fn area(&self) -> Area {
        self.area
    }

    /// Checks every invariant of a process, but not without a rule: then it is the comparison that has
    /// to notice.
    pub fn is_sound(&self, model: &Model, process: u8) -> std::result::Result<(), Failed> {
        if !self.without.is_empty() { Ok(()) } else { model.audit(process) }
    }

    /// The same for all processes together.
    pub fn are_sound(&self, model: &Model) -> std::result::Result<(), Failed> {
        if !self.without.is_empty() { Ok(()) } else { model.audit_all() }
    }

    /// Where the kernel's own pages begin that lie above everything it places.
    pub fn top(&self) -> u64 {
        let starts = self.lines.iter().map(|line| line.span.start.get());
        starts.filter(|&start| start > 0x7fff_0000_0000).min().unwrap_or(TASK_SIZE)
    }

    /// Whether anonymous memory may come in sizes between a page and a huge page.
    pub(super) fn gives_folios(&self) -> bool {
        let given = |of_size: &OfSize| of_size.when() != SizeThp::Never;
        self.thp.iter().any(|of_size| of_size.size() < Order::HUGE && given(of_size))
    }

    pub(super) fn gives_huge_always(&self) -> bool {
        let always = |of_size: &OfSize| of_size.when() == SizeThp::Always;
        self.thp.iter().any(|of_size| of_size.size() == Order::HUGE && always(of_size))
    }

    /// How many huge pages the pool has.
    pub fn pool(&self) -> u64 {
        self.pool
    }

    /// The VMAs.
    pub fn lines(&self) -> &[MapLine] {
        &self.lines
    }

    /// Where the heap begins and ends.
    pub fn brk(&self) -> u64 {
        self.brk
    }

    /// Where the initialised data is.
    pub fn data(&self) -> Range<u64> {
        self.data.clone()
    }

    /// The personality.
    pub fn personality(&self) -> u64 {
        ADDR_NO_RANDOMIZE
    }

    /// The machine's settings, in the order in which they are made.
    pub fn settings(&self) -> impl Iterator<Item = Setting> {
        let memory = ("mmvisor.total_pages", self.total_pages);
        let pool = (self.pool > 0).then_some(("vm.nr_hugepages", self.pool));
        let numbers = std::iter::once(memory).chain(pool).chain(self.settings.iter().copied());
        let sysctl = |(name, value): (&str, u64)| Setting::Sysctl { name: name.to_owned(), value };
        numbers.map(sysctl).chain(self.thp.iter().copied().map(Setting::ThpOf))
    }

    /// Asks a player.
    pub fn of(oracle: &mut Oracle) -> std::result::Result<Self, Failed> {
        let mut script = Script::new();
        script.maps(0..TASK_SIZE);
        script.step(0, Op::VmFlags { start: 0, end: TASK_SIZE });
        script.call(BRK, &[0]);
        let answers = oracle.run(&script)?;
        let (vmas, flags, brk) = match &answers[..] {
            [Answer::Maps(vmas), Answer::VmFlags(flags), Answer::Result { value: Ok(brk), .. }] => {
                (vmas.clone(), flags, brk)
            }
            // Kernels before 6.11 have no PROCMAP_QUERY.
            [Answer::Error(_), Answer::VmFlags(flags), Answer::Result { value: Ok(brk), .. }] => {
                (flags.iter().map(|vma| vma_of(&vma.range, &vma.flags)).collect(), flags, brk)
            }
            _ => return Err(format!("the starting state: {answers:?}").into()),
        };
        let lines = vmas.iter().zip(flags).enumerate().map(|(at, (vma, of_vma))| {
            let names =
                of_vma.flags.split_whitespace().filter_map(|n| n.as_bytes().try_into().ok());
            let flags = VmFlagNames(names.collect());
            starting_line(at, vma, flags)
        });
        Ok(Start {
            lines: lines.collect(),
            brk: *brk,
            data: initialised_data()?,
            total_pages: pages_of("MemTotal:")? + pages_of("SwapTotal:")?,
            swap: if pages_of("SwapTotal:")? > 0 { Swap::Some } else { Swap::None },
            area: Area::None,
            serving: Serving::No,
            residency: Residency::AsLinux,
            pool: pool::pages(),
            thp: thp_sizes(),
            without: Vec::new(),
            settings: Vec::new(),
        })
    }
}

/// The player's `start_data` and `end_data`.
fn initialised_data() -> std::result::Result<Range<u64>, Failed> {
    let elf = Image::open(&common::payload("player")).map_err(|error| error.to_string())?.elf;
    let Placement::Fixed(start) = elf.placement() else { return Err("the player moves".into()) };
    let layout = elf.at(start).map_err(|error| error.to_string())?;
    Ok(layout.start_data.get()..layout.end_data.get())
}

/// A size of the host's memory, in pages, as /proc/meminfo names it.
fn pages_of(name: &str) -> std::result::Result<u64, Failed> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.ok_or_else(|| format!("no {name}"))?.parse::<u64>()? / 4)
}

/// A VMA as far as its flags tell. Of a file nothing is known, but for the sake of shared memory.
fn vma_of(range: &Range<u64>, flags: &str) -> script::Vma {
    let has = |name: &str| flags.split_whitespace().any(|flag| flag == name);
    let bit = |name: &str, bit: u8| if has(name) { bit } else { 0 };
    let name = match () {
        () if has("gd") => Name::Stack,
        () if has("pf") => Name::Vvar,
        () if has("de") && has("ex") => Name::Vdso,
        () => Name::None,
    };
    let permissions =
        bit("rd", script::Vma::READ) | bit("wr", script::Vma::WRITE) | bit("ex", script::Vma::EXEC);
    let (start, end, inode) = (range.start, range.end, u64::from(has("sh")));
    let flags = permissions | bit("sh", script::Vma::SHARED);
    script::Vma { start, end, offset: 0, inode, flags, name, device: 0 }
}

fn starting_line(at: usize, vma: &script::Vma, flags: VmFlagNames) -> MapLine {
    let name = match vma.name {
        Name::Stack => "[stack]",
        Name::Heap => "[heap]",
        Name::Vdso => "[vdso]",
        Name::Vvar => "[vvar]",
        _ => "",
    };
    let private = !vma.permissions().contains(&b's');
    let written = private && (vma.permissions()[1] == b'w');
    MapLine {
        span: Span { start: VirtAddr::new(vma.start), end: VirtAddr::new(vma.end) },
        permissions: vma.permissions(),
        offset: vma.offset,
        device: (0, u32::from(vma.inode != 0)),
        inode: vma.inode,
        name: name.to_owned(),
        hidden: Hidden {
            flags: Some(flags),
            // The player's root has written to all of its own memory, and forked.
            anon: Some(if written { AnonOrigin::Inherited(at as u64) } else { AnonOrigin::None }),
            pgoff: None,
        },
    }
}

/// When the host gives anonymous memory in each size; none where its kernel has no such files (before 6.8).
fn thp_sizes() -> Vec<OfSize> {
    let of_size = |size: Order| {
        let kib = (size.frames() * PAGE_SIZE) >> 10;
        let file = format!("/sys/kernel/mm/transparent_hugepage/hugepages-{kib}kB/enabled");
        let text = std::fs::read_to_string(file).ok()?;
        let when = text.split_once('[')?.1.split_once(']')?.0;
        format!("{kib}k:{when}").parse().ok()
    };
    OfSize::sizes().filter_map(of_size).collect()
}

/// Whether the host can page out the processes' own pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Swap {
    /// It cannot, as ours cannot.
    None,
    /// It can.
    Some,
}

/// Whether what is resident is told, to be compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Residency {
    /// Where the host's kernel must have the same.
    AsLinux,
    /// Always.
    Told,
    /// Never.
    Untold,
}

/// Whether acts serve a userfaultfd: its faults are a `SIGBUS` then, and do not wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Serving {
    /// They do not.
    No,
    /// They do.
    Yes,
}

/// A swap area of our side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Area {
    /// None.
    None,
    /// There is room for all that acts can touch.
    Roomy,
    /// There is not. What goes is then the same on two machines only where advice says in which order.
    Tight,
}

impl Area {
    /// How many pages it has.
    pub fn pages(self) -> Option<u64> {
        match self {
            Area::None => None,
            Area::Roomy => Some(FRAMES),
            Area::Tight => Some(24),
        }
    }
}
