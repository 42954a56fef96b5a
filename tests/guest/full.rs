//! A file on a disk that is full, and the swap area on such a one: a small disk, which a namespace of the test's own has
//! mounted. Under the host's KVM only.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use libtest_mimic::{Completion, Failed, Trial};

use crate::common::{self, MMVISOR, Ran, c_program, kvm_unusable, payload};

/// Runs a program, once natively and once in a guest, each with a file of 4 MiB on a disk of 1 MiB.
/// Arguments: a directory, the program, mmvisor.
const SCRIPT: &str = r#"
set -e
mount -t tmpfs -o size=1m full "$1"
file() { rm -f "$1/file"; truncate -s 4M "$1/file"; }
file "$1"; "$2" 3<>"$1/file"
echo in a guest:
file "$1"; "$3" run --machine=kvm --file "$1/file" "$2"
"#;

/// Runs a program that has 16 MiB in 8 with a swap area for all of it, first where there is room for it on the disk, then
/// where there is not. Arguments: a directory, the program, mmvisor.
const SWAP_SCRIPT: &str = r#"
for size in 64m 1m; do
    mount -t tmpfs -o size=$size full "$1" || exit
    TMPDIR="$1" "$3" run --machine=kvm --mem=8M --swap=64M "$2" 16 1
    echo "status $?"
done
"#;

/// The trials.
pub fn trials() -> Vec<Trial> {
    let trial = |name: &str, judge: fn() -> Result<(), Failed>| {
        Trial::ignorable_test(name, move || {
            if let Some(why) = kvm_unusable() {
                return Ok(Completion::ignored_with(why));
            }
            let namespace = in_namespace(&["true"]);
            if namespace.status != Some(0) {
                let why = format!("no namespace to mount a disk in: {}", namespace.stderr.trim());
                return Ok(Completion::ignored_with(why));
            }
            judge().map(|()| Completion::Completed)
        })
    };
    vec![
        trial("kvm::a-disk-is-full-under-a-map", mapped),
        trial("kvm::a-disk-is-full-under-the-swap-area", swapped),
    ]
}

/// A directory to mount something at.
fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// What finds no room stays in memory, and then there is none left: the program is killed, and told why.
fn swapped() -> Result<(), Failed> {
    let (directory, program) = (directory("full-swap"), payload("swap"));
    let [directory, program] = [&directory, &program].map(|path| path.to_str().unwrap());
    let ran = in_namespace(&["sh", "-c", SWAP_SCRIPT, "sh", directory, program, MMVISOR]);
    let printed = String::from_utf8_lossy(&ran.stdout).into_owned();
    let right = printed.starts_with("1 processes over 16 MiB: ")
        && printed.ends_with("\nstatus 0\nstatus 137\n")
        && ran.stderr.contains("pages cannot be swapped out: ")
        && ran.stderr.contains("out of memory: process 1 is killed")
        && !ran.panicked();
    if right { Ok(()) } else { Err(Failed::from(format!("{printed}\n{ran:?}"))) }
}

fn mapped() -> Result<(), Failed> {
    let directory = directory("full");
    let program = c_program("full", "gcc", &["-static"]);
    let [directory, program] = [&directory, &program].map(|path| path.to_str().unwrap());
    let ran = in_namespace(&["sh", "-c", SCRIPT, "sh", directory, program, MMVISOR]);
    let printed = String::from_utf8_lossy(&ran.stdout).into_owned();
    let same = printed.split_once("in a guest:\n").is_some_and(|(floor, guest)| floor == guest);
    // SIGBUS, natively too.
    if ran.status == Some(0) && same && printed.starts_with("signal 7, some was\n") {
        return Ok(());
    }
    Err(Failed::from(format!("{printed}\n{ran:?}")))
}

/// Runs a command as root of a user namespace, with mounts of its own.
fn in_namespace(command: &[&str]) -> Ran {
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--mount", "--"]).args(command);
    common::run(&mut unshare, &[], Duration::from_secs(120))
}
