//! `cargo run --example minivmm`: compiles `examples/minivmm.c` with the system's C compiler (`$CC`, or
//! `cc`) against the shared library that cargo has just built, and becomes that program.

use std::env;
use std::error::Error;
use std::os::unix::{fs::symlink, process::CommandExt};
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let examples = env::current_exe()?
        .parent()
        .ok_or("this program is in no directory")?
        .to_owned();

    // `cargo run --example` leaves the library in `deps` beside `examples`, `cargo build` also one above.
    let searched = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let library = [examples.join("../deps"), examples.join("..")]
        .into_iter()
        .chain(env::split_paths(&searched))
        .map(|directory| directory.join("libvmstore.so"))
        .find_map(|file| file.canonicalize().ok())
        .ok_or(
            "libvmstore.so is not where cargo puts it: run this with cargo run --example minivmm",
        )?;

    // Made aside and renamed, so that two runs at once do not see each other's half-made files. The loader
    // looks for the library by its SONAME.
    let place = examples.join("minivmm-c");
    let aside = place.join(std::process::id().to_string());
    std::fs::create_dir_all(&aside)?;
    let install = |name: &str, made: PathBuf| std::fs::rename(made, place.join(name));
    symlink(&library, aside.join("link"))?;
    install("libvmstore.so.0", aside.join("link"))?;

    let compiled = aside.join("minivmm");
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
        .arg(root.join("examples/minivmm.c"))
        .arg(&library)
        .args(["-Wl,-rpath,$ORIGIN", "-o"])
        .arg(&compiled)
        .status()
        .map_err(|error| format!("the C compiler does not start: {error}"))?;
    if !status.success() {
        return Err(format!("the C compiler ended with {status}").into());
    }
    install("minivmm", compiled)?;
    std::fs::remove_dir(&aside)?;

    Err(Command::new(place.join("minivmm"))
        .args(env::args_os().skip(1))
        .exec()
        .into())
}
