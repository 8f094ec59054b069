//! The house rules of docs/architecture.md: imports run one way, unsafe stays in two rooms, files
//! stay short.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room and the rooms it may use.
const ROOMS: [(&str, &[&str]); 10] = [
    ("error", &[]),
    ("page", &["error"]),
    ("sys", &["page", "error"]),
    ("format", &["page", "error"]),
    ("dirty", &["sys", "page", "error"]),
    ("journal", &["format", "sys", "page", "error"]),
    ("pages", &["format", "sys", "page", "error"]),
    ("module", &["dirty", "sys", "page", "error"]),
    (
        "store",
        &[
            "journal", "pages", "module", "dirty", "format", "sys", "page", "error",
        ],
    ),
    ("ffi", &["store", "sys", "error"]),
];

/// Names that the crate's root re-exports, and the room each comes from.
fn room_of_root_name(name: &str) -> &str {
    match name {
        "Error" | "Result" => "error",
        "Tracker" => "dirty",
        "MapMode" => "module",
        other if other.starts_with(char::is_uppercase) || other == "probe" => "store",
        other => other,
    }
}

fn source_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source_files(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

fn all_sources() -> Vec<(String, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source_files(&root, &mut files);
    assert!(files.len() > 30, "only {} files found", files.len());
    files
        .into_iter()
        .map(|path| {
            let first = path
                .strip_prefix(&root)
                .unwrap()
                .components()
                .next()
                .unwrap();
            let room = first
                .as_os_str()
                .to_str()
                .unwrap()
                .trim_end_matches(".rs")
                .to_owned();
            (room, path)
        })
        .collect()
}

/// The rooms that a source text names behind `crate::`, in use declarations and in paths.
fn rooms_used(text: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        let names: Vec<&str> = if let Some(group) = rest.strip_prefix('{') {
            group
                .split('}')
                .next()
                .unwrap()
                .split(',')
                .map(str::trim)
                .collect()
        } else {
            vec![rest]
        };
        for name in names {
            let name: String = name
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            if !name.is_empty() {
                rooms.insert(room_of_root_name(&name).to_owned());
            }
        }
    }
    rooms
}

fn without_comments(text: &str) -> String {
    text.lines()
        .map(|line| line.split("//").next().unwrap())
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn imports_run_one_way() {
    let mut checked = 0;
    for (room, path) in all_sources() {
        if room == "lib" {
            continue;
        }
        let allowed = ROOMS.iter().find(|(name, _)| *name == room);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("{room} is not a room of the house"));
        for used in rooms_used(&without_comments(&fs::read_to_string(&path).unwrap())) {
            // The C layer sees the types of lower rooms through the crate's root alone.
            let through_root = room == "ffi" && ["dirty", "module"].contains(&used.as_str());
            assert!(
                used == room || allowed.contains(&used.as_str()) || through_root,
                "{}: {room} must not use {used}",
                path.display()
            );
            checked += 1;
        }
    }
    assert!(checked > 80, "only {checked} imports were found");
    println!("{checked} imports run one way");
}

#[test]
fn unsafe_stays_in_two_rooms_and_is_explained() {
    let mut blocks = 0;
    for (room, path) in all_sources() {
        let text = fs::read_to_string(&path).unwrap();
        let code = without_comments(&text);
        let count = code
            .split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .filter(|word| *word == "unsafe")
            .count();
        if !["sys", "ffi"].contains(&room.as_str()) {
            assert_eq!(count, 0, "unsafe in {}", path.display());
        }
        blocks += count;
    }
    assert!(blocks > 50, "only {blocks} uses of unsafe were found");
    for room in [
        "error",
        "page",
        "dirty",
        "journal/mod",
        "module/mod",
        "format/mod",
        "pages/mod",
        "store/mod",
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/{room}.rs"));
        let text = fs::read_to_string(path).unwrap();
        assert!(
            text.contains("#![forbid(unsafe_code)]"),
            "{room} does not forbid unsafe"
        );
    }
    println!("{blocks} uses of unsafe, all in sys and ffi");
}

#[test]
fn files_stay_short() {
    for (_, path) in all_sources() {
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        assert!(lines <= 600, "{} has {lines} lines", path.display());
        assert!(
            text.starts_with("//!"),
            "{} does not begin with its role",
            path.display()
        );
        assert!(text.is_ascii(), "{} is not ASCII", path.display());
    }
}

#[test]
fn the_test_itself_sees_what_it_looks_for() {
    assert_eq!(
        rooms_used("use crate::{Error, sys};\nfn f() { crate::store::x() }"),
        ["error", "store", "sys"].map(str::to_owned).into()
    );
}
