//! Builds all mutants that cargo-mutants lists into one copy of the library, each behind a number, and runs the tests in
//! process with each of them.
//!
//! cargo-mutants builds the crate once for each mutant, which takes most of its time. Here each becomes
//! `if crate::mutated(N) { the mutant } else { the original }` in a copy of the source that is built once. The compiler
//! finds those that do not compile, and they are taken out, like the "unviable" ones of cargo-mutants.

mod copy;
mod mutate;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use copy::{Programs, build, prepare, write};
use mutate::Lines;

const USAGE: &str = "\
usage: vmstore-mutants LIBRARY COPY [--quick] [--only NUMBER,...] [FILE ...]
  LIBRARY   the project's directory
  COPY      a directory that is made for the mutated copy and its build. Its file `outcomes` has the results, from which
            a second run goes on. Its file `unbuilt` lists the mutants that no `if` can hold or that do not compile:
            cargo-mutants itself can try these
  --quick   only the quick tests: mutants that they miss are `left` for a run without this option
  FILE      as for `cargo mutants -f`; default: format, journal, layer, and of store the recovery, the inline files and
            the files that are written again";
const FILES: [&str; 11] = [
    "src/format/**",
    "src/journal/**",
    "src/layer/**",
    "src/store/open/inline_files.rs",
    "src/store/open/leftovers.rs",
    "src/store/open/recover.rs",
    "src/store/open/reread.rs",
    "src/store/open/whole.rs",
    "src/store/persist/inline.rs",
    "src/store/persist/rewrite.rs",
    "src/store/state/durability.rs",
];
/// The stages: program, filters of its tests, and a limit in seconds. Quick tests that most mutants fail come first, all
/// tests come last.
const STAGES: [(&str, &[&str], u64); 6] = [
    (
        LIBRARY,
        &[
            "format::",
            "layer::",
            "journal::",
            "page_set::",
            "::reserve",
            "::high_water",
            "::boots",
            "::leftovers",
            "::tests::inline",
        ],
        30,
    ),
    ("golden", &[], 60),
    (
        LIBRARY,
        &["::alone", "::imports", "::forged", "::damage", "::retaken"],
        240,
    ),
    (
        LIBRARY,
        &[
            "::dropped",
            "::ordering",
            "::writeback",
            "::fuzz",
            "::misuse",
            "::crash",
            "::merges",
        ],
        240,
    ),
    (
        LIBRARY,
        &[
            "::beside",
            "::explorer",
            "::clones",
            "::abandoned",
            "::waits",
        ],
        300,
    ),
    (LIBRARY, &[], 900),
];
/// The number of stages of `--quick`.
const QUICK: usize = 3;
const LIBRARY: &str = "vmstore";

struct Mutant {
    number: usize,
    file: String,
    name: String,
    genre: String,
    /// Bytes of the file.
    span: (usize, usize),
    replacement: String,
}

fn run(command: &mut Command) -> String {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn list(library: &Path, files: &[String]) -> Vec<Mutant> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(library);
    cargo.args(["mutants", "--list", "--json"]);
    for file in files {
        cargo.args(["-f", file]);
    }
    let all: Value = serde_json::from_str(&run(&mut cargo)).expect("JSON");
    let mut texts = BTreeMap::new();
    let list = all.as_array().expect("a list").iter().enumerate();
    list.map(|(number, mutant)| {
        let text = |key: &str| mutant[key].as_str().expect("a text").to_owned();
        let file = text("file");
        let lines = texts.entry(file.clone()).or_insert_with(|| {
            let source = fs::read_to_string(library.join(&file)).expect("a source");
            Lines::of(&source)
        });
        let at = |end: &str| {
            let place = |key: &str| mutant["span"][end][key].as_u64().expect("a number") as usize;
            lines.offset(place("line"), place("column") - 1)
        };
        Mutant {
            number: number + 1,
            name: text("name"),
            genre: text("genre"),
            span: (at("start"), at("end")),
            replacement: text("replacement"),
            file,
        }
    })
    .collect()
}

