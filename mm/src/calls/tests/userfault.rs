//! The ioctls of a userfaultfd: which argument is looked at first, and what is written where.

use super::*;
use crate::userfault::{Accessor, Asked, Event, Features, GivenUp, Handler, Waiting};
use std::sync::Mutex;

/// Notes what it is told, and who is woken. Who waits does not.
#[derive(Clone, Debug, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn add(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

struct Woken;

impl Waiting for Woken {
    fn wait(self: Box<Self>, _: Accessor) -> Result<(), GivenUp> {
        Err(GivenUp)
    }
}

impl Handler for Notes {
    fn ask(&self, asked: Asked, _: Features) -> Box<dyn Waiting> {
        self.add(format!("{:?} {:?} {}", asked.reason, asked.kind, asked.addr));
        Box::new(Woken)
    }

    fn wake(&self, range: crate::addr::PageRange) {
        self.add(format!("wake {}+{}", range.start(), range.pages()));
    }

    fn tell(&self, event: Event) -> Box<dyn Waiting> {
        self.add(match event {
            Event::Fork(_) => "fork".to_owned(),
            other => format!("{other:?}"),
        });
        Box::new(Woken)
    }

    fn of_child(&self) -> Result<Arc<dyn Handler>, Errno> {
        Ok(Arc::new(Notes::default()))
    }

    fn set_space(&self, _: crate::space::SpaceHolder) {}
}

impl Process {
    fn ioctl(&self, uffd: &Arc<Userfault>, request: u64, at: u64) -> Result<u64, Errno> {
        let open = OpenUserfault { uffd, space: Some(self.space()) };
        match userfault_ioctl(self, open, request, VirtAddr::new(at)) {
            Ok(value) => Ok(value),
            Err(CallError::Errno(errno)) => Err(errno),
            Err(CallError::Broken(broken)) => panic!("{broken}"),
        }
    }

    /// A userfaultfd with these features.
    fn uffd(&self, features: Features) -> (Arc<Userfault>, Notes) {
        let notes = Notes::default();
        let uffd = Arc::new(Userfault::new(Served::All, Arc::new(notes.clone())));
        let at = self.put(SCRATCH, &[0xaa, features.bits(), 0]);
        assert_eq!(self.ioctl(&uffd, UFFDIO_API, at), Ok(0));
        (uffd, notes)
    }

    fn register(&self, uffd: &Arc<Userfault>, pages: u64, mode: u64) {
        let at = self.put(SCRATCH, &[BASE, pages * PAGE_SIZE, mode, 0]);
        assert_eq!(self.ioctl(uffd, UFFDIO_REGISTER, at), Ok(0));
    }

    /// An ioctl that says how much it has done: the argument's words before that, its answer, and what it has done.
    fn fill(
        &self,
        uffd: &Arc<Userfault>,
        request: u64,
        words: &[u64],
    ) -> (Result<u64, Errno>, u64) {
        let all: Vec<u64> = words.iter().copied().chain([77]).collect();
        let at = self.put(SCRATCH + 256, &all);
        let answer = self.ioctl(uffd, request, at);
        (answer, self.words::<8>(at)[words.len()])
    }
}

fn errno(errno: Errno) -> u64 {
    i64::from(-(errno as i32)).cast_unsigned()
}

