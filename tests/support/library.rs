//! Where cargo has put the libraries that it built together with a program.

use std::path::{Path, PathBuf};

/// A library that was built for a test or example, which is `program`: beside it or in `deps`; where cargo has a
/// directory for each way in which it has built a package, as it will by default, in the newest of them.
pub(crate) fn built(program: &Path, name: &str) -> Option<PathBuf> {
    let directory = program.parent()?;
    let beside = [".", "../deps", ".."].map(|place| directory.join(place).join(name));
    if let Some(library) = beside.iter().find_map(|file| file.canonicalize().ok()) {
        return Some(library);
    }
    ["../../../vmstore", "../build/vmstore"]
        .iter()
        .filter_map(|place| directory.join(place).read_dir().ok())
        .flatten()
        .filter_map(|entry| {
            entry
                .ok()?
                .path()
                .join("out")
                .join(name)
                .canonicalize()
                .ok()
        })
        .max_by_key(|library| library.metadata().and_then(|data| data.modified()).ok())
}
