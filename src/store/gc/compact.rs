//! Compaction: deletes commits that no rule keeps, flattens chains, makes images, and writes
//! `commits` anew. Files are copied while commits go on. The state is locked only to give a file
//! its name.

use std::sync::Arc;

use super::plan::{self, Rewrite};
use crate::format::commit::{Commit, Event};
use crate::format::header::{LOG_HEADER, LogKind};
use crate::format::index::{Index, Shape};
use crate::format::name;
use crate::format::record::HEAD;
use crate::journal::{LogStart, RecordLog, SequencedEvent};
use crate::layer::rewrite_layer;
use crate::store::options::{CompactOptions, LogLevel, Progress};
use crate::store::state::{History, MaintenanceGuard, Store};
use crate::sys::fs::{Dir, Place};
use crate::sys::host;
use crate::{Error, Result};

/// The most commits that are deleted under one lock of the state.
const DELETED_AT_ONCE: usize = 128;

/// A file to rewrite. `bytes` is the most bytes that its copy can have.
struct Job {
    module: String,
    rewrite: Rewrite,
    bytes: u64,
}

impl Store {
    /// Makes the store smaller: deletes the commits that no rule of `options` keeps, persists,
    /// flattens chains of files, makes images, and removes files that nothing needs; see
    /// `store_compact`.
    ///
    /// Commits, captures and restores of other threads go on meanwhile. Deletions and other calls
    /// that need the files to stay wait. Needs disk space for the largest rewritten file. After an
    /// error or a cancel, finished work stays done, and the commits that stay restore as before.
    ///
    /// # Errors
    /// [`Error::Corrupt`]: a file to rewrite is damaged. [`Error::Sync`]: a flush failed.
    /// [`Error::ReadOnly`], [`Error::Poisoned`], [`Error::Io`], [`Error::NoMemory`],
    /// [`Error::Cancelled`].
    pub fn compact(&self, options: &CompactOptions, mut progress: Progress<'_>) -> Result<()> {
        let maintenance = self.lock_maintenance()?;
        drop(self.enter_to_write()?);
        self.report_progress(&mut progress, 0, 0)?;
        maintenance.apply_retention(options, &mut progress)?;
        // When the deletions are durable, the files of the deleted commits can be removed.
        self.checkpoint(None)?;
        let jobs = maintenance.plan_compaction(options)?;
        let total = jobs.iter().map(|job| job.bytes).sum();
        let mut done = 0;
        for job in &jobs {
            self.report_progress(&mut progress, done, total)?;
            maintenance.rewrite_one(job, &mut |copied| {
                self.report_progress(&mut progress, (done + copied).min(total), total)
            })?;
            done += job.bytes;
        }
        maintenance.drop_unneeded()?;
        maintenance.rewrite_commits()?;
        self.report_progress(&mut progress, total, total)
    }
}

