//! The library as a package: what the shared object exports and how it was linked, and what `cmake --install`
//! installs, used by programs that know only the package.
//!
//! What cargo builds for it is kept in `target/cmake-test`, so that only the first run is slow.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::{
    SONAME, c_compiler, command, cxx_compiler, declared_functions, library, read, run, run_refused,
    source, tool,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The version to ask for: major and minor.
fn wanted(minor: u32) -> String {
    format!("{}.{minor}", env!("CARGO_PKG_VERSION_MAJOR"))
}

fn minor() -> u32 {
    env!("CARGO_PKG_VERSION_MINOR")
        .parse()
        .expect("cargo gives a number")
}

#[test]
fn exactly_the_functions_of_the_header_and_the_allow_list_are_exported() {
    let allowed: Vec<String> = read(source("cmake/symbols.txt"))
        .lines()
        .map(str::to_owned)
        .collect();
    assert!(allowed.is_sorted(), "cmake/symbols.txt is not sorted");
    assert_eq!(
        allowed,
        declared_functions(),
        "cmake/symbols.txt is not what the header declares"
    );
    if tool("nm", "binutils").is_none() {
        return;
    }
    let mut exported = exported(&library("libvmstore.so"));
    exported.sort_unstable();
    assert_eq!(
        exported, allowed,
        "libvmstore.so exports other symbols than cmake/symbols.txt"
    );
}

#[test]
fn the_shared_library_is_linked_as_its_users_need_it() {
    linked_well(&library("libvmstore.so"));
}

/// The name is versioned, nothing can be interposed, and `dlclose` does not unload.
fn linked_well(shared: &Path) {
    let Some(mut readelf) = tool("readelf", "binutils") else {
        return;
    };
    let dynamic = run(readelf.arg("-dW").arg(shared));
    let has = |tag: &str, value: &str| {
        dynamic
            .lines()
            .any(|line| line.contains(&format!("({tag})")) && line.contains(value))
    };
    assert!(
        has("SONAME", &format!("[{SONAME}]")),
        "no SONAME {SONAME}\n{dynamic}"
    );
    assert!(
        has("FLAGS_1", "NODELETE"),
        "linked without -z nodelete\n{dynamic}"
    );
    assert!(
        !has("TEXTREL", "") && !has("RPATH", "") && !has("RUNPATH", ""),
        "{dynamic}"
    );

    // Own calls bound by -Bsymbolic-functions need no relocation by name.
    let relocations = run(command("readelf").arg("-rW").arg(shared));
    assert!(
        relocations.contains("R_"),
        "readelf shows no relocations:\n{relocations}"
    );
    let interposable: Vec<&str> = relocations
        .lines()
        .filter(|line| line.contains(" store_"))
        .collect();
    assert!(
        interposable.is_empty(),
        "linked without -Bsymbolic-functions: {interposable:#?}"
    );
}

#[test]
fn the_installed_package_serves_its_users() {
    if tool("cmake", "cmake").is_none() || tool("make", "make").is_none() {
        return;
    }
    let scratch = tempfile::tempdir().expect("a temporary directory can be made");
    let place = Place {
        scratch: scratch.path().to_path_buf(),
        prefix: install(scratch.path()),
    };

    holds_what_it_should(&place.prefix);
    linked_well(&place.prefix.join("lib/libvmstore.so"));
    is_stripped_to_its_debug_file(&place.prefix.join("lib"));
    place.the_command_runs_and_is_described();
    place.cmake_consumers_run();
    place.cmake_refuses_other_versions();
    place.pkg_config_consumers_run();
    place.a_static_only_package_works();
}

fn configure(build: &Path, build_type: &str) {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("it is in target/");
    run(command("cmake")
        .arg("-S")
        .arg(source(""))
        .arg("-B")
        .arg(build)
        .arg(format!(
            "-DVMSTORE_CARGO_TARGET_DIR={}",
            target.join("cmake-test").display()
        ))
        .args([
            "-DCMAKE_INSTALL_LIBDIR=lib",
            &format!("-DCMAKE_BUILD_TYPE={build_type}"),
        ]));
}

/// The command is left out where the packager does not want it.
#[test]
fn a_package_without_the_command() {
    if tool("cmake", "cmake").is_none() || tool("make", "make").is_none() {
        return;
    }
    let scratch = tempfile::tempdir().expect("a temporary directory can be made");
    let build = scratch.path().join("build");
    configure(&build, "");
    let would_run = |option: &str| {
        run(command("cmake").arg(option).arg(&build));
        let make = ["--build", ".", "--", "-n"];
        let would_run = run(command("cmake").args(make).current_dir(&build));
        let installs = read(build.join("cmake_install.cmake"));
        assert!(installs.contains("/licenses/vmstore"), "{installs}");
        (
            would_run.contains("vmstore-cli"),
            installs.contains("/bash-completion/") || installs.contains("/man1\""),
        )
    };
    assert_eq!(would_run("-DVMSTORE_INSTALL_COMMAND=ON"), (true, true));
    assert_eq!(would_run("-DVMSTORE_INSTALL_COMMAND=OFF"), (false, false));
}

