//! Reading the bodies of version 1, which nothing writes any more. Nothing is believed beyond the checksum: lengths must add up, numbers
//! must exist.
//!
//! ```text
//! submit
//!   0 id | 8 stamp | 16 slot's lsn | 24 submitted | 32 due | 40 ended | 48 timeout u32, estimate u32
//!  56 phase attempt failures losses, max_attempts options priority flags (u8 each)
//!  64 outcome u16 | 66 lengths of kind, name, host | 69 payload's and result's tag | 71 0 | 72 uid u32 | 76 kept s u32
//!  80 payload length | 88 result length | 96 payload number u32, crc u32 | 104 result number u32, crc u32
//! 112 array id, index | key 16 bytes, expiry | kind | name | host | payload | result
//! outcome
//!   0 id | 8 ended | 16 phase attempt failures losses, tag of the result 0 0 0 | 24 outcome u16 0 0 0 0 0 0
//!  32 length | 40 number u32, crc u32 | 48 result
//! ```
//! Tested in `journal/tests/journal/committed.rs`, by a folder of that version.

use qtf_shm::{Outcome, Phase};

use super::decode::{BadRecord, phase};
use super::frame::Kind;
use super::parts::Parts;
use super::{Blob, ClientRef, Record, WholeTask};
use crate::Lsn;

const FLAG_CANCEL_REQUESTED: u8 = 1;
const FLAG_UID: u8 = 2;
const FLAG_ARRAY: u8 = 4;
const FLAG_KEY: u8 = 8;

const BLOB_NONE: u8 = 0;
const BLOB_BYTES: u8 = 1;
const BLOB_SPILL: u8 = 2;

/// Tag, length, number and checksum of a blob; its bytes are taken later.
#[derive(Clone, Copy)]
struct BlobHead {
    tag: u8,
    len: u64,
    number: u32,
    crc32c: u32,
}

impl BlobHead {
    fn take<'a>(self, parts: &mut Parts<'a>) -> Result<Blob<'a>, BadRecord> {
        let Self {
            tag,
            len,
            number,
            crc32c,
        } = self;
        match tag {
            BLOB_NONE if len == 0 && number == 0 && crc32c == 0 => Ok(Blob::None),
            BLOB_BYTES if number == 0 && crc32c == 0 => {
                let len = usize::try_from(len).map_err(|_| BadRecord::Length)?;
                Ok(Blob::Bytes(parts.bytes(len)?))
            }
            BLOB_SPILL => Ok(Blob::Spill {
                number,
                len,
                crc32c,
            }),
            _ => Err(BadRecord::Field),
        }
    }
}

/// Reads the body of a record of the given kind.
pub(super) fn record(kind: Kind, body: &[u8]) -> Result<Record<'_>, BadRecord> {
    let mut parts = Parts { rest: body };
    let record = match kind {
        Kind::Task => Record::Task(task(&mut parts)?),
        Kind::Attempt => attempt(&mut parts)?,
        Kind::Requeue => requeue(&mut parts)?,
        Kind::Outcome => outcome(&mut parts)?,
        Kind::Cancel => Record::Cancel {
            task: parts.task()?,
        },
        Kind::Acknowledged => Record::Acknowledged {
            task: parts.task()?,
        },
        Kind::Purge => Record::Purge {
            task: parts.task()?,
        },
        Kind::Reserve => Record::Reserve {
            gen_limit: parts.gen_limit()?,
        },
        Kind::Update => {
            let (task, priority) = (parts.task()?, parts.u8()?);
            parts.zeros(7)?;
            Record::Update { task, priority }
        }
        Kind::Key => Record::Key {
            key: parts.key()?,
            task: parts.task()?,
            expires_unix_ms: parts.u64()?,
        },
        Kind::End | Kind::Truncate | Kind::Vote | Kind::Membership | Kind::Passable => {
            return Err(BadRecord::Kind(kind as u8));
        }
    };
    parts.end()?;
    Ok(record)
}

/// The number of a worker, which had its slot in 12 bits below the incarnation, and has it in 16.
const fn worker_id(number: u64) -> u64 {
    ((number >> 12) << 16) | (number & 0xFFF)
}

