//! Runs all saved inputs of the fuzzers again, without a fuzzer.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::TARGETS;

/// The saved inputs of a target.
pub(crate) fn corpus(target: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("fuzz/corpus").join(target)
}

#[test]
fn the_saved_inputs_of_the_fuzzers_hold() {
    for target in TARGETS {
        let entries = fs::read_dir(corpus(target.name)).unwrap();
        let mut inputs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        inputs.sort();
        for input in &inputs {
            let bytes = fs::read(input).unwrap();
            let run = AssertUnwindSafe(|| (target.run)(&bytes));
            assert!(catch_unwind(run).is_ok(), "{}", input.display());
        }
        println!("{}: {} inputs held", target.name, inputs.len());
        assert!(inputs.len() >= 10, "{} has lost its inputs", target.name);
    }
}
