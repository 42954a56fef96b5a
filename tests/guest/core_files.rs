//! Core files: the host's kernel writes one of the same program, and both are compared, segment by segment and note by note.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use libtest_mimic::{Completion, Failed, Trial};
use object::Endianness::Little;
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::common::{self, MMVISOR, c_program, kvm_unusable};

const LIMIT: Duration = Duration::from_secs(60);
/// Where the program's first page is, and where the memory begins that it maps itself.
const FIRST: u64 = 0x40_0000;
const FIXED: u64 = 0x1000_0000;
/// Behind what lies at the same place natively.
const END: u64 = 0x2000_0000;
const NT_X86_XSAVE_LAYOUT: u32 = 0x205;

/// The trials.
pub fn trials() -> Vec<Trial> {
    let trial = |name: &str, judge: fn() -> Result<Completion, Failed>| {
        Trial::ignorable_test(name, move || match kvm_unusable() {
            Some(why) => Ok(Completion::ignored_with(why)),
            None => judge(),
        })
    };
    vec![
        trial("kvm::core-files", as_natively),
        trial("kvm::core-files-of-what-is-killed-in-a-call", in_a_call),
        trial("kvm::core-files-that-are-not-written", refused),
    ]
}

/// A core file, read.
struct Core {
    segments: Vec<Segment>,
    notes: BTreeMap<u32, Vec<u8>>,
}

#[derive(PartialEq, Eq)]
struct Segment {
    /// Start, length in memory, length in the file, rights.
    header: (u64, u64, u64, u32),
    bytes: Vec<u8>,
}

impl Core {
    fn parse(file: &[u8]) -> Result<Core, Failed> {
        let header = FileHeader64::parse(file)?;
        let endian = header.endian()?;
        assert_eq!((endian, header.e_type(endian)), (Little, elf::ET_CORE));
        let mut core = Core { segments: Vec::new(), notes: BTreeMap::new() };
        for program in header.program_headers(endian, file)? {
            if let Some(mut notes) = program.notes(endian, file)? {
                while let Some(note) = notes.next()? {
                    core.notes.insert(note.n_type(endian).0, note.desc().to_vec());
                }
            }
            if program.p_type(endian) == elf::PT_LOAD {
                let sizes = (program.p_memsz(endian), program.p_filesz(endian));
                let (start, flags) = (program.p_vaddr(endian), program.p_flags(endian).0);
                let bytes = program.data(endian, file).map_err(|()| "a segment is cut off")?;
                let header = (start, sizes.0, sizes.1, flags);
                core.segments.push(Segment { header, bytes: bytes.to_vec() });
            }
        }
        Ok(core)
    }

    fn note(&self, kind: u32) -> &[u8] {
        self.notes.get(&kind).unwrap_or_else(|| panic!("there is no note {kind:#x}"))
    }

    /// What is at the same place natively.
    fn compared(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.header.0 < END)
    }

    /// What is mapped from files, there.
    fn files(&self) -> Vec<([u64; 3], String)> {
        let note = self.note(elf::NT_FILE.0);
        let words = words(note);
        let count = usize::try_from(words[0]).unwrap();
        assert_eq!(words[1], 4096);
        let names = &note[16 + 24 * count..];
        assert_eq!(names.last(), Some(&0));
        let names = names[..names.len() - 1].split(|&byte| byte == 0);
        let places = words[2..].chunks_exact(3).map(|place| place.try_into().unwrap());
        let files = places.zip(names.map(|name| String::from_utf8_lossy(name).into_owned()));
        files.filter(|(place, _): &([u64; 3], _)| place[0] < END).collect()
    }

    /// Bytes of the register `number` among the upper halves of the YMM registers.
    fn upper(&self, number: usize) -> Option<&[u8]> {
        let components = self.note(NT_X86_XSAVE_LAYOUT).chunks_exact(16);
        let half = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap()) as usize;
        let avx = components.into_iter().find(|component| half(&component[..4]) == 2)?;
        let at = half(&avx[8..12]) + number * 16;
        Some(&self.note(elf::NT_X86_XSTATE.0)[at..at + 16])
    }
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
}

