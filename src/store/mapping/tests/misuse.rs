//! Modules that are used after their end, and records of modules that are too large for any host.

use std::sync::Arc;

use crate::format::commit::{Commit, Event, ModuleEntry};
use crate::layer::{Draft, place};
use crate::store::tests::map_options;
use crate::store::{MapOptions, OpenOptions, Store};
use crate::sys::fs::Place;
use crate::sys::host;
use crate::sys::memory::Memory;
use crate::{Error, MapMode, VerifyOptions};

fn store(directory: &tempfile::TempDir) -> Store {
    Store::open(directory.path(), OpenOptions::default()).unwrap()
}

#[test]
fn adopted_memory_is_the_callers_again_when_it_was_unmapped_or_the_store_closed() {
    let page = host::page_size();
    let bytes = vec![0xaa; 2 * page as usize];
    for closes in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory);
        let own = Memory::anonymous(2 * page).unwrap();
        own.write(0, &bytes);
        for tracker in [map_options().tracker, None] {
            let options = MapOptions {
                mode: MapMode::Adopt,
                address: own.address(),
                tracker,
                ..MapOptions::default()
            };
            let module = store.map_module("ram", 2 * page, &options).unwrap();
            if closes && tracker.is_none() {
                store.close().unwrap();
            } else {
                module.unmap().unwrap();
            }
            let discarded = module.discard(0, page);
            assert!(
                matches!(discarded, Err(Error::Handle { .. })),
                "{discarded:?}"
            );
            assert!(own.equals(0, &bytes));
        }
    }
}

/// A store with a commit whose module has this size and no bytes. All checksums are right.
fn large(directory: &tempfile::TempDir, size: u64) -> Store {
    let store = store(directory);
    let layers = &store.0.layers;
    // A file system may not allow files of this size. A module with an image below it needs only a small file.
    let image = Draft::image(layers, Place::hidden("new-0"), "ram", 4096, 1);
    let image = image.finish(layers).unwrap();
    let delta = Draft::delta(layers, Place::hidden("new-1"), size, 2, &image.index);
    let delta = delta.finish(layers).unwrap();
    for file in [&image, &delta] {
        let name = place("ram", file.index.commit);
        store.0.files.rename(&file.temporary, &name).unwrap();
    }
    let commit = Commit {
        number: 2,
        unique_id: [1; 16],
        parent: 0,
        time: 0,
        label: String::new(),
        user_data: Arc::default(),
        modules: vec![ModuleEntry {
            id: "ram".into(),
            module_commit: 2,
            size,
            digest: delta.index.digest,
        }],
    };
    let event = Event::Committed(Arc::new(commit));
    store.lock_state().record(vec![event]).unwrap();
    store
}

#[test]
fn a_recorded_size_is_bounded_like_a_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let size = (host::memory() * 65).next_multiple_of(host::page_size());
    let store = large(&directory, size);
    let mapped = store.map_module("ram", 0, &map_options()).map(drop);
    assert!(matches!(mapped, Err(Error::NoMemory { .. })), "{mapped:?}");
}

#[test]
fn verifying_a_recorded_size_takes_no_more_memory_than_the_host_can_spare() {
    let directory = tempfile::tempdir().unwrap();
    let store = large(&directory, 1 << 47);
    let verified = store.verify(&VerifyOptions::default(), None);
    assert!(
        matches!(verified, Err(Error::NoMemory { .. })),
        "{verified:?}"
    );
}
