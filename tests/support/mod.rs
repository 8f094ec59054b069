//! What the tests of the built library share: the place where cargo put the library, the tools of the machine, and
//! functions that run a tool and show its output if it fails.
//!
//! A C compiler is required. If another tool is missing, the test says so on stderr and passes. With
//! `VMSTORE_REQUIRE_ALL=1`, as in CI, the test fails and names the Debian package.

#![allow(dead_code, reason = "each test uses a part of this")]

mod library;

use std::env;
use std::ffi::OsString;
use std::io::{Write as _, stderr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The name under which programs look for the shared library.
pub(crate) const SONAME: &str = "libvmstore.so.0";

/// The top of the source tree.
pub(crate) fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A source file as text.
pub(crate) fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A library that cargo built for this test.
pub(crate) fn library(name: &str) -> PathBuf {
    let test = env::current_exe().expect("a running program has a path");
    library::built(&test, name).unwrap_or_else(|| panic!("cargo did not build {name}"))
}

/// Puts links into `directory`: with them the linker (`-lvmstore`) and the loader find the shared library there.
pub(crate) fn place_shared_library(directory: &Path) {
    for name in [SONAME, "libvmstore.so"] {
        symlink(library("libvmstore.so"), directory.join(name)).expect("the directory is fresh");
    }
}

/// The C compiler: `$CC`, or `cc`.
pub(crate) fn c_compiler() -> Command {
    command(env::var_os("CC").unwrap_or_else(|| "cc".into()))
}

/// The C++ compiler, `$CXX` or `c++`, if there is one.
pub(crate) fn cxx_compiler() -> Option<Command> {
    let name = env::var("CXX").unwrap_or_else(|_| "c++".into());
    tool(&name, "g++")
}

/// A tool of the machine, if it is installed. `package` is the Debian package with this tool.
pub(crate) fn tool(name: &str, package: &str) -> Option<Command> {
    let mut version = command(name);
    version
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if version.status().is_ok_and(|status| status.success()) {
        return Some(command(name));
    }
    assert!(
        env::var_os("VMSTORE_REQUIRE_ALL").is_none_or(|value| value == "0"),
        "{name} does not run: install the Debian package {package}"
    );
    // Not eprintln!, which the test harness would hide.
    let _ = writeln!(
        stderr(),
        "skipped: {name} not found (Debian package {package})"
    );
    None
}

/// A command without the variables that cargo and its caller set for other purposes. `LD_LIBRARY_PATH` would help a
/// program that must find the library by itself, `DESTDIR` would change the place of an installation, and a nested
/// build would use the jobserver of another make.
pub(crate) fn command(program: impl Into<OsString>) -> Command {
    let mut command = Command::new(program.into());
    for name in [
        "LD_LIBRARY_PATH",
        "DESTDIR",
        "MAKEFLAGS",
        "MFLAGS",
        "CARGO_MAKEFLAGS",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs a command that must succeed. Returns its stdout.
pub(crate) fn run(command: &mut Command) -> String {
    let output = output(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        text(&output)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command that must fail. Returns its stdout and stderr.
pub(crate) fn run_refused(command: &mut Command) -> String {
    let output = output(command);
    assert!(
        !output.status.success(),
        "{command:?} succeeded\n{}",
        text(&output)
    );
    text(&output)
}

fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null());
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn text(output: &Output) -> String {
    let [out, error] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{error}")
}

/// The functions that the C header declares, sorted.
pub(crate) fn declared_functions() -> Vec<String> {
    let header = read(source("include/vmstore.h"));
    let mut code = String::new();
    for (index, part) in header.split("/*").enumerate() {
        // Before the first comment all is code; after that, what follows the comment's end.
        code += if index == 0 {
            part
        } else {
            part.split_once("*/").expect("comments end").1
        };
    }
    let mut functions: Vec<String> = code
        .split('(')
        .filter_map(|before| {
            before
                .rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .next()
        })
        .filter(|name| name.starts_with("store_"))
        .map(str::to_owned)
        .collect();
    functions.sort();
    assert!(functions.len() >= 27, "the header declares {functions:?}");
    functions
}
