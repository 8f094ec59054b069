//! The identity of a store: a directory with an identity is a store. This file makes stores, and
//! reads identities.

use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::format::header::{LogKind, Mark};
use crate::format::identity::{self, Identity};
use crate::format::name;
use crate::journal::{LogStart, RecordLog, journal_place};
use crate::sys::fs::{Access, Dir, DirEntry, EntryKind, Files, Place, read_exact};
use crate::sys::host;
use crate::sys::realfs::{self, FoundDirectory, RealFiles};
use crate::{Error, Result};

pub(in crate::store) fn identity_place() -> Place {
    Place::hidden(name::IDENTITY)
}

pub(in crate::store) fn read_identity(files: &dyn Files) -> Result<Option<Identity>> {
    let place = identity_place();
    let Some(file) = files.open(&place, Access::Read)? else {
        let orphans = files.list(Dir::Root)?.into_iter().any(|entry| {
            entry.kind == EntryKind::File
                && (entry.name == name::COMMITS || name::parse_module_commit(&entry.name).is_some())
        });
        if orphans {
            return Err(Error::corrupt(place.to_string(), "it is missing"));
        }
        return Ok(None);
    };
    let length = file.len()?;
    if length != identity::LENGTH as u64 {
        return Err(Error::corrupt(
            place.to_string(),
            format!("it has {length} bytes"),
        ));
    }
    let mut bytes = [0; identity::LENGTH];
    read_exact(&*file, &mut bytes, 0, &place)?;
    Identity::decode(&bytes, &place.to_string()).map(Some)
}

/// Makes the store's journal and identity, and makes both durable.
pub(super) fn make_identity(files: &dyn Files) -> Result<Identity> {
    let identity = Identity {
        store: host::random_id()?,
        page_size: host::page_size() as u32,
        made: host::wall_clock(),
    };
    write_identity(files, &identity, Mark::default())?;
    Ok(identity)
}

/// Makes the journal and the identity of a store. `durable` is the mark of its `commits`. The
/// identity is made last: without an identity there is no store, and the next call makes it from
/// the beginning.
pub(in crate::store) fn write_identity(
    files: &dyn Files,
    identity: &Identity,
    durable: Mark,
) -> Result<()> {
    files.unlink(&journal_place())?;
    let start = LogStart {
        durable,
        ..LogStart::default()
    };
    RecordLog::create(files, LogKind::Journal, identity.store, start, &[])?;
    let temporary = Place::hidden(format!("{}identity", name::TEMPORARY));
    files.unlink(&temporary)?;
    let file = files.create(&temporary)?;
    file.write_at(&[IoSlice::new(&identity.encode())], 0)?;
    file.sync()?;
    files.rename(&temporary, &identity_place())?;
    files.sync_dir(Dir::Hidden)?;
    files.sync_dir(Dir::Root)
}

/// Makes the directories of a store. The store's own directory `root` may exist already.
pub(in crate::store) fn make(root: Option<OwnedFd>, path: &Path) -> Result<RealFiles> {
    let above = match (&root, path.parent()) {
        (None, Some(parent)) if parent.as_os_str().is_empty() => Path::new(".").to_owned(),
        (None, Some(parent)) => parent.to_owned(),
        _ => path.join(".."),
    };
    let in_a_store = match realfs::find(&above) {
        Ok(FoundDirectory::Store(files)) => !matches!(read_identity(&files), Ok(None)),
        _ => false,
    };
    if in_a_store {
        // The name of the new directory could be the name of a file of the outer store.
        return Err(Error::invalid(
            format!("directory {}", path.display()),
            "a store must not be made in the directory of another store",
        ));
    }
    let root = root.map_or_else(|| realfs::make_root(path), Ok)?;
    refuse_foreign(&realfs::list(&root)?, &path.display().to_string())?;
    realfs::make_hidden(root)
}

/// Refuses a directory with files that do not belong to a store. A store is made in an empty
/// directory. Hidden files and `lost+found` do not count.
pub(in crate::store) fn refuse_foreign(entries: &[DirEntry], path: &str) -> Result<()> {
    let ours = |entry: &&DirEntry| entry.name.starts_with('.') || entry.name == "lost+found";
    match entries.iter().find(|entry| !ours(entry)) {
        None => Ok(()),
        Some(entry) => Err(Error::Exists {
            what: path.to_owned(),
            why: format!(
                "it is not a store and not empty: it contains \"{}\"",
                entry.name
            )
            .into(),
        }),
    }
}
