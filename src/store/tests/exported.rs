//! A store and its export, for imports into other stores.

use std::io::Seek as _;
use std::os::fd::AsRawFd as _;

use super::Rig;
use super::recorded::RecordedFiles;

/// A store with a few persisted commits of two modules.
pub(crate) fn source() -> Rig {
    let mut rig = Rig::small(RecordedFiles::new(true));
    rig.map("a");
    for number in 0..4 {
        rig.write();
        rig.commit();
        if number == 1 {
            rig.map("b");
        }
    }
    rig.persist();
    rig
}

/// Commits up to the head, as a stream in a file.
pub(crate) fn exported(rig: &Rig) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    let head = rig.oracle.now().head;
    rig.store.export(0, head, file.as_raw_fd()).unwrap();
    file.rewind().unwrap();
    file
}
