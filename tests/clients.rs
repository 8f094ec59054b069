//! Programs in other languages use the library: C++ through `vmstore.hpp`, with exceptions and
//! without, and Python through ctypes.

mod support;

use support::{command, cxx_compiler, library, place_shared_library, run, source, tool};

/// Compiles `raii.cpp` with the flags given, and runs it.
fn raii(flags: &[&str]) {
    let Some(mut compiler) = cxx_compiler() else {
        return;
    };
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let (built, stores) = (
        directory.path().join("built"),
        directory.path().join("stores"),
    );
    std::fs::create_dir(&built).expect("the directory is fresh");
    std::fs::create_dir(&stores).expect("the directory is fresh");
    place_shared_library(&built);
    let program = built.join("raii");
    run(compiler
        .args(flags)
        .args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"])
        .arg(source("include"))
        .arg(source("c-tests/clients/raii.cpp"))
        .arg("-o")
        .arg(&program)
        .arg("-L")
        .arg(&built)
        .args(["-lvmstore", &format!("-Wl,-rpath,{}", built.display())]));
    let said = run(command(program).arg(stores));
    assert!(said.ends_with("raii: all held\n"), "{said}");
}

#[test]
fn cxx_with_exceptions() {
    raii(&["-std=c++17"]);
}

#[test]
fn cxx_without_exceptions() {
    raii(&["-std=c++17", "-fno-exceptions"]);
}

#[test]
fn cxx_of_2020() {
    raii(&["-std=c++20"]);
}

#[test]
fn python_with_ctypes() {
    let Some(mut python) = tool("python3", "python3") else {
        return;
    };
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let said = run(python
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(source("c-tests/clients/client.py"))
        .arg(library("libvmstore.so"))
        .arg(directory.path()));
    assert!(said.contains("python: all held"), "{said}");
}