/// An empty directory, and a file to map in it.
fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("core-{name}"));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("file"), [b"#!/bin/sh\n".as_slice(), &[b'f'; 9000]].concat()).unwrap();
    directory
}

/// The program, built once: a file that is replaced while it runs has no name any more.
fn program() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| c_program("core", "gcc", &["-static", "-no-pie", "-fno-pie"]))
}

/// Runs it in a directory; gives what it said, and the core file if there is one.
fn ran(command: &mut Command, directory: &Path) -> (String, Option<Vec<u8>>) {
    let ran = common::run(command.current_dir(directory), b"", LIMIT);
    assert!(ran.status == Some(0) && !ran.left_behind, "{ran:?}");
    let name = |entry: &fs::DirEntry| entry.file_name().into_string().unwrap();
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let mut entries: Vec<_> = entries.filter(|entry| name(entry) != "file").collect();
    assert!(entries.len() <= 1, "{entries:?}");
    let core = entries.pop().map(|entry| fs::read(entry.path()).unwrap());
    (String::from_utf8(ran.stdout).unwrap(), core)
}

fn in_a_guest(how: [&str; 2], directory: &Path, core: &[&str]) -> (String, Option<Vec<u8>>) {
    let mut command = Command::new(MMVISOR);
    command.args(["run", "--machine=kvm"]).args(core);
    command.arg(format!("--dir={}", directory.display()));
    command.arg(program()).args(how).arg(directory.join("file"));
    ran(&mut command, directory)
}

fn natively(how: [&str; 2], directory: &Path) -> (String, Option<Vec<u8>>) {
    let mut command = Command::new("setarch");
    command.arg("-R").arg(program()).args(how).arg(directory.join("file"));
    ran(&mut command, directory)
}

/// Why the host's kernel writes no core files beside the program.
fn no_native_ones() -> Option<&'static str> {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let hard = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_CORE);
    let is_unlimited = hard.is_ok_and(|(_, hard)| hard == nix::libc::RLIM_INFINITY);
    (pattern.trim() != "core" || !is_unlimited)
        .then_some("the host writes no core files by the name core")
}

/// One of the guest's and one of the host's.
fn both(how: [&str; 2], name: &str) -> Result<[Core; 2], Failed> {
    let directory = directory(name);
    let (said, theirs) = natively(how, &directory);
    let theirs = theirs.ok_or("the host has written no core file")?;
    fs::remove_dir_all(&directory)?;
    let directory = self::directory(name);
    let (says, ours) = in_a_guest(how, &directory, &["--core=core"]);
    assert_eq!(says, said);
    Ok([Core::parse(&ours.ok_or("there is no core file")?)?, Core::parse(&theirs)?])
}

fn as_natively() -> Result<Completion, Failed> {
    if let Some(why) = no_native_ones() {
        return Ok(Completion::ignored_with(why));
    }
    // As by default; everything; nothing; what others may change; what is private.
    for filter in ["0x33", "0x7f", "0", "0x0a", "0x05", "0x10"] {
        let [ours, theirs] = both([filter, "fault"], "natively")?;
        let headers = |core: &Core| core.compared().map(|part| part.header).collect::<Vec<_>>();
        assert_eq!(headers(&ours), headers(&theirs), "with {filter}");
        for (ours, theirs) in ours.compared().zip(theirs.compared()) {
            // The program's own data have addresses in them, and the heap what was read of /proc.
            let at = theirs.header.0;
            let is_its_own = at != FIRST && at < FIXED;
            assert!(is_its_own || ours.bytes == theirs.bytes, "{at:x} with {filter}");
        }
        check_notes(&ours, &theirs);
    }
    Ok(Completion::Completed)
}

