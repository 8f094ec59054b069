//! `vmstore doctor`: what kernel and file system offer, what the library would choose, and what is wrong with
//! this store.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anstream::println;
use vmstore::{Capabilities, Tracker, VerifyOptions};

use crate::args;
use crate::fail::{Code, Outcome};
use crate::history::{FileId, History, below};
use crate::place::Place;
use crate::screen::{BOLD, DIM, ERROR, GOOD, Screen, WARNING, hint, paint, printable};
use crate::units::{bytes, count};

/// How a fact is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Good,
    /// Works, but could be better.
    Note,
    Bad,
}

/// Prints facts, and remembers whether any was bad.
struct Report {
    bad: bool,
}

impl Report {
    fn fact(&mut self, mark: Mark, what: &str, value: &str) {
        let mark = match mark {
            Mark::Good => paint(GOOD, "  ok"),
            Mark::Note => paint(WARNING, "note"),
            Mark::Bad => {
                self.bad = true;
                paint(ERROR, " BAD")
            }
        };
        println!("{mark}  {}  {value}", paint(DIM, &format!("{what:<16}")));
    }
}

/// Files below a commit's own from which on restoring it gets slow.
const LONG: usize = 64;

pub(crate) fn doctor(place: &Place, _: &Screen, options: &args::Doctor) -> Outcome {
    let mut report = Report { bad: false };
    let there = place.path().is_dir();
    let capabilities = vmstore::probe(there.then_some(place.path()))?;
    println!("{}", paint(BOLD, "this host"));
    host(&mut report, &capabilities);
    println!();
    println!(
        "{}",
        paint(
            BOLD,
            &format!(
                "directory {}",
                printable(&place.path().display().to_string())
            )
        )
    );
    if there {
        file_system(&mut report, &capabilities);
    } else {
        report.fact(
            Mark::Note,
            "store",
            "the directory is not there; store_open would make it",
        );
    }
    if capabilities.is_store {
        println!();
        println!("{}", paint(BOLD, "this store"));
        store(&mut report, place, options)?;
    } else if there {
        report.fact(
            Mark::Note,
            "store",
            "there is none; name one with --store DIR",
        );
    }
    println!();
    if report.bad {
        println!("{} something is wrong; see BAD above", paint(ERROR, "!"));
        return Ok(Code::Found);
    }
    println!("nothing is wrong");
    Ok(Code::Good)
}

fn host(report: &mut Report, host: &Capabilities) {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    report.fact(
        Mark::Good,
        "kernel",
        &format!(
            "Linux {}, pages of {}",
            kernel.trim(),
            bytes(host.page_size)
        ),
    );
    if host.kernel_tracker {
        report.fact(
            Mark::Good,
            "dirty pages",
            "VMSTORE_TRACKER_KERNEL: userfaultfd and PAGEMAP_SCAN passed their self-test",
        );
    } else {
        report.fact(
            Mark::Note,
            "dirty pages",
            &format!("no kernel tracker: {}", printable(&host.tracker_reason)),
        );
        println!(
            "{}",
            hint(
                "Linux 6.7 or newer has one; until then import your VMM's dirty log (VMSTORE_TRACKER_CALLER)"
            )
        );
    }
    let chosen = match host.auto_tracker {
        Tracker::Kernel => "the kernel tracker: a commit costs what was written",
        _ => "VMSTORE_TRACKER_COMPARE: every commit reads all memory",
    };
    let mark = if host.auto_tracker == Tracker::Kernel {
        Mark::Good
    } else {
        Mark::Note
    };
    report.fact(mark, "would choose", chosen);
    if host.memfd {
        report.fact(
            Mark::Good,
            "memfd",
            "can be sealed: VMSTORE_MAP_MEMFD works",
        );
    } else {
        report.fact(
            Mark::Note,
            "memfd",
            "cannot be sealed: VMSTORE_MAP_MEMFD does not work",
        );
    }
    for (size, free) in [("2 MiB", host.huge_2m), ("1 GiB", host.huge_1g)] {
        let text = match free {
            None => "this host has none of that size".to_owned(),
            Some(0) => "none free; reserve some in /sys/kernel/mm/hugepages".to_owned(),
            Some(free) => format!("{free} free"),
        };
        report.fact(Mark::Good, &format!("{size} pages"), &text);
    }
}

