//! Makes stores for the tests, and runs the command on them.

#![allow(dead_code, reason = "each test program uses its part")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use vmstore::{CommitOptions, MapOptions, Module, OpenOptions, Store};

pub(crate) const PAGE: u64 = 4096;

/// A directory for the stores of a test. It is removed when the test ends.
pub(crate) struct Rig {
    pub(crate) root: tempfile::TempDir,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().expect("a temporary directory can be made");
        Self { root }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }
}

/// A store with the modules of a VMM.
pub(crate) struct Vmm {
    pub(crate) store: Store,
    pub(crate) ram: Module,
    pub(crate) cpu: Module,
    memory: File,
}

impl Vmm {
    /// A VMM with `pages` pages of RAM and 4 of device state.
    pub(crate) fn new(directory: &Path, pages: u64) -> Self {
        let store = Store::open(directory, OpenOptions::default()).expect("the store opens");
        let map = |id: &str, pages: u64| {
            let mapped = store.map_module(id, pages * PAGE, &MapOptions::default());
            mapped.expect("the module maps")
        };
        let (ram, cpu) = (map("ram", pages), map("cpu", 4));
        let memory = File::options()
            .read(true)
            .write(true)
            .open("/proc/self/mem");
        let memory = memory.expect("memory of our own can be opened");
        Self {
            store,
            ram,
            cpu,
            memory,
        }
    }

    /// Fills `count` pages with a byte, through /proc/self/mem.
    pub(crate) fn write(&self, module: &Module, first: u64, count: u64, byte: u8) {
        let bytes = vec![byte; (count * PAGE) as usize];
        let address = module.address() as u64 + first * PAGE;
        self.memory
            .write_all_at(&bytes, address)
            .expect("mapped memory can be written");
        module
            .mark_dirty(first * PAGE, count * PAGE)
            .expect("it is within the module");
    }

    pub(crate) fn read(&self, module: &Module) -> Vec<u8> {
        let mut bytes = vec![0; module.size() as usize];
        self.memory
            .read_exact_at(&mut bytes, module.address() as u64)
            .expect("mapped memory can be read");
        bytes
    }

    pub(crate) fn commit(&self, label: &str) -> u64 {
        let options = CommitOptions {
            label: label.to_owned(),
            ..CommitOptions::default()
        };
        self.store.commit(&options).expect("it commits")
    }

    pub(crate) fn restore(&self, commit: u64) {
        self.store.restore(commit, None).expect("it restores");
    }

    pub(crate) fn persist(&self) {
        self.store.persist(None).expect("it persists");
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // Closing releases the lock at once, even if a child process of another test has a copy of the
        // descriptor.
        let _ = self.store.close();
    }
}

/// The command, with an environment that does not depend on the host.
pub(crate) fn vmstore(store: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmstore"));
    command
        .env_clear()
        .envs([("LANG", "C.UTF-8"), ("TZ", "UTC"), ("COLUMNS", "80")]);
    command
        .arg("--store")
        .arg(store)
        .args(arguments)
        .stdin(Stdio::null());
    command
}

/// Runs a command: its exit code, stdout, stderr.
pub(crate) fn run(command: &mut Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("the command starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints UTF-8");
    (
        status.code().expect("it ends by itself"),
        text(stdout),
        text(stderr),
    )
}

/// Runs the command on a store and checks its exit code. Returns stdout, followed by stderr.
pub(crate) fn ends(code: i32, store: &Path, arguments: &[&str]) -> String {
    let (got, out, error) = run(&mut vmstore(store, arguments));
    assert_eq!(got, code, "{arguments:?}\n{out}{error}");
    format!("{out}{error}")
}
