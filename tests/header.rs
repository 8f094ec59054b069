//! The C header is up to date, is plain C and C++ by itself, and the statements of its introduction hold.
//!
//! `VMSTORE_WRITE_HEADER=1 cargo test --test header` brings `include/vmstore.h` up to date.

#[path = "support/generator.rs"]
mod generator;
mod support;

use std::fs;
use std::io::{Write as _, stderr};
use std::path::Path;
use std::process::{Command, Stdio};

use support::{c_compiler, cxx_compiler, declared_functions, read, run, source};

/// No warning is accepted from anything a user includes.
const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

#[test]
fn the_committed_header_is_the_generated_one() {
    let committed = source("include/vmstore.h");
    let generated = generator::header(&source(""));
    if std::env::var_os("VMSTORE_WRITE_HEADER").is_some_and(|value| value == "1") {
        fs::write(&committed, &generated).expect("include/ is writable");
        return;
    }
    let committed = read(committed);
    let mut lines = committed.lines().zip(generated.lines()).enumerate();
    let difference = lines
        .find(|(_, (old, new))| old != new)
        .map(|(index, (old, new))| {
            format!(
                "line {}:\n  committed: {old}\n  generated: {new}\n",
                index + 1
            )
        });
    assert!(
        committed == generated,
        "include/vmstore.h is not what src/ffi gives now; update it with\n  \
         VMSTORE_WRITE_HEADER=1 cargo test --test header\n{}",
        difference.unwrap_or_else(|| "one is longer than the other\n".into())
    );
}

#[test]
fn the_headers_are_plain_ascii() {
    for name in ["include/vmstore.h", "include/vmstore.hpp"] {
        for (index, line) in read(source(name)).lines().enumerate() {
            let plain = line.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            assert!(plain, "{name}:{}: {line}", index + 1);
        }
    }
}

#[test]
fn the_header_is_short() {
    let lines = read(source("include/vmstore.h")).lines().count();
    assert!(lines <= 1500, "include/vmstore.h has {lines} lines");
}

/// Compiles a file that includes one header, twice, and nothing else.
fn compiles_alone(compiler: &mut Command, extension: &str, header: &str, standard: &str) {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let file = directory.path().join("alone").with_extension(extension);
    fs::write(&file, format!("#include <{header}>\n#include <{header}>\n"))
        .expect("it is writable");
    run(compiler
        .arg(format!("-std={standard}"))
        .args(STRICT)
        .arg("-fsyntax-only")
        .arg("-I")
        .arg(source("include"))
        .arg(file));
}

/// The standards that a compiler knows, of those that the header has to be plain in. c2x and c++2b
/// are the names of C23 and C++23 before their publication.
fn standards(compiler: &dyn Fn() -> Command, extension: &str) -> Vec<&'static str> {
    let (all, required): (&[_], &[&str]) = match extension {
        "c" => (
            &["c89", "gnu89", "c99", "c11", "gnu11", "c17", "c2x", "c23"],
            &["c89", "c99", "c11"],
        ),
        _ => (&["c++17", "c++20", "c++2b", "c++23"], &["c++17"]),
    };
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let file = directory.path().join("empty").with_extension(extension);
    fs::write(&file, "typedef int empty;\n").expect("it is writable");
    let known = |standard: &&&str| {
        let mut compiler = compiler();
        compiler
            .arg(format!("-std={standard}"))
            .arg("-fsyntax-only");
        compiler.arg(&file).stderr(Stdio::null());
        compiler.status().is_ok_and(|status| status.success())
    };
    let known: Vec<&str> = all.iter().filter(known).copied().collect();
    for standard in required {
        assert!(
            known.contains(standard),
            "the compiler does not know {standard}"
        );
    }
    // Not println!, which the test harness would hide.
    let _ = writeln!(stderr(), "standards tried: {}", known.join(" "));
    known
}

#[test]
fn the_c_header_compiles_alone_in_every_c() {
    for standard in standards(&c_compiler, "c") {
        compiles_alone(&mut c_compiler(), "c", "vmstore.h", standard);
    }
}

/// The structs of the header that have fields, and the first field of each.
fn structs() -> Vec<(String, String)> {
    let header = read(source("include/vmstore.h"));
    let mut found = Vec::new();
    for body in header.split("typedef struct {\n").skip(1) {
        let (fields, rest) = body.split_once("\n} ").expect("a struct ends");
        let name = rest.split(';').next().expect("a struct has a name");
        let first = fields
            .lines()
            .map(str::trim)
            .find(|line| !line.starts_with(['/', '*']));
        found.push((name.to_owned(), first.unwrap_or_default().to_owned()));
    }
    assert!(found.len() >= 15, "the header has the structs {found:?}");
    found
}

