//! Verifying the logs, the footers, the indexes, the pages and the digests.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use super::findings::{FileId, Listener, Report};
use crate::error::try_filled;
use crate::format::checksum::Digest;
use crate::format::commit::{Commit, ModuleEntry};
use crate::format::index::{Index, Shape};
use crate::journal::{self, Role};
use crate::layer::{LayerFiles, PageTable, Piece, Reading, check_is, place};
use crate::page_set::Run;
use crate::store::options::{Progress, VerifyOptions};
use crate::store::state::{MaintenanceGuard, Store};
use crate::sys::fs::read_exact;
use crate::{Error, Result};

/// Checks that the pages of an image that are in no run are zero, because a reader of the plain
/// file takes them for zero. These pages have no checksums, and no verified read uses them.
fn check_holes(
    layers: &LayerFiles,
    index: &Index,
) -> std::result::Result<(), (Option<u64>, Error)> {
    const READ: u64 = 1 << 20;
    let whole = |error| (None, error);
    if index.shape == Shape::Delta {
        return Ok(());
    }
    let place = place(&index.module, index.commit);
    let file = layers.open(&index.module, index.commit).map_err(whole)?;
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

/// A module's page table that moves from one commit to the next. Checking the digest of the next
/// commit then costs only the pages that changed.
struct Walker {
    table: PageTable,
    at: u64,
    digest: Digest,
}

type Walkers = BTreeMap<String, Walker>;

/// A module commit to verify, and what the maps of commits say about it. All maps say the same,
/// unless somebody forged them. Two different entries are enough to find that out, therefore no
/// more are kept.
struct Wanted {
    bytes: u64,
    meant: Vec<ModuleEntry>,
}

impl Store {
    /// Verifies one commit or the whole store: the logs, all footers and indexes, every page
    /// against its checksum and every module against its digest; see `store_verify`.
    ///
    /// Reads files only, and does not touch mapped memory. The first damage ends the call. Commits
    /// and persists of other threads go on. In a read-only store, a file that the writer has
    /// deleted or rewritten since counts as damaged: open the store again and verify again.
    ///
    /// # Errors
    /// [`Error::Corrupt`] and [`Error::Version`]: the damage. [`Error::NotFound`]: there is no such
    /// commit. [`Error::Io`], [`Error::NoMemory`], [`Error::Cancelled`].
    pub fn verify(&self, options: &VerifyOptions, progress: Progress<'_>) -> Result<()> {
        self.verify_all(options, None, progress)
    }

    /// As [`Store::verify`], but goes on after damage. `finding` receives every damaged file and
    /// page, and then, for each commit, whether it is good. If there was damage, the call fails at
    /// its end with the first error.
    ///
    /// # Errors
    /// As [`Store::verify`].
    pub fn verify_all(
        &self,
        options: &VerifyOptions,
        finding: Listener<'_>,
        mut progress: Progress<'_>,
    ) -> Result<()> {
        // The lock keeps the files as they are. Commits and persists go on.
        let maintenance = self.lock_maintenance()?;
        let (commits, damage) = maintenance.commits_to_verify(options)?;
        let mut report = Report::new(self, finding);
        if let Some(damage) = damage {
            report.note(None, None, damage)?;
        }
        let wanted = self.files_to_verify(&commits, &report)?;
        let total = wanted.values().map(|wanted| wanted.bytes).sum();
        let mut done = 0;
        let mut walkers = Walkers::new();
        for (id, wanted) in wanted {
            self.report_progress(&mut progress, done, total)?;
            if let Err(error) = self.verify_file(&id, &wanted, options, &mut walkers, &mut report) {
                // The damage may be in a file below this one. It is then reported for that file.
                let own = place(&id.0, id.1).to_string();
                let other = matches!(&error, Error::Corrupt { file, .. } if *file != own);
                if !(other && report.takes(&error)) {
                    report.note(Some(&id), None, error)?;
                }
            }
            done += wanted.bytes;
        }
        self.report_progress(&mut progress, total, total)?;
        report.judge(&commits)
    }

    /// The files that commits need, oldest first. Commits share module commits, and each module
    /// commit is verified once. The files below a delta are included, because the delta is useless
    /// without them.
    fn files_to_verify(
        &self,
        commits: &[Arc<Commit>],
        report: &Report<'_, '_>,
    ) -> Result<BTreeMap<FileId, Wanted>> {
        let mut wanted: BTreeMap<FileId, Wanted> = BTreeMap::new();
        for module in commits.iter().flat_map(|commit| &commit.modules) {
            let mut next = module.module_commit;
            while next != 0 && !wanted.contains_key(&(module.id.clone(), next)) {
                let id = (module.id.clone(), next);
                let (bytes, parent) = match self.0.layers.index(&module.id, next) {
                    Ok(index) => (index.data_pages() * index.page_size, index.parent),
                    // The file is read again later. The error is reported then.
                    Err(error) if report.takes(&error) => (0, 0),
                    Err(error) => return Err(error),
                };
                let file = Wanted {
                    bytes,
                    meant: Vec::new(),
                };
                wanted.insert(id, file);
                next = parent;
            }
            let id = (module.id.clone(), module.module_commit);
            if let Some(wanted) = wanted.get_mut(&id) {
                if wanted.meant.len() < 2 && !wanted.meant.contains(module) {
                    wanted.meant.push(module.clone());
                }
            }
        }
        Ok(wanted)
    }

    /// Verifies one file. With a listener, each damaged page is noted. An error that this returns
    /// concerns the file as a whole.
    fn verify_file(
        &self,
        id: &FileId,
        wanted: &Wanted,
        options: &VerifyOptions,
        walkers: &mut Walkers,
        report: &mut Report<'_, '_>,
    ) -> Result<()> {
        let layers = &self.0.layers;
        // This reads the file and not the cache.
        let index = Arc::new(layers.load(&id.0, id.1)?);
        for module in &wanted.meant {
            check_is(&index, module)?;
        }
        layers.checksums(&index)?;
        if options.metadata_only {
            return Ok(());
        }
        if let Err(error) = layers.check_pages(&index) {
            if !report.takes(&error) {
                return Err(error);
            }
            for piece in Piece::all_of(&index) {
                for start in piece.run.start..piece.run.end() {
                    let one = Piece {
                        run: Run { start, count: 1 },
                        source: index.clone(),
                    };
                    if let Err(error) = Reading::new(layers).pieces(vec![one], |_, _| Ok(())) {
                        report.note(Some(id), Some(start), error)?;
                    }
                }
            }
        }
        if let Err((page, error)) = check_holes(layers, &index) {
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
            .layers
            .changes(&index.module, size, from, Some(index.commit))?
        {
            for page in change.run.start..change.run.end() {
                if let Some(old) = walker.table.checksum(&self.0.layers, page)? {
                    walker.digest.remove(page, old);
                }
            }
            walker.table.set(change.run, change.source.as_ref())?;
            for page in change.run.start..change.run.end() {
                if let Some(new) = walker.table.checksum(&self.0.layers, page)? {
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

impl MaintenanceGuard<'_> {
    /// The commits to verify, and the damage in the logs. Persists and commits wait while the logs
    /// are read.
    fn commits_to_verify(
        &self,
        options: &VerifyOptions,
    ) -> Result<(Vec<Arc<Commit>>, Option<Error>)> {
        let store = self.store;
        let _persist = self.lock_persist();
        let locked = store.enter()?;
        let numbers = match options.commit {
            0 => locked.history.numbers(),
            number => vec![number],
        };
        let mut commits = Vec::new();
        for number in numbers {
            commits.push(locked.history.get(number)?.commit.clone());
        }
        let mut damage = None;
        if options.commit == 0 {
            let role = if store.0.read_only {
                Role::ReadOnly
            } else {
                Role::Owner
            };
            damage = journal::replay(&*store.0.files, &store.0.layers.store, role)?.damage;
        }
        Ok((commits, damage))
    }
}
