//! The house rules of docs/architecture.md: imports run one way, between rooms and between files; a room is entered by
//! its door; unsafe stays in two rooms; files and lists of parameters stay short; each type has a name of its own.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use source::{Source, Tree};

/// Each room and the rooms that it may use.
const ROOMS: [(&str, &[&str]); 20] = [
    ("error", &[]),
    ("page_set", &["error"]),
    ("sys", &["page_set", "error"]),
    ("format", &["page_set", "error"]),
    ("dirty", &["sys", "page_set", "error"]),
    ("journal", &["format", "sys", "error"]),
    ("layer", &["format", "sys", "page_set", "error"]),
    ("module", &["dirty", "sys", "page_set", "error"]),
    ("store/options", &["dirty", "format", "module", "error"]),
    ("store/callbacks", &["store/options"]),
    (
        "store/state",
        &[
            "journal",
            "layer",
            "module",
            "format",
            "sys",
            "page_set",
            "error",
            "store/options",
            "store/callbacks",
        ],
    ),
    ("store/history", &["store/state", BELOW]),
    ("store/mapping", &["store/state", BELOW]),
    ("store/persist", &["store/state", "store/mapping", BELOW]),
    (
        "store/commit",
        &["store/state", "store/mapping", "store/persist", BELOW],
    ),
    (
        "store/gc",
        &["store/state", "store/mapping", "store/persist", BELOW],
    ),
    ("store/open", &["store/state", "store/mapping", BELOW]),
    (
        "store/transfer",
        &[
            "store/state",
            "store/history",
            "store/mapping",
            "store/persist",
            "store/open",
            BELOW,
        ],
    ),
    (
        "store",
        &[
            "store/options",
            "store/state",
            "store/history",
            "store/mapping",
            "store/commit",
            "store/open",
        ],
    ),
    ("ffi", &["store", "store/state", "sys", "error"]),
];

/// The rooms that every room of `store` above `store/state` may use.
const BELOW: &str = "below the store";
const BELOW_ROOMS: [&str; 10] = [
    "journal",
    "layer",
    "module",
    "dirty",
    "format",
    "sys",
    "page_set",
    "error",
    "store/options",
    "store/callbacks",
];

/// Rooms that are collections of files, each of which is a door.
const OPEN_ROOMS: [&str; 3] = ["sys", "format", "store"];

/// What C sees through the crate's root: types of rooms that it does not use otherwise.
const THROUGH_THE_ROOT: [&str; 9] = [
    "dirty",
    "module",
    "store/options",
    "store/history",
    "store/mapping",
    "store/commit",
    "store/open",
    "store/state",
    "store",
];

/// The room that a file is in.
fn room(name: &str) -> String {
    let parts: Vec<&str> = name.trim_end_matches(".rs").split('/').collect();
    match parts[..] {
        ["store", "mod"] => "store".to_owned(),
        ["store", room, ..] => format!("store/{room}"),
        [room, ..] => room.to_owned(),
        [] => String::new(),
    }
}

fn may_use(room: &str, used: &str) -> bool {
    let allowed = ROOMS.iter().find(|(name, _)| *name == room);
    let (_, allowed) = allowed.unwrap_or_else(|| panic!("{room} is not a room of the house"));
    room == used
        || allowed.contains(&used)
        || (allowed.contains(&BELOW) && BELOW_ROOMS.contains(&used))
}

/// What is wrong with the imports between rooms, and how many were looked at.
fn wrong_imports(tree: &Tree) -> (Vec<String>, usize) {
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for source in tree.sources.iter().filter(|source| source.name != "lib.rs") {
        let own = room(&source.name);
        for import in tree.imports(source) {
            let used = room(&import.target);
            if used == own || used == "lib" {
                continue;
            }
            checked += 1;
            let through_root = import.modules == 0 && own == "ffi";
            let through_root = through_root && THROUGH_THE_ROOT.contains(&used.as_str());
            let path = import.path.join("::");
            if !(may_use(&own, &used) || through_root) {
                wrong.push(format!(
                    "{}: {own} must not use {used} ({path})",
                    source.name
                ));
            }
            let door = used.split('/').count();
            if import.modules > door && !OPEN_ROOMS.contains(&used.as_str()) {
                wrong.push(format!(
                    "{}: {path} goes past the door of {used}",
                    source.name
                ));
            }
        }
    }
    (wrong, checked)
}

