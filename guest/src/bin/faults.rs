//! Every kind of access to every kind of page, each answered with the signal, si_code and address
//! that Linux gives.
//!
//! ```text
//!   pages   anonymous, heap, stack, and the image's constants, code, data and bss
//!   prot    all eight of PROT_READ, PROT_WRITE, PROT_EXEC
//!   state   never touched before; present and then changed from each prot to each (a translation
//!           that outlives its permission shows here); unmapped, moved away
//!   access  read, write, execute; across a page's end
//!   places  where nothing is ever mapped: page 0, holes, the end of the user half, the kernel
//!           half, non-canonical addresses, below the stack's limit
//! ```
//!
//! Usage: faults

#![no_std]
#![no_main]

use guest::fault::{self, Answer, Caught};
use guest::memory::{self, Ceded, Flags, Move, PAGE, Place, Prot};
use guest::process::Args;
use guest::{abi, check, check_eq, eprintln, must, println};

guest::payload!(main);

/// How an address is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Access {
    Read,
    Write,
    Execute,
}

const ACCESSES: [Access; 3] = [Access::Read, Access::Write, Access::Execute];
/// How many combinations of PROT_READ, PROT_WRITE and PROT_EXEC there are.
const PROTS: u64 = 8;
/// A page for each prot and access.
const FRESH_PAGES: u64 = PROTS * ACCESSES.len() as u64;
/// Those, and one for the changes between prots.
const PAGES: usize = 25;
const _: () = assert!(PAGES as u64 == FRESH_PAGES + 1);

/// Eight RET instructions: what a page begins with that may be executed.
const RETS: u64 = 0xc3c3_c3c3_c3c3_c3c3;

#[unsafe(link_section = ".rodata.ceded")]
static CONSTANTS: Ceded<PAGES> = Ceded::tagged(RETS, 0x1000);
#[unsafe(link_section = ".text.ceded")]
static CODE: Ceded<PAGES> = Ceded::tagged(RETS, 0x2000);
static DATA: Ceded<PAGES> = Ceded::tagged(RETS, 0x3000);
static BSS: Ceded<PAGES> = Ceded::zeros();

/// What a page holds before anyone wrote to it.
#[derive(Clone, Copy)]
enum Content {
    Zeros,
    /// [`RETS`], and in the last word this tag plus the page's number.
    Tagged(u64),
}

/// A run of [`PAGES`] pages to try.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    start: u64,
    content: Content,
}

/// What was tried so far.
#[derive(Default)]
struct Tally {
    accesses: u64,
    wrong: u64,
}

/// Wrong answers that are printed; the rest are counted.
const LINES: u64 = 20;

impl Tally {
    /// Makes an access and compares the answer; `wanted` is None where the access succeeds.
    fn expect(
        &mut self,
        access: Access,
        addr: u64,
        wanted: Option<Answer>,
        what: core::fmt::Arguments<'_>,
    ) {
        let came = attempt(access, addr).err();
        self.accesses += 1;
        let entry_ok = came.is_none_or(|caught| error_code_fits(&caught, access));
        if came.map(|caught| caught.answer()) == wanted && entry_ok {
            return;
        }
        self.wrong += 1;
        if self.wrong <= LINES {
            eprintln!("faults: {what}: {access:?} at {addr:#x}: {came:?}, not {wanted:?}");
        }
    }
}

fn attempt(access: Access, addr: u64) -> Result<(), Caught> {
    match access {
        Access::Read => fault::read(addr).map(drop),
        Access::Write => fault::write(addr),
        // SAFETY: every page tried holds zeros or begins with RETs, at 8-byte boundaries.
        Access::Execute => unsafe { fault::execute(addr) },
    }
}

/// Whether a page fault's error code says the access that was made: bit 1 a write, bit 2 from user
/// mode, bit 4 an instruction fetch (Intel SDM volume 3, 5.7).
fn error_code_fits(caught: &Caught, access: Access) -> bool {
    let wanted = match access {
        Access::Read => 0b0_0100,
        Access::Write => 0b0_0110,
        Access::Execute => 0b1_0100,
    };
    let general_protection = caught.code == fault::SI_KERNEL;
    general_protection || caught.error & 0b1_0110 == wanted
}

/// What Linux answers for a mapped page. On x86 without protection keys a page that may be written
/// or executed may be read.
fn mapped(prot: Prot, access: Access, addr: u64) -> Option<Answer> {
    let allowed = match access {
        Access::Read => !prot.is_empty(),
        Access::Write => prot.contains(Prot::WRITE),
        Access::Execute => prot.contains(Prot::EXEC),
    };
    if allowed { None } else { Some(Answer::denied(addr)) }
}

