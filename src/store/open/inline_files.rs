//! Writing out the files that the journal carries inline, when their own copies on the disk are in
//! doubt.

use std::io::IoSlice;
use std::sync::Arc;

use crate::format::index::FOOTER;
use crate::format::inline::{InlineFile, InlineFiles};
use crate::format::name;
use crate::layer::{LayerFiles, place};
use crate::store::callbacks::Note;
use crate::store::options::LogLevel;
use crate::sys::fs::{Access, Dir, File, Place, read_exact};
use crate::sys::temporary::Temporary;
use crate::{Error, Result};

/// Makes the inline files durable as files of their own. The journal may then drop them. `suspect`:
/// a sync may have failed, and after that, the success of another sync proves nothing.
pub(super) fn write_out(
    layers: &LayerFiles,
    inline: &[InlineFiles],
    suspect: bool,
    note: Note<'_>,
) -> Result<()> {
    let mut written = 0;
    for file in inline.iter().flat_map(|inline| &inline.files) {
        match own_copy(layers, file, suspect)? {
            OwnCopy::Newer => continue,
            OwnCopy::Same if !suspect => continue,
            OwnCopy::Same | OwnCopy::Damaged => {}
        }
        let hidden = Place::hidden(format!("{}carried", name::TEMPORARY));
        let new = Temporary::create(&*layers.files, &hidden)?;
        new.file.write_at(&[IoSlice::new(&file.bytes)], 0)?;
        new.file.sync()?;
        new.rename(&place(&file.module, file.commit))?;
        written += 1;
    }
    if written > 0 {
        note(
            LogLevel::Info,
            format!("{written} file(s) were written again from the journal"),
        );
    }
    // This also makes names durable that existed before: they may be in memory only.
    layers.files.sync_dir(Dir::Root)
}

/// What the disk has under the name of an inline file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OwnCopy {
    /// There is no file, a damaged file, or a file of another commit.
    Damaged,
    /// The same file as the inline file.
    Same,
    /// A file of the same commit with the same bytes that was rewritten since. It was synced before
    /// it got the name. The base of the inline file may be removed already.
    Newer,
}

/// Finds out what the disk has under the name of an inline file. The file is synced first, unless a
/// sync would prove nothing.
fn own_copy(layers: &LayerFiles, file: &InlineFile, suspect: bool) -> Result<OwnCopy> {
    let place = place(&file.module, file.commit);
    let copy = match layers.files.open(&place, Access::Read) {
        Ok(Some(copy)) => copy,
        Ok(None) | Err(Error::Corrupt { .. }) => return Ok(OwnCopy::Damaged),
        Err(error) => return Err(error),
    };
    if !suspect {
        copy.sync()?;
    }
    match has_same_bytes(layers, file) {
        Ok(true) if ends_alike(&*copy, &place, file)? => Ok(OwnCopy::Same),
        Ok(true) => Ok(OwnCopy::Newer),
        Ok(false) | Err(Error::Corrupt { .. } | Error::Version { .. }) => Ok(OwnCopy::Damaged),
        Err(error) => Err(error),
    }
}

/// Whether the own copy is whole and holds the same bytes of the module as the inline file. A file
/// of the same name may also be a leftover of a failed import.
fn has_same_bytes(layers: &LayerFiles, file: &InlineFile) -> Result<bool> {
    let wanted = layers.footer_of(&file.module, file.commit, &file.bytes)?;
    let index = layers.load(&file.module, file.commit)?;
    let same = index.digest == wanted.head().digest;
    layers.check_pages(&Arc::new(index))?;
    Ok(same)
}

/// Whether a whole file with the same bytes of the module also has the same footer, and therefore
/// is the same file.
fn ends_alike(copy: &dyn File, place: &Place, file: &InlineFile) -> Result<bool> {
    let mut end = [0; FOOTER];
    let at = copy.len()?.saturating_sub(FOOTER as u64);
    read_exact(copy, &mut end, at, place)?;
    Ok(file.bytes.ends_with(&end))
}

/// The error for a read-only open of a store that lost power, if no owner has opened it since.
pub(super) fn needs_an_owner(why: &Error) -> Error {
    Error::ReadOnly {
        what: format!("recovery has to write to the store ({why})"),
        why: "open the store for writing once",
    }
}
