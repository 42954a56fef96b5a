//! The notes of a core file (`fs/binfmt_elf.c`: `fill_note_info`; include/linux/elfcore.h). Pure.

use std::time::Duration;

use mm::addr::PAGE_SIZE;
use mm::inspect::CoreSegment;

use crate::kvm::{Registers, XsaveLayout};
use crate::task::{Info, Selectors, SignalSet};

const NT_PRSTATUS: u32 = 1;
const NT_PRFPREG: u32 = 2;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_X86_XSTATE: u32 = 0x202;
const NT_X86_XSAVE_LAYOUT: u32 = 0x205;
const NT_FILE: u32 = 0x4649_4c45;
const NT_SIGINFO: u32 = 0x5349_4749;
/// Bytes of FXSAVE's image, with which XSAVE's begins.
const FXSAVE: usize = 512;
/// Where XSAVE's image has XCR0, as core files have it.
const XCR0: usize = 464;
/// Bytes of a command line (`ELF_PRARGSZ`).
pub(super) const ARGUMENTS: usize = 80;
/// The most bytes that the files' note may have (`CORE_FILE_NOTE_SIZE_DEFAULT`); where it would have more there is none.
const MOST_FILES: usize = 4 << 20;

/// Who has died.
pub(super) struct Who<'a> {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) group: i32,
    pub(super) session: i32,
    pub(super) name: [u8; 16],
    /// Its command line, zeros behind it.
    pub(super) arguments: [u8; ARGUMENTS],
    pub(super) info: &'a Info,
    pub(super) waiting: SignalSet,
    pub(super) blocked: SignalSet,
    /// Time that it has used as a program and in the kernel, and of children that it has waited for.
    pub(super) times: [Duration; 4],
    pub(super) auxv: Vec<u64>,
}

/// Where it was.
pub(super) struct Cpu {
    pub(super) registers: Registers,
    pub(super) selectors: Selectors,
    /// The number of the call that it was in.
    pub(super) calling: Option<u64>,
    pub(super) fs_base: u64,
    pub(super) gs_base: u64,
    /// As KVM gives it.
    pub(super) xsave: Vec<u8>,
    /// Where its parts are.
    pub(super) layout: XsaveLayout,
}

/// All notes, one after the other.
pub(super) fn notes(who: &Who<'_>, cpu: &Cpu, segments: &[CoreSegment]) -> Vec<u8> {
    let mut xsave = cpu.xsave.clone();
    xsave.resize(xsave.len().max(FXSAVE), 0);
    if let Some(word) = xsave.get_mut(XCR0..XCR0 + 8) {
        word.copy_from_slice(&cpu.layout.features().to_le_bytes());
    }
    let mut notes = Vec::new();
    let mut add = |name: &[u8], kind: u32, bytes: &[u8]| note(&mut notes, name, kind, bytes);
    add(b"CORE\0", NT_PRSTATUS, &status(who, cpu));
    add(b"CORE\0", NT_PRPSINFO, &process(who));
    add(b"CORE\0", NT_SIGINFO, &who.info.to_bytes());
    add(b"CORE\0", NT_AUXV, &bytes_of(&who.auxv));
    if let Some(files) = files(segments) {
        add(b"CORE\0", NT_FILE, &files);
    }
    add(b"CORE\0", NT_PRFPREG, &xsave[..FXSAVE]);
    if xsave.len() > FXSAVE {
        add(b"LINUX\0", NT_X86_XSTATE, &xsave);
        add(b"LINUX\0", NT_X86_XSAVE_LAYOUT, &components(&cpu.layout));
    }
    notes
}

fn note(notes: &mut Vec<u8>, name: &[u8], kind: u32, bytes: &[u8]) {
    for len in [name.len(), bytes.len()] {
        notes.extend(u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
    }
    notes.extend(kind.to_le_bytes());
    for part in [name, bytes] {
        notes.extend(part);
        notes.resize(notes.len().next_multiple_of(4), 0);
    }
}

fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// `struct elf_prstatus`.
fn status(who: &Who<'_>, cpu: &Cpu) -> Vec<u8> {
    let signal = who.info.signal().number();
    let mut bytes = Vec::new();
    // si_signo, si_code and si_errno, which Linux leaves; pr_cursig and what fills it up.
    for word in [signal, 0, 0, signal] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(bytes_of(&[who.waiting.0, who.blocked.0]));
    for number in [who.pid, who.parent, who.group, who.session] {
        bytes.extend(number.to_le_bytes());
    }
    for time in who.times {
        bytes.extend(bytes_of(&[time.as_secs(), u64::from(time.subsec_micros())]));
    }
    let r = &cpu.registers;
    let call = cpu.calling.unwrap_or(u64::MAX);
    let (cs, ss) = (u64::from(cpu.selectors.code), u64::from(cpu.selectors.stack));
    bytes.extend(bytes_of(&[
        r.r15,
        r.r14,
        r.r13,
        r.r12,
        r.rbp,
        r.rbx,
        r.r11,
        r.r10,
        r.r9,
        r.r8,
        r.rax,
        r.rcx,
        r.rdx,
        r.rsi,
        r.rdi,
        call,
        r.rip,
        cs,
        r.rflags,
        r.rsp,
        ss,
        cpu.fs_base,
        cpu.gs_base,
        0,
        0,
        0,
        0,
    ]));
    // pr_fpvalid: there are floating-point registers.
    bytes.extend(bytes_of(&[1]));
    bytes
}

/// `struct elf_prpsinfo`.
fn process(who: &Who<'_>) -> Vec<u8> {
    let mut bytes = vec![0, b'R', 0, 0, 0, 0, 0, 0];
    // pr_flag: PF_FORKNOEXEC and the like mean nothing here.
    bytes.extend(bytes_of(&[0]));
    // Root.
    bytes.extend([0; 8]);
    for number in [who.pid, who.parent, who.group, who.session] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(who.name);
    bytes.extend(who.arguments);
    bytes
}

/// `NT_X86_XSAVE_LAYOUT`: of each component its number, length and offset, and flags, of which there are none
/// (`struct x86_xfeat_component`).
fn components(layout: &XsaveLayout) -> Vec<u8> {
    let word = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let words = layout
        .components()
        .iter()
        .flat_map(|component| [component.bit, word(component.bytes), word(component.offset), 0]);
    words.flat_map(u32::to_le_bytes).collect()
}

/// `NT_FILE`: which part of which file is where; `None` where there are none, or too many.
fn files(segments: &[CoreSegment]) -> Option<Vec<u8>> {
    let files: Vec<&CoreSegment> = segments.iter().filter(|segment| segment.is_file).collect();
    let names = files.iter().map(|file| file.line.name.path.len() + 1).sum::<usize>();
    if files.is_empty() || names.saturating_add(files.len() * 24) > MOST_FILES {
        return None;
    }
    let mut bytes = bytes_of(&[files.len() as u64, PAGE_SIZE]);
    for file in &files {
        let range = file.line.range;
        bytes.extend(bytes_of(&[range.start().get(), range.end().get(), file.first_page]));
    }
    for file in files {
        bytes.extend(file.line.name.path.bytes());
        bytes.push(0);
    }
    Some(bytes)
}
