//! All that a program, or the rest of the machine, can tell of an address space, to be compared.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::*;
use crate::paging::{Access, Owner};
use crate::vma::account::Account;
use crate::vma::{AnonId, Lineage};

/// One VMA. Objects and identities are numbered as they first appear, since a call that fails may have
/// used up a number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct VmaView {
    pub(super) range: PageRange,
    pub(super) attributes: String,
    pub(super) pgoff: u64,
    pub(super) anon: Option<(usize, Lineage)>,
}

/// One page's entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PageView {
    pub(super) entry: String,
    pub(super) bytes: u64,
    /// It holds what it would if it were not there: zeros, or the backing's own bytes.
    pub(super) plain: bool,
}

/// An address space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Snapshot {
    pub(super) vmas: Vec<VmaView>,
    pub(super) pages: BTreeMap<VirtAddr, PageView>,
    pub(super) account: Account,
    pub(super) modes: String,
    pub(super) brk: VirtAddr,
    pub(super) committed: u64,
    /// Frames in use for pages, on the whole machine.
    pub(super) frames: u64,
    /// Nodes of the reverse map, on the whole machine.
    pub(super) nodes: usize,
}

/// Numbers things as they first appear.
struct Numbers<T>(Vec<T>);

impl<T: PartialEq> Numbers<T> {
    fn of(&mut self, thing: T) -> usize {
        self.0.iter().position(|seen| *seen == thing).unwrap_or_else(|| {
            self.0.push(thing);
            self.0.len() - 1
        })
    }
}

impl Snapshot {
    pub(super) fn of(space: &AddressSpace) -> Self {
        let mut objects = Numbers(Vec::new());
        let mut families = Numbers(Vec::new());
        let vmas = space.vmas().iter().map(|vma| {
            let backing = vma.backing.as_ref();
            let object = backing.map(|backing| objects.of(Arc::as_ptr(backing).cast::<()>()));
            let anon: Option<AnonId> = vma.anon();
            VmaView {
                range: vma.range(),
                attributes: format!(
                    "{:?} object {object:?} policy {:?} name {:?} uffd {}",
                    vma.flags,
                    vma.policy(),
                    vma.name(),
                    vma.userfault().is_some()
                ),
                pgoff: vma.pgoff,
                anon: anon.map(|id| (families.of(id), id.lineage())),
            }
        });
        Snapshot {
            vmas: vmas.collect(),
            pages: pages_of(space),
            account: *space.account(),
            modes: format!("{:?}", space.modes()),
            brk: space.layout().brk,
            committed: space.system().committed(),
            frames: space.system().frames().stats().pages - unknown(space),
            nodes: space.system().anon().nodes(),
        }
    }

    /// Without the identities of anonymous memory.
    pub(super) fn without_identities(&self) -> Self {
        let mut bare = self.clone();
        bare.vmas.iter_mut().for_each(|vma| vma.anon = None);
        bare.nodes = 0;
        bare
    }

    /// Without what depends on which pages happen to be there: only those remain that hold something.
    pub(super) fn without_residency(&self) -> Self {
        let mut bare = self.clone();
        bare.pages.retain(|_, page| !page.plain);
        bare.frames = 0;
        bare.account.peak = 0;
        bare
    }

    /// What can be said of each page by itself: the VMA's attributes, and the entry.
    pub(super) fn by_page(&self) -> BTreeMap<VirtAddr, (&str, Option<&PageView>)> {
        let mut all = BTreeMap::new();
        for vma in &self.vmas {
            for i in 0..vma.range.pages() {
                let at = vma.range.start().offset(i * PAGE_SIZE);
                all.insert(at, (vma.attributes.as_str(), self.pages.get(&at)));
            }
        }
        all
    }
}

fn pages_of(space: &AddressSpace) -> BTreeMap<VirtAddr, PageView> {
    let all = PageRange::new(VirtAddr::ZERO, VirtAddr::TASK_END).unwrap();
    let memory = space.system().memory();
    let zeros = hash(std::iter::repeat_n(0, 512));
    space
        .table()
        .look(all)
        .filter(|leaf| !leaf.entry.is_unseen())
        .map(|leaf| {
            let entry = leaf.entry;
            let words = entry.frame().map(|frame| memory.words(frame));
            let bytes = words
                .map_or(0, |words| hash(words.iter().map(|word| word.load(Ordering::Relaxed))));
            let touched = (entry.is_referenced(), entry.is_dirty(), entry.is_guard());
            // Whether the process's own page can be written at once or with a fault does not show.
            let access = match entry.owner() {
                Owner::Process => entry.access().difference(Access::WRITE),
                Owner::Backing => entry.access(),
            };
            // What came ahead of a touch, and was only read, is the page of zeros to all who look.
            let owner = if is_only_ahead(entry) { Owner::Backing } else { entry.owner() };
            let view = PageView {
                entry: format!("{owner:?} {access:?} {touched:?}"),
                bytes,
                plain: !entry.is_guard() && (bytes == zeros || owner == Owner::Backing),
            };
            (leaf.addr, view)
        })
        .collect()
}

/// How many frames are there for pages that nobody can know of: they come and go.
fn unknown(space: &AddressSpace) -> u64 {
    let all = PageRange::new(VirtAddr::ZERO, VirtAddr::TASK_END).unwrap();
    let entries = space.table().cursor(all).map(|leaf| leaf.entry);
    entries.filter(|&entry| is_only_ahead(entry) && entry.owner() == Owner::Process).count() as u64
}

/// Whether a page has not been written since it came ahead of a touch.
fn is_only_ahead(entry: Entry) -> bool {
    entry.is_ahead() && !entry.is_dirty()
}

fn hash(words: impl Iterator<Item = u64>) -> u64 {
    let mut hasher = DefaultHasher::new();
    words.for_each(|word| word.hash(&mut hasher));
    hasher.finish()
}
