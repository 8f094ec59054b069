//! Promises 1 and 3 on the linked library. One cycle is killed before each of its system calls. In other cycles, each
//! system call fails, once or from then on. strace does both.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};
use support::{Cycle, DELETIONS, STEPS, Said, scratch, setting, signal, strace, text};

const KILLED: i32 = 9;

/// How the modules are mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Private,
    Shared,
}

impl Mode {
    fn of(self, command: &mut Command) {
        if self == Self::Shared {
            command.env("CYCLE_SHARED", "1");
        }
    }
}

/// Runs a cycle under strace, which kills it at one call or lets this call fail. The log, if any, has this call.
fn traced(cycle: &Cycle, mode: Mode, injection: &str, store: &Path, log: Option<&Path>) -> Output {
    let mut command = Command::new("timeout");
    command
        .args(["--signal=ABRT", "60"])
        .arg("strace")
        .args(strace().get_args());
    if let Some(log) = log {
        command.arg("-o").arg(log);
    }
    command.args(["-e", &format!("inject={injection}")]);
    mode.of(&mut command);
    command.arg(cycle.path()).arg("run").arg(store);
    command.output().unwrap()
}

/// How often a process makes a call: in the loader, before `main`, and in total.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    loader: u64,
    all: u64,
}

/// How often a cycle makes each call.
fn counted(cycle: &Cycle, mode: Mode, directory: &Path) -> BTreeMap<String, Count> {
    let (store, log) = (directory.join("counted"), directory.join("log"));
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(&log);
    mode.of(&mut command);
    command.arg(cycle.path()).arg("run").arg(&store);
    support::run(&mut command);
    let (mut counts, mut begun) = (BTreeMap::<_, Count>::new(), false);
    for line in std::fs::read_to_string(log).unwrap().lines() {
        let call = line
            .split_once(' ')
            .map_or(line, |(_, call)| call.trim_start());
        if let Some((name, _)) = call.split_once('(') {
            let count = counts.entry(name.to_owned()).or_default();
            count.all += 1;
            begun |= name == BEGUN;
            count.loader += u64::from(!begun);
        }
    }
    assert!(begun, "cycle.c does not call {BEGUN}");
    std::fs::remove_dir_all(&store).unwrap();
    counts
}

/// The results of cycles that strace was to kill.
#[derive(Default)]
struct Killed {
    private: u64,
    shared: u64,
    unkilled: u64,
    acknowledged: u64,
}

impl Killed {
    /// Kills a cycle before each of these calls, and checks what the cycle leaves in `store`.
    fn each<'a>(
        cycle: &Cycle,
        store: &Path,
        calls: impl Iterator<Item = &'a (Mode, String, u64)>,
    ) -> Self {
        let mut killed = Self::default();
        for (mode, call, number) in calls {
            let injection = format!("{call}:signal=KILL:when={number}");
            let output = traced(cycle, *mode, &injection, store, None);
            let said = Said::of(&output);
            let what = || format!("{mode:?}, killed before {call} {number}: {}", text(&output));
            if signal(output.status) != Some(KILLED) {
                // The number of calls differs between runs, so this run may not have reached the call.
                assert!(output.status.success(), "{}", what());
                killed.unkilled += 1;
            } else if *mode == Mode::Private {
                killed.private += 1;
            } else {
                killed.shared += 1;
            }
            killed.acknowledged += said.made + said.gone;
            cycle.check(store, said.killed(), &what);
            if store.exists() {
                std::fs::remove_dir_all(store).unwrap();
            }
        }
        killed
    }

    fn add(&mut self, other: &Self) {
        self.private += other.private;
        self.shared += other.shared;
        self.unkilled += other.unkilled;
        self.acknowledged += other.acknowledged;
    }
}

