//! Streams of an export: a stream that is imported is whole, and a stream that is refused leaves nothing.

use std::fs;
use std::os::fd::AsRawFd;

use super::super::{Moment, check_goes_on, map_options, rig};
use super::places::{Scratch, bases};
use super::seal;
use crate::sys::host::repeatable;
use crate::{Error, OpenOptions, Store, VerifyOptions};

/// Checksums stay as they are in the input. Otherwise they are corrected.
pub(crate) const RAW: u8 = 1;

/// The first byte chooses the store that imports. The second byte chooses how the stream is prepared.
pub(crate) fn run(input: &[u8]) {
    let [base, flags, bytes @ ..] = input else {
        return;
    };
    let bases = bases();
    let base = &bases[usize::from(*base) % bases.len()];
    repeatable::begin(1 << 32);
    let mut bytes = bytes.to_vec();
    if flags & RAW == 0 {
        seal::export(&mut bytes);
    }
    let scratch = Scratch::new();
    let root = scratch.make_from(&base.disk);
    let spool = scratch.0.join("stream");
    fs::write(&spool, bytes).unwrap();
    let store = Store::open(&root, rig::open_options()).unwrap();
    let before = Moment::of(&store);
    let stream = fs::File::open(&spool).unwrap();
    match store.import(stream.as_raw_fd()) {
        Ok(number) => assert!(store.commits().unwrap().contains(&number)),
        Err(error) => {
            assert!(!matches!(error, Error::Internal { .. }), "{error}");
            assert_eq!(
                Moment::of(&store),
                before,
                "the stream was refused, but a commit is there"
            );
        }
    }
    check(&store);
    let imported = store.commits().unwrap();
    store.close().unwrap();
    let store = Store::open(
        &root,
        OpenOptions {
            no_create: true,
            ..rig::open_options()
        },
    )
    .unwrap();
    assert_eq!(store.commits().unwrap(), imported);
    check(&store);
    check_goes_on(&store, &|| "after an import".into());
    store.close().unwrap();
}

/// Checks that all commits in the store are whole.
fn check(store: &Store) {
    store.verify(&VerifyOptions::default(), None).unwrap();
    for number in store.commits().unwrap() {
        for module in store.modules(number).unwrap() {
            let mut bytes = vec![0; module.size.min(1 << 20) as usize];
            store.read(number, &module.id, 0, &mut bytes).unwrap();
        }
    }
    let head = store.head().unwrap();
    for module in store.modules(head).unwrap_or_default() {
        if module.size <= 1 << 20 {
            store
                .map_module(&module.id, 0, &map_options())
                .unwrap()
                .unmap()
                .unwrap();
        }
    }
}
