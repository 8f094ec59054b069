//! Files that no commit needs when a store is opened: the library removes its own files and no others.

use crate::store::tests::recorded::RecordedFiles;
use crate::store::tests::{Rig, rig};
use crate::store::{OpenOptions, Store};
use crate::sys::fs::{Access, Dir, Files, Place};

fn names(files: &RecordedFiles) -> Vec<String> {
    let mut all: Vec<String> = [Dir::Root, Dir::Hidden]
        .into_iter()
        .flat_map(|dir| files.list(dir).unwrap())
        .map(|entry| entry.name)
        .collect();
    all.sort();
    all
}

#[test]
fn files_of_unfinished_calls_go_when_an_owner_opens() {
    for persisted in [false, true] {
        let mut rig = Rig::small(RecordedFiles::new(true));
        rig.map("a");
        for _ in 0..3 {
            rig.write();
            rig.commit();
        }
        if persisted {
            rig.persist_in_files();
        }
        rig.close();
        let files = rig.files.copy();
        let own = names(&files);
        let strange = [Place::root("stranger"), Place::hidden("strange")];
        let left = [
            Place::hidden("new-1"),
            Place::hidden("new-journal"),
            Place::root("a_Commit9"),
            Place::root("a_Commit07"),
            Place::root("b_Commit5"),
        ];
        for place in strange.iter().chain(&left) {
            files.create(place).unwrap();
        }
        let all = names(&files);
        let open = |read_only| {
            let options = OpenOptions {
                read_only,
                ..rig::open_options()
            };
            let store = Store::open_files(files.clone(), "test", options).unwrap();
            assert_eq!(store.commits().unwrap(), [1, 2, 3]);
            store.close().unwrap();
            names(&files)
        };
        assert_eq!(open(true), all, "a reader takes nothing away");
        let now = open(false);
        for place in &strange {
            assert!(now.contains(&place.name), "{place} is somebody else's");
        }
        let mut rest = now.clone();
        rest.retain(|name| !strange.iter().any(|place| place.name == *name));
        assert_eq!(rest, own);
    }
}

#[test]
fn an_entry_that_is_no_file_stays_whatever_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    Store::open(path, rig::open_options())
        .unwrap()
        .close()
        .unwrap();
    for place in ["a_Commit9", ".vmstore/new-9"] {
        std::fs::create_dir(path.join(place)).unwrap();
    }
    std::os::unix::fs::symlink("commits", path.join("a_Commit8")).unwrap();
    Store::open(path, rig::open_options())
        .unwrap()
        .close()
        .unwrap();
    for place in ["a_Commit9", ".vmstore/new-9", "a_Commit8"] {
        assert!(path.join(place).symlink_metadata().is_ok(), "{place}");
    }
}

#[test]
fn a_damaged_persisted_file_is_salvaged_and_an_owner_mends_it() {
    let mut rig = Rig::small(RecordedFiles::new(true));
    rig.map("a");
    for byte in [7, 8] {
        rig.put("a", 0, &[byte; 100]);
        rig.commit();
        rig.persist();
    }
    // The second file is inline in the journal.
    rig.close();
    let place = Place::root("a_Commit2");
    for (read_only, salvage) in [(true, false), (true, true), (false, false)] {
        // The host has rebooted since.
        let files = RecordedFiles::holding(rig.files.disk(), 2);
        let file = files.open(&place, Access::Write).unwrap().unwrap();
        file.write_at(&[std::io::IoSlice::new(&[1])], 50).unwrap();
        let options = OpenOptions {
            read_only,
            salvage,
            ..rig::open_options()
        };
        match Store::open_files(files, "test", options) {
            Ok(store) => {
                assert!(salvage || !read_only);
                assert_eq!(store.commits().unwrap(), [1, 2]);
                let mut bytes = [0; 100];
                let read = store.read(2, "a", 0, &mut bytes);
                assert_eq!(read.is_ok() && bytes == [8; 100], !read_only);
            }
            Err(error) => assert!(read_only && !salvage, "{error}"),
        }
    }
}
