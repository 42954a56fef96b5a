//! Settings of the machine, written in a guest's `/proc/sys`: what they say then, and what comes of them.

use std::process::Command;
use std::time::Duration;

use libtest_mimic::{Completion, Failed, Trial};

use crate::common::{self, MMVISOR, kvm_unusable};

const LIMIT: Duration = Duration::from_secs(60);

/// The trials.
pub fn trials() -> Vec<Trial> {
    vec![Trial::ignorable_test("kvm::settings", || match kvm_unusable() {
        Some(why) => Ok(Completion::ignored_with(why)),
        None => written().map(|()| Completion::Completed),
    })]
}

/// A line of the script, and what it prints; on standard error nothing is compared.
const LINES: [(&str, &str); 19] = [
    ("cat overcommit_memory overcommit_ratio overcommit_kbytes", "0\n50\n0\n"),
    ("cat max_map_count mmap_min_addr nr_hugepages", "65530\n4096\n0\n"),
    ("limit", "CommitLimit: 32768 kB\n"),
    ("echo 25 > overcommit_ratio; limit", "CommitLimit: 16384 kB\n"),
    ("echo 4096 > overcommit_kbytes; limit; cat overcommit_ratio", "CommitLimit: 4096 kB\n0\n"),
    ("echo 3 > overcommit_memory || echo no; cat overcommit_memory", "no\n0\n"),
    // One number counts, and is read in C's way.
    ("echo 0x20 7 > overcommit_ratio; cat overcommit_ratio", "32\n"),
    ("printf 7x > overcommit_ratio || echo no; cat overcommit_ratio", "no\n32\n"),
    (
        "echo 4 > nr_hugepages; cat nr_hugepages; grep HugePages_Total /proc/meminfo",
        "4\nHugePages_Total:       4\n",
    ),
    ("echo 1000000 > nr_hugepages; [ $(cat nr_hugepages) -lt 32 ] && echo some", "some\n"),
    ("echo 0 > nr_hugepages; cat nr_hugepages", "0\n"),
    ("echo 3 > drop_caches && echo done; echo 5 > drop_caches || echo no", "done\nno\n"),
    ("cat drop_caches || echo no", "no\n"),
    ("echo 1 > compact_memory && echo done", "done\n"),
    // What is read on is nothing, what is written on is forgotten.
    ("dd bs=1 if=max_map_count", "6"),
    ("echo; printf 655300 | dd bs=5 of=max_map_count; cat max_map_count", "\n65530\n"),
    ("echo 30 > max_map_count; cat max_map_count", "30\n"),
    ("cat ../kernel/randomize_va_space", "0\n"),
    // The end of the shell: it cannot fork.
    ("echo 64 > overcommit_kbytes; echo 2 > overcommit_memory; cat overcommit_memory; echo on", ""),
];

fn written() -> Result<(), Failed> {
    let limit = "limit() { tr -s ' ' < /proc/meminfo | grep CommitLimit; }; cd /proc/sys/vm;";
    let script = LINES.iter().fold(limit.to_owned(), |script, (line, _)| script + line + "\n");
    let mut command = Command::new(MMVISOR);
    command.args(["run", "--machine=kvm", "--mem=64M", "--dir=/bin:/bin:ro"]);
    command.args(["/bin/busybox", "sh", "-c", &script]);
    let ran = common::run(&mut command, b"", LIMIT);
    let expected: String = LINES.iter().map(|(_, prints)| *prints).collect();
    let refused = ran.stderr.contains("can't fork: Cannot allocate memory");
    if ran.stdout == expected.as_bytes() && refused {
        return Ok(());
    }
    Err(format!("{ran:?}").into())
}
