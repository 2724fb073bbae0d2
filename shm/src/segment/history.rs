//! The history of attempts: how those that failed or were lost have ended, for as long as there is room.
//!
//! It lies in chunks of the arena that belong to no task, but to the segment. The control region says where they are
//! (`reserved`, from byte 1024 on: 120 places for attempts, then 4 for tombstones; a place holds the unit plus one, 0 = none). The owner in
//! such a chunk's word has generation 0, which no task has, and the place in place of a slot.
//!
//! ```text
//! chunk of 16 KiB
//!      0  task     of each of 15 entries: id; 0 = the entry is free, written last
//!    128  number   of each: rises with each entry written, so the lowest is the oldest
//!   1024  15 entries of 1 KiB
//!
//! entry
//!      0  ended    stamp
//!      8  worker   id, 0 = none
//!     16  what     attempt 16 | outcome 16 | lengths of message 16 and tail 16, from the lowest bit on
//!     24  reserved
//!     64  name     of the worker
//!    128  message  what the worker said, at most 256 bytes; behind it the last bytes of standard error
//! ```
//!
//! Invariants:
//! - I1: bounded: 8 entries a task; an eighth of the arena's blocks times 16 KiB in all, at most 120 chunks of it (1,800 entries). The
//!   oldest makes room: of the task if that has its 8, else of all. An arena below 8 blocks keeps none.
//! - I2: no slot refers to an entry, and none to a slot: an entry is about an id, which never comes again. So nothing is to be
//!   freed with a task, and a kill at any point costs one entry at most.
//! - I3: the daemon alone writes and reads entries. `verify` looks at them from outside, and again at what it finds.
//!
//! A place is written while its chunk is still claimed by the daemon, so that no sweep finds a chunk that nobody names; what a
//! kill leaves of that is a place whose chunk is not its own: it counts as empty.
//!
//! Tested in `segment/tests/history.rs`.

use crate::arena::{ChunkOwner, Purpose, copy_in, copy_out};
use crate::id::{TaskId, WorkerId};
use crate::layout::text::load_text;
use crate::segment::{Segment, SegmentView};
use crate::sync::{AtomicU64, Ordering, fence};
use crate::task::slot::Outcome;
use crate::task::writer::PlmRight;

/// LIMIT: of one task, so that one which fails for ever does not push out the history of all others.
pub const ATTEMPTS_KEPT_PER_TASK: usize = 8;
/// LIMIT: of what a worker said about an attempt.
pub const MESSAGE_BYTES_MAX: usize = 256;
/// Bytes of an entry that are text.
const TEXT_BYTES: usize = ENTRY_BYTES - TEXT_AT;
/// LIMIT: of standard error, where nothing else was said.
pub const TAIL_BYTES_MAX: usize = TEXT_BYTES;

/// Bytes of a chunk.
pub(super) const CHUNK_BYTES: usize = 16 << 10;
const CHUNK_WORDS: usize = CHUNK_BYTES / 8;
const ENTRY_BYTES: usize = 1024;
const ENTRY_WORDS: usize = ENTRY_BYTES / 8;
const ENTRIES: usize = CHUNK_BYTES / ENTRY_BYTES - 1;
/// Where the numbers begin in the head of a chunk, in words.
const NUMBERS: usize = 16;
/// Words of an entry.
const ENDED: usize = 0;
const WORKER: usize = 1;
const WHAT: usize = 2;
const NAME: core::ops::Range<usize> = 8..16;
/// Byte of an entry.
const TEXT_AT: usize = 128;

/// First of the places in the reserved words of the control region.
pub(super) const PLACES_AT: usize = 62;
/// LIMIT: chunks of history.
pub(super) const PLACES: usize = 120;
/// With those of tombstones.
pub(super) const PLACES_OF_ALL: usize = 124;
/// LIMIT: of the arena, one block in so many.
const BLOCKS_PER_CHUNK: u32 = 8;