fn check_notes(ours: &Core, theirs: &Core) {
    let same = |kind: u32, parts: &[std::ops::Range<usize>]| {
        let (ours, theirs) = (ours.note(kind), theirs.note(kind));
        for part in parts {
            assert_eq!(ours[part.clone()], theirs[part.clone()], "{kind:#x} {part:?}");
        }
    };
    assert!(ours.notes.keys().eq(theirs.notes.keys()));
    // But for numbers of processes, times, and the bases of segments.
    same(elf::NT_PRSTATUS.0, &[0..32, 112..112 + 21 * 8, 112 + 22 * 8..336]);
    // But for pr_flag and numbers of processes.
    same(elf::NT_PRPSINFO.0, &[0..8, 16..24, 40..136]);
    assert_eq!(ours.note(elf::NT_SIGINFO.0), theirs.note(elf::NT_SIGINFO.0));
    assert_eq!(ours.files(), theirs.files());
    // Control words, the x87 stack, XMM5.
    same(elf::NT_PRFPREG.0, &[0..6, 24..32, 32..160, 240..256]);
    assert_eq!(ours.upper(9), theirs.upper(9));
    let auxv = |core: &Core, key: u64| {
        let words = words(core.note(elf::NT_AUXV.0));
        words.chunks_exact(2).find(|pair| pair[0] == key).map(|pair| pair[1])
    };
    for key in [elf_key::PHDR, elf_key::PAGE_SIZE, elf_key::ENTRY, 0] {
        assert!(auxv(ours, key).is_some());
        assert_eq!(auxv(ours, key), auxv(theirs, key));
    }
}

/// Keys of the auxiliary vector.
mod elf_key {
    pub const PHDR: u64 = nix::libc::AT_PHDR;
    pub const PAGE_SIZE: u64 = nix::libc::AT_PAGESZ;
    pub const ENTRY: u64 = nix::libc::AT_ENTRY;
}

fn in_a_call() -> Result<Completion, Failed> {
    if let Some(why) = no_native_ones() {
        return Ok(Completion::ignored_with(why));
    }
    for how in ["call", "wait"] {
        let [ours, theirs] = both(["0x33", how], how)?;
        let known = |core: &Core| {
            let status = words(core.note(elf::NT_PRSTATUS.0));
            // The signals; rax, orig_rax, rip, CS.
            [2, 3, 24, 29, 30, 31].map(|word| status[word])
        };
        assert_eq!(known(&ours), known(&theirs), "{how}");
        let what = |core: &Core| core.note(elf::NT_SIGINFO.0)[..12].to_vec();
        assert_eq!(what(&ours), what(&theirs));
    }
    Ok(Completion::Completed)
}

fn refused() -> Result<Completion, Failed> {
    // Not by the limit, not as the process has asked, and not where nobody has asked for any.
    for (how, option, said) in [
        ("small", "--core=core", "2 11 b\n"),
        ("secret", "--core=core", "2 11 b\n"),
        ("fault", "--maps", "2 11 b\n"),
    ] {
        let (says, core) = in_a_guest(["0x33", how], &directory("refused"), &[option]);
        assert_eq!((says.as_str(), core), (said, None), "{how}");
    }
    // A limit cuts it off, and by number it has another name.
    let cut = directory("cut");
    let (says, core) = in_a_guest(["0x33", "limited"], &cut, &["--core=%%%p"]);
    assert_eq!(says, "3 11 8b\n");
    assert!(cut.join("%3").exists());
    let written = core.unwrap();
    assert!(Core::parse(&written).is_ok_and(|core| core.notes.contains_key(&elf::NT_FILE.0)));
    let pages = written.chunks(4096).filter(|page| page.iter().any(|&byte| byte != 0));
    assert!(pages.count() <= 5);

    let missing = directory("missing").join("none/core");
    let mut command = Command::new(MMVISOR);
    command.args(["run", "--machine=kvm", &format!("--core={}", missing.display())]).arg(program());
    let ran = common::run(&mut command, b"", LIMIT);
    assert_eq!(ran.status, Some(125));
    assert!(ran.stderr.contains("--core") && ran.stderr.contains("No such file"), "{ran:?}");
    Ok(Completion::Completed)
}
