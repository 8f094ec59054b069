//! Finds the libraries that cargo built together with a program.

use std::path::{Path, PathBuf};

/// A library that cargo built for `program`, a test or an example. The library lies beside the program or in `deps`.
/// Newer versions of cargo have a directory for each way to build a package; the library is then in the newest of these.
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