/// Builds and installs as a user does, then moves the prefix to another place.
fn install(scratch: &Path) -> PathBuf {
    let (build, prefix) = (scratch.join("build"), scratch.join("first/prefix"));
    configure(&build, "");
    run(command("cmake").arg("--build").arg(&build));
    run(command("cmake")
        .arg("--install")
        .arg(&build)
        .arg("--prefix")
        .arg(&prefix));
    fs::remove_dir_all(&build).expect("it is ours");
    let moved = scratch.join("moved");
    fs::rename(&prefix, &moved).expect("both are in one directory");
    moved
}

/// All files and links below a directory, relative to it, sorted; a link with where it points.
fn tree(directory: &Path) -> Vec<String> {
    let (mut found, mut waiting) = (Vec::new(), vec![directory.to_path_buf()]);
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next).expect("it is readable") {
            let path = entry.expect("it is readable").path();
            let name = path
                .strip_prefix(directory)
                .expect("it is below")
                .display()
                .to_string();
            if let Ok(target) = fs::read_link(&path) {
                found.push(format!("{name} -> {}", target.display()));
            } else if path.is_dir() {
                waiting.push(path);
            } else {
                found.push(name);
            }
        }
    }
    found.sort();
    found
}

fn holds_what_it_should(prefix: &Path) {
    let versioned = format!("libvmstore.so.{VERSION}");
    let expected = [
        "bin/vmstore".into(),
        "include/vmstore.h".into(),
        "include/vmstore.hpp".into(),
        format!("lib/.debug/{versioned}.debug"),
        "lib/cmake/vmstore/vmstoreConfig.cmake".into(),
        "lib/cmake/vmstore/vmstoreConfigVersion.cmake".into(),
        "lib/cmake/vmstore/vmstoreTargets.cmake".into(),
        "lib/libvmstore.a".into(),
        format!("lib/libvmstore.so -> {SONAME}"),
        format!("lib/{SONAME} -> {versioned}"),
        format!("lib/{versioned}"),
        "lib/pkgconfig/vmstore.pc".into(),
        "share/bash-completion/completions/vmstore".into(),
        "share/fish/vendor_completions.d/vmstore.fish".into(),
        "share/licenses/vmstore/LICENSE-APACHE".into(),
        "share/licenses/vmstore/LICENSE-MIT".into(),
        "share/man/man1/vmstore.1".into(),
        "share/zsh/site-functions/_vmstore".into(),
    ];
    assert_eq!(tree(prefix), expected);
    // No file contains the path where it was built or first installed.
    for name in tree(prefix)
        .iter()
        .filter(|name| name.contains("/cmake/") || name.contains("/pkgconfig/"))
    {
        let text = read(prefix.join(name));
        for place in [prefix.parent().expect("it has one"), &source("")] {
            assert!(
                !text.contains(&*place.to_string_lossy()),
                "{name} names {}",
                place.display()
            );
        }
    }
}

/// The names of the sections of an ELF file.
fn sections(file: &Path) -> Vec<String> {
    let listed = run(command("readelf").arg("-SW").arg(file));
    let names = listed.lines().filter_map(|line| {
        let (_, row) = line.split_once(']')?;
        row.split_whitespace().next().map(str::to_owned)
    });
    names.collect()
}

