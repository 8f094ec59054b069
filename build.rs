//! Writes the C header from `src/ffi`, and gives the shared library its name and its manners.

use std::path::PathBuf;

/// The files of `src/ffi` that hold what C sees, in the order in which the header presents them.
const SOURCES: [&str; 12] = [
    "status",
    "types",
    "store",
    "module",
    "tracking",
    "commit",
    "history",
    "diff",
    "read",
    "prune",
    "transfer",
    "last_error",
];

fn main() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));

    let config = root.join("cbindgen.toml");
    println!("cargo::rerun-if-changed={}", config.display());
    let mut builder = cbindgen::Builder::new()
        .with_config(cbindgen::Config::from_file(&config).expect("cbindgen.toml is valid"));
    for name in SOURCES {
        let source = root.join("src/ffi").join(name).with_extension("rs");
        println!("cargo::rerun-if-changed={}", source.display());
        builder = builder.with_src(source);
    }
    // The committed include/vmstore.h is what users get; tests/header.rs says when it is out of
    // date.
    builder
        .generate()
        .expect("src/ffi is readable by cbindgen")
        .write_to_file(out.join("vmstore.h"));
    println!(
        "cargo::rustc-env=VMSTORE_GENERATED_HEADER={}",
        out.join("vmstore.h").display()
    );

    // The SONAME carries the ABI version; calls inside the library cannot be interposed; and it is
    // never unloaded, because threads of the host may still run destructors of its thread-locals.
    for argument in [
        "-soname,libvmstore.so.0",
        "-Bsymbolic-functions",
        "-z,nodelete",
    ] {
        println!("cargo::rustc-cdylib-link-arg=-Wl,{argument}");
    }
}
