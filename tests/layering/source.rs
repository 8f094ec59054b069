//! The source files of `src` as the checks see them: without tests and comments, with the files that they import.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A source file that is not a test.
pub(crate) struct Source {
    /// Its path below `src`, as `store/gc/plan.rs`.
    pub(crate) name: String,
    /// Its modules from the crate's root on: `store`, `gc`, `plan`.
    pub(crate) module: Vec<String>,
    /// The text as it is.
    pub(crate) text: String,
    /// The text without comments, texts in quotes and tests.
    pub(crate) code: String,
}

/// A path that a file imports or names, and what it leads to.
#[derive(Debug, Clone)]
pub(crate) struct Import {
    /// As `crate::store::state::Store`.
    pub(crate) path: Vec<String>,
    /// How many of its parts are modules with a file of their own.
    pub(crate) modules: usize,
    /// The file in which the thing is defined, also where a `mod.rs` only passes it on.
    pub(crate) target: String,
}

/// All of `src`.
pub(crate) struct Tree {
    pub(crate) sources: Vec<Source>,
    /// The file of each module.
    files: BTreeMap<Vec<String>, String>,
    /// What a file passes on (`pub use`): name and path.
    passed_on: BTreeMap<String, Vec<(String, Vec<String>)>>,
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "tests") {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|e| e == "rs")
            && path.file_name().is_some_and(|name| name != "tests.rs")
        {
            files.push(path);
        }
    }
}

/// Takes comments and the content of string literals out, so that neither is taken for code.
pub(crate) fn without_comments(text: &str) -> String {
    let mut code = String::new();
    let (mut rest, mut quoted) = (text, false);
    while let Some(c) = rest.chars().next() {
        if quoted {
            match c {
                '\\' => rest = &rest[1..],
                '"' => {
                    quoted = false;
                    code.push('"');
                }
                '\n' => code.push('\n'),
                _ => {}
            }
        } else if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
            continue;
        } else if rest.starts_with("'\"'") || rest.starts_with("b'\"'") {
            rest = &rest[rest.find('\'').unwrap() + 3..];
            continue;
        } else {
            quoted = c == '"';
            code.push(c);
        }
        rest = rest.get(c.len_utf8()..).unwrap_or("");
    }
    code
}

/// Cuts a test module off, which stands at the end of its file.
fn without_tests(code: &str) -> &str {
    let end = code.match_indices("#[cfg(test)]\n").find(|(at, mark)| {
        let next = &code[at + mark.len()..];
        let next = next.strip_prefix("pub(crate) ").unwrap_or(next);
        next.starts_with("mod ") && next.lines().next().is_some_and(|line| line.ends_with('{'))
    });
    end.map_or(code, |(at, _)| &code[..at])
}

/// The paths of a tree as `a::{b, c::{d, e}}`.
pub(crate) fn expand(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let path = tree.split(" as ").next().unwrap();
        return vec![path.trim().to_owned()];
    };
    let inner = tree[open + 1..]
        .trim_end()
        .strip_suffix('}')
        .expect("a closed tree");
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[start..]);
    let parts = parts.into_iter().filter(|part| !part.trim().is_empty());
    parts
        .flat_map(expand)
        .map(|part| format!("{}{part}", &tree[..open]))
        .collect()
}

/// The `use` declarations of a text: whether each is passed on, and its paths.
pub(crate) fn uses(code: &str) -> Vec<(bool, Vec<String>)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let line = code[..at].rfind('\n').map_or(0, |at| at + 1);
        let before = code[line..at].trim();
        if !(before.is_empty() || before.starts_with("pub")) {
            continue;
        }
        let end = code[at..].find(';').map_or(code.len(), |end| at + end);
        found.push((!before.is_empty(), expand(&code[at + 4..end])));
    }
    found
}

/// Paths that begin with `crate` or `super` outside of `use` declarations.
pub(crate) fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            if code[..at].ends_with("pub(in ") {
                continue;
            }
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            let path: String = code[at..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':')
                .collect();
            found.push(path.trim_end_matches(':').to_owned());
        }
    }
    found
}

impl Tree {
    pub(crate) fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut paths = Vec::new();
        collect(&root, &mut paths);
        assert!(paths.len() > 60, "only {} files found", paths.len());
        let sources = paths.into_iter().map(|path| {
            let name = path
                .strip_prefix(&root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let text = fs::read_to_string(&path).unwrap();
            (name, text)
        });
        Self::of(sources.collect())
    }

