//! What the words of layout 2.0 are in the present one: task slots, worker slots, history, tombstones.
//!
//! Tested in `segment/tests/upgrade.rs`.

use super::earlier::read;
use crate::blob::BlobRef;
use crate::id::{GENERATION_MAX, TaskId};
use crate::segment::Segment;
use crate::segment::blobs::StoreError;
use crate::sync::{AtomicU64, Ordering};
use crate::task::slot::{INLINE_BYTES_MAX, TaskSlot};
use crate::task::state::{FLAG_CANCEL, FLAG_SETTLING, FLAG_TIMED_OUT, Phase, StateWord};
use crate::worker::WorkerSlot;

/// Words of a task slot of layout 2.0.
pub(super) const TASK_WORDS: usize = 16;
/// Words of a worker slot of layout 2.0.
pub(super) const WORKER_WORDS: usize = 32;
const OWNER_NONE: u64 = 0xFFF;

/// `phase 4 | flags 4 | owner 12 | attempt 8 | generation 36`; the flag 4 was JUDGED, 8 FORGOTTEN, which never met.
pub(super) fn state_of(word: u64) -> StateWord {
    if word == 0 {
        return StateWord::default();
    }
    let [number, flags] = [60, 56].map(|shift| (word >> shift).to_le_bytes()[0] & 0xF);
    let owner = (word >> 44) & OWNER_NONE;
    let [attempt, ..] = (word >> 36).to_le_bytes();
    let settling = if flags & 0xC == 0 { 0 } else { FLAG_SETTLING };
    let owner = if owner == OWNER_NONE {
        u16::MAX
    } else {
        u16::try_from(owner).unwrap_or(u16::MAX)
    };
    StateWord::of_parts(
        Phase::from_number(number),
        flags & (FLAG_CANCEL | FLAG_TIMED_OUT) | settling,
        owner,
        u16::from(attempt),
        word & GENERATION_MAX,
    )
}

fn put(word: &AtomicU64, value: u64) {
    if value != 0 {
        // ORDERING: published by [segment.ready].
        word.store(value, Ordering::Relaxed);
    }
}

/// Fills a slot of a new segment, whose arena is there already. The state goes last, though nobody else is here: it is the truth.
pub(super) fn fill_task(
    segment: &Segment,
    task: &TaskSlot,
    earlier: &[AtomicU64; TASK_WORDS],
    id: impl Fn(StateWord) -> Option<TaskId>,
) -> Result<(), StoreError> {
    let [
        state,
        key,
        phase_time,
        journal,
        limits,
        payload,
        result,
        links,
        inline @ ..,
    ] = earlier;
    let state = state_of(read(state));
    put(&task.order, (read(key) & !0xFF) | u64::from(state.era()));
    put(&task.phase_time, read(phase_time) & !0xFFFF);
    put(&task.journal, read(journal));
    put(&task.limits, read(limits));
    put(&task.links, read(links));
    if state.phase() == Phase::Running {
        put(&task.started, read(phase_time) & !0xFFFF);
    }
    let has_tenant = !matches!(state.phase(), Phase::Free | Phase::Claimed);
    let (payload, result) = (read(payload), read(result));
    let inline_bytes = || -> Vec<u8> {
        let bytes = inline.iter().flat_map(|word| read(word).to_le_bytes());
        bytes.collect()
    };
    let mut moved = None;
    for raw in [payload, result] {
        if let BlobRef::Inline { len } = BlobRef::from_raw(raw)
            && len as usize > INLINE_BYTES_MAX
            && has_tenant
            && let Some(id) = id(state)
        {
            let bytes = inline_bytes();
            let len = (len as usize).min(bytes.len());
            let blob = segment.store(id, &bytes[..len], crate::arena::Purpose::Result)?;
            moved = Some((raw, blob.as_raw()));
        }
    }
    let place = |raw| match moved {
        Some((from, to)) if from == raw => to,
        Some(_) | None => raw,
    };
    put(&task.payload, place(payload));
    put(&task.result, place(result));
    if moved.is_none() {
        for (word, earlier) in task.inline_bytes.iter().zip(inline) {
            put(word, read(earlier));
        }
    }
    // ORDERING: [task.state] Release, as whoever fills in a slot.
    task.state.store(state.as_raw(), Ordering::Release);
    Ok(())
}

/// Fills a worker slot: what was among the counters, and behind the kinds, has places of its own now.
pub(super) fn fill_worker(worker: &WorkerSlot, earlier: &[AtomicU64; WORKER_WORDS]) {
    let at = |place: usize| earlier.get(place).map_or(0, read);
    let heads = [
        &worker.load_key,
        &worker.lease_end,
        &worker.heartbeat,
        &worker.links,
        &worker.token,
        &worker.registered,
        &worker.reconciled,
    ];
    for (place, word) in (1..).zip(heads) {
        put(word, at(place));
    }
    for (place, word) in (8..12).zip(&worker.counters) {
        put(word, at(place));
    }
    put(&worker.lane, at(12));
    put(&worker.leased_until, at(13));
    for (place, word) in (16..24).zip(&worker.name) {
        put(word, at(place));
    }
    put(&worker.kinds[0], at(24));
    put(&worker.process, at(25));
    put(&worker.start_time, at(26));
    // Labels, which nothing used, were above the user.
    put(&worker.identity, at(27) & 0xFFFF_FFFF);
    for (place, word) in (28..32).zip(&worker.host) {
        put(word, at(place));
    }
    // ORDERING: [worker.state] Release, as whoever fills in a slot.
    worker.state.store(at(0), Ordering::Release);
}

/// `attempt 8 | outcome 16 | message 16 | tail 16` of an entry of the history, from the lowest bit on.
pub(super) const fn history_of(what: u64) -> u64 {
    (what & 0xFF) | ((what >> 8) << 16)
}

/// `incarnation 24 | slot 12`.
pub(super) const fn worker_id_of(raw: u64) -> u64 {
    ((raw >> 12) << 16) | (raw & 0xFFF)
}

/// `milliseconds 60 | phase 4` of a tombstone.
pub(super) const fn tombstone_of(what: u64) -> u64 {
    ((what >> 4) << 5) | (what & 0xF)
}
