//! Runs of pages, and a set of pages to which every thread can add.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};

use crate::error::{Error, Result};

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

/// Appends a run to a sorted list. A run that touches the last run is joined to it. Runs are
/// appended in ascending order.
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

/// The pages that are in at least one of two sorted lists.
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

/// The pages of `a` that are not in `b`. Both lists are sorted.
pub(crate) fn without(a: &[Run], b: &[Run]) -> Vec<Run> {
    let mut rest = Vec::new();
    split(a, b, |run, inside| {
        if !inside {
            push_run(&mut rest, run);
        }
    });
    rest
}

/// Cuts the runs of `a` where the runs of `b` begin and end. Calls `each` with every part and
/// whether the part is in `b`. Both lists are sorted.
pub(crate) fn split(a: &[Run], b: &[Run], mut each: impl FnMut(Run, bool)) {
    let mut at = 0;
    for run in a {
        let mut start = run.start;
        while start < run.end() {
            while at < b.len() && b[at].end() <= start {
                at += 1;
            }
            let (end, inside) = match b.get(at) {
                Some(other) if other.start <= start => (other.end(), true),
                Some(other) => (other.start, false),
                None => (run.end(), false),
            };
            let end = end.min(run.end());
            each(
                Run {
                    start,
                    count: end - start,
                },
                inside,
            );
            start = end;
        }
    }
}

/// A set of pages, with one bit for each page and one summary bit for each 64 pages. The summary
/// makes it cheap to take a few pages out of a large set. Adding waits only while the set grows.
pub(crate) struct PageSet(RwLock<Bits>);

struct Bits {
    pages: u64,
    words: Vec<AtomicU64>,
    summary: Vec<AtomicU64>,
}

impl PageSet {
    pub(crate) fn new(pages: u64) -> Result<Self> {
        let mut bits = Bits {
            pages: 0,
            words: Vec::new(),
            summary: Vec::new(),
        };
        bits.grow(pages)?;
        Ok(Self(RwLock::new(bits)))
    }

    /// Makes the set large enough for `pages` pages. The new pages are not in the set.
    pub(crate) fn grow(&self, pages: u64) -> Result<()> {
        self.0.write().grow(pages)
    }

    /// Locks the set for adding. Many runs can be added under one lock.
    pub(crate) fn adding(&self) -> Adding<'_> {
        Adding(self.0.read())
    }

    /// Adds a run. The run must lie inside the module.
    pub(crate) fn add(&self, run: Run) {
        self.adding().add(run);
    }

    /// Adds several runs.
    pub(crate) fn add_all(&self, runs: &[Run]) {
        let adding = self.adding();
        let mut gathering = adding.gathering();
        for run in runs {
            gathering.add(*run);
        }
    }

    /// Removes all pages and appends them, as sorted runs, to `runs`, which must be empty.
    pub(crate) fn take_into(&self, runs: &mut Vec<Run>) {
        let bits = self.0.read();
        for (index, summary) in bits.summary.iter().enumerate() {
            if summary.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut words = summary.swap(0, Ordering::Acquire);
            while words != 0 {
                let word = index * 64 + words.trailing_zeros() as usize;
                words &= words - 1;
                let taken = bits.words[word].swap(0, Ordering::Acquire);
                push_bits(runs, word as u64 * 64, taken);
            }
        }
    }

    /// Removes all pages and returns them as sorted runs.
    pub(crate) fn take(&self) -> Vec<Run> {
        let mut runs = Vec::new();
        self.take_into(&mut runs);
        runs
    }

    /// The pages of the set, as sorted runs. The pages stay in the set.
    pub(crate) fn runs(&self) -> Vec<Run> {
        let bits = self.0.read();
        let mut runs = Vec::new();
        for (index, word) in bits.words.iter().enumerate() {
            push_bits(&mut runs, index as u64 * 64, word.load(Ordering::Acquire));
        }
        runs
    }

    /// The number of pages in the set.
    pub(crate) fn count(&self) -> u64 {
        let bits = self.0.read();
        let ones = |word: &AtomicU64| u64::from(word.load(Ordering::Relaxed).count_ones());
        bits.words.iter().map(ones).sum()
    }
}

impl Bits {
    fn grow(&mut self, pages: u64) -> Result<()> {
        let grow = |vec: &mut Vec<AtomicU64>, count: u64| -> Result<()> {
            let more = (count as usize).saturating_sub(vec.len());
            vec.try_reserve_exact(more).map_err(|_| Error::NoMemory {
                what: "the set of dirty pages".into(),
            })?;
            vec.resize_with(vec.len() + more, || AtomicU64::new(0));
            Ok(())
        };
        let words = pages.div_ceil(64);
        grow(&mut self.words, words)?;
        grow(&mut self.summary, words.div_ceil(64))?;
        self.pages = self.pages.max(pages);
        Ok(())
    }

