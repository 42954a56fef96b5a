//! An executor of pages and permissions only: no VMAs, no merging. Enough to test the engine.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;

use crate::addr::{PAGE_SIZE, VirtAddr, page_align};
use crate::error::Errno;
use crate::paging::AccessKind;
use crate::replay::calls::{FileCall, Limit, MemoryCall, Outcome};
use crate::replay::engine::*;
use crate::replay::trace::{MapLine, Rss, Setting, Span, Touched, VmFlagNames};

/// Pages by address: permissions, and the byte that a store left.
#[derive(Clone, Debug, Default)]
struct Pages {
    pages: BTreeMap<u64, (u64, u8)>,
    brk: u64,
}

/// The executor. New mappings are placed downwards from `top`.
#[derive(Debug)]
pub(super) struct Fake {
    top: u64,
    heap: u64,
    /// Where a program from a file is put; without it, no file can be loaded.
    program: Option<u64>,
    spaces: BTreeMap<Task, Rc<RefCell<Pages>>>,
    /// What it was told, in words.
    pub(super) log: Vec<String>,
}

impl Fake {
    pub(super) fn new() -> Self {
        Fake {
            top: 0x7000_0000,
            heap: 0x10_0000,
            program: None,
            spaces: BTreeMap::new(),
            log: vec![],
        }
    }

    /// One that can load programs, there.
    pub(super) fn loading_at(program: u64) -> Self {
        Fake { program: Some(program), ..Fake::new() }
    }

    fn space(&self, task: Task) -> Rc<RefCell<Pages>> {
        Rc::clone(&self.spaces[&task])
    }

    fn fresh(&self) -> Rc<RefCell<Pages>> {
        Rc::new(RefCell::new(Pages { pages: BTreeMap::new(), brk: self.heap }))
    }

    fn is_mapped(&self, task: Task, addr: u64) -> bool {
        self.space(task).borrow().pages.contains_key(&(addr & !(PAGE_SIZE - 1)))
    }
}

fn pages(addr: u64, len: u64) -> impl Iterator<Item = u64> {
    (addr..addr + page_align(len).unwrap()).step_by(usize::try_from(PAGE_SIZE).unwrap())
}

impl Pages {
    fn is_free(&self, addr: u64, len: u64) -> bool {
        pages(addr, len).all(|page| !self.pages.contains_key(&page))
    }

    fn place(&self, top: u64, len: u64) -> u64 {
        let len = page_align(len).unwrap();
        let mut at = top - len;
        while !self.is_free(at, len) {
            at -= PAGE_SIZE;
        }
        at
    }

    fn fill(&mut self, addr: u64, len: u64, prot: u64) {
        self.pages.extend(pages(addr, len).map(|page| (page, (prot, 0))));
    }

    fn clear(&mut self, addr: u64, len: u64) {
        for page in pages(addr, len) {
            self.pages.remove(&page);
        }
    }

    fn call(&mut self, call: &MemoryCall, top: u64, heap: u64) -> Option<Result<u64, Errno>> {
        use MemoryCall as M;
        Some(match *call {
            M::Mmap { len: 0, .. } => Err(Errno::EINVAL),
            M::Mmap { addr, len, prot, flags, .. } => {
                let at = addr.get();
                let fixed = flags & 0x10_0010 != 0;
                if flags & 0x10_0000 != 0 && !self.is_free(at, len) {
                    return Some(Err(Errno::EEXIST));
                }
                let at = if fixed { at } else { self.place(top, len) };
                self.fill(at, len, prot);
                Ok(at)
            }
            M::Munmap { addr, .. } if !addr.is_page_aligned() => Err(Errno::EINVAL),
            M::Munmap { addr, len } => {
                self.clear(addr.get(), len);
                Ok(0)
            }
            M::Mprotect { addr, len, prot } => {
                for page in pages(addr.get(), len) {
                    match self.pages.get_mut(&page) {
                        Some(page) => page.0 = prot,
                        None => return Some(Err(Errno::ENOMEM)),
                    }
                }
                Ok(0)
            }
            M::Mremap { addr, old_len, new_len, flags, new_addr } => {
                let Some((prot, _)) = self.pages.get(&addr.get()).copied() else {
                    return Some(Err(Errno::EFAULT));
                };
                self.clear(addr.get(), old_len);
                let at = if flags & 2 != 0 { new_addr.get() } else { self.place(top, new_len) };
                self.fill(at, new_len, prot);
                Ok(at)
            }
            M::Brk { addr } => {
                if addr.get() > heap {
                    self.clear(heap, self.brk - heap);
                    self.fill(heap, addr.get() - heap, 3);
                    self.brk = addr.get();
                }
                Ok(self.brk)
            }
            M::Mincore { .. } | M::Getrlimit { .. } => Ok(0),
            _ => return None,
        })
    }

    fn access(&self, addr: u64, kind: AccessKind) -> Touched {
        let bit = match kind {
            AccessKind::Read => 1,
            AccessKind::Write => 2,
            AccessKind::Execute => 4,
        };
        match self.pages.get(&(addr & !(PAGE_SIZE - 1))) {
            None => Touched::MapErr,
            Some((prot, _)) if prot & bit == 0 => Touched::AccErr,
            Some(_) => Touched::Done,
        }
    }
}

impl Executor for Fake {
    type Error = Infallible;

    fn create(&mut self, task: Task) -> Result<(), Infallible> {
        self.log.push(format!("create {}", task.0));
        self.spaces.insert(task, self.fresh());
        Ok(())
    }

