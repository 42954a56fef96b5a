//! The command `mmvisor`; [`vmm::cli`] has it all.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmm::cli::main()
}
