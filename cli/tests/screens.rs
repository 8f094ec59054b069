//! Snapshots of the screens: each store on 80 and on 160 columns, with and without colours.
//!
//! `cargo insta review`, or INSTA_UPDATE=always, accepts intended changes.

mod support;

use std::fmt::Write;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use support::{PAGE, Rig, Vmm, run, vmstore};
use vmstore::{OpenOptions, Store};

/// A label outside ASCII, with characters that take two columns.
const LABEL: &str = "p\u{e4}tch \u{4e2d}\u{6587}";

/// Unique ids differ from run to run. Returns pairs of an id and the text that replaces it.
fn masks(store: &Path) -> Vec<(String, String)> {
    let options = OpenOptions {
        salvage: true,
        ..OpenOptions::default()
    };
    let Ok(store) = Store::open(store, options) else {
        return Vec::new();
    };
    let mut masks = Vec::new();
    for commit in store.commits().expect("they can be listed") {
        let info = store.commit_info(commit).expect("it is there");
        let id: String = info
            .unique_id
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let stand_in = format!("{commit:08}").repeat(4);
        masks.push((id.clone(), stand_in.clone()));
        masks.push((id[..8].to_owned(), stand_in[..8].to_owned()));
    }
    masks
}

/// Replaces ids and times, which differ from run to run.
fn mask(text: &str, masks: &[(String, String)]) -> String {
    let mut text = text.to_owned();
    for (found, instead) in masks {
        text = text.replace(found, instead);
    }
    let lines =
        text.lines().map(
            |line| match line.find("20").filter(|_| line.contains("made   ")) {
                // The time has as many characters as this.
                Some(at) => format!(
                    "{}2026-01-02 03:04:05 +00:00{}",
                    &line[..at],
                    &line[at + 26..]
                ),
                None => line.to_owned(),
            },
        );
    lines.collect::<Vec<_>>().join("\n")
}

/// Compares the output and the exit codes of commands with their snapshots.
fn screens(name: &str, store: &Path, commands: &[&[&str]]) {
    let masks = masks(store);
    for (columns, locale) in [(80, "C.UTF-8"), (160, "C.UTF-8"), (80, "C")] {
        for colour in ["never", "always"] {
            if locale == "C" && colour == "always" {
                continue;
            }
            let mut shown = String::new();
            for arguments in commands {
                let mut command = vmstore(store, arguments);
                command
                    .env("COLUMNS", columns.to_string())
                    .env("LANG", locale);
                let (code, out, error) = run(command.args(["--color", colour]));
                let text = format!("{error}{out}");
                if locale == "C" {
                    // Labels are printed as they are.
                    assert!(text.replace(LABEL, "").is_ascii(), "{text}");
                }
                if colour == "never" {
                    assert!(!text.contains('\u{1b}'), "{text:?}");
                    for line in out.lines() {
                        assert!(line.chars().count() <= columns, "{columns} columns: {line}");
                        assert!(!line.ends_with(' '), "{line:?}");
                    }
                }
                let text = mask(&text, &masks);
                writeln!(
                    shown,
                    "$ vmstore {}\n{text}\n[{code}]\n",
                    arguments.join(" ")
                )
                .expect("a string grows");
            }
            // Escapes become visible text.
            let shown = shown.replace('\u{1b}', "^");
            let how = if locale == "C" { "ascii" } else { colour };
            insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
                insta::assert_snapshot!(format!("{name}-{columns}-{how}"), shown);
            });
        }
    }
}

#[test]
fn an_empty_store() {
    let rig = Rig::new();
    let path = rig.path("store");
    drop(Store::open(&path, OpenOptions::default()).expect("the store opens"));
    screens(
        "empty",
        &path,
        &[
            &["log"],
            &["log", "--json"],
            &["show"],
            &["diff", "1", "2"],
            &["verify"],
            &["du", "--json"],
        ],
    );
}

