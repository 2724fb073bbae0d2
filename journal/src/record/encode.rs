//! Writing the bodies of records: a fixed part of numbers, and fields that a reader of another version may pass over.
//!
//! ```text
//! body    bytes of the fixed part u16, fields u16, 0 u32 | fixed part | fields
//! field   tag u16, 0 u16, bytes u32 | the bytes, then zeros up to a multiple of 8; see `Tag`
//!
//! fixed parts; what this version does not know yet is 0, which is "not said"
//! submit  id, stamp, slot's lsn, submitted, due, started, ended u64 | timeout, estimate u32 | fence u16
//!         phase, priority, failures, losses, max_attempts, flags u8 | options, keep_s u32 | outcome u16, 6 x 0
//! attempt id, worker, started u64 | fence u16, 6 x 0                 requeue id, due u64 | fence u16 | phase, failures, losses, why u8, 2 x 0
//! outcome id, ended, started u64 | cpu_ms, peak_kib u32 | outcome, fence u16 | phase, failures, losses u8, 0
//! cancel, acknowledged, purge id u64         reserve limit u64         update id u64 | priority u8, 7 x 0
//! key     key 16 bytes | id, expiry u64                                end tasks, limit, lsn shown u64
//! ```
//! Fixed parts are multiples of 8, so bodies are, and records need no padding of their own.
//!
//! Tested in `journal/tests/journal/records.rs` against `decode.rs`, for all records.

use qtf_shm::Phase;

use super::frame::{self, HEAD_BYTES, Kind, RECORD_BYTES_MAX};
use super::{Blob, Record, WholeTask};
use crate::Lsn;

/// What stands before the fixed part.
pub(crate) const PREFIX_BYTES: usize = 8;
const FIELD_HEAD_BYTES: usize = 8;
/// In a submission: the cancellation was asked for.
pub(crate) const FLAG_CANCEL_REQUESTED: u8 = 1;
/// In a tag: who does not know it must not pass over it.
const MUST_BE_KNOWN: u16 = 1 << 15;

/// What a field says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Tag {
    Kind = 1,
    ClientName = 2,
    ClientHost = 3,
    Payload = 4,
    /// Number u32, crc u32, bytes u64 of a spill file.
    PayloadSpill = 5,
    Result = 6,
    ResultSpill = 7,
    /// Id and index.
    Array = 8,
    /// 16 bytes, and the expiry.
    Key = 9,
    Uid = 10,
}

impl Tag {
    const ALL: [Self; 10] = [
        Self::Kind,
        Self::ClientName,
        Self::ClientHost,
        Self::Payload,
        Self::PayloadSpill,
        Self::Result,
        Self::ResultSpill,
        Self::Array,
        Self::Key,
        Self::Uid,
    ];

