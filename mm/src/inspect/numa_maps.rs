//! `/proc/PID/numa_maps` (Linux's `show_numa_map`, `mpol_to_str` and `gather_stats`).

use std::fmt;

use super::maps::special;
use super::shown::{Shown, ShownPage};
use crate::addr::VirtAddr;
use crate::phys::{Marks, NODES_MOST};
use crate::space::{AddressSpace, PageClass};
use crate::vma::policy::Policy;
use crate::vma::{VmFlags, Vma};

/// What numa_maps says about one VMA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumaLine {
    /// The first address.
    pub start: VirtAddr,
    /// The policy of its first page; `None` for the default one.
    pub policy: Option<Policy>,
    /// What it shows: ` file=PATH`, ` heap`, ` stack`, or nothing.
    pub name: String,
    /// Bytes of its pages.
    pub page_size: u64,
    /// Pages that are there.
    pub pages: u64,
    /// Of these, processes' own.
    pub anon: u64,
    /// Written.
    pub dirty: u64,
    /// With a place in the swap area.
    pub swap_cached: u64,
    /// In use again and again, or locked.
    pub active: u64,
    /// How many entries name the page that most name.
    pub maps_most: u32,
    /// On each node.
    pub nodes: [u64; NODES_MOST as usize],
}

/// What numa_maps says, VMA by VMA, of a process whose task has this policy.
pub fn numa_maps(
    space: &AddressSpace,
    task: Option<Policy>,
) -> impl Iterator<Item = NumaLine> + '_ {
    space.vmas().iter().map(move |vma| NumaLine::of(space, vma, task))
}

impl NumaLine {
    fn of(space: &AddressSpace, vma: &Vma, task: Option<Policy>) -> Self {
        let name = match &vma.backing {
            Some(backing) => format!(" file={}", escaped(&backing.name().path)),
            None => special(space, vma.range()).replace('[', " ").replace(']', ""),
        };
        let start = vma.range().start();
        let mut line = NumaLine {
            start,
            policy: vma.policy_of(start).or(task),
            name,
            page_size: vma.page_size(),
            pages: 0,
            anon: 0,
            dirty: 0,
            swap_cached: 0,
            active: 0,
            maps_most: 0,
            nodes: [0; NODES_MOST as usize],
        };
        space.notice_files(vma.range());
        for seen in space.table().look(vma.range()) {
            if let Shown::Page(page) = Shown::of(space, seen.entry) {
                line.count(space, page, vma.flags);
            }
        }
        line
    }

    fn count(&mut self, space: &AddressSpace, page: ShownPage, flags: VmFlags) {
        let frames = space.system().frames();
        let marks = frames.marks(page.frame);
        self.pages += 1;
        self.anon += u64::from(page.class == PageClass::Own);
        self.dirty += u64::from(page.dirty);
        self.swap_cached += u64::from(marks.contains(Marks::SWAP_CACHED));
        self.active += u64::from(marks.contains(Marks::ACTIVE) || flags.contains(VmFlags::LOCKED));
        self.maps_most = self.maps_most.max(page.maps);
        if let Some(node) = self.nodes.get_mut(usize::from(frames.nodes().of(page.frame))) {
            *node += 1;
        }
    }
}

impl fmt::Display for NumaLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x} {}{}", self.start.get(), PolicyText(self.policy), self.name)?;
        if self.pages == 0 {
            return Ok(());
        }
        let mut number = |name: &str, number: u64, tell: bool| {
            if tell { write!(f, " {name}={number}") } else { Ok(()) }
        };
        number("anon", self.anon, self.anon > 0)?;
        number("dirty", self.dirty, self.dirty > 0)?;
        number("mapped", self.pages, self.pages != self.anon && self.pages != self.dirty)?;
        number("mapmax", self.maps_most.into(), self.maps_most > 1)?;
        number("swapcache", self.swap_cached, self.swap_cached > 0)?;
        number("active", self.active, self.active < self.pages)?;
        for (node, &pages) in self.nodes.iter().enumerate() {
            number(&format!("N{node}"), pages, pages > 0)?;
        }
        number("kernelpagesize_kB", self.page_size >> 10, true)
    }
}

/// A policy as Linux prints it.
#[derive(Clone, Copy, Debug)]
struct PolicyText(Option<Policy>);

