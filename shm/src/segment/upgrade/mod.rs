//! A segment of layout 2.0 goes on as one of the present layout: read by a start that is alone, slot by slot, into a new segment beside it.
//!
//! The new one has the same id, origin, base of generations and spill id, and as many slots of everything. Each task keeps its place, its id, its phase and
//! its owner; its attempt is the fence. What was attached must be gone; whoever is still there is named, and the start refuses.
//!
//! # Kills
//! The ready word is written last, then the old segment is removed. A kill in between leaves an unfinished new one, which the next start
//! removes (`adopt.rs`), or a published one whose `made_of` names the old one, which goes then. Nothing of the old one is written at any time, so it
//! can be read again from the beginning. The new one is published with its gate shut: whoever starts next brings it in order first.
//!
//! Tested in `segment/tests/upgrade.rs`, with a kill after each shared write, and in `daemon/tests/daemon/upgrade.rs`.

mod earlier;
#[cfg(any(test, feature = "kill-points"))]
pub(in crate::segment) mod left_behind;
mod slots;

use crate::layout::Geometry;
use crate::layout::attach::AttachPhase;
use crate::segment::blobs::StoreError;
use crate::segment::history::{PLACES, PLACES_OF_ALL};
use crate::segment::judge::judge_record;
use crate::segment::lock_file::LockFile;
use crate::segment::process::Liveness;
use crate::segment::{Segment, SegmentSpec};
use crate::sync::{AtomicU64, Ordering};
use crate::task::side::SIDE_BYTES_SHORT;

pub(in crate::segment) use earlier::{Earlier, HASH, MAJOR};
use earlier::{Region, control, read};
use slots::{TASK_WORDS, WORKER_WORDS, fill_task, fill_worker};

/// Words of a block of the arena.
const BLOCK_WORDS: usize = 65_536 / 8;
/// Units of a block.
const BLOCK_UNITS: u32 = 1024;
/// Rows of the counts of transitions.
const PHASES: usize = 16;
/// Words of a chunk of history: heads of entries, and each entry.
const ENTRY_WORDS: usize = 128;

impl Earlier {
    /// What the new segment is to be like: sizes, and what names it.
    pub(in crate::segment) fn spec(&self, spec: &SegmentSpec) -> Option<SegmentSpec> {
        Some(SegmentSpec {
            geometry: Geometry::keeping(&self.header)?,
            payload_limit: self.header.payload_limit,
            spill_id: Some(self.header.spill_id),
            gen_base: Some(self.header.gen_base),
            ..spec.clone()
        })
    }

    /// Layout and id, as the new segment's header names it.
    pub(in crate::segment) const fn name(&self) -> [u64; 2] {
        [(MAJOR as u64) << 32, self.header.segment_id]
    }

    /// Its id, base of generations and origin, and when it was made: by the wall clock, and by the segment's own time.
    pub(in crate::segment) const fn identity(&self) -> (u64, u64, u64, u64, u64) {
        let header = &self.header;
        (
            header.segment_id,
            header.gen_base,
            header.origin_ns,
            header.created_unix_ns,
            header.created_ns,
        )
    }

    /// Its last daemon stopped in order.
    pub(in crate::segment) fn was_stopped(&self) -> bool {
        self.control(control::SHUTDOWN) == 1
    }

    /// The processes that still have it open for writing, or may have.
    pub(in crate::segment) fn attached(&self, lock: Option<&LockFile>) -> Vec<String> {
        let records = self.attaches.iter().enumerate().skip(1);
        let living = records.filter_map(|(number, record)| {
            let state = record.state();
            let info = record.info_at(number, state)?;
            let is_gone =
                state.phase() == AttachPhase::Free || judge_record(&info, lock) == Liveness::Dead;
            (!is_gone).then(|| format!("`{}` (pid {})", info.name, info.process.pid))
        });
        living.collect()
    }
}

impl Segment {
    /// Puts everything of an earlier segment into this one, which is new and nobody else's yet.
    ///
    /// # Errors
    /// A payload that does not lie in its slot any more found no room, in the arena or on the disk.
    pub(in crate::segment) fn take_over(&self, earlier: &Earlier) -> Result<(), StoreError> {
        self.take_tables(earlier);
        self.take_arena(earlier);
        self.take_control(earlier);
        let workers = earlier.words(Region::Workers).as_chunks::<WORKER_WORDS>().0;
        for (worker, words) in self.view.parts.workers.iter().zip(workers) {
            fill_worker(worker, words);
        }
        let tasks = earlier.words(Region::Tasks).as_chunks::<TASK_WORDS>().0;
        for (number, words) in (0..self.high_water()).zip(tasks) {
            let Some(slot) = self.slot(number) else {
                break;
            };
            fill_task(self, self.task(slot), words, |state| state.id(slot))?;
            self.empty_second_half(number);
        }
        self.rewrite_history();
        // Until a start has brought it in order.
        self.view.parts.control().gate().close();
        Ok(())
    }