/// Methods that a room of `store` offers to the others: name to room.
fn offered(tree: &Tree) -> BTreeMap<&str, BTreeSet<String>> {
    let mut offered: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for source in &tree.sources {
        for (at, mark) in source.code.match_indices("pub(in crate::store) fn ") {
            let rest = &source.code[at + mark.len()..];
            let end = rest.find(['(', '<']).unwrap();
            if rest[end..]
                .trim_start_matches(['(', '&'])
                .starts_with("mut self")
                || rest[end..].contains("self")
            {
                offered
                    .entry(&rest[..end])
                    .or_default()
                    .insert(room(&source.name));
            }
        }
    }
    offered
}

/// Calls of methods that a room above offers, and how many calls were looked at.
fn wrong_calls(tree: &Tree) -> (Vec<String>, usize) {
    let offered = offered(tree);
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for source in tree.sources.iter().filter(|s| s.name.starts_with("store/")) {
        let own = room(&source.name);
        if !may_use(&own, "store/state") {
            // It cannot name a type that has these methods.
            continue;
        }
        for (name, rooms) in &offered {
            if !source.code.contains(&format!(".{name}(")) {
                continue;
            }
            checked += 1;
            if !rooms.iter().any(|used| may_use(&own, used)) {
                let rooms: Vec<_> = rooms.iter().map(String::as_str).collect();
                wrong.push(format!(
                    "{}: {name}() is of {}",
                    source.name,
                    rooms.join(", ")
                ));
            }
        }
    }
    (wrong, checked)
}

/// A cycle of files that import one another.
fn cycle(tree: &Tree) -> Option<Vec<String>> {
    let edges: BTreeMap<&str, BTreeSet<String>> = tree
        .sources
        .iter()
        .map(|source| {
            let targets = tree.imports(source).into_iter().map(|import| import.target);
            let targets = targets.filter(|target| *target != source.name && target != "lib.rs");
            (source.name.as_str(), targets.collect())
        })
        .collect();
    let mut done = BTreeSet::new();
    for start in edges.keys() {
        let mut way = Vec::new();
        if let Some(cycle) = walk(&edges, start, &mut way, &mut done) {
            return Some(cycle);
        }
    }
    None
}

fn walk(
    edges: &BTreeMap<&str, BTreeSet<String>>,
    at: &str,
    way: &mut Vec<String>,
    done: &mut BTreeSet<String>,
) -> Option<Vec<String>> {
    if let Some(begin) = way.iter().position(|file| file == at) {
        return Some(way[begin..].to_vec());
    }
    if done.contains(at) {
        return None;
    }
    way.push(at.to_owned());
    for next in edges.get(at).into_iter().flatten() {
        if let Some(cycle) = walk(edges, next, way, done) {
            return Some(cycle);
        }
    }
    way.pop();
    done.insert(at.to_owned());
    None
}

#[test]
fn imports_run_one_way_and_through_the_doors() {
    let tree = Tree::read();
    let (wrong, checked) = wrong_imports(&tree);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 300, "only {checked} imports were found");
    let (wrong, calls) = wrong_calls(&tree);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(calls > 80, "only {calls} calls were found");
    println!("{checked} imports and the calls of {calls} methods run one way");
}

#[test]
fn no_two_files_import_each_other() {
    let cycle = cycle(&Tree::read());
    assert!(cycle.is_none(), "a cycle of imports: {:?}", cycle.unwrap());
}

#[test]
fn rooms_of_the_store_have_at_most_ten_files() {
    let mut files: BTreeMap<String, usize> = BTreeMap::new();
    for source in Tree::read().sources {
        *files.entry(room(&source.name)).or_default() += 1;
    }
    for (room, count) in files.iter().filter(|(room, _)| room.starts_with("store")) {
        assert!(*count <= 10, "{room} has {count} files");
    }
    println!("{files:?}");
}

