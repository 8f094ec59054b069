//! A promise of the design: a forked child cannot disturb its parent, even if the child drops what it inherited.

use std::os::fd::AsRawFd;

use vmstore::{CommitOptions, Error, MapOptions, OpenOptions, Store};

/// Runs `body` in a forked child; true if it returned true.
fn in_child(body: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child calls what it needs and leaves with _exit.
    match unsafe { libc::fork() } {
        0 => {
            let held =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(false);
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(i32::from(!held)) }
        }
        child => {
            let mut status = 0;
            // SAFETY: our own child.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            status == 0
        }
    }
}

#[test]
fn a_child_that_drops_a_store_leaves_the_parent_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("store");
    let store = Store::open(&path, OpenOptions::default()).unwrap();
    let page = vmstore::probe(None).unwrap().page_size;
    let module = store
        .map_module("a", 16 * page, &MapOptions::default())
        .unwrap();
    assert_eq!(store.commit(&CommitOptions::default()).unwrap(), 1);

    let (child_store, child_module) = (store.clone(), module.clone());
    let held = in_child(move || {
        let refused = matches!(
            child_store.commit(&CommitOptions::default()),
            Err(Error::Forked)
        );
        // Gets the number of the lock's descriptor, which the fork handler has closed in the child.
        let own: Vec<_> = (0..8)
            .map(|_| std::fs::File::open("/dev/null").unwrap())
            .collect();
        for _ in 0..2 {
            // Drops the references of the parent's clones as well: these are then the last ones.
            // SAFETY: copies of handles that this process will not use again.
            drop(unsafe { std::ptr::read(&raw const child_module) });
            // SAFETY: as above.
            drop(unsafe { std::ptr::read(&raw const child_store) });
        }
        std::mem::forget((child_module, child_store));
        // SAFETY: asks for flags of descriptors of our own.
        refused
            && own
                .iter()
                .all(|f| unsafe { libc::fcntl(f.as_raw_fd(), libc::F_GETFD) } >= 0)
    });
    assert!(
        held,
        "a call in the child was not refused, or a descriptor of the child was closed"
    );

    let memory: *mut u8 = std::ptr::with_exposed_provenance_mut(module.address());
    // SAFETY: inside the module, which nobody else uses.
    unsafe { memory.write(5) };
    assert_eq!(store.commit(&CommitOptions::default()).unwrap(), 2);
    let second = Store::open(&path, OpenOptions::default());
    assert!(
        matches!(second, Err(Error::Locked { .. })),
        "the parent still has its lock"
    );
}
