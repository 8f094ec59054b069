//! A reader that is opened beside an owner who goes on while it looks.

use std::sync::Arc;

use parking_lot::Mutex;

use super::caches::Counted;
use super::recorded::RecordedFiles;
use super::{Moment, OpenOptions, Rig, Store};
use crate::Result;
use crate::sys::fs::{Access, Dir, Entry, File, Files, Place};
use crate::sys::host::repeatable;

type Once = Box<dyn FnOnce() + Send>;

/// The files as a reader sees them: when it first opens one of them, something happens before.
struct Meddled {
    files: Arc<RecordedFiles>,
    place: Place,
    before: Mutex<Option<Once>>,
}

impl Files for Meddled {
    fn open(&self, place: &Place, access: Access) -> Result<Option<Arc<dyn File>>> {
        if *place == self.place
            && let Some(before) = self.before.lock().take()
        {
            before();
        }
        self.files.open(place, access)
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

    fn list(&self, dir: Dir) -> Result<Vec<Entry>> {
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
        // It does not tell its boot id, so that readers look at files, as they do during a persist where it does.
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
            place: crate::pages::place("a", 2),
            before: Mutex::new(Some(Box::new(move || {
                owner.delete_commit(2).unwrap();
                owner.persist(None).unwrap();
            }))),
        };
        let options = OpenOptions {
            read_only: true,
            ..OpenOptions::default()
        };
        let reader = Store::open_files(Arc::new(meddled), "test", options);
        let reader = reader.unwrap_or_else(|error| panic!("kept {kept}: {error}"));
        let (found, after) = (Moment::of(&reader), Moment::of(&rig.store));
        assert_ne!(before, after);
        assert!(found == before || found == after, "kept {kept}: {found:?}");
    }
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
            ..super::rig::open_options()
        };
        let refused = Store::open_files(files.clone(), "test", options);
        let refused = refused.map(drop).unwrap_err();
        assert!(
            matches!(&refused, crate::Error::Corrupt { file, .. } if **file == *place.to_string()),
            "{refused}"
        );
        // Its identity, and both streams three times.
        let count = opens.take();
        assert!(count <= 7, "{place}: {count} files opened");
    }
}
