//! A journal task as one record: everything that a cold start needs of it.
//!
//! Built from the segment as an inspector reads it (state word before and after the copy), so it may be done by any
//! thread. What only a running daemon has is left out: a task that is handed out, parked or not yet judged is written
//! as READY with its attempt; one whose outcome is decided is written as ended.
//!
//! The lsn of the whole task may be older than its state, never newer (`plm/records/recorder.rs`): replaying records that it already
//! reflects does no harm, as they carry absolute values. Tested in `engine/tests/rules/snapshot.rs`.

use qtf_journal::{Blob, ClientRef, Lsn, WholeTask};
use qtf_shm::{
    BlobRef, ClientIndex, FLAG_CANCEL, KeyId, KindIndex, Now, Part, Phase, SegmentView, SideRecord,
    TaskId, TaskOptions, TaskRecord,
};

use crate::plm::{LSN_UNDER_WAY, judged_end};
use crate::wall::WallTime;

/// Largest payload or result that lies in a record; more stays in its file.
pub(crate) const RECORD_BLOB_BYTES_MAX: usize = 64 << 10;

/// Where the bytes of one whole task lie while it is used.
#[derive(Debug, Default)]
pub(crate) struct WholeTaskBuffer {
    payload: Vec<u8>,
    result: Vec<u8>,
    kind: String,
    name: String,
    host: String,
    side: Option<SideRecord>,
}

/// What a whole task says beyond what the slot's record says as it is.
struct Standing {
    phase: Phase,
    failures: u8,
    due_unix_ms: u64,
    ended_unix_ms: u64,
}

/// The whole of a task that was copied out; `None` if its slot has moved on meanwhile.
pub(crate) fn whole_task_of<'b>(
    view: &SegmentView,
    record: &TaskRecord,
    wall: WallTime,
    buffer: &'b mut WholeTaskBuffer,
) -> Option<WholeTask<'b>> {
    let id = record.id?;
    let standing = standing_of(record, wall)?;
    let kind = KindIndex::new_checked(record.kind, u32::from(u16::MAX))?;
    buffer.kind = view.kind_name(kind)?;
    let uid = name_client(view, record, buffer);
    buffer.side = view.read_side(record);
    let key = view
        .key_of(record, buffer.side.as_ref())
        .filter(|&(key, _)| is_known(view, key, id));
    let payload = blob_of(view, record, Part::Payload, &mut buffer.payload)?;
    let result = if standing.phase.is_final() {
        blob_of(view, record, Part::Result, &mut buffer.result)?
    } else {
        Blob::None
    };
    let side = buffer.side.get_or_insert_default();
    let lsn = if record.lsn == LSN_UNDER_WAY {
        Lsn::NONE
    } else {
        Lsn::new(record.lsn)
    };
    Some(WholeTask {
        id,
        phase: standing.phase,
        cancel_requested: record.state.has_flag(FLAG_CANCEL) && !standing.phase.is_final(),
        attempt: record.state.fence(),
        failures: standing.failures,
        losses: record.losses,
        max_attempts: record.max_attempts,
        options: record.options.bits(),
        priority: record.priority,
        stamp: view.journal_stamp(record.key.ready_stamp()),
        timeout_ms: record.timeout_ms,
        estimate_ms: side.estimate_ms,
        keep_s: side.keep_s,
        kind: &buffer.kind,
        client: ClientRef {
            uid,
            name: &buffer.name,
            host: &buffer.host,
        },
        submitted_unix_ms: side.submitted_unix_ms,
        due_unix_ms: standing.due_unix_ms,
        ended_unix_ms: standing.ended_unix_ms,
        array: (side.array_id != 0).then_some((side.array_id, side.array_index)),
        key: key.map(|(key, expiry)| (key, wall.unix_ms_of_key_end(expiry))),
        outcome: if standing.phase.is_final() {
            record.outcome
        } else {
            qtf_shm::Outcome::default()
        },
        payload,
        result,
        lsn,
    })
}

