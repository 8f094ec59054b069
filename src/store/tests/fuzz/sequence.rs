//! Sequences of calls with failing operations and crashes between them, compared with the model.

use super::super::crashed::{Crash, Crashes};
use super::super::faults::{KINDS, check_poisoned};
use super::super::recorded::{Fuse, RecordedFiles};
use super::super::steps::{Player, Step};
use super::super::{Random, check_reopened, open};
use crate::VerifyOptions;
use crate::format::bytes::Reader;
use crate::sys::host::{page_size, repeatable};

/// The most calls in a sequence.
const CALLS: usize = 40;

/// The first byte chooses the host. Then calls follow, each a byte and its arguments.
pub(crate) fn run(input: &[u8]) {
    let Some((host, calls)) = input.split_first() else {
        return;
    };
    repeatable::begin(1);
    let empty = RecordedFiles::new(host & 1 == 0);
    let mut sequence = Sequence {
        player: Player::new(empty.copy()),
        empty: &empty,
        r: Reader(calls),
    };
    for _ in 0..CALLS {
        if sequence.next().is_none() {
            break;
        }
    }
    sequence.check_all();
}

struct Sequence<'a> {
    player: Player,
    empty: &'a RecordedFiles,
    r: Reader<'a>,
}

impl Sequence<'_> {
    fn byte(&mut self) -> Option<u64> {
        Some(u64::from(self.r.take(1)?[0]))
    }

    fn next(&mut self) -> Option<()> {
        let call = self.byte()?;
        match call % 16 {
            // The next call has an operation that fails.
            12 | 13 => {
                let (at, kind, lasting) = (self.byte()?, self.byte()? as usize, self.byte()?);
                let (errno, short) = KINDS[kind % KINDS.len()];
                let fuse = Fuse {
                    at: at % 64 + 1,
                    times: if lasting & 1 == 0 { 1 } else { u64::MAX },
                    alike: lasting & 2 != 0,
                    errno,
                    short,
                    ..Fuse::default()
                };
                let call = self.byte()?;
                self.with_fault(fuse, call)
            }
            14 => self.crash(),
            15 => {
                self.check_all();
                Some(())
            }
            call => self.call(call),
        }
    }

    /// One call of the library.
    fn call(&mut self, call: u64) -> Option<()> {
        let argument = self.byte()?;
        if self.player.closed {
            self.player.step(Step::Reopen);
            if self.player.closed {
                return Some(());
            }
        }
        let maps = self.player.allows(Step::Map);
        let rig = &mut self.player.rig;
        let chosen = |from: &[u64]| {
            let number = argument.checked_rem(from.len() as u64)?;
            Some(from[number as usize])
        };
        match call {
            0 if maps => self.player.step(Step::Map),
            0 => {}
            1 => {
                for id in ["a", "b"] {
                    if rig.has(id) && argument & 1 == u64::from(id == "b") {
                        let at = (argument >> 1 & 1) * page_size();
                        let fill = (argument >> 2) as u8;
                        let bytes =
                            vec![fill; 1 + (page_size() as usize - 1) * usize::from(fill % 2 == 0)];
                        rig.put(id, at, &bytes);
                    }
                }
            }
            2 => rig.commit(),
            3 => rig.persist(),
            4 => {
                if let Some(commit) = chosen(&rig.oracle.now().commits.clone()) {
                    rig.restore(commit);
                }
            }
            5 => {
                if let Some(commit) = chosen(&rig.deletable()) {
                    rig.delete(commit);
                }
            }
            6 => rig.compact(
                (argument % 4) as usize,
                [0, 1, 100, 400][argument as usize / 64],
            ),
            7 => self.player.step(Step::Close),
            8 => self.player.step(Step::Reopen),
            9 => rig.capture(argument & 1 != 0),
            10 => rig.precopy(),
            _ => rig.write(),
        }
        Some(())
    }

    /// Makes a call in which an operation fails. Afterwards the cause is gone.
    fn with_fault(&mut self, fuse: Fuse, call: u64) -> Option<()> {
        self.player.rig.files.set_fuse(fuse);
        self.player.rig.patience = 0;
        let done = self.call(call % 12);
        let rig = &mut self.player.rig;
        let fuse = rig.files.set_fuse(Fuse::default());
        rig.patience = 1;
        rig.failure = None;
        if self.player.closed {
            if call % 12 != 7 {
                assert!(
                    rig.open(),
                    "the store does not open after the cause is gone"
                );
                self.player.closed = false;
            }
        } else {
            let poisoned = rig.store.stats().unwrap().poisoned;
            assert_eq!(
                poisoned, fuse.sync_failed,
                "whether it is poisoned, and whether a sync failed"
            );
            if poisoned {
                check_poisoned(rig, &|| "after a failed sync".into());
                rig.reopen();
            }
        }
        rig_is_whole(&mut self.player);
        done
    }

    /// Crashes here, and checks what the crash leaves.
    fn crash(&mut self) -> Option<()> {
        let (kind, percent, seed) = (self.byte()?, self.byte()? % 101, self.byte()?);
        let crash = [Crash::Kill, Crash::PowerCut, Crash::Evicted][kind as usize % 3];
        let rig = &self.player.rig;
        let last = rig.files.recorded();
        // After the last operation, or a few operations earlier.
        let count = last.saturating_sub(kind as usize / 8).max(rig.made());
        let crashes = Crashes::new(&rig.files, &self.empty.disk(), count, crash);
        if crash == Crash::Evicted && crashes.uncertain == 0 {
            return Some(());
        }
        let left = crashes.by_chance(percent, &mut Random(seed + 1));
        let what = || format!("{crash:?} {percent} {seed} after {count} of {last} operations");
        let store = open(&left, &what);
        let allowed = rig.allowed(count, crash);
        check_reopened(&store, &rig.oracle.after(crash), allowed, &what);
        Some(())
    }

    /// Every commit must be read as the model has it, and memory must be as in the model.
    fn check_all(&mut self) {
        if self.player.closed {
            assert!(self.player.rig.open());
            self.player.closed = false;
        }
        rig_is_whole(&mut self.player);
        let rig = &self.player.rig;
        rig.store.verify(&VerifyOptions::default(), None).unwrap();
        assert_eq!(
            rig.store.audit().unwrap(),
            0,
            "writes that were not reported"
        );
    }
}

fn rig_is_whole(player: &mut Player) {
    if player.closed {
        return;
    }
    let rig = &player.rig;
    for number in &rig.oracle.now().commits {
        for (id, wanted) in &*rig.oracle.bytes[number] {
            let mut bytes = vec![1; wanted.len()];
            rig.store.read(*number, id, 0, &mut bytes).unwrap();
            assert!(
                bytes == *wanted,
                "WRONG BYTES: module {id} of commit {number}"
            );
        }
    }
}
