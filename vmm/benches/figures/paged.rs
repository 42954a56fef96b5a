//! What a page costs that a closure gives, against one of a file of the host that is mapped: a program reads a byte of
//! each, in order. The closure copies it out of memory, for one page a fault, or for several where that was asked for; of
//! the file, which is in the host's page cache, a fault brings in many.

use std::fs::File;
use std::sync::Arc;

use mm::addr::PAGE_BYTES;
use mm::backing::Pager;
use mm::phys::FileAccess;

use crate::program::{self, DATA_BYTES};
use crate::rounds::{Outcome, Pair, Spent, alternate};
use crate::subject::Subject;

/// Pages that are read.
pub(crate) const PAGES: u64 = program::TOUCHES_IN_ORDER;

/// By closure, so many pages a fault, against by file; and in how many faults the last round of each was.
pub(crate) fn measure(rounds: u32, ahead: u64) -> Outcome<(Pair, [u64; 2])> {
    let file = Arc::new(program::in_memory(&program::read_in_order())?);
    let bytes = Arc::new(vec![1; usize::try_from(DATA_BYTES)?]);
    let data = program::in_memory(&bytes)?;
    let mut faults = [0; 2];
    let [by_file, by_closure] = &mut faults;
    let pair = alternate(
        rounds,
        || of_file(&file, &data, by_file),
        || of_closure(&file, &bytes, ahead, by_closure),
    )?;
    Ok((pair, faults))
}

fn of_file(program: &Arc<File>, data: &File, faults: &mut u64) -> Outcome<Spent> {
    let subject = Subject::start(program)?;
    let system = subject.machine().system();
    let data = data.try_clone()?;
    subject.map(system.open_file(data, FileAccess::Read, "/data".to_owned())?)?;
    read(subject, faults)
}

fn of_closure(
    program: &Arc<File>,
    bytes: &Arc<Vec<u8>>,
    ahead: u64,
    faults: &mut u64,
) -> Outcome<Spent> {
    let subject = Subject::start(program)?;
    let bytes = Arc::clone(bytes);
    let pager = Pager::new("data", DATA_BYTES, move |offset, page| {
        let at = usize::try_from(offset).map_err(std::io::Error::other)?;
        page.copy_from_slice(&bytes[at..at + PAGE_BYTES]);
        Ok(())
    });
    let memory = pager.ahead(ahead).open(subject.machine().system());
    subject.map(memory.backing())?;
    read(subject, faults)
}

/// Lets the program read everything between its first and its second call.
fn read(mut subject: Subject, faults: &mut u64) -> Outcome<Spent> {
    subject.run_calls(1)?;
    let before = subject.page_faults();
    let spent = Spent::on(|| subject.run_calls(1))?;
    *faults = subject.page_faults() - before;
    Ok(spent)
}