    pub(super) fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|tag| *tag as u16 == number)
    }

    pub(super) const fn must_be_known(number: u16) -> bool {
        number & MUST_BE_KNOWN != 0
    }
}

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

    fn u16(&mut self, value: u16) {
        self.put(value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.put(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.put(value.to_le_bytes());
    }
}

fn text_len(text: &str) -> Result<u8, TooLarge> {
    u8::try_from(text.len()).map_err(|_| TooLarge { bytes: text.len() })
}

/// Number, checksum and length of a spill file, as a field has them.
fn spill_bytes(number: u32, crc32c: u32, len: u64) -> [u8; 16] {
    let mut bytes = Fixed::<16>::new();
    bytes.u32(number);
    bytes.u32(crc32c);
    bytes.u64(len);
    bytes.bytes
}

fn blob_field(blob: Blob<'_>, (inside, beside): (Tag, Tag), each: &mut impl FnMut(Tag, &[u8])) {
    match blob {
        Blob::None => {}
        Blob::Bytes(bytes) => each(inside, bytes),
        Blob::Spill {
            number,
            len,
            crc32c,
        } => each(beside, &spill_bytes(number, crc32c, len)),
    }
}

const PAYLOAD: (Tag, Tag) = (Tag::Payload, Tag::PayloadSpill);
const RESULT: (Tag, Tag) = (Tag::Result, Tag::ResultSpill);

/// Hands each field of a record over, in the order of the tags.
fn each_field(record: &Record<'_>, each: &mut impl FnMut(Tag, &[u8])) {
    let whole = match record {
        Record::Task(whole) => whole,
        Record::Outcome { result, .. } => return blob_field(*result, RESULT, each),
        Record::Attempt { .. }
        | Record::Requeue { .. }
        | Record::Cancel { .. }
        | Record::Acknowledged { .. }
        | Record::Purge { .. }
        | Record::Reserve { .. }
        | Record::Update { .. }
        | Record::Key { .. } => return,
    };
    for (tag, text) in [
        (Tag::Kind, whole.kind),
        (Tag::ClientName, whole.client.name),
        (Tag::ClientHost, whole.client.host),
    ] {
        if !text.is_empty() {
            each(tag, text.as_bytes());
        }
    }
    blob_field(whole.payload, PAYLOAD, each);
    blob_field(whole.result, RESULT, each);
    if let Some((id, index)) = whole.array {
        let mut bytes = Fixed::<16>::new();
        bytes.u64(id);
        bytes.u64(index);
        each(Tag::Array, &bytes.bytes);
    }
    if let Some((key, expiry)) = whole.key {
        let mut bytes = Fixed::<24>::new();
        bytes.put(key.to_bytes());
        bytes.u64(expiry);
        each(Tag::Key, &bytes.bytes);
    }
    if let Some(uid) = whole.client.uid {
        each(Tag::Uid, &uid.to_le_bytes());
    }
}

const fn kind_and_fixed_bytes(record: &Record<'_>) -> (Kind, u16) {
    match record {
        Record::Task(_) => (Kind::Task, 88),
        Record::Attempt { .. } => (Kind::Attempt, 32),
        Record::Requeue { .. } => (Kind::Requeue, 24),
        Record::Outcome { .. } => (Kind::Outcome, 40),
        Record::Cancel { .. } => (Kind::Cancel, 8),
        Record::Acknowledged { .. } => (Kind::Acknowledged, 8),
        Record::Purge { .. } => (Kind::Purge, 8),
        Record::Reserve { .. } => (Kind::Reserve, 8),
        Record::Update { .. } => (Kind::Update, 16),
        Record::Key { .. } => (Kind::Key, 32),
    }
}

/// Bytes of a record.
///
/// # Errors
/// It is too large, or one of its texts is.
pub(crate) fn span(record: &Record<'_>) -> Result<usize, TooLarge> {
    let (_, fixed) = kind_and_fixed_bytes(record);
    let mut bytes = HEAD_BYTES + PREFIX_BYTES + usize::from(fixed);
    each_field(record, &mut |_, content| {
        let field = frame::padded(content.len()).saturating_add(FIELD_HEAD_BYTES);
        bytes = bytes.saturating_add(field);
    });
    if bytes > RECORD_BYTES_MAX {
        return Err(TooLarge { bytes });
    }
    if let Record::Task(whole) = record {
        text_len(whole.kind)?;
        text_len(whole.client.name)?;
        text_len(whole.client.host)?;
    }
    Ok(bytes)
}

/// Appends a record to `out`, unsealed.
///
/// # Errors
/// As [`span`]; then nothing was appended.
pub(crate) fn append(out: &mut Vec<u8>, record: &Record<'_>, lsn: Lsn) -> Result<(), TooLarge> {
    let span = span(record)?;
    let (kind, fixed) = kind_and_fixed_bytes(record);
    let bytes = u32::try_from(span).map_err(|_| TooLarge { bytes: span })?;
    let start = out.len();
    out.reserve(span);
    out.extend_from_slice(&frame::head(kind, bytes, lsn));
    let prefix = out.len();
    out.extend_from_slice(&prefix_of(fixed));
    fixed_part(out, record);
    let mut fields = 0_u16;
    each_field(record, &mut |tag, content| {
        fields += 1;
        append_field(out, tag, content);
    });
    if let Some(prefix) = out.get_mut(prefix..) {
        frame::put(prefix, 2, fields.to_le_bytes());
    }
    debug_assert_eq!(out.len(), start + span, "{record:?}");
    Ok(())
}

/// What stands before a fixed part that no field follows.
fn prefix_of(fixed: u16) -> [u8; PREFIX_BYTES] {
    let mut prefix = Fixed::<PREFIX_BYTES>::new();
    prefix.u16(fixed);
    prefix.bytes
}

fn append_field(out: &mut Vec<u8>, tag: Tag, content: &[u8]) {
    let mut head = Fixed::<FIELD_HEAD_BYTES>::new();
    head.u16(tag as u16);
    head.u16(0);
    // LIMIT: a record has 160 KiB.
    head.u32(u32::try_from(content.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(&head.bytes);
    out.extend_from_slice(content);
    let padding = frame::padded(content.len()) - content.len();
    out.extend_from_slice(&[0; frame::ALIGN][..padding]);
}

/// Appends the last record of a snapshot.
pub(crate) fn append_end(out: &mut Vec<u8>, lsn: Lsn, numbers: [u64; 3]) {
    const FIXED: u16 = 24;
    let bytes = HEAD_BYTES + PREFIX_BYTES + usize::from(FIXED);
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    out.extend_from_slice(&frame::head(Kind::End, bytes, lsn));
    out.extend_from_slice(&prefix_of(FIXED));
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn fixed_part(out: &mut Vec<u8>, record: &Record<'_>) {
    match *record {
        Record::Task(ref whole) => task(out, whole),
        Record::Attempt {
            task,
            attempt,
            worker,
        } => {
            let mut body = Fixed::<32>::new();
            body.u64(task.as_raw());
            body.u64(worker);
            body.u64(0);
            body.u16(attempt);
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
            body.u16(attempt);
            body.put([phase as u8, failures, losses]);
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
            body.put([priority]);
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
}

#[inline]
fn task(out: &mut Vec<u8>, whole: &WholeTask<'_>) {
    let mut body = Fixed::<88>::new();
    body.u64(whole.id.as_raw());
    body.u64(whole.stamp);
    body.u64(whole.lsn.get());
    body.u64(whole.submitted_unix_ms);
    body.u64(whole.due_unix_ms);
    body.u64(0);
    body.u64(whole.ended_unix_ms);
    body.u32(whole.timeout_ms);
    body.u32(whole.estimate_ms);
    body.u16(whole.attempt);
    body.put([
        whole.phase as u8,
        whole.priority,
        whole.failures,
        whole.losses,
        whole.max_attempts,
        u8::from(whole.cancel_requested) * FLAG_CANCEL_REQUESTED,
    ]);
    body.u32(u32::from(whole.options));
    body.u32(whole.keep_s);
    body.u16(whole.outcome.to_bits());
    out.extend_from_slice(&body.bytes);
}

fn outcome(out: &mut Vec<u8>, record: &Record<'_>) {
    let &Record::Outcome {
        task,
        attempt,
        phase,
        outcome,
        failures,
        losses,
        ended_unix_ms,
        result: _,
    } = record
    else {
        return;
    };
    let mut body = Fixed::<40>::new();
    body.u64(task.as_raw());
    body.u64(ended_unix_ms);
    body.u64(0);
    body.u64(0);
    body.u16(outcome.to_bits());
    body.u16(attempt);
    body.put([phase as u8, failures, losses]);
    out.extend_from_slice(&body.bytes);
}

/// Phases in which a task may be recorded.
pub(crate) const fn may_be_recorded(phase: Phase) -> bool {
    !matches!(
        phase,
        Phase::Free | Phase::Claimed | Phase::Reserved | Phase::Quarantine
    )
}
