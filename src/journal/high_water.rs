//! The journal's high-water mark, in a file of its own: up to where records were written. A journal that ends before it
//! has lost acknowledged commits, or is an older one.
//!
//! It is written behind each append, so it never says more than there is; a kill in between leaves it saying less. It is
//! taken back before a sync begins and before the journal gets another generation: what a failed sync makes of the
//! journal, and a kill in between, must not look like a loss.

use std::io::IoSlice;
use std::sync::Arc;

use crate::format::header::{LogHeader, Mark};
use crate::format::{StoreId, high_water, name};
use crate::sys::fs::{Access, File, Files, Place};
use crate::{Error, Result};

fn place() -> Place {
    Place::hidden(name::HIGH_WATER)
}

/// The file, of the store's owner.
pub(super) struct HighWater {
    /// `None`: there was no room to make it.
    file: Option<Arc<dyn File>>,
    store: StoreId,
    /// It may say something.
    says: bool,
    /// Why it could not be written.
    failure: Option<Error>,
}

/// The file, and what is in it, if that is this store's and can be read.
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
    /// Opens it, and makes it where there is none. It is written in place, so what is not this store's is not written
    /// to: its name goes, and another file gets it.
    pub(super) fn open(files: &dyn Files, store: StoreId) -> Result<Self> {
        let mut high_water = Self {
            file: None,
            store,
            says: false,
            failure: None,
        };
        match find(files, &store, Access::Write)? {
            Some((file, Some(_))) => {
                high_water.file = Some(file);
                high_water.says = true;
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

    /// Says how long the journal is. Where that fails it says what it did, or nothing, which does no harm: the record is
    /// there.
    pub(super) fn set(&mut self, mark: Mark) {
        match self.write(mark) {
            Ok(()) => self.says = true,
            Err(error) => self.failure = Some(error),
        }
    }

    pub(super) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    /// From here it says nothing.
    pub(super) fn clear(&mut self) -> Result<()> {
        if let Some(file) = self.file.as_ref().filter(|_| self.says) {
            // A file system that writes nothing in place may have no room for that.
            self.write(Mark::default())
                .or_else(|error| file.set_len(0).map_err(|_| error))?;
            self.says = false;
        }
        Ok(())
    }
}

/// What is wrong with a journal of this header that ends there, on a host that has not booted.
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
    // One that says nothing is of any journal, and no length is before its own.
    Ok(match mark.of(header) {
        None => Some(format!(
            "it is not the journal that {place} speaks of, but an older or a newer one"
        )),
        Some(length) if length > end => Some(format!(
            "it ends at byte {end}, and {place} says that its records were written up to byte {length}"
        )),
        Some(_) => None,
    })
}
