//! The other side: mmvisor as the first process of the nested machine.
//!
//! It never returns. What goes wrong is told on the control port, or on the console (the host shows its
//! last lines) while there is no port yet; then the machine is switched off.

mod boot;
mod run;

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use nix::sys::reboot::{RebootMode, reboot};

use super::wire::{DESCRIPTION_PATH, Description, Report};

/// The open ports.
#[derive(Debug)]
struct Ports {
    control: File,
    stdin: File,
    /// One for each [`Output`](super::wire::Output).
    outputs: [File; 3],
}

/// Whether this process is the first of a nested machine: it is number 1, and the machine's job list
/// is there. `main` asks before anything else, and calls [`init`] if so.
#[must_use]
pub fn is_init() -> bool {
    std::process::id() == 1 && Path::new(DESCRIPTION_PATH).exists()
}

/// Makes the machine ready, runs its jobs, and switches it off.
pub fn init() -> ! {
    let Err(why) = serve();
    // The console is where the host looks when the control port stays silent.
    let _ = writeln!(std::io::stderr(), "mmvisor: {why}");
    power_off()
}

/// Everything up to the moment when the host has all results.
fn serve() -> Result<Infallible, String> {
    boot::mount_all()?;
    let description =
        fs::read(DESCRIPTION_PATH).map_err(|e| format!("reading {DESCRIPTION_PATH}: {e}"))?;
    let description: Description = serde_json::from_slice(&description)
        .map_err(|e| format!("understanding {DESCRIPTION_PATH}: {e}"))?;
    boot::load_all(&description.transport, c"")?;
    let mut ports = boot::open_ports()?;
    if let Err(why) = boot::start_kvm(&description) {
        report(&mut ports.control, &Report::Failed(why.clone()))?;
        wait_for_the_host(&ports)?;
        return Err(why);
    }
    let _kept = boot::keep_a_machine();
    report(&mut ports.control, &Report::Ready)?;
    run::all(&description.jobs, ports)
}

/// Tells the host something.
fn report(control: &mut File, report: &Report) -> Result<(), String> {
    let line = report.to_line().map_err(|e| format!("putting a report into words: {e}"))?;
    control.write_all(&line).map_err(|e| format!("reporting to the host: {e}"))
}

/// Returns when the host has closed the control port: it has read what it wanted.
fn wait_for_the_host(ports: &Ports) -> Result<(), String> {
    std::io::copy(&mut &ports.control, &mut std::io::sink())
        .map(drop)
        .map_err(|e| format!("waiting for the host: {e}"))
}

/// reboot(2). If even that fails there is nothing left but to wait for the host to end the machine.
fn power_off() -> ! {
    let Err(errno) = reboot(RebootMode::RB_POWER_OFF);
    let _ = writeln!(std::io::stderr(), "mmvisor: switching the machine off: {errno}");
    loop {
        std::thread::park();
    }
}
