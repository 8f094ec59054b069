//! Reading the logs while a writer may be changing them.

use crate::journal::{self, Replay, Role};
use crate::layer::LayerFiles;
use crate::{Error, Result};

/// How often a reader reads again while the logs change, and how often while they stay the same.
pub(super) const TRIES: u32 = 20;
const SAME: u32 = 2;

/// Reads the logs. What looks torn is read again until it stays the same. The result then also says `true`:
/// a writer leaves nothing torn between its calls, so what stays the same is not a write under way.
pub(super) fn replay_beside_writer(layers: &LayerFiles) -> Result<(Replay, bool)> {
    let (mut before, mut same, mut tries) = (None, 0, 0);
    loop {
        let replay = journal::replay(&*layers.files, &layers.store, Role::ReadOnly);
        tries += 1;
        let seen = match &replay {
            // A file that became shorter while it was read, or damage.
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
