//! Reading the logs while a writer may change them.

use crate::journal::{self, Replay, Role};
use crate::layer::LayerFiles;
use crate::{Error, Result};

/// The most times that a reader reads the logs.
pub(super) const TRIES: u32 = 20;
/// How many times in a row logs that look damaged must stay the same.
const SAME: u32 = 2;

/// Reads the logs. Logs that look damaged are read again until they stay the same. The result is
/// then `true` beside the logs: between its calls a writer leaves no torn record, therefore damage
/// that stays is not a write under way.
pub(super) fn replay_beside_writer(layers: &LayerFiles) -> Result<(Replay, bool)> {
    let (mut before, mut same, mut tries) = (None, 0, 0);
    loop {
        let replay = journal::replay(&*layers.files, &layers.store, Role::ReadOnly);
        tries += 1;
        let seen = match &replay {
            // The file became shorter while it was read, or it is damaged.
            Err(Error::Corrupt { .. }) => None,
            Ok(Replay {
                damage: Some(damage),
                ..
            }) => Some(damage.to_string()),
            _ => return replay.map(|replay| (replay, false)),
        };
        let seen = seen.zip(replay.as_ref().ok().map(Replay::fingerprint));
        same = if seen.is_some() && seen == before {
            same + 1
        } else {
            0
        };
        if same == SAME || tries == TRIES {
            return replay.map(|replay| (replay, same == SAME));
        }
        before = seen;
        std::thread::yield_now();
    }
}