fn file_system(report: &mut Report, found: &Capabilities) {
    let name = printable(&found.file_system);
    let note = match name.as_str() {
        "btrfs" | "xfs" => "; can share extents between files",
        "tmpfs" => "; nothing here survives a reboot",
        _ => "",
    };
    report.fact(Mark::Good, "file system", &format!("{name}{note}"));
    let mark = if found.free_bytes < 64 << 20 {
        Mark::Bad
    } else {
        Mark::Good
    };
    report.fact(mark, "free", &bytes(found.free_bytes));
    if mark == Mark::Bad {
        println!(
            "{}",
            hint("commits fail when it is full; `vmstore compact` and `vmstore rm` give room back")
        );
    }
    if found.shared_is_safe {
        report.fact(
            Mark::Good,
            "shared mapping",
            "VMSTORE_MAP_SHARED works: blocks are reserved, a full disk is no SIGBUS",
        );
    } else {
        report.fact(
            Mark::Note,
            "shared mapping",
            "VMSTORE_MAP_SHARED is refused: reserved blocks do not keep a full disk away",
        );
    }
}

fn store(
    report: &mut Report,
    place: &Place,
    options: &args::Doctor,
) -> Result<(), crate::fail::Failure> {
    match place.owner() {
        Some(owner) => report.fact(
            Mark::Good,
            "in use",
            &format!("{owner} has it open; restore, rm, compact and import must wait"),
        ),
        None => report.fact(Mark::Good, "in use", "no: every command works"),
    }
    permissions(report, place.path());
    leftovers(report, place);
    let quiet = Place::new(place.directory.clone(), true);
    let looked = match quiet.look() {
        Ok(looked) => looked,
        Err(failure) => {
            report.fact(Mark::Bad, "history", &failure.message);
            return Ok(());
        }
    };
    if let Some(damage) = &looked.damage {
        report.fact(Mark::Bad, "history", &damage.to_string());
        println!(
            "{}",
            hint(
                "no VMM can open it; `vmstore log` shows what is intact, `vmstore dump` saves memory"
            )
        );
    }
    let history = History::of(&looked.store)?;
    let volatile = history
        .nodes
        .values()
        .filter(|node| !node.info.persisted)
        .count() as u64;
    report.fact(
        Mark::Good,
        "commits",
        &format!("{}, head {}", history.nodes.len(), history.head),
    );
    if volatile > 0 {
        report.fact(
            Mark::Note,
            "volatile",
            &format!(
                "a power cut would lose {}: store_persist keeps them",
                count(volatile, "commit")
            ),
        );
    }
    chains(report, &history);
    let wanted = VerifyOptions {
        metadata_only: !options.deep,
        commit: 0,
    };
    let found = crate::verify::run(place, &looked.store, &wanted)?;
    let what = if options.deep {
        "history, indexes and every page"
    } else {
        "history and indexes"
    };
    if found.damage.is_empty() {
        let more = if options.deep {
            ""
        } else {
            "; --deep reads the pages, too"
        };
        report.fact(Mark::Good, "checksums", &format!("{what} are intact{more}"));
    } else {
        for line in &found.damage {
            report.fact(Mark::Bad, "checksums", line);
        }
        println!(
            "{}",
            hint("`vmstore verify` says which commits are still good")
        );
    }
    Ok(())
}

fn permissions(report: &mut Report, directory: &Path) {
    let Ok(found) = std::fs::metadata(directory) else {
        return;
    };
    let mode = found.permissions().mode() & 0o777;
    let of_others = mode & 0o077;
    if of_others == 0 {
        report.fact(
            Mark::Good,
            "permissions",
            &format!("{mode:03o}: its owner's alone"),
        );
    } else {
        report.fact(
            Mark::Bad,
            "permissions",
            &format!("{mode:03o}: others can reach the guest's memory, or change it"),
        );
        println!("{}", hint(&format!("chmod 700 {}", directory.display())));
    }
}

fn leftovers(report: &mut Report, place: &Place) {
    let hidden = std::fs::read_dir(place.path().join(".vmstore"));
    let new = hidden
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("new-"));
    let left = new.count() as u64;
    // An owner may be writing them.
    if left > 0 && place.owner().is_none() {
        report.fact(
            Mark::Note,
            "leftovers",
            &format!(
                "{} of a process that was killed; the next open for writing removes them",
                count(left, "file")
            ),
        );
    }
}

fn chains(report: &mut Report, history: &History) {
    let mut deltas: HashMap<FileId, usize> = HashMap::new();
    for file in history.ascending() {
        let on = deltas.get(&below(file)).copied().unwrap_or(0);
        let id = (file.module.clone(), file.module_commit);
        deltas.insert(id, if file.is_image() { 0 } else { on + 1 });
    }
    let longest = deltas.values().copied().max().unwrap_or(0);
    if longest > LONG {
        report.fact(
            Mark::Note,
            "chains",
            &format!("up to {longest} deltas on an image: restoring reads them all"),
        );
        println!("{}", hint("`vmstore compact` makes them shorter"));
    } else {
        report.fact(
            Mark::Good,
            "chains",
            &format!("at most {} on an image", count(longest as u64, "delta")),
        );
    }
}
