//! A file on a disk that is full: a small one, which a namespace of the test's own has mounted. Under the host's KVM
//! only.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use libtest_mimic::{Completion, Failed, Trial};

use crate::common::{self, MMVISOR, Ran, c_program, kvm_unusable};

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

/// The trial.
pub fn trials() -> Vec<Trial> {
    vec![Trial::ignorable_test("kvm::a-disk-is-full-under-a-map", || {
        if let Some(why) = kvm_unusable() {
            return Ok(Completion::ignored_with(why));
        }
        let namespace = in_namespace(&["true"]);
        if namespace.status != Some(0) {
            let why = format!("no namespace to mount a disk in: {}", namespace.stderr.trim());
            return Ok(Completion::ignored_with(why));
        }
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("full");
        std::fs::create_dir_all(&directory).unwrap();
        let program = c_program("full", "gcc", &["-static"]);
        let [directory, program] = [&directory, &program].map(|path| path.to_str().unwrap());
        let ran = in_namespace(&["sh", "-c", SCRIPT, "sh", directory, program, MMVISOR]);
        let printed = String::from_utf8_lossy(&ran.stdout).into_owned();
        let same = printed.split_once("in a guest:\n").is_some_and(|(floor, guest)| floor == guest);
        // SIGBUS, natively too.
        if ran.status == Some(0) && same && printed.starts_with("signal 7, some was\n") {
            return Ok(Completion::Completed);
        }
        Err(Failed::from(format!("{printed}\n{ran:?}")))
    })]
}

/// Runs a command as root of a user namespace, with mounts of its own.
fn in_namespace(command: &[&str]) -> Ran {
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--mount", "--"]).args(command);
    common::run(&mut unshare, &[], Duration::from_secs(120))
}
