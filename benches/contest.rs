//! How a contest runs: contestants in random order, round after round. Their times are recorded by name.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// Xorshift: the same seed repeats the same contest.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 11) as usize % limit
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }

    /// `count` different pages of `pages`, spread over all of them, in ascending order.
    pub fn scattered(&mut self, count: usize, pages: usize) -> Vec<usize> {
        let stride = pages / count;
        (0..count)
            .map(|i| i * stride + self.below(stride))
            .collect()
    }
}

/// The measured values of one contestant, in microseconds unless its name says otherwise.
#[derive(Clone, Default)]
pub struct Times(Vec<f64>);

impl Times {
    pub fn of(value: f64) -> Self {
        Self(vec![value])
    }

    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn at(&self, quantile: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            count => sorted[((count - 1) as f64 * quantile).round() as usize],
        }
    }

    pub fn median(&self) -> f64 {
        self.at(0.5)
    }
}

/// The times of a contest by contestant.
#[derive(Default)]
pub struct Sheet {
    times: BTreeMap<&'static str, Times>,
    warming_up: bool,
}

impl Sheet {
    pub fn add(&mut self, name: &'static str, value: f64) {
        if !self.warming_up {
            self.times.entry(name).or_default().push(value);
        }
    }

    /// Times one call.
    pub fn time<R>(&mut self, name: &'static str, call: impl FnOnce() -> R) -> R {
        let begun = begin();
        let result = call();
        self.add(name, begun.microseconds());
        result
    }

    pub fn get(&self, name: &str) -> Times {
        self.times.get(name).cloned().unwrap_or_default()
    }

    pub fn has(&self, name: &str) -> bool {
        self.times.contains_key(name)
    }
}

/// Times are processor time of this thread, not wall-clock time.
pub static PROCESSOR_TIME: AtomicBool = AtomicBool::new(false);

/// A moment from which to count.
pub struct Begun(u64);

pub fn begin() -> Begun {
    Begun(now())
}

impl Begun {
    pub fn microseconds(&self) -> f64 {
        (now() - self.0) as f64 / 1000.0
    }
}

fn now() -> u64 {
    let clock = if PROCESSOR_TIME.load(Ordering::Relaxed) {
        libc::CLOCK_THREAD_CPUTIME_ID
    } else {
        libc::CLOCK_MONOTONIC
    };
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the struct is ours, and Linux has both clocks.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A contestant: prepares, and times the part that counts.
pub type Player<'a> = Box<dyn FnMut(&mut Sheet, &mut Rng) + 'a>;

/// Lets every contestant play once a round, in a new random order each time. The first rounds are not
/// counted.
pub fn hold(rounds: usize, warm_up: usize, rng: &mut Rng, mut players: Vec<Player<'_>>) -> Sheet {
    let mut sheet = Sheet::default();
    for round in 0..warm_up + rounds {
        sheet.warming_up = round < warm_up;
        let mut order: Vec<usize> = (0..players.len()).collect();
        rng.shuffle(&mut order);
        for player in order {
            players[player](&mut sheet, rng);
        }
    }
    sheet
}
