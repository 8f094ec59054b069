//! The order of the system calls that make a directory a store, seen by strace. All files of a store or a clone are durable
//! before its identity gets its name, and this name is durable before the call returns. Tests of the library check the
//! same order on the file traits; this test checks the implementation of the traits.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use support::{Cycle, run, scratch, strace};

/// The changes that are not durable yet.
#[derive(Default)]
struct Pending {
    /// Files with writes that no sync has followed.
    files: BTreeSet<String>,
    /// Names that no sync of their directory has followed.
    names: BTreeSet<(String, String)>,
}

/// The path that strace prints after a descriptor: `7</a/b>`.
fn path_of(argument: &str) -> Option<&str> {
    argument
        .split_once('<')?
        .1
        .split_once('>')
        .map(|(path, _)| path)
}

fn unquoted(argument: &str) -> &str {
    argument.trim().trim_matches('"')
}

struct Trace {
    pending: Pending,
    /// The file of each descriptor.
    open: BTreeMap<String, String>,
    synced: u64,
    linked: u64,
}

impl Trace {
    /// One system call: its name, its arguments, and what it returned.
    fn follow(&mut self, call: &str, arguments: &[&str], returned: &str) {
        let path = arguments
            .first()
            .and_then(|first| path_of(first))
            .unwrap_or_default();
        let name = |at: usize| {
            (
                path_of(arguments[at - 1]).unwrap().to_owned(),
                unquoted(arguments[at]).to_owned(),
            )
        };
        match call {
            "mkdir" => {
                let (parent, name) = unquoted(arguments[0]).rsplit_once('/').unwrap();
                self.pending
                    .names
                    .insert((parent.to_owned(), name.to_owned()));
            }
            "mkdirat" => {
                self.pending.names.insert(name(1));
            }
            "openat" => {
                let (number, path) = returned.split_once('<').unwrap();
                self.open
                    .insert(number.to_owned(), path.trim_end_matches('>').to_owned());
                if arguments[2].contains("O_CREAT") {
                    self.pending.names.insert(name(1));
                }
            }
            // Nothing reads this file after a power cut.
            "pwritev" if path.ends_with("/.vmstore/high-water") => {}
            "pwritev" | "ftruncate" | "fallocate" if !path.starts_with("/memfd:") => {
                self.pending.files.insert(path.to_owned());
            }
            "linkat" => {
                let number = unquoted(arguments[1]).rsplit_once('/').unwrap().1;
                // The process that reads a store does not know whether the store's files were ever synced.
                self.pending.files.insert(self.open[number].clone());
                self.pending.names.insert(name(3));
                self.linked += 1;
            }
            "renameat" => {
                let (from, to) = (name(1), name(3));
                self.pending.names.remove(&from);
                self.pending.names.insert(to);
            }
            "unlinkat" => {
                self.pending.names.remove(&name(1));
            }
            "fsync" | "fdatasync" => {
                self.synced += 1;
                self.pending.files.remove(path);
                self.pending
                    .names
                    .retain(|(directory, _)| directory != path);
            }
            "write" | "pwrite64" | "copy_file_range" | "sendfile"
                if path.contains("/.vmstore") || path.contains("_Commit") =>
            {
                panic!("{call} to {path}: it is not known here")
            }
            _ => {}
        }
    }
}

/// Follows a log of strace until the store in `made` is finished. Returns the number of syncs and of links.
fn follow(log: &Path, made: &Path) -> (u64, u64) {
    let hidden = made.join(".vmstore").display().to_string();
    let mut trace = Trace {
        pending: Pending::default(),
        open: BTreeMap::new(),
        synced: 0,
        linked: 0,
    };
    let mut is_a_store = false;
    for line in std::fs::read_to_string(log).unwrap().lines() {
        assert!(!line.contains("unfinished"), "two threads at once: {line}");
        let Some((_, line)) = line.split_once(' ') else {
            continue;
        };
        let Some((call, rest)) = line.trim_start().split_once('(') else {
            continue;
        };
        let Some((arguments, returned)) = rest.rsplit_once(" = ") else {
            continue;
        };
        if returned.starts_with('-') {
            continue;
        }
        let arguments = arguments.trim_end().trim_end_matches(')');
        let arguments: Vec<&str> = arguments.split(", ").collect();
        if call == "renameat" && arguments[3].contains("identity") {
            let names = &trace.pending.names;
            // Two names may still be pending: that of the directory `.vmstore`, and the old name of the identity.
            let only = |(directory, name): &(String, String)| {
                name == ".vmstore" || (*directory == hidden && name == "new-identity")
            };
            assert!(
                trace.pending.files.is_empty(),
                "not durable: {:?}",
                trace.pending.files
            );
            assert!(names.iter().all(only), "not durable: {names:?}");
            is_a_store = true;
        }
        let done = is_a_store && trace.pending.names.is_empty();
        trace.follow(call, &arguments, returned);
        if done && call == "openat" && arguments[2].contains("O_CREAT") {
            // The first commit begins.
            return (trace.synced, trace.linked);
        }
        assert!(
            !(is_a_store && call == "openat" && arguments[2].contains("O_CREAT")),
            "in use, and not durable"
        );
    }
    assert!(is_a_store, "no identity was made");
    assert!(
        trace.pending.names.is_empty(),
        "in the end not durable: {:?}",
        trace.pending.names
    );
    (trace.synced, trace.linked)
}

#[test]
fn promise_2_what_makes_a_store_is_durable_before_it_is_one() {
    let directory = scratch();
    let cycle = Cycle::build(directory.path());
    let [store, clone, log] = ["store", "clone", "log"].map(|name| directory.path().join(name));
    let traced = |arguments: &[&std::ffi::OsStr]| {
        let mut command: Command = strace();
        command.args(["-y", "-s", "300", "-o"]).arg(&log);
        run(command.arg(cycle.path()).args(arguments));
    };
    traced(&["run".as_ref(), store.as_ref()]);
    let (synced, _) = follow(&log, &store);
    println!("a store: its directory's name, and {synced} syncs in all, before it is one");
    assert!(synced > 4);
    traced(&["clone".as_ref(), store.as_ref(), clone.as_ref()]);
    let (synced, linked) = follow(&log, &clone);
    println!(
        "a reader's clone: {linked} files of the other store and what is its own, {synced} syncs in all"
    );
    assert!(linked > 3 && synced > linked + 6);
}
