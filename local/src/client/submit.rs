//! A submission: from the wire into the segment.
//!
//! A memory task goes CLAIMED -> READY (DELAYED, HELD) at once, and its submission is over. What the PLM has to judge (a journal task, one with
//! a key, one that runs at most once) becomes SUBMITTED and is named in the lane; it is accepted when the PLM says so. The checks are
//! those of the daemon, with its words.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use qtf_proto::limits::INLINE_BYTES_MAX;
use qtf_proto::v1::{Durability, Refusal, RefusalReason, SubmitVerdict, TaskSpec};
use qtf_shm::lane::Command;
use qtf_shm::time::STAMP_MAX;
use qtf_shm::{
    ClaimError, Event, KeyId, KindIndex, KindsFull, Now, SideRecord, TaskFields, TaskId,
    TaskOptions,
};
use tokio::sync::oneshot;

use super::seat::{Answered, Seat};
use crate::refusals;
use crate::uploads::Uploads;

/// LIMIT: `max_attempts` is retries + 1 and attempts end at 254.
const RETRIES_MAX: u32 = 253;
/// LIMIT: ten years; keeps sums of times far from the end of 48-bit stamps.
const DELAY_MS_MAX: u64 = 315_360_000_000;
/// LIMIT: 31 bits of the side record, 68 years; a daemon's own bound is smaller, and ends it before.
const KEEP_MS_MAX: u64 = ((1 << 31) - 1) * 1_000;
/// LIMIT: a week, as the daemon takes it.
const KEY_TTL_MS_MAX: u64 = 604_800_000;
const KEY_TTL_MS: u64 = 3_600_000;
/// Priority of a task that names none.
const PRIORITY_DEFAULT: u32 = 128;
const KIND_BYTES_MAX: usize = 48;
const NS_PER_MS: u64 = 1_000_000;

/// What became of one.
pub(crate) enum Taken {
    /// It is in; whether its end comes to the lane by itself.
    In(SubmitVerdict, IsTold),
    /// The PLM has to say.
    Asked {
        task: TaskId,
        answered: oneshot::Receiver<Answered>,
        durability: Durability,
    },
}

/// The end of a task comes to the lane by itself.
pub(crate) type IsTold = bool;

/// What a specification says, checked.
struct Checked {
    fields: TaskFields,
    event: Event,
    durability: Durability,
    is_told: IsTold,
}

/// The place in an array: its first member, if it is known, and the index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    pub(crate) first: Option<TaskId>,
    pub(crate) index: u64,
}

/// The array that a task names.
pub(crate) fn member_of(spec: &TaskSpec, first: Option<TaskId>) -> Result<Option<Member>, Refusal> {
    if !spec.array_member {
        return Ok(None);
    }
    let first = match spec.array_id {
        0 => first,
        raw => Some(refusals::task_id(raw)?),
    };
    let index = spec.array_index;
    Ok(Some(Member { first, index }))
}

impl Seat {
    /// Takes one task in.
    pub(crate) fn submit(
        &self,
        uploads: &Uploads,
        spec: &TaskSpec,
        member: Option<Member>,
    ) -> Result<Taken, Refusal> {
        let payload = payload_of(uploads, spec)?;
        let mut checked = self.check(spec)?;
        let segment = &self.attachment;
        let mut claimed = segment.claim().map_err(refusals::claim)?;
        let id = claimed.id();
        claimed
            .set_payload(&payload)
            .map_err(|error| refusals::store(&error))?;
        if let Some(Member { first, index }) = member {
            let side = checked.fields.side.get_or_insert_default();
            side.array_id = first.unwrap_or(id).as_raw();
            side.array_index = index;
        }
        claimed
            .write(&checked.fields)
            .map_err(|error| refusals::store(&error))?;
        let published = claimed.publish(checked.event, segment.next_stamp());
        // Only if this process was believed dead.
        published.map_err(|_| refusals::claim(ClaimError::Full))?;
        if spec.payload_upload != 0 {
            uploads.use_up(spec.payload_upload);
        }
        if checked.event == Event::Submit {
            return Ok(Taken::Asked {
                task: id,
                answered: self.ask(Command::Submit(id)),
                durability: checked.durability,
            });
        }
        let verdict = SubmitVerdict {
            task_id: id.as_raw(),
            durability: checked.durability.into(),
            ..SubmitVerdict::default()
        };
        Ok(Taken::In(verdict, checked.is_told))
    }

