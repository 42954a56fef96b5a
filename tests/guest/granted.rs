//! A directory of the host that a guest is granted: there is no way out of it, and into it only as was said.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use libtest_mimic::{Completion, Failed, Trial};

use crate::common::{self, MMVISOR, Ran, c_program, kvm_unusable};

const LIMIT: Duration = Duration::from_secs(60);
/// Of what strace slows down.
const TRACED_LIMIT: Duration = Duration::from_secs(300);

/// The trials.
pub fn trials() -> Vec<Trial> {
    let trial = |name: &str, judge: fn() -> Result<(), Failed>| {
        Trial::ignorable_test(name, move || match kvm_unusable() {
            Some(why) => Ok(Completion::ignored_with(why)),
            None => judge().map(|()| Completion::Completed),
        })
    };
    vec![
        trial("kvm::no-way-out-of-a-directory", no_way_out),
        trial("kvm::a-directory-to-read-only", read_only),
        trial("kvm::a-directory-that-is-moved-meanwhile", moved),
        trial("kvm::no-other-file-is-touched", nothing_else),
        trial("kvm::no-other-file-is-touched-by-random-calls", nothing_by_chance),
    ]
}

/// A directory with a secret beside the part of it that is granted.
fn directory(name: &str) -> PathBuf {
    let outer = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("granted-{name}"));
    let _ = fs::remove_dir_all(&outer);
    let granted = outer.join("granted");
    fs::create_dir_all(granted.join("below")).unwrap();
    fs::write(outer.join("secret"), "secret").unwrap();
    fs::write(granted.join("file"), "mine").unwrap();
    symlink(outer.join("secret"), granted.join("absolute")).unwrap();
    symlink("../secret", granted.join("relative")).unwrap();
    symlink("..", granted.join("up")).unwrap();
    symlink("/proc/self/root", granted.join("root")).unwrap();
    symlink("/proc/1/cwd", granted.join("magic")).unwrap();
    granted
}

/// Runs a script in busybox's shell in a guest that has the directory as `/d`.
fn shell(directory: &Path, access: &str, script: &str) -> Ran {
    let mut command = Command::new(MMVISOR);
    command.args(["run", "--machine=kvm", &format!("--dir={}:/d{access}", directory.display())]);
    command.args(["/bin/busybox", "sh", "-c", script]);
    common::run(&mut command, b"", LIMIT)
}

fn no_way_out() -> Result<(), Failed> {
    let granted = directory("ways");
    let outside = granted.parent().unwrap().display().to_string();
    let ways = [
        "/d/absolute",
        "/d/relative",
        "/d/up/secret",
        "/d/../secret",
        "/d/below/../../secret",
        "/d/root/etc/passwd",
        "/d/root/../secret",
        "/d/magic/../secret",
        "/proc/self/root/etc/passwd",
        "/proc/self/exe/../passwd",
        "/etc/passwd",
        &format!("{outside}/secret"),
    ];
    let script: String =
        ways.iter().map(|way| format!("cat {way} && echo out by {way};")).collect();
    let ran = shell(&granted, "", &format!("cat /d/file; {script} ls /; cd /d; ls ..; pwd"));
    let expected = "mined\ndev\nproc\ntmp\nd\ndev\nproc\ntmp\n/d\n";
    if ran.stdout != expected.as_bytes() {
        return Err(format!("{ran:?}").into());
    }
    let refused =
        ran.stderr.matches("No such file").count() + ran.stderr.matches("Not a dir").count();
    if refused == ways.len() { Ok(()) } else { Err(format!("{ran:?}").into()) }
}

fn read_only() -> Result<(), Failed> {
    let granted = directory("read-only");
    let writes = [
        "echo x > /d/file",
        "echo x > /d/new",
        "mkdir /d/new",
        "rm -f /d/file",
        "mv /d/file /d/new",
        "ln /d/file /d/new",
        "ln -s file /d/new",
        "chmod 600 /d/file",
        "touch /d/file",
        "rmdir /d/below",
        "truncate -s 1 /d/file",
    ];
    let script: String =
        writes.iter().map(|write| format!("{write} && echo done: '{write}';")).collect();
    let ran = shell(&granted, ":ro", &format!("{script} cat /d/file"));
    let refused = ran.stderr.matches("Read-only file system").count();
    if (ran.stdout.as_slice(), refused) == (b"mine", writes.len()) {
        return Ok(());
    }
    Err(format!("{ran:?}").into())
}

/// Who is in a directory that the host moves elsewhere goes up to where it came from.
fn moved() -> Result<(), Failed> {
    let granted = directory("moved");
    let outer = granted.parent().unwrap();
    let script = "cd /d/below; touch ready; while [ ! -e moved ]; do :; done; cat ../../secret; cat ../secret; ls ..";
    let (below, away) = (granted.join("below"), outer.join("away"));
    let ran = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !below.join("ready").exists() {
                std::thread::yield_now();
            }
            fs::rename(&below, &away).unwrap();
            fs::write(away.join("moved"), "").unwrap();
        });
        shell(&granted, "", script)
    });
    let _ = fs::remove_dir_all(&away);
    let names: BTreeSet<&str> = std::str::from_utf8(&ran.stdout)?.lines().collect();
    let expected = BTreeSet::from(["absolute", "file", "magic", "relative", "root", "up"]);
    if names == expected && ran.stderr.matches("No such file").count() == 2 {
        return Ok(());
    }
    Err(format!("{ran:?}").into())
}

