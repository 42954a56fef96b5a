//! For tests: small ELF files made to order, and real programs as the host kernel loads them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};

use linux_loader::elf as abi;
use vm_memory::ByteValued;

/// A file to be: change what should be wrong, then take its [`Builder::bytes`].
///
/// ```text
///   0x000  ELF header, program headers      segment 0: R X, from 0x000, 0x800 bytes
///   0x800  end of the code
///   0xf00  data, 0x80 bytes                 segment 1: RW, then zeros up to 0x2000 bytes
/// ```
#[derive(Debug, Clone)]
pub(crate) struct Builder {
    pub(crate) segments: Vec<abi::Elf64_Phdr>,
    pub(crate) entry: u64,
    pub(crate) e_type: u16,
    pub(crate) interpreter: Option<&'static str>,
    pub(crate) header_count: Option<u16>,
}

impl Builder {
    /// A good `ET_EXEC` at 0x400000.
    pub(crate) fn fixed() -> Self {
        Self::linked_at(0x40_0000, abi::ET_EXEC)
    }

    /// A good static PIE linked at 0.
    pub(crate) fn position_independent() -> Self {
        Self::linked_at(0, abi::ET_DYN)
    }

    fn linked_at(base: u64, e_type: u16) -> Self {
        let load = |flags, offset, address, file_size, mem_size| abi::Elf64_Phdr {
            p_type: abi::PT_LOAD,
            p_flags: flags,
            p_offset: offset,
            p_vaddr: base + address,
            p_paddr: base + address,
            p_filesz: file_size,
            p_memsz: mem_size,
            p_align: 0x1000,
        };
        let code = load(abi::PF_R | abi::PF_X, 0, 0, 0x800, 0x800);
        let data = load(abi::PF_R | abi::PF_W, 0xf00, 0x1f00, 0x80, 0x2000);
        let note = abi::Elf64_Phdr { p_type: abi::PT_NOTE, ..Default::default() };
        Builder {
            segments: vec![code, data, note],
            entry: base + 0x100,
            e_type,
            interpreter: None,
            header_count: None,
        }
    }

    /// The file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut table = self.segments.clone();
        if let Some(path) = self.interpreter {
            table.push(abi::Elf64_Phdr {
                p_type: abi::PT_INTERP,
                p_offset: 0x700,
                p_filesz: path.len() as u64 + 1,
                ..Default::default()
            });
        }
        let mut header = abi::Elf64_Ehdr {
            e_type: self.e_type,
            e_machine: abi::EM_X86_64,
            e_version: 1,
            e_entry: self.entry,
            e_phoff: 64,
            e_ehsize: 64,
            e_phentsize: 56,
            e_phnum: self.header_count.unwrap_or(u16::try_from(table.len()).unwrap()),
            ..Default::default()
        };
        header.e_ident[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\x00");
        let mut file = header.as_slice().to_vec();
        for entry in &table {
            file.extend_from_slice(entry.as_slice());
        }
        file.resize(0xf80, 0);
        if let Some(path) = self.interpreter {
            file[0x700..0x700 + path.len()].copy_from_slice(path.as_bytes());
        }
        file
    }
}

/// Whether the host kernel is the reference, 6.18, or newer.
pub(crate) fn host_is_reference() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.trim().parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(18))
}

/// A program that waits in `read(2)` for input that never comes, run by the host kernel without ASLR:
/// what `execve` made of it can be looked at.
pub(crate) struct Waiting(Child);

impl Waiting {
    /// Starts `command` and waits until it waits; `None`, and a line that says why, where that
    /// cannot be done on this machine.
    pub(crate) fn start(command: &[&str], variables: &[(&str, &str)]) -> Option<Self> {
        let child = Command::new("setarch")
            .arg("-R")
            .args(command)
            .env_clear()
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(child) = child else {
            eprintln!("skipped: there is no setarch on this machine");
            return None;
        };
        let mut waiting = Waiting(child);
        let name = command[0].rsplit('/').next().unwrap_or_default();
        let name = format!("{}\n", &name[..name.len().min(15)]);
        // First setarch has to become the program.
        while !(waiting.read("comm") == name.as_bytes()
            && waiting.read("syscall").starts_with(b"0 0x0 "))
        {
            if let Ok(Some(status)) = waiting.0.try_wait() {
                eprintln!("skipped: setarch -R {command:?} ended with {status}");
                return None;
            }
            std::thread::yield_now();
        }
        Some(waiting)
    }

    /// A file of its `/proc` directory.
    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(format!("/proc/{}/{name}", self.0.id())).unwrap()
    }

    /// A field of `/proc/PID/stat`, counted from 1 as proc(5) does.
    pub(crate) fn stat(&self, field: usize) -> u64 {
        let text = String::from_utf8(self.read("stat")).unwrap();
        let (_, fields) = text.rsplit_once(')').unwrap();
        fields.split_whitespace().nth(field - 3).unwrap().parse().unwrap()
    }

    /// Its auxiliary vector.
    pub(crate) fn auxv(&self) -> Vec<(u64, u64)> {
        let half = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        let bytes = self.read("auxv");
        bytes.chunks_exact(16).map(|pair| (half(&pair[..8]), half(&pair[8..]))).collect()
    }

    /// Its memory from `start` to `end`.
    pub(crate) fn memory(&self, start: u64, end: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        let file = File::open(format!("/proc/{}/mem", self.0.id())).unwrap();
        file.read_exact_at(&mut bytes, start).unwrap();
        bytes
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