    fn check(&self, spec: &TaskSpec) -> Result<Checked, Refusal> {
        let durability = self.durability_of(spec)?;
        let priority = check_numbers(spec)?;
        let key = key_of(spec)?;
        let kind = self.kind_of(&spec.kind)?;
        let event = self.event_of(spec, durability)?;
        let client = self.client();
        let is_told = client.is_some_and(|client| client.has_ends);
        let is_journalled = durability == Durability::Journal;
        let has_own_key = key.is_some() && spec.automatic_key;
        let options = [
            (spec.discard_result, TaskOptions::DISCARD_RESULT),
            (spec.at_most_once, TaskOptions::AT_MOST_ONCE),
            (has_own_key, TaskOptions::AUTOMATIC_KEY),
            (is_journalled, TaskOptions::JOURNAL),
            (is_told, TaskOptions::TELLS_LANE),
        ];
        let options = options
            .into_iter()
            .filter(|(is_set, _)| *is_set)
            .fold(TaskOptions::NONE, |all, (_, option)| all.with(option));
        let now = self.attachment.now();
        let due = now.plus_ns(spec.delay_ms.saturating_mul(NS_PER_MS));
        let fields = TaskFields {
            kind: Some(kind),
            priority,
            principal: 0,
            timeout_ms: spec.timeout_ms,
            max_attempts: u8::try_from(spec.retries + 1).unwrap_or(u8::MAX),
            client: client.map(|client| client.index),
            options,
            due: due.stamp().min(STAMP_MAX),
            side: side_record(spec, key, now)?,
        };
        Ok(Checked {
            fields,
            event,
            durability,
            is_told,
        })
    }

    fn kind_of(&self, name: &str) -> Result<KindIndex, Refusal> {
        if name.is_empty() || name.len() > KIND_BYTES_MAX {
            return Err(refusals::invalid(format!(
                "kind {name:?} has {} bytes: it must have 1 to {KIND_BYTES_MAX}",
                name.len()
            )));
        }
        let kinds = self.attachment.kinds();
        kinds.find(name).map_or_else(
            || {
                let full = |error: KindsFull| {
                    refusals::refuse(RefusalReason::KindsFull, error.to_string())
                };
                kinds.intern(name).map_err(full)
            },
            Ok,
        )
    }

    /// What makes the slot a task. What the PLM judges waits for a daemon, and is not submitted while none lives.
    fn event_of(&self, spec: &TaskSpec, durability: Durability) -> Result<Event, Refusal> {
        let is_journalled = durability == Durability::Journal;
        let is_judged = is_journalled || spec.at_most_once || !spec.idempotency_key.is_empty();
        if !is_judged {
            return Ok(match (spec.hold, spec.delay_ms) {
                (true, _) => Event::AdmitHeld,
                (false, 0) => Event::Admit,
                (false, _) => Event::AdmitDelayed,
            });
        }
        if spec.hold {
            return Err(refusals::refuse(
                RefusalReason::Unsupported,
                "a task that is held from its submission on, and is journalled, has a key or runs at most once, needs the daemon's socket: --addr unix:...",
            ));
        }
        if !self.daemon_is_there() {
            let what = if is_journalled {
                "a journal task"
            } else {
                "a task with a key, or one that runs at most once,"
            };
            return Err(refusals::for_now(
                RefusalReason::Stopping,
                format!(
                    "{what} waits for the daemon, which does not run: start qtfd; memory tasks without a key go on meanwhile"
                ),
            ));
        }
        Ok(Event::Submit)
    }

    /// What the answer will promise.
    fn durability_of(&self, spec: &TaskSpec) -> Result<Durability, Refusal> {
        match Durability::try_from(spec.durability) {
            Ok(Durability::Unspecified) if self.durable_by_default => Ok(Durability::Journal),
            Ok(Durability::Unspecified | Durability::Memory) => Ok(Durability::Memory),
            Ok(Durability::Journal) => Ok(Durability::Journal),
            Err(_) => Err(refusals::invalid(format!(
                "durability {} is not known to this version",
                spec.durability
            ))),
        }
    }
}

