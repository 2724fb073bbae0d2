//! Writing the bodies of records.
//!
//! Tested in `journal/tests/records.rs` against `decode.rs`, for all records.

use qtf_shm::Phase;

use super::frame::{self, HEAD_BYTES, Kind, RECORD_BYTES_MAX};
use super::{Blob, Record, WholeTask};
use crate::Lsn;

/// Fixed part of a task.
pub(crate) const TASK_FIXED: usize = 112;
/// Fixed part of an outcome.
pub(crate) const OUTCOME_FIXED: usize = 48;
pub(crate) const ARRAY_BYTES: usize = 16;
pub(crate) const KEY_BYTES: usize = 24;

pub(crate) const FLAG_CANCEL_REQUESTED: u8 = 1;
pub(crate) const FLAG_UID: u8 = 2;
pub(crate) const FLAG_ARRAY: u8 = 4;
pub(crate) const FLAG_KEY: u8 = 8;

pub(crate) const BLOB_NONE: u8 = 0;
pub(crate) const BLOB_BYTES: u8 = 1;
pub(crate) const BLOB_SPILL: u8 = 2;

/// A record is larger than [`RECORD_BYTES_MAX`], or one of its texts than 255 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLarge {
    pub(crate) bytes: usize,
}

/// A body of fixed size, put together on the stack.
struct Fixed<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Fixed<N> {
    const fn new() -> Self {
        Self {
            bytes: [0; N],
            at: 0,
        }
    }

    #[inline]
    fn put<const M: usize>(&mut self, value: [u8; M]) {
        let end = self.at + M;
        if let Some(place) = self.bytes.get_mut(self.at..end) {
            place.copy_from_slice(&value);
        }
        self.at = end;
    }

    fn u8(&mut self, value: u8) {
        self.put([value]);
    }

