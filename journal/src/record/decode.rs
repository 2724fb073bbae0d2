//! Reading the bodies of records. Nothing is believed beyond the checksum: lengths must add up, numbers must exist.
//!
//! A fixed part longer than is known here is read as far as it is known, one that is shorter as if zeros followed; a field whose tag
//! is not known is passed over, unless its tag says that it must be understood.
//!
//! Tested in `journal/tests/journal/records.rs`: what was written comes back, and no bytes make it panic; what a later version
//! may add at the end of this file.

use qtf_shm::{FENCE_MAX, Outcome, Phase, TaskId};

use super::encode::{FLAG_CANCEL_REQUESTED, PREFIX_BYTES, Tag, may_be_recorded};
use super::frame::{FORMAT_1, Frame, Kind};
use super::parts::Parts;
use super::{Blob, ClientRef, Record, WholeTask, earlier};
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
    /// Ids were reserved that are not a daemon's.
    #[error(
        "it reserves ids up to generation {0:#x}, and those from 2^35 on are of jobs of a grid: this version gives none of them, so it needs a new data folder"
    )]
    OfGrid(u64),
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

pub(super) fn phase(number: u8) -> Result<Phase, BadRecord> {
    Phase::ALL
        .get(usize::from(number))
        .copied()
        .filter(|&phase| may_be_recorded(phase))
        .ok_or(BadRecord::Phase(number))
}

/// Reads a record.
///
/// # Errors
/// It says what cannot be, or belongs to a later version.
pub(crate) fn record<'a>(frame: &Frame<'a>) -> Result<Record<'a>, BadRecord> {
    body(frame.kind, frame.format, frame.body)
}

/// Reads the body of a record of the given kind and format.
pub(crate) fn body(kind: Kind, format: u8, body: &[u8]) -> Result<Record<'_>, BadRecord> {
    if format == FORMAT_1 {
        return earlier::record(kind, body);
    }
    let body = Body::of(body)?;
    Ok(match kind {
        Kind::Task => Record::Task(task(&body)?),
        Kind::Attempt => attempt(&body)?,
        Kind::Requeue => requeue(&body)?,
        Kind::Outcome => outcome(&body)?,
        Kind::Cancel => Record::Cancel {
            task: body.only_task()?,
        },
        Kind::Acknowledged => Record::Acknowledged {
            task: body.only_task()?,
        },
        Kind::Purge => Record::Purge {
            task: body.only_task()?,
        },
        Kind::Reserve => {
            let bytes = body.fixed::<8>();
            let gen_limit = Parts { rest: &bytes }.gen_limit()?;
            Record::Reserve { gen_limit }
        }
        Kind::Update => {
            let bytes = body.fixed::<16>();
            let mut parts = Parts { rest: &bytes };
            let (task, priority) = (parts.task()?, parts.u8()?);
            Record::Update { task, priority }
        }
        Kind::Key => {
            let bytes = body.fixed::<32>();
            let mut parts = Parts { rest: &bytes };
            Record::Key {
                key: parts.key()?,
                task: parts.task()?,
                expires_unix_ms: parts.u64()?,
            }
        }
        Kind::End | Kind::Truncate | Kind::Vote | Kind::Membership | Kind::Passable => {
            return Err(BadRecord::Kind(kind as u8));
        }
    })
}

/// Reads the body of a submission.
pub(crate) fn whole_task(format: u8, body: &[u8]) -> Result<WholeTask<'_>, BadRecord> {
    if format == FORMAT_1 {
        return earlier::whole_task(body);
    }
    task(&Body::of(body)?)
}

/// The numbers of the last record of a snapshot.
pub(crate) fn end(frame: &Frame<'_>) -> Result<[u64; 3], BadRecord> {
    let bytes = if frame.format == FORMAT_1 {
        *frame.body.as_array().ok_or(BadRecord::Length)?
    } else {
        Body::of(frame.body)?.fixed::<24>()
    };
    let mut parts = Parts { rest: &bytes };
    Ok([parts.u64()?, parts.u64()?, parts.u64()?])
}

/// A body, taken apart; the fields are whole.
struct Body<'a> {
    fixed: &'a [u8],
    fields: &'a [u8],
}

