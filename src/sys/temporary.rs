//! Files under a temporary name. They are removed unless they get their final name.

use std::sync::Arc;

use super::fs::{File, Files, Place};
use crate::Result;

/// A new file under a temporary name. Dropping the value removes the file; [`Temporary::rename`]
/// gives the file its final name.
pub(crate) struct Temporary<'a> {
    files: &'a dyn Files,
    place: &'a Place,
    pub(crate) file: Arc<dyn File>,
    named: bool,
}

impl<'a> Temporary<'a> {
    /// Makes the file. If an earlier call left a file under the same name, that file is removed
    /// first.
    pub(crate) fn create(files: &'a dyn Files, place: &'a Place) -> Result<Self> {
        files.unlink(place)?;
        Ok(Self {
            files,
            place,
            file: files.create(place)?,
            named: false,
        })
    }

    /// Gives the file its final name.
    pub(crate) fn rename(mut self, to: &Place) -> Result<Arc<dyn File>> {
        self.files.rename(self.place, to)?;
        self.named = true;
        Ok(self.file.clone())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.named {
            // If this fails, the next open of the store removes the file.
            let _ = self.files.unlink(self.place);
        }
    }
}