impl MaintenanceGuard<'_> {
    /// Deletes the commits that no rule keeps, oldest first. Without a rule, deletes nothing. Few
    /// commits are deleted at once, because a new commit waits meanwhile.
    fn apply_retention(&self, options: &CompactOptions, progress: &mut Progress<'_>) -> Result<()> {
        self.learn_file_refs()?;
        let victims = victims(options, &self.store.enter_to_write()?.history);
        for chunk in victims.chunks(DELETED_AT_ONCE) {
            self.store.report_progress(progress, 0, 0)?;
            self.delete_all(chunk)?;
        }
        Ok(())
    }

    /// Deletes commits with one write. Leaves out commits that were deleted or became the head
    /// since they were chosen.
    fn delete_all(&self, victims: &[Arc<Commit>]) -> Result<()> {
        let (store, layers) = (self.store, &self.store.0.layers);
        let persist = self.lock_persist();
        let mut locked = persist.enter_to_write()?;
        let history = &locked.history;
        let is_deletable = |number: u64| number != history.head() && history.get(number).is_ok();
        let victims: Vec<_> = victims.iter().filter(|c| is_deletable(c.number)).collect();
        if victims.is_empty() {
            return Ok(());
        }
        let events = victims.iter().map(|commit| Event::Deleted(commit.number));
        let events = events.collect();
        // Everything that can fail comes before the records. The records make the deletions.
        locked.file_refs(layers)?;
        let sequence = locked.record(events)?;
        let mut gone = Vec::new();
        for commit in &victims {
            gone.extend(locked.file_refs(layers)?.remove(commit));
        }
        let gone = locked.take_out(&persist, gone, sequence);
        drop(locked);
        store.remove_files(&gone);
        Ok(())
    }

    /// The files that are to be rewritten.
    fn plan_compaction(&self, options: &CompactOptions) -> Result<Vec<Job>> {
        let (store, layers) = (self.store, &self.store.0.layers);
        let refs = store.enter()?.file_refs(layers)?.clone();
        let percent = match options.image_percent {
            _ if options.no_images => 0,
            0 => plan::PERCENT,
            percent => u64::from(percent),
        };
        let mut jobs = Vec::new();
        for (module, files) in &refs.modules {
            if files.is_unclear(0) {
                store.log(LogLevel::Warning, || {
                    format!("module \"{module}\" is not compacted, because a file of it is damaged")
                });
                continue;
            }
            let rewrites = plan::plan(files, percent, |n| layers.index(module, n))?;
            for rewrite in rewrites {
                let chain = self.chain_above(module, rewrite)?;
                let pages: u64 = chain.iter().map(|index| index.data_pages()).sum();
                jobs.push(Job {
                    module: module.clone(),
                    rewrite,
                    bytes: pages * store.page_size(),
                });
            }
        }
        Ok(jobs)
    }

    /// The module commits that a rewrite merges into one, newest first.
    fn chain_above(&self, module: &str, rewrite: Rewrite) -> Result<Vec<Arc<Index>>> {
        let layers = &self.store.0.layers;
        let mut chain = vec![layers.index(module, rewrite.commit)?];
        loop {
            let last = &chain[chain.len() - 1];
            if last.parent == rewrite.base || last.shape == Shape::Image {
                return Ok(chain);
            }
            chain.push(layers.index(module, last.parent)?);
        }
    }

    /// Writes one file anew and gives it its name. A failed call changes nothing.
    fn rewrite_one(&self, job: &Job, copied: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let (store, layers) = (self.store, &self.store.0.layers);
        let chain = self.chain_above(&job.module, job.rewrite)?;
        let temporary = Place::hidden(format!("{}compact", name::TEMPORARY));
        let former_base = job.rewrite.former_base;
        let mut sum = 0;
        let rewritten = rewrite_layer(layers, &chain, former_base, &temporary, &mut |bytes| {
            sum += bytes;
            copied(sum)
        })?;
        if let Err(error) = rewritten.file.sync() {
            let _ = store.0.files.unlink(&temporary);
            // Only a copy is lost, but the store is poisoned: the caller has to know that the disk
            // fails to write.
            store.poison(&error);
            return Err(error);
        }
        let old = layers.open(&job.module, job.rewrite.commit);
        // The persist lock is needed, because a running persist may have the old file open.
        let persist = self.lock_persist();
        let mut locked = persist.enter_to_write()?;
        locked.stats.syncs += 1;
        let image = chain.last().is_some_and(|last| last.shape == Shape::Image);
        locked.replace_file(&persist, rewritten, &chain)?;
        drop(locked);
        // While `old` is open, the rename does not free the blocks of the old file. They are freed
        // here, after the state is unlocked.
        drop(old);
        if image {
            store.release_images([job.module.as_str()]);
        }
        Ok(())
    }

    /// Removes files that only the flattened chains needed. First makes the new names durable.
    fn drop_unneeded(&self) -> Result<()> {
        let (store, layers) = (self.store, &self.store.0.layers);
        let mut gone = Vec::new();
        {
            let mut locked = store.enter_to_write()?;
            for (module, files) in &mut locked.file_refs(layers)?.modules {
                let unnamed = files.files().filter(|(_, file)| file.refcount == 0);
                let unnamed: Vec<u64> = unnamed.map(|(commit, _)| commit).collect();
                for commit in unnamed.into_iter().rev() {
                    files.drop_unneeded(module, commit, &mut gone);
                }
            }
        }
        if !gone.is_empty() {
            let synced = store.0.files.sync_dir(Dir::Root);
            synced.inspect_err(|error| store.poison(error))?;
        }
        for file in gone {
            layers.forget(&file.module, file.commit);
            store.remove_file(&file);
        }
        Ok(())
    }

    /// Writes `commits` anew if many of its records are about deleted commits.
    fn rewrite_commits(&self) -> Result<()> {
        for _ in 0..4 {
            // Another thread may have made a commit meanwhile. Its record must be in `commits`
            // first.
            self.store.checkpoint(None)?;
            if self.try_rewrite_commits()? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Returns `false` and does nothing if there are records that no persist has moved to
    /// `commits`.
    fn try_rewrite_commits(&self) -> Result<bool> {
        let store = self.store;
        let mut persist = self.lock_persist();
        let (history, next) = {
            let locked = persist.enter_to_write()?;
            if !locked.unpersisted.events.is_empty() {
                return Ok(false);
            }
            (locked.history.clone(), locked.unpersisted.next_sequence)
        };
        let events = history.to_minimal_log();
        let Some(before) = persist.commits.as_ref().map(RecordLog::mark) else {
            return Ok(true);
        };
        let length = |event: &Event| (HEAD + event.length()).next_multiple_of(8);
        let new = (LOG_HEADER + events.iter().map(length).sum::<usize>()) as u64;
        let first = next.checked_sub(events.len() as u64).filter(|n| *n > 0);
        let Some(first) = first else {
            return Ok(true);
        };
        if new + new / 4 > before.length {
            return Ok(true);
        }
        let events: Vec<SequencedEvent> = (first..)
            .zip(events)
            .map(|(sequence, event)| SequencedEvent { sequence, event })
            .collect();
        let start = LogStart {
            durable: before,
            ..LogStart::default()
        };
        let (files, id) = (&*store.0.files, store.0.layers.store);
        let commits = RecordLog::create(files, LogKind::Commits, id, start, &events);
        // The failed sync may be the sync of the name. Then the old file is replaced already.
        let commits = commits.inspect_err(|error| {
            if matches!(error, Error::Sync { .. }) {
                store.poison(error);
            }
        })?;
        let mark = commits.mark();
        persist.commits = Some(commits);
        let mut locked = store.lock_state();
        if let Some(journal) = &mut locked.unpersisted.journal {
            // If this fails, the next persist writes the same header of the journal before it
            // appends to `commits`. Therefore the journal always names the `commits` file that
            // records are appended to. This file is not replaced again before a record was appended
            // to it.
            journal.set_durable(mark)?;
        }
        Ok(true)
    }
}

/// The commits that no rule keeps, oldest first. Without a rule all commits stay. The head always
/// stays.
fn victims(options: &CompactOptions, history: &History) -> Vec<Arc<Commit>> {
    let no_rule = options.keep_last == 0
        && options.keep_every == 0
        && options.keep_younger_ns == 0
        && !options.keep_labelled;
    if no_rule {
        return Vec::new();
    }
    let now = host::wall_clock();
    let count = history.len() as u64;
    let keeps = |(at, commit): &(u64, &Arc<Commit>)| {
        commit.number == history.head()
            || at + options.keep_last >= count
            || (options.keep_every > 0 && commit.number % options.keep_every == 0)
            || (options.keep_younger_ns > 0
                && now.saturating_sub(commit.time) < options.keep_younger_ns)
            || (options.keep_labelled && !commit.label.is_empty())
    };
    let gone = (0..).zip(history.commits()).filter(|pair| !keeps(pair));
    gone.map(|(_, commit)| commit.clone()).collect()
}
