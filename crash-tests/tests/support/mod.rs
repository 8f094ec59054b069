//! What these tests share: the program `cycle.c` linked with the library, what it said, and what they need of
//! the machine.

#![allow(dead_code, reason = "each test uses a part of this")]

pub(crate) mod mount;

#[path = "../../../tests/support/library.rs"]
mod library;

use std::env;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

/// Commits of one cycle.
pub(crate) const STEPS: u64 = 6;

/// A number from the environment, or what is usual.
pub(crate) fn setting(name: &str, usual: u64) -> u64 {
    env::var(name).map_or(usual, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text}: a number is needed"))
    })
}

/// Whether what needs root, FUSE and loop devices is to be left out: only when told so, and aloud.
pub(crate) fn skipped(test: &str) -> bool {
    let skip = env::var_os("VMSTORE_SKIP_ROOT").is_some_and(|value| value != "0");
    if skip {
        println!("{test}: SKIPPED, because VMSTORE_SKIP_ROOT is set");
    }
    skip
}

/// Runs a command that must succeed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn text(output: &Output) -> String {
    let [out, error] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{} {out}{error}", output.status)
}

/// A directory of its own for each test, in memory where there is such a place: what is tried there is the
/// library, and disks have other tests.
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() {
        memory
    } else {
        Path::new("/tmp")
    };
    tempfile::tempdir_in(place).expect("a temporary directory can be made")
}

/// A program of this directory, linked with the shared library.
pub(crate) fn program(directory: &Path, name: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let test = env::current_exe().expect("a running program has a path");
    let library = library::built(&test, "libvmstore.so").expect("cargo builds libvmstore.so");
    let soname = directory.join("libvmstore.so.0");
    symlink(&library, &soname).expect("the directory is fresh");
    let program = directory.join(name);
    run(
        Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()))
            .args([
                "-std=c11",
                "-Wall",
                "-Wextra",
                "-Wpedantic",
                "-Werror",
                "-O1",
                "-g",
            ])
            .arg("-I")
            .arg(here.join("../include"))
            .arg("-o")
            .arg(&program)
            .arg(here.join(format!("{name}.c")))
            .arg(&soname)
            .arg(format!("-Wl,-rpath,{}", directory.display())),
    );
    program
}

/// The program `cycle`.
pub(crate) struct Cycle(PathBuf);

impl Cycle {
    pub(crate) fn build(directory: &Path) -> Self {
        Self(program(directory, "cycle"))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn command(&self, mode: &str, store: &Path) -> Command {
        let mut command = Command::new(&self.0);
        command.arg(mode).arg(store).stdin(Stdio::null());
        command
    }

    /// The store holds at least and at most so many commits, all of them whole, and goes on.
    pub(crate) fn check(&self, store: &Path, least: u64, most: u64, what: &dyn Fn() -> String) {
        let mut command = self.command("check", store);
        command.args([least.to_string(), most.to_string()]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}: {}", what(), text(&output));
    }
}

/// What a cycle had said when it ended: the last commit made, and the last kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) made: u64,
    pub(crate) kept: u64,
}

impl Said {
    pub(crate) fn add(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("made", number)) => self.made = number.trim().parse().unwrap(),
            Some(("kept", number)) => self.kept = number.trim().parse().unwrap(),
            _ => {}
        }
    }

    pub(crate) fn of(output: &Output) -> Self {
        let mut said = Self::default();
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .for_each(|line| said.add(line));
        said
    }
}

/// The signal that ended a program.
pub(crate) fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

/// strace, which must be there.
pub(crate) fn strace() -> Command {
    let works = Command::new("strace").arg("--version").output();
    assert!(
        works.is_ok_and(|output| output.status.success()),
        "strace does not run: install the Debian package strace"
    );
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null"]);
    command
}
