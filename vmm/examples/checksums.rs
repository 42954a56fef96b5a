//! Gives a running program more memory than its machine has. The pages that leave are kept in a file, each with a
//! checksum that is made at every eviction and compared when the page comes back.
//!
//! ```text
//! cargo run --example checksums LEDGER [DAMAGE]
//! ```
//!
//! LEDGER is the payload of that name, of the crate `guest`. With DAMAGE, one byte of the file is changed behind
//! everybody's back at that eviction: the program gets a SIGBUS instead of wrong bytes.

#![allow(unreachable_pub, reason = "an example is a crate of its own")]

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use mm::addr::{PAGE_SIZE, VirtAddr};
use mm::backing::{PageBytes, PagedMemory, Pager};
use mm::space::SpaceHolder;
use mm::vma::{MapFlags, MapType, Prot};
use support::{Outcome, Program, end};

/// The guest's memory, in bytes.
const MEMORY: u64 = 8 << 20;
/// Where the program finds what it is given.
const ADDRESS: u64 = 0x10_0000_0000;
/// How much that is, in pages: twice the guest's memory.
const PAGES: u64 = 2 * MEMORY / PAGE_SIZE;
/// How often the program goes through it.
const ROUNDS: u64 = 3;

/// Pages in a file, with their checksums.
struct Store {
    file: File,
    /// By the page's offset, of pages that have been in memory.
    checksums: Mutex<BTreeMap<u64, u64>>,
    evictions: AtomicU64,
    compared: AtomicU64,
    /// At which eviction a byte is changed; 0 for none.
    damage: u64,
}

impl Store {
    /// A page, as it was when it left.
    fn fill(&self, offset: u64, page: &mut PageBytes) -> io::Result<()> {
        let expected = self.checksum_at(offset);
        let Some(expected) = expected else { return Ok(()) };
        // Where nothing was ever taken the file ends, or has a hole.
        if offset < self.file.metadata()?.len() {
            self.file.read_exact_at(page, offset)?;
        }
        self.compared.fetch_add(1, Ordering::Relaxed);
        if checksum(page) != expected {
            eprintln!("the page at {offset:#x} has been damaged");
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(())
    }

    /// A page that has been written, about to leave.
    fn take(&self, offset: u64, page: &PageBytes) -> io::Result<()> {
        self.file.write_all_at(page, offset)
    }

    /// Any page that leaves.
    fn watch(&self, offset: u64, page: &PageBytes) {
        let mut checksums = self.checksums.lock().unwrap_or_else(PoisonError::into_inner);
        checksums.insert(offset, checksum(page));
        let evictions = self.evictions.fetch_add(1, Ordering::Relaxed) + 1;
        if evictions == self.damage {
            let changed = self.file.write_all_at(&[!page[9]], offset + 9);
            println!("eviction {evictions}: damaged the page at {offset:#x}: {changed:?}");
        }
    }

    fn checksum_at(&self, offset: u64) -> Option<u64> {
        self.checksums.lock().unwrap_or_else(PoisonError::into_inner).get(&offset).copied()
    }
}

/// FNV-1a, of 64 bits.
fn checksum(page: &PageBytes) -> u64 {
    page.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

fn main() -> ExitCode {
    end(run(&std::env::args().skip(1).collect::<Vec<_>>()))
}

fn run(arguments: &[String]) -> Outcome<ExitCode> {
    let ledger = arguments.first().ok_or("usage: checksums LEDGER [DAMAGE]")?;
    let damage = arguments.get(1).map_or(Ok(0), |number| number.parse())?;
    let words = [ADDRESS, PAGES, ROUNDS].map(|number| number.to_string());
    let program =
        Program::load(&[std::slice::from_ref(ledger), words.as_slice()].concat(), MEMORY)?;

    let file = rustix::fs::memfd_create("pages", rustix::fs::MemfdFlags::CLOEXEC)?;
    let store = Arc::new(Store {
        file: file.into(),
        checksums: Mutex::default(),
        evictions: AtomicU64::new(0),
        compared: AtomicU64::new(0),
        damage,
    });
    let [fill, take, watch] = [(); 3].map(|()| Arc::clone(&store));
    let memory =
        Pager::new("ledger", PAGES * PAGE_SIZE, move |offset, page| fill.fill(offset, page))
            .taking(move |offset, page| take.take(offset, page))
            .watching(move |offset, page| watch.watch(offset, page))
            .open(program.machine.system());

    // The program runs, and waits for its memory, before it is given any.
    let space = program.task.process().space.hold();
    let giver = thread::spawn(move || give(memory, space));
    let status = program.run()?;
    let memory = giver.join().map_err(|_| "the thread that gave memory has panicked")??;
    println!(
        "{} evictions, {} pages compared when they came back; {} are in memory",
        store.evictions.load(Ordering::Relaxed),
        store.compared.load(Ordering::Relaxed),
        memory.in_memory()
    );
    Ok(status)
}

/// Maps the memory in a program that runs.
fn give(memory: PagedMemory, space: SpaceHolder) -> Result<PagedMemory, String> {
    thread::sleep(Duration::from_millis(20));
    let text = |error: &dyn std::fmt::Display| error.to_string();
    // Who changes a space while it runs is one of its users meanwhile.
    if let Some(user) = space.user() {
        let flags = MapFlags::FIXED_NOREPLACE | MapType::Shared.into();
        let at = VirtAddr::new(ADDRESS);
        memory.map(&user, at, Prot::READ | Prot::WRITE, flags).map_err(|error| text(&error))?;
        user.put().map_err(|error| text(&error))?;
    }
    space.put().map_err(|error| text(&error))?;
    Ok(memory)
}
