//! `--stats`: what a run counted, for people and as JSON.

use std::fmt::Write;
use std::time::Duration;

use mm::khugepaged::KhugepagedStats;
use mm::ksm::KsmStats;
use mm::reclaim::Reclaimed;
use mm::space::{PageClass, SpaceUser};
use mm::swap::SwapStats;
use serde::Serialize;

use crate::hypercall::name;
use crate::kvm::FlushCounts;
use crate::machine::Machine;
use crate::task::{Stats, Totals};

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// What a run counted. Times are in microseconds, memory in pages of 4 KiB.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    kvm: String,
    processes: u64,
    exits: Exits,
    calls: Vec<CallRow>,
    faults: Faults,
    pages: Pages,
    given_up: GivenUp,
    khugepaged: KhugepagedRow,
    ksm: KsmRow,
    /// None without a swap area.
    swap: Option<Swap>,
    flushes: FlushCounts,
    /// None where no page was brought in.
    per_mib: Option<PerMebibyte>,
    time_us: Times,
}

/// What each MiB of pages took that were brought in.
#[derive(Debug, Serialize)]
struct PerMebibyte {
    page_faults: f64,
    flushes: f64,
}

impl PerMebibyte {
    fn of(exits: &Exits, faults: &Faults, flushes: &FlushCounts) -> Option<Self> {
        let made = faults.copied + faults.handed_off;
        let pages = faults.zero + faults.backed + made + faults.swapped + faults.around;
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53")]
        let per_mib = |count: u64| count as f64 * (PAGES_OF_MEBIBYTE / pages as f64);
        (pages > 0).then(|| PerMebibyte {
            page_faults: per_mib(exits.page_faults),
            flushes: per_mib(flushes.notifier + flushes.write_protection + flushes.dummy_slot),
        })
    }
}

/// Of 4 KiB.
const PAGES_OF_MEBIBYTE: f64 = 256.0;

#[derive(Debug, Serialize)]
struct Exits {
    calls: u64,
    page_faults: u64,
    exceptions: u64,
    interrupts: u64,
}

#[derive(Debug, Serialize)]
struct CallRow {
    name: String,
    count: u64,
    errors: u64,
    time_us: u64,
}

#[derive(Debug, Serialize)]
struct Faults {
    zero: u64,
    backed: u64,
    copied: u64,
    handed_off: u64,
    swapped: u64,
    spurious: u64,
    stack_growth: u64,
    around: u64,
}

#[derive(Debug, Serialize)]
struct Pages {
    resident: u64,
    own: u64,
    of_files: u64,
    of_shared_memory: u64,
    resident_peak: u64,
    tables: u64,
    frames_peak: u64,
    taken_from_host: u64,
    released_to_host: u64,
}

/// What was given up for want of memory, in frames.
#[derive(Debug, Serialize)]
struct GivenUp {
    ahead: u64,
    tables: u64,
    lazy: u64,
    /// Of windows on files of the host.
    windows: u64,
    /// Pages swapped out.
    swapped: u64,
}

/// Huge pages made of small ones.
#[derive(Debug, Serialize)]
struct KhugepagedRow {
    collapsed: u64,
    full_scans: u64,
}

impl From<KhugepagedStats> for KhugepagedRow {
    fn from(KhugepagedStats { collapsed, full_scans }: KhugepagedStats) -> Self {
        KhugepagedRow { collapsed, full_scans }
    }
}

/// Pages merged with equal ones, as /sys/kernel/mm/ksm tells it.
#[derive(Debug, Serialize)]
struct KsmRow {
    pages_shared: u64,
    pages_sharing: u64,
    pages_merged: u64,
    stable_node_chains: u64,
    stable_node_dups: u64,
    pages_unshared: u64,
    pages_volatile: u64,
    pages_scanned: u64,
    full_scans: u64,
}

impl From<KsmStats> for KsmRow {
    fn from(stats: KsmStats) -> Self {
        let KsmStats { shared, sharing, merged, chains, dups, .. } = stats;
        let KsmStats { unshared, volatile, scanned, full_scans, .. } = stats;
        KsmRow {
            pages_shared: shared,
            pages_sharing: sharing,
            pages_merged: merged,
            stable_node_chains: chains,
            stable_node_dups: dups,
            pages_unshared: unshared,
            pages_volatile: volatile,
            pages_scanned: scanned,
            full_scans,
        }
    }
}

/// The swap area, in pages.
#[derive(Debug, Serialize)]
struct Swap {
    total: u64,
    used: u64,
    written: u64,
    read: u64,
}

impl From<SwapStats> for Swap {
    fn from(SwapStats { total, used, cached: _, written, read }: SwapStats) -> Self {
        Swap { total, used, written, read }
    }
}

impl From<Reclaimed> for GivenUp {
    fn from(given_up: Reclaimed) -> Self {
        // Pagers are for those who use the library.
        let Reclaimed { ahead, tables, lazy, windows, swapped, paged: _ } = given_up;
        GivenUp { ahead, tables, lazy, windows, swapped }
    }
}

#[derive(Debug, Serialize)]
struct Times {
    guest: u64,
    calls: u64,
    faults: u64,
}

