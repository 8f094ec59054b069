//! The high-water mark of the journal, in its own file. It says how far records were written. A
//! journal that ends before the mark has lost acknowledged commits, or is an older copy.
//!
//! The mark is written after each append. It never names a length that the journal has not reached.
//! If the owner is killed between the append and the mark, the mark names a shorter length.
//!
//! The mark is cleared before a sync begins and before the journal gets another generation. A
//! failed sync may shorten the journal, and the owner may be killed before the new generation is
//! complete. Neither must look like a lost commit.

use std::io::IoSlice;
use std::sync::Arc;

use crate::format::header::{LogHeader, Mark};
use crate::format::{StoreId, high_water, name};
use crate::sys::fs::{Access, File, Files, Place};
use crate::{Error, Result};

fn place() -> Place {
    Place::hidden(name::HIGH_WATER)
}

/// The file of the mark. Only the owner of the store has it open for writing.
pub(super) struct HighWater {
    /// `None`: the disk was full when the file was to be made.
    file: Option<Arc<dyn File>>,
    store: StoreId,
    /// The file may have a mark that is not empty.
    has_mark: bool,
    /// Why the last mark could not be written.
    failure: Option<Error>,
}

/// The file and its mark. The mark is `None` if it cannot be read or belongs to another store.
type MarkFile = Option<(Arc<dyn File>, Option<Mark>)>;

fn find(files: &dyn Files, store: &StoreId, access: Access) -> Result<MarkFile> {
    let Some(file) = files.open(&place(), access)? else {
        return Ok(None);
    };
    let mut bytes = [0; high_water::LENGTH];
    let got = file.read_at(&mut bytes, 0).unwrap_or(0);
    let mark = high_water::decode(&bytes[..got], store);
    Ok(Some((file, mark)))
}

impl HighWater {
    /// Opens the file, or makes it. The mark is written in place, so a file that does not belong to
    /// this store is never written: its name is removed, and a new file gets the name.
    pub(super) fn open(files: &dyn Files, store: StoreId) -> Result<Self> {
        let mut high_water = Self {
            file: None,
            store,
            has_mark: false,
            failure: None,
        };
        match find(files, &store, Access::Write)? {
            Some((file, Some(_))) => {
                high_water.file = Some(file);
                high_water.has_mark = true;
                return Ok(high_water);
            }
            Some((_, None)) => files.unlink(&place())?,
            None => {}
        }
        match files.create(&place()) {
            Ok(file) => high_water.file = Some(file),
            Err(error) if error.is_disk_full() => high_water.failure = Some(error),
            Err(error) => return Err(error),
        }
        Ok(high_water)
    }

    fn write(&self, mark: Mark) -> Result<()> {
        let bytes = high_water::encode(&self.store, mark);
        match &self.file {
            Some(file) => file.write_at(&[IoSlice::new(&bytes)], 0),
            None => Ok(()),
        }
    }

    /// Sets the mark to the journal's length. If that fails, the file keeps its old mark or has
    /// none. That does no harm, because the record itself is written.
    pub(super) fn set(&mut self, mark: Mark) {
        match self.write(mark) {
            Ok(()) => self.has_mark = true,
            Err(error) => self.failure = Some(error),
        }
    }

    pub(super) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    /// Makes the mark empty.
    pub(super) fn clear(&mut self) -> Result<()> {
        if let Some(file) = self.file.as_ref().filter(|_| self.has_mark) {
            // On a full disk, a file system that never writes in place may refuse the write. Then
            // the file is emptied.
            self.write(Mark::default())
                .or_else(|error| file.set_len(0).map_err(|_| error))?;
            self.has_mark = false;
        }
        Ok(())
    }
}

/// Compares the journal with the mark, on a host that has not rebooted. Returns what is wrong with
/// a journal that has this header and ends at byte `end`.
pub(super) fn check(
    files: &dyn Files,
    store: &StoreId,
    header: &LogHeader,
    end: u64,
) -> Result<Option<String>> {
    let Some((_, Some(mark))) = find(files, store, Access::Read)? else {
        return Ok(None);
    };
    let place = place();
    // An empty mark has generation 0 and length 0, so it fits every journal.
    Ok(match mark.of(header) {
        None => Some(format!(
            "it is not the journal that {place} belongs to, but an older or a newer copy"
        )),
        Some(length) if length > end => Some(format!(
            "it ends at byte {end}, but {place} says that records were written up to byte {length}"
        )),
        Some(_) => None,
    })
}
