//! Calls that fail and are not repeated: later calls, and a crash after them, lose nothing.

use super::crashed::{Crash, Crashes};
use super::recorded::{Fuse, RecordedFiles, Short};
use super::steps::{Player, STEPS, Step};
use super::{Random, check_reopened, long, open, seed};
use crate::sys::host::repeatable;

/// Plays one random history. Returns how many crash states were tried and how many calls failed.
fn live(seed: u64) -> (u64, u64) {
    repeatable::begin(1);
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    random.next();
    let empty = RecordedFiles::new(random.below(2) == 0);
    let mut player = Player::new(empty.copy());
    player.step(Step::Map);
    let (mut states, mut failed) = (0, 0);
    let mut story = Vec::new();
    for _ in 0..4 + random.below(8) {
        let step = STEPS[random.below(STEPS.len() as u64) as usize];
        if !player.allows(step) {
            continue;
        }
        let mut fuse = Fuse::default();
        if random.below(2) == 0 {
            player.rig.patience = 0;
            fuse.at = 1 + random.below(40);
            fuse.times = 1 + random.below(3);
            fuse.errno = [libc::EIO, libc::ENOSPC, libc::EMFILE][random.below(3) as usize];
            fuse.short = [Short::Half, Short::Nothing][random.below(2) as usize];
        }
        story.push((step, fuse.at, fuse.times));
        player.rig.files.set_fuse(fuse);
        player.step(step);
        player.rig.files.set_fuse(Fuse::default());
        failed += u64::from(player.rig.failure.take().is_some());
        player.rig.patience = 5;
        if !player.closed && player.rig.store.stats().unwrap().poisoned {
            player.rig.reopen();
        }
    }
    let rig = &player.rig;
    let count = rig.files.recorded();
    for crash in [
        Crash::PowerCut,
        Crash::Evicted,
        Crash::PowerCut,
        Crash::Kill,
    ]
    .repeat(5)
    {
        let percent = match crash {
            Crash::Kill => 100,
            _ => [0, 10, 30, 50, 70, 90, 100][random.below(7) as usize],
        };
        let what = || format!("seed {seed}, {story:?}: {crash:?} {percent}");
        let crashes = Crashes::new(&rig.files, &empty.disk(), count, crash);
        let store = open(&crashes.by_chance(percent, &mut random), &what);
        check_reopened(&store, &rig.oracle, rig.allowed(count, crash), &what);
        states += 1;
    }
    (states, failed)
}

#[test]
fn promise_3_a_call_that_failed_and_was_given_up_spoils_nothing_that_comes_after() {
    let (mut histories, mut states, mut failed) = (0, 0, 0);
    for number in 0..3000 * long() {
        let (tried, calls) = live(seed() + number);
        histories += 1;
        states += tried;
        failed += calls;
    }
    println!(
        "seed {}: {histories} histories, {failed} calls failed and were not repeated: {states} crash states, nothing lost",
        seed()
    );
    assert!(failed > histories / 2 && states > histories * 10);
}
