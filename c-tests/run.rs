//! Runs the C programs of `programs/`, each as a program of its own, linked in three ways:
//!
//! - `shared::NAME`   against `libvmstore.so`, found at run time under its SONAME;
//! - `static_::NAME`  against `libvmstore.a`;
//! - `dlopen::NAME`   against neither: `programs/dlopen_shim.c` opens the library at run time.
//!
//! `build.rs` compiles the programs; the same object file is linked in all three ways. For a musl target
//! (`--target x86_64-unknown-linux-musl`; needs `musl-gcc`) there is `static_` alone. All rounds are done in
//! `shared`, or in the only way that there is; the other ways, and all runs under a wrapper, set `VMSTORE_BRIEF=1` for fewer
//! rounds. A program gets a fresh directory as its argument, prints what it tried, and exits with 0 if all checks
//! passed. The output is shown if the program fails, and with `cargo test -p vmstore-c-tests -- --nocapture`.
//!
//! Environment:
//!
//! - `VMSTORE_C_WRAPPER` is put before every program, split at spaces, and stretches the time limit:
//!   `VMSTORE_C_WRAPPER="valgrind -q --leak-check=no --error-exitcode=9" cargo test -p vmstore-c-tests`.
//!   The programs then see `VMSTORE_SLOW=1`. The kernel tracker's ioctls may be unknown to the
//!   wrapper; the library then falls back to comparing.
//! - `VMSTORE_C_SANITIZE` compiles and links the programs with `-fsanitize=` of its value:
//!   `VMSTORE_C_SANITIZE=address,undefined cargo test -p vmstore-c-tests`.
//! - `VMSTORE_C_RUNTIME` is a sanitizer's runtime to link instead of that of the C compiler. If the library is
//!   instrumented too, this is the archive of Rust's own runtime (`.ci/sanitize`).
//! - `VMSTORE_SEED` is read by the programs that are random: each prints the seed it used.
//! - `VMSTORE_LONG` multiplies the number of tries of `promise1_killed.c`:
//!   `VMSTORE_LONG=50 cargo test -p vmstore-c-tests shared::promise1_killed -- --nocapture`.
//! - `VMSTORE_SOAK` is the number of seconds for which `soak.c` runs:
//!   `VMSTORE_SOAK=600 cargo test -p vmstore-c-tests shared::soak -- --nocapture`.

#[path = "../tests/support/library.rs"]
mod library;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

include!(concat!(env!("OUT_DIR"), "/programs.rs"));

/// The name under which programs look for the shared library.
const SONAME: &str = "libvmstore.so.0";

const TIME_LIMIT: Duration = Duration::from_secs(600);
const SLOW_TIME_LIMIT: Duration = Duration::from_secs(1800);

#[derive(Clone, Copy, PartialEq)]
#[allow(dead_code, reason = "a musl target has one of them")]
enum Linkage {
    Shared,
    Static,
    Dlopen,
}

/// A library that cargo built for this test, with all crate types.
fn library(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    library::built(&test, name).unwrap_or_else(|| panic!("cargo did not build {name}"))
}

/// Links the object with the library in one way, and returns the command that runs it.
fn link(name: &str, object: &str, linkage: Linkage, directory: &Path) -> Command {
    let program = directory.join(name);
    let mut linker = Command::new(COMPILER);
    linker.arg("-o").arg(&program).arg(object).arg("-pthread");
    if let Some(runtime) = std::env::var_os("VMSTORE_C_RUNTIME") {
        linker.args(["-rdynamic", "-Wl,--whole-archive"]);
        linker.arg(runtime).arg("-Wl,--no-whole-archive");
        linker.args(NATIVE_LIBRARIES);
    } else if !SANITIZE.is_empty() {
        linker.arg(format!("-fsanitize={SANITIZE}"));
    }
    match linkage {
        Linkage::Shared => {
            symlink(library("libvmstore.so"), directory.join(SONAME))
                .expect("the directory is fresh");
            linker.arg(directory.join(SONAME));
            linker.arg(format!("-Wl,-rpath,{}", directory.display()));
        }
        Linkage::Static => {
            linker.arg(library("libvmstore.a")).args(NATIVE_LIBRARIES);
        }
        Linkage::Dlopen => {
            linker.arg(SHIM_OBJECT).arg("-ldl");
        }
    }
    let outcome = linker.output().expect("the C compiler runs");
    assert!(
        outcome.status.success(),
        "{linker:?}\n{}",
        String::from_utf8_lossy(&outcome.stderr)
    );

    let wrapper = std::env::var("VMSTORE_C_WRAPPER").unwrap_or_default();
    let mut words = wrapper.split_whitespace();
    let mut command = match words.next() {
        Some(first) => {
            let mut command = Command::new(first);
            command.args(words).arg(&program).env("VMSTORE_SLOW", "1");
            command
        }
        None => Command::new(&program),
    };
    if linkage == Linkage::Dlopen {
        command.env("VMSTORE_LIBRARY", library("libvmstore.so"));
    }
    if linkage != THOROUGH || !wrapper.is_empty() {
        command.env("VMSTORE_BRIEF", "1");
    }
    command
}