impl<'a> Body<'a> {
    fn of(body: &'a [u8]) -> Result<Self, BadRecord> {
        let mut parts = Parts { rest: body };
        let (fixed, count, zero) = (parts.u16()?, parts.u16()?, parts.u32()?);
        if zero != 0 {
            return Err(BadRecord::Field);
        }
        let fixed = parts.bytes(usize::from(fixed))?;
        let fields = parts.rest;
        for _ in 0..count {
            let (tag, _) = field(&mut parts)?;
            if Tag::from_number(tag).is_none() && Tag::must_be_known(tag) {
                return Err(BadRecord::Field);
            }
        }
        parts.end()?;
        debug_assert!(body.len() >= PREFIX_BYTES, "it has been read");
        Ok(Self { fixed, fields })
    }

    /// The fixed part, cut or filled up with zeros.
    fn fixed<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        let known = self.fixed.len().min(N);
        bytes[..known].copy_from_slice(&self.fixed[..known]);
        bytes
    }

    fn only_task(&self) -> Result<TaskId, BadRecord> {
        let bytes = self.fixed::<8>();
        Parts { rest: &bytes }.task()
    }

    /// The fields that this version knows, in their order.
    fn known(&self) -> impl Iterator<Item = (Tag, &'a [u8])> + use<'a> {
        let mut parts = Parts { rest: self.fields };
        // Each was read once before.
        std::iter::from_fn(move || field(&mut parts).ok())
            .filter_map(|(tag, bytes)| Some((Tag::from_number(tag)?, bytes)))
    }
}

/// Takes a field off: its tag and its bytes.
fn field<'a>(parts: &mut Parts<'a>) -> Result<(u16, &'a [u8]), BadRecord> {
    let (tag, zero) = (parts.u16()?, parts.u16()?);
    let len = usize::try_from(parts.u32()?).map_err(|_| BadRecord::Length)?;
    if zero != 0 {
        return Err(BadRecord::Field);
    }
    let bytes = parts.bytes(len)?;
    parts.zeros(len.next_multiple_of(8) - len)?;
    Ok((tag, bytes))
}

/// The fence of an attempt; the state word has 12 bits for it.
fn attempt_of(fence: u16) -> Result<u16, BadRecord> {
    if fence > FENCE_MAX {
        return Err(BadRecord::Field);
    }
    Ok(fence)
}

fn spill(bytes: &[u8]) -> Result<Blob<'static>, BadRecord> {
    let mut parts = Parts { rest: bytes };
    let (number, crc32c, len) = (parts.u32()?, parts.u32()?, parts.u64()?);
    parts.end()?;
    Ok(Blob::Spill {
        number,
        len,
        crc32c,
    })
}