#[test]
fn a_userfaultfd_registers_once_features_are_agreed_on() {
    let p = Process::new();
    p.map(BASE, 2);
    assert_eq!(p.call(libc::SYS_userfaultfd, [2]), Err(Errno::EINVAL));
    assert_eq!(p.call(libc::SYS_userfaultfd, [1]), Ok(3));
    let uffd = Arc::clone(&p.uffds.borrow()[&3]);
    let ioctl = |request, at| p.ioctl(&uffd, request, at);
    let (api, register, unregister) = (0xc018_aa3f, 0xc020_aa00, 0x8010_aa01);
    let range = p.put(SCRATCH + 64, &[BASE, PAGE_SIZE, 1, 0]);
    assert_eq!(ioctl(register, range), Err(Errno::EINVAL), "before UFFDIO_API");
    let wrong = p.put(SCRATCH, &[0xab, 0, 7]);
    assert_eq!(ioctl(api, wrong), Err(Errno::EINVAL));
    assert_eq!(p.words(SCRATCH), [0; 3]);
    let right = p.put(SCRATCH, &[0xaa, 0, 0]);
    assert_eq!(ioctl(api, right), Ok(0));
    assert_eq!(p.words(SCRATCH), [0xaa, 0x1_fdef, 0x8000_0000_0000_0003]);
    assert_eq!(ioctl(api, p.put(SCRATCH, &[0xaa, 0, 0])), Err(Errno::EINVAL), "a second time");
    assert_eq!(ioctl(register, BAD), Err(Errno::EFAULT));
    assert_eq!(ioctl(register, range), Ok(0));
    assert_eq!(p.words(SCRATCH + 64), [BASE, PAGE_SIZE, 1, 0x13c]);
    assert!(p.flags(BASE).contains(VmFlags::UFFD_MISSING));
    assert!(!p.flags(BASE + PAGE_SIZE).contains(VmFlags::UFFD_MISSING));
    assert_eq!(ioctl(unregister, range), Ok(0));
    assert!(!p.flags(BASE).contains(VmFlags::UFFD_MISSING));
}

#[test]
fn a_missing_page_is_told_and_comes_as_who_serves_it_says() {
    let p = Process::new();
    p.map(BASE, 4);
    let (uffd, notes) = p.uffd(Features::empty());
    p.register(&uffd, 4, 1);
    let at = |page: u64| VirtAddr::new(BASE + page * PAGE_SIZE);
    // A signal came while it waited: it will fault again.
    p.space().fault(at(0).offset(5), crate::paging::AccessKind::Write).unwrap();
    assert_eq!(notes.take(), [format!("Missing Write {}", at(0).offset(5))]);
    assert!(p.space().read(at(1), &mut [0]).is_err(), "a call that gives up");
    assert_eq!(notes.take(), [format!("Missing Read {}", at(1))]);
    let bytes = p.put(SCRATCH + 1024, &[7; 600]);
    let copied = p.fill(&uffd, UFFDIO_COPY, &[BASE, bytes, PAGE_SIZE, 0]);
    assert_eq!(copied, (Ok(0), PAGE_SIZE));
    assert_eq!(notes.take(), [format!("wake {}+1", at(0))]);
    assert_eq!(p.words::<2>(BASE + 8), [7, 7]);
    // Nobody is woken, and nothing is put over what is there.
    let zeros = p.fill(&uffd, UFFDIO_ZEROPAGE, &[BASE + PAGE_SIZE, PAGE_SIZE, 1]);
    assert_eq!(zeros, (Ok(0), PAGE_SIZE));
    let again = p.fill(&uffd, UFFDIO_ZEROPAGE, &[BASE, 4 * PAGE_SIZE, 0]);
    assert_eq!(again, (Err(Errno::EEXIST), errno(Errno::EEXIST)));
    let some = p.fill(&uffd, UFFDIO_COPY, &[BASE + 2 * PAGE_SIZE, BAD - PAGE_SIZE, PAGE_SIZE, 0]);
    assert_eq!(some, (Err(Errno::EFAULT), errno(Errno::EFAULT)));
    assert_eq!(notes.take(), [] as [&str; 0]);
    crate::inspect::audit(&p.space().look()).unwrap();
}

