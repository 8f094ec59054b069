//! What the fuzzers of `fuzz/` run, their first inputs, and the replay of all saved inputs. An input is a list of
//! bytes. The code that reads an input says what it means. Each run must end, and no assertion may fail.

mod decoders;
pub(crate) mod directory;
mod examine;
pub(crate) mod places;
pub(crate) mod seal;
mod sequence;
mod stream;

#[cfg(test)]
mod replay;
#[cfg(test)]
mod seeds;

/// A target of a fuzzer.
#[derive(Clone, Copy)]
pub(crate) struct FuzzTarget {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&[u8]),
}

pub(crate) const TARGETS: [FuzzTarget; 4] = [
    FuzzTarget {
        name: "decoders",
        run: decoders::run,
    },
    FuzzTarget {
        name: "directory",
        run: directory::run,
    },
    FuzzTarget {
        name: "stream",
        run: stream::run,
    },
    FuzzTarget {
        name: "sequence",
        run: sequence::run,
    },
];