fn attempt(body: &Body<'_>) -> Result<Record<'static>, BadRecord> {
    let bytes = body.fixed::<32>();
    let mut parts = Parts { rest: &bytes };
    let (task, worker, _started) = (parts.task()?, parts.u64()?, parts.u64()?);
    Ok(Record::Attempt {
        task,
        attempt: attempt_of(parts.u16()?)?,
        worker,
    })
}

fn requeue(body: &Body<'_>) -> Result<Record<'static>, BadRecord> {
    let bytes = body.fixed::<24>();
    let mut parts = Parts { rest: &bytes };
    let (task, due_unix_ms) = (parts.task()?, parts.u64()?);
    let attempt = attempt_of(parts.u16()?)?;
    let [number, failures, losses, _why] = parts.array()?;
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

fn outcome<'a>(body: &Body<'a>) -> Result<Record<'a>, BadRecord> {
    let bytes = body.fixed::<40>();
    let mut parts = Parts { rest: &bytes };
    let (task, ended_unix_ms, _started) = (parts.task()?, parts.u64()?, parts.u64()?);
    let _used = parts.u64()?;
    let outcome = Outcome::from_bits(parts.u16()?);
    let attempt = attempt_of(parts.u16()?)?;
    let [number, failures, losses] = parts.array()?;
    let phase = phase(number)?;
    if !matches!(
        phase,
        Phase::Done | Phase::Failed | Phase::Cancelled | Phase::DeadLetter
    ) {
        return Err(BadRecord::Phase(number));
    }
    let mut result = Blob::None;
    for (tag, bytes) in body.known() {
        match tag {
            Tag::Result => result = Blob::Bytes(bytes),
            Tag::ResultSpill => result = spill(bytes)?,
            Tag::Kind
            | Tag::ClientName
            | Tag::ClientHost
            | Tag::Payload
            | Tag::PayloadSpill
            | Tag::Array
            | Tag::Key
            | Tag::Uid => {}
        }
    }
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

fn task<'a>(body: &Body<'a>) -> Result<WholeTask<'a>, BadRecord> {
    let bytes = body.fixed::<88>();
    let mut parts = Parts { rest: &bytes };
    let (id, stamp, lsn) = (parts.task()?, parts.u64()?, parts.u64()?);
    let (submitted_unix_ms, due_unix_ms) = (parts.u64()?, parts.u64()?);
    let (_started, ended_unix_ms) = (parts.u64()?, parts.u64()?);
    let (timeout_ms, estimate_ms) = (parts.u32()?, parts.u32()?);
    let attempt = attempt_of(parts.u16()?)?;
    let [number, priority, failures, losses, max_attempts, flags] = parts.array()?;
    let options = u8::try_from(parts.u32()?).map_err(|_| BadRecord::Field)?;
    let keep_s = parts.u32()?;
    let outcome = Outcome::from_bits(parts.u16()?);
    if Lsn::new(lsn).get() != lsn || flags & !FLAG_CANCEL_REQUESTED != 0 {
        return Err(BadRecord::Field);
    }
    let mut whole = WholeTask {
        id,
        phase: phase(number)?,
        cancel_requested: flags & FLAG_CANCEL_REQUESTED != 0,
        attempt,
        failures,
        losses,
        max_attempts,
        options,
        priority,
        stamp,
        timeout_ms,
        estimate_ms,
        keep_s,
        kind: "",
        client: ClientRef::default(),
        submitted_unix_ms,
        due_unix_ms,
        ended_unix_ms,
        array: None,
        key: None,
        outcome,
        payload: Blob::None,
        result: Blob::None,
        lsn: Lsn::new(lsn),
    };
    for (tag, bytes) in body.known() {
        take(&mut whole, tag, bytes)?;
    }
    Ok(whole)
}

/// Takes a field of a submission in.
fn take<'a>(whole: &mut WholeTask<'a>, tag: Tag, bytes: &'a [u8]) -> Result<(), BadRecord> {
    let mut parts = Parts { rest: bytes };
    match tag {
        Tag::Kind => whole.kind = parts.rest_as_text()?,
        Tag::ClientName => whole.client.name = parts.rest_as_text()?,
        Tag::ClientHost => whole.client.host = parts.rest_as_text()?,
        Tag::Payload => whole.payload = Blob::Bytes(parts.rest_as_bytes()),
        Tag::PayloadSpill => whole.payload = spill(parts.rest_as_bytes())?,
        Tag::Result => whole.result = Blob::Bytes(parts.rest_as_bytes()),
        Tag::ResultSpill => whole.result = spill(parts.rest_as_bytes())?,
        Tag::Array => whole.array = Some((parts.u64()?, parts.u64()?)),
        Tag::Key => whole.key = Some((parts.key()?, parts.u64()?)),
        Tag::Uid => whole.client.uid = Some(parts.u32()?),
    }
    parts.end()
}

#[cfg(test)]
mod tests {
    use super::super::encode::append;
    use super::super::frame::{self, BadFrame, FORMAT, HEAD_BYTES};
    use super::*;

