//! Compiles a C program of the examples with the system's C compiler (`$CC`, or `cc`) against the shared
//! library that cargo has just built, and becomes that program.

#[path = "../../tests/support/library.rs"]
mod library;

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::{fs::symlink, process::CommandExt};
use std::path::{Path, PathBuf};
use std::process::{self, Command};

/// Makes the program `name` of `sources`, which are below `examples`, and becomes it. Returns only if that fails.
pub(crate) fn become_program<A: AsRef<OsStr>>(
    name: &str,
    sources: &[&str],
    arguments: impl IntoIterator<Item = A>,
) -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = env::current_exe()?;
    let examples = program.parent().ok_or("this program is in no directory")?;
    let library = library::built(&program, "libvmstore.so").ok_or_else(|| {
        format!(
            "libvmstore.so is not where cargo puts it: run this with cargo run --example {name}"
        )
    })?;

    // Made in a directory of their own and renamed: two runs at once see only whole files. The loader looks for
    // the library by its SONAME.
    let place = examples.join(format!("{name}-c"));
    let aside = place.join(process::id().to_string());
    fs::create_dir_all(&aside)?;
    let install = |name: &str, made: PathBuf| fs::rename(made, place.join(name));
    symlink(&library, aside.join("link"))?;
    install("libvmstore.so.0", aside.join("link"))?;

    let compiled = aside.join(name);
    let status = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()))
        .args([
            "-std=c11",
            "-O2",
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-pthread",
            "-I",
        ])
        .arg(root.join("include"))
        .args(sources.iter().map(|file| root.join("examples").join(file)))
        .arg(&library)
        .args(["-Wl,-rpath,$ORIGIN", "-o"])
        .arg(&compiled)
        .status()
        .map_err(|error| format!("the C compiler does not start: {error}"))?;
    if !status.success() {
        return Err(format!("the C compiler ended with {status}").into());
    }
    install(name, compiled)?;
    fs::remove_dir(&aside)?;

    Err(Command::new(place.join(name)).args(arguments).exec().into())
}
