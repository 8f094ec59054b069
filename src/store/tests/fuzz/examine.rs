//! What the fuzzers do with an untrusted directory, and what must hold whatever it contains.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::super::{map_options, rig};
use super::places::{Base, Scratch};
use crate::format::checksum::{self, Digest};
use crate::{
    CommitOptions, CompactOptions, Error, Finding, MapOptions, OpenOptions, Store, VerifyOptions,
};

/// A directory, and how it is examined.
pub(crate) struct Passes<'a> {
    pub(crate) scratch: &'a Scratch,
    pub(crate) root: &'a Path,
    /// What the directory held before it was damaged. `None`: this is not known.
    pub(crate) truth: Option<&'a Base>,
}

/// Modules up to this size are compared byte for byte.
const COMPARED: u64 = 1 << 20;
/// The most commits that are examined.
const COMMITS: usize = 12;
/// The most commits that are verified separately.
const VERIFIED: usize = 2;

/// A call that may fail, but never with an internal error.
fn allowed<T>(what: &str, result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(!matches!(error, Error::Internal { .. }), "{what}: {error}");
            None
        }
    }
}

/// The bytes that a verifying call returned, by commit and module.
type Seen = BTreeMap<(u64, String), Vec<u8>>;

/// Opens a directory in all ways. Where two ways return bytes, the bytes must be the same.
pub(crate) fn examine(passes: &Passes<'_>) {
    let outside = passes.scratch.0.join("outside");
    fs::write(&outside, b"not to be touched").unwrap();
    for salvage in [false, true] {
        let options = OpenOptions {
            read_only: true,
            salvage,
            ..rig::open_options()
        };
        if let Some(store) = allowed("open read-only", Store::open(passes.root, options)) {
            let seen = look(passes, &store);
            restore_all(passes, &store, &seen);
            allowed("close", store.close());
        }
    }
    if let Some(store) = allowed("open", Store::open(passes.root, rig::open_options())) {
        let seen = look(passes, &store);
        restore_all(passes, &store, &seen);
        go_on(passes, &store, &seen);
        allowed("close", store.close());
    }
    assert_eq!(fs::read(&outside).unwrap(), b"not to be touched");
}

fn digest(bytes: &[u8]) -> [u8; 16] {
    let size = crate::sys::host::page_size() as usize;
    let mut digest = Digest::default();
    for (number, page) in bytes.chunks(size).enumerate() {
        if page.iter().any(|byte| *byte != 0) {
            digest.add(number as u64, checksum::page(page));
        }
    }
    digest.to_bytes()
}

/// Calls everything that reads.
fn look(passes: &Passes<'_>, store: &Store) -> Seen {
    let mut seen = Seen::new();
    let commits = store.commits().unwrap();
    assert!(commits.windows(2).all(|two| two[0] < two[1]));
    allowed("files", store.files(0));
    let mut before = 0;
    // First what the store lists.
    let mut good = BTreeSet::new();
    let mut listener = |finding: &Finding<'_>| {
        if let Finding::Good(number) = finding {
            good.insert(*number);
        }
        true
    };
    let findings = store.verify_all(&VerifyOptions::default(), Some(&mut listener), None);
    let verified = allowed("verify", findings).is_some();
    assert!(!verified || good.len() == commits.len());
    for (at, number) in commits.iter().copied().take(COMMITS).enumerate() {
        let info = store.commit_info(number).unwrap();
        assert!(info.parent < number && info.commit == number);
        allowed("files", store.files(number));
        allowed("diff", store.diff(before, number, None));
        before = number;
        let mut good = good.contains(&number);
        if at < VERIFIED {
            let one = VerifyOptions {
                metadata_only: number % 2 == 0,
                commit: number,
            };
            // A file may be damaged in a part that this commit does not need. Then the commit is good, but its
            // files are not whole.
            let whole = allowed("verify", store.verify(&one, None)).is_some();
            assert!(
                whole || !verified,
                "commit {number} is damaged, but the whole store verifies"
            );
            good |= whole && !one.metadata_only;
        }
        let modules = store.modules(number).unwrap();
        assert_eq!(modules.len(), info.modules as usize);
        for module in modules.iter().filter(|module| module.size <= COMPARED) {
            let mut bytes = vec![1; module.size as usize];
            let read = store.read(number, &module.id, 0, &mut bytes);
            let why = read.as_ref().err().map(ToString::to_string);
            if allowed("read", read).is_none() {
                let id = &module.id;
                assert!(!good, "{id} of commit {number} is verified: {why:?}");
                continue;
            }
            if good {
                assert_eq!(digest(&bytes), module.digest, "verified, and other bytes");
            }
            if let Some(base) = passes.truth {
                let right = base.bytes(number, &module.id);
                assert!(right == Some(&bytes), "WRONG BYTES: {number} {}", module.id);
            }
            seen.insert((number, module.id.clone()), bytes);
        }
    }
    seen
}

