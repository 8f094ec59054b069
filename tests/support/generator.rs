//! Writes the C header: the preface, then one part for each noun, that is for each file of `src/ffi`.
//!
//! cbindgen sorts what it writes into constants, types and functions. It runs once for each file, and
//! each noun keeps its constants, types and functions together.

use std::path::Path;

/// The files of `src/ffi` that C sees, in the order of the header, and the headings of their parts.
const PARTS: [(&str, &str); 12] = [
    ("status", "RESULTS AND PROGRESS"),
    ("handle", "HANDLES"),
    ("store", "STORE: open, close, counters, this host"),
    ("module", "MODULE: map, grow, unmap"),
    ("tracking", "TRACKING: mark, import, discard, audit"),
    ("commit", "COMMIT: commit, capture, precopy"),
    ("persist", "PERSIST AND RESTORE"),
    ("history", "HISTORY: look, list, compare, read"),
    ("delete", "DELETE AND COMPACT"),
    ("verify", "VERIFY"),
    ("transfer", "CLONE, EXPORT, IMPORT"),
    ("errors", "ERROR TEXTS AND VERSIONS"),
];

/// The text between the preface and the parts. C89 has no compound literals, and gcc has them there
/// as an extension; C++ has no designated initialisers before C++20.
const BEGIN: &str = r#"#ifndef VMSTORE_H
#define VMSTORE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A struct of the given type that is all zero, with struct_size set to sizeof(type). Initialises a
 * variable, and can be assigned to one:
 *     vmstore_map_options options = VMSTORE_INIT(vmstore_map_options);
 * It is no constant expression in ISO C: assign it to a static variable at run time. C++ needs
 * C++11. A C89 compiler other than gcc and clang can only initialise with it, not assign it. */
#if defined(__cplusplus)
#define VMSTORE_INIT(type) \
    ([] { \
        type vmstore_init_ = type(); \
        vmstore_init_.struct_size = sizeof(type); \
        return vmstore_init_; \
    }())
#elif defined(__GNUC__)
#define VMSTORE_INIT(type) (__extension__(type){.struct_size = sizeof(type)})
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 199901L
#define VMSTORE_INIT(type) ((type){.struct_size = sizeof(type)})
#else
#define VMSTORE_INIT(type) { sizeof(type) }
#endif
"#;

const END: &str = r"
#ifdef __cplusplus
}
#endif

#endif /* VMSTORE_H */
";

/// The longest line of the header.
const WIDTH: usize = 100;

/// The whole header, from the sources below `root`.
pub(crate) fn header(root: &Path) -> String {
    let preface = root.join("src/ffi/preface.h");
    let preface = std::fs::read_to_string(preface).expect("the preface is there");
    let titles = PARTS.map(|(_, title)| title.split(':').next().unwrap_or(title));
    assert!(
        preface.contains("@SECTIONS@"),
        "the preface lists the parts"
    );
    let titles: Vec<String> = titles.chunks(4).map(|line| line.join("; ")).collect();
    let mut text = preface.replace("@SECTIONS@", &titles.join(";\n *            "));
    text.push('\n');
    text.push_str(BEGIN);
    for (file, title) in PARTS {
        let heading = format!("\n/* ======== {title} ");
        text.push_str(&heading);
        text.push_str(&"=".repeat(WIDTH - heading.len() - 2));
        text.push_str(" */\n\n");
        text.push_str(&part(root, file));
    }
    text.push_str(END);
    let long: Vec<&str> = text.lines().filter(|line| line.len() > WIDTH).collect();
    assert!(long.is_empty(), "longer than {WIDTH} columns: {long:#?}");
    text
}

/// What cbindgen makes of one file.
fn part(root: &Path, file: &str) -> String {
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml"));
    let mut bytes = Vec::new();
    cbindgen::Builder::new()
        .with_config(config.expect("cbindgen.toml is valid"))
        .with_src(root.join("src/ffi").join(file).with_extension("rs"))
        .generate()
        .expect("src/ffi is readable by cbindgen")
        .write(&mut bytes);
    let text = String::from_utf8(bytes).expect("the header is text");
    in_c89(text.trim_matches('\n'))
}

/// Makes `/* ... */`, which C89 has too, of comments in `//`. A comment of one line stays on one line.
fn in_c89(text: &str) -> String {
    let comment = |line: &&str| line.trim_start().starts_with("//");
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if comment(&line) {
            out += &line.replacen("//", "/*", 1);
            while let Some(next) = lines.next_if(comment) {
                out += "\n";
                out += next.replacen("//", " *", 1).trim_end();
            }
            out += " */";
        } else {
            out += line;
        }
        out += "\n";
    }
    out
}
