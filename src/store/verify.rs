//! Verifying: streams, footers, indexes, pages, digests.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use super::Store;
use super::findings::{FileId, Listener, Report};
use super::options::{Progress, VerifyOptions};
use crate::error::try_filled;
use crate::format::checksum::Digest;
use crate::format::commit::{Commit, ModuleEntry};
use crate::format::index::{Index, Shape};
use crate::journal::{self, Reader};
use crate::page::Run;
use crate::pages::{PageFiles, PageTable, Piece, Reading, place};
use crate::sys::fs::read_exact;
use crate::{Error, Result};

/// Checks that a file is the module commit that a commit's map means.
pub(super) fn matches(index: &Index, module: &ModuleEntry) -> Result<()> {
    if index.size != module.size || index.digest != module.digest {
        return Err(Error::corrupt(
            place(&index.module, index.commit).to_string(),
            format!(
                "it is not the one that commit {} of this store was made with",
                index.commit
            ),
        ));
    }
    Ok(())
}

/// Checks every page of a module commit against its checksum.
pub(super) fn check_pages(pages: &PageFiles, index: &Arc<Index>) -> Result<()> {
    Reading::new(pages).pieces(Piece::all_of(index), |_, _| Ok(()))
}

/// Checks that the pages of an image that are in no run are zero, as a reader of the plain file takes
/// them. They have no checksums, and nothing that is verified is ever read from there.
fn check_holes(pages: &PageFiles, index: &Index) -> std::result::Result<(), (Option<u64>, Error)> {
    const READ: u64 = 1 << 20;
    let whole = |error| (None, error);
    if index.shape == Shape::Delta {
        return Ok(());
    }
    let place = place(&index.module, index.commit);
    let file = pages.open(&index.module, index.commit).map_err(whole)?;
    let buffer = try_filled(READ.min(index.size) as usize, 0u8, "a buffer for pages");
    let mut buffer = buffer.map_err(whole)?;
    let page = index.page_size;
    let ends = index
        .runs
        .iter()
        .map(|run| (run.start * page, run.end() * page));
    let mut next = 0;
    for (start, end) in ends.chain([(index.size, index.size)]) {
        while next < start {
            let part = &mut buffer[..READ.min(start - next) as usize];
            read_exact(&*file, part, next, &place).map_err(whole)?;
            if let Some(at) = part.iter().position(|byte| *byte != 0) {
                let at = (next + at as u64) / page;
                let error = Error::corrupt(place.to_string(), format!("page {at} should be zero"));
                return Err((Some(at), error));
            }
            next += part.len() as u64;
        }
        next = end;
    }
    Ok(())
}

/// A module's table that walks from commit to commit, so that digests can be checked at the cost
/// of the pages that change between them.
struct Walker {
    table: PageTable,
    at: u64,
    digest: Digest,
}

type Walkers = BTreeMap<String, Walker>;

/// A module commit to verify, and what commits say it is: all the same, unless somebody made them up. Of two that
/// differ one is wrong, so that no more are kept.
struct Wanted {
    bytes: u64,
    meant: Vec<ModuleEntry>,
}

impl Store {
    /// Verifies the store; see `store_verify`.
    ///
    /// # Errors
    /// As `store_verify`.
    pub fn verify(&self, options: &VerifyOptions, progress: Progress<'_>) -> Result<()> {
        self.verify_all(options, None, progress)
    }

