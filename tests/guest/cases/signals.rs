//! Signals: handlers, what waits, calls that are interrupted, stops; the same natively.

use std::time::Duration;

use super::COMPILERS;
use crate::case::{Case, Where};
use crate::common::{Then, c_program};

/// All of them.
pub(super) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for compiler in COMPILERS {
        let case = |name: &str, program: &str, args: &[&str]| {
            let program = c_program(program, compiler, &["-static"]);
            Case::new(format!("signals-{name}-{compiler}"), program, args).natively()
        };
        cases.extend([
            case("handlers", "signals", &[]),
            case("handlers-of-sse", "signals", &["sse"]).only(Where::Direct),
            case("handlers-growing", "signals", &["growing"]),
            case("pending", "pending", &[]),
            case("sigreturn", "sigreturn", &[]),
            case("waits", "waits", &[]),
            Case { stdin_then: Then::StaysOpen, ..case("read", "waits", &["read"]) }
                .only(Where::Direct),
            case("stops", "stops", &[]),
            case("barrier", "barrier", &["500", "100"]).only(Where::Direct),
            case("barrier-2000", "barrier", &["20", "100"]).only(Where::Nested),
        ]);
    }
    // A million of its own faults.
    let barrier = c_program("barrier", "musl-gcc", &["-static"]);
    let million = Case::new("signals-barrier-million", barrier, &["10000", "100"]).natively();
    let limit = Duration::from_secs(600);
    cases.push(Case { limit, ..million.only(Where::Direct) });
    let made_up = |count: &str| {
        let program = c_program("sigreturn", "gcc", &["-static"]);
        Case::new(format!("signals-made-up-frames-{count}"), program, &[count])
    };
    cases.push(made_up("1000").prints("1000 frames\n").only(Where::Direct));
    cases.push(made_up("50").prints("50 frames\n").only(Where::Nested));
    let random = |count: &str| {
        let program = c_program("signal_calls", "gcc", &["-static"]);
        Case::new(format!("signals-random-calls-{count}"), program, &[count]).natively()
    };
    cases.push(random("500").only(Where::Direct));
    cases.push(random("20").only(Where::Nested));
    let traced = Case::new("signals-traced", c_program("signals", "gcc", &["-static"]), &[]);
    cases.push(
        traced
            .option("--trace")
            .says("rt_sigaction(SIGSEGV, {sa_handler=0x")
            .says("--- SIGSEGV {si_signo=SIGSEGV, si_code=SEGV_MAPERR, si_addr=0x10} ---")
            .says("--- SIGUSR1 {si_signo=SIGUSR1, si_code=SI_TKILL, si_pid=1, si_uid=0} ---")
            .says("rt_sigreturn()"),
    );
    cases
}