fn prots() -> impl Iterator<Item = Prot> {
    (0..PROTS).map(Prot::from_bits_retain)
}

/// Each prot and access on a page that nobody touched before, which must hold what it is to hold.
fn first_touch(tally: &mut Tally, kind: Kind) {
    let mut page = 0;
    for prot in prots() {
        for access in ACCESSES {
            let addr = kind.start + page * PAGE;
            must!(memory::protect(addr, PAGE, prot));
            tally.expect(
                access,
                addr,
                mapped(prot, access, addr),
                format_args!("first touch, {}, {prot:?}", kind.name),
            );
            must!(memory::protect(addr, PAGE, Prot::READ));
            let (first, last) = match kind.content {
                Content::Zeros => (0, 0),
                Content::Tagged(tag) => (RETS, tag + page),
            };
            check_eq!(memory::load(addr), first, "{} page {page}, first word", kind.name);
            check_eq!(memory::load(addr + PAGE - 8), last, "{} page {page}, last word", kind.name);
            page += 1;
        }
    }
}

/// Each change of prot under a page that is present and was just used, and each access after it:
/// what was taken away is gone at once, and the bytes stay.
fn changes(tally: &mut Tally, kind: Kind) {
    let addr = kind.start + FRESH_PAGES * PAGE;
    let mut stamp = RETS;
    for before in prots() {
        for after in prots() {
            for access in ACCESSES {
                stamp = stamp.wrapping_add(1 << 32);
                must!(memory::protect(addr, PAGE, Prot::RW));
                memory::store(addr, stamp);
                must!(memory::protect(addr, PAGE, before));
                for used in ACCESSES {
                    let _ = attempt(used, addr);
                }
                must!(memory::protect(addr, PAGE, after));
                let what = format_args!("present, {}, {before:?} to {after:?}", kind.name);
                tally.expect(access, addr, mapped(after, access, addr), what);
                must!(memory::protect(addr, PAGE, Prot::READ));
                check_eq!(memory::load(addr), stamp, "{} after {before:?} to {after:?}", kind.name);
            }
        }
    }
}

/// Pages that were present and are mapped no more.
fn unmapped(tally: &mut Tally) {
    for access in ACCESSES {
        let addr = must!(memory::map(Place::Anywhere, 3 * PAGE, Prot::RWX, Flags::OWN));
        for page in 0..3 {
            memory::store(addr + page * PAGE, RETS);
        }
        let middle = addr + PAGE;
        must!(memory::unmap(middle, PAGE));
        tally.expect(access, middle, Some(Answer::unmapped(middle)), format_args!("unmapped"));
        check_eq!(memory::load(addr), RETS, "the page below the unmapped one");
        check_eq!(memory::load(middle + PAGE), RETS, "the page above the unmapped one");

        must!(memory::map(Place::IfFree(middle), PAGE, Prot::RWX, Flags::OWN));
        tally.expect(access, middle, None, format_args!("mapped again"));
        check_eq!(memory::load(middle), 0, "a page that was unmapped and mapped again");

        let moved = must!(memory::remap(addr, PAGE, 4 * PAGE, Move::Allowed));
        check!(moved != addr, "a mapping grew over its neighbour");
        tally.expect(access, addr, Some(Answer::unmapped(addr)), format_args!("moved away"));
        check_eq!(memory::load(moved), RETS, "the moved page");
        tally.expect(access, moved, None, format_args!("moved here"));
        must!(memory::unmap(moved, 4 * PAGE));
        must!(memory::unmap(middle, 2 * PAGE));
    }
}

/// An access of eight bytes with four on each side of a page's end: the address is that of the first
/// byte that may not be accessed.
fn crossing(tally: &mut Tally) {
    let addr = must!(memory::map(Place::Anywhere, 2 * PAGE, Prot::RW, Flags::OWN));
    let second = addr + PAGE;
    let mut expect = |came: Option<Caught>, wanted: Option<Answer>, what: &str| {
        tally.accesses += 1;
        if came.map(|caught| caught.answer()) != wanted {
            tally.wrong += 1;
            eprintln!("faults: {what}: {came:?}, not {wanted:?}");
        }
    };
    let across = second - 4;
    expect(fault::store(across, RETS).err(), None, "store across two pages");
    must!(memory::protect(second, PAGE, Prot::READ));
    expect(fault::load(across).err(), None, "load across into a read-only page");
    expect(
        fault::store(across, 1).err(),
        Some(Answer::denied(second)),
        "store across into a read-only page",
    );
    check_eq!(memory::load(across), RETS, "what a store that faulted left");
    must!(memory::protect(second, PAGE, Prot::empty()));
    expect(fault::load(across).err(), Some(Answer::denied(second)), "load across into PROT_NONE");
    must!(memory::unmap(second, PAGE));
    expect(fault::load(across).err(), Some(Answer::unmapped(second)), "load across into a hole");
    must!(memory::protect(addr, PAGE, Prot::READ));
    expect(
        fault::store(across, 1).err(),
        Some(Answer::denied(across)),
        "store across from a read-only page",
    );
    must!(memory::unmap(addr, PAGE));
}