/// Waits for the leader of a process group. Kills the whole group when the time is over.
fn wait(command: &mut Command, limit: Duration) -> Option<ExitStatus> {
    let mut child = command
        .process_group(0)
        .spawn()
        .expect("the program starts");
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("our own child can be waited for") {
            return Some(status);
        }
        if start.elapsed() > limit {
            let group = format!("-{}", child.id());
            Command::new("kill")
                .args(["-KILL", "--", &group])
                .status()
                .expect("kill runs");
            child.wait().expect("our own child can be waited for");
            return None;
        }
        sleep(Duration::from_millis(5));
    }
}

/// One test: links the program, runs it in a fresh directory, and fails with its output.
fn run(name: &str, object: &str, linkage: Linkage) {
    let scratch = tempfile::tempdir().expect("a temporary directory can be made");
    let (built, stores) = (
        scratch.path().join("program"),
        scratch.path().join("stores"),
    );
    fs::create_dir(&built).expect("the directory is fresh");
    fs::create_dir(&stores).expect("the directory is fresh");

    let printed = scratch.path().join("output");
    let output = File::create(&printed).expect("the directory is writable");
    let mut command = link(name, object, linkage, &built);
    command
        .arg(&stores)
        .stderr(output.try_clone().expect("a descriptor is free"))
        .stdout(output);
    let slower = ["VMSTORE_C_WRAPPER", "VMSTORE_C_SANITIZE"];
    let limit = if slower.iter().any(|name| std::env::var_os(name).is_some()) {
        SLOW_TIME_LIMIT
    } else {
        TIME_LIMIT
    };
    let setting = |name: &str, usual: u32| {
        std::env::var(name).map_or(usual, |text| {
            text.parse()
                .unwrap_or_else(|_| panic!("{name}={text}: a number is needed"))
        })
    };
    // A soak may run for the same time again if memory or files grew.
    let soak = Duration::from_secs(setting("VMSTORE_SOAK", 0).into());
    let limit = limit * setting("VMSTORE_LONG", 1).max(1) + soak * 2;
    let status = wait(&mut command, limit);

    let bytes = fs::read(&printed).expect("the output was kept");
    let text = String::from_utf8_lossy(&bytes);
    match status {
        Some(status) if status.success() => print!("{text}"),
        Some(status) => panic!("{name}: {status}\n{text}"),
        None => panic!("{name}: killed after {} s\n{text}", limit.as_secs()),
    }
}

/// Checks that the shim has all functions. Only a program that calls a missing function would fail otherwise.
#[test]
fn the_shim_forwards_every_function_of_the_header() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let header =
        fs::read_to_string(here.join("../include/vmstore.h")).expect("the header is there");
    let shim = fs::read_to_string(here.join("programs/dlopen_shim.c")).expect("the shim is there");

    // A declaration begins in the first column and has its name before the first parenthesis.
    let mut functions = Vec::new();
    for line in header
        .lines()
        .filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase()))
    {
        let word = line
            .split('(')
            .next()
            .unwrap_or("")
            .split([' ', '*'])
            .next_back()
            .unwrap_or("");
        if word.starts_with("store_") {
            functions.push(word);
        }
    }
    assert!(functions.len() >= 27, "the header declares {functions:?}");
    let missing: Vec<_> = functions
        .iter()
        .filter(|function| !shim.contains(&format!(" {function},")))
        .collect();
    assert!(missing.is_empty(), "the shim does not forward {missing:?}");
    println!("{} functions", functions.len());
}