fn attempt(parts: &mut Parts<'_>) -> Result<Record<'static>, BadRecord> {
    let task = parts.task()?;
    let worker = worker_id(parts.u64()?);
    let attempt = parts.u8()?;
    parts.zeros(7)?;
    Ok(Record::Attempt {
        task,
        attempt: attempt.into(),
        worker,
    })
}

fn requeue(parts: &mut Parts<'_>) -> Result<Record<'static>, BadRecord> {
    let task = parts.task()?;
    let due_unix_ms = parts.u64()?;
    let [number, attempt, failures, losses] = parts.array()?;
    parts.zeros(4)?;
    let phase = phase(number)?;
    if !matches!(phase, Phase::Ready | Phase::Delayed | Phase::Held) {
        return Err(BadRecord::Phase(number));
    }
    Ok(Record::Requeue {
        task,
        phase,
        attempt: attempt.into(),
        failures,
        losses,
        due_unix_ms,
    })
}

fn outcome<'a>(parts: &mut Parts<'a>) -> Result<Record<'a>, BadRecord> {
    let task = parts.task()?;
    let ended_unix_ms = parts.u64()?;
    let [number, attempt, failures, losses, tag] = parts.array()?;
    parts.zeros(3)?;
    let outcome = Outcome::from_bits(parts.u16()?);
    parts.zeros(6)?;
    let head = BlobHead {
        tag,
        len: parts.u64()?,
        number: parts.u32()?,
        crc32c: parts.u32()?,
    };
    let phase = phase(number)?;
    if !matches!(
        phase,
        Phase::Done | Phase::Failed | Phase::Cancelled | Phase::DeadLetter
    ) {
        return Err(BadRecord::Phase(number));
    }
    let result = head.take(parts)?;
    Ok(Record::Outcome {
        task,
        attempt: attempt.into(),
        phase,
        outcome,
        failures,
        losses,
        ended_unix_ms,
        result,
    })
}

/// Reads the body of a submission.
pub(super) fn whole_task(body: &[u8]) -> Result<WholeTask<'_>, BadRecord> {
    let mut parts = Parts { rest: body };
    let whole = task(&mut parts)?;
    parts.end()?;
    Ok(whole)
}

/// What stands in the fixed part of a task about its variable part.
struct Variable {
    uid: u32,
    keep_s: u32,
    kind_len: u8,
    name_len: u8,
    host_len: u8,
    payload: BlobHead,
    result: BlobHead,
}

fn task<'a>(parts: &mut Parts<'a>) -> Result<WholeTask<'a>, BadRecord> {
    let (id, stamp, lsn) = (parts.task()?, parts.u64()?, parts.u64()?);
    let (submitted_unix_ms, due_unix_ms, ended_unix_ms) =
        (parts.u64()?, parts.u64()?, parts.u64()?);
    let (timeout_ms, estimate_ms) = (parts.u32()?, parts.u32()?);
    let [phase_number, attempt, failures, losses] = parts.array()?;
    let [max_attempts, options, priority, flags] = parts.array()?;
    let outcome = Outcome::from_bits(parts.u16()?);
    let variable = variable(parts, flags)?;
    let has = |flag: u8| flags & flag != 0;
    let array = match has(FLAG_ARRAY) {
        true => Some((parts.u64()?, parts.u64()?)),
        false => None,
    };
    let key = match has(FLAG_KEY) {
        true => Some((parts.key()?, parts.u64()?)),
        false => None,
    };
    let kind = parts.text(variable.kind_len)?;
    let client = ClientRef {
        uid: has(FLAG_UID).then_some(variable.uid),
        name: parts.text(variable.name_len)?,
        host: parts.text(variable.host_len)?,
    };
    if Lsn::new(lsn).get() != lsn {
        return Err(BadRecord::Field);
    }
    Ok(WholeTask {
        id,
        phase: phase(phase_number)?,
        cancel_requested: has(FLAG_CANCEL_REQUESTED),
        attempt: attempt.into(),
        failures,
        losses,
        max_attempts,
        options,
        priority,
        stamp,
        timeout_ms,
        estimate_ms,
        keep_s: variable.keep_s,
        kind,
        client,
        submitted_unix_ms,
        due_unix_ms,
        ended_unix_ms,
        array,
        key,
        outcome,
        payload: variable.payload.take(parts)?,
        result: variable.result.take(parts)?,
        lsn: Lsn::new(lsn),
    })
}

fn variable(parts: &mut Parts<'_>, flags: u8) -> Result<Variable, BadRecord> {
    if flags & !(FLAG_CANCEL_REQUESTED | FLAG_UID | FLAG_ARRAY | FLAG_KEY) != 0 {
        return Err(BadRecord::Field);
    }
    let [kind_len, name_len, host_len, payload_tag, result_tag] = parts.array()?;
    parts.zeros(1)?;
    let (uid, keep_s) = (parts.u32()?, parts.u32()?);
    let (payload_len, result_len) = (parts.u64()?, parts.u64()?);
    let mut head = |tag, len| {
        Ok(BlobHead {
            tag,
            len,
            number: parts.u32()?,
            crc32c: parts.u32()?,
        })
    };
    Ok(Variable {
        uid,
        keep_s,
        kind_len,
        name_len,
        host_len,
        payload: head(payload_tag, payload_len)?,
        result: head(result_tag, result_len)?,
    })
}