#[test]
fn a_linear_store() {
    let rig = Rig::new();
    let path = rig.path("store");
    let vmm = Vmm::new(&path, 1024);
    vmm.write(&vmm.ram, 0, 256, 1);
    vmm.write(&vmm.cpu, 0, 1, 1);
    vmm.commit("booted");
    for n in 2..=5u8 {
        vmm.write(&vmm.ram, u64::from(n) * 100, u64::from(n) * 9, n);
        vmm.commit(if n == 4 {
            "before the upgrade of everything that has a package, and of more than fits a line"
        } else {
            ""
        });
    }
    vmm.persist();
    vmm.write(&vmm.ram, 7, 1, 9);
    vmm.write(&vmm.cpu, 3, 1, 9);
    vmm.commit("not persisted");
    screens(
        "linear",
        &path,
        &[
            &["log"],
            &["log", "-n", "2"],
            &["show"],
            &["show", "booted"],
            &["diff", "1", "head"],
            &["diff", "5", "6", "--hex", "--lines", "2", "--module", "cpu"],
            &["diff", "5", "5"],
            &["verify"],
            &["verify", "head~2", "--metadata"],
            &["du"],
        ],
    );
}

/// Makes 30 commits. Every fourth commit begins a branch at an earlier commit.
fn branching(path: &Path) -> Vmm {
    let vmm = Vmm::new(path, 65_536);
    let mut state = 7u64;
    let mut below = |limit: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % limit
    };
    for n in 1..=30u64 {
        if n > 3 && n % 4 == 0 {
            vmm.restore(1 + below(n - 1));
        }
        vmm.write(&vmm.ram, below(65_000), 1 + below(500), n as u8);
        if n % 5 == 0 {
            vmm.write(&vmm.cpu, below(4), 1, n as u8);
        }
        let label = match n {
            1 => "boot",
            12 => "login",
            20 => LABEL,
            _ => "",
        };
        assert_eq!(vmm.commit(label), n);
    }
    vmm.persist();
    vmm.restore(12);
    vmm
}

#[test]
fn a_branching_store_of_30_commits() {
    let rig = Rig::new();
    let path = rig.path("store");
    drop(branching(&path));
    screens(
        "branching",
        &path,
        &[
            &["log"],
            &["show", "26"],
            &["diff", "login", "30", "--rows", "8"],
            &["du"],
        ],
    );
}

#[test]
fn a_broken_store() {
    let rig = Rig::new();
    let path = rig.path("store");
    let vmm = Vmm::new(&path, 256);
    for n in 1..=6u8 {
        if n == 5 {
            vmm.restore(2);
        }
        vmm.write(&vmm.ram, u64::from(n) * 10, 4, n);
        vmm.write(&vmm.cpu, u64::from(n % 4), 1, n);
        vmm.commit(if n == 4 { "precious" } else { "" });
    }
    vmm.persist();
    drop(vmm);
    // One file has a wrong byte, and another file is missing.
    let file = File::options()
        .write(true)
        .open(path.join("ram_Commit3"))
        .expect("it is there");
    file.write_all_at(b"!", PAGE + 5)
        .expect("it can be written");
    std::fs::remove_file(path.join("cpu_Commit6")).expect("it is there");
    screens(
        "broken",
        &path,
        &[
            &["log"],
            &["show", "6"],
            &["verify"],
            &["diff", "1", "6"],
            &["du"],
        ],
    );
}

#[test]
fn a_store_with_a_broken_history() {
    let rig = Rig::new();
    let path = rig.path("store");
    let vmm = Vmm::new(&path, 64);
    for n in 1..=6u8 {
        vmm.write(&vmm.ram, u64::from(n), 1, n);
        vmm.commit("");
    }
    // One persist for all commits: small commits that are persisted one by one would stay in the journal.
    vmm.persist();
    drop(vmm);
    let commits = path.join("commits");
    let length = std::fs::metadata(&commits).expect("it is there").len();
    let file = File::options()
        .write(true)
        .open(&commits)
        .expect("it is there");
    file.write_all_at(&[0xff; 8], length / 2)
        .expect("it can be written");
    screens(
        "cut",
        &path,
        &[&["log"], &["verify"], &["show", "4"], &["restore", "1"]],
    );
}