    /// A tree of files with these names and texts.
    pub(crate) fn of(texts: Vec<(String, String)>) -> Self {
        let mut tree = Self {
            sources: Vec::new(),
            files: BTreeMap::new(),
            passed_on: BTreeMap::new(),
        };
        for (name, text) in texts {
            let stem = name.trim_end_matches(".rs");
            let mut module: Vec<String> = stem.split('/').map(str::to_owned).collect();
            if module
                .last()
                .is_some_and(|last| last == "mod" || last == "lib")
            {
                module.pop();
            }
            let code = without_comments(&text);
            let code = without_tests(&code).to_owned();
            tree.files.insert(module.clone(), name.clone());
            tree.sources.push(Source {
                name,
                module,
                text,
                code,
            });
        }
        let mut passed_on = BTreeMap::new();
        for source in &tree.sources {
            let mut names = Vec::new();
            for (public, paths) in uses(&source.code) {
                for path in paths.iter().filter(|_| public) {
                    if let Some(path) = tree.absolute(source, path) {
                        names.push((path.last().unwrap().clone(), path));
                    }
                }
            }
            passed_on.insert(source.name.clone(), names);
        }
        tree.passed_on = passed_on;
        tree
    }

    /// A path from the crate's root on; `None` if it leads to another crate.
    fn absolute(&self, source: &Source, path: &str) -> Option<Vec<String>> {
        let parts: Vec<&str> = path.split("::").filter(|part| *part != "self").collect();
        let mut at = source.module.clone();
        let mut rest = &parts[..];
        match parts.first()? {
            &"crate" => {
                at.clear();
                rest = &parts[1..];
            }
            &"super" => {
                while rest.first() == Some(&"super") {
                    at.pop();
                    rest = &rest[1..];
                }
            }
            first => {
                let mut child = at.clone();
                child.push((*first).to_owned());
                self.files.get(&child)?;
            }
        }
        at.extend(rest.iter().map(|part| (*part).to_owned()));
        Some(at)
    }

    /// The file in which a path ends, and how many of its parts are modules.
    fn target(&self, path: &[String], depth: usize) -> Option<(String, usize)> {
        let mut modules = path.len();
        while !self.files.contains_key(&path[..modules]) {
            modules = modules.checked_sub(1)?;
        }
        let file = &self.files[&path[..modules]];
        if let Some(name) = path.get(modules) {
            let passed_on = self.passed_on.get(file).into_iter().flatten();
            for (_, from) in passed_on.filter(|(passed, _)| passed == name) {
                if depth < 8 && from != path {
                    let mut whole = from.clone();
                    whole.extend_from_slice(&path[modules + 1..]);
                    return self
                        .target(&whole, depth + 1)
                        .map(|(file, _)| (file, modules));
                }
            }
        }
        Some((file.clone(), modules))
    }

    /// Paths that begin with a module of the file's own.
    fn relative(&self, source: &Source) -> Vec<String> {
        let mut found = Vec::new();
        for (at, _) in source.code.match_indices("::") {
            let before = &source.code[..at];
            let start = before.rfind(|c: char| !(c.is_alphanumeric() || c == '_'));
            let name = &before[start.map_or(0, |at| at + 1)..];
            let mut child = source.module.clone();
            child.push(name.to_owned());
            let inner = before[..before.len() - name.len()].ends_with(':');
            if !inner && self.files.contains_key(&child) {
                let rest = source.code[at + 2..].chars();
                let item: String = rest
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                found.push(format!("{name}::{item}"));
            }
        }
        found
    }

    /// What a file imports or names of the crate.
    pub(crate) fn imports(&self, source: &Source) -> Vec<Import> {
        let declared = uses(&source.code).into_iter().flat_map(|(_, paths)| paths);
        let relative = self.relative(source);
        let all: BTreeSet<String> = declared
            .chain(paths(&source.code))
            .chain(relative)
            .collect();
        let mut imports = Vec::new();
        for path in all {
            let Some(path) = self.absolute(source, &path) else {
                continue;
            };
            if let Some((target, modules)) = self.target(&path, 0) {
                imports.push(Import {
                    path,
                    modules,
                    target,
                });
            }
        }
        imports
    }
}
