//! Runs of pages, and a set of pages that any thread can add to.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Result, try_vec};

/// Consecutive pages of a module, `count` of them from page number `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) start: u64,
    pub(crate) count: u64,
}

impl Run {
    pub(crate) fn end(self) -> u64 {
        self.start + self.count
    }
}

/// Adds a run behind the others, growing the last one where they touch. Runs come in ascending
/// order.
pub(crate) fn push_run(runs: &mut Vec<Run>, run: Run) {
    match runs.last_mut() {
        Some(last) if last.end() == run.start => last.count += run.count,
        _ => runs.push(run),
    }
}

/// The number of pages in runs.
pub(crate) fn pages_in(runs: &[Run]) -> u64 {
    runs.iter().map(|run| run.count).sum()
}

/// The pages that are in either of two sorted lists of runs.
pub(crate) fn union(a: &[Run], b: &[Run]) -> Vec<Run> {
    let mut out: Vec<Run> = Vec::with_capacity(a.len() + b.len());
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    loop {
        let next = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) if x.start <= y.start => a.next(),
            (_, Some(_)) => b.next(),
            (_, None) => a.next(),
        };
        let Some(run) = next else { return out };
        match out.last_mut() {
            Some(last) if run.start <= last.end() => {
                last.count = last.end().max(run.end()) - last.start;
            }
            _ => out.push(*run),
        }
    }
}

/// A set of pages: one bit a page, and a summary bit for each 64 of them, so that taking a few
/// pages out of a large module costs little. Adding needs no lock.
pub(crate) struct PageSet {
    pages: u64,
    words: Vec<AtomicU64>,
    summary: Vec<AtomicU64>,
}

impl PageSet {
    pub(crate) fn new(pages: u64) -> Result<Self> {
        let atomics = |count: u64| -> Result<Vec<AtomicU64>> {
            let mut vec = try_vec(count as usize, "the set of dirty pages")?;
            vec.resize_with(count as usize, || AtomicU64::new(0));
            Ok(vec)
        };
        let words = pages.div_ceil(64);
        Ok(Self {
            pages,
            words: atomics(words)?,
            summary: atomics(words.div_ceil(64))?,
        })
    }

    /// Adds a run, which must lie inside the module.
    pub(crate) fn add(&self, run: Run) {
        debug_assert!(run.end() <= self.pages);
        let end = run.end().min(self.pages);
        let mut page = run.start;
        while page < end {
            let word = page / 64;
            let stop = end.min((word + 1) * 64);
            let bits = ones(page % 64, stop - page);
            // The word before its summary bit: a taker that sees the bit finds the word, and one
            // that does not leaves both for the next.
            self.words[word as usize].fetch_or(bits, Ordering::Release);
            self.summary[word as usize / 64].fetch_or(1 << (word % 64), Ordering::Release);
            page = stop;
        }
    }

    /// Adds several runs.
    pub(crate) fn add_all(&self, runs: &[Run]) {
        for run in runs {
            self.add(*run);
        }
    }

    /// Takes everything out, as sorted runs.
    pub(crate) fn take(&self) -> Vec<Run> {
        let mut runs = Vec::new();
        for (index, summary) in self.summary.iter().enumerate() {
            if summary.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut words = summary.swap(0, Ordering::Acquire);
            while words != 0 {
                let word = index * 64 + words.trailing_zeros() as usize;
                words &= words - 1;
                push_bits(
                    &mut runs,
                    word as u64 * 64,
                    self.words[word].swap(0, Ordering::Acquire),
                );
            }
        }
        runs
    }
}

/// `count` one bits from bit `first`; `count` is 1 to 64 and they fit.
fn ones(first: u64, count: u64) -> u64 {
    (u64::MAX >> (64 - count)) << first
}

fn push_bits(runs: &mut Vec<Run>, base: u64, mut bits: u64) {
    while bits != 0 {
        let first = u64::from(bits.trailing_zeros());
        let count = u64::from((bits >> first).trailing_ones());
        push_run(
            runs,
            Run {
                start: base + first,
                count,
            },
        );
        bits &= !ones(first, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, count: u64) -> Run {
        Run { start, count }
    }

    #[test]
    fn a_set_gives_back_what_was_added_as_sorted_runs() {
        let set = PageSet::new(10_000).unwrap();
        for r in [
            run(9_999, 1),
            run(60, 10),
            run(0, 1),
            run(4_000, 300),
            run(65, 20),
        ] {
            set.add(r);
        }
        assert_eq!(
            set.take(),
            [run(0, 1), run(60, 25), run(4_000, 300), run(9_999, 1)]
        );
        assert_eq!(set.take(), []);
    }

    #[test]
    fn whole_words_and_their_borders() {
        let set = PageSet::new(4096).unwrap();
        set.add(run(0, 4096));
        assert_eq!(set.take(), [run(0, 4096)]);
        set.add(run(64, 64));
        set.add(run(63, 1));
        assert_eq!(set.take(), [run(63, 65)]);
    }

    #[test]
    fn unions_merge_what_overlaps_or_touches() {
        let a = [run(0, 2), run(10, 5), run(30, 1)];
        let b = [run(2, 1), run(12, 10), run(40, 1)];
        assert_eq!(
            union(&a, &b),
            [run(0, 3), run(10, 12), run(30, 1), run(40, 1)]
        );
        assert_eq!(union(&[], &b), b);
    }
}