/// Runs the tests with one mutant. Returns the outcome.
fn try_one(programs: &Programs, copy: &Path, number: usize, quick: bool) -> String {
    let begun = Instant::now();
    for (stage, (program, filters, seconds)) in STAGES.iter().enumerate() {
        if quick && stage == QUICK {
            return format!("left {} s", begun.elapsed().as_secs());
        }
        // The last stage runs the tests that no other stage has run.
        let mut before: Vec<&str> = Vec::new();
        if stage + 1 == STAGES.len() {
            let own = STAGES.iter().filter(|(of, ..)| *of == LIBRARY);
            before.extend(own.flat_map(|(_, filters, _)| filters.iter().copied()));
        }
        // Some mutants would take all memory.
        let mut tests = Command::new("sh");
        tests
            .args(["-c", "ulimit -v 8388608; exec \"$@\"", "sh"])
            .arg(&programs[*program])
            .current_dir(copy)
            .args(*filters)
            .args(before.iter().flat_map(|filter| ["--skip", *filter]))
            .args(["-Zunstable-options", "--fail-fast", "--test-threads=1"])
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUST_BACKTRACE", "0")
            .env("VMSTORE_MUTANT", number.to_string())
            .env("VMSTORE_CRASHES", "2")
            .env("VMSTORE_STEPS", "2")
            .env("VMSTORE_DAMAGES", "4")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = tests.spawn().expect("the tests");
        let until = Instant::now() + Duration::from_secs(*seconds);
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child") {
                break Some(status);
            }
            if Instant::now() > until {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let took = begun.elapsed().as_secs();
        match status {
            None => return format!("timeout stage {stage} {took} s"),
            Some(status) if !status.success() => return format!("caught stage {stage} {took} s"),
            Some(_) => {}
        }
    }
    format!("missed {} s", begun.elapsed().as_secs())
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let usage = || -> ! {
        eprintln!("{USAGE}");
        std::process::exit(2)
    };
    let mut directory = || PathBuf::from(arguments.next().unwrap_or_else(|| usage()));
    let (library, copy) = (directory(), directory());
    let (mut quick, mut only, mut files) = (false, None, Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => quick = true,
            "--only" => {
                let text = arguments.next().unwrap_or_else(|| usage());
                let numbers = text
                    .split(',')
                    .map(|number| number.parse().unwrap_or_else(|_| usage()));
                only = Some(numbers.collect::<BTreeSet<usize>>());
            }
            other if other.starts_with("--") => usage(),
            file => files.push(file.to_owned()),
        }
    }
    if files.is_empty() {
        files = FILES.map(str::to_owned).to_vec();
    }
    let library = library.canonicalize().expect("the project's directory");
    let mutants = list(&library, &files);
    // Tests may have changed. The outcomes of a list with other numbers mean nothing any more.
    prepare(&library, &copy);
    let copy = copy.canonicalize().expect("the copy's directory");
    let mut viable: Vec<&Mutant> = mutants.iter().collect();
    let mut unviable = BTreeSet::new();
    let left: BTreeSet<usize> = write(&library, &copy, &viable).into_iter().collect();
    viable.retain(|mutant| !left.contains(&mutant.number));
    println!(
        "{} mutants; {} cannot stand behind an `if`",
        mutants.len(),
        left.len()
    );
    let programs = loop {
        write(&library, &copy, &viable);
        match build(&copy, &library, &viable) {
            Ok(programs) => break programs,
            Err(bad) => {
                println!("{} do not compile: {bad:?}", bad.len());
                viable.retain(|mutant| !bad.contains(&mutant.number));
                unviable.extend(bad);
            }
        }
    };
    let unbuilt: String = mutants
        .iter()
        .filter(|mutant| unviable.contains(&mutant.number) || left.contains(&mutant.number))
        .map(|mutant| format!("{}\n", mutant.name))
        .collect();
    fs::write(copy.join("unbuilt"), unbuilt).expect("the list of those that were not built");
    let outcomes = copy.join("outcomes");
    let known = fs::read_to_string(&outcomes).unwrap_or_default();
    let known: BTreeSet<usize> = known
        .lines()
        .filter(|line| !line.contains("\tleft "))
        .filter_map(|line| line.split('\t').next()?.parse().ok())
        .collect();
    let todo: Vec<&&Mutant> = viable
        .iter()
        .filter(|mutant| match &only {
            Some(only) => only.contains(&mutant.number),
            None => !known.contains(&mutant.number),
        })
        .collect();
    println!(
        "{} do not compile, {} are known, {} to be tried",
        unviable.len(),
        known.len(),
        todo.len()
    );
    let file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&outcomes);
    let file = Mutex::new(file.expect("outcomes"));
    let (next, missed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(mutant) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = try_one(&programs, &copy, mutant.number, quick);
                    missed.fetch_add(
                        usize::from(!outcome.starts_with("caught")),
                        Ordering::Relaxed,
                    );
                    let line = format!("{}\t{outcome}\t{}\n", mutant.number, mutant.name);
                    print!("{line}");
                    let mut file = file.lock().expect("outcomes");
                    file.write_all(line.as_bytes()).expect("outcomes");
                }
            });
        }
    });
    println!("{} tried, {} not caught", todo.len(), missed.into_inner());
}