#[test]
fn promise_1_killed_before_every_system_call() {
    let directory = scratch();
    let cycle = Cycle::build(directory.path());
    let (mut names, mut calls) = (BTreeSet::new(), Vec::new());
    for mode in [Mode::Private, Mode::Shared] {
        // Shared mode runs mostly the same code, so one call in five is tried there. VMSTORE_LONG tries all.
        let step = if mode == Mode::Shared && setting("VMSTORE_LONG", 1) == 1 {
            5
        } else {
            1
        };
        let counts = counted(&cycle, mode, directory.path());
        let all = counts
            .iter()
            .flat_map(|(call, count)| (1..=count.all).map(|number| (mode, call.clone(), number)));
        calls.extend(all.step_by(step));
        names.extend(counts.into_keys());
    }
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let mut killed = Killed::default();
    std::thread::scope(|scope| {
        let start = |worker| {
            let store = directory.path().join(format!("store-{worker}"));
            let (cycle, own) = (&cycle, calls.iter().skip(worker).step_by(workers));
            scope.spawn(move || Killed::each(cycle, &store, own))
        };
        for worker in (0..workers).map(start).collect::<Vec<_>>() {
            match worker.join() {
                Ok(part) => killed.add(&part),
                Err(why) => std::panic::resume_unwind(why),
            }
        }
    });
    let Killed {
        private,
        shared,
        unkilled,
        acknowledged,
    } = killed;
    println!(
        "{private} kills, one before each system call ({} different ones) of a cycle of {STEPS} commits, {DELETIONS} deletions \
         and a compaction, and {shared} more in shared mode: {acknowledged} commits and deletions acknowledged, 0 lost; \
         {unkilled} ended before",
        names.len()
    );
    assert!(private > 1200 && shared > 200 && acknowledged > private && unkilled < 10);
}

/// The system calls that can fail, each with its errors.
const CALLS: [(&str, &[&str]); 29] = [
    ("openat", &["ENOSPC", "EMFILE", "EIO", "ENOMEM", "EDQUOT"]),
    ("mkdir", &["ENOSPC", "EDQUOT", "EIO", "EMLINK"]),
    ("mkdirat", &["ENOSPC", "EDQUOT", "EIO"]),
    ("newfstatat", &["EIO", "ENOMEM"]),
    ("statx", &["EIO", "ENOSYS", "ENOMEM"]),
    ("pwritev", &["ENOSPC", "EIO", "EINTR", "EFBIG", "EDQUOT"]),
    ("pread64", &["EIO", "EINTR", "ENOMEM"]),
    ("fdatasync", &["EIO", "ENOSPC", "EDQUOT", "EINTR"]),
    ("fsync", &["EIO", "ENOSPC", "EDQUOT", "EINTR"]),
    ("sync_file_range", &["EIO", "ENOSPC", "EOPNOTSUPP"]),
    ("close", &["EIO", "EINTR", "EDQUOT"]),
    ("fcntl", &["EINVAL", "EPERM"]),
    ("renameat", &["ENOSPC", "EIO", "EDQUOT"]),
    ("linkat", &["EMLINK", "ENOSPC", "EPERM"]),
    ("symlinkat", &["ENOSPC", "EIO"]),
    ("readlinkat", &["EIO", "ENOMEM"]),
    ("unlinkat", &["EIO", "ENOSPC"]),
    ("ftruncate", &["EIO", "ENOSPC", "EFBIG"]),
    ("fallocate", &["ENOSPC", "EOPNOTSUPP", "EINTR", "EFBIG"]),
    ("getdents64", &["EIO", "ENOMEM"]),
    ("mmap", &["ENOMEM"]),
    ("munmap", &["ENOMEM"]),
    ("mprotect", &["ENOMEM"]),
    ("madvise", &["ENOMEM", "EINVAL"]),
    // brk fails by returning another end of the heap than the caller asked for.
    ("brk", &["retval=0"]),
    ("userfaultfd", &["EPERM", "ENOSYS", "EMFILE", "ENOMEM"]),
    ("ioctl", &["EINVAL", "ENOMEM"]),
    ("flock", &["EINTR", "ENOLCK"]),
    ("memfd_create", &["EMFILE", "ENOMEM"]),
];

/// `main` of cycle.c makes this call first. Nothing else makes this call.
const BEGUN: &str = "getppid";

