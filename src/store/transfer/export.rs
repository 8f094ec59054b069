//! Exporting: writes commits as a stream. Each commit costs the pages that it changed.

use std::os::fd::RawFd;
use std::sync::Arc;

use crate::format::commit::{Commit, ModuleEntry};
use crate::format::index::Index;
use crate::format::transfer::{Chain, Frame, StreamHeader};
use crate::layer::{Piece, Reading, check_is};
use crate::page_set::Run;
use crate::store::history::{differs, each_page};
use crate::store::options::Progress;
use crate::store::state::Store;
use crate::sys::{host, pipe};
use crate::{Error, Result};

/// The most pages of one frame.
const PAGES: u64 = 256;

/// Pages of one source. Pages with data go into one frame or a few.
struct ExportPart {
    run: Run,
    source: Option<Arc<Index>>,
}

/// A line of commits. Each commit is a child of the commit before it.
struct Line {
    /// The parent of the first commit.
    base: Option<Arc<Commit>>,
    commits: Vec<Arc<Commit>>,
}

impl Store {
    /// Writes commits to a descriptor as a stream for [`Store::import`]; see `store_export`.
    ///
    /// The stream has `to` and its ancestors back to `from`, which is not included. `from` 0: all
    /// ancestors. The importing store must have `from`. `fd` is a pipe, a socket or a file, and
    /// stays open. The call waits for the reader. Commits and persists of other threads go on;
    /// deletions and compactions wait. After an error, an incomplete stream may have been written,
    /// which an import refuses.
    ///
    /// # Errors
    /// [`Error::NotFound`]: there is no such commit. [`Error::Invalid`]: `to` is not a descendant
    /// of `from`, or `fd` is not open. [`Error::Stale`], [`Error::Corrupt`], [`Error::Io`],
    /// [`Error::NoMemory`].
    pub fn export(&self, from: u64, to: u64, fd: RawFd) -> Result<()> {
        self.export_with(from, to, fd, None)
    }

    /// As [`Store::export`], with a progress function; see `store_export_with`.
    ///
    /// # Errors
    /// As [`Store::export`]. [`Error::Cancelled`].
    pub fn export_with(&self, from: u64, to: u64, fd: RawFd, progress: Progress<'_>) -> Result<()> {
        self.or_stale(self.export_line(from, to, fd, progress))
    }

    fn export_line(&self, from: u64, to: u64, fd: RawFd, mut progress: Progress<'_>) -> Result<()> {
        let _files_stay = self.lock_maintenance()?;
        let Line { base, commits } = self.line(from, to)?;
        pipe::check(fd)?;
        let mut bytes = Vec::new();
        let mut parent = base.as_ref();
        for commit in &commits {
            for entry in &commit.modules {
                let before = parent.and_then(|parent| parent.module(&entry.id));
                bytes.push(self.most_bytes(before, entry)?);
            }
            parent = Some(commit);
        }
        let mut done = 0;
        let total = bytes.iter().sum();
        self.report_progress(&mut progress, 0, total)?;
        let header = StreamHeader {
            stream: host::random_id()?,
            page_size: self.0.layers.page_size as u32,
            base: base.as_ref().map_or([0; 16], |commit| commit.unique_id),
            commits: commits.len() as u64,
            bytes: total,
        };
        pipe::write(fd, &header.encode())?;
        let mut chain = Chain::new(header.stream);
        let mut parent = base;
        let mut bytes = bytes.into_iter();
        for commit in commits {
            pipe::write(fd, &chain.encode(&Frame::Commit(commit.clone())))?;
            for entry in &commit.modules {
                let before = parent.as_ref().and_then(|parent| parent.module(&entry.id));
                self.export_module(fd, &mut chain, before, entry, &mut |sent| {
                    self.report_progress(&mut progress, (done + sent).min(total), total)
                })?;
                done += bytes.next().unwrap_or_default();
            }
            parent = Some(commit);
        }
        let frames = chain.frames();
        pipe::write(fd, &chain.encode(&Frame::End { frames }))?;
        self.report_progress(&mut progress, total, total)
    }

