//! Promises 1 and 3 on the linked library: one cycle killed before every single system call that it makes, and
//! system calls that fail in their turn, once and for ever. strace does both.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use support::{Cycle, STEPS, Said, scratch, setting, signal, strace, text};

const KILLED: i32 = 9;

fn traced(cycle: &Cycle, injection: &str, store: &Path) -> Output {
    let mut command = Command::new("timeout");
    command
        .args(["--signal=ABRT", "60"])
        .arg("strace")
        .args(strace().get_args());
    if !injection.is_empty() {
        command.args(["-e", &format!("inject={injection}")]);
    }
    command.arg(cycle.path()).arg("run").arg(store);
    command.output().unwrap()
}

/// How often a cycle makes each call.
fn made(cycle: &Cycle, directory: &Path) -> BTreeMap<String, u64> {
    let (store, log) = (directory.join("counted"), directory.join("log"));
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(&log);
    command.arg(cycle.path()).arg("run").arg(&store);
    support::run(&mut command);
    let mut made = BTreeMap::new();
    for line in std::fs::read_to_string(log).unwrap().lines() {
        let call = line
            .split_once(' ')
            .map_or(line, |(_, call)| call.trim_start());
        if let Some((name, _)) = call.split_once('(') {
            *made.entry(name.to_owned()).or_default() += 1;
        }
    }
    made
}

#[test]
fn promise_1_killed_before_every_system_call() {
    let directory = scratch();
    let cycle = Cycle::build(directory.path());
    let made = made(&cycle, directory.path());
    let (mut kills, mut unkilled, mut acknowledged) = (0, 0, 0);
    for (call, count) in &made {
        for number in 1..=*count {
            let store = directory.path().join("store");
            let output = traced(&cycle, &format!("{call}:signal=KILL:when={number}"), &store);
            let said = Said::of(&output);
            let what = || format!("killed before {call} {number}: {}", text(&output));
            if signal(output.status) == Some(KILLED) {
                kills += 1;
            } else {
                // Not every run makes as many calls as another.
                assert!(output.status.success(), "{}", what());
                unkilled += 1;
            }
            acknowledged += said.made;
            cycle.check(&store, said.made, STEPS, &what);
            if store.exists() {
                std::fs::remove_dir_all(&store).unwrap();
            }
        }
    }
    println!(
        "{kills} kills, one before each system call ({} different ones) of a cycle of {STEPS} commits: {acknowledged} commits \
         acknowledged, 0 lost; {unkilled} ended before",
        made.len()
    );
    assert!(kills > 400 && acknowledged > kills && unkilled < 10);
}

/// System calls that touch what can fail, and how each may.
const CALLS: [(&str, &[&str]); 17] = [
    ("openat", &["ENOSPC", "EMFILE", "EIO", "ENOMEM", "EDQUOT"]),
    ("mkdirat", &["ENOSPC", "EDQUOT", "EIO"]),
    ("pwritev", &["ENOSPC", "EIO", "EINTR", "EFBIG", "EDQUOT"]),
    ("pread64", &["EIO", "EINTR", "ENOMEM"]),
    ("fdatasync", &["EIO", "ENOSPC", "EDQUOT"]),
    ("fsync", &["EIO", "ENOSPC", "EDQUOT"]),
    ("renameat", &["ENOSPC", "EIO", "EDQUOT"]),
    ("linkat", &["EMLINK", "ENOSPC", "EPERM"]),
    ("symlinkat", &["ENOSPC", "EIO"]),
    ("unlinkat", &["EIO", "ENOSPC"]),
    ("ftruncate", &["EIO", "ENOSPC", "EFBIG"]),
    ("fallocate", &["ENOSPC", "EOPNOTSUPP", "EINTR", "EFBIG"]),
    ("getdents64", &["EIO", "ENOMEM"]),
    ("mmap", &["ENOMEM"]),
    ("ioctl", &["EINVAL", "ENOMEM"]),
    ("flock", &["EINTR", "ENOLCK"]),
    ("memfd_create", &["EMFILE", "ENOMEM"]),
];

#[test]
fn promise_3_system_calls_fail_in_their_turn() {
    let directory = scratch();
    let cycle = Cycle::build(directory.path());
    let made = made(&cycle, directory.path());
    let wanted = usize::try_from(setting("VMSTORE_FAILING_CALLS", 500)).unwrap();
    let mut all = Vec::new();
    for (call, errors) in CALLS {
        for number in 1..=made.get(call).copied().unwrap_or(0) {
            for error in errors {
                for ever in ["", "+"] {
                    // What a signal interrupts is made again, as often as it takes.
                    if (*error, ever) == ("EINTR", "+") {
                        continue;
                    }
                    all.push(format!("{call}:error={error}:when={number}{ever}"));
                }
            }
        }
    }
    // All over them: a prime is no multiple of any part of the list.
    let sample = (0..all.len()).map(|number| &all[number * 7919 % all.len()]);
    let (mut runs, mut through, mut given_up, mut not_started) = (0, 0, 0, 0);
    for injection in sample {
        if runs == wanted {
            break;
        }
        let store = directory.path().join("store");
        let output = traced(&cycle, injection, &store);
        let what = || format!("{injection}: {}", text(&output));
        let said = Said::of(&output);
        match output.status.code() {
            Some(0) => through += 1,
            Some(3) => given_up += 1,
            // The loader could not start the program.
            Some(127) if !store.exists() => {
                not_started += 1;
                continue;
            }
            _ => panic!("{}", what()),
        }
        cycle.check(&store, said.made, STEPS, &what);
        runs += 1;
        if store.exists() {
            std::fs::remove_dir_all(&store).unwrap();
        }
    }
    println!(
        "{runs} of {} failing system calls tried: {through} cycles got through, {given_up} gave up because calls kept \
         failing; {not_started} more did not start; no signal, nothing lost, no wrong byte, all go on",
        all.len()
    );
    let all_tried = runs == wanted || runs + not_started == all.len();
    assert!(all_tried && through > 20 && given_up > 20);
}
