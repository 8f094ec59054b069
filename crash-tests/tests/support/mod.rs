//! What these tests share: the program `cycle.c` linked with the library, its output, and the tools of the machine.

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

/// Deletions of one cycle.
pub(crate) const DELETIONS: u64 = 2;

/// A number from the environment, or the default.
pub(crate) fn setting(name: &str, usual: u64) -> u64 {
    env::var(name).map_or(usual, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text}: a number is needed"))
    })
}

/// Whether to leave out a test that needs root, FUSE and loop devices. `VMSTORE_SKIP_ROOT` asks for this; the test then
/// says so.
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

/// A new directory for a test, in memory if possible: other tests are about disks.
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
    let object = directory.join(format!("{name}.o"));
    let cc = || Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
    let (mut compiler, mut linker) = (cc(), cc());
    compiler
        .args([
            "-std=c11",
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-Werror",
            "-O1",
            "-g",
            "-c",
        ])
        .arg("-I")
        .arg(here.join("../include"))
        .arg("-o")
        .arg(&object)
        .arg(here.join(format!("{name}.c")));
    linker.arg("-o").arg(&program).arg(&object);
    // If the library is instrumented (.ci/sanitize), the program is too, with the same runtime.
    if let (Some(sanitize), Some(runtime)) = (
        env::var_os("VMSTORE_C_SANITIZE"),
        env::var_os("VMSTORE_C_RUNTIME"),
    ) {
        compiler.arg(format!("-fsanitize={}", sanitize.to_string_lossy()));
        compiler.args(["-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]);
        linker
            .args(["-rdynamic", "-Wl,--whole-archive"])
            .arg(runtime);
        linker.args([
            "-Wl,--no-whole-archive",
            "-lgcc_s",
            "-lpthread",
            "-lm",
            "-ldl",
            "-lrt",
        ]);
    }
    linker
        .arg(&soname)
        .arg(format!("-Wl,-rpath,{}", directory.display()));
    run(&mut compiler);
    run(&mut linker);
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

    /// Checks that the store holds the expected commits, that all of them are intact, and that the store still works.
    pub(crate) fn check(&self, store: &Path, expected: Expected, what: &dyn Fn() -> String) {
        let mut command = self.command("check", store);
        command.args(expected.arguments());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}: {}", what(), text(&output));
    }
}

/// What a cycle had reported when it ended: the last commit made and the last commit persisted; the numbers of deletions
/// begun, done and persisted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) made: u64,
    pub(crate) kept: u64,
    pub(crate) going: u64,
    pub(crate) gone: u64,
    pub(crate) kept_gone: u64,
    /// Calls of the library that returned an error.
    pub(crate) failed: u64,
}

/// What a check must find: the least and the greatest number of the last commit, and of the deletions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    commits: [u64; 2],
    deletions: [u64; 2],
}

impl Expected {
    /// After a cycle that ran to its end.
    pub(crate) const ALL: Self = Self {
        commits: [STEPS; 2],
        deletions: [DELETIONS; 2],
    };

    pub(crate) fn arguments(self) -> [String; 4] {
        let [a, b] = self.commits;
        let [c, d] = self.deletions;
        [a, b, c, d].map(|number| number.to_string())
    }
}

impl Said {
    pub(crate) fn add(&mut self, line: &str) {
        let Some((what, number)) = line.split_once(' ') else {
            return;
        };
        let number = || number.trim().parse().unwrap();
        match what {
            "made" => self.made = number(),
            "kept" => (self.kept, self.kept_gone) = (number(), self.gone),
            "going" => self.going = number(),
            "gone" => self.gone = number(),
            "failed" => self.failed = number(),
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

    /// What must be there after the process was killed.
    pub(crate) fn killed(self) -> Expected {
        Expected {
            commits: [self.made, STEPS.min(self.made + 1)],
            deletions: [self.gone, self.going],
        }
    }

    /// What must be there after a power cut.
    pub(crate) fn cut(self) -> Expected {
        Expected {
            commits: [self.kept, STEPS.min(self.made + 1)],
            deletions: [self.kept_gone, self.going],
        }
    }
}

/// The signal that ended a program.
pub(crate) fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

/// strace, which must be installed.
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
