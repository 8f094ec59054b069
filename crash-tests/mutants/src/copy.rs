//! The copy of the library with all mutants in it, and its build.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::mutate::mutate;
use crate::{Mutant, run};

/// Writes these mutants into the copy. Returns those that have no place there.
pub fn write(library: &Path, copy: &Path, mutants: &[&Mutant]) -> Vec<usize> {
    let mut by_file: BTreeMap<&str, Vec<&Mutant>> = BTreeMap::new();
    for mutant in mutants {
        by_file.entry(&mutant.file).or_default().push(mutant);
    }
    let mut left = Vec::new();
    for (file, mutants) in by_file {
        let source = fs::read_to_string(library.join(file)).expect("a source");
        let (text, without) = mutate(&source, &mutants);
        left.extend(without);
        fs::write(copy.join(file), text).expect("a source of the copy");
    }
    left
}

pub fn prepare(library: &Path, copy: &Path) {
    run(Command::new("mkdir").arg("-p").arg(copy));
    let mut cp = Command::new("cp");
    cp.arg("-a").arg("-t").arg(copy);
    for name in [
        "Cargo.lock",
        "src",
        "build.rs",
        "cbindgen.toml",
        "cmake",
        "include",
        "tests",
        "fuzz",
        "examples",
    ] {
        cp.arg(library.join(name));
    }
    run(&mut cp);
    // The manifest of the library alone.
    let manifest = fs::read_to_string(library.join("Cargo.toml")).expect("the manifest");
    let manifest: Vec<&str> = manifest
        .lines()
        .filter(|line| !line.starts_with("members") && !line.starts_with("default-members"))
        .collect();
    fs::write(copy.join("Cargo.toml"), manifest.join("\n") + "\n").expect("the manifest");
    let root = copy.join("src/lib.rs");
    let mut text = fs::read_to_string(&root).expect("the root");
    text.push_str(
        "
/// Whether this mutant is chosen.
#[allow(missing_docs, unreachable_pub, dead_code)]
#[inline]
pub(crate) fn mutated(number: u32) -> bool {
    static CHOSEN: std::sync::LazyLock<u32> = std::sync::LazyLock::new(|| {
        std::env::var(\"VMSTORE_MUTANT\").map_or(0, |number| number.parse().unwrap())
    });
    *CHOSEN == number
}
",
    );
    fs::write(&root, text).expect("the root");
}

/// The test programs, by the name of their target.
pub type Programs = BTreeMap<String, PathBuf>;

/// Builds the tests. Returns the programs, or the mutants that do not compile.
pub fn build(
    copy: &Path,
    library: &Path,
    mutants: &[&Mutant],
) -> Result<Programs, BTreeSet<usize>> {
    let output = Command::new("cargo")
        .current_dir(copy)
        .args(["test", "--lib", "--test", "golden"])
        .args(["--no-run", "--message-format=json"])
        .env(
            "RUSTFLAGS",
            "--cap-lints warn -Awarnings -Aarithmetic_overflow -Aunconditional_panic",
        )
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_TARGET_DIR", copy.join("target"))
        .stderr(Stdio::null())
        .output()
        .expect("cargo");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let (mut bad, mut programs) = (BTreeSet::new(), Programs::new());
    for line in text.lines() {
        let message: Value = serde_json::from_str(line).expect("JSON");
        if message["reason"] == "compiler-artifact"
            && let Some(program) = message["executable"].as_str()
        {
            let name = message["target"]["name"].as_str().expect("a name");
            programs.insert(name.to_owned(), program.into());
        }
        if message["reason"] != "compiler-message" || message["message"]["level"] != "error" {
            continue;
        }
        let spans = message["message"]["spans"].as_array().expect("spans");
        let mut found = false;
        for span in spans {
            let file = span["file_name"].as_str().unwrap_or_default();
            let text = fs::read_to_string(copy.join(file)).unwrap_or_default();
            let start = span["byte_start"].as_u64().unwrap_or(0) as usize;
            let end = span["byte_end"].as_u64().unwrap_or(0) as usize;
            // The first mutant's number inside the span of the error, or the last one before it.
            let upto = text.get(..end).unwrap_or_default();
            let inside = upto.get(start..).unwrap_or_default();
            let near = match inside.find("crate::mutated(") {
                Some(at) => inside.get(at..),
                None => upto.rfind("crate::mutated(").and_then(|at| upto.get(at..)),
            };
            let number = near.and_then(|near| {
                near["crate::mutated(".len()..]
                    .split(')')
                    .next()?
                    .parse()
                    .ok()
            });
            if let Some(number) = number
                && span["is_primary"] == true
                && mutants.iter().any(|mutant| mutant.number == number)
            {
                bad.insert(number);
                found = true;
            }
        }
        if !found {
            eprintln!(
                "{}",
                message["message"]["rendered"].as_str().unwrap_or_default()
            );
        }
    }
    if output.status.success() {
        return Ok(programs);
    }
    assert!(
        !bad.is_empty(),
        "the copy of {} does not build, and no mutant is the reason",
        library.display()
    );
    Err(bad)
}