    fn u32(&mut self, value: u32) {
        self.put(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.put(value.to_le_bytes());
    }
}

const fn blob_len(blob: Blob<'_>) -> usize {
    match blob {
        Blob::Bytes(bytes) => bytes.len(),
        Blob::None | Blob::Spill { .. } => 0,
    }
}

const fn blob_tag(blob: Blob<'_>) -> u8 {
    match blob {
        Blob::None => BLOB_NONE,
        Blob::Bytes(_) => BLOB_BYTES,
        Blob::Spill { .. } => BLOB_SPILL,
    }
}

/// Length, number and checksum of a blob.
const fn blob_numbers(blob: Blob<'_>) -> (u64, u32, u32) {
    match blob {
        Blob::None => (0, 0, 0),
        Blob::Bytes(bytes) => (bytes.len() as u64, 0, 0),
        Blob::Spill {
            number,
            len,
            crc32c,
        } => (len, number, crc32c),
    }
}

fn text_len(text: &str) -> Result<u8, TooLarge> {
    u8::try_from(text.len()).map_err(|_| TooLarge { bytes: text.len() })
}

fn kind_and_body_bytes(record: &Record<'_>) -> (Kind, usize) {
    match record {
        Record::Task(whole) => (Kind::Task, task_bytes(whole)),
        Record::Attempt { .. } => (Kind::Attempt, 24),
        Record::Requeue { .. } => (Kind::Requeue, 24),
        Record::Outcome { result, .. } => (
            Kind::Outcome,
            OUTCOME_FIXED.saturating_add(blob_len(*result)),
        ),
        Record::Cancel { .. } => (Kind::Cancel, 8),
        Record::Acknowledged { .. } => (Kind::Acknowledged, 8),
        Record::Purge { .. } => (Kind::Purge, 8),
        Record::Reserve { .. } => (Kind::Reserve, 8),
        Record::Update { .. } => (Kind::Update, 16),
        Record::Key { .. } => (Kind::Key, 32),
    }
}

fn task_bytes(whole: &WholeTask<'_>) -> usize {
    let mut bytes = TASK_FIXED;
    if whole.array.is_some() {
        bytes += ARRAY_BYTES;
    }
    if whole.key.is_some() {
        bytes += KEY_BYTES;
    }
    let parts = [
        whole.kind.len(),
        whole.client.name.len(),
        whole.client.host.len(),
        blob_len(whole.payload),
        blob_len(whole.result),
    ];
    parts.into_iter().fold(bytes, usize::saturating_add)
}

/// Bytes of a record with its padding.
///
/// # Errors
/// It is too large, or one of its texts is.
pub(crate) fn span(record: &Record<'_>) -> Result<usize, TooLarge> {
    let (_, body) = kind_and_body_bytes(record);
    let bytes = HEAD_BYTES.saturating_add(body);
    if bytes > RECORD_BYTES_MAX {
        return Err(TooLarge { bytes });
    }
    if let Record::Task(whole) = record {
        text_len(whole.kind)?;
        text_len(whole.client.name)?;
        text_len(whole.client.host)?;
    }
    Ok(frame::padded(bytes))
}

/// Appends a record to `out`, unsealed.
///
/// # Errors
/// As [`span`]; then nothing was appended.
pub(crate) fn append(out: &mut Vec<u8>, record: &Record<'_>, lsn: Lsn) -> Result<(), TooLarge> {
    let span = span(record)?;
    let (kind, body) = kind_and_body_bytes(record);
    let bytes = u32::try_from(HEAD_BYTES + body).map_err(|_| TooLarge { bytes: body })?;
    let start = out.len();
    out.extend_from_slice(&frame::head(kind, bytes, lsn));
    body_of(out, record)?;
    debug_assert_eq!(out.len(), start + HEAD_BYTES + body, "{record:?}");
    out.resize(start + span, 0);
    Ok(())
}

/// Appends the last record of a snapshot.
pub(crate) fn append_end(out: &mut Vec<u8>, lsn: Lsn, numbers: [u64; 3]) {
    let mut body = Fixed::<24>::new();
    for number in numbers {
        body.u64(number);
    }
    out.extend_from_slice(&frame::head(Kind::End, 80, lsn));
    out.extend_from_slice(&body.bytes);
}

fn body_of(out: &mut Vec<u8>, record: &Record<'_>) -> Result<(), TooLarge> {
    match *record {
        Record::Task(ref whole) => return task(out, whole),
        Record::Attempt {
            task,
            attempt,
            worker,
        } => {
            let mut body = Fixed::<24>::new();
            body.u64(task.as_raw());
            body.u64(worker);
            body.u8(attempt);
            out.extend_from_slice(&body.bytes);
        }
        Record::Requeue {
            task,
            phase,
            attempt,
            failures,
            losses,
            due_unix_ms,
        } => {
            let mut body = Fixed::<24>::new();
            body.u64(task.as_raw());
            body.u64(due_unix_ms);
            body.put([phase as u8, attempt, failures, losses]);
            out.extend_from_slice(&body.bytes);
        }
        Record::Outcome { .. } => outcome(out, record),
        Record::Cancel { task } | Record::Acknowledged { task } | Record::Purge { task } => {
            out.extend_from_slice(&task.as_raw().to_le_bytes());
        }
        Record::Reserve { gen_limit } => out.extend_from_slice(&gen_limit.to_le_bytes()),
        Record::Update { task, priority } => {
            let mut body = Fixed::<16>::new();
            body.u64(task.as_raw());
            body.u8(priority);
            out.extend_from_slice(&body.bytes);
        }
        Record::Key {
            key,
            task,
            expires_unix_ms,
        } => {
            out.extend_from_slice(&key.to_bytes());
            out.extend_from_slice(&task.as_raw().to_le_bytes());
            out.extend_from_slice(&expires_unix_ms.to_le_bytes());
        }
    }
    Ok(())
}

/// ```text
/// 0 id | 8 stamp | 16 slot's lsn | 24 submitted | 32 due | 40 ended | 48 timeout u32, estimate u32
/// 56 phase attempt failures losses, max_attempts options priority flags (u8 each)
/// 64 outcome u16 | 66 lengths of kind, name, host | 69 payload's and result's tag | 71 0 | 72 uid u32 | 76 kept s u32
/// 80 payload length | 88 result length | 96 payload number u32, crc u32 | 104 result number u32, crc u32
/// 112 array id, index | key 16 bytes, expiry | kind | name | host | payload | result
/// ```
#[inline]
fn task(out: &mut Vec<u8>, whole: &WholeTask<'_>) -> Result<(), TooLarge> {
    let mut body = Fixed::<TASK_FIXED>::new();
    body.u64(whole.id.as_raw());
    body.u64(whole.stamp);
    body.u64(whole.lsn.get());
    body.u64(whole.submitted_unix_ms);
    body.u64(whole.due_unix_ms);
    body.u64(whole.ended_unix_ms);
    body.u32(whole.timeout_ms);
    body.u32(whole.estimate_ms);
    body.put([
        whole.phase as u8,
        whole.attempt,
        whole.failures,
        whole.losses,
        whole.max_attempts,
        whole.options,
        whole.priority,
        flags_of(whole),
    ]);
    body.put(whole.outcome.to_bits().to_le_bytes());
    body.u8(text_len(whole.kind)?);
    body.u8(text_len(whole.client.name)?);
    body.u8(text_len(whole.client.host)?);
    body.u8(blob_tag(whole.payload));
    body.u8(blob_tag(whole.result));
    body.u8(0);
    body.u32(whole.client.uid.unwrap_or(0));
    body.u32(whole.keep_s);
    let (payload_len, payload_number, payload_crc) = blob_numbers(whole.payload);
    let (result_len, result_number, result_crc) = blob_numbers(whole.result);
    body.u64(payload_len);
    body.u64(result_len);
    body.u32(payload_number);
    body.u32(payload_crc);
    body.u32(result_number);
    body.u32(result_crc);
    out.extend_from_slice(&body.bytes);
    if let Some((id, index)) = whole.array {
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&index.to_le_bytes());
    }
    if let Some((key, expiry)) = whole.key {
        out.extend_from_slice(&key.to_bytes());
        out.extend_from_slice(&expiry.to_le_bytes());
    }
    out.extend_from_slice(whole.kind.as_bytes());
    out.extend_from_slice(whole.client.name.as_bytes());
    out.extend_from_slice(whole.client.host.as_bytes());
    append_blob(out, whole.payload);
    append_blob(out, whole.result);
    Ok(())
}

