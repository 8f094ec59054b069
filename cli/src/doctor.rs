//! `vmstore doctor`: what the kernel and the file system offer, what the library would choose, and what is
//! wrong with the store.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anstream::println;
use vmstore::{Capabilities, Store, Tracker, VerifyOptions};

use crate::args;
use crate::fail::{Code, Failure, Outcome};
use crate::history::{FileId, History, below, id_of};
use crate::screen::{BOLD, DIM, ERROR, GOOD, WARNING, hint, paint, printable};
use crate::store_dir::StoreDir;
use crate::units::{bytes, count};

/// What a fact means for the user.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Good,
    /// The store works, but could work better.
    Note,
    Bad,
}

/// Prints facts, and remembers whether any of them was bad.
struct Report {
    bad: bool,
}

impl Report {
    fn good(&mut self, what: &str, value: &str) {
        self.fact(Mark::Good, what, value);
    }

    fn note(&mut self, what: &str, value: &str) {
        self.fact(Mark::Note, what, value);
    }

    fn bad(&mut self, what: &str, value: &str) {
        self.fact(Mark::Bad, what, value);
    }

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

/// Chains with more deltas than this make restores slow.
const LONG: usize = 64;

/// With less free space than this, the next commits may fail.
const LITTLE_SPACE: u64 = 64 << 20;

pub(crate) fn doctor(dir: &StoreDir, options: &args::Doctor) -> Outcome {
    let mut report = Report { bad: false };
    let there = dir.path().is_dir();
    let capabilities = vmstore::probe(there.then_some(dir.path()))?;
    println!("{}", paint(BOLD, "this host"));
    host(&mut report, &capabilities);
    println!();
    let directory = printable(&dir.path().display().to_string());
    println!("{}", paint(BOLD, &format!("directory {directory}")));
    if there {
        file_system(&mut report, &capabilities);
    } else {
        report.note(
            "store",
            "the directory does not exist; a VMM that opens the store creates it",
        );
    }
    if capabilities.is_store {
        println!();
        println!("{}", paint(BOLD, "this store"));
        store(&mut report, dir, options)?;
    } else if there {
        report.note(
            "store",
            "there is no store here; give its directory with --store DIR",
        );
    }
    println!();
    if report.bad {
        println!(
            "{} something is wrong; see the lines marked BAD",
            paint(ERROR, "!")
        );
        return Ok(Code::Found);
    }
    println!("nothing is wrong");
    Ok(Code::Good)
}

fn host(report: &mut Report, host: &Capabilities) {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let page = bytes(host.page_size);
    report.good(
        "kernel",
        &format!("Linux {}, pages of {page}", kernel.trim()),
    );
    if host.kernel_tracker {
        report.good(
            "dirty pages",
            "VMSTORE_TRACKER_KERNEL works: userfaultfd and PAGEMAP_SCAN passed their self-test",
        );
    } else {
        let why = printable(&host.tracker_reason);
        report.note("dirty pages", &format!("no kernel tracker: {why}"));
        let text = "the kernel tracker needs Linux 6.7 or newer; without it, let the VMM import its own dirty log (VMSTORE_TRACKER_CALLER)";
        println!("{}", hint(text));
    }
    if host.auto_tracker == Tracker::Kernel {
        report.good(
            "would choose",
            "VMSTORE_TRACKER_KERNEL: the cost of a commit depends on the pages written",
        );
    } else {
        report.note(
            "would choose",
            "VMSTORE_TRACKER_COMPARE: every commit reads all memory",
        );
    }
    if host.memfd {
        report.good("memfd", "can be sealed: VMSTORE_MAP_MEMFD works");
    } else {
        report.note("memfd", "cannot be sealed: VMSTORE_MAP_MEMFD does not work");
    }
    for (size, free) in [("2 MiB", host.huge_2m), ("1 GiB", host.huge_1g)] {
        let text = match free {
            None => "this host has no huge pages of this size".to_owned(),
            Some(0) => "none free; reserve some in /sys/kernel/mm/hugepages".to_owned(),
            Some(free) => format!("{free} free"),
        };
        report.good(&format!("{size} pages"), &text);
    }
}

fn file_system(report: &mut Report, found: &Capabilities) {
    let name = printable(&found.file_system);
    let note = match name.as_str() {
        "btrfs" | "xfs" => "; can share extents between files",
        "tmpfs" => "; its files do not survive a reboot",
        _ => "",
    };
    report.good("file system", &format!("{name}{note}"));
    let free = bytes(found.free_bytes);
    if found.free_bytes < LITTLE_SPACE {
        report.bad("free", &free);
        let text = "commits fail when the file system is full; `vmstore rm` and `vmstore compact` free space";
        println!("{}", hint(text));
    } else {
        report.good("free", &free);
    }
    if found.shared_is_safe {
        report.good(
            "shared mapping",
            "VMSTORE_MAP_SHARED works: blocks are reserved, so a full disk causes no SIGBUS",
        );
    } else {
        report.note(
            "shared mapping",
            "VMSTORE_MAP_SHARED is refused: writes to reserved blocks can still meet a full disk",
        );
    }
}

fn store(report: &mut Report, dir: &StoreDir, options: &args::Doctor) -> Result<(), Failure> {
    match dir.owner() {
        Some(owner) => report.good(
            "in use",
            &format!("{owner} has the store open; restore, rm, compact and import fail until it closes the store"),
        ),
        None => report.good("in use", "no: every command works"),
    }
    permissions(report, dir.path());
    leftovers(report, dir);
    // The report has the damage, so no warning is needed.
    let quiet = StoreDir::new(dir.path().to_owned(), true);
    let opened = match quiet.open_or_salvage() {
        Ok(opened) => opened,
        Err(failure) => {
            report.bad("history", &failure.message);
            return Ok(());
        }
    };
    if let Some(damage) = &opened.damage {
        report.bad("history", &damage.to_string());
        let text = "no VMM can open the store; `vmstore log` shows the intact commits, and `vmstore dump` saves their memory";
        println!("{}", hint(text));
    }
    let history = History::of(&opened.store)?;
    commits(report, &history);
    chains(report, &history);
    checksums(report, dir, &opened.store, options.deep)
}

fn commits(report: &mut Report, history: &History) {
    let all = history.nodes.len();
    report.good("commits", &format!("{all}, head {}", history.head));
    let unpersisted = history.unpersisted() as u64;
    if unpersisted > 0 {
        report.note(
            "not persisted",
            &format!(
                "{} that a power cut would lose, until the VMM persists the store",
                count(unpersisted, "commit")
            ),
        );
    }
}

fn checksums(
    report: &mut Report,
    dir: &StoreDir,
    store: &Store,
    deep: bool,
) -> Result<(), Failure> {
    let wanted = VerifyOptions {
        metadata_only: !deep,
        commit: 0,
    };
    let found = crate::verify::run(dir, store, &wanted)?;
    if found.damage.is_empty() {
        let what = crate::verify::scope(&wanted);
        let more = if deep {
            ""
        } else {
            "; --deep also reads the pages"
        };
        report.good("checksums", &format!("{what} are intact{more}"));
        return Ok(());
    }
    for line in &found.damage {
        report.bad("checksums", line);
    }
    println!(
        "{}",
        hint("`vmstore verify` lists the commits that are still good")
    );
    Ok(())
}

fn permissions(report: &mut Report, directory: &Path) {
    let Ok(found) = std::fs::metadata(directory) else {
        return;
    };
    let mode = found.permissions().mode() & 0o777;
    let of_others = mode & 0o077;
    if of_others == 0 {
        report.good(
            "permissions",
            &format!("{mode:03o}: only the owner has access"),
        );
    } else {
        report.bad(
            "permissions",
            &format!("{mode:03o}: other users may read or change the guest's memory"),
        );
        println!("{}", hint(&format!("chmod 700 {}", directory.display())));
    }
}

fn leftovers(report: &mut Report, dir: &StoreDir) {
    let hidden = std::fs::read_dir(dir.path().join(".vmstore"));
    let new = hidden
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("new-"));
    let left = new.count() as u64;
    // If the store has an owner, the owner may be writing these files.
    if left > 0 && dir.owner().is_none() {
        report.note(
            "leftovers",
            &format!(
                "{} of a killed process; the next open for writing removes them",
                count(left, "file")
            ),
        );
    }
}

fn chains(report: &mut Report, history: &History) {
    let mut deltas: HashMap<FileId, usize> = HashMap::new();
    for file in history.ascending() {
        let on = deltas.get(&below(file)).copied().unwrap_or(0);
        deltas.insert(id_of(file), if file.is_image() { 0 } else { on + 1 });
    }
    let longest = deltas.values().copied().max().unwrap_or(0);
    if longest > LONG {
        report.note(
            "chains",
            &format!("up to {longest} deltas on an image: a restore reads all of them"),
        );
        println!("{}", hint("`vmstore compact` shortens the chains"));
    } else {
        report.good(
            "chains",
            &format!("at most {} on an image", count(longest as u64, "delta")),
        );
    }
}