impl fmt::Display for PolicyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(policy) = self.0 else { return f.write_str("default") };
        f.write_str(policy.mode.name())?;
        let flags: Vec<&str> = policy.flag_names().collect();
        if !flags.is_empty() {
            write!(f, "={}", flags.join("|"))?;
        }
        if policy.nodes != 0 {
            write!(f, ":{}", ranges(policy.nodes))?;
        }
        Ok(())
    }
}

/// A path whose blanks and equality signs are octal numbers (`seq_path`).
fn escaped(path: &str) -> String {
    path.chars().fold(String::new(), |mut text, letter| {
        match letter {
            '\n' | '\t' | '=' | ' ' => text.push_str(&format!("\\{:03o}", letter as u32)),
            _ => text.push(letter),
        }
        text
    })
}

/// A mask as a list of ranges: `0-2,5` (`%*pbl`).
fn ranges(mask: u64) -> String {
    let (mut parts, mut left) = (Vec::new(), mask);
    while left != 0 {
        let first = left.trailing_zeros();
        let count = (left >> first).trailing_ones();
        let last = first + count - 1;
        parts.push(if count == 1 { first.to_string() } else { format!("{first}-{last}") });
        left = left.checked_shr(last + 1).map_or(0, |rest| rest << last << 1);
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PAGE_SIZE;
    use crate::numa;
    use crate::replay::SoftwareMachine;
    use crate::space::MapRequest;
    use crate::vma::limits::Limits;
    use crate::vma::{MapFlags, Prot};

    #[test]
    fn blanks_of_paths_are_octal() {
        assert_eq!(escaped("/a=b (deleted)"), r"/a\075b\040(deleted)");
    }

    #[test]
    fn masks_are_ranges() {
        let all = [1, 0b1011, !0, 1 << 63 | 0b110].map(ranges);
        assert_eq!(all, ["0", "0-1,3", "0-63", "1-2,63"]);
    }

    #[test]
    fn policies_read_as_linux_prints_them() {
        let text = |mode, nodes| PolicyText(Policy::new(mode, nodes, 0xf).unwrap()).to_string();
        assert_eq!(text(0, 0), "default");
        assert_eq!(text(2 | 1 << 15, 0b11), "bind=static:0-1");
        assert_eq!(text(2 | 1 << 13, 1), "bind=balancing:0");
        assert_eq!(text(2 | 1 << 13 | 1 << 15, 1), "bind=static|balancing:0");
        assert_eq!(text(1 | 1 << 14, 1), "prefer=relative:0");
        assert_eq!(text(3, 0b101), "interleave:0,2");
        assert_eq!(text(4, 0), "local");
        assert_eq!(text(5, 1), "prefer (many):0");
        assert_eq!(text(6, 1), "weighted interleave:0");
    }

    #[test]
    fn a_line_counts_pages_by_node() {
        numa::enter(None, 0);
        let m = SoftwareMachine::with_nodes(1024, 2, Limits::default()).unwrap();
        let at = VirtAddr::new(1 << 32);
        let rw = Prot::READ | Prot::WRITE;
        let request = MapRequest::anonymous(at, 8 * PAGE_SIZE, rw, MapFlags::FIXED);
        m.space.change().mmap(&request).unwrap();
        m.space.change().mbind(at.offset(4 * PAGE_SIZE), 4 * PAGE_SIZE, 2, 0b10, 0).unwrap();
        m.space.change().mbind(at, PAGE_SIZE, 3, 0b11, 0).unwrap();
        (0..3).for_each(|i| m.store(at.offset((i + 3) * PAGE_SIZE), 1).unwrap());
        let _child = m.space.change().fork(crate::space::Vcpus::Stopped).unwrap();
        m.space.change().mlock2(at.offset(5 * PAGE_SIZE), PAGE_SIZE, 0).unwrap();
        let text: Vec<String> = {
            let space = m.space.look();
            numa_maps(&space, Policy::new(4, 0, 3).unwrap()).map(|line| line.to_string()).collect()
        };
        assert_eq!(
            text,
            [
                "100000000 interleave:0-1",
                "100001000 local anon=1 dirty=1 mapmax=2 active=0 N0=1 kernelpagesize_kB=4",
                "100004000 bind:1 anon=1 dirty=1 mapmax=2 active=0 N1=1 kernelpagesize_kB=4",
                "100005000 bind:1 anon=1 dirty=1 N1=1 kernelpagesize_kB=4",
                "100006000 bind:1",
            ]
        );
    }
}
