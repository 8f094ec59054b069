//! `vmstore demo`: a store is made, written to, branched and restored, and each step says what happened.

use std::fs::{File, OpenOptions as FileOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anstream::println;
use vmstore::{CommitOptions, MapOptions, Module, OpenOptions, Store};

use crate::args;
use crate::fail::{Code, Failure, Outcome};
use crate::history::History;
use crate::screen::{BOLD, DIM, Screen, paint};
use crate::units::{bytes, now};

const MIB: u64 = 1 << 20;

/// Guest memory by its addresses, as a debugger has it. A wrong address is an error and nothing worse.
struct Memory(File);

impl Memory {
    fn open() -> Result<Self, Failure> {
        let path = "/proc/self/mem";
        let file = FileOptions::new().read(true).write(true).open(path);
        file.map(Self).map_err(|error| Failure::at(path, &error))
    }

    /// Writes as a device of the VMM does, and says so: the tracker is not asked to see it.
    fn write(&self, module: &Module, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        let address = module.address() as u64 + offset;
        self.0
            .write_all_at(bytes, address)
            .map_err(|error| Failure::at("guest memory", &error))?;
        Ok(module.mark_dirty(offset, bytes.len() as u64)?)
    }

    fn text(&self, module: &Module, length: usize) -> Result<String, Failure> {
        let mut bytes = vec![0; length];
        let read = self.0.read_exact_at(&mut bytes, module.address() as u64);
        read.map_err(|error| Failure::at("guest memory", &error))?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(length);
        Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}

/// Says a step: what C would call, and what it does.
fn step(call: &str, what: &str) {
    println!();
    println!("{}", paint(BOLD, call));
    println!("{what}");
}

pub(crate) fn demo(screen: &Screen, options: &args::Demo) -> Outcome {
    let temporary;
    let directory: PathBuf = if let Some(path) = &options.keep {
        if vmstore::probe(Some(path)).is_ok_and(|found| found.is_store) {
            let message = format!("{}: there is a store already", path.display());
            return Err(
                Failure::new(Code::Failed, message).hint("name a directory that is not there yet")
            );
        }
        path.clone()
    } else {
        let at = |error: std::io::Error| Failure::at("a temporary directory", &error);
        temporary = tempfile::Builder::new()
            .prefix("vmstore-demo-")
            .tempdir()
            .map_err(at)?;
        temporary.path().join("guest.store")
    };
    println!(
        "A store is a directory; a VMM maps its guest's memory out of it, and commits it at any moment."
    );
    let size = play(&directory)?;

    println!();
    println!("{}", paint(BOLD, "vmstore log"));
    let read_only = OpenOptions {
        read_only: true,
        ..OpenOptions::default()
    };
    let store = Store::open(&directory, read_only)?;
    for line in crate::log::lines(screen, &History::of(&store)?, usize::MAX, now()) {
        println!("{line}");
    }
    println!();
    println!("{}", paint(BOLD, "vmstore diff booted update"));
    let (from, to) = (store.find_commit("booted")?, store.find_commit("update")?);
    crate::show::changes(&store, screen, from, to, 8)?;
    drop(store);

    println!();
    let used = bytes(crate::change::on_disk(&directory));
    println!(
        "Five commits of {} of memory take {used} of the disk.",
        bytes(size)
    );
    if options.keep.is_some() {
        println!(
            "The store stays in {}; look at it with: vmstore -s {0} log",
            directory.display()
        );
    } else {
        println!(
            "{}",
            paint(
                DIM,
                "The store is removed now; --keep DIR keeps it to play with."
            )
        );
    }
    Ok(Code::Good)
}

/// A guest's life. Returns how much memory it has.
fn play(directory: &Path) -> Result<u64, Failure> {
    let memory = Memory::open()?;
    step(
        "store_open, store_map_module",
        "a new store, and 64 MiB of memory named \"ram\" beside 64 KiB named \"devices\"",
    );
    let store = Store::open(directory, OpenOptions::default())?;
    let map = MapOptions::default();
    let ram = store.map_module("ram", 64 * MIB, &map)?;
    let devices = store.map_module("devices", 64 << 10, &map)?;
    let page = store.stats()?.page_size;
    let commit = |label: &str| {
        let options = CommitOptions {
            label: label.to_owned(),
            ..CommitOptions::default()
        };
        store.commit(&options)
    };

    memory.write(&ram, 0, b"a guest that has just booted")?;
    for at in 0..300 {
        memory.write(
            &ram,
            (256 + at * 7) * page,
            format!("kernel page {at}").as_bytes(),
        )?;
    }
    memory.write(&devices, 0, b"devices, reset")?;
    let booted = commit("booted")?;
    step(
        "store_commit, label \"booted\"",
        &format!(
            "commit {booted}: the guest was paused while its {} written pages were copied",
            store.stats()?.last_dirty_pages
        ),
    );

    memory.write(&ram, 0, b"a guest that works")?;
    for at in 0..120 {
        memory.write(
            &ram,
            (6_000 + at) * page,
            format!("heap page {at}").as_bytes(),
        )?;
    }
    let worked = commit("")?;
    step(
        "store_commit",
        &format!(
            "commit {worked}: only what was written since costs anything, here {} pages of 16,400",
            store.stats()?.last_written_pages
        ),
    );

    for at in 0..2_000 {
        memory.write(
            &ram,
            (9_000 + at * 2) * page,
            format!("new package {at}").as_bytes(),
        )?;
    }
    memory.write(&ram, 0, b"a guest that was updated, and is broken")?;
    let update = commit("update")?;
    step(
        "store_commit, label \"update\"",
        &format!("commit {update}: \"{}\"", memory.text(&ram, 64)?),
    );

    store.persist(None)?;
    step(
        "store_persist",
        "all commits so far survive a power cut; a killed process never loses any",
    );

    store.restore(booted, None)?;
    let stats = store.stats()?;
    let took = std::time::Duration::from_nanos(stats.last_restore_ns);
    step(
        &format!("store_restore {booted}"),
        &format!(
            "{} pages differed and were put back in place, in {took:.1?}: \"{}\"",
            stats.last_restored_pages,
            memory.text(&ram, 64)?
        ),
    );

    memory.write(&ram, 0, b"a guest that took another way")?;
    memory.write(&devices, 0, b"devices, with a new disk")?;
    let other = commit("another way")?;
    step(
        "store_commit",
        &format!(
            "commit {other} is a second child of commit {booted}: the history is a tree, and nothing of it was lost"
        ),
    );
    for at in 0..40 {
        memory.write(
            &ram,
            (12_000 + at * 3) * page,
            format!("log page {at}").as_bytes(),
        )?;
    }
    commit("")?;
    store.persist(None)?;
    store.close()?;
    Ok(64 * MIB + (64 << 10))
}
