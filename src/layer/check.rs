//! Checks of module commit files.

use std::sync::Arc;

use super::files::{LayerFiles, place};
use super::read::{Piece, Reading};
use crate::format::commit::ModuleEntry;
use crate::format::index::Index;
use crate::{Error, Result};

/// Checks that a file is the module commit that a commit names: its size and digest must match the
/// commit's entry.
pub(crate) fn check_is(index: &Index, module: &ModuleEntry) -> Result<()> {
    if index.size != module.size || index.digest != module.digest {
        return Err(Error::corrupt(
            place(&index.module, index.commit).to_string(),
            format!(
                "it is not the file that commit {} of this store was made with",
                index.commit
            ),
        ));
    }
    Ok(())
}

impl LayerFiles {
    /// Checks every page of a module commit against its checksum.
    pub(crate) fn check_pages(&self, index: &Arc<Index>) -> Result<()> {
        Reading::new(self).pieces(Piece::all_of(index), |_, _| Ok(()))
    }
}
