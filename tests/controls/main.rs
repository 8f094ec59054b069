//! Negative controls: each sync, ordering, checksum and precaution of the library is taken out, one at a time, and the
//! tests in process must fail. `list` has each control: what it takes out, and which tests must fail. The run prints a
//! table of the controls and of the tests that failed; docs/reliability.md has the counts by group.
//!
//! A copy of the source has a switch at each place, and is built once. A variable of the environment says which switch
//! is off. The run takes minutes, and is made when asked for:
//! `cargo test --test controls -- --ignored --nocapture`.
//! `VMSTORE_CONTROLS=WORDS,WORDS` chooses the controls that have one of these texts in their names.

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use support::{read, source};

/// What is taken out.
#[derive(Default)]
struct Control {
    name: String,
    /// The tests that must fail without it, as a filter of `cargo test`.
    search: String,
    file: String,
    /// The text in the source, and the text in its place.
    edits: Vec<(String, String)>,
}

/// Which control is taken out: its number, from 1 on.
const SWITCH: &str = "VMSTORE_TAKEN_OUT";

/// What the copy has in addition to the library.
const SWITCHES: &str = r#"
/// Whether a negative control is taken out.
pub(crate) fn taken_out(number: usize) -> bool {
    static WHICH: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    number == *WHICH.get_or_init(|| {
        let which = std::env::var("VMSTORE_TAKEN_OUT");
        which.map_or(0, |number| number.parse().unwrap())
    })
}
"#;

/// The files that have something to take out, with the switches of all controls.
fn switched(all: &[Control]) -> BTreeMap<&str, String> {
    let mut files = BTreeMap::new();
    for (at, control) in all.iter().enumerate() {
        let file = files.entry(&*control.file);
        let text = file.or_insert_with(|| read(source(&control.file)));
        for (from, to) in &control.edits {
            let switch = format!("crate::taken_out({})", at + 1);
            assert!(text.contains(from), "{}: {from}", control.name);
            *text = text.replacen(from, &to.replace("OUT", &switch), 1);
        }
    }
    files
}

fn controls() -> Vec<Control> {
    let text = read(source("tests/controls/list"));
    let mut all: Vec<Control> = Vec::new();
    let mut last = "";
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(from) = line.strip_prefix("- ") {
            let edits = &mut all.last_mut().expect("a name comes first").edits;
            if last.starts_with('-') {
                let lines = &mut edits.last_mut().unwrap().0;
                *lines = format!("{lines}\n{from}");
            } else {
                edits.push((from.to_owned(), String::new()));
            }
        } else if let Some(to) = line.strip_prefix('+') {
            let edits = &mut all.last_mut().expect("a name comes first").edits;
            let lines = &mut edits.last_mut().expect("- comes before +").1;
            *lines = format!("{lines}{}\n", to.trim_start_matches(' '));
        } else if let Some(search) = line.strip_prefix("  search: ") {
            all.last_mut().expect("a name comes first").search = search.into();
        } else if let Some(file) = line.strip_prefix("  file: ") {
            all.last_mut().expect("a name comes first").file = file.into();
        } else if !line.is_empty() {
            all.push(Control {
                name: line.to_owned(),
                ..Control::default()
            });
        }
        last = line;
    }
    all
}

/// The tests that fail with one control taken out; 0: with no control taken out. Empty when the copy does not build.
fn failures(tree: &Path, target: &Path, number: usize, searches: &[&str]) -> Vec<String> {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["test", "--release", "--lib", "--manifest-path"])
        .arg(tree.join("Cargo.toml"))
        .arg("--")
        .args(searches)
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env("VMSTORE_CRASHES", "8")
        .env("VMSTORE_STEPS", "3")
        .env("RUST_BACKTRACE", "0")
        .env(SWITCH, number.to_string());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("test result: "), "{complaint}");
    let failed = text.lines().filter_map(|line| {
        let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
        Some(name.replace("store::", "").replace("tests::", ""))
    });
    let mut failed: Vec<String> = failed.collect();
    failed.sort();
    failed.dedup();
    failed
}

/// Every text of the list occurs once: a control that takes out nothing would prove nothing.
#[test]
fn every_control_takes_something_out() {
    let mut wrong = Vec::new();
    let all = controls();
    assert!(all.len() > 70, "only {} controls", all.len());
    for control in &all {
        let (name, file) = (&control.name, &control.file);
        if control.edits.is_empty() || control.search.is_empty() {
            wrong.push(format!("{name}: it says nothing"));
        }
        for (from, to) in &control.edits {
            let found = read(source(file)).matches(from.as_str()).count();
            if found != 1 {
                wrong.push(format!("{name}: {file} has {found} times: {from}"));
            }
            assert!(to.contains("OUT"), "{name}: the text has no switch");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(switched(&all).len() > 10);
}

#[test]
#[ignore = "builds the library again, and takes minutes"]
fn every_precaution_that_is_taken_out_is_missed() {
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("vmstore");
    std::fs::create_dir(&tree).unwrap();
    for entry in std::fs::read_dir(source("")).unwrap() {
        let name = entry.unwrap().file_name();
        if name != "target" && name != ".git" {
            let mut copy = Command::new("cp");
            copy.arg("-r").arg(source("").join(&name)).arg(&tree);
            assert!(copy.status().unwrap().success(), "{name:?}");
        }
    }
    let target = scratch.path().join("target");
    let words = std::env::var("VMSTORE_CONTROLS").unwrap_or_default();
    let all = controls();
    for (file, text) in switched(&all) {
        std::fs::write(tree.join(file), text).unwrap();
    }
    let root = tree.join("src/lib.rs");
    std::fs::write(&root, read(&root) + SWITCHES).unwrap();
    let chosen = all.iter().enumerate();
    let chosen: Vec<_> = chosen
        .filter(|(_, control)| words.split(',').any(|words| control.name.contains(words)))
        .collect();
    assert!(!chosen.is_empty(), "no control has {words} in its name");
    let mut searches: Vec<&str> = chosen.iter().map(|(_, c)| &*c.search).collect();
    searches.sort_unstable();
    searches.dedup();
    let sound = failures(&tree, &target, 0, &searches);
    assert!(sound.is_empty(), "with everything in place: {sound:?}");
    let mut missed = Vec::new();
    println!("| taken out | from | missed by |\n|---|---|---|");
    for (at, control) in &chosen {
        let (name, begun) = (&control.name, Instant::now());
        let failed = failures(&tree, &target, at + 1, &[&control.search]);
        if failed.is_empty() {
            missed.push(name);
        }
        let by = if failed.is_empty() {
            "NOTHING".to_owned()
        } else {
            failed.join(", ")
        };
        println!("| {name} | {} | {by} |", control.file);
        eprintln!("{name}: {:.0} s", begun.elapsed().as_secs_f64());
    }
    println!(
        "{} controls, {} caught",
        chosen.len(),
        chosen.len() - missed.len()
    );
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