    fn import(&mut self, task: Task, maps: &[MapLine]) -> Result<(), Infallible> {
        self.log.push(format!("import {} lines into {}", maps.len(), task.0));
        let space = self.space(task);
        space.borrow_mut().pages.clear();
        for line in maps {
            let start = line.span.start.get();
            space.borrow_mut().fill(start, line.span.end.get() - start, 3);
        }
        Ok(())
    }

    fn spawn(&mut self, parent: Task, child: Task, cloned: Cloned) -> Result<(), Infallible> {
        self.log.push(format!("{} spawns {}, {:?}", parent.0, child.0, cloned.space));
        let space = match cloned.space {
            Sharing::Shared => self.space(parent),
            Sharing::Copied => Rc::new(RefCell::new(self.space(parent).borrow().clone())),
        };
        self.spaces.insert(child, space);
        Ok(())
    }

    fn exec(&mut self, task: Task, program: Program<'_>) -> Result<Reply<()>, Infallible> {
        self.spaces.insert(task, self.fresh());
        match (program, self.program) {
            (Program::Mapped(maps), _) => {
                self.log.push(format!("{} executes {} lines", task.0, maps.len()));
                self.import(task, maps)?;
            }
            (Program::File { path, .. }, Some(at)) => {
                let path = String::from_utf8_lossy(&path.bytes).into_owned();
                self.log.push(format!("{} executes {path}", task.0));
                self.space(task).borrow_mut().fill(at, 4 * PAGE_SIZE, 3);
            }
            (Program::File { .. }, None) => return Ok(Reply::Unsupported),
        }
        Ok(Reply::Is(()))
    }

    fn exit(&mut self, task: Task) -> Result<(), Infallible> {
        self.log.push(format!("exit {}", task.0));
        self.spaces.remove(&task);
        Ok(())
    }

    fn call(
        &mut self,
        task: Task,
        call: &MemoryCall,
        _recorded: Outcome,
    ) -> Result<Reply<Answer>, Infallible> {
        let (top, heap) = (self.top, self.heap);
        let result = self.space(task).borrow_mut().call(call, top, heap);
        let output = match call {
            MemoryCall::Mincore { len, .. } => {
                Output::Resident(pages(0, *len).map(|_| 0xff).collect())
            }
            MemoryCall::Getrlimit { .. } => {
                Output::Limit(Limit { current: 8 << 20, maximum: u64::MAX })
            }
            _ => Output::None,
        };
        let reply = result.map(|result| Reply::Is(Answer { result, output }));
        Ok(reply.unwrap_or(Reply::Unsupported))
    }

    fn file(&mut self, task: Task, call: &FileCall, fd: u64) -> Result<Reply<()>, Infallible> {
        self.log.push(format!("{}: {call:?} = {fd}", task.0));
        Ok(Reply::Is(()))
    }

    fn configure(&mut self, _: Task, setting: &Setting) -> Result<Reply<()>, Infallible> {
        self.log.push(setting.to_string());
        Ok(Reply::Is(()))
    }

    fn touch(
        &mut self,
        task: Task,
        addr: VirtAddr,
        kind: AccessKind,
    ) -> Result<Reply<Touched>, Infallible> {
        Ok(Reply::Is(self.space(task).borrow().access(addr.get(), kind)))
    }

    fn store(&mut self, task: Task, at: VirtAddr, byte: u8) -> Result<Reply<Touched>, Infallible> {
        let space = self.space(task);
        let touched = space.borrow().access(at.get(), AccessKind::Write);
        if let Some(page) = space.borrow_mut().pages.get_mut(&at.page_floor().get()) {
            page.1 = byte;
        }
        Ok(Reply::Is(touched))
    }

    fn load(&mut self, task: Task, at: VirtAddr) -> Result<Reply<Result<u8, Touched>>, Infallible> {
        let space = self.space(task);
        let page = space.borrow().pages.get(&at.page_floor().get()).copied();
        Ok(Reply::Is(page.map(|(_, byte)| byte).ok_or(Touched::MapErr)))
    }

    fn maps(&mut self, task: Task) -> Result<Reply<Vec<MapLine>>, Infallible> {
        let space = self.space(task);
        let pages = space.borrow();
        let lines = pages.pages.iter().map(|(&page, _)| MapLine {
            span: Span { start: VirtAddr::new(page), end: VirtAddr::new(page + PAGE_SIZE) },
            permissions: *b"rw-p",
            offset: 0,
            device: (0, 0),
            inode: 0,
            name: String::new(),
            hidden: Default::default(),
        });

        Ok(Reply::Is(lines.collect()))
    }

    fn vm_flags(
        &mut self,
        task: Task,
        addr: VirtAddr,
    ) -> Result<Reply<Option<VmFlagNames>>, Infallible> {
        let flags = VmFlagNames(vec![*b"rd", *b"wr", *b"sd"]);
        Ok(Reply::Is(self.is_mapped(task, addr.get()).then_some(flags)))
    }

    fn resident(
        &mut self,
        _: Task,
        _: VirtAddr,
        _: u64,
    ) -> Result<Reply<Result<Vec<u8>, Errno>>, Infallible> {
        Ok(Reply::Unsupported)
    }

    fn rss(&mut self, _: Task) -> Result<Reply<Rss>, Infallible> {
        Ok(Reply::Is(Rss { anon: Some(3), ..Rss::default() }))
    }
}