#[test]
fn a_copy_that_stops_says_how_much_there_is_and_wakes_for_that() {
    let p = Process::new();
    p.map(BASE, 4);
    let (uffd, notes) = p.uffd(Features::empty());
    p.register(&uffd, 4, 1);
    let one = p.fill(&uffd, UFFDIO_ZEROPAGE, &[BASE + 2 * PAGE_SIZE, PAGE_SIZE, 1]);
    assert_eq!(one, (Ok(0), PAGE_SIZE));
    let copied = p.fill(&uffd, UFFDIO_ZEROPAGE, &[BASE, 4 * PAGE_SIZE, 0]);
    assert_eq!(copied, (Err(Errno::EAGAIN), 2 * PAGE_SIZE));
    assert_eq!(notes.take(), [format!("wake {}+2", VirtAddr::new(BASE))]);
    let nowhere = p.fill(&uffd, UFFDIO_ZEROPAGE, &[BASE + 3 * PAGE_SIZE, 2 * PAGE_SIZE, 0]);
    assert_eq!(nowhere, (Err(Errno::ENOENT), errno(Errno::ENOENT)));
    let ended = OpenUserfault { uffd: &uffd, space: None };
    let at = p.put(SCRATCH, &[BASE, PAGE_SIZE, 0, 0]);
    for (request, errno) in [
        (UFFDIO_REGISTER, Errno::ENOMEM),
        (UFFDIO_UNREGISTER, Errno::ENOMEM),
        (UFFDIO_ZEROPAGE, Errno::ESRCH),
        (UFFDIO_WRITEPROTECT, Errno::ESRCH),
    ] {
        let answer = userfault_ioctl(&p, ended, request, VirtAddr::new(at));
        assert!(matches!(answer, Err(CallError::Errno(other)) if other == errno), "{answer:?}");
    }
}

#[test]
fn events_are_told_once_the_memory_is_as_they_say() {
    let p = Process::new();
    p.map(BASE, 8);
    let all = Features::EVENT_REMAP | Features::EVENT_REMOVE | Features::EVENT_UNMAP;
    let (uffd, notes) = p.uffd(all | Features::EVENT_FORK);
    p.register(&uffd, 8, 1);
    assert_eq!(p.call(libc::SYS_madvise, [BASE, 2 * PAGE_SIZE, 4]), Ok(0));
    assert_eq!(p.call(libc::SYS_munmap, [BASE + 2 * PAGE_SIZE, PAGE_SIZE]), Ok(0));
    let (from, to) = (BASE + 4 * PAGE_SIZE, BASE + 16 * PAGE_SIZE);
    assert_eq!(p.call(libc::SYS_mremap, [from, PAGE_SIZE, PAGE_SIZE, 3, to]), Ok(to));
    let heads: Vec<String> =
        notes.take().iter().map(|told| told.split('(').next().unwrap_or("").to_owned()).collect();
    assert_eq!(heads, ["Remove", "Unmap", "Remap", "Unmap"]);
    assert!(p.flags(to).contains(VmFlags::UFFD_MISSING), "what was moved is watched as before");
    let child = p.space().change().fork(crate::space::Vcpus::Running).unwrap();
    let watched = child.vmas().find_exact(VirtAddr::new(BASE)).unwrap();
    let own = Arc::clone(watched.userfault().unwrap());
    assert!(watched.flags.contains(VmFlags::UFFD_MISSING) && !Arc::ptr_eq(&own, &uffd));
    let child = crate::space::SpaceUser::new(child);
    assert_eq!(notes.take(), ["fork"]);
    crate::inspect::audit(&child.look()).unwrap();
    child.put().unwrap();
    // Without features none of it.
    p.map(BASE, 8);
    let (plain, quiet) = p.uffd(Features::empty());
    p.register(&plain, 8, 1);
    assert_eq!(p.call(libc::SYS_mremap, [BASE, PAGE_SIZE, PAGE_SIZE, 3, to]), Ok(to));
    assert!(!p.flags(to).contains(VmFlags::UFFD_MISSING));
    let child = p.space().change().fork(crate::space::Vcpus::Running).unwrap();
    assert!(
        child.vmas().find_exact(VirtAddr::new(BASE + PAGE_SIZE)).unwrap().userfault().is_none()
    );
    child.exit().unwrap();
    assert_eq!(quiet.take(), [] as [&str; 0]);
}
