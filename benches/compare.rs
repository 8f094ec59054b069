//! Two commits of the project compared: both are built with these rows and run in turns.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::contest::Times;
use crate::workspace;

/// Turns of each commit.
const TURNS: usize = 3;
/// The ratio that counts as a regression. On a quiet machine turns of one commit differ by less.
const REGRESSION: f64 = 1.1;

fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Builds the rows of this tree with the library of a commit; returns the program.
fn build(commit: &str) -> PathBuf {
    let git = || {
        let mut git = Command::new("git");
        git.arg("-C").arg(workspace());
        git
    };
    let id = run(git()
        .args(["rev-parse", "--short=12", "--verify"])
        .arg(format!("{commit}^{{commit}}")));
    let tree = workspace().join("target/compare").join(id.trim());
    if !tree.exists() {
        run(git()
            .args(["worktree", "add", "--detach", "--force"])
            .arg(&tree)
            .arg(id.trim()));
    }
    // Both use the rows of this tree. Only the library is that of the commit.
    let benches = tree.join("benches");
    let _ = std::fs::remove_dir_all(&benches);
    run(Command::new("cp")
        .arg("-r")
        .arg(workspace().join("benches"))
        .arg(&benches));
    let manifest = tree.join("benches/Cargo.toml");
    let own = std::fs::read_to_string(&manifest).expect("the manifest");
    std::fs::write(
        &manifest,
        format!("{own}\n[workspace]\n\n[profile.release]\ndebug = 1\n"),
    )
    .expect("the manifest");
    println!("building {commit} ({})", id.trim());
    let target = workspace().join("target/compare/build").join(id.trim());
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args([
        "build",
        "--release",
        "--benches",
        "--message-format=json",
        "--manifest-path",
    ]);
    let messages = run(cargo.arg(&manifest).arg("--target-dir").arg(target));
    let program = messages
        .lines()
        .filter(|line| line.contains("\"name\":\"contests\""))
        .find_map(|line| {
            let (_, rest) = line.split_once("\"executable\":\"")?;
            Some(PathBuf::from(rest.split('"').next()?))
        });
    program.expect("cargo names the program")
}

type Figures = BTreeMap<String, (Times, Times)>;

fn turn(program: &Path, rows: &[String], smoke: bool, seed: u64, into: &mut Figures) {
    let mut command = Command::new(program);
    command
        .args(["--raw", "--seed", &seed.to_string()])
        .args(rows);
    if smoke {
        command.arg("--smoke");
    }
    for line in run(&mut command).lines() {
        let cells: Vec<&str> = line.split('\t').collect();
        if let [row, case, median, best] = cells[..] {
            let entry = into.entry(format!("{row}: {case}")).or_default();
            entry.0.push(median.parse().unwrap_or(f64::NAN));
            entry.1.push(best.parse().unwrap_or(f64::NAN));
        }
    }
}

/// Prints each figure's ratio, new to old.
pub fn compare(old: &str, new: &str, rows: &[String], smoke: bool) {
    let programs = [build(old), build(new)];
    let mut figures = [Figures::new(), Figures::new()];
    for number in 0..TURNS {
        for which in [number % 2, 1 - number % 2] {
            println!("turn {} of {TURNS}: {}", number + 1, [old, new][which]);
            turn(
                &programs[which],
                rows,
                smoke,
                number as u64 + 1,
                &mut figures[which],
            );
        }
    }
    let [before, after] = figures;
    println!(
        "{:<86} {:>12} {:>12} {:>8} {:>8}",
        "median of medians", old, new, "ratio", "at p10"
    );
    let mut worse = 0;
    for (case, (was, best)) in &before {
        let Some((is, now)) = after.get(case) else {
            continue;
        };
        // A rate is better when it is larger.
        let rate = case.ends_with("/s");
        let (ratio, at_best) = (is.median() / was.median(), now.at(0.0) / best.at(0.0));
        let slower = if rate { 1.0 / ratio } else { ratio };
        let mark = if slower > REGRESSION { "WORSE" } else { "" };
        worse += usize::from(slower > REGRESSION);
        println!(
            "{case:<86} {:>12.2} {:>12.2} {ratio:>8.2} {at_best:>8.2} {mark}",
            was.median(),
            is.median()
        );
    }
    println!(
        "{} figures, {worse} more than {REGRESSION} times worse",
        before.len()
    );
}
