//! Compiles every program of `programs/` into an object file, and writes one test for each program and
//! each way of linking it. `run.rs` includes the tests and documents them. The tables of docs/system-calls.md become a
//! header: the test of system calls thus enforces the documentation.
//!
//! For a musl target there is libvmstore.a alone, linked into static programs by `musl-gcc`.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Not a program: the functions between a program and the library that is opened with dlopen.
const SHIM: &str = "dlopen_shim";

/// The ways to link a program: the name of the test module, and the variant of `Linkage`.
const LINKAGES: [(&str, &str); 3] = [
    ("shared", "Shared"),
    ("static_", "Static"),
    ("dlopen", "Dlopen"),
];

/// The target that cargo builds for.
struct Target {
    musl: bool,
    /// What a program that links libvmstore.a needs beside it: `rustc --print native-static-libs`.
    native: Vec<String>,
}

impl Target {
    fn new() -> Self {
        let musl = env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "musl");
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let native = if musl {
            // Use the unwinder of Rust: the unwinder of a GCC for glibc needs glibc.
            let print = Command::new(env::var_os("RUSTC").expect("cargo sets it"))
                .args(["--print", "target-libdir", "--target"])
                .arg(env::var_os("TARGET").expect("cargo sets it"))
                .output()
                .expect("rustc runs");
            let directory = String::from_utf8(print.stdout).expect("a path in UTF-8");
            let search = format!("-L{}/self-contained", directory.trim());
            [words("-static"), vec![search], words("-lunwind -lc")].concat()
        } else {
            words("-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc")
        };
        Self { musl, native }
    }

    /// The ways to link for this target, and the way in which the programs do all rounds.
    fn linkages(&self) -> (&'static [(&'static str, &'static str)], &'static str) {
        if self.musl {
            (&LINKAGES[1..2], "Static")
        } else {
            (&LINKAGES, "Shared")
        }
    }
}

fn main() {
    let target = Target::new();
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let programs = here.join("programs");
    let include = here.join("../include");

    let mut sources = Vec::new();
    println!("cargo::rerun-if-changed={}", programs.display());
    println!(
        "cargo::rerun-if-changed={}",
        include.join("vmstore.h").display()
    );
    for entry in fs::read_dir(&programs).expect("programs/ is readable") {
        let path = entry.expect("programs/ is readable").path();
        println!("cargo::rerun-if-changed={}", path.display());
        if path.extension().is_some_and(|extension| extension == "c") {
            sources.push(path);
        }
    }
    sources.sort();

    let calls = here.join("../docs/system-calls.md");
    println!("cargo::rerun-if-changed={}", calls.display());
    let document = fs::read_to_string(&calls).expect("docs/system-calls.md is readable");
    fs::write(out.join("system_calls.h"), system_calls(&document)).expect("OUT_DIR is writable");

    println!("cargo::rerun-if-env-changed=VMSTORE_C_SANITIZE");
    let sanitize = env::var("VMSTORE_C_SANITIZE").unwrap_or_default();

    let mut build = cc::Build::new();
    build
        .include(&include)
        .include(&out)
        .cargo_metadata(false)
        .warnings(false)
        .opt_level(1)
        .debug(true);
    if target.musl {
        // musl has no kernel headers.
        build.flag("-idirafter/usr/include");
        build.flag("-idirafter/usr/include/x86_64-linux-gnu");
    }
    for flag in [
        "-std=c11",
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Werror",
        "-pthread",
    ] {
        build.flag(flag);
    }
    if !sanitize.is_empty() {
        build.flag(format!("-fsanitize={sanitize}"));
        build
            .flag("-fno-sanitize-recover=all")
            .flag("-fno-omit-frame-pointer");
    }
    if env::var_os("CARGO_CFG_DEBUG_ASSERTIONS").is_some() {
        build.define("VMSTORE_DEBUG_ASSERTIONS", None);
    }
    let objects = build.files(&sources).compile_intermediates();
    assert_eq!(
        objects.len(),
        sources.len(),
        "one object for each source, in the same order"
    );

    let compiler = build.get_compiler().path().to_path_buf();
    fs::write(
        out.join("programs.rs"),
        generate(&target, &compiler, &sanitize, &sources, &objects),
    )
    .expect("OUT_DIR is writable");
}

