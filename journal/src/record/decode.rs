//! Reading the bodies of records. Nothing is believed beyond the checksum: lengths must add up, numbers must exist.
//!
//! Tested in `journal/tests/records.rs`: what was written comes back, and no bytes make it panic.

use core::str;

use qtf_shm::{KeyId, Outcome, Phase, TaskId};

use super::encode::{
    BLOB_BYTES, BLOB_NONE, BLOB_SPILL, FLAG_ARRAY, FLAG_CANCEL_REQUESTED, FLAG_KEY, FLAG_UID,
    may_be_recorded,
};
use super::frame::Kind;
use super::{Blob, ClientRef, Record, WholeTask};
use crate::Lsn;

/// A record with a right checksum says what cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// Its parts are longer or shorter than the record.
    #[error("its parts do not add up to its length")]
    Length,
    /// No task can have that id.
    #[error("{0:#x} is no task id")]
    TaskId(u64),
    /// No task can be recorded in that phase.
    #[error("number {0} is no phase that a task is recorded in")]
    Phase(u8),
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// A flag, a tag or a byte that must be zero.
    #[error("it uses a field that this version does not know")]
    Field,
    /// Its kind belongs to a later version, or to another sort of file.
    #[error("a record of kind {0} was written by a later version, or does not belong here")]
    Kind(u8),
}

/// Takes parts off the front of a body.
struct Parts<'a> {
    rest: &'a [u8],
}

impl<'a> Parts<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], BadRecord> {
        let (part, rest) = self.rest.split_at_checked(count).ok_or(BadRecord::Length)?;
        self.rest = rest;
        Ok(part)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadRecord> {
        let (part, rest) = self.rest.split_first_chunk().ok_or(BadRecord::Length)?;
        self.rest = rest;
        Ok(*part)
    }

    fn u8(&mut self) -> Result<u8, BadRecord> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, BadRecord> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, BadRecord> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, BadRecord> {
        self.array().map(u64::from_le_bytes)
    }

    fn zeros(&mut self, count: usize) -> Result<(), BadRecord> {
        let zeros = self.bytes(count)?;
        if zeros.iter().all(|&byte| byte == 0) {
            Ok(())
        } else {
            Err(BadRecord::Field)
        }
    }

    fn task(&mut self) -> Result<TaskId, BadRecord> {
        let raw = self.u64()?;
        TaskId::from_raw(raw).ok_or(BadRecord::TaskId(raw))
    }

    fn key(&mut self) -> Result<KeyId, BadRecord> {
        KeyId::from_bytes(&self.array()?).ok_or(BadRecord::Field)
    }

    fn text(&mut self, count: u8) -> Result<&'a str, BadRecord> {
        str::from_utf8(self.bytes(usize::from(count))?).map_err(|_| BadRecord::Text)
    }

    const fn end(&self) -> Result<(), BadRecord> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(BadRecord::Length)
        }
    }
}

fn phase(number: u8) -> Result<Phase, BadRecord> {
    Phase::ALL
        .get(usize::from(number))
        .copied()
        .filter(|&phase| may_be_recorded(phase))
        .ok_or(BadRecord::Phase(number))
}

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
///
/// # Errors
/// It says what cannot be, or belongs to a later version.
pub(crate) fn record(kind: Kind, body: &[u8]) -> Result<Record<'_>, BadRecord> {
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
            gen_limit: parts.u64()?,
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
        Kind::End | Kind::Truncate | Kind::Vote | Kind::Membership => {
            return Err(BadRecord::Kind(kind as u8));
        }
    };
    parts.end()?;
    Ok(record)
}

fn attempt(parts: &mut Parts<'_>) -> Result<Record<'static>, BadRecord> {
    let task = parts.task()?;
    let worker = parts.u64()?;
    let attempt = parts.u8()?;
    parts.zeros(7)?;
    Ok(Record::Attempt {
        task,
        attempt,
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
        attempt,
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
        attempt,
        phase,
        outcome,
        failures,
        losses,
        ended_unix_ms,
        result,
    })
}

/// Reads the body of a submission.
pub(crate) fn whole_task(body: &[u8]) -> Result<WholeTask<'_>, BadRecord> {
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
        attempt,
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
