//! `vmstore du`: how much disk space each commit takes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anstream::println;
use serde_json::json;
use vmstore::FileInfo;

use crate::args;
use crate::fail::{Failure, Outcome};
use crate::history::{FileId, History, below, file_name, id_of};
use crate::screen::{BOLD, DIM, LABEL, NUMBER, Screen, WARNING, paint, printable};
use crate::store_dir::StoreDir;
use crate::table::{Align, Cell, Table};
use crate::units::bytes;

/// The disk space of the files that a commit needs, in bytes.
#[derive(Default)]
struct Held {
    /// Files that the commit made itself.
    made: u64,
    /// Files that no other commit needs.
    own: u64,
    /// Files that other commits need too.
    shared: u64,
}

/// The disk space of a store, in bytes.
struct Usage {
    commits: BTreeMap<u64, Held>,
    /// Module commit files, each once.
    files: u64,
    /// The part of `files` that belongs to deleted commits: other commits still need these files.
    unnamed: u64,
    /// Backing files of modules. A backing file that is a hard link to an image counts as that image.
    backing: u64,
    /// The file `commits`, the journal, and everything else in `.vmstore`.
    records: u64,
    /// The part of `files` that has a second hard link.
    linked: u64,
}

pub(crate) fn du(dir: &StoreDir, screen: &Screen, options: &args::Du) -> Outcome {
    let opened = dir.open_or_salvage()?;
    let history = History::of(&opened.store)?;
    let usage = Usage::of(dir.path(), &history)?;
    if options.json {
        println!("{:#}", usage.object());
    } else {
        for line in usage.lines(screen, &history) {
            println!("{line}");
        }
    }
    Ok(opened.code())
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
            .map(|file| (file_name(&file.module, file.module_commit), file))
            .collect();
        for (name, found) in entries(directory)? {
            let size = found.blocks() * 512;
            if let Some(file) = names.get(&name) {
                usage.files += size;
                inodes.insert(found.ino());
                blocks.insert(id_of(file), size);
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

    /// Shares the files out among the commits. One pass from the images upwards adds up the sizes of all files
    /// below each file. One pass downwards counts the commits that need each file. The time grows with the number
    /// of files, and not with its square.
    fn share_out(&mut self, history: &History, blocks: &HashMap<FileId, u64>) {
        let size = |id: &FileId| blocks.get(id).copied().unwrap_or(0);
        let mut all: HashMap<FileId, u64> = HashMap::new();
        let files = history.ascending();
        for file in &files {
            let id = id_of(file);
            let under = all.get(&below(file)).copied().unwrap_or(0);
            let sum = size(&id) + under;
            all.insert(id, sum);
        }
        let mut users: HashMap<FileId, u64> = HashMap::new();
        for id in history.nodes.values().flat_map(|node| &node.named) {
            *users.entry(id.clone()).or_default() += 1;
        }
        for file in files.iter().rev() {
            let named = users.get(&id_of(file)).copied().unwrap_or(0);
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
                // Everything below a shared file is shared, so the commit's own files are at the top.
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
            "  of these: deleted commits that others need; `vmstore compact` merges them",
        );
        part(
            self.linked,
            "  of these: files with a second hard link, from a module or a clone",
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
            Cell::new("total", BOLD),
        ]);
        lines.extend(sums.lines(screen));
        if !self.commits.is_empty() {
            lines.push(String::new());
            lines.push(paint(
                DIM,
                "made: files made by the commit; own: needed by it alone; shared: by others too",
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
        // A file that was removed since the directory was read does not count.
        let Ok(found) = std::fs::symlink_metadata(entry.path()) else {
            continue;
        };
        if found.is_file() {
            all.push((entry.file_name().to_string_lossy().into_owned(), found));
        }
    }
    Ok(all)
}
