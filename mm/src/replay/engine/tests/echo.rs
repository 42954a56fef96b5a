//! An executor that answers every call as the trace has it, and does nothing.

use std::convert::Infallible;

use crate::addr::VirtAddr;
use crate::error::Errno;
use crate::paging::AccessKind;
use crate::replay::calls::{FileCall, MemoryCall, Outcome};
use crate::replay::engine::*;
use crate::replay::trace::{MapLine, Rss, Setting, Touched, VmFlagNames};

#[derive(Debug)]
pub(super) struct Echo;

type Never<T> = Result<Reply<T>, Infallible>;

impl Executor for Echo {
    type Error = Infallible;

    fn create(&mut self, _: Task) -> Result<(), Infallible> {
        Ok(())
    }

    fn import(&mut self, _: Task, _: &[MapLine]) -> Result<(), Infallible> {
        Ok(())
    }

    fn spawn(&mut self, _: Task, _: Task, _: Cloned) -> Result<(), Infallible> {
        Ok(())
    }

    fn exec(&mut self, _: Task, _: Program<'_>) -> Never<()> {
        Ok(Reply::Unsupported)
    }

    fn exit(&mut self, _: Task) -> Result<(), Infallible> {
        Ok(())
    }

    fn call(&mut self, _: Task, _: &MemoryCall, recorded: Outcome) -> Never<Answer> {
        let result = match recorded {
            Outcome::Value(value) => Ok(value),
            Outcome::Failed(errno) => Err(errno),
            Outcome::Unknown => return Ok(Reply::Unsupported),
        };
        Ok(Reply::Is(Answer { result, output: Output::None }))
    }

    fn file(&mut self, _: Task, _: &FileCall, _: u64) -> Never<()> {
        Ok(Reply::Is(()))
    }

    fn configure(&mut self, _: Task, _: &Setting) -> Never<()> {
        Ok(Reply::Is(()))
    }

    fn touch(&mut self, _: Task, _: VirtAddr, _: AccessKind) -> Never<Touched> {
        Ok(Reply::Unsupported)
    }

    fn store(&mut self, _: Task, _: VirtAddr, _: u8) -> Never<Touched> {
        Ok(Reply::Unsupported)
    }

    fn load(&mut self, _: Task, _: VirtAddr) -> Never<Result<u8, Touched>> {
        Ok(Reply::Unsupported)
    }

    fn maps(&mut self, _: Task) -> Never<Vec<MapLine>> {
        Ok(Reply::Unsupported)
    }

    fn vm_flags(&mut self, _: Task, _: VirtAddr) -> Never<Option<VmFlagNames>> {
        Ok(Reply::Unsupported)
    }

    fn resident(&mut self, _: Task, _: VirtAddr, _: u64) -> Never<Result<Vec<u8>, Errno>> {
        Ok(Reply::Unsupported)
    }

    fn rss(&mut self, _: Task) -> Never<Rss> {
        Ok(Reply::Unsupported)
    }
}