    /// What lies as it did.
    fn take_tables(&self, earlier: &Earlier) {
        let parts = &self.view.parts;
        copy(earlier.words(Region::Kinds), parts.words_of_kinds());
        copy(earlier.words(Region::Clients), parts.words_of_clients());
        copy(earlier.words(Region::Keys), parts.words_of_keys());
        // The daemon's own record is this process's by now.
        let records = earlier.words(Region::Attaches).get(16..);
        copy(records.unwrap_or_default(), parts.words_of_attaches(1));
        let (counters, own) = (earlier.words(Region::Counters), parts.words_of_counters());
        let (matrix, named) = counters.split_at(counters.len().min(PHASES * PHASES));
        for (row, from) in matrix.chunks(PHASES).enumerate() {
            copy(
                from,
                own.get(row * crate::task::state::Phase::COUNT..)
                    .unwrap_or_default(),
            );
        }
        let named = named.get(PHASES..).unwrap_or_default();
        copy(named, parts.words_of_named_counters());
    }

    /// The index as it is, and of the data the blocks in which chunks are: to read a page that nobody used would make it.
    fn take_arena(&self, earlier: &Earlier) {
        let (index, data) = self.view.parts.words_of_arena();
        copy(earlier.words(Region::ArenaIndex), index);
        let blocks = u32::try_from(earlier.header.arena_blocks).unwrap_or(0);
        let from = earlier.words(Region::ArenaData);
        let mut last = None;
        for chunk in earlier.arena().chunks(0..blocks) {
            let block = chunk.unit / BLOCK_UNITS;
            if last.replace(block) != Some(block) {
                let start = block as usize * BLOCK_WORDS;
                let words = start..start + BLOCK_WORDS;
                copy(
                    from.get(words.clone()).unwrap_or_default(),
                    data.get(words).unwrap_or_default(),
                );
            }
        }
    }

    fn take_control(&self, earlier: &Earlier) {
        let own = self.view.parts.words_of_control();
        let places = [
            control::JOURNAL_END,
            control::GEN_LIMIT,
            control::GEN_TOP,
            control::HIGH_WATER,
            control::KEYS_USED,
        ];
        for place in places.into_iter().chain(control::NOTED) {
            if let Some(word) = own.get(place) {
                // ORDERING: published by [segment.ready].
                word.store(earlier.control(place), Ordering::Relaxed);
            }
        }
    }

    /// The second half of a whole side record: words that nothing used have other meanings now, and a client's address lies in its record.
    fn empty_second_half(&self, number: u32) {
        let Some(slot) = self.slot(number) else {
            return;
        };
        let task = self.task(slot);
        let (Some(id), Some(unit)) = (task.state().id(slot), task.side_unit()) else {
            return;
        };
        let owner = crate::segment::free::chunk_owner(id);
        let is_own = self.chunk_state(unit) == Some(crate::arena::ChunkState::Used(owner));
        let Some(second) = unit.checked_add(1).filter(|_| is_own) else {
            return;
        };
        let parts = &self.view.parts;
        let is_short = parts.unit_words(unit).is_none_or(|words| {
            let mut bytes = [0; SIDE_BYTES_SHORT];
            for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
                *bytes = read(word).to_le_bytes();
            }
            crate::task::side::SideRecord::is_short(&bytes)
        });
        if !is_short && let Some(words) = parts.unit_words(second) {
            for word in &words[2..] {
                // ORDERING: published by [segment.ready].
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    fn rewrite_history(&self) {
        for place in 0..PLACES {
            let Some(chunk) = self.history_chunk(place) else {
                continue;
            };
            for entry in chunk.chunks_exact(ENTRY_WORDS).skip(1) {
                if let [_, worker, what, ..] = entry {
                    rewrite(worker, slots::worker_id_of);
                    rewrite(what, slots::history_of);
                }
            }
        }
        for place in PLACES..PLACES_OF_ALL {
            let chunk = self.history_chunk(place).unwrap_or_default();
            for [_, what] in chunk.as_chunks::<2>().0 {
                rewrite(what, slots::tombstone_of);
            }
        }
    }
}

/// Copies words that are not zero: the memory behind them is zeroed, and stays untouched where it is to be zero.
fn copy(from: &[AtomicU64], to: &[AtomicU64]) {
    for (from, to) in from.iter().zip(to) {
        let value = read(from);
        if value != 0 {
            // ORDERING: published by [segment.ready].
            to.store(value, Ordering::Relaxed);
        }
    }
}

fn rewrite(word: &AtomicU64, by: impl Fn(u64) -> u64) {
    let value = read(word);
    if value != 0 {
        // ORDERING: published by [segment.ready].
        word.store(by(value), Ordering::Relaxed);
    }
}
