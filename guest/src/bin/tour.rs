//! A tour of what mmvisor does, for somebody who sees it for the first time: a program asks for
//! memory, uses it, changes it, makes a mistake on purpose and survives it; after each step it shows
//! its address space as the host keeps it. Everything it says is checked.
//!
//! Usage: tour

#![no_std]
#![no_main]
#![deny(unsafe_code)]

use guest::fault::{self, Answer};
use guest::memory::{self, Flags, Move, PAGE, Place, Prot};
use guest::native;
use guest::process::{self, Args};
use guest::{check, check_eq, must, println};

guest::payload!(main);

/// Where the tour's memory is: an address that stands out.
const HOME: u64 = 0x1000_0000_0000;
/// Room for the text of the address space.
const TEXT: usize = 4096;

/// What a region of the address space may be used for: "rw-p" and the like, as maps has it.
struct Region {
    start: u64,
    end: u64,
    prot: &'static str,
}

/// Prints a heading.
fn step(number: u32, heading: &str) {
    println!("\n{number}. {heading}\n");
}

/// Prints the lines of the address space that lie in a range, and checks that they are these.
fn show(from: u64, to: u64, wanted: &[Region]) {
    let mut buffer = [0; TEXT];
    let text = must!(native::maps(&mut buffer));
    let mut wanted = wanted.iter();
    for line in text.lines() {
        let Some((start, end)) = bounds(line) else {
            check::fail(format_args!("a line of maps that is none: {line}"));
        };
        if start < from || end > to {
            continue;
        }
        println!("   {line}");
        let Some(region) = wanted.next() else {
            check::fail(format_args!("one region too many: {line}"));
        };
        check_eq!((start, end), (region.start, region.end), "the bounds of {line}");
        let prot = line.split(' ').nth(1).unwrap_or("");
        check_eq!(prot, region.prot, "the protection of {line}");
    }
    check!(wanted.next().is_none(), "a region is missing");
}

/// Prints the line of the address space that all of a range lies in. (The heap may have grown together
/// with what lies before it.)
fn show_around(from: u64, to: u64) {
    let mut buffer = [0; TEXT];
    let text = must!(native::maps(&mut buffer));
    let around = |line: &&str| bounds(line).is_some_and(|(start, end)| start <= from && to <= end);
    match text.lines().find(around) {
        Some(line) => println!("   {line}"),
        None => check::fail(format_args!("no region holds {from:#x} to {to:#x}")),
    }
}

/// The addresses that a line of maps begins with.
fn bounds(line: &str) -> Option<(u64, u64)> {
    let (start, rest) = line.split_once('-')?;
    let (end, _) = rest.split_once(' ')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?))
}

/// The region of these pages from [`HOME`] on.
const fn pages(first: u64, end: u64, prot: &'static str) -> Region {
    Region { start: HOME + first * PAGE, end: HOME + end * PAGE, prot }
}

fn show_home(wanted: &[Region]) {
    show(HOME, HOME + 64 * PAGE, wanted);
    if wanted.is_empty() {
        println!("   (nothing)");
    }
}

fn start() {
    println!(
        "This program runs in ring {} of a virtual machine that has no kernel.",
        process::ring()
    );
    println!("The host keeps its memory, and answers its system calls.");
    check_eq!(process::ring(), 3, "the ring");
    println!("\nIts address space as it starts:\n");
    let mut buffer = [0; TEXT];
    for line in must!(native::maps(&mut buffer)).lines() {
        println!("   {line}");
    }
}

fn map() {
    step(1, "mmap: eight pages, readable and writable. No memory is spent yet.");
    must!(memory::map(Place::IfFree(HOME), 8 * PAGE, Prot::RW, Flags::OWN));
    show_home(&[pages(0, 8, "rw-p")]);
}

fn touch() {
    step(2, "Touch two of them. Each first touch faults; the host finds a page of zeros for it.");
    for page in [0, 5] {
        let addr = HOME + page * PAGE;
        check_eq!(memory::load(addr), 0, "a fresh page");
        memory::store(addr, 1000 + page);
        println!("   {addr:#x} held 0, now holds {}", memory::load(addr));
        check_eq!(memory::load(addr), 1000 + page, "what was written");
    }
}

fn split() {
    step(3, "mprotect: make the middle read-only. One region becomes three.");
    must!(memory::protect(HOME + 3 * PAGE, 3 * PAGE, Prot::READ));
    show_home(&[pages(0, 3, "rw-p"), pages(3, 6, "r--p"), pages(6, 8, "rw-p")]);
}

fn fault() {
    step(4, "Write there all the same: a fault on purpose, and survived.");
    let addr = HOME + 5 * PAGE;
    match fault::store(addr, 1) {
        Ok(()) => check::fail(format_args!("a read-only page was written")),
        Err(caught) => {
            println!("   caught {}", caught.answer());
            check_eq!(caught.answer(), Answer::denied(addr), "the answer");
        }
    }
    println!("   {addr:#x} still holds {}", memory::load(addr));
    check_eq!(memory::load(addr), 1005, "what the write left");
}

fn merge() {
    step(5, "mprotect: writable again. The three become one.");
    must!(memory::protect(HOME + 3 * PAGE, 3 * PAGE, Prot::RW));
    show_home(&[pages(0, 8, "rw-p")]);
}

fn unmap() {
    step(6, "munmap: a hole of two pages. What was there is gone at once.");
    must!(memory::unmap(HOME + 2 * PAGE, 2 * PAGE));
    show_home(&[pages(0, 2, "rw-p"), pages(4, 8, "rw-p")]);
    let addr = HOME + 2 * PAGE;
    match fault::load(addr) {
        Ok(_) => check::fail(format_args!("a page that was unmapped was read")),
        Err(caught) => {
            println!("   reading it: {}", caught.answer());
            check_eq!(caught.answer(), Answer::unmapped(addr), "the answer");
        }
    }
}

fn grow() {
    step(7, "mremap: the upper part moves, and grows to sixteen pages. Its bytes move along.");
    let to = HOME + 32 * PAGE;
    check_eq!(memory::remap(HOME + 4 * PAGE, 4 * PAGE, 16 * PAGE, Move::To(to)), Ok(to), "mremap");
    show_home(&[pages(0, 2, "rw-p"), pages(32, 48, "rw-p")]);
    println!("   {:#x} holds {}", to + PAGE, memory::load(to + PAGE));
    check_eq!(memory::load(to + PAGE), 1005, "the page that moved");
    check_eq!(memory::load(to + 15 * PAGE), 0, "a page that was added");
}

fn heap() {
    step(8, "brk: the heap grows by three pages.");
    let start = memory::brk(0);
    let end = start + 3 * PAGE;
    check_eq!(memory::brk(end), end, "brk");
    memory::store(end - 8, 42);
    show_around(start, end);
    check_eq!(memory::brk(start), start, "brk back");
}

fn end() {
    step(9, "munmap: everything given back.");
    must!(memory::unmap(HOME, 64 * PAGE));
    show_home(&[]);
}

fn main(_: Args) {
    start();
    map();
    touch();
    split();
    fault();
    merge();
    unmap();
    grow();
    heap();
    end();
    println!("\nThat was the tour: each line above was checked by the program that printed it.");
}
