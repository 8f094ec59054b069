//! Recovery: makes a whole history from what the last owner left, also if that owner was killed or
//! the host lost power.

use super::inline_files;
use super::leftovers::{remove_leftovers, unsynced_files};
use super::reread::{TRIES, replay_beside_writer};
use super::whole::{Judged, keep_whole};
use crate::Result;
use crate::format::name;
use crate::journal::{self, JournalFate, Rebooted, Replay, Role};
use crate::layer::LayerFiles;
use crate::store::callbacks::Note;
use crate::store::options::LogLevel;
use crate::store::state::{Durability, History, InlineUsage, Unpersisted};

/// The state of a store after its recovery.
pub(super) struct Recovered {
    pub(super) history: History,
    pub(super) unpersisted: Unpersisted,
    /// What is durable already, and the log `commits`.
    pub(super) durability: Durability,
}

/// Recovers a store for its owner, for a reader beside an owner, or for a salvager, which takes
/// what is intact.
pub(super) fn recover(
    layers: &LayerFiles,
    read_only: bool,
    salvage: bool,
    note: Note<'_>,
) -> Result<Recovered> {
    let role = match (salvage, read_only) {
        (true, _) => Role::Salvager,
        (false, true) => return recover_beside_writer(layers, note),
        (false, false) => Role::Owner,
    };
    let replay = journal::replay(&*layers.files, &layers.store, role)?;
    recover_from(layers, replay, role, note)
}

/// Recovers for a reader while an owner may be writing. If the result is not whole, and the owner
/// has written to the logs since, the reader reads the logs again.
fn recover_beside_writer(layers: &LayerFiles, note: Note<'_>) -> Result<Recovered> {
    let mut tries = 0;
    loop {
        let (replay, damaged) = replay_beside_writer(layers)?;
        let (seen, found) = (replay.fingerprint(), replay.recent.len());
        let mut notes = Vec::new();
        let mut keep = |level, message| notes.push((level, message));
        let recovered = recover_from(layers, replay, Role::ReadOnly, &mut keep);
        let whole = recovered
            .as_ref()
            .is_ok_and(|recovered| recovered.unpersisted.events.len() == found);
        tries += 1;
        if whole
            || damaged
            || tries == TRIES
            || replay_beside_writer(layers).is_ok_and(|(now, _)| now.fingerprint() == seen)
        {
            for (level, message) in notes {
                note(level, message);
            }
            return recovered;
        }
    }
}

/// The steps of a recovery, in their order.
fn recover_from(
    layers: &LayerFiles,
    mut replay: Replay,
    role: Role,
    note: Note<'_>,
) -> Result<Recovered> {
    if let Some(damage) = &replay.damage {
        if role != Role::Salvager {
            return Err(damage.clone());
        }
        note(LogLevel::Warning, format!("salvaging: {damage}"));
    }
    // 1. The records of `commits` are durable.
    let mut history = History::default();
    for record in &replay.durable {
        history.follow(record, true, name::COMMITS, role == Role::Salvager)?;
    }
    // 2. Inline files whose own copies are in doubt are written out.
    let found = replay.recent.len();
    let doubtful = replay.rebooted != Rebooted::No || replay.suspect;
    let suspect = replay.suspect && replay.rebooted != Rebooted::Yes;
    let has_inline = role == Role::Owner && !replay.inline.is_empty();
    let write_out = has_inline && (doubtful || replay.journal_torn);
    if write_out {
        if !suspect {
            // If a sync fails below, the next open must not trust another sync.
            replay.set_syncing(&layers.store)?;
        }
        inline_files::write_out(layers, &replay.inline, suspect, note)?;
    }
    // 3. The journal's records count up to the first commit that is not whole.
    let judged = keep_whole(layers, &mut history, &mut replay, role, note)?;
    for record in std::mem::take(&mut replay.after_damage) {
        history.salvage(&record.event);
    }
    let mut recovered = Recovered::new(history, &replay, &judged, write_out);
    if role != Role::Owner {
        recovered.unpersisted.events = judged.pending;
        return Ok(recovered);
    }
    // 4. The logs become ready for appending.
    let dropped = judged.pending.len() < found || replay.journal_torn;
    let sync_failed = suspect;
    let suspect = suspect && !judged.pending.is_empty();
    let fate = JournalFate {
        keep: &judged.pending,
        // After a failed sync of the journal, the kernel takes pages for clean that it could not
        // write.
        rewrite: dropped || write_out || sync_failed,
        suspect,
    };
    let (commits, journal) = replay.into_logs(&*layers.files, layers.store, fate)?;
    recovered.durability.commits = commits;
    recovered.unpersisted.journal = Some(journal);
    // 5. Files that no commit needs are removed.
    let last = recovered.unpersisted.next_sequence - 1;
    recovered.unpersisted.unlinks =
        remove_leftovers(layers, &recovered.history, &judged.durable, last, note)?;
    // This comes after the removal, because it looks for the files that remain.
    recovered.unpersisted.files = unsynced_files(layers, &judged.pending, suspect)?;
    recovered.unpersisted.events = judged.pending;
    Ok(recovered)
}

impl Recovered {
    fn new(history: History, replay: &Replay, judged: &Judged, written_out: bool) -> Self {
        let checkpointed_upto = replay.durable.last().map_or(0, |r| r.sequence);
        let last = judged.pending.last();
        let last = last.map_or(checkpointed_upto, |event| event.sequence);
        Self {
            history,
            unpersisted: Unpersisted {
                journal: None,
                next_sequence: last + 1,
                events: Vec::new(),
                files: Vec::new(),
                unlinks: Vec::new(),
            },
            durability: Durability {
                commits: None,
                checkpointed_upto,
                inlined_upto: replay.durable_upto,
                durable_upto: replay.durable_upto,
                inline: if written_out {
                    InlineUsage::default()
                } else {
                    InlineUsage::of(&replay.inline)
                },
                hidden_names_synced: false,
            },
        }
    }
}