/// Maps the head's modules, and restores every commit: memory must hold the bytes that were read, and a module that
/// could not be read must give an error.
fn restore_all(passes: &Passes<'_>, store: &Store, seen: &Seen) {
    let head = store.head().unwrap();
    let Some(modules) = allowed("modules", store.modules(0)) else {
        return;
    };
    let mut mapped = Vec::new();
    for (number, module) in modules.iter().take(4).enumerate() {
        let options = MapOptions {
            eager: number % 2 == 0,
            ..map_options()
        };
        if let Some(map) = allowed("map", store.map_module(&module.id, 0, &options)) {
            mapped.push(map);
        }
    }
    let check = |commit: u64| {
        let now = store.modules(0).unwrap();
        for module in &mapped {
            let info = now
                .iter()
                .find(|info| info.id == module.mapped().id)
                .unwrap();
            let memory = &module.mapped().memory;
            if info.unverified_bytes > 0 || memory.length() > COMPARED {
                continue;
            }
            let key = (commit, info.id.clone());
            let in_it = store.modules(commit).unwrap();
            let recorded = in_it.iter().find(|there| there.id == info.id);
            match (seen.get(&key), recorded) {
                (Some(bytes), _) => {
                    assert!(
                        memory.equals(0, bytes),
                        "memory differs from what was read: {key:?}"
                    );
                }
                (None, Some(_)) => panic!("{key:?} is in memory, but it cannot be read"),
                (None, None) => {
                    let zeros = vec![0; memory.length() as usize];
                    assert!(
                        memory.equals(0, &zeros),
                        "{key:?} is no commit's, and not zero"
                    );
                }
            }
        }
    };
    if head != 0 {
        check(head);
    }
    for number in store.commits().unwrap().into_iter().take(COMMITS) {
        if allowed("restore", store.restore(number, None)).is_some() {
            check(number);
        }
    }
    if passes.truth.is_none() && head != 0 {
        allowed("restore", store.restore(head, None));
    }
}

/// Continues with whatever the directory holds: a call that succeeds must have done its work.
fn go_on(passes: &Passes<'_>, store: &Store, seen: &Seen) {
    let fresh = store.map_module("fresh", crate::sys::host::page_size(), &map_options());
    let fresh = allowed("map", fresh);
    if let Some(module) = &fresh {
        module.mapped().memory.write(0, &[7; 64]);
        allowed("mark", module.mark_dirty(0, 64));
    }
    let made = allowed("commit", store.commit(&CommitOptions::default()));
    allowed("persist", store.persist(None));
    let still = |what: &str| {
        let commits = store.commits().unwrap();
        for ((commit, module), bytes) in seen.iter().filter(|(key, _)| commits.contains(&key.0)) {
            let mut now = vec![1; bytes.len()];
            let read = store.read(*commit, module, 0, &mut now);
            if let Some(()) = allowed("read", read) {
                assert!(now == *bytes, "{what} changed {module} of commit {commit}");
            }
        }
    };
    still("a commit");
    if let Some(made) = made {
        let spool = passes.scratch.0.join("export");
        let file = fs::OpenOptions::new();
        let file = file
            .clone()
            .create(true)
            .append(true)
            .read(true)
            .open(&spool);
        let exported = allowed("export", store.export(0, made, file.unwrap().as_raw_fd()));
        if exported.is_some() {
            import(passes, &spool, store, made);
        }
        allowed(
            "clone",
            store.clone_to(made, &passes.scratch.0.join("clone")),
        );
        allowed(
            "delete",
            store
                .commits()
                .unwrap()
                .first()
                .map_or(Ok(()), |first| store.delete_commit(*first)),
        );
        still("a deletion");
    }
    let options = CompactOptions {
        keep_last: 2,
        image_percent: 1,
        ..CompactOptions::default()
    };
    allowed("compact", store.compact(&options, None));
    still("a compaction");
}

/// What one store exports, another store imports, with the same bytes.
fn import(passes: &Passes<'_>, spool: &Path, store: &Store, made: u64) {
    let other = passes.scratch.0.join("other");
    let other = Store::open(&other, rig::open_options()).unwrap();
    let stream = fs::File::open(spool).unwrap();
    let Some(there) = allowed("import", other.import(stream.as_raw_fd())) else {
        assert!(passes.truth.is_none(), "the export cannot be imported");
        return;
    };
    other
        .verify(&VerifyOptions::default(), None)
        .expect("the imported commit is whole");
    for module in store
        .modules(made)
        .unwrap()
        .iter()
        .filter(|m| m.size <= COMPARED)
    {
        let mut both = [vec![1; module.size as usize], vec![2; module.size as usize]];
        other
            .read(there, &module.id, 0, &mut both[0])
            .expect("the imported bytes can be read");
        let here = store.read(made, &module.id, 0, &mut both[1]);
        assert!(allowed("read", here).is_none() || both[0] == both[1]);
    }
    other.close().unwrap();
}
