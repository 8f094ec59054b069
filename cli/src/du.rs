//! `vmstore du`: who holds which bytes of the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anstream::println;
use serde_json::json;

use crate::args;
use crate::fail::{Code, Failure, Outcome};
use crate::history::History;
use crate::place::Place;
use crate::screen::{BOLD, DIM, LABEL, NUMBER, Screen, WARNING, paint, printable};
use crate::table::{Align, Cell, Table};
use crate::units::bytes;

/// The disk blocks of the files that a commit needs.
#[derive(Default)]
struct Held {
    /// Files that it made itself.
    made: u64,
    /// Files that no other commit needs.
    own: u64,
    /// Files that others need, too.
    shared: u64,
}

/// The disk blocks of a store.
struct Usage {
    /// Those that each commit holds.
    commits: BTreeMap<u64, Held>,
    /// Module commit files, each once.
    files: u64,
    /// Of these, files of deleted commits that others are made on.
    unnamed: u64,
    /// Backing files of mapped modules that are not another name of an image.
    backing: u64,
    /// `commits`, the journal, and what else is in `.vmstore`.
    records: u64,
    /// Files that have a name in another directory, too.
    linked: u64,
}

pub(crate) fn du(place: &Place, screen: &Screen, options: &args::Du) -> Outcome {
    let looked = place.look()?;
    let history = History::of(&looked.store)?;
    let usage = Usage::of(place.path(), &history)?;
    if options.json {
        println!("{:#}", usage.object());
    } else {
        for line in usage.lines(screen, &history) {
            println!("{line}");
        }
    }
    Ok(if looked.damage.is_some() {
        Code::Found
    } else {
        Code::Good
    })
}

impl Usage {
    fn of(directory: &Path, history: &History) -> Result<Self, Failure> {
        // Who needs each file, and who names it.
        let mut needed: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut named = BTreeSet::new();
        for (commit, node) in &history.nodes {
            let mut last = None;
            for file in node.files.iter().flatten() {
                let name = format!("{}_Commit{}", file.module, file.module_commit);
                if last.as_ref() != Some(&file.module) {
                    named.insert(name.clone());
                    last = Some(file.module.clone());
                }
                needed.entry(name).or_default().push(*commit);
            }
        }
        let mut usage = Self {
            commits: history
                .nodes
                .keys()
                .map(|commit| (*commit, Held::default()))
                .collect(),
            files: 0,
            unnamed: 0,
            backing: 0,
            records: 0,
            linked: 0,
        };
        let mut images = BTreeSet::new();
        let mut others = Vec::new();
        for (name, found) in entries(directory)? {
            let blocks = found.blocks() * 512;
            if let Some(users) = needed.get(&name) {
                usage.files += blocks;
                images.insert(found.ino());
                if !named.contains(&name) {
                    usage.unnamed += blocks;
                }
                let maker = name
                    .rsplit_once("_Commit")
                    .and_then(|(_, n)| n.parse().ok());
                for user in users {
                    let Some(held) = usage.commits.get_mut(user) else {
                        continue;
                    };
                    if users.len() == 1 {
                        held.own += blocks;
                    } else {
                        held.shared += blocks;
                    }
                    if maker == Some(*user) {
                        held.made += blocks;
                    }
                }
                if found.nlink() > 1 {
                    usage.linked += blocks;
                }
            } else if name == "commits" {
                usage.records += blocks;
            } else {
                others.push(found);
            }
        }
        for found in others
            .into_iter()
            .filter(|found| !images.contains(&found.ino()))
        {
            usage.backing += found.blocks() * 512;
        }
        for (_, found) in entries(&directory.join(".vmstore"))? {
            usage.records += found.blocks() * 512;
        }
        Ok(usage)
    }

    fn total(&self) -> u64 {
        self.files + self.backing + self.records
    }

    fn object(&self) -> serde_json::Value {
        let commits = self
            .commits
            .iter()
            .map(|(commit, held)| json!({"commit": commit, "made": held.made, "own": held.own, "shared": held.shared}));
        json!({
            "commits": commits.collect::<Vec<_>>(),
            "module_commits": self.files,
            "of_deleted_commits": self.unnamed,
            "linked_elsewhere": self.linked,
            "backing_files": self.backing,
            "records": self.records,
            "total": self.total(),
        })
    }

    fn lines(&self, screen: &Screen, history: &History) -> Vec<String> {
        let mut table = Table::new(&[
            ("commit", Align::Right),
            ("made", Align::Right),
            ("own", Align::Right),
            ("shared", Align::Right),
            ("label", Align::Flexible),
        ]);
        for (commit, held) in self.commits.iter().rev() {
            let node = &history.nodes[commit];
            let label = Cell::new(printable(&node.info.label), LABEL);
            let number = Cell::new(commit.to_string(), NUMBER);
            if node.files.is_some() {
                table.row(vec![
                    number,
                    bytes(held.made).into(),
                    bytes(held.own).into(),
                    bytes(held.shared).into(),
                    label,
                ]);
            } else {
                table.row(vec![
                    number,
                    Cell::new("damaged", WARNING),
                    "".into(),
                    "".into(),
                    label,
                ]);
            }
        }
        let mut lines = Vec::new();
        if !self.commits.is_empty() {
            lines.extend(table.lines(screen));
            lines.push(String::new());
        }
        let mut sums = Table::new(&[("on disk", Align::Right), ("", Align::Left)]);
        sums.row(vec![bytes(self.files).into(), "commits".into()]);
        let mut part = |size: u64, what: &str| {
            if size > 0 {
                sums.row(vec![bytes(size).into(), Cell::new(what, DIM)]);
            }
        };
        part(
            self.unnamed,
            "  of these: of deleted commits that others are made on; `vmstore compact` folds them",
        );
        part(
            self.linked,
            "  of these: with a second name, of a mapped module or of a clone",
        );
        sums.row(vec![
            bytes(self.backing).into(),
            "backing files of modules".into(),
        ]);
        sums.row(vec![
            bytes(self.records).into(),
            "records: commits, journal".into(),
        ]);
        sums.row(vec![
            Cell::new(bytes(self.total()), BOLD),
            Cell::new("in all", BOLD),
        ]);
        lines.extend(sums.lines(screen));
        if !self.commits.is_empty() {
            lines.push(String::new());
            lines.push(paint(
                DIM,
                "made: its own files; own: no other commit needs them; shared: others do",
            ));
        }
        lines
    }
}

/// The regular files of a directory.
fn entries(directory: &Path) -> Result<Vec<(String, std::fs::Metadata)>, Failure> {
    let at = |error: std::io::Error| Failure::at(&directory.display().to_string(), &error);
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(at)? {
        let entry = entry.map_err(at)?;
        // Of what goes while we look, nothing is counted.
        let Ok(found) = std::fs::symlink_metadata(entry.path()) else {
            continue;
        };
        if found.is_file() {
            all.push((entry.file_name().to_string_lossy().into_owned(), found));
        }
    }
    Ok(all)
}