    /// As [`Store::verify`], but tells `finding` of everything that is damaged and goes on, and then, for
    /// each commit, whether it is good. Damage found is an error at the end.
    ///
    /// # Errors
    /// As `store_verify`.
    pub fn verify_all(
        &self,
        options: &VerifyOptions,
        finding: Listener<'_>,
        mut progress: Progress<'_>,
    ) -> Result<()> {
        self.check_reentry()?;
        // The files stay as they are; commits and persists may go on.
        let _upkeep = self.0.upkeep.lock();
        let (commits, damage) = {
            // No persist and no commit while the streams are read.
            let _gate = self.0.gate.lock();
            let state = self.enter()?;
            let numbers = match options.commit {
                0 => state.history.numbers(),
                number => vec![number],
            };
            let commits = numbers
                .into_iter()
                .map(|number| Ok(state.history.get(number)?.commit.clone()))
                .collect::<Result<Vec<Arc<Commit>>>>()?;
            let mut damage = None;
            if options.commit == 0 {
                let reader = if self.0.read_only {
                    Reader::Bystander
                } else {
                    Reader::Owner
                };
                let replay = journal::replay(&*self.0.files, &self.0.pages.store, reader)?;
                damage = replay.damage;
            }
            (commits, damage)
        };
        let mut report = Report::new(self, finding);
        if let Some(damage) = damage {
            report.note(None, None, damage)?;
        }
        // Module commits are shared between commits; each is verified once, oldest first. A delta
        // is worth nothing without what is below it.
        let mut wanted: BTreeMap<FileId, Wanted> = BTreeMap::new();
        for module in commits.iter().flat_map(|commit| &commit.modules) {
            let mut next = module.module_commit;
            while next != 0 && !wanted.contains_key(&(module.id.clone(), next)) {
                let id = (module.id.clone(), next);
                let (bytes, parent) = match self.0.pages.index(&module.id, next) {
                    Ok(index) => (index.data_pages() * index.page_size, index.parent),
                    // It is looked at once more below, and told then.
                    Err(error) if report.takes(&error) => (0, 0),
                    Err(error) => return Err(error),
                };
                wanted.insert(
                    id,
                    Wanted {
                        bytes,
                        meant: Vec::new(),
                    },
                );
                next = parent;
            }
            if let Some(wanted) = wanted.get_mut(&(module.id.clone(), module.module_commit)) {
                if wanted.meant.len() < 2 && !wanted.meant.contains(module) {
                    wanted.meant.push(module.clone());
                }
            }
        }
        let total = wanted.values().map(|wanted| wanted.bytes).sum();
        let mut done = 0;
        let mut walkers = Walkers::new();
        for (id, wanted) in wanted {
            self.tell(&mut progress, done, total)?;
            if let Err(error) = self.verify_file(&id, &wanted, options, &mut walkers, &mut report) {
                // What is wrong with a file below it is told of that one.
                let own = place(&id.0, id.1).to_string();
                let other = matches!(&error, Error::Corrupt { file, .. } if *file != own);
                if !(other && report.takes(&error)) {
                    report.note(Some(&id), None, error)?;
                }
            }
            done += wanted.bytes;
        }
        self.tell(&mut progress, total, total)?;
        report.judge(&commits)
    }

    /// Verifies one file. Bad pages are noted one by one if anybody listens; an error is one of the file as
    /// a whole.
    fn verify_file(
        &self,
        id: &FileId,
        wanted: &Wanted,
        options: &VerifyOptions,
        walkers: &mut Walkers,
        report: &mut Report<'_, '_>,
    ) -> Result<()> {
        let pages = &self.0.pages;
        // From the file, not from the cache.
        let index = Arc::new(pages.load(&id.0, id.1)?);
        for module in &wanted.meant {
            matches(&index, module)?;
        }
        pages.checksums(&index)?;
        if options.metadata_only {
            return Ok(());
        }
        if let Err(error) = check_pages(pages, &index) {
            if !report.takes(&error) {
                return Err(error);
            }
            for piece in Piece::all_of(&index) {
                for start in piece.run.start..piece.run.end() {
                    let one = Piece {
                        run: Run { start, count: 1 },
                        source: index.clone(),
                    };
                    if let Err(error) = Reading::new(pages).pieces(vec![one], |_, _| Ok(())) {
                        report.note(Some(id), Some(start), error)?;
                    }
                }
            }
        }
        if let Err((page, error)) = check_holes(pages, &index) {
            report.note(Some(id), page, error)?;
        }
        self.check_digest(walkers, &index)
    }

    fn check_digest(&self, walkers: &mut Walkers, index: &Arc<Index>) -> Result<()> {
        let pages = index.size / index.page_size;
        let walker = match walkers.entry(index.module.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Walker {
                table: PageTable::new(pages)?,
                at: 0,
                digest: Digest::default(),
            }),
        };
        walker.table.grow(pages)?;
        let from = (walker.at != 0).then_some(walker.at);
        let size = walker.table.pages() * index.page_size;
        for change in self
            .0
            .pages
            .changes(&index.module, size, from, Some(index.commit))?
        {
            for page in change.run.start..change.run.end() {
                if let Some(old) = walker.table.checksum(&self.0.pages, page)? {
                    walker.digest.remove(page, old);
                }
            }
            walker.table.set(change.run, change.source.as_ref())?;
            for page in change.run.start..change.run.end() {
                if let Some(new) = walker.table.checksum(&self.0.pages, page)? {
                    walker.digest.add(page, new);
                }
            }
        }
        walker.at = index.commit;
        if walker.digest != index.digest {
            return Err(Error::corrupt(
                place(&index.module, index.commit).to_string(),
                "the digest of the module does not match its pages",
            ));
        }
        Ok(())
    }
}
