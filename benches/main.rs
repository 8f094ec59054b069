//! Compares vmstore with its floors and its peers: `cargo bench -p vmstore-bench -- [option ...] [row ...]`.

mod compare;
mod contest;
mod machine;
mod memory;
mod peers;
mod plot;
mod report;
mod rows;
mod vcpu;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

use contest::Rng;
use report::Report;
use rows::{Bench, ROWS};

const USAGE: &str = "cargo bench -p vmstore-bench -- [option ...] [row ...]

Without rows, all of them. RocksDB takes part with `--features rocksdb` before the `--`.
  --smoke              small and quick, no targets: does it run?
  --rounds N           rounds of each contest; 15 (smoke: 2)
  --seed N             seed of the order and the pages; default: from the clock
  --directory PATH     directory for the stores, once for each file system; rows that do not depend on the disk
                       use the last. Default: target/ of this workspace, and /dev/shm
  --processor-time     count processor time of the thread instead of wall-clock time: ratios of rows that do not
                       wait for the disk stay true on a busy machine; ratios of other rows mean nothing
  --big                also a module of 16 GiB: needs 18 GiB of free memory
  --write              write the tables into docs/performance.md and the plots beside it
  --compare OLD NEW    build two commits of the project and run the rows with both, in turns
  --list               print the rows
";

fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// What the command line asks for.
#[derive(Default)]
struct Arguments {
    rows: Vec<String>,
    directories: Vec<PathBuf>,
    smoke: bool,
    raw: bool,
    big: bool,
    write: bool,
    rounds: Option<usize>,
    seed: Option<u64>,
    /// The old and the new commit.
    compare: Option<(String, String)>,
}

/// Reads the command line. `None`: it asked for something that is done already.
fn arguments() -> Option<Arguments> {
    let mut arguments = std::env::args().skip(1);
    let mut wanted = Arguments::default();
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .unwrap_or_else(|| usage(&format!("{argument} needs a value")))
        };
        let number = |text: String| {
            text.parse()
                .unwrap_or_else(|_| usage(&format!("{text} is no number")))
        };
        match argument.as_str() {
            // Cargo passes this option to every benchmark.
            "--bench" => {}
            "--smoke" => wanted.smoke = true,
            "--raw" => wanted.raw = true,
            "--processor-time" => contest::PROCESSOR_TIME.store(true, Relaxed),
            "--big" => wanted.big = true,
            "--write" => wanted.write = true,
            "--rounds" => wanted.rounds = Some(number(value()) as usize),
            "--seed" => wanted.seed = Some(number(value())),
            "--directory" => wanted.directories.push(value().into()),
            "--compare" => wanted.compare = Some((value(), value())),
            "--child" => {
                rows::child(&value(), Path::new(&value()));
                return None;
            }
            "--list" => {
                ROWS.iter()
                    .for_each(|(name, about, _)| println!("{name:<10} {about}"));
                return None;
            }
            row if ROWS.iter().any(|(name, ..)| *name == row) => {
                wanted.rows.push(row.to_owned());
            }
            other => usage(&format!("{other} is neither an option nor a row (--list)")),
        }
    }
    Some(wanted)
}

fn main() {
    let Some(wanted) = arguments() else {
        return;
    };
    if let Some((old, new)) = &wanted.compare {
        return compare::compare(old, new, &wanted.rows, wanted.smoke);
    }
    let mut directories = wanted.directories;
    if directories.is_empty() {
        let target = workspace().join("target");
        std::fs::create_dir_all(&target).expect("target/");
        directories = vec![target, "/dev/shm".into()];
    }
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = wanted
        .seed
        .unwrap_or(clock.map_or(1, |time| time.as_nanos() as u64) | 1);
    let mut bench = Bench {
        rng: Rng(seed.max(1)),
        report: Report {
            conditions: machine::conditions(seed, &directories),
            lines: Vec::new(),
            notes: Vec::new(),
            smoke: wanted.smoke,
            raw: wanted.raw,
        },
        plots: plot::Plots::default(),
        rounds: wanted.rounds.unwrap_or(if wanted.smoke { 2 } else { 15 }),
        directories,
        smoke: wanted.smoke,
        big: wanted.big,
    };
    if !wanted.raw {
        bench
            .report
            .conditions
            .iter()
            .for_each(|line| println!("{line}"));
    }
    bench.report.heading();
    for (name, _, run) in ROWS {
        if wanted.rows.is_empty() || wanted.rows.iter().any(|row| row == name) {
            run(&mut bench);
        }
    }
    bench.report.summary();
    let load = format!("load average at the end {:.2}", machine::load());
    if !wanted.raw {
        println!("{load}");
    }
    bench.report.conditions.push(load);
    if wanted.write {
        let docs = workspace().join("docs");
        bench
            .report
            .write_into(&docs.join("performance.md"))
            .expect("docs/performance.md");
        bench.plots.write_into(&docs).expect("the plots");
    }
}

fn usage(why: &str) -> ! {
    eprintln!("{why}\n\n{USAGE}");
    std::process::exit(2)
}
