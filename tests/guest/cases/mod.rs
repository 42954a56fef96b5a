//! The cases.

mod c_programs;
mod others;
mod payloads;
mod signals;
mod without_flush;

use vmm::kvm::FlushPolicy;

use crate::case::{Case, Expect};
use crate::common::payload;

/// The compilers of a program that goes by the C library, too.
const COMPILERS: [&str; 2] = ["musl-gcc", "gcc"];

/// All cases.
pub fn all() -> Vec<Case> {
    let mut cases = payloads::all();
    cases.extend(ends());
    cases.extend(bad_input());
    cases.extend(others::all());
    cases.extend(c_programs::all());
    cases.extend(signals::all());
    cases.push(Case::command("doctor", &["doctor"]));
    cases.extend(without_flush::all());
    cases
}

/// Each way a program ends, and what is said of it.
fn ends() -> Vec<Case> {
    let exit = |way: &str| Case::new(format!("exit-{way}"), payload("exit"), &[way]).natively();
    vec![
        exit("0"),
        exit("7"),
        exit("255"),
        // What the payload says, and mmvisor adds nothing to.
        exit("256").says("a status is from 0 to 255"),
        exit("panic").says("as told"),
        exit("trap").says("killed by SIGILL (ILL_ILLOPN) at address 0x"),
        exit("null")
            .says("killed by SIGSEGV (SEGV_MAPERR) at address 0x0, rip 0x")
            .says("; the nearest is 0"),
        exit("zero")
            .says("killed by SIGSEGV (SEGV_MAPERR) at address 0x0, rip 0x0; the nearest is 0"),
    ]
}

/// What a program, or who runs it, asks for and cannot have.
fn bad_input() -> Vec<Case> {
    let badptr = || payload("badptr");
    // As long as Linux lets one be, nearly; together nearly as many as it lets be passed.
    let argument = "x".repeat(120_000);
    let arguments = [argument.as_str(); 17];
    vec![
        Case::new("badptr", badptr(), &[]).natively(),
        Case::new("unknown-call-traced", badptr(), &[])
            .option("--trace")
            .says("syscall_0x3fff(")
            .says("= -1 ENOSYS (Function not implemented)")
            .says("= -1 EFAULT (Bad address)")
            .says("= -1 EBADF (Bad file descriptor)"),
        Case::new("memory-runs-out", "/bin/busybox".into(), &["awk", ENDLESS_ARRAY])
            .option("--mem=8M")
            .expect(Expect::Status(137))
            .says("out of memory: process 1 is killed; of 8192 kB, ")
            .says("resident, in kB:\n      pid        own      files     shared\n        1       ")
            .says("killed by SIGKILL")
            .says("a larger --mem may help"),
        Case::new("memory-too-small-to-start", payload("hello"), &arguments)
            .option("--mem=2M")
            .expect(Expect::Status(125))
            .says("mmvisor: ")
            .says("a larger --mem may help"),
    ]
}

/// Fills any memory.
const ENDLESS_ARRAY: &str = "BEGIN { while (1) a[i++] = i }";

/// With the flush that a fork of few pages would not choose.
fn write_protected(case: Case) -> Case {
    let name = format!("{}-by-write-protection", case.name);
    Case { name, ..case.flushing(FlushPolicy::WriteProtection) }
}
