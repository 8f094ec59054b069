//! `vmstore demo`: makes a store, commits, restores and branches in it, and explains each step.

use std::fs::{File, OpenOptions as FileOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anstream::println;
use tempfile::TempDir;
use vmstore::{CommitOptions, MapOptions, Module, OpenOptions, Store};

use crate::args;
use crate::fail::{Code, Failure, Outcome};
use crate::history::History;
use crate::screen::{BOLD, DIM, Screen, paint};
use crate::store_dir::read_only;
use crate::units::{bytes, now};

const RAM: u64 = 64 << 20;
const DEVICES: u64 = 64 << 10;

/// Guest memory, accessed by address through /proc/self/mem. A wrong address is an error, not a crash.
struct Memory(File);

impl Memory {
    fn open() -> Result<Self, Failure> {
        let path = "/proc/self/mem";
        let file = FileOptions::new().read(true).write(true).open(path);
        file.map(Self).map_err(|error| Failure::at(path, &error))
    }

    /// Writes, and marks the pages as dirty, as a device of the VMM does. The demonstration thus needs no
    /// kernel tracker.
    fn write(&self, module: &Module, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        let address = module.address() as u64 + offset;
        self.0
            .write_all_at(bytes, address)
            .map_err(|error| Failure::at("guest memory", &error))?;
        Ok(module.mark_dirty(offset, bytes.len() as u64)?)
    }

    /// The text at the beginning of a module.
    fn text(&self, module: &Module, length: usize) -> Result<String, Failure> {
        let mut bytes = vec![0; length];
        let read = self.0.read_exact_at(&mut bytes, module.address() as u64);
        read.map_err(|error| Failure::at("guest memory", &error))?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(length);
        Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}

/// Prints a step: the function of the C interface, and what it does.
fn step(call: &str, what: &str) {
    println!();
    println!("{}", paint(BOLD, call));
    println!("{what}");
}

pub(crate) fn demo(screen: &Screen, options: &args::Demo) -> Outcome {
    let (directory, _temporary) = directory(options.keep.as_deref())?;
    println!(
        "A store is a directory. A VMM maps its guest's memory from the store, and can commit it at any time."
    );
    play(&directory)?;

    println!();
    println!("{}", paint(BOLD, "vmstore log"));
    let store = Store::open(&directory, read_only())?;
    for line in crate::log::lines(screen, &History::of(&store)?, usize::MAX, now()) {
        println!("{line}");
    }
    println!();
    println!("{}", paint(BOLD, "vmstore diff booted update"));
    let (from, to) = (store.find_commit("booted")?, store.find_commit("update")?);
    crate::show::changes(&store, screen, from, to, 8)?;
    drop(store);

    println!();
    let size = bytes(RAM + DEVICES);
    let used = bytes(crate::change::disk_usage(&directory));
    println!("Five commits of {size} of memory take {used} of disk space.");
    if options.keep.is_some() {
        println!(
            "The store stays in {}; look at it with: vmstore -s {0} log",
            directory.display()
        );
    } else {
        let text = "The store is deleted now; use --keep DIR to keep it.";
        println!("{}", paint(DIM, text));
    }
    Ok(Code::Good)
}

/// The directory of the new store, and what deletes the directory in the end.
fn directory(keep: Option<&Path>) -> Result<(PathBuf, Option<TempDir>), Failure> {
    if let Some(path) = keep {
        if vmstore::probe(Some(path)).is_ok_and(|found| found.is_store) {
            let message = format!("{}: there is a store already", path.display());
            return Err(Failure::new(Code::Failed, message)
                .hint("give a directory that does not exist yet"));
        }
        return Ok((path.to_owned(), None));
    }
    let temporary = tempfile::Builder::new()
        .prefix("vmstore-demo-")
        .tempdir()
        .map_err(|error| Failure::at("a temporary directory", &error))?;
    Ok((temporary.path().join("guest.store"), Some(temporary)))
}

/// Runs the guest from its boot to its fifth commit.
fn play(directory: &Path) -> Result<(), Failure> {
    let guest = Guest::new(directory)?;
    let booted = guest.boot()?;
    let working = guest.work()?;
    let update = guest.update()?;
    guest.store.persist(None)?;
    step(
        "store_persist",
        "all commits made so far survive a power cut; a killed process loses no commit at all",
    );
    guest.restore(booted)?;
    let other = guest.branch()?;
    step(
        "store_commit",
        &format!(
            "commit {other} is a second child of commit {booted}: the history is a tree, and commits {working} and {update} are still in it"
        ),
    );
    guest.write_pages(40, "log page", |n| 12_000 + n * 3)?;
    guest.commit("")?;
    guest.store.persist(None)?;
    guest.store.close()?;
    Ok(())
}

/// A guest and its store.
struct Guest {
    memory: Memory,
    store: Store,
    ram: Module,
    devices: Module,
    page: u64,
}

impl Guest {
    fn new(directory: &Path) -> Result<Self, Failure> {
        let memory = Memory::open()?;
        step(
            "store_open, store_map_module",
            "a new store with two modules: \"ram\" of 64 MiB, and \"devices\" of 64 KiB",
        );
        let store = Store::open(directory, OpenOptions::default())?;
        let map = MapOptions::default();
        Ok(Self {
            memory,
            ram: store.map_module("ram", RAM, &map)?,
            devices: store.map_module("devices", DEVICES, &map)?,
            page: store.stats()?.page_size,
            store,
        })
    }

    fn commit(&self, label: &str) -> Result<u64, Failure> {
        let options = CommitOptions {
            label: label.to_owned(),
            ..CommitOptions::default()
        };
        Ok(self.store.commit(&options)?)
    }

    /// Writes the text at the beginning of RAM that tells what the guest is doing.
    fn write_state(&self, text: &str) -> Result<(), Failure> {
        self.memory.write(&self.ram, 0, text.as_bytes())
    }

    fn state(&self) -> Result<String, Failure> {
        self.memory.text(&self.ram, 64)
    }

    /// Writes a text into each of `count` pages of RAM; `page_of` gives the page for each number.
    fn write_pages(
        &self,
        count: u64,
        what: &str,
        page_of: impl Fn(u64) -> u64,
    ) -> Result<(), Failure> {
        (0..count).try_for_each(|n| {
            let text = format!("{what} {n}");
            self.memory
                .write(&self.ram, page_of(n) * self.page, text.as_bytes())
        })
    }

    fn boot(&self) -> Result<u64, Failure> {
        self.write_state("a guest that has just booted")?;
        self.write_pages(300, "kernel page", |n| 256 + n * 7)?;
        self.memory.write(&self.devices, 0, b"devices, reset")?;
        let booted = self.commit("booted")?;
        step(
            "store_commit, label \"booted\"",
            &format!(
                "commit {booted}: the guest is paused while its {} written pages are copied",
                self.store.stats()?.last_dirty_pages
            ),
        );
        Ok(booted)
    }

    fn work(&self) -> Result<u64, Failure> {
        self.write_state("a guest that works")?;
        self.write_pages(120, "heap page", |n| 6_000 + n)?;
        let working = self.commit("")?;
        step(
            "store_commit",
            &format!(
                "commit {working} holds only the pages that changed since the commit before: {} of 16,400",
                self.store.stats()?.last_written_pages
            ),
        );
        Ok(working)
    }

    fn update(&self) -> Result<u64, Failure> {
        self.write_pages(2_000, "new package", |n| 9_000 + n * 2)?;
        self.write_state("a guest that was updated, and is broken")?;
        let update = self.commit("update")?;
        step(
            "store_commit, label \"update\"",
            &format!(
                "commit {update}: the memory begins with \"{}\"",
                self.state()?
            ),
        );
        Ok(update)
    }

    fn restore(&self, commit: u64) -> Result<(), Failure> {
        self.store.restore(commit, None)?;
        let stats = self.store.stats()?;
        let took = Duration::from_nanos(stats.last_restore_ns);
        step(
            &format!("store_restore {commit}"),
            &format!(
                "{} pages differed and were restored in place, in {took:.1?}; the memory begins with \"{}\"",
                stats.last_restored_pages,
                self.state()?
            ),
        );
        Ok(())
    }

    fn branch(&self) -> Result<u64, Failure> {
        self.write_state("a guest that took another way")?;
        self.memory
            .write(&self.devices, 0, b"devices, with a new disk")?;
        self.commit("another way")
    }
}
