//! Accesses: bytes read, written and run, and the faults that come of it, caught by handlers.

#![allow(unsafe_code)]

use guest::fault::{self, Answer, BUS_ADRERR, Caught, SEGV_ACCERR, SEGV_MAPERR, SIGBUS, SIGSEGV};
use guest::memory::PAGE;

use crate::acts::Generator;
use crate::trace::put;

/// Instructions that are tried begin at multiples of so many bytes, and bytes are written behind where they end.
const LINE: u64 = 64;
const BEHIND: u64 = 32;

impl Generator {
    pub(crate) fn touch(&mut self) {
        let page = self.mapped_page();
        let addr = page + self.below(PAGE / LINE) * LINE + BEHIND;
        if self.endangers(addr, 1) {
            return;
        }
        match self.below(12) {
            0..=2 => self.store(addr),
            3..=5 => self.load(addr),
            6..=8 => self.tried("w", addr, fault::write(addr)),
            9..=10 => self.tried("r", addr, fault::read(addr).map(drop)),
            _ => {
                let addr = addr - BEHIND;
                // SAFETY: there are zeros; nothing is written there, and no instruction is so long.
                let tried = unsafe { fault::fetch(addr) };
                self.tried("x", addr, tried);
            }
        }
    }

    fn store(&mut self, addr: u64) {
        let byte = self.random.bits().to_le_bytes()[0];
        // SAFETY: the byte is not the generator's own.
        match unsafe { fault::write_byte(addr, byte) } {
            Ok(()) => {
                self.count("stored");
                put!(&mut self.trace, "{} @store {addr:#x} {byte:#x}\n", self.process);
            }
            failed => self.tried("w", addr, failed),
        }
    }

    fn load(&mut self, addr: u64) {
        match fault::read(addr) {
            Ok(byte) => {
                self.count("loaded");
                put!(&mut self.trace, "{} @load {addr:#x} = {byte:#x}\n", self.process);
            }
            failed => self.tried("r", addr, failed.map(drop)),
        }
    }

    fn tried(&mut self, kind: &str, addr: u64, tried: Result<(), Caught>) {
        let answer = tried.map_err(|caught| caught.answer());
        let result = match answer {
            Ok(()) => "ok",
            Err(Answer { signal: SIGSEGV, code: SEGV_MAPERR, .. }) => "SEGV_MAPERR",
            Err(Answer { signal: SIGSEGV, code: SEGV_ACCERR, .. }) => "SEGV_ACCERR",
            Err(Answer { signal: SIGBUS, code: BUS_ADRERR, .. }) => "BUS_ADRERR",
            Err(_) => "other",
        };
        self.count(if result == "ok" { "touched" } else { result });
        put!(&mut self.trace, "{} @touch {addr:#x} {kind} = {result}\n", self.process);
        // What else the handler was told.
        if let Err(caught) = tried {
            let (signal, code, address) = (caught.signal, caught.code, caught.address);
            put!(&mut self.trace, "# signal {signal}, si_code {code}, si_addr {address:#x}\n");
        }
    }
}
