//! Gives the shared library its name and its linker options.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The SONAME carries the ABI version. Calls inside the library cannot be interposed. The library
    // is never unloaded, because threads of the host may still run destructors of its thread-locals.
    for argument in [
        "-soname,libvmstore.so.0",
        "-Bsymbolic-functions",
        "-z,nodelete",
    ] {
        println!("cargo::rustc-cdylib-link-arg=-Wl,{argument}");
    }
}
