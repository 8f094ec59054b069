//! Discarding memory that the guest does not need any more. It reads as zeros, and its memory goes
//! back to the host.

use super::mapped::{MapMode, MappedModule};
use crate::dirty::{MemoryKind, Span};
use crate::page_set::Run;
use crate::sys::host;
use crate::sys::memfd;
use crate::sys::memory::Backing;
use crate::{Error, Result};

/// The most parts of one module. Each part is a mapping of its own, and a process can have 65,530
/// mappings. A module with this many parts gets no more: discarded pages of an image are then
/// overwritten with zeros.
const MAX_PARTS: usize = 1024;

impl MappedModule {
    /// Makes whole pages read as zeros, gives their memory back to the host, and marks them dirty.
    pub(crate) fn discard(&self, offset: u64, length: u64) -> Result<()> {
        let Some(run) = self.whole_pages_of(offset, length)? else {
            return Ok(());
        };
        // No scan may run while parts are mapped again.
        let mut spans = self.spans.write();
        if spans.is_empty() {
            return Err(Error::Handle {
                argument: "module",
                why: "it was unmapped earlier",
            });
        }
        let outcome = self.discard_parts(&mut spans, run);
        // The pages become dirty after the discard. If they became dirty first, a capture in
        // another thread could take the dirty bits together with the old bytes.
        self.dirty.add(run);
        outcome
    }

    fn discard_parts(&self, spans: &mut Vec<Span>, run: Run) -> Result<()> {
        let page = host::page_size();
        let mut next = run.start;
        while next < run.end() {
            spans.try_reserve(2).map_err(|_| Error::NoMemory {
                what: "a module's parts".into(),
            })?;
            let at = spans.partition_point(|span| span.pages.end() <= next);
            let Some(span) = spans.get(at).copied() else {
                return Err(Error::Internal {
                    what: "a page that is in no part of its module".into(),
                });
            };
            let part = Run {
                start: next,
                count: span.pages.end().min(run.end()) - next,
            };
            let (offset, length) = (part.start * page, part.count * page);
            let given_back = match (span.kind, self.descriptor.raw()) {
                (MemoryKind::Anonymous | MemoryKind::Hole, _) => {
                    self.memory.drop_pages(offset, length).is_ok()
                }
                (MemoryKind::Shared, Some((fd, from))) => {
                    // The disk blocks stay reserved, because the guest may use the memory again.
                    let keep = self.mode == MapMode::Shared;
                    memfd::give_back(fd, from + offset, length, keep).is_ok()
                }
                (MemoryKind::Shared, None) => self.memory.remove_pages(offset, length).is_ok(),
                (MemoryKind::Image, _) if spans.len() < MAX_PARTS => {
                    self.memory.map(offset, length, Backing::Anonymous)?;
                    let anonymous = Span {
                        pages: part,
                        kind: MemoryKind::Anonymous,
                    };
                    replace_piece(spans, at, anonymous);
                    self.tracking.begin(&self.memory, anonymous)?;
                    true
                }
                (MemoryKind::Image | MemoryKind::PrivateFile, _) => false,
            };
            if !given_back {
                // The memory is locked, the file system has no holes, or the old bytes would come
                // back from a file.
                self.memory.zero(offset, length);
            }
            next = part.end();
        }
        Ok(())
    }
}

/// Replaces a piece of the part at index `at` by `part`. `spans` has capacity for two more parts.
fn replace_piece(spans: &mut Vec<Span>, at: usize, part: Span) {
    let old = spans[at];
    let before = Run {
        start: old.pages.start,
        count: part.pages.start - old.pages.start,
    };
    let behind = Run {
        start: part.pages.end(),
        count: old.pages.end() - part.pages.end(),
    };
    let pieces = [
        (before, old.kind),
        (part.pages, part.kind),
        (behind, old.kind),
    ];
    let pieces = pieces.into_iter().filter(|(pages, _)| pages.count > 0);
    spans.splice(at..=at, pieces.map(|(pages, kind)| Span { pages, kind }));
    // Neighbours of the same kind are joined.
    spans.dedup_by(|next, last| {
        let same = next.kind == last.kind;
        if same {
            last.pages.count += next.pages.count;
        }
        same
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u64, count: u64, kind: MemoryKind) -> Span {
        Span {
            pages: Run { start, count },
            kind,
        }
    }

    #[test]
    fn parts_are_cut_and_joined() {
        let list = |spans: &[Span]| -> Vec<(u64, u64, MemoryKind)> {
            let of = |span: &Span| (span.pages.start, span.pages.count, span.kind);
            spans.iter().map(of).collect()
        };
        let mut spans = vec![
            span(0, 10, MemoryKind::Anonymous),
            span(10, 20, MemoryKind::Image),
        ];
        replace_piece(&mut spans, 1, span(15, 5, MemoryKind::Anonymous));
        let wanted = [
            (0, 10, MemoryKind::Anonymous),
            (10, 5, MemoryKind::Image),
            (15, 5, MemoryKind::Anonymous),
            (20, 10, MemoryKind::Image),
        ];
        assert_eq!(list(&spans), wanted);
        replace_piece(&mut spans, 1, span(10, 5, MemoryKind::Anonymous));
        assert_eq!(
            list(&spans),
            [(0, 20, MemoryKind::Anonymous), (20, 10, MemoryKind::Image)]
        );
        replace_piece(&mut spans, 1, span(20, 10, MemoryKind::Anonymous));
        assert_eq!(list(&spans), [(0, 30, MemoryKind::Anonymous)]);
    }
}
