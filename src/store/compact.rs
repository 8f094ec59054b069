//! Compacting: commits that no rule keeps are deleted, chains are shortened, images made, and `commits` told
//! anew. Files are copied while commits go on, and only get their names with the store's lock held.

use std::sync::Arc;

use super::images::{self, Job};
use super::options::{CompactOptions, Progress};
use super::{LogLevel, State, Store};
use crate::format::commit::{Commit, Event};
use crate::format::header::{HEADER, StreamKind};
use crate::format::index::{Index, Shape};
use crate::format::name;
use crate::format::record::HEAD;
use crate::journal::{Numbered, Stream};
use crate::pages::rewrite;
use crate::sys::fs::{Dir, Place};
use crate::sys::host;
use crate::{Error, Result};

/// Commits that are deleted with the store's lock held once.
const DELETED_AT_ONCE: usize = 128;

impl Store {
    /// Compacts the store; see `store_compact`.
    ///
    /// # Errors
    /// As `store_compact`.
    pub fn compact(&self, options: &CompactOptions, mut progress: Progress<'_>) -> Result<()> {
        self.check_reentry()?;
        let _upkeep = self.0.upkeep.lock();
        drop(self.enter_to_write()?);
        self.tell(&mut progress, 0, 0)?;
        self.retain(options, &mut progress)?;
        // What deleted commits alone needed may go when their deletion is durable.
        self.persist_in_files(None)?;
        let work = self.compaction_plan(options)?;
        let total = work.iter().map(|(_, _, bytes)| bytes).sum();
        let mut done = 0;
        for (module, job, bytes) in &work {
            self.tell(&mut progress, done, total)?;
            self.rewrite_one(module, *job, &mut |copied| {
                self.tell(&mut progress, (done + copied).min(total), total)
            })?;
            done += bytes;
        }
        self.drop_unneeded()?;
        self.retell_commits()?;
        self.tell(&mut progress, total, total)
    }

    /// Deletes what no rule keeps, if there is a rule: oldest first, and so few at once that a commit does not
    /// wait long.
    fn retain(&self, options: &CompactOptions, progress: &mut Progress<'_>) -> Result<()> {
        self.know_lineage()?;
        let victims = options.victims(&*self.enter_to_write()?);
        for some in victims.chunks(DELETED_AT_ONCE) {
            self.tell(progress, 0, 0)?;
            self.delete_all(some)?;
        }
        Ok(())
    }

    /// Deletes commits with one write, but for those that are gone or have become the head since they were chosen.
    fn delete_all(&self, victims: &[Arc<Commit>]) -> Result<()> {
        let gate = self.0.gate.lock();
        let mut state = self.enter_to_write()?;
        let history = &state.history;
        let still = |number: u64| number != history.head() && history.get(number).is_ok();
        let victims: Vec<_> = victims.iter().filter(|c| still(c.number)).collect();
        if victims.is_empty() {
            return Ok(());
        }
        let events = victims.iter().map(|commit| Event::Deleted(commit.number));
        // What can fail comes before the records, which are the deletions.
        state.lineage(self)?;
        let sequence = state.record_all(events.collect())?;
        let mut gone = Vec::new();
        for commit in &victims {
            gone.extend(state.lineage(self)?.remove(commit));
        }
        let gone = self.take_out(&mut state, gone, sequence, gate.told());
        drop(state);
        self.remove_files(&gone);
        Ok(())
    }

    /// What is to be rewritten, with a bound of the bytes that each costs.
    fn compaction_plan(&self, options: &CompactOptions) -> Result<Vec<(String, Job, u64)>> {
        let lineage = self.enter()?.lineage(self)?.clone();
        let percent = match options.image_percent {
            _ if options.no_images => 0,
            0 => images::PERCENT,
            percent => u64::from(percent),
        };
        let mut work = Vec::new();
        for (module, family) in &lineage.modules {
            if family.is_unclear(0) {
                self.log(LogLevel::Warning, || {
                    format!("module \"{module}\" has a damaged file, and is not compacted")
                });
                continue;
            }
            let jobs = images::plan(family, percent, |n| self.0.pages.index(module, n))?;
            for job in jobs {
                let chain = self.chain_above(module, job)?;
                let pages: u64 = chain.iter().map(|index| index.data_pages()).sum();
                work.push((module.clone(), job, pages * self.0.pages.page_size));
            }
        }
        Ok(work)
    }

    /// The module commits that a job makes into one, newest first.
    fn chain_above(&self, module: &str, job: Job) -> Result<Vec<Arc<Index>>> {
        let mut chain = vec![self.0.pages.index(module, job.commit)?];
        loop {
            let last = &chain[chain.len() - 1];
            if last.parent == job.base || last.shape == Shape::Image {
                return Ok(chain);
            }
            chain.push(self.0.pages.index(module, last.parent)?);
        }
    }

