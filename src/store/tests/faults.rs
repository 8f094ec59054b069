//! Promise 3: every file operation fails in its turn, a few times in a row; the call says so, nothing is half
//! done, and when it is made again nothing is missing.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::recorded::{Crash, Fuse, RecordedFiles};
use super::{OpenOptions, Random, Rig, Store, check_reopened, long};

/// One history with one fault. Returns the operations it took and the calls that failed.
fn live_with(seed: u64, at: u64, times: u64, prune: bool) -> (u64, u64) {
    let mut random = Random(seed);
    let empty = RecordedFiles::new(true);
    let mut rig = Rig::new(empty.copy());
    rig.files.set_fuse(Fuse {
        count: 0,
        at,
        times,
    });
    if prune {
        rig.grow_and_prune(&mut random, 4, seed.is_multiple_of(4));
    } else {
        rig.live(&mut random, 10);
    }
    rig.persist();
    rig.scribble(&mut random);
    rig.commit();
    let fuse = rig.files.set_fuse(Fuse::default());
    for number in rig.oracle.committed.clone() {
        rig.restore(number);
    }
    rig.store
        .verify(&crate::VerifyOptions::default(), None)
        .unwrap();
    for (crash, least) in [
        (Crash::Kill, rig.oracle.steps()),
        (Crash::PowerCut(50), rig.oracle.persisted),
    ] {
        let left = rig
            .files
            .crashed(&empty, rig.files.recorded(), crash, &mut random);
        let store = Store::open_files(left, "test", OpenOptions::default())
            .unwrap_or_else(|error| panic!("{crash:?}: {error}"));
        check_reopened(&store, &rig.oracle, least, &format!("{crash:?}"));
    }
    (fuse.count, rig.failures)
}

#[test]
fn promise_3_every_operation_fails_and_nothing_is_lost() {
    let (mut runs, mut failures) = (0, 0);
    for seed in 11..11 + 5 * long() {
        let prune = seed % 2 == 0;
        let (operations, failed) = live_with(seed, 0, 0, prune);
        assert_eq!(failed, 0, "without a fault");
        for times in [1, 3] {
            for at in 1..=operations {
                let run = AssertUnwindSafe(|| live_with(seed, at, times, prune));
                let Ok((_, failed)) = catch_unwind(run) else {
                    panic!("seed {seed}: operation {at} fails {times} times");
                };
                failures += failed;
                runs += 1;
            }
        }
    }
    assert!(
        failures > runs / 2,
        "only {failures} calls failed in {runs} runs"
    );
    println!(
        "{runs} runs with a fault each, {failures} calls failed and were made again: nothing lost"
    );
}