    /// Adds the pages of one word.
    fn add_word(&self, word: u64, bits: u64) {
        // The word is set before its summary bit. A thread that takes pages and sees the summary
        // bit also finds the word. A thread that does not see the summary bit leaves both for the
        // next call.
        self.words[word as usize].fetch_or(bits, Ordering::Release);
        self.summary[word as usize / 64].fetch_or(1 << (word % 64), Ordering::Release);
    }
}

/// See [`PageSet::adding`].
pub(crate) struct Adding<'a>(RwLockReadGuard<'a, Bits>);

impl Adding<'_> {
    /// Adds a run. The run must lie inside the module.
    pub(crate) fn add(&self, run: Run) {
        self.gathering().add(run);
    }

    /// Adds many runs that mostly ascend. The pages of one word are added together.
    pub(crate) fn gathering(&self) -> Gathering<'_> {
        Gathering {
            bits: &self.0,
            word: 0,
            gathered: 0,
        }
    }

    /// Adds the pages whose bits are set. The lowest bit of the first word is page `start`, and
    /// `count` bits are used. Those pages must lie inside the module.
    pub(crate) fn add_bitmap(&self, start: u64, count: u64, bitmap: impl Iterator<Item = u64>) {
        let end = (start + count).min(self.0.pages);
        for (base, word) in (start..end).step_by(64).zip(bitmap) {
            let word = word & ones(0, (end - base).min(64));
            if word == 0 {
                continue;
            }
            let shift = base % 64;
            self.0.add_word(base / 64, word << shift);
            if shift != 0 && word >> (64 - shift) != 0 {
                self.0.add_word(base / 64 + 1, word >> (64 - shift));
            }
        }
    }
}

/// See [`Adding::gathering`]. Dropping the value adds the last pages to the set.
pub(crate) struct Gathering<'a> {
    bits: &'a Bits,
    word: u64,
    gathered: u64,
}

impl Gathering<'_> {
    /// Adds a run. The run must lie inside the module.
    pub(crate) fn add(&mut self, run: Run) {
        debug_assert!(run.end() <= self.bits.pages);
        let end = run.end().min(self.bits.pages);
        let mut page = run.start;
        while page < end {
            let word = page / 64;
            let stop = end.min((word + 1) * 64);
            if word != self.word {
                self.flush();
                self.word = word;
            }
            self.gathered |= ones(page % 64, stop - page);
            page = stop;
        }
    }

    fn flush(&mut self) {
        if self.gathered != 0 {
            self.bits.add_word(self.word, self.gathered);
            self.gathered = 0;
        }
    }
}

impl Drop for Gathering<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// A word with `count` one bits from bit `first`. `count` is 1 to 64, and the bits fit into the
/// word.
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

    #[test]
    fn without_removes_the_pages_of_the_second_list() {
        let a = [run(0, 10), run(20, 10), run(40, 1)];
        assert_eq!(without(&a, &[]), a);
        assert_eq!(without(&a, &[run(0, 50)]), []);
        let b = [run(2, 2), run(8, 15), run(29, 5)];
        assert_eq!(
            without(&a, &b),
            [run(0, 2), run(4, 4), run(23, 6), run(40, 1)]
        );
        assert_eq!(
            union(&without(&a, &b), &[run(2, 2)]),
            [run(0, 8), run(23, 6), run(40, 1)]
        );
    }

    #[test]
    fn bitmaps_begin_at_any_page_and_end_after_their_count() {
        for start in [0, 1, 63, 64, 100] {
            let set = PageSet::new(300).unwrap();
            // The last word has bits beyond the count.
            let words = [1 | 1 << 63, 0b110, u64::MAX];
            set.adding().add_bitmap(start, 131, words.into_iter());
            let wanted = [
                run(start, 1),
                run(start + 63, 1),
                run(start + 65, 2),
                run(start + 128, 3),
            ];
            assert_eq!(set.runs(), wanted, "from page {start}");
            assert_eq!(set.count(), 7);
            assert_eq!(set.take(), wanted);
            assert_eq!(set.count(), 0);
        }
    }

    #[test]
    fn a_set_that_grows_keeps_what_it_has() {
        let set = PageSet::new(70).unwrap();
        set.add(run(68, 2));
        set.grow(5000).unwrap();
        set.add(run(70, 4930));
        assert_eq!(set.take(), [run(68, 4932)]);
    }
}
