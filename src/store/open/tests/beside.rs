//! A reader that opens a store while the owner goes on.

use std::io::IoSlice;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::Result;
use crate::store::tests::counted::Counted;
use crate::store::tests::recorded::RecordedFiles;
use crate::store::tests::{Moment, Rig};
use crate::store::{OpenOptions, Store};
use crate::sys::fs::{Access, Dir, DirEntry, File, Files, Place};
use crate::sys::host::repeatable;

type Once = Box<dyn FnOnce() + Send>;

/// The files as a reader sees them. Just before the reader first opens one of the files, `before` is called.
struct Meddled {
    files: Arc<RecordedFiles>,
    place: Place,
    before: Mutex<Option<Once>>,
    /// How the reader finds this file the first few times. Each time the file is different, until it does not
    /// change any more.
    torn: Torn,
    looks: AtomicU64,
}

/// How a file looks that is read while it is written.
#[derive(Debug, Clone, Copy)]
enum Torn {
    Never,
    /// It still has the length from before it was cut.
    Shorter(u64),
    /// A byte of its header does not have its new value yet.
    Header(u64),
}

/// A file as it was when the reader read it.
struct Snapshot {
    file: Arc<dyn File>,
    torn: Torn,
    look: u64,
}

impl File for Snapshot {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let got = self.file.read_at(buffer, offset)?;
        if matches!(self.torn, Torn::Header(_)) && offset == 0 {
            buffer[40] ^= 1;
        }
        Ok(got)
    }

    fn len(&self) -> Result<u64> {
        let more = match self.torn {
            Torn::Shorter(_) => self.look + 1,
            _ => 0,
        };
        Ok(self.file.len()? + more)
    }

    fn write_at(&self, _: &[IoSlice<'_>], _: u64) -> Result<()> {
        unreachable!("a reader writes nothing")
    }

    fn set_len(&self, _: u64) -> Result<()> {
        unreachable!("a reader writes nothing")
    }

    fn allocate(&self, _: u64, _: u64, _: bool) -> Result<()> {
        unreachable!("a reader writes nothing")
    }

    fn share(&self, _: &dyn File, _: u64, _: u64, _: u64) -> bool {
        unreachable!("a reader writes nothing")
    }

    fn begin_sync(&self) {}

    fn sync(&self) -> Result<()> {
        unreachable!("a reader writes nothing")
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

impl Files for Meddled {
    fn open(&self, place: &Place, access: Access) -> Result<Option<Arc<dyn File>>> {
        if *place == self.place {
            if let Some(before) = self.before.lock().take() {
                before();
            }
        }
        let file = self.files.open(place, access)?;
        if *place != self.place {
            return Ok(file);
        }
        let look = self.looks.fetch_add(1, Ordering::Relaxed);
        let torn = match self.torn {
            Torn::Shorter(times) | Torn::Header(times) if look < times => self.torn,
            _ => return Ok(file),
        };
        Ok(file.map(|file| Arc::new(Snapshot { file, torn, look }) as _))
    }

    fn create(&self, place: &Place) -> Result<Arc<dyn File>> {
        self.files.create(place)
    }

    fn rename(&self, from: &Place, to: &Place) -> Result<()> {
        self.files.rename(from, to)
    }

    fn link(&self, from: &Place, to: &Place) -> Result<()> {
        self.files.link(from, to)
    }

    fn adopt(&self, file: &dyn File, place: &Place) -> Result<bool> {
        self.files.adopt(file, place)
    }

    fn symlink(&self, target: &str, place: &Place) -> Result<()> {
        self.files.symlink(target, place)
    }

    fn read_link(&self, place: &Place) -> Result<Option<String>> {
        self.files.read_link(place)
    }

    fn unlink(&self, place: &Place) -> Result<()> {
        self.files.unlink(place)
    }

    fn list(&self, dir: Dir) -> Result<Vec<DirEntry>> {
        self.files.list(dir)
    }

    fn sync_dir(&self, dir: Dir) -> Result<()> {
        self.files.sync_dir(dir)
    }

    fn boot_id(&self) -> [u8; 16] {
        self.files.boot_id()
    }

    fn unlock(&self) {}
}

#[test]
fn a_reader_that_looks_while_a_commit_is_deleted_sees_what_is_there_before_or_after() {
    for kept in [false, true] {
        repeatable::begin(1);
        // The host has no boot id. Readers then check whether the files change, as they do during a persist on a
        // host with a boot id.
        let mut rig = Rig::small(RecordedFiles::new(false));
        rig.map("a");
        rig.write();
        rig.commit();
        rig.persist_in_files();
        for _ in 0..2 {
            rig.write();
            rig.commit();
        }
        if kept {
            rig.persist();
        }
        let before = rig.oracle.now().clone();
        let owner = rig.store.clone();
        let meddled = Meddled {
            files: rig.files.clone(),
            place: crate::layer::place("a", 2),
            before: Mutex::new(Some(Box::new(move || {
                owner.delete_commit(2).unwrap();
                owner.persist(None).unwrap();
            }))),
            torn: Torn::Never,
            looks: AtomicU64::new(0),
        };
        let reader = Store::open_files(Arc::new(meddled), "test", as_reader());
        let reader = reader.unwrap_or_else(|error| panic!("kept {kept}: {error}"));
        let (found, after) = (Moment::of(&reader), Moment::of(&rig.store));
        assert_ne!(before, after);
        assert!(found == before || found == after, "kept {kept}: {found:?}");
    }
}

#[test]
fn a_reader_that_looks_while_the_journal_is_written_looks_again() {
    let mut rig = Rig::small(RecordedFiles::new(true));
    rig.map("a");
    rig.write();
    rig.commit();
    rig.persist_in_files();
    rig.write();
    rig.commit();
    // A header that is the same three times is reported as damage.
    for torn in [
        Torn::Shorter(1),
        Torn::Shorter(2),
        Torn::Shorter(8),
        Torn::Header(1),
        Torn::Header(2),
    ] {
        let reader = Store::open_files(torn_journal(&rig, torn), "test", as_reader());
        let reader = reader.unwrap_or_else(|error| panic!("{torn:?}: {error}"));
        assert_eq!(Moment::of(&reader), *rig.oracle.now(), "{torn:?}");
    }
    for torn in [Torn::Shorter(u64::MAX), Torn::Header(u64::MAX)] {
        let files = torn_journal(&rig, torn);
        let refused = Store::open_files(files.clone(), "test", as_reader());
        let refused = refused.map(drop).unwrap_err();
        assert!(
            matches!(&refused, crate::Error::Corrupt { file, .. } if **file == *files.place.to_string()),
            "{torn:?}: {refused}"
        );
        let looks = files.looks.load(Ordering::Relaxed);
        assert!(looks < 100, "{torn:?}: {looks} looks");
    }
}

fn as_reader() -> OpenOptions {
    OpenOptions {
        read_only: true,
        ..OpenOptions::default()
    }
}

fn torn_journal(rig: &Rig, torn: Torn) -> Arc<Meddled> {
    Arc::new(Meddled {
        files: rig.files.clone(),
        place: Place::hidden("journal"),
        before: Mutex::new(None),
        torn,
        looks: AtomicU64::new(0),
    })
}

#[test]
fn a_reader_of_a_damaged_store_does_not_look_again_and_again() {
    let mut rig = Rig::small(RecordedFiles::new(true));
    rig.map("a");
    rig.write();
    rig.commit();
    rig.persist_in_files();
    rig.close();
    for place in [Place::hidden("journal"), Place::root("commits")] {
        let files = rig.files.copy();
        let file = files.open(&place, Access::Write).unwrap().unwrap();
        file.write_at(&[std::io::IoSlice::new(&[1; 8])], 40)
            .unwrap();
        let opens = Counted::of(&files, "open");
        let options = OpenOptions {
            read_only: true,
            ..crate::store::tests::rig::open_options()
        };
        let refused = Store::open_files(files.clone(), "test", options);
        let refused = refused.map(drop).unwrap_err();
        assert!(
            matches!(&refused, crate::Error::Corrupt { file, .. } if **file == *place.to_string()),
            "{refused}"
        );
        // The identity once, and both logs three times.
        let count = opens.take();
        assert!(count <= 7, "{place}: {count} files opened");
    }
}