    /// Writes one file anew and gives it its name. Nothing has changed when it fails.
    fn rewrite_one(
        &self,
        module: &str,
        job: Job,
        tell: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let chain = self.chain_above(module, job)?;
        let temporary = Place::hidden(format!("{}compact", name::TEMPORARY));
        let mut copied = 0;
        let rewritten = rewrite(
            &self.0.pages,
            &chain,
            job.former,
            &temporary,
            &mut |bytes| {
                copied += bytes;
                tell(copied)
            },
        )?;
        if let Err(error) = rewritten.file.sync() {
            let _ = self.0.files.unlink(&temporary);
            // Only a copy is lost; but a disk that fails to write is to be heard of.
            self.poison(&error);
            return Err(error);
        }
        let old = self.0.pages.open(module, job.commit);
        // A persist under way has the old file open.
        let _gate = self.0.gate.lock();
        let mut state = self.enter_to_write()?;
        state.stats.syncs += 1;
        let image = chain.last().is_some_and(|last| last.shape == Shape::Image);
        self.install(&mut state, rewritten, &chain)?;
        drop(state);
        // Its blocks are given back now, and not in the rename.
        drop(old);
        if image {
            self.let_go_of_images([module]);
        }
        Ok(())
    }

    /// Removes files that only links of shortened chains needed, once the new names are durable.
    fn drop_unneeded(&self) -> Result<()> {
        let mut gone = Vec::new();
        {
            let mut state = self.enter_to_write()?;
            for (module, family) in &mut state.lineage(self)?.modules {
                let unnamed = family.nodes().filter(|(_, node)| node.named == 0);
                let unnamed: Vec<u64> = unnamed.map(|(commit, _)| commit).collect();
                for commit in unnamed.into_iter().rev() {
                    family.drop_unneeded(module, commit, &mut gone);
                }
            }
        }
        if !gone.is_empty() {
            let synced = self.0.files.sync_dir(Dir::Root);
            synced.inspect_err(|error| self.poison(error))?;
        }
        for file in gone {
            self.0.pages.forget(&file.module, file.commit);
            self.remove_file(&file);
        }
        Ok(())
    }

    /// Writes `commits` anew where much of it is about commits that are gone.
    fn retell_commits(&self) -> Result<()> {
        for _ in 0..4 {
            // A commit of another thread may have come between; what it recorded is persisted first.
            self.persist_in_files(None)?;
            let mut gate = self.0.gate.lock();
            let (events, next) = {
                let state = self.enter_to_write()?;
                if !state.pending.is_empty() {
                    continue;
                }
                (state.history.clone(), state.next_sequence)
            };
            let events = events.retold();
            let Some(before) = gate.commits.as_ref().map(Stream::mark) else {
                return Ok(());
            };
            let old = before.length;
            let length = |event: &Event| (HEAD + event.length()).next_multiple_of(8);
            let new = (HEADER + events.iter().map(length).sum::<usize>()) as u64;
            let Some(first) = next
                .checked_sub(events.len() as u64)
                .filter(|first| *first > 0)
            else {
                return Ok(());
            };
            if new + new / 4 > old {
                return Ok(());
            }
            let events: Vec<Numbered> = (first..)
                .zip(events)
                .map(|(sequence, event)| Numbered { sequence, event })
                .collect();
            let commits = Stream::create(
                &*self.0.files,
                StreamKind::Commits,
                self.0.pages.store,
                (before, false, 0),
                &events,
            );
            // A failed sync may have been the one of the name, and then the old file is gone.
            let commits = commits.inspect_err(|error| {
                if matches!(error, Error::Sync { .. }) {
                    self.poison(error);
                }
            })?;
            let mark = commits.mark();
            gate.commits = Some(commits);
            let mut state = self.lock_state();
            if let Some(journal) = &mut state.journal {
                // Should this fail, the next persist writes the same header before it appends anything: the
                // journal always knows the stream that is appended to, and so the one in whose place another comes, which
                // is not made anew before something was appended.
                journal.set_durable(mark)?;
            }
            return Ok(());
        }
        Ok(())
    }
}

impl CompactOptions {
    /// The commits that no rule keeps, oldest first. Without a rule all stay; the head always does.
    fn victims(&self, state: &State) -> Vec<Arc<Commit>> {
        let history = &state.history;
        let none = self.keep_last == 0
            && self.keep_every == 0
            && self.keep_younger_ns == 0
            && !self.keep_labelled;
        if none {
            return Vec::new();
        }
        let now = host::wall_clock();
        let count = history.len() as u64;
        let keeps = |(at, commit): &(u64, &Arc<Commit>)| {
            commit.number == history.head()
                || at + self.keep_last >= count
                || (self.keep_every > 0 && commit.number % self.keep_every == 0)
                || (self.keep_younger_ns > 0
                    && now.saturating_sub(commit.time) < self.keep_younger_ns)
                || (self.keep_labelled && !commit.label.is_empty())
        };
        let gone = (0..).zip(history.commits()).filter(|pair| !keeps(pair));
        gone.map(|(_, commit)| commit.clone()).collect()
    }
}

impl State {
    /// Appends several events to the journal with one write. Returns the number of the last record.
    pub(super) fn record_all(&mut self, events: Vec<Event>) -> Result<u64> {
        let first = self.next_sequence;
        let numbered: Vec<Numbered> = (first..)
            .zip(events)
            .map(|(sequence, event)| Numbered { sequence, event })
            .collect();
        let journal = self.journal.as_mut().ok_or_else(|| Error::Internal {
            what: "a journal record in a read-only store".into(),
        })?;
        let before = journal.end();
        journal.append(&numbered)?;
        self.stats.bytes_written += journal.end() - before;
        self.next_sequence += numbered.len() as u64;
        for numbered in &numbered {
            if let Err(why) = self.history.apply(&numbered.event, false) {
                return Err(Error::Internal { what: why });
            }
        }
        self.pending.extend(numbered);
        Ok(self.next_sequence - 1)
    }
}