/// The function signatures of a text: the line and the text up to the body.
fn signatures(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let before = code[..at].chars().next_back();
        let rest = &code[at + 3..];
        let named = rest.starts_with(|c: char| c.is_alphabetic() || c == '_');
        if !named || before.is_some_and(|c| !c.is_whitespace()) {
            continue;
        }
        let end = rest.find(['{', ';']).unwrap_or(rest.len());
        let line = code[..at].matches('\n').count() + 1;
        let start = code[..at].rfind('\n').map_or(0, |at| at + 1);
        found.push((line, &code[start..at + 3 + end]));
    }
    found
}

/// The parameters of a function, apart from self.
fn parameters(signature: &str) -> Vec<String> {
    // Types may have brackets of their own, before the list as well as in it.
    let name_end = signature.find("fn ").unwrap() + 3;
    let (mut depth, mut angle) = (0, 0);
    let (mut list, mut part) = (Vec::new(), String::new());
    let mut previous = ' ';
    for c in signature[name_end..].chars() {
        match c {
            '<' if depth == 0 => angle += 1,
            '>' if depth == 0 && previous != '-' => angle -= 1,
            '(' | '[' if angle == 0 => {
                depth += 1;
                if depth == 1 {
                    previous = c;
                    continue;
                }
            }
            ')' | ']' if angle == 0 => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            _ => {}
        }
        if depth == 1 && c == ',' && !within_angles(&part) {
            list.push(std::mem::take(&mut part));
        } else if depth > 0 {
            part.push(c);
        }
        previous = c;
    }
    list.push(part);
    let list = list.into_iter().map(|part| part.trim().to_owned());
    list.filter(|part| !part.is_empty() && !part.ends_with("self"))
        .collect()
}

fn within_angles(part: &str) -> bool {
    let part = part.replace("->", "");
    part.matches('<').count() > part.matches('>').count()
}

#[test]
fn lists_of_parameters_are_short_and_locks_are_values() {
    let mut checked = 0;
    for source in Tree::read().sources {
        for (line, signature) in signatures(&source.code) {
            checked += 1;
            let at = format!("src/{}:{line}", source.name);
            let list = parameters(signature);
            if !signature.contains("extern ") {
                assert!(list.len() <= 5, "{at}: {} parameters: {list:?}", list.len());
            }
            let state = list.iter().any(|p| p.ends_with("&mut State"));
            let own = signature.contains("&self") || signature.contains("&mut self");
            let takes_both = state && own && source.name.starts_with("store/");
            assert!(!takes_both, "{at}: takes self and the state: use Locked");
        }
        for sentence in ["caller has the", "caller holds", "lock held by the caller"] {
            let found = source.text.to_lowercase().contains(sentence);
            assert!(
                !found,
                "src/{}: \"{sentence}\": a lock is a value",
                source.name
            );
        }
    }
    assert!(checked > 700, "only {checked} functions were found");
    println!("{checked} functions");
}

#[test]
fn each_type_has_a_name_of_its_own() {
    let mut types: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in Tree::read().sources {
        for line in source.code.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            // An associated type has no name of its own.
            let indented = line.starts_with("        ");
            let kind = words
                .iter()
                .position(|w| ["struct", "enum", "trait", "type"].contains(w));
            let Some(name) = kind.filter(|at| *at < 2 || words[0].starts_with("pub(")) else {
                continue;
            };
            let Some(name) = words.get(name + 1).filter(|_| !indented) else {
                continue;
            };
            let end = name.find(|c: char| !(c.is_alphanumeric() || c == '_'));
            let name = &name[..end.unwrap_or(name.len())];
            types
                .entry(name.to_owned())
                .or_default()
                .insert(source.name.clone());
        }
    }
    let twice = types.iter().filter(|(_, files)| files.len() > 1);
    let twice: Vec<String> = twice
        .map(|(name, files)| format!("{name}: {files:?}"))
        .collect();
    // `Target` is what Deref calls it.
    let twice: Vec<_> = twice
        .iter()
        .filter(|name| !name.starts_with("Target:"))
        .collect();
    assert!(twice.is_empty(), "{twice:#?}");
    assert!(types.len() > 150, "only {} types were found", types.len());
    println!("{} types", types.len());
}

