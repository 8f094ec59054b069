//! `vmstore du`: who holds which bytes of the disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anstream::println;
use serde_json::json;
use vmstore::FileInfo;

use crate::args;
use crate::fail::{Code, Failure, Outcome};
use crate::history::{FileId, History, below};
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
        let mut inodes = BTreeSet::new();
        let mut others = Vec::new();
        let mut blocks: HashMap<FileId, u64> = HashMap::new();
        let names: HashMap<String, &FileInfo> = history
            .files
            .values()
            .map(|file| (name(file), file))
            .collect();
        for (name, found) in entries(directory)? {
            let size = found.blocks() * 512;
            if let Some(file) = names.get(&name) {
                usage.files += size;
                inodes.insert(found.ino());
                blocks.insert((file.module.clone(), file.module_commit), size);
                if found.nlink() > 1 {
                    usage.linked += size;
                }
            } else if name == "commits" {
                usage.records += size;
            } else {
                others.push(found);
            }
        }
        usage.share_out(history, &blocks);
        for found in others
            .into_iter()
            .filter(|found| !inodes.contains(&found.ino()))
        {
            usage.backing += found.blocks() * 512;
        }
        for (_, found) in entries(&directory.join(".vmstore"))? {
            usage.records += found.blocks() * 512;
        }
        Ok(usage)
    }

    /// What each commit holds of the files: from the bottom up what is below each, from the top down how
    /// many commits need it. So it costs the files, and not their square.
    fn share_out(&mut self, history: &History, blocks: &HashMap<FileId, u64>) {
        let size = |id: &FileId| blocks.get(id).copied().unwrap_or(0);
        let mut all: HashMap<FileId, u64> = HashMap::new();
        let files = history.ascending();
        for file in &files {
            let id = (file.module.clone(), file.module_commit);
            let under = all.get(&below(file)).copied().unwrap_or(0);
            let sum = size(&id) + under;
            all.insert(id, sum);
        }
        let mut users: HashMap<FileId, u64> = HashMap::new();
        for id in history.nodes.values().flat_map(|node| &node.named) {
            *users.entry(id.clone()).or_default() += 1;
        }
        for file in files.iter().rev() {
            let id = (file.module.clone(), file.module_commit);
            let named = users.get(&id).copied().unwrap_or(0);
            if !file.is_image() {
                *users.entry(below(file)).or_default() += named;
            }
        }
        let named: BTreeSet<&FileId> = history
            .nodes
            .values()
            .flat_map(|node| &node.named)
            .collect();
        self.unnamed = blocks
            .iter()
            .filter(|(id, _)| !named.contains(id))
            .map(|(_, size)| size)
            .sum();
        for (commit, node) in &history.nodes {
            let Some(held) = self.commits.get_mut(commit) else {
                continue;
            };
            for id in &node.named {
                if id.1 == *commit {
                    held.made += size(id);
                }
                // Own files are on top: what is below a shared one is shared.
                let mut own = 0;
                let mut next = id.clone();
                while users.get(&next) == Some(&1) {
                    own += size(&next);
                    let Some(file) = history.files.get(&next) else {
                        break;
                    };
                    next = below(file);
                }
                held.own += own;
                held.shared += all.get(id).copied().unwrap_or(0).saturating_sub(own);
            }
        }
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
            if node.readable {
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

/// What a file is called.
fn name(file: &FileInfo) -> String {
    format!("{}_Commit{}", file.module, file.module_commit)
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
