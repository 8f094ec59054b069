//! Counting the operations of recorded files.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::recorded::RecordedFiles;

/// How many operations of a kind there were since the last call of this function.
pub(crate) struct Counted(Arc<AtomicU64>);

impl Counted {
    pub(crate) fn of(files: &RecordedFiles, kind: &'static str) -> Self {
        let count = Arc::new(AtomicU64::new(0));
        let counting = count.clone();
        files.set_watch(Some(Box::new(move |what| {
            counting.fetch_add(u64::from(what == kind), Ordering::Relaxed);
        })));
        Self(count)
    }

    pub(crate) fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}