/// The end of an attempt, to be kept.
#[derive(Debug, Clone, Copy)]
pub struct AttemptNote<'a> {
    /// The task.
    pub task: TaskId,
    /// Which attempt; the first is 1.
    pub attempt: u16,
    /// Who had it.
    pub worker: Option<WorkerId>,
    /// Stamp of its end.
    pub ended: u64,
    /// How it ended; of a lost worker `WorkerLost`.
    pub outcome: Outcome,
    /// What the worker said about it.
    pub message: &'a str,
    /// Standard error, from any point on; the last bytes are kept.
    pub stderr: &'a [u8],
}

/// The end of an attempt as it was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAttempt {
    /// Which attempt; the first is 1.
    pub attempt: u16,
    /// Who had it.
    pub worker: Option<WorkerId>,
    /// Name of that worker.
    pub worker_name: String,
    /// Stamp of its end.
    pub ended: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// What the worker said about it.
    pub message: String,
    /// The last bytes of standard error.
    pub stderr_tail: Vec<u8>,
}

/// An entry of a chunk.
#[derive(Clone, Copy)]
struct Entry<'s> {
    task: &'s AtomicU64,
    number: &'s AtomicU64,
    words: &'s [AtomicU64],
}

impl Entry<'_> {
    fn task(&self) -> u64 {
        // ORDERING: the daemon's own thread has written it (I3).
        self.task.load(Ordering::Relaxed)
    }

    fn number(&self) -> u64 {
        get(self.number)
    }

    fn attempt(&self) -> u16 {
        self.words.get(WHAT).map_or(0, |word| part16(get(word)))
    }

    fn read(&self) -> Option<KeptAttempt> {
        let what = get(self.words.get(WHAT)?);
        let (message, tail) = lengths(what)?;
        let mut text = [0; TEXT_BYTES];
        let text = &mut text[..message + tail];
        if !copy_out(self.words, TEXT_AT, text) {
            return None;
        }
        let (message, tail) = text.split_at(message);
        Some(KeptAttempt {
            attempt: part16(what),
            worker: WorkerId::from_raw(get(self.words.get(WORKER)?)).filter(|id| id.as_raw() != 0),
            worker_name: load_text(self.words.get(NAME)?),
            ended: get(self.words.get(ENDED)?),
            outcome: Outcome::from_bits(part16(what >> 16)),
            message: String::from_utf8_lossy(message).into_owned(),
            stderr_tail: tail.to_vec(),
        })
    }

    fn write(&self, number: u64, name: Option<&[AtomicU64; 8]>, note: &AttemptNote<'_>) {
        let message = &note.message[..note.message.floor_char_boundary(MESSAGE_BYTES_MAX)];
        let room = TEXT_BYTES - message.len();
        let tail = &note.stderr[note.stderr.len().saturating_sub(room)..];
        put(self.task, 0);
        // ORDERING: Release: after a kill the entry is free, or one of the two is whole.
        fence(Ordering::Release);
        put(self.number, number);
        let what = u64::from(note.attempt)
            | (u64::from(note.outcome.to_bits()) << 16)
            | (length16(message) << 32)
            | (length16(tail) << 48);
        let worker = note.worker.map_or(0, WorkerId::as_raw);
        for (place, value) in [(ENDED, note.ended), (WORKER, worker), (WHAT, what)] {
            if let Some(word) = self.words.get(place) {
                put(word, value);
            }
        }
        for (index, word) in self.words.get(NAME).into_iter().flatten().enumerate() {
            put(word, name.and_then(|name| name.get(index)).map_or(0, get));
        }
        // LIMIT: both fit, as cut above.
        let written = copy_in(self.words, TEXT_AT, message.as_bytes())
            && copy_in(self.words, TEXT_AT + message.len(), tail);
        if written {
            // ORDERING: as above.
            self.task.store(note.task.as_raw(), Ordering::Release);
        }
    }
}