fn uses_of_unsafe(source: &Source) -> usize {
    let words = source
        .code
        .split(|c: char| !(c.is_alphanumeric() || c == '_'));
    words.filter(|word| *word == "unsafe").count()
}

#[test]
fn unsafe_stays_in_two_rooms_and_is_explained() {
    let mut blocks = 0;
    for source in Tree::read().sources {
        let count = uses_of_unsafe(&source);
        if !["sys", "ffi"].contains(&room(&source.name).as_str()) {
            assert_eq!(count, 0, "unsafe in {}", source.name);
        }
        blocks += count;
    }
    assert!(blocks > 50, "only {blocks} uses of unsafe were found");
    for room in [
        "error",
        "page_set",
        "dirty/mod",
        "journal/mod",
        "module/mod",
        "format/mod",
        "layer/mod",
        "store/mod",
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/{room}.rs"));
        let text = std::fs::read_to_string(path).unwrap();
        let forbids = text.contains("#![forbid(unsafe_code)]");
        assert!(forbids, "{room} does not forbid unsafe");
    }
    println!("{blocks} uses of unsafe, all in sys and ffi");
}

#[test]
fn files_stay_short() {
    for source in Tree::read().sources {
        let lines = source.text.lines().count();
        assert!(lines <= 600, "{} has {lines} lines", source.name);
        let begins = source.text.starts_with("//!");
        assert!(begins, "{} does not begin with its role", source.name);
        assert!(source.text.is_ascii(), "{} is not ASCII", source.name);
    }
}

/// The checks see what they look for: each on a house in which one thing is wrong.
#[test]
fn the_checks_see_what_they_look_for() {
    let house = |files: &[(&str, &str)]| {
        let files = files
            .iter()
            .map(|(name, text)| ((*name).into(), (*text).into()));
        Tree::of(files.collect())
    };
    let door = ("layer/mod.rs", "mod files;\npub(crate) use files::Layers;");
    let files = ("layer/files.rs", "pub(crate) struct Layers;");
    let good = house(&[
        door,
        files,
        ("store/gc/mod.rs", "use crate::layer::Layers;"),
    ]);
    assert_eq!(wrong_imports(&good), (Vec::new(), 1));
    let up = house(&[
        ("layer/mod.rs", "use crate::store::gc::X;"),
        ("store/gc/mod.rs", ""),
    ]);
    assert_eq!(wrong_imports(&up).0.len(), 1);
    let named = house(&[("sys/mod.rs", "fn f() { crate::layer::x(); }"), door, files]);
    assert_eq!(wrong_imports(&named).0.len(), 1);
    let past = house(&[
        door,
        files,
        ("store/gc/mod.rs", "use crate::layer::files::Layers;"),
    ]);
    assert_eq!(wrong_imports(&past).0.len(), 1);
    let offers = (
        "store/gc/mod.rs",
        "impl S { pub(in crate::store) fn sweep(&self) {} }",
    );
    let calls = house(&[offers, ("store/state/mod.rs", "fn f(s: &S) { s.sweep(); }")]);
    assert_eq!(wrong_calls(&calls).0.len(), 1);
    let round = house(&[
        ("layer/mod.rs", "mod a;\nmod b;\npub(crate) use b::B;"),
        ("layer/a.rs", "use super::B; struct A;"),
        ("layer/b.rs", "use super::a::A; pub(crate) struct B;"),
    ]);
    assert_eq!(cycle(&round).unwrap().len(), 2);
    assert!(cycle(&good).is_none());
    assert_eq!(
        source::expand("a::{b, c::{d, e as f}}"),
        ["a::b", "a::c::d", "a::c::e"]
    );
    assert_eq!(
        parameters("fn f<T: Fn(u8, u8)>(&self, a: A<B, C>, (b, c): (D, E))").len(),
        2
    );
    assert_eq!(
        source::without_comments("a \"// crate::x\" // b\nc"),
        "a \"\" \nc"
    );
}