/// What mmvisor opens on the host for writing lies in what was granted, as strace sees it.
fn nothing_else() -> Result<(), Failed> {
    let granted = directory("traced");
    let trace = granted.parent().unwrap().join("trace");
    let mut command = Command::new("strace");
    command.args([
        "-f",
        "-qq",
        "-s",
        "200",
        "-e",
        "trace=open,openat,openat2,creat,mkdirat,unlinkat,renameat2,linkat,symlinkat",
    ]);
    command.arg("-o").arg(&trace).arg(MMVISOR);
    command.args(["run", "--machine=kvm", &format!("--dir={}:/d", granted.display())]);
    let script = "cd /d; echo x > new; mkdir sub; mv new sub/other; cat sub/other file; rm -r sub; echo y > /tmp/z; cat /tmp/z";
    command.args(["/bin/busybox", "sh", "-c", script]);
    let ran = common::run(&mut command, b"", LIMIT);
    if ran.stdout != b"x\nminey\n" {
        return Err(format!("{ran:?}").into());
    }
    let text = fs::read_to_string(&trace)?;
    let writes = |line: &&str| {
        line.contains("O_WRONLY") || line.contains("O_RDWR") || line.contains("O_CREAT")
    };
    let mut written = 0;
    for line in text.lines().filter(writes).filter(|line| !line.contains(" = -1 ")) {
        // By a descriptor that a walk has found, or the device that mmvisor lives by.
        let known = line.contains("\"/proc/self/fd/") || line.contains("RESOLVE_BENEATH");
        if !known && !line.contains("\"/dev/kvm\"") && !line.contains("\"/dev/null\"") {
            return Err(format!("mmvisor opened something else: {line}").into());
        }
        written += u32::from(known);
    }
    if written == 0 {
        return Err(format!("nothing was opened for writing:\n{text}").into());
    }
    Ok(())
}

/// Calls that are given paths, as strace knows them.
const PATHS: &str = "trace=%file";

/// Runs a program in a guest that has the directory as `/tmp`, and gives the lines of its calls with paths.
fn traced(granted: &Path, program: &Path, args: &[&str]) -> Result<Vec<String>, Failed> {
    let trace = granted.parent().unwrap().join("trace");
    let mut command = Command::new("strace");
    // The calls that are not looked at are not slowed down.
    command.args(["-f", "-qq", "-s", "4096", "--seccomp-bpf", "-e", PATHS]);
    command.arg("-o").arg(&trace).arg(MMVISOR);
    command.args(["run", "--machine=kvm", "--mem=64M"]);
    command.arg(format!("--dir={}:/tmp", granted.display())).arg(program).args(args);
    let ran = common::run(&mut command, b"", TRACED_LIMIT);
    if ran.status != Some(0) || ran.panicked() {
        return Err(format!("{ran:?}").into());
    }
    Ok(fs::read_to_string(&trace)?.lines().map(str::to_owned).collect())
}

/// The paths of a call, as strace quotes them.
fn paths(line: &str) -> impl Iterator<Item = &str> {
    line.split('"').skip(1).step_by(2)
}

/// A guest that makes random calls, with paths among the arguments: mmvisor gives the host no other path than those that it
/// gives for a program that does nothing, descriptors that it has, and single names in a directory that it has.
fn nothing_by_chance() -> Result<(), Failed> {
    let granted = directory("random");
    let quiet = traced(&granted, Path::new("/bin/busybox"), &["true"])?;
    let wild = c_program("wild", "gcc", &["-static"]);
    let mut known: BTreeSet<&str> = quiet.iter().flat_map(|line| paths(line)).collect();
    // The C library asks how many processors there are once threads meet in it.
    known.insert("/sys/devices/system/cpu/online");
    let lines = traced(&granted, &wild, &["50000", "3", "4"])?;
    let wild = wild.display().to_string();
    let mut single = 0;
    for line in &lines {
        for path in paths(line) {
            let name = !path.contains('/') && path != "..";
            // A name is looked for in the directory of a descriptor, and never from where mmvisor is.
            if name && line.contains("AT_FDCWD, \"") && !path.is_empty() {
                return Err(format!("a name of mmvisor's own directory: {line}").into());
            }
            single += u32::from(name);
            if !name && !path.starts_with("/proc/self/fd/") && !known.contains(path) && path != wild
            {
                return Err(format!("mmvisor was led to {path}: {line}").into());
            }
        }
    }
    println!("{} calls of mmvisor's with paths, {single} with a name", lines.len());
    if single > 20 { Ok(()) } else { Err("hardly a name was looked for".into()) }
}
