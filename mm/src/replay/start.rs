//! What a trace begins with when it is recorded from an address space: the starting state, with what no
//! line of /proc/PID/maps shows.

use super::trace::{AnonOrigin, Directive, Hidden, MapLine, Setting, Span, VmFlagNames};
use crate::inspect::{self, MapsLine};
use crate::space::AddressSpace;
use crate::vma::{AnonId, Lineage, Vma};

impl MapLine {
    /// What /proc/PID/maps shows of a VMA, and nothing else.
    #[must_use]
    pub fn of(line: MapsLine) -> Self {
        MapLine {
            span: Span { start: line.range.start(), end: line.range.end() },
            permissions: line.permissions(),
            offset: line.offset,
            device: (line.name.major, line.name.minor),
            inode: line.name.inode,
            name: line.name.path,
            hidden: Hidden::default(),
        }
    }
}

/// The lines that make a replay begin where `space` is now: its VMAs, where placement from the top down
/// begins, and the heap.
#[must_use]
pub fn starting_state(space: &AddressSpace) -> Vec<Directive> {
    let mut families = Vec::new();
    let lines = inspect::maps(space).zip(space.vmas().iter()).map(|(line, vma)| {
        let hidden = hidden(vma, &mut families);
        MapLine { hidden, ..MapLine::of(line) }
    });
    let maps = Directive::Maps { range: None, lines: lines.collect() };
    let layout = space.layout();
    let base = Setting::MmapBase(layout.place.mmap_base);
    let data = Some(Span { start: layout.start_data, end: layout.end_data });
    let brk = Setting::Brk { start: layout.start_brk, current: layout.brk, data };
    vec![maps, Directive::Setting(base), Directive::Setting(brk)]
}

/// The `@maps` line of all VMAs that there are, to be compared.
#[must_use]
pub fn all_vmas(space: &AddressSpace) -> Directive {
    Directive::Maps { range: None, lines: inspect::maps(space).map(MapLine::of).collect() }
}

/// What decides how a VMA merges. `families` are the identities that come from a fork, numbered as they
/// appear.
fn hidden(vma: &Vma, families: &mut Vec<AnonId>) -> Hidden {
    let flags = vma.flags.mnemonics().filter_map(|name| name.as_bytes().try_into().ok());
    let anon = match vma.anon() {
        None => AnonOrigin::None,
        Some(anon) if anon.lineage() == Lineage::Own => AnonOrigin::Own,
        Some(anon) => {
            let known = families.iter().position(|family| *family == anon);
            let index = known.unwrap_or_else(|| {
                families.push(anon);
                families.len() - 1
            });
            AnonOrigin::Inherited(index as u64)
        }
    };
    Hidden { flags: Some(VmFlagNames(flags.collect())), anon: Some(anon), pgoff: Some(vma.pgoff) }
}