/// Checks the numbers of a specification; its priority.
fn check_numbers(spec: &TaskSpec) -> Result<u8, Refusal> {
    if spec.retries > RETRIES_MAX {
        let (retries, most) = (spec.retries.into(), RETRIES_MAX.into());
        return Err(refusals::range("retries", retries, most));
    }
    if spec.at_most_once && spec.retries > 0 {
        return Err(refusals::invalid(
            "at_most_once and retries are both set: a task that runs at most once has no retries",
        ));
    }
    if spec.delay_ms > DELAY_MS_MAX {
        return Err(refusals::range("delay_ms", spec.delay_ms, DELAY_MS_MAX));
    }
    if spec.keep_ms > KEEP_MS_MAX {
        return Err(refusals::range("keep_ms", spec.keep_ms, KEEP_MS_MAX));
    }
    let priority = spec.priority.unwrap_or(PRIORITY_DEFAULT);
    u8::try_from(priority).map_err(|_| refusals::range("priority", priority.into(), u8::MAX.into()))
}

/// The bytes for the worker.
fn payload_of(uploads: &Uploads, spec: &TaskSpec) -> Result<Bytes, Refusal> {
    if spec.payload_upload == 0 {
        if spec.payload.len() > INLINE_BYTES_MAX {
            return Err(refusals::refuse(
                RefusalReason::PayloadTooLarge,
                format!(
                    "payload of {} bytes: more than {INLINE_BYTES_MAX} go through UploadPayload",
                    spec.payload.len()
                ),
            ));
        }
        return Ok(spec.payload.clone());
    }
    if !spec.payload.is_empty() {
        return Err(refusals::invalid(
            "payload and payload_upload are both set: use one",
        ));
    }
    uploads.look(spec.payload_upload).ok_or_else(|| {
        refusals::refuse(
            RefusalReason::UnknownUpload,
            "upload receipt is not known: it was used, or is another session's; upload again",
        )
    })
}

/// The idempotency key of a task, if it has one.
fn key_of(spec: &TaskSpec) -> Result<Option<KeyId>, Refusal> {
    if spec.idempotency_key.is_empty() {
        return Ok(None);
    }
    let bytes = <&[u8; 16]>::try_from(&*spec.idempotency_key).ok();
    bytes.and_then(KeyId::from_bytes).map(Some).ok_or_else(|| {
        refusals::invalid(format!(
            "idempotency_key has {} bytes: it must have 16 that are not all zero, or none",
            spec.idempotency_key.len()
        ))
    })
}

/// What few tasks need.
fn side_record(
    spec: &TaskSpec,
    key: Option<KeyId>,
    now: Now,
) -> Result<Option<SideRecord>, Refusal> {
    if spec.estimate_ms == 0 && spec.keep_ms == 0 && key.is_none() {
        return Ok(None);
    }
    let ttl_ms = match spec.key_ttl_ms {
        0 => KEY_TTL_MS,
        ms if ms <= KEY_TTL_MS_MAX => ms,
        ms => return Err(refusals::range("key_ttl_ms", ms, KEY_TTL_MS_MAX)),
    };
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    let unix_ms = since_1970.map_or(0, |time| time.as_millis());
    Ok(Some(SideRecord {
        key: key.map_or([0, 0], KeyId::words),
        key_expiry: match key {
            Some(_) => now.plus_ns(ttl_ms.saturating_mul(NS_PER_MS)).stamp(),
            None => 0,
        },
        estimate_ms: spec.estimate_ms,
        keep_s: u32::try_from(spec.keep_ms.div_ceil(1_000)).unwrap_or(u32::MAX >> 1),
        submitted_unix_ms: u64::try_from(unix_ms).unwrap_or(0),
        ..SideRecord::default()
    }))
}

/// The verdict on what the PLM had to say about.
pub(crate) fn verdict(answered: Answered, durability: Durability) -> SubmitVerdict {
    match answered {
        Ok(accepted) => SubmitVerdict {
            task_id: accepted.task.as_raw(),
            refusal: None,
            durability: durability.into(),
            is_repeat: accepted.is_repeat,
            result_expired: accepted.result_expired,
        },
        Err(refusal) => refused(refusal),
    }
}

pub(crate) fn refused(refusal: Refusal) -> SubmitVerdict {
    SubmitVerdict {
        refusal: Some(refusal),
        ..SubmitVerdict::default()
    }
}
