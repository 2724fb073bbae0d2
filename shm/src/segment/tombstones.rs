//! Tombstones: which results expired before anybody had acknowledged them, so that whoever asks later is told that.
//!
//! They lie beside the history of attempts, in chunks of their own (places 120 to 123): 1,024 entries each, one chunk for every 64 blocks
//! of the arena, at most four. A new one takes the place of the oldest. Where the next goes stands in the control region (`reserved`, byte 2016).
//!
//! ```text
//! entry of 16 bytes
//!      0  task   id, written last; 0 = the entry is free
//!      8  what   milliseconds since 1970 59 | phase in which it had ended 5
//! ```
//!
//! Invariants: those of `history.rs`. Tested in `segment/tests/history.rs`.

use crate::id::TaskId;
use crate::segment::history::{CHUNK_BYTES, PLACES, PLACES_AT, PLACES_OF_ALL};
use crate::segment::{Segment, SegmentView};
use crate::sync::{AtomicU64, Ordering, fence};
use crate::task::state::Phase;
use crate::task::writer::PlmRight;

const ENTRIES: usize = CHUNK_BYTES / 16;
/// LIMIT: of the arena, one block in so many.
const BLOCKS_PER_CHUNK: u32 = 64;
/// LIMIT: no chunk in an arena of fewer blocks.
const BLOCKS_MIN: u32 = 8;
/// The reserved word that counts tombstones.
const COUNT_AT: usize = PLACES_AT + PLACES_OF_ALL;

/// What is left of a task whose result has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tombstone {
    /// How it had ended.
    pub phase: Phase,
    /// When the result expired, in milliseconds since 1970.
    pub unix_ms: u64,
}

impl Segment {
    /// Notes that a result has expired. Where the arena has no room for that, it is not.
    pub fn note_expired(&self, _right: PlmRight, task: TaskId, tombstone: Tombstone) {
        let chunks = self.tombstone_chunks();
        let Some(count) = self.tombstone_count().filter(|_| chunks > 0) else {
            return;
        };
        let next = usize::try_from(get(count)).unwrap_or(0) % (chunks * ENTRIES);
        let (chunk, within) = (next / ENTRIES, next % ENTRIES);
        let Some(words) = self.tombstones_in(chunk).or_else(|| {
            self.make_history_chunk(PLACES + chunk)
                .then(|| self.tombstones_in(chunk))?
        }) else {
            // No room for another chunk: from the first place on.
            put(count, 0);
            return;
        };
        if let Some([name, what]) = words.get(within * 2..within * 2 + 2) {
            put(name, 0);
            // ORDERING: Release: after a kill the entry is free, or one of the two is whole.
            fence(Ordering::Release);
            put(what, (tombstone.unix_ms << 5) | tombstone.phase as u64);
            // ORDERING: as above.
            name.store(task.as_raw(), Ordering::Release);
        }
        put(count, u64::try_from(next + 1).unwrap_or(0));
    }
}

impl SegmentView {
    /// The result of this task has expired, as far as that is known. Only by the daemon.
    #[must_use]
    pub fn expired(&self, task: TaskId) -> Option<Tombstone> {
        self.tombstones()
            .find(|(name, _)| get(name) == task.as_raw())
            .and_then(|(_, what)| tombstone(get(what)))
    }

    /// Entries that cannot be.
    pub(super) fn impossible_tombstones(&self) -> impl Iterator<Item = String> + '_ {
        let used = self.tombstones().filter(|(name, _)| get(name) != 0);
        used.filter_map(|(name, what)| {
            let task = TaskId::from_raw(get(name)).filter(|task| self.slot_of(*task).is_some());
            (task.is_none() || tombstone(get(what)).is_none()).then(|| {
                format!(
                    "says {:#018x} of task {:#018x}, which cannot be",
                    get(what),
                    get(name)
                )
            })
        })
    }

    fn tombstones(&self) -> impl Iterator<Item = (&AtomicU64, &AtomicU64)> {
        (0..self.tombstone_chunks())
            .filter_map(|chunk| self.tombstones_in(chunk))
            .flat_map(|words| words.as_chunks::<2>().0)
            .map(|[name, what]| (name, what))
    }

    fn tombstones_in(&self, chunk: usize) -> Option<&[AtomicU64]> {
        self.history_chunk(PLACES + chunk)
    }

    fn tombstone_chunks(&self) -> usize {
        let blocks = self.geometry().arena_blocks();
        if blocks < BLOCKS_MIN {
            return 0;
        }
        let chunks = usize::try_from(blocks / BLOCKS_PER_CHUNK).unwrap_or(usize::MAX);
        chunks.clamp(1, PLACES_OF_ALL - PLACES)
    }

    fn tombstone_count(&self) -> Option<&AtomicU64> {
        self.parts.control().reserved.get(COUNT_AT)
    }
}

fn tombstone(what: u64) -> Option<Tombstone> {
    let [number, ..] = (what & 0x1F).to_le_bytes();
    let phase = Some(Phase::from_number(number)).filter(|phase| phase.is_final())?;
    Some(Tombstone {
        phase,
        unix_ms: what >> 5,
    })
}

fn get(word: &AtomicU64) -> u64 {
    // ORDERING: the daemon's own thread has written it.
    word.load(Ordering::Relaxed)
}

fn put(word: &AtomicU64, value: u64) {
    // ORDERING: the daemon's own thread alone reads it.
    word.store(value, Ordering::Relaxed);
}
