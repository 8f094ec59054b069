//! What the fuzzers of `fuzz/` run, the inputs that they begin with, and the replay of all that they keep. An
//! input is bytes; what they mean is said where they are read. Each must end, and no assertion may fail.

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

/// A thing to be fuzzed.
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