impl Report {
    /// What the first process, whose memory and counts are given, and those that ended before it came to.
    pub(super) fn new(
        machine: &Machine,
        space: &SpaceUser,
        first: &Stats,
        others: &Totals,
    ) -> Self {
        let mut totals = others.faults;
        totals.add(space);
        let mut stats = others.stats.clone();
        stats.add(first);
        let space = space.look();
        let resident = &space.counters().resident;
        let frames = machine.system().frames().stats();
        let mut calls: Vec<CallRow> = stats
            .calls
            .iter()
            .map(|(&number, call)| CallRow {
                name: name(number).map_or_else(|| format!("{number:#x}"), str::to_owned),
                count: call.count,
                errors: call.errors,
                time_us: micros(call.time),
            })
            .collect();
        calls.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.name.cmp(&b.name)));
        let exits = Exits {
            calls: stats.exits.calls,
            page_faults: stats.exits.page_faults,
            exceptions: stats.exits.exceptions,
            interrupts: stats.exits.interrupts,
        };
        let faults = Faults {
            zero: totals.zero,
            backed: totals.backed,
            copied: totals.copied,
            handed_off: totals.handed_off,
            swapped: totals.swapped,
            spurious: totals.spurious,
            stack_growth: totals.stack_growth,
            around: totals.around,
        };
        let flushes = machine.sink().counts();
        Report {
            kvm: machine.kind().to_string(),
            processes: others.processes,
            per_mib: PerMebibyte::of(&exits, &faults, &flushes),
            exits,
            calls,
            faults,
            pages: Pages {
                resident: resident.total(),
                own: resident.own(),
                of_files: resident.of(PageClass::File),
                of_shared_memory: resident.of(PageClass::Shared),
                resident_peak: totals.resident_peak,
                tables: space.table().table_frames(),
                frames_peak: frames.peak,
                taken_from_host: frames.taken,
                released_to_host: frames.released,
            },
            given_up: machine.system().reclaimed().into(),
            khugepaged: machine.system().khugepaged_stats().into(),
            ksm: machine.system().ksm_stats().into(),
            swap: machine.system().swap().map(|swap| swap.stats().into()),
            flushes,
            time_us: Times {
                guest: micros(stats.guest_time),
                calls: micros(stats.call_time()),
                faults: micros(stats.fault_time),
            },
        }
    }

    pub(super) fn print(&self, format: Format) -> String {
        match format {
            Format::Text => self.text(),
            Format::Json => serde_json::to_string(self).unwrap_or_else(|error| error.to_string()),
        }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        let mut row = |label: &str, text: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{label:<10} {text}");
        };
        let Report { exits, faults, pages, given_up, flushes, time_us, .. } = self;
        row("kvm", self.kvm.clone());
        row("processes", self.processes.to_string());
        row(
            "exits",
            format!(
                "{} calls, {} page faults, {} exceptions, {} interrupts",
                exits.calls, exits.page_faults, exits.exceptions, exits.interrupts
            ),
        );
        row(
            "faults",
            format!(
                "{} zero, {} backed, {} copied, {} handed off, {} from swap, {} spurious, {} stack growth; \
                 {} pages around",
                faults.zero,
                faults.backed,
                faults.copied,
                faults.handed_off,
                faults.swapped,
                faults.spurious,
                faults.stack_growth,
                faults.around
            ),
        );
        row(
            "pages",
            format!(
                "{} resident ({} own, {} of files, {} of shared memory; {} at most), {} of tables; \
                 {} frames at most, {} taken from the host, {} given back",
                pages.resident,
                pages.own,
                pages.of_files,
                pages.of_shared_memory,
                pages.resident_peak,
                pages.tables,
                pages.frames_peak,
                pages.taken_from_host,
                pages.released_to_host
            ),
        );
        let GivenUp { ahead, tables, lazy, windows, swapped } = given_up;
        if ahead + tables + lazy + windows > 0 {
            row(
                "given up",
                format!(
                    "for want of memory: {ahead} pages ahead of a touch, {tables} tables, {lazy} lazily \
                     freed pages, {windows} of files"
                ),
            );
        }
        if let Some(Swap { total, used, written, read }) = &self.swap {
            row(
                "swap",
                format!(
                    "{used} of {total} pages in use; {swapped} swapped out, {written} written, {read} read"
                ),
            );
        }
        let KhugepagedRow { collapsed, full_scans } = self.khugepaged;
        if collapsed > 0 {
            row("khugepaged", format!("{collapsed} huge pages made in {full_scans} full scans"));
        }
        let KsmRow { pages_shared, pages_sharing, pages_merged, pages_scanned, full_scans, .. } =
            self.ksm;
        if pages_scanned > 0 {
            row(
                "ksm",
                format!(
                    "{pages_merged} pages merged, {pages_shared} stand for {} in the end; {pages_scanned} looked at in \
                     {full_scans} full scans",
                    pages_shared + pages_sharing
                ),
            );
        }
        row(
            "flushes",
            format!(
                "{} by notifier ({} runs, {} frames, {} waits, {} spared), {} by write protection, \
                 {} by dummy slot, {} fallbacks",
                flushes.notifier,
                flushes.notifier_runs,
                flushes.notifier_frames,
                flushes.graces,
                flushes.graces_spared,
                flushes.write_protection,
                flushes.dummy_slot,
                flushes.fallbacks
            ),
        );
        if let Some(PerMebibyte { page_faults, flushes }) = &self.per_mib {
            row("a MiB", format!("{page_faults:.1} page faults, {flushes:.2} flushes"));
        }
        row(
            "time",
            format!(
                "{} us in KVM_RUN, {} us in calls, {} us in faults",
                time_us.guest, time_us.calls, time_us.faults
            ),
        );
        for call in &self.calls {
            let CallRow { name, count, errors, time_us } = call;
            row("call", format!("{name:<16} {count:>8} ({errors} errors) {time_us:>8} us"));
        }
        out.truncate(out.trim_end().len());
        out
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