const fn flags_of(whole: &WholeTask<'_>) -> u8 {
    let mut flags = 0;
    if whole.cancel_requested {
        flags |= FLAG_CANCEL_REQUESTED;
    }
    if whole.client.uid.is_some() {
        flags |= FLAG_UID;
    }
    if whole.array.is_some() {
        flags |= FLAG_ARRAY;
    }
    if whole.key.is_some() {
        flags |= FLAG_KEY;
    }
    flags
}

fn append_blob(out: &mut Vec<u8>, blob: Blob<'_>) {
    if let Blob::Bytes(bytes) = blob {
        out.extend_from_slice(bytes);
    }
}

/// ```text
/// 0 id | 8 ended | 16 phase attempt failures losses, tag of the result 0 0 0 | 24 outcome u16 0 0 0 0 0 0
/// 32 length | 40 number u32, crc u32 | 48 result
/// ```
fn outcome(out: &mut Vec<u8>, record: &Record<'_>) {
    let &Record::Outcome {
        task,
        attempt,
        phase,
        outcome,
        failures,
        losses,
        ended_unix_ms,
        result,
    } = record
    else {
        return;
    };
    let (len, number, crc32c) = blob_numbers(result);
    let mut body = Fixed::<OUTCOME_FIXED>::new();
    body.u64(task.as_raw());
    body.u64(ended_unix_ms);
    body.put([
        phase as u8,
        attempt,
        failures,
        losses,
        blob_tag(result),
        0,
        0,
        0,
    ]);
    body.u64(u64::from(outcome.to_bits()));
    body.u64(len);
    body.u32(number);
    body.u32(crc32c);
    out.extend_from_slice(&body.bytes);
    append_blob(out, result);
}

/// Phases in which a task may be recorded.
pub(crate) const fn may_be_recorded(phase: Phase) -> bool {
    !matches!(
        phase,
        Phase::Free | Phase::Claimed | Phase::Reserved | Phase::Quarantine
    )
}
