//! The rows. Each row holds one contest or several.

mod capture;
mod commit;
mod depth;
mod durable;
mod fresh;
mod guest;
mod reset;
mod restore;
mod scale;
mod tax;
mod worth;

pub use fresh::child;

use std::path::{Path, PathBuf};

use vmstore::{CommitOptions, MapOptions, Module, OpenOptions, Store};

use crate::contest::Rng;
use crate::machine::page_size;
use crate::memory;
use crate::plot::Plots;
use crate::report::Report;

/// What all rows need.
pub struct Bench {
    pub rng: Rng,
    pub report: Report,
    pub plots: Plots,
    pub rounds: usize,
    /// One directory on each file system.
    pub directories: Vec<PathBuf>,
    /// Small and quick, for CI.
    pub smoke: bool,
    /// Whether rows may use 16 GiB of memory.
    pub big: bool,
}

/// The name of a row, its description, and its function.
pub type Row = (&'static str, &'static str, fn(&mut Bench));

pub const ROWS: &[Row] = &[
    (
        "capture",
        "the guest's pause, beside scan + memcpy and a full copy",
        capture::capture,
    ),
    (
        "caller",
        "the pause where the caller reports writes",
        capture::caller,
    ),
    (
        "helper",
        "the pause with a helper thread on another processor",
        capture::helper,
    ),
    (
        "commit",
        "not durable, beside the same bytes into a new file",
        commit::commit,
    ),
    (
        "durable",
        "commit + persist, beside bare file steps, LMDB, SQLite, redb, RocksDB, msync",
        durable::durable,
    ),
    ("batch", "persist of 100 commits at once", durable::batch),
    ("bytes", "what is written for a commit", durable::bytes),
    (
        "restore",
        "in place, beside memcpy, remapping and crumbles",
        restore::restore,
    ),
    (
        "reset",
        "a fuzzer's small reset, again and again",
        reset::reset,
    ),
    (
        "fresh",
        "a new process: open, map, first byte",
        fresh::fresh,
    ),
    ("tax", "the guest's first write after a commit", tax::tax),
    (
        "guest",
        "a KVM guest's reads and writes after a commit",
        guest::guest,
    ),
    ("depth", "chains and histories that are long", depth::depth),
    ("scale", "large modules, many modules", scale::scale),
    ("memory", "what the library needs itself", scale::memory),
    (
        "worth",
        "what elision and lazy arming are worth",
        worth::worth,
    ),
    ("qemu", "internal snapshots of qemu-img", worth::qemu),
];

impl Bench {
    /// The size of the module of most rows.
    pub fn module_bytes(&self) -> usize {
        if self.smoke { 32 << 20 } else { 1 << 30 }
    }

    /// The numbers of dirty pages that are at most half of the module.
    pub fn dirty_sets(&self, wanted: &[usize]) -> Vec<usize> {
        let most = self.module_bytes() / page_size() / 2;
        wanted
            .iter()
            .copied()
            .filter(|count| *count <= most)
            .collect()
    }

    pub fn scratch(&self, directory: &Path) -> tempfile::TempDir {
        tempfile::tempdir_in(directory).expect("a directory for the run")
    }

    /// The directory of rows in which the disk does not matter: the last.
    pub fn quiet_directory(&self) -> PathBuf {
        self.directories[self.directories.len() - 1].clone()
    }

    /// Maps a module, fills, commits and persists it.
    pub fn module(&mut self, store: &Store, length: usize, options: &MapOptions) -> Module {
        let module = store
            .map_module("ram", length as u64, options)
            .expect("a module");
        memory::fill(module.address() as *mut u8, length, &mut self.rng);
        if options.tracker == Some(vmstore::Tracker::Caller) {
            module.mark_dirty(0, length as u64).expect("all is dirty");
        }
        commit(store);
        store.persist(None).expect("a persist");
        module
    }
}

pub fn open(directory: &Path) -> Store {
    Store::open(directory, OpenOptions::default()).expect("a store")
}

pub fn commit(store: &Store) -> u64 {
    store.commit(&CommitOptions::default()).expect("a commit")
}

pub fn base(module: &Module) -> *mut u8 {
    module.address() as *mut u8
}
