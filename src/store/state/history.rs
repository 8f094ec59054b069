//! The commits of a store in memory: a tree of commits, its head, and which commits are persisted.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::format::commit::{Commit, Event};
use crate::format::record::Record;
use crate::{Error, Result};

/// A commit and whether it survives a power cut.
#[derive(Clone)]
pub(in crate::store) struct CommitEntry {
    pub(in crate::store) commit: Arc<Commit>,
    pub(in crate::store) persisted: bool,
}

/// All commits of a store. The records of the logs, applied in their order, make this value.
#[derive(Default, Clone)]
pub(in crate::store) struct History {
    commits: BTreeMap<u64, CommitEntry>,
    head: u64,
    /// The parent of each deleted commit. Children of the deleted commit have this parent now.
    deleted: BTreeMap<u64, u64>,
    /// The highest number ever used.
    last_number: u64,
}

impl History {
    /// Applies an event. `Err` says why the event contradicts the history before it.
    pub(in crate::store) fn apply(
        &mut self,
        event: &Event,
        persisted: bool,
    ) -> std::result::Result<(), String> {
        match event {
            Event::Committed(commit) => {
                if commit.number <= self.last_number {
                    return Err(format!(
                        "commit {} stands after commit {}",
                        commit.number, self.last_number
                    ));
                }
                self.last_number = commit.number;
                self.head = commit.number;
                self.commits.insert(
                    commit.number,
                    CommitEntry {
                        commit: commit.clone(),
                        persisted,
                    },
                );
            }
            Event::HeadMoved(number) if self.commits.contains_key(number) => self.head = *number,
            Event::HeadMoved(number) => {
                return Err(format!(
                    "the head moved to commit {number}, and there is no such commit"
                ));
            }
            Event::Forgotten { number, parent } => {
                if self.commits.contains_key(number) {
                    return Err(format!(
                        "commit {number} is marked as deleted, but it exists"
                    ));
                }
                self.deleted.insert(*number, *parent);
                self.last_number = self.last_number.max(*number);
            }
            Event::Deleted(number) => match self.commits.get(number) {
                Some(entry) if *number != self.head => {
                    self.deleted.insert(*number, entry.commit.parent);
                    self.commits.remove(number);
                }
                _ => {
                    return Err(format!(
                        "commit {number} was deleted, but it is the head or does not exist"
                    ));
                }
            },
        }
        Ok(())
    }

    /// Applies a record of a log. `file` names the log in an error. A salvager goes on after a gap.
    pub(in crate::store) fn follow(
        &mut self,
        record: &Record,
        persisted: bool,
        file: &str,
        salvage: bool,
    ) -> Result<()> {
        match self.apply(&record.event, persisted) {
            Err(_) if salvage => {
                self.salvage(&record.event);
                Ok(())
            }
            other => other.map_err(|why| {
                Error::corrupt(
                    file,
                    format!(
                        "record {}, at byte {}: {why}",
                        record.sequence, record.offset
                    ),
                )
            }),
        }
    }

    /// Applies an event although events before it may be missing. The newest commit becomes the
    /// head.
    pub(in crate::store) fn salvage(&mut self, event: &Event) {
        if self.apply(event, true).is_ok() {
            return;
        }
        if let Event::Committed(commit) = event {
            self.commits.entry(commit.number).or_insert(CommitEntry {
                commit: commit.clone(),
                persisted: true,
            });
        }
    }

    pub(in crate::store) fn head(&self) -> u64 {
        self.head
    }

    pub(in crate::store) fn head_commit(&self) -> Option<&Arc<Commit>> {
        self.commits.get(&self.head).map(|entry| &entry.commit)
    }

    pub(in crate::store) fn next_number(&self) -> u64 {
        self.last_number + 1
    }

    pub(in crate::store) fn get(&self, number: u64) -> Result<&CommitEntry> {
        self.commits.get(&number).ok_or_else(|| Error::NotFound {
            what: format!("commit {number}"),
            hint: match self.commits.last_key_value() {
                _ if self.deleted.contains_key(&number) => "; it was deleted".into(),
                None => "; the store has no commits yet".into(),
                Some((last, _)) => format!("; the newest is {last}").into(),
            },
        })
    }

    pub(in crate::store) fn numbers(&self) -> Vec<u64> {
        self.commits.keys().copied().collect()
    }

    pub(in crate::store) fn len(&self) -> usize {
        self.commits.len()
    }

    pub(in crate::store) fn unpersisted(&self) -> usize {
        self.commits
            .values()
            .filter(|entry| !entry.persisted)
            .count()
    }

    pub(in crate::store) fn set_persisted(&mut self, number: u64) {
        if let Some(entry) = self.commits.get_mut(&number) {
            entry.persisted = true;
        }
    }

    /// The parent of a commit. If the parent was deleted, the nearest ancestor that was not
    /// deleted. 0: there is none.
    pub(in crate::store) fn parent_of(&self, commit: &Commit) -> u64 {
        let mut parent = commit.parent;
        while let Some(above) = self.deleted.get(&parent) {
            parent = *above;
        }
        parent
    }

    /// The part of the history that survives a power cut. With `only`, the history of that one
    /// commit alone, which is then the head.
    pub(in crate::store) fn part(&self, only: Option<u64>) -> Self {
        let mut part = self.clone();
        part.commits.retain(|number, entry| match only {
            Some(only) => *number == only,
            None => entry.persisted,
        });
        if !part.commits.contains_key(&part.head) {
            part.head = part.commits.keys().next_back().copied().unwrap_or(0);
        }
        if only.is_some() {
            for entry in part.commits.values_mut() {
                Arc::make_mut(&mut entry.commit).parent = 0;
            }
        }
        part
    }

    /// The fewest events that make this history. In these events no commit has a deleted parent.
    pub(in crate::store) fn to_minimal_log(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut last = 0;
        for commit in self.commits() {
            last = commit.number;
            let parent = self.parent_of(commit);
            let mut commit = commit.clone();
            if commit.parent != parent {
                Arc::make_mut(&mut commit).parent = parent;
            }
            events.push(Event::Committed(commit));
        }
        if self.last_number > last {
            events.push(Event::Forgotten {
                number: self.last_number,
                parent: 0,
            });
        }
        if self.head != last {
            events.push(Event::HeadMoved(self.head));
        }
        events
    }

    /// All commits, ascending.
    pub(in crate::store) fn commits(&self) -> impl DoubleEndedIterator<Item = &Arc<Commit>> {
        self.commits.values().map(|entry| &entry.commit)
    }

    /// The names of all module commit files that a commit uses.
    pub(in crate::store) fn files(&self) -> HashSet<String> {
        self.commits()
            .flat_map(|commit| &commit.modules)
            .map(|module| crate::format::name::module_commit(&module.id, module.module_commit))
            .collect()
    }
}