/// A program that checks, for each struct, that its size stands first, and that VMSTORE_INIT initialises and
/// assigns a struct that is zero except its size.
fn program_of_structs() -> String {
    let mut program = String::from(
        "#include <vmstore.h>\n\
         static int wrong(const void *object, size_t size)\n\
         {\n\
         const unsigned char *bytes = (const unsigned char *)object;\n\
         size_t at;\n\
         if (*(const size_t *)object != size) return 1;\n\
         for (at = sizeof(size_t); at < size; at++) if (bytes[at]) return 1;\n\
         return 0;\n\
         }\n",
    );
    let structs = structs();
    for (name, _) in &structs {
        let check = format!(
            "static int check_{name}(void)\n{{\n\
             {name} made = VMSTORE_INIT({name});\n\
             {name} assigned;\n\
             assigned = VMSTORE_INIT({name});\n\
             if (offsetof({name}, struct_size) != 0) return 1;\n\
             return wrong(&made, sizeof made) || wrong(&assigned, sizeof assigned);\n}}\n"
        );
        program += &check;
    }
    program += "int main(void)\n{\nreturn 0";
    for (name, _) in &structs {
        program += "\n|| check_";
        program += name;
        program += "()";
    }
    program + ";\n}\n"
}

#[test]
fn every_struct_begins_with_its_size_and_can_be_initialised() {
    for (name, first) in structs() {
        assert_eq!(first, "size_t struct_size;", "{name} begins otherwise");
    }
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let compiles = |compiler: &dyn Fn() -> Command, extension: &str| {
        let file = directory.path().join("structs").with_extension(extension);
        fs::write(&file, program_of_structs()).expect("it is writable");
        let program = directory.path().join("structs");
        for standard in standards(compiler, extension) {
            run(compiler()
                .arg(format!("-std={standard}"))
                .args(STRICT)
                .arg("-I")
                .arg(source("include"))
                .arg("-o")
                .arg(&program)
                .arg(&file));
            run(&mut support::command(&program));
        }
    };
    compiles(&c_compiler, "c");
    if cxx_compiler().is_some() {
        compiles(&|| cxx_compiler().expect("it was there"), "cpp");
    }
}

#[test]
fn both_headers_compile_alone_in_cxx() {
    if cxx_compiler().is_none() {
        return;
    }
    let compiler = || cxx_compiler().expect("it was there");
    for standard in standards(&compiler, "cpp") {
        for header in ["vmstore.h", "vmstore.hpp"] {
            compiles_alone(&mut compiler(), "cpp", header, standard);
        }
    }
}

#[test]
fn the_cxx_header_is_small_and_covers_every_function() {
    let text = read(source("include/vmstore.hpp"));
    assert!(
        text.lines().count() < 400,
        "vmstore.hpp has {} lines",
        text.lines().count()
    );
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""))
        .collect();
    let words: Vec<&str> = code
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .collect();
    let missing: Vec<String> = declared_functions()
        .into_iter()
        .filter(|name| !words.contains(&name.as_str()))
        .collect();
    assert!(
        missing.is_empty(),
        "vmstore.hpp has no way to call {missing:?}"
    );
}

/// The program in the introduction, without the comment's frame.
fn introduction(header: &str) -> String {
    let begin = header
        .find(" * 2. A WHOLE PROGRAM")
        .expect("the introduction has a program");
    let end = header.find(" * 3. PROMISES").expect("and goes on after it");
    let program: String = header[begin..end]
        .lines()
        .skip(1)
        .filter_map(|line| line.strip_prefix(" *"))
        .flat_map(|line| [line.strip_prefix("     ").unwrap_or(line), "\n"])
        .collect();
    assert!(
        program.contains("int main(void)"),
        "the program does not begin as expected:\n{program}"
    );
    program
}

#[test]
fn the_program_of_the_introduction_says_hello() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let at = |name: &str| directory.path().join(name);
    fs::write(
        at("hello.c"),
        introduction(&read(source("include/vmstore.h"))),
    )
    .expect("it is writable");
    support::place_shared_library(directory.path());
    link(
        &mut c_compiler(),
        directory.path(),
        &["-std=c99", "hello.c"],
    );
    let said = run(support::command(at("program")).current_dir(directory.path()));
    assert_eq!(said, "hello\n");
    assert!(
        at("guest.store").is_dir(),
        "the program made its store in its working directory"
    );
}

#[test]
fn the_example_of_the_cxx_header_works() {
    let Some(mut compiler) = cxx_compiler() else {
        return;
    };
    let text = read(source("include/vmstore.hpp"));
    let example: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.starts_with("//     "))
        .map_while(|line| line.strip_prefix("//     "))
        .collect();
    assert!(
        example.len() > 4,
        "the example does not begin as expected: {example:#?}"
    );
    let program = format!(
        "#include <vmstore.hpp>\n#include <cstdio>\n#include <cstring>\nint main()\n{{\n{}\n\
         return store.restore(first) && ram ? 0 : 1;\n}}\n",
        example.join("\n")
    );

    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let at = |name: &str| directory.path().join(name);
    fs::write(at("example.cpp"), program).expect("it is writable");
    support::place_shared_library(directory.path());
    link(
        &mut compiler,
        directory.path(),
        &["-std=c++17", "example.cpp"],
    );
    run(support::command(at("program")).current_dir(directory.path()));
    let commits = at("guest.store").join("commits");
    assert!(commits.is_file(), "the example persisted");
}

/// Compiles a source in `directory`, with the library that lies there too, into `program`.
fn link(compiler: &mut Command, directory: &Path, arguments: &[&str]) {
    run(compiler
        .args(arguments)
        .args(STRICT)
        .args(["-o", "program", "-L.", "-lvmstore", "-I"])
        .arg(source("include"))
        .arg(format!("-Wl,-rpath,{}", directory.display()))
        .current_dir(directory));
}