impl Segment {
    /// Keeps how an attempt ended, instead of what is kept of the same attempt, of the task's oldest, or of the oldest of all if
    /// there is no more room. Returns whether it is kept: an arena that is too small, or full of other things, has no room at all.
    pub fn keep_attempt(&self, _right: PlmRight, note: &AttemptNote<'_>) -> bool {
        let name = note.worker.map(|id| self.worker(id.slot()).name_words());
        let mut free = None;
        let (mut oldest, mut oldest_own): (Option<Entry<'_>>, Option<Entry<'_>>) = (None, None);
        let (mut own, mut last) = (0, 0);
        for entry in self.history_entries() {
            let task = entry.task();
            if task == 0 {
                free = free.or(Some(entry));
                continue;
            }
            last = last.max(entry.number());
            oldest = older(oldest, entry);
            if task == note.task.as_raw() {
                if entry.attempt() == note.attempt {
                    // Said again, as after a kill in between.
                    entry.write(entry.number(), name, note);
                    return true;
                }
                own += 1;
                oldest_own = older(oldest_own, entry);
            }
        }
        let chosen = if own >= ATTEMPTS_KEPT_PER_TASK {
            oldest_own
        } else {
            free.or_else(|| self.more_history()).or(oldest)
        };
        let Some(entry) = chosen else {
            return false;
        };
        entry.write(last.wrapping_add(1), name, note);
        true
    }

    /// Makes another chunk, and gives its first entry.
    fn more_history(&self) -> Option<Entry<'_>> {
        let place =
            (0..self.history_places()).find(|&place| self.history_chunk(place).is_none())?;
        self.make_history_chunk(place).then_some(())?;
        self.history_chunk(place)
            .and_then(|chunk| entries(chunk).next())
    }

    /// Makes the empty chunk of a place. Returns whether it is there now.
    pub(super) fn make_history_chunk(&self, place: usize) -> bool {
        let Some(place_word) = self.history_place(place) else {
            return false;
        };
        let (arena, claimant) = (self.view.parts.arena(), self.claimant());
        let claimed = self.section(|| arena.allocate(claimant, CHUNK_BYTES, Purpose::Result));
        let Ok(claim) = claimed else {
            return false;
        };
        let is_empty = (0..CHUNK_BYTES)
            .step_by(ENTRY_BYTES)
            .all(|offset| arena.write(&claim, offset, &[0; ENTRY_BYTES]));
        if !is_empty {
            arena.abandon(claim);
            return false;
        }
        // ORDERING: before the chunk is the segment's, see the head of this file.
        place_word.store(u64::from(claim.unit()) + 1, Ordering::Release);
        arena.commit(claim, history_owner(place)).is_ok()
    }
}

impl SegmentView {
    /// What is kept of a task's attempts, the first first. Only by the daemon.
    #[must_use]
    pub fn attempts_kept(&self, task: TaskId) -> Vec<KeptAttempt> {
        let own = |entry: &Entry<'_>| entry.task() == task.as_raw();
        let entries = self.history_entries().filter(own);
        let mut kept: Vec<KeptAttempt> = entries.filter_map(|entry| entry.read()).collect();
        kept.sort_unstable_by_key(|kept| kept.attempt);
        kept
    }

    /// Something is kept of this attempt. Only by the daemon.
    #[must_use]
    pub fn has_attempt(&self, task: TaskId, attempt: u16) -> bool {
        self.history_entries()
            .any(|entry| entry.task() == task.as_raw() && entry.attempt() == attempt)
    }

    /// How many chunks of the arena belong to the segment itself, and to no task.
    #[must_use]
    pub fn own_chunks(&self) -> u64 {
        u64::try_from(self.history_chunks().count()).unwrap_or(0)
    }