    fn submission() -> WholeTask<'static> {
        WholeTask {
            id: TaskId::from_raw((5 << 24) | 3).unwrap(),
            phase: Phase::Held,
            cancel_requested: true,
            attempt: 4_095,
            failures: 1,
            losses: 2,
            max_attempts: 3,
            options: 4,
            priority: 5,
            stamp: 6,
            timeout_ms: 7,
            estimate_ms: 8,
            keep_s: 9,
            kind: "exec",
            client: ClientRef {
                uid: Some(0),
                name: "n",
                host: "",
            },
            submitted_unix_ms: 10,
            due_unix_ms: 11,
            ended_unix_ms: 12,
            array: Some((13, 14)),
            key: None,
            outcome: Outcome::from_bits(0x1103),
            payload: Blob::Bytes(b""),
            result: Blob::Spill {
                number: 15,
                len: 16,
                crc32c: 17,
            },
            lsn: Lsn::new(18),
        }
    }

    fn body_of(record: &Record<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        append(&mut bytes, record, Lsn::new(1)).unwrap();
        bytes.split_off(HEAD_BYTES)
    }

    /// With a field behind the others.
    fn with_field(mut bytes: Vec<u8>, tag: u16) -> Vec<u8> {
        bytes[2] += 1;
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&[0, 0, 3, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn fields_that_are_not_known_are_passed_over_but_not_those_that_must_be_known() {
        let whole = submission();
        let bytes = body_of(&Record::Task(whole.clone()));
        assert_eq!(whole_task(FORMAT, &bytes), Ok(whole.clone()));
        for tag in [11, 40, 0x4000, 0x7FFF] {
            let bytes = with_field(bytes.clone(), tag);
            assert_eq!(whole_task(FORMAT, &bytes), Ok(whole.clone()), "{tag}");
        }
        for tag in [0x8000, 0x8001, 0xFFFF] {
            let bytes = with_field(bytes.clone(), tag);
            assert_eq!(whole_task(FORMAT, &bytes), Err(BadRecord::Field), "{tag}");
        }
    }

    #[test]
    fn fixed_part_of_another_length_is_read_as_far_as_it_is_known() {
        let whole = submission();
        let bytes = body_of(&Record::Task(whole.clone()));
        let mut longer = bytes.clone();
        longer[0] += 8;
        longer.splice(96..96, [9; 8]);
        assert_eq!(whole_task(FORMAT, &longer), Ok(whole.clone()));
        // Without outcome and the zeros behind it.
        let mut shorter = bytes;
        shorter[0] -= 8;
        shorter.drain(88..96);
        let wanted = WholeTask {
            outcome: Outcome::default(),
            ..whole
        };
        assert_eq!(whole_task(FORMAT, &shorter), Ok(wanted));
    }

    #[test]
    fn fence_that_this_version_cannot_count_is_refused() {
        let mut bytes = body_of(&Record::Task(submission()));
        bytes[8 + 65] = 0x10;
        assert_eq!(whole_task(FORMAT, &bytes), Err(BadRecord::Field));
    }

    #[test]
    fn reservation_of_ids_that_would_be_of_a_grid_is_refused_for_that() {
        let parsed = |gen_limit: u64, format: u8| {
            let bytes = match format {
                FORMAT => body_of(&Record::Reserve { gen_limit }),
                _ => gen_limit.to_le_bytes().to_vec(),
            };
            let Record::Reserve { gen_limit } = body(Kind::Reserve, format, &bytes)? else {
                panic!("it is a reservation");
            };
            Ok(gen_limit)
        };
        for format in [FORMAT, FORMAT_1] {
            let last = (1 << 35) - 1;
            assert_eq!(parsed(last, format), Ok(last));
            assert_eq!(parsed(1 << 35, format), Err(BadRecord::OfGrid(1 << 35)));
        }
    }

    #[test]
    fn kinds_from_128_on_may_be_passed_over_and_no_others() {
        let parsed = |kind: u8, format: u8| {
            let mut bytes = Vec::new();
            let record = Record::Reserve { gen_limit: 1 };
            append(&mut bytes, &record, Lsn::new(1)).unwrap();
            bytes[8] = kind;
            bytes[9] = format;
            let seal = frame::Seal {
                epoch: 1,
                durable: Lsn::NONE,
                term: 1,
                lineage: 1,
            };
            frame::seal(&mut bytes, &seal, 0);
            frame::parse(&bytes, 1, None).map(|frame| frame.kind)
        };
        for kind in [128, 200, 255] {
            assert_eq!(parsed(kind, 2), Ok(Kind::Passable), "{kind}");
            for format in [1, 3] {
                let later = BadFrame::Later { kind, format };
                assert_eq!(parsed(kind, format), Err(later));
            }
        }
        for kind in [0, 15, 127] {
            let later = BadFrame::Later { kind, format: 2 };
            assert_eq!(parsed(kind, 2), Err(later), "{kind}");
        }
    }
}