/// Addresses where nothing is ever mapped.
fn nowhere(tally: &mut Tally) {
    let hole = must!(memory::map(Place::Anywhere, PAGE, Prot::empty(), Flags::OWN));
    must!(memory::unmap(hole, PAGE));
    let unmapped = [
        0,
        16,
        PAGE - 8,
        0x1_0000,
        0x3f_f000,
        hole,
        memory::TASK_SIZE,
        (1 << 47) - 8,
        0xffff_8000_0000_0000,
        0xffff_8880_0000_0000,
        abi::ENTRY_PAGE,
        abi::ENTRY_PAGE + 14 * abi::ENTRY_STRIDE,
        abi::GDT_PAGE,
        abi::IDT_PAGE,
        abi::VCPU_BASE,
        abi::VCPU_BASE + PAGE,
        abi::KERNEL_BASE - PAGE,
        0xffff_ffff_ffff_f000,
    ];
    for addr in unmapped {
        for access in ACCESSES {
            tally.expect(access, addr, Some(Answer::unmapped(addr)), format_args!("never mapped"));
        }
    }
    // The stub may have to be readable to the program (on KVMs that run it at CPL 3), never writable.
    let stub = abi::STUB_PAGE;
    tally.expect(Access::Write, stub, Some(Answer::unmapped(stub)), format_args!("the stub page"));

    for addr in [1 << 47, 0x1234_5678_9abc_def0, 0xffff_7fff_ffff_fff8, 0x8000_0000_0000_0000] {
        for access in ACCESSES {
            tally.expect(access, addr, Some(Answer::protection()), format_args!("non-canonical"));
        }
    }
}

/// Linux's default RLIMIT_STACK, which is mmvisor's too.
const STACK_LIMIT: u64 = 8 << 20;

/// How far the stack is grown for [`PAGES`] of its pages, in bytes below the stack pointer.
const STACK_DEPTH: u64 = 1 << 20;

/// Pages of the stack, far below what is in use.
fn stack(tally: &mut Tally) -> u64 {
    let deep = (memory::stack_pointer() - STACK_DEPTH) & !(PAGE - 1);
    tally.expect(Access::Read, deep, None, format_args!("the stack grows"));
    let below = deep + STACK_DEPTH - STACK_LIMIT - (1 << 20);
    for access in ACCESSES {
        tally.expect(
            access,
            below,
            Some(Answer::unmapped(below)),
            format_args!("below the stack's limit"),
        );
    }
    // The page touched stays out: it is present already.
    deep + PAGE
}

fn heap() -> u64 {
    let start = (memory::brk(0) + PAGE - 1) & !(PAGE - 1);
    let end = start + PAGES as u64 * PAGE;
    check_eq!(memory::brk(end), end, "brk to {PAGES} pages");
    start
}

fn main(_: Args) {
    let mut tally = Tally::default();
    let zeros = |name, start| Kind { name, start, content: Content::Zeros };
    let tagged = |name, start, tag| Kind { name, start, content: Content::Tagged(tag) };
    let mut both = |kind| {
        first_touch(&mut tally, kind);
        changes(&mut tally, kind);
    };

    let length = PAGES as u64 * PAGE;
    both(zeros("anonymous", must!(memory::map(Place::Anywhere, length, Prot::RW, Flags::OWN))));
    both(zeros("heap", heap()));
    both(tagged("constants", CONSTANTS.cede(), 0x1000));
    both(tagged("code", CODE.cede(), 0x2000));
    both(tagged("data", DATA.cede(), 0x3000));
    both(zeros("bss", BSS.cede()));
    let stack = stack(&mut tally);
    first_touch(&mut tally, zeros("stack", stack));
    changes(&mut tally, zeros("stack", stack));

    unmapped(&mut tally);
    crossing(&mut tally);
    nowhere(&mut tally);

    check_eq!(tally.wrong, 0, "wrong answers of {} accesses", tally.accesses);
    println!("faults: {} accesses, each answered as Linux does", tally.accesses);
}