    /// The chunks of the history: unit and owner.
    pub(super) fn history_chunks(&self) -> impl Iterator<Item = (u32, ChunkOwner)> + '_ {
        (0..PLACES_OF_ALL)
            .filter(|&place| self.history_chunk(place).is_some())
            .filter_map(|place| Some((self.history_unit(place)?, history_owner(place))))
    }

    /// The chunk at `unit` is the history's, with this owner in its word.
    pub(super) fn is_history(&self, unit: u32, owner: ChunkOwner) -> bool {
        owner.generation == 0 && self.history_unit(owner.slot as usize) == Some(unit)
    }

    /// Entries that cannot be: place, number of the entry, what is wrong.
    pub(super) fn impossible_history(&self) -> impl Iterator<Item = (usize, usize, String)> + '_ {
        let chunks = (0..PLACES).filter_map(|place| Some((place, self.history_chunk(place)?)));
        chunks.flat_map(move |(place, chunk)| {
            let used = entries(chunk)
                .enumerate()
                .filter(|(_, entry)| entry.task() != 0);
            used.filter_map(move |(index, entry)| Some((place, index, self.problem_of(entry)?)))
        })
    }

    fn problem_of(&self, entry: Entry<'_>) -> Option<String> {
        let raw = entry.task();
        let what = entry.words.get(WHAT).map_or(0, get);
        match TaskId::from_raw(raw) {
            None => Some(format!("names task {raw:#018x}, which cannot be")),
            Some(task) if self.slot_of(task).is_none() => {
                Some(format!("names task {task}, which has no slot"))
            }
            Some(task) if part16(what) == 0 || lengths(what).is_none() => Some(format!(
                "says {what:#018x} of an attempt of task {task}, which cannot be"
            )),
            Some(_) => None,
        }
    }

    /// Words that are stamps, of a segment whose origin moves.
    pub(super) fn history_stamps(&self) -> impl Iterator<Item = &AtomicU64> {
        self.history_entries()
            .filter(|entry| entry.task() != 0)
            .filter_map(|entry| entry.words.get(ENDED))
    }

    fn history_entries(&self) -> impl Iterator<Item = Entry<'_>> {
        (0..self.history_places())
            .filter_map(|place| self.history_chunk(place))
            .flat_map(entries)
    }

    pub(super) fn history_chunk(&self, place: usize) -> Option<&[AtomicU64]> {
        let unit = self.history_unit(place)?;
        self.parts
            .arena()
            .used_words(unit, history_owner(place), CHUNK_WORDS)
    }

    fn history_unit(&self, place: usize) -> Option<u32> {
        // ORDERING: [arena.commit]: what the chunk's word says is read next, and counts.
        let word = self.history_place(place)?.load(Ordering::Relaxed);
        u32::try_from(word.checked_sub(1)?).ok()
    }

    fn history_place(&self, place: usize) -> Option<&AtomicU64> {
        let words = &self.parts.control().reserved;
        words.get(PLACES_AT..PLACES_AT + PLACES_OF_ALL)?.get(place)
    }

    /// How many chunks there may be.
    fn history_places(&self) -> usize {
        let chunks = self.geometry().arena_blocks() / BLOCKS_PER_CHUNK;
        usize::try_from(chunks).unwrap_or(PLACES).min(PLACES)
    }
}

/// How the word of a chunk names the history.
fn history_owner(place: usize) -> ChunkOwner {
    ChunkOwner {
        // LIMIT: below 124.
        slot: u32::try_from(place).unwrap_or(0),
        generation: 0,
    }
}

fn entries(chunk: &[AtomicU64]) -> impl Iterator<Item = Entry<'_>> {
    let (head, rest) = chunk.split_at(ENTRY_WORDS.min(chunk.len()));
    let heads = head.iter().zip(head.get(NUMBERS..).unwrap_or_default());
    heads
        .zip(rest.chunks_exact(ENTRY_WORDS))
        .take(ENTRIES)
        .map(|((task, number), words)| Entry {
            task,
            number,
            words,
        })
}

fn older<'s>(than: Option<Entry<'s>>, entry: Entry<'s>) -> Option<Entry<'s>> {
    match than {
        Some(before) if before.number() <= entry.number() => Some(before),
        Some(_) | None => Some(entry),
    }
}

/// Of message and tail, if they can be.
fn lengths(what: u64) -> Option<(usize, usize)> {
    let message = usize::from(part16(what >> 32));
    let tail = usize::from(part16(what >> 48));
    (message <= MESSAGE_BYTES_MAX && message + tail <= TEXT_BYTES).then_some((message, tail))
}

fn length16(bytes: impl AsRef<[u8]>) -> u64 {
    u64::try_from(bytes.as_ref().len()).unwrap_or(0) & 0xFFFF
}

fn get(word: &AtomicU64) -> u64 {
    // ORDERING: the daemon's own thread has written it (I3).
    word.load(Ordering::Relaxed)
}

fn put(word: &AtomicU64, value: u64) {
    // ORDERING: the daemon's own thread alone reads it (I3).
    word.store(value, Ordering::Relaxed);
}

const fn part16(word: u64) -> u16 {
    let [low, high, ..] = word.to_le_bytes();
    u16::from_le_bytes([low, high])
}