/// What the dynamic symbol table of a file exports.
fn exported(file: &Path) -> Vec<String> {
    let listed = run(command("nm").args(["-D", "--defined-only", "-P"]).arg(file));
    let names = listed.lines().filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

/// The CRC-32 that .gnu_debuglink has of a debug file.
fn crc32(bytes: &[u8]) -> u32 {
    let table: Vec<u32> = (0..256)
        .map(|byte| {
            (0..8).fold(byte, |crc: u32, _| {
                (crc >> 1) ^ (0xEDB8_8320 & 0_u32.wrapping_sub(crc & 1))
            })
        })
        .collect();
    !bytes.iter().fold(!0, |crc, byte| {
        (crc >> 8) ^ table[usize::from(crc as u8 ^ byte)]
    })
}

/// The library has no debug information of its own, and names the file that has it.
fn is_stripped_to_its_debug_file(lib: &Path) {
    let shared = lib.join(format!("libvmstore.so.{VERSION}"));
    let name = format!("libvmstore.so.{VERSION}.debug");
    let debug = lib.join(".debug").join(&name);
    if tool("readelf", "binutils").is_none() {
        return;
    }
    let is_debug = |section: &String| section.starts_with(".debug_");
    let (kept, moved) = (sections(&shared), sections(&debug));
    assert!(!kept.iter().any(is_debug), "{kept:?}");
    assert!(!kept.contains(&".symtab".to_owned()), "{kept:?}");
    assert!(moved.contains(&".debug_line".to_owned()), "{moved:?}");
    assert!(moved.contains(&".symtab".to_owned()), "{moved:?}");
    let size = fs::metadata(&shared).expect("it is there").len();
    assert!(size < 3 << 20, "the stripped library has {size} bytes");

    // The file's name, zeros up to a multiple of 4, and the CRC-32 of its bytes.
    let (link, copy) = (lib.join("debuglink"), lib.join("copy"));
    run(command("objcopy")
        .arg("--dump-section")
        .arg(format!(".gnu_debuglink={}", link.display()))
        .arg(&shared)
        .arg(&copy));
    let mut wanted = name.into_bytes();
    wanted.resize(wanted.len() / 4 * 4 + 4, 0);
    wanted.extend(crc32(&fs::read(&debug).expect("it is readable")).to_le_bytes());
    assert_eq!(fs::read(&link).expect("it is written"), wanted);
    for file in [link, copy] {
        fs::remove_file(file).expect("it is ours");
    }

    let allowed = read(source("cmake/symbols.txt"));
    let mut exported = exported(&shared);
    exported.sort_unstable();
    assert_eq!(exported, allowed.lines().collect::<Vec<_>>());
}

/// A package to use, and a directory to use it in.
struct Place {
    scratch: PathBuf,
    prefix: PathBuf,
}

impl Place {
    /// Configures the consumer project in a fresh directory, with a request for this version.
    fn consumer(&self, name: &str, version: &str) -> (std::process::Command, PathBuf) {
        let build = self.scratch.join(name);
        let mut cmake = command("cmake");
        cmake
            .arg("-S")
            .arg(source("c-tests/clients/consumer"))
            .arg("-B")
            .arg(&build)
            .arg(format!("-DCMAKE_PREFIX_PATH={}", self.prefix.display()))
            .arg(format!("-Dvmstore_WANTED={version}"));
        (cmake, build)
    }

    /// Runs a consumer: it works, has the installed version, and loads the shared library or not, as it should.
    fn check(&self, program: &Path, shared: bool) {
        let name = program
            .file_name()
            .expect("it has a name")
            .to_string_lossy();
        let store = self.scratch.join(format!("{name}.store"));
        assert_eq!(run(command(program).arg(store)), format!("{VERSION}\n"));
        if let Some(mut readelf) = tool("readelf", "binutils") {
            let needed = run(readelf.arg("-dW").arg(program)).contains(&format!("[{SONAME}]"));
            assert_eq!(needed, shared, "{name} loads {SONAME}: {needed}");
        }
    }

    fn the_command_runs_and_is_described(&self) {
        let program = self.prefix.join("bin/vmstore");
        let said = run(command(&program).arg("--version"));
        assert_eq!(said, format!("vmstore {VERSION}\n"));
        if tool("readelf", "binutils").is_some() {
            let sections = sections(&program);
            let debug = sections.contains(&".debug_info".to_owned());
            assert!(!debug, "{sections:?}");
        }
        for (page, beginning, arguments) in [
            ("man/man1/vmstore.1", ".ie", &["man"][..]),
            (
                "bash-completion/completions/vmstore",
                "_vmstore()",
                &["completions", "bash"],
            ),
            (
                "zsh/site-functions/_vmstore",
                "#compdef vmstore",
                &["completions", "zsh"],
            ),
            (
                "fish/vendor_completions.d/vmstore.fish",
                "#",
                &["completions", "fish"],
            ),
        ] {
            let text = read(self.prefix.join("share").join(page));
            assert!(text.starts_with(beginning), "{page}: {text}");
            assert_eq!(text, run(command(&program).args(arguments)), "{page}");
        }
        for name in ["LICENSE-APACHE", "LICENSE-MIT"] {
            let installed = self.prefix.join("share/licenses/vmstore").join(name);
            assert_eq!(read(installed), read(source(name)), "{name}");
        }
    }

    fn cmake_consumers_run(&self) {
        let (mut cmake, build) = self.consumer("consumer", &wanted(minor()));
        let said = run(&mut cmake);
        assert!(said.contains(&format!("found vmstore {VERSION}")), "{said}");
        run(command("cmake").arg("--build").arg(&build));
        self.check(&build.join("with-vmstore"), true);
        self.check(&build.join("with-shared"), true);
        self.check(&build.join("with-static"), false);
    }

    fn cmake_refuses_other_versions(&self) {
        run(&mut self.consumer("exact", VERSION).0);
        let mut others = vec!["99".to_owned(), wanted(minor() + 1)];
        if env!("CARGO_PKG_VERSION_MAJOR") == "0" && minor() > 0 {
            others.push(wanted(minor() - 1));
        }
        for version in others {
            let said = run_refused(&mut self.consumer(&format!("other-{version}"), &version).0);
            let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(
                words.contains(&format!("requested version \"{version}\"")),
                "{said}"
            );
            assert!(words.contains(&format!("version: {VERSION}")), "{said}");
        }
    }

    /// What pkg-config prints for these words, split as a shell would split them.
    fn pkg_config(&self, arguments: &[&str]) -> Vec<String> {
        let mut pkg_config = command("pkg-config");
        pkg_config.env("PKG_CONFIG_PATH", self.prefix.join("lib/pkgconfig"));
        let said = run(pkg_config.args(arguments).arg("vmstore"));
        said.split_whitespace().map(str::to_owned).collect()
    }

    fn compile_with_pkg_config(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let program = self.scratch.join(name);
        run(c_compiler()
            .arg(source("c-tests/clients/consumer/consumer.c"))
            .arg("-o")
            .arg(&program)
            .args(self.pkg_config(arguments))
            .arg(format!("-Wl,-rpath,{}", self.prefix.join("lib").display())));
        program
    }

    fn pkg_config_consumers_run(&self) {
        if tool("pkg-config", "pkg-config").is_none() {
            return;
        }
        assert_eq!(self.pkg_config(&["--modversion"]), [VERSION]);
        self.check(
            &self.compile_with_pkg_config("pc-shared", &["--cflags", "--libs"]),
            true,
        );

        let Some(mut compiler) = cxx_compiler() else {
            return;
        };
        let (program, stores) = (self.scratch.join("pc-raii"), self.scratch.join("raii"));
        fs::create_dir(&stores).expect("the directory is fresh");
        run(compiler
            .arg("-std=c++17")
            .arg(source("c-tests/clients/raii.cpp"))
            .arg("-o")
            .arg(&program)
            .args(self.pkg_config(&["--cflags", "--libs"]))
            .arg(format!("-Wl,-rpath,{}", self.prefix.join("lib").display())));
        run(command(program).arg(stores));
    }

    /// Without the shared library, the linker and `vmstore::vmstore` take the static one. A consumer that asks for
    /// the shared library gets an error.
    fn a_static_only_package_works(&self) {
        for name in ["libvmstore.so", SONAME, &format!("libvmstore.so.{VERSION}")] {
            fs::remove_file(self.prefix.join("lib").join(name)).expect("it is ours");
        }
        if tool("pkg-config", "pkg-config").is_some() {
            let program =
                self.compile_with_pkg_config("pc-static", &["--static", "--cflags", "--libs"]);
            self.check(&program, false);
        }
        let said = run_refused(&mut self.consumer("shared-is-gone", &wanted(minor())).0);
        assert!(said.contains("shared"), "{said}");

        let (mut cmake, build) = self.consumer("static-only", &wanted(minor()));
        run(cmake.arg("-Dvmstore_KINDS=vmstore;static"));
        run(command("cmake").arg("--build").arg(&build));
        self.check(&build.join("with-vmstore"), false);
    }
}

#[test]
fn a_debug_build_takes_the_dev_profile() {
    if tool("cmake", "cmake").is_none() || tool("make", "make").is_none() {
        return;
    }
    let scratch = tempfile::tempdir().expect("a temporary directory can be made");
    for (build_type, profile, directory) in [
        ("Debug", "dev", "debug"),
        ("RelWithDebInfo", "release", "release"),
        ("", "release", "release"),
    ] {
        let build = scratch.path().join(format!("build{build_type}"));
        configure(&build, build_type);
        let would_run = run(command("cmake")
            .arg("--build")
            .arg(&build)
            .args(["--", "-n"]));
        assert!(
            would_run.contains(&format!("--profile {profile} ")),
            "{build_type}: {would_run}"
        );
        let installs = read(build.join("cmake_install.cmake"));
        let library = format!("/{directory}/libvmstore.a\"");
        assert!(
            installs.contains(&library),
            "{build_type}: no {library} in {installs}"
        );
    }
}
