//! Module commits whose pages show which commit wrote them.

use std::sync::Arc;

use super::recorded::RecordedFiles;
use super::{CommitOptions, Store, map_options, rig};
use crate::layer::LayerFiles;
use crate::sys::host;

/// The byte that fills a page of the commit that wrote it.
pub(crate) fn byte(commit: u64, page: u64) -> u8 {
    1 + ((commit * 16 + page) % 255) as u8
}

/// The files of a store whose commits wrote these pages of a module "a". Nothing is in a cache.
pub(crate) fn written(pages: u64, commits: &[&[u64]]) -> (Arc<RecordedFiles>, LayerFiles) {
    let files = RecordedFiles::new(true);
    let store = Store::open_files(files.clone(), "test", rig::open_options()).unwrap();
    let size = host::page_size();
    let module = store.map_module("a", pages * size, &map_options()).unwrap();
    for (number, wrote) in (1..).zip(commits) {
        for page in *wrote {
            let bytes = vec![byte(number, *page); size as usize];
            module.mapped().memory.write(page * size, &bytes);
            module.mark_dirty(page * size, size).unwrap();
        }
        assert_eq!(store.commit(&CommitOptions::default()).unwrap(), number);
    }
    store.close().unwrap();
    let files = files.copy();
    let known = store.0.layers.store;
    (files.clone(), LayerFiles::new(files, known, size))
}