/// The text that `run.rs` includes: constants, and a module of tests for each linkage.
fn generate(
    target: &Target,
    compiler: &Path,
    sanitize: &str,
    sources: &[PathBuf],
    objects: &[PathBuf],
) -> String {
    let named: Vec<(String, &PathBuf)> = sources
        .iter()
        .map(|source| {
            source
                .file_stem()
                .expect("it ends in .c")
                .to_string_lossy()
                .into_owned()
        })
        .zip(objects)
        .collect();
    let shim = &named
        .iter()
        .find(|(name, _)| name == SHIM)
        .expect("the shim is there")
        .1;

    let mut text = String::new();
    writeln!(text, "const COMPILER: &str = {:?};", text_of(compiler)).unwrap();
    writeln!(text, "const SANITIZE: &str = {sanitize:?};").unwrap();
    writeln!(text, "const SHIM_OBJECT: &str = {:?};", text_of(shim)).unwrap();
    let (linkages, thorough) = target.linkages();
    writeln!(
        text,
        "const NATIVE_LIBRARIES: &[&str] = &{:?};",
        target.native
    )
    .unwrap();
    writeln!(text, "const THOROUGH: Linkage = Linkage::{thorough};").unwrap();
    for (module, linkage) in linkages {
        writeln!(text, "\nmod {module} {{").unwrap();
        for (name, object) in named.iter().filter(|(name, _)| name != SHIM) {
            writeln!(text, "    #[test]\n    fn {name}() {{").unwrap();
            let object = text_of(object);
            writeln!(
                text,
                "        super::run({name:?}, {object:?}, super::Linkage::{linkage});"
            )
            .unwrap();
            writeln!(text, "    }}").unwrap();
        }
        writeln!(text, "}}").unwrap();
    }
    text
}

/// A C header with one line for each line of the document's tables below a heading of level two:
/// `RULE(section, call, when, number, argument, value)`.
fn system_calls(document: &str) -> String {
    let mut text = String::from("/* Generated from docs/system-calls.md. */\n");
    let mut section = None;
    for line in document.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            section = Some(heading);
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let (Some(section), ["", call, when, _, ""]) = (section, cells.as_slice()) else {
            continue;
        };
        let Some(call) = call
            .strip_prefix('`')
            .and_then(|call| call.strip_suffix('`'))
        else {
            continue; // the header of a table
        };
        let (name, wanted) = call
            .strip_suffix(')')
            .and_then(|call| call.split_once('('))
            .unwrap_or((call, ""));
        // The argument that distinguishes calls with the same name.
        let argument = match name {
            _ if wanted.is_empty() => "-1",
            "mmap" => "3",
            "madvise" => "2",
            "ioctl" | "fcntl" => "1",
            _ => panic!(
                "docs/system-calls.md: no argument is known that distinguishes {call} from other calls"
            ),
        };
        let value = if wanted.is_empty() { "0" } else { wanted };
        let when = when.replace('`', "");
        // Other architectures do not have all calls. On x86-64 a wrong name does not compile.
        writeln!(
            text,
            "#if defined(__x86_64__) || defined(SYS_{name})\n\
             RULE({section:?}, {call:?}, {when:?}, SYS_{name}, {argument}, {value})\n#endif"
        )
        .unwrap();
    }
    text
}

/// A path as a string, which `{:?}` then writes as a literal of Rust.
fn text_of(path: &Path) -> &str {
    path.to_str()
        .expect("cargo's directories have names in UTF-8")
}