/// As what a task is written; `None` for a slot that holds none.
fn standing_of(record: &TaskRecord, wall: WallTime) -> Option<Standing> {
    let at = wall.unix_ms_of(record.phase_time);
    let mut standing = Standing {
        phase: record.state.phase(),
        failures: record.failures,
        due_unix_ms: 0,
        ended_unix_ms: 0,
    };
    match record.state.phase() {
        Phase::Free | Phase::Claimed | Phase::Quarantine | Phase::Reserved => return None,
        Phase::Submitted if record.phase_time > record.key.ready_stamp() => {
            standing.due_unix_ms = at;
        }
        Phase::Submitted => {}
        // The time since when it is held counts as a start that is over.
        Phase::Held => standing.due_unix_ms = at,
        Phase::Delayed => standing.due_unix_ms = at,
        Phase::Ended if record.state.is_judged() => {
            let (phase, failures) = judged_end(record);
            standing.phase = phase;
            standing.failures = failures;
            standing.ended_unix_ms = at;
        }
        Phase::Assigned | Phase::Running | Phase::Ended
            if record.options.has(TaskOptions::AT_MOST_ONCE) =>
        {
            // A cold start must know that it may have begun.
            standing.phase = Phase::Assigned;
        }
        Phase::Blocked | Phase::Ready | Phase::Assigned | Phase::Running | Phase::Ended => {
            standing.phase = Phase::Ready;
        }
        Phase::Done | Phase::Failed | Phase::Cancelled | Phase::DeadLetter => {
            standing.ended_unix_ms = at;
        }
    }
    Some(standing)
}

fn name_client(
    view: &SegmentView,
    record: &TaskRecord,
    buffer: &mut WholeTaskBuffer,
) -> Option<u32> {
    buffer.name.clear();
    buffer.host.clear();
    if record.client == ClientIndex::UNKNOWN.get() {
        return None;
    }
    let client = view.read_client(view.client_index(record.client)?)?.record;
    buffer.name = client.name;
    buffer.host = client.host;
    (client.uid != u32::MAX).then_some(client.uid)
}

/// The bytes of a payload or result; `None` if they are gone with their task.
fn blob_of<'b>(
    view: &SegmentView,
    record: &TaskRecord,
    part: Part,
    buffer: &'b mut Vec<u8>,
) -> Option<Blob<'b>> {
    let blob = match part {
        Part::Payload => record.payload,
        Part::Result => record.result,
    };
    load(blob, buffer, |out| {
        view.load_blob(record, part, 0, out).ok()
    })
    .or_else(|| is_there(view, record.id?).then(|| in_file(blob))?)
}

/// Reads a blob that is small enough for a record; `None` if it cannot be read.
pub(crate) fn load<'b>(
    blob: BlobRef,
    buffer: &'b mut Vec<u8>,
    read: impl FnOnce(&mut [u8]) -> Option<usize>,
) -> Option<Blob<'b>> {
    let len = usize::try_from(blob.len()).ok()?;
    if len == 0 {
        return Some(Blob::None);
    }
    if len > RECORD_BLOB_BYTES_MAX {
        return in_file(blob);
    }
    buffer.resize(len, 0);
    (read(buffer)? == len).then_some(Blob::Bytes(buffer))
}

/// A blob that stays in its file; `None` for one that lies in the segment.
pub(crate) const fn in_file(blob: BlobRef) -> Option<Blob<'static>> {
    match blob {
        BlobRef::Spill { number, len } => Some(Blob::Spill {
            number,
            len: len as u64,
            // The store checks the length; the segment has no room for a checksum.
            crc32c: 0,
        }),
        BlobRef::None | BlobRef::Inline { .. } | BlobRef::Arena { .. } => None,
    }
}

/// A side record still names the key of its task when that was given back.
fn is_known(view: &SegmentView, key: KeyId, task: TaskId) -> bool {
    let any_time = Now::from_stamp(0);
    let entry = view.keys().find(key, any_time);
    entry.is_some_and(|entry| entry.task == task)
}

fn is_there(view: &SegmentView, task: TaskId) -> bool {
    view.slot_of(task)
        .is_some_and(|slot| view.state(slot).is_of(task))
}