    /// The commit `from`, unless it is 0, and the commits after it up to `to`, oldest first.
    fn line(&self, from: u64, to: u64) -> Result<Line> {
        let locked = self.enter()?;
        let history = &locked.history;
        let base = match from {
            0 => None,
            from => Some(history.get(from)?.commit.clone()),
        };
        if to == from {
            return Err(Error::invalid(
                format!("from {from}, to {to}"),
                "there is nothing between a commit and itself",
            ));
        }
        let mut commits = Vec::new();
        let mut next = history.get(to)?.commit.number;
        while next != from && next != 0 {
            let commit = history.get(next)?.commit.clone();
            next = history.parent_of(&commit);
            commits.push(commit);
        }
        if next != from {
            return Err(Error::invalid(
                format!("from {from}"),
                format!("commit {to} is not a descendant of it"),
            ));
        }
        commits.reverse();
        Ok(Line { base, commits })
    }

    /// The bytes of those pages of a module that may have changed.
    fn most_bytes(&self, before: Option<&ModuleEntry>, entry: &ModuleEntry) -> Result<u64> {
        let (from, to) = (before.map(|b| b.module_commit), Some(entry.module_commit));
        if from == to {
            return Ok(0);
        }
        let changes = self.0.layers.changes(&entry.id, entry.size, from, to)?;
        let pages: u64 = changes.iter().map(|change| change.run.count).sum();
        Ok(pages * self.0.layers.page_size)
    }

    fn export_module(
        &self,
        fd: RawFd,
        chain: &mut Chain,
        before: Option<&ModuleEntry>,
        entry: &ModuleEntry,
        report: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        if before.is_some_and(|before| before.module_commit == entry.module_commit) {
            return Ok(());
        }
        let layers = &self.0.layers;
        check_is(&*layers.index(&entry.id, entry.module_commit)?, entry)?;
        let frame = Frame::Module {
            id: &entry.id,
            size: entry.size,
            digest: entry.digest,
        };
        pipe::write(fd, &chain.encode(&frame))?;
        let mut reading = Reading::new(layers);
        let mut sent = 0;
        for ExportPart { run, source } in self.changed_parts(before, entry)? {
            let Some(source) = source else {
                let frame = Frame::Zeros {
                    start: run.start,
                    count: run.count,
                };
                pipe::write(fd, &chain.encode(&frame))?;
                continue;
            };
            reading.pieces(vec![Piece { run, source }], |run, bytes| {
                let frame = Frame::Pages {
                    start: run.start,
                    bytes,
                };
                pipe::write(fd, &chain.encode(&frame))?;
                sent += bytes.len() as u64;
                report(sent)
            })?;
        }
        Ok(())
    }

    /// The changed pages of a module, in page order, in parts of one source each.
    fn changed_parts(
        &self,
        before: Option<&ModuleEntry>,
        entry: &ModuleEntry,
    ) -> Result<Vec<ExportPart>> {
        let layers = &self.0.layers;
        let from = before.map(|before| before.module_commit);
        let to = Some(entry.module_commit);
        let old = layers.changes(&entry.id, entry.size, to, from)?;
        let new = layers.changes(&entry.id, entry.size, from, to)?;
        let mut parts: Vec<ExportPart> = Vec::new();
        let mut reading = (Reading::new(layers), Reading::new(layers));
        let mut failed = Ok(());
        each_page(&old, &new, |page, old, new| {
            match differs(layers, &mut reading, page, old, new) {
                _ if failed.is_err() => {}
                Err(error) => failed = Err(error),
                Ok(false) => {}
                Ok(true) => match parts.last_mut() {
                    Some(last)
                        if last.run.end() == page
                            && (last.run.count < PAGES || new.is_none())
                            && last.source.as_ref().map(|s| s.commit) == new.map(|s| s.commit) =>
                    {
                        last.run.count += 1;
                    }
                    _ => parts.push(ExportPart {
                        run: Run {
                            start: page,
                            count: 1,
                        },
                        source: new.cloned(),
                    }),
                },
            }
        });
        failed.map(|()| parts)
    }
}