/// The calls that are not made to fail. They begin or end a process or a thread, cannot fail with their arguments, or
/// communicate with this test. `read` reads facts about the kernel, and nothing can replace `getrandom`.
const OTHERS: [&str; 18] = [
    "access",
    "arch_prctl",
    "execve",
    "exit_group",
    "getpid",
    BEGUN,
    "getrandom",
    "poll",
    "prlimit64",
    "read",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "set_robust_list",
    "set_tid_address",
    "sigaltstack",
    "sysinfo",
    "write",
];

/// Every error of every call of a cycle, in one mode. Calls of the loader are left out: if one of them fails, the loader
/// ends the process before the library is loaded.
fn failures(counts: &BTreeMap<String, Count>, mode: Mode) -> Vec<(Mode, String)> {
    for call in counts.keys() {
        let known = CALLS.iter().any(|(name, _)| name == call) || OTHERS.contains(&call.as_str());
        assert!(known, "{call}: no table says how this call fails");
    }
    let mut all = Vec::new();
    for (call, errors) in CALLS {
        // In shared mode, the file under the mapping has no second name: it may share blocks with other files instead.
        let Some(count) = counts.get(call) else {
            assert!(
                mode == Mode::Shared && call == "linkat",
                "{call} is not made any more"
            );
            continue;
        };
        for number in count.loader + 1..=count.all {
            for error in errors {
                for ever in ["", "+"] {
                    // The library repeats a call that a signal interrupts, without a limit.
                    if (*error, ever) != ("EINTR", "+") {
                        let how = if error.contains('=') {
                            (*error).to_owned()
                        } else {
                            format!("error={error}")
                        };
                        all.push((mode, format!("{call}:{how}:when={number}{ever}")));
                    }
                }
            }
        }
    }
    all
}

#[test]
fn promise_3_system_calls_fail_in_their_turn() {
    let directory = scratch();
    let cycle = Cycle::build(directory.path());
    let wanted = usize::try_from(setting("VMSTORE_FAILING_CALLS", 500)).unwrap();
    let modes = [Mode::Private, Mode::Shared];
    let all = modes.map(|mode| failures(&counted(&cycle, mode, directory.path()), mode));
    let all = all.concat();
    // A sample from the whole list: the step is a prime, so it has no common factor with the length of the list.
    let sample = (0..all.len()).map(|number| &all[number * 7919 % all.len()]);
    let (mut runs, mut through, mut given_up, mut failed, mut syncs) = (0, 0, 0, 0, 0);
    let log = directory.path().join("log");
    for (mode, injection) in sample {
        if runs == wanted {
            break;
        }
        let store = directory.path().join("store");
        let output = traced(&cycle, *mode, injection, &store, Some(&log));
        let what = || format!("{mode:?}, {injection}: {}", text(&output));
        let said = Said::of(&output);
        match output.status.code() {
            Some(0) => through += 1,
            Some(3) => given_up += 1,
            _ => panic!("{}", what()),
        }
        // The number of calls differs between runs, so this run may not have reached the call.
        if std::fs::read_to_string(&log)
            .unwrap()
            .contains("(INJECTED)")
        {
            failed += 1;
            // A signal is no failure of a sync: the sync is repeated.
            let sync = injection.starts_with("fsync") || injection.starts_with("fdatasync");
            if sync && !injection.contains("EINTR") {
                assert!(
                    said.failed > 0,
                    "no call reported a failed sync: {}",
                    what()
                );
                syncs += 1;
            }
        }
        cycle.check(&store, said.killed(), &what);
        runs += 1;
        if store.exists() {
            std::fs::remove_dir_all(&store).unwrap();
        }
    }
    println!(
        "{runs} of {} failing system calls tried, {failed} of them did fail, {syncs} of them syncs, each reported: \
         {through} cycles got through, {given_up} gave up because calls kept failing; no signal, nothing lost, no wrong \
         byte, all take a new commit",
        all.len()
    );
    assert!(runs == wanted.min(all.len()) && through > 20 && given_up > 20);
    assert!(failed > runs - runs / 20 && syncs > runs / 100);
}
