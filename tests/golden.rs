//! Every version opens, restores and verifies the stores that released versions made.
//!
//! `VMSTORE_WRITE_GOLDEN=1 cargo test --test golden` makes the store of the current version where
//! it is missing. An existing golden store is never replaced.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmstore::{CommitOptions, Error, MapOptions, OpenOptions, Store, VerifyOptions};

const PAGE: usize = 4096;
const PAGES: usize = 6;

/// The content of a page of a module at a commit of the golden history. `None`: zeros.
fn content(module: &str, commit: u64, page: usize) -> Option<u8> {
    match (module, commit, page) {
        ("cpu", _, 0) => Some(0xc0),
        ("cpu", 4 | 5, 1) => Some(0x44),
        ("ram", _, 0) => Some(0x11),
        // Written to zero by commit 2; commit 3 is made on commit 1.
        ("ram", 1 | 3 | 4 | 5, 1) => Some(0x12),
        ("ram", 2, 2) => Some(0x22),
        ("ram", 3..=5, 3) => Some(0x33),
        ("ram", 5, 4) => Some(0x54),
        ("ram", 4 | 5, 5) => Some(0x45),
        _ => None,
    }
}

fn bytes(module: &str, commit: u64) -> Vec<u8> {
    (0..PAGES)
        .flat_map(|page| vec![content(module, commit, page).unwrap_or(0); PAGE])
        .collect()
}

/// The modules of a commit: "cpu" begins with commit 3.
fn modules(commit: u64) -> &'static [&'static str] {
    if commit < 3 {
        &["ram"]
    } else {
        &["cpu", "ram"]
    }
}

fn memory(module: &vmstore::Module) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(module.address())
}

fn fill(module: &vmstore::Module, bytes: &[u8]) {
    // SAFETY: the module has at least this size, and nobody else uses it.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory(module), bytes.len()) };
}

fn read(module: &vmstore::Module) -> Vec<u8> {
    let mut bytes = vec![0; PAGES * PAGE];
    // SAFETY: the module has this size, and nobody writes to it.
    unsafe { std::ptr::copy_nonoverlapping(memory(module), bytes.as_mut_ptr(), bytes.len()) };
    bytes
}

/// Makes commits 1 and 2, restores 1, makes 3, which has a second module, persists, makes 4, which is persisted in the
/// journal, and makes 5, which is only in the journal.
fn make(directory: &Path) {
    let store = Store::open(directory, OpenOptions::default()).unwrap();
    let size = (PAGES * PAGE) as u64;
    let ram = store
        .map_module("ram", size, &MapOptions::default())
        .unwrap();
    let commit = |label: &str| {
        let user_data = Arc::new(format!("user data of {label}").into_bytes());
        let options = CommitOptions {
            label: label.into(),
            user_data: Some(user_data),
            ..CommitOptions::default()
        };
        store.commit(&options).unwrap()
    };
    fill(&ram, &bytes("ram", 1));
    assert_eq!(commit("first"), 1);
    fill(&ram, &bytes("ram", 2));
    assert_eq!(commit("second"), 2);
    store.restore(1, None).unwrap();
    let cpu = store
        .map_module("cpu", size, &MapOptions::default())
        .unwrap();
    fill(&ram, &bytes("ram", 3));
    fill(&cpu, &bytes("cpu", 3));
    assert_eq!(commit("third"), 3);
    store.persist(None).unwrap();
    fill(&ram, &bytes("ram", 4));
    fill(&cpu, &bytes("cpu", 4));
    assert_eq!(commit("fourth"), 4);
    store.persist(None).unwrap();
    fill(&ram, &bytes("ram", 5));
    assert_eq!(commit("fifth"), 5);
    store.close().unwrap();
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Copies a store with its links.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        let kind = path.symlink_metadata().unwrap().file_type();
        if kind.is_dir() {
            copy(&path, &target);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&path).unwrap(), &target).unwrap();
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

fn check(golden: &Path) {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("store");
    copy(golden, &directory);
    if vmstore::probe(None).unwrap().page_size != PAGE as u64 {
        let refused = Store::open(&directory, OpenOptions::default());
        assert!(matches!(refused, Err(Error::Unsupported { .. })));
        return;
    }
    let store = Store::open(&directory, OpenOptions::default()).unwrap();
    assert_eq!(store.commits().unwrap(), [1, 2, 3, 4, 5]);
    assert!(store.commit_info(4).unwrap().persisted);
    assert_eq!(store.head().unwrap(), 5);
    store.verify(&VerifyOptions::default(), None).unwrap();
    for (number, parent, label) in [
        (1, 0, "first"),
        (2, 1, "second"),
        (3, 1, "third"),
        (4, 3, "fourth"),
        (5, 4, "fifth"),
    ] {
        let info = store.commit_info(number).unwrap();
        assert_eq!((info.parent, info.label.as_str()), (parent, label));
        let user_data = format!("user data of {label}").into_bytes();
        assert_eq!(*info.user_data, user_data);
    }
    let ram = store.map_module("ram", 0, &MapOptions::default()).unwrap();
    let cpu = store.map_module("cpu", 0, &MapOptions::default()).unwrap();
    for number in [5, 4, 2, 3, 1, 5] {
        store.restore(number, None).unwrap();
        for (id, module) in [("ram", &ram), ("cpu", &cpu)] {
            let wanted = if modules(number).contains(&id) {
                bytes(id, number)
            } else {
                vec![0; PAGES * PAGE]
            };
            assert_eq!(read(module), wanted, "{id} at commit {number}");
        }
    }
    fill(&ram, &bytes("ram", 2));
    assert_eq!(store.commit(&CommitOptions::default()).unwrap(), 6);
    store.persist(None).unwrap();
}

#[test]
fn stores_of_every_released_version_open() {
    let current = golden().join(env!("CARGO_PKG_VERSION"));
    if std::env::var_os("VMSTORE_WRITE_GOLDEN").is_some() && !current.exists() {
        fs::create_dir_all(golden()).unwrap();
        make(&current);
        fs::remove_file(current.join("ram")).unwrap();
        fs::remove_file(current.join("cpu")).unwrap();
    }
    assert!(
        current.exists(),
        "no golden store of this version in {}",
        current.display()
    );
    let mut count = 0;
    for entry in fs::read_dir(golden()).unwrap() {
        check(&entry.unwrap().path());
        count += 1;
    }
    println!("{count} golden stores open, restore, verify and take a new commit");
}

/// A store made today equals the golden store in every byte that is not random.
#[test]
fn a_store_made_now_has_the_golden_pages_and_names() {
    if vmstore::probe(None).unwrap().page_size != PAGE as u64 {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let now = scratch.path().join("store");
    make(&now);
    let then = golden().join(env!("CARGO_PKG_VERSION"));
    let mut compared = 0;
    for entry in fs::read_dir(&then).unwrap() {
        let name = entry.unwrap().file_name();
        if name.to_string_lossy().contains("_Commit") {
            let (old, new) = (
                fs::read(then.join(&name)).unwrap(),
                fs::read(now.join(&name)).unwrap(),
            );
            assert_eq!(old.len(), new.len(), "{name:?}");
            // Compares pages and index runs. The footer and all that is seeded with the store's id differ.
            let pages = (old.len() - 512) / PAGE * PAGE;
            assert_eq!(old[..pages], new[..pages], "{name:?}");
            compared += 1;
        }
    }
    assert_eq!(compared, 7);
}
