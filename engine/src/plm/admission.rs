//! Admission: from what a client asks for to a task in the segment.
//!
//! Everything is checked before a slot is claimed; a slot that was claimed and cannot be filled
//! goes back at once (dropping [`qtf_shm::ClaimedTask`] frees it). A memory task needs no judgement
//! and goes CLAIMED -> READY (or DELAYED) directly. Stamps rise strictly, so tasks of one priority
//! keep the order of their submission. Tested in `engine/tests/rules/submission.rs`.

use qtf_shm::{
    AttachIndex, BlobRef, ClaimError, ClientIndex, Counter, Event, KindIndex, Now, Segment,
    SideRecord, StoreError, TaskFields, TaskId, TaskOptions,
};

use qtf_shm::spill::SpillError;

use super::Plm;
use crate::answers::Accepted;
use crate::rejection::{Detail, RejectReason, Rejection};
use crate::turn::Turn;

/// LIMIT: `max_attempts` is retries + 1 and attempts end at 254.
const RETRIES_MAX: u32 = 253;
/// LIMIT: the name field in the segment's table of kinds.
const KIND_BYTES_MAX: usize = 48;
/// LIMIT: ten years; keeps sums of times far from the end of 48-bit stamps.
const DELAY_MS_MAX: u64 = 315_360_000_000;
/// Priority of a task that names none.
const PRIORITY_DEFAULT: u32 = 128;
const NS_PER_MS: u64 = 1_000_000;

/// Entries of the table of kinds that submissions leave to workers: names that nobody offers must not
/// keep a worker out.
const KINDS_KEPT: usize = 16;

/// Who names a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Namer {
    /// A worker, which offers it.
    Worker,
    /// A submission, which may ask for what nobody offers.
    Submission,
}

/// How durable the client wants its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Whatever the daemon can do at best: memory, as there is no journal yet.
    #[default]
    Best,
    /// Survives the daemon, not a reboot.
    Memory,
    /// On stable storage before the answer. Refused: there is no journal yet.
    Journal,
}

/// The bytes of a task's payload.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'a> {
    /// To be copied into the segment.
    Bytes(&'a [u8]),
    /// In a spill file already. It becomes the task's when the submission is accepted; when it is
    /// refused it stays the caller's, who removes it.
    Stored(BlobRef),
}

/// The place of a task in an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArrayMember {
    /// The first member; `None` in the first member itself.
    pub array: Option<TaskId>,
    /// The member's index.
    pub index: u64,
}

/// What a client asks for, as it came from the wire: every field is checked here.
#[derive(Debug, Clone, Copy)]
pub struct Submission<'a> {
    /// Who asks.
    pub client: ClientIndex,
    /// `exec` or the name of a handler; 1 to 48 bytes.
    pub kind: &'a str,
    /// What the worker gets.
    pub payload: Payload<'a>,
    /// 0 to 255, higher first; `None` means 128.
    pub priority: Option<u32>,
    /// Longest run time of one attempt; 0 = no limit.
    pub timeout_ms: u32,
    /// Attempts after the first that failures may use; 0 to 253. Lost workers use their own budget.
    pub retries: u32,
    /// Expected run time; 0 = unknown.
    pub estimate_ms: u32,
    /// Earliest start, counted from now; 0 = at once.
    pub delay_ms: u64,
    /// What is asked for.
    pub durability: Durability,
    /// Empty, or refused: keys need the journal's table.
    pub idempotency_key: &'a [u8],
    /// Free the slot as soon as the task has succeeded.
    pub discard_result: bool,
    /// Membership in an array.
    pub array: Option<ArrayMember>,
    /// Wall clock, for display only.
    pub submitted_unix_ms: u64,
}

impl<'a> Submission<'a> {
    /// A submission with defaults for everything but these.
    #[must_use]
    pub const fn new(client: ClientIndex, kind: &'a str, payload: Payload<'a>) -> Self {
        Self {
            client,
            kind,
            payload,
            priority: None,
            timeout_ms: 0,
            retries: 0,
            estimate_ms: 0,
            delay_ms: 0,
            durability: Durability::Best,
            idempotency_key: &[],
            discard_result: false,
            array: None,
            submitted_unix_ms: 0,
        }
    }
}

/// A submission that passed every check.
struct Checked {
    kind: KindIndex,
    priority: u8,
    max_attempts: u8,
}

impl Plm {
    /// Takes a task in, and counts a refusal.
    pub(crate) fn submit(
        &mut self,
        turn: &mut Turn<'_>,
        submission: &Submission<'_>,
    ) -> Result<Accepted, Rejection> {
        let taken = self.take_in(turn, submission);
        if let Err(refused) = &taken {
            let counter = if refused.reason == RejectReason::TasksFull {
                Counter::RefusedTasksFull
            } else if refused.reason == RejectReason::ArenaFull {
                Counter::RefusedArenaFull
            } else {
                Counter::RefusedOther
            };
            turn.segment.counters().add(counter, 1);
        }
        taken
    }

    fn take_in(
        &mut self,
        turn: &Turn<'_>,
        submission: &Submission<'_>,
    ) -> Result<Accepted, Rejection> {
        let checked = self.check_submission(turn, submission)?;
        let mut claimed = turn
            .segment
            .claim_task(AttachIndex::DAEMON)
            .map_err(|error| refused_claim(turn.segment, error))?;
        let id = claimed.id();
        claimed
            .write(&fields(turn.now, submission, (checked, id)))
            .map_err(|error| refused_store(&error))?;
        match submission.payload {
            Payload::Bytes(bytes) => claimed
                .set_payload(bytes)
                .map_err(|error| refused_store(&error))?,
            // Last, as a claim that is given up takes its payload with it.
            Payload::Stored(blob) => claimed.set_payload_blob(blob),
        }
        let event = if submission.delay_ms == 0 {
            Event::Admit
        } else {
            Event::AdmitDelayed
        };
        let stamp = self.next_stamp(turn.now);
        let id = claimed
            .publish(event, stamp)
            .map_err(|_| refused_claim(turn.segment, ClaimError::Full))?;
        turn.clients.task_accepted(turn.segment, submission.client);
        Ok(Accepted {
            task: id,
            durable: None,
            durability: Durability::Memory,
            is_repeat: false,
            result_expired: false,
        })
    }

    /// The number of a kind by its name; a new name gets a number, for a submission only while there is
    /// room for the kinds of workers to come.
    pub(crate) fn intern_kind(
        &mut self,
        segment: &Segment,
        name: &str,
        namer: Namer,
    ) -> Result<KindIndex, Rejection> {
        if name.is_empty() || name.len() > KIND_BYTES_MAX {
            return Err(Rejection::invalid(
                "kind must have 1 to 48 bytes: use exec or the name of a handler",
            ));
        }
        if let Some(known) = self.kind_names.iter().position(|known| **known == *name)
            && let Some(kind) = u16::try_from(known)
                .ok()
                .and_then(|raw| KindIndex::new_checked(raw, segment.geometry().kinds()))
        {
            return Ok(kind);
        }
        if name.chars().any(char::is_control) {
            return Err(Rejection::invalid(
                "kind contains a control character: use exec or the name of a handler",
            ));
        }
        let (interned, refusal) = match namer {
            Namer::Worker => (
                segment.kinds().intern(name),
                "the segment's table of task kinds is full: offer fewer kinds, or start a new segment",
            ),
            Namer::Submission => (
                segment.kinds().intern_keeping(name, KINDS_KEPT),
                "no worker has offered this kind, and the table of task kinds has no room for more such names: use a kind that a worker offers",
            ),
        };
        let kind = interned
            .map_err(|_| Rejection::new(RejectReason::KindsFull, Detail::Plain(refusal)))?;
        if let Some(place) = self.kind_names.get_mut(kind.position()) {
            *place = name.into();
        }
        Ok(kind)
    }

    fn check_submission(
        &mut self,
        turn: &Turn<'_>,
        submission: &Submission<'_>,
    ) -> Result<Checked, Rejection> {
        if self.intake_is_stopped {
            return Err(Rejection::new(
                RejectReason::Stopping,
                Detail::Plain("the daemon is stopping and takes no more tasks: submit again later"),
            ));
        }
        check_promises(submission)?;
        if !turn.clients.is_open(turn.segment, submission.client) {
            return Err(Rejection::new(
                RejectReason::UnknownSession,
                Detail::Session,
            ));
        }
        let priority = submission.priority.unwrap_or(PRIORITY_DEFAULT);
        let priority = u8::try_from(priority)
            .map_err(|_| Rejection::range("priority", u64::from(priority), 0, 255))?;
        if submission.retries > RETRIES_MAX {
            return Err(Rejection::range(
                "retries",
                u64::from(submission.retries),
                0,
                u64::from(RETRIES_MAX),
            ));
        }
        if submission.delay_ms > DELAY_MS_MAX {
            return Err(Rejection::range(
                "delay_ms",
                submission.delay_ms,
                0,
                DELAY_MS_MAX,
            ));
        }
        check_payload(submission.payload, turn.config.payload_limit)?;
        Ok(Checked {
            kind: self.intern_kind(turn.segment, submission.kind, Namer::Submission)?,
            priority,
            max_attempts: u8::try_from(submission.retries.saturating_add(1)).unwrap_or(u8::MAX),
        })
    }
}

/// Refuses what this version cannot promise.
fn check_promises(submission: &Submission<'_>) -> Result<(), Rejection> {
    if submission.durability == Durability::Journal {
        return Err(Rejection::new(
            RejectReason::NoJournal,
            Detail::Plain(
                "the daemon has no journal, so durability journal cannot be promised: submit with durability memory",
            ),
        ));
    }
    if !submission.idempotency_key.is_empty() {
        return Err(Rejection::new(
            RejectReason::Unsupported,
            Detail::Plain("idempotency keys are not offered by this version: submit without a key"),
        ));
    }
    Ok(())
}

fn check_payload(payload: Payload<'_>, limit: u64) -> Result<(), Rejection> {
    let bytes = match payload {
        Payload::Bytes(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        Payload::Stored(BlobRef::None) => 0,
        Payload::Stored(blob @ BlobRef::Spill { .. }) => blob.len(),
        Payload::Stored(BlobRef::Inline { .. } | BlobRef::Arena { .. }) => {
            return Err(Rejection::invalid(
                "a stored payload must lie in a spill file: send small payloads in the submission",
            ));
        }
    };
    if bytes > limit {
        return Err(Rejection::new(
            RejectReason::PayloadTooLarge,
            Detail::Size { bytes, limit },
        ));
    }
    Ok(())
}

/// Few tasks need a side record; the others get none. The first member of an array names itself.
fn side_record(submission: &Submission<'_>, own: TaskId) -> Option<SideRecord> {
    if submission.estimate_ms == 0 && submission.array.is_none() {
        return None;
    }
    let (array_id, array_index) = submission.array.map_or((0, 0), |member| {
        (member.array.unwrap_or(own).as_raw(), member.index)
    });
    Some(SideRecord {
        array_id,
        array_index,
        estimate_ms: submission.estimate_ms,
        submitted_unix_ms: submission.submitted_unix_ms,
        ..SideRecord::default()
    })
}

/// What goes into the slot.
fn fields(now: Now, submission: &Submission<'_>, (checked, id): (Checked, TaskId)) -> TaskFields {
    let options = if submission.discard_result {
        TaskOptions::DISCARD_RESULT
    } else {
        TaskOptions::NONE
    };
    let delay_ns = submission.delay_ms.saturating_mul(NS_PER_MS);
    TaskFields {
        kind: Some(checked.kind),
        priority: checked.priority,
        queue: 0,
        timeout_ms: submission.timeout_ms,
        max_attempts: checked.max_attempts,
        client: Some(submission.client),
        options,
        due: now.plus_ns(delay_ns).stamp(),
        side: side_record(submission, id),
    }
}

fn refused_claim(segment: &Segment, error: ClaimError) -> Rejection {
    match error {
        ClaimError::Full => {
            let count = u64::from(segment.geometry().tasks());
            let what = "task slots";
            Rejection::for_now(RejectReason::TasksFull, Detail::Full { what, count })
        }
        ClaimError::IdsExhausted => Rejection::for_now(
            RejectReason::IdsExhausted,
            Detail::Plain("the ids of this segment are used up: try again later"),
        ),
    }
}

fn refused_store(error: &StoreError) -> Rejection {
    match *error {
        StoreError::TooLarge { bytes, limit } => {
            Rejection::new(RejectReason::PayloadTooLarge, Detail::Size { bytes, limit })
        }
        StoreError::ArenaFull { bytes } => {
            Rejection::for_now(RejectReason::ArenaFull, Detail::NoRoom { bytes })
        }
        StoreError::Spill(SpillError::NoRoom { bytes, limit, .. }) => Rejection::for_now(
            RejectReason::SpillFailed,
            Detail::NoSpillRoom { bytes, limit },
        ),
        StoreError::Spill(_) => Rejection::for_now(
            RejectReason::SpillFailed,
            Detail::Plain(
                "the payload could not be written to the daemon's spill directory: see the daemon's log, and make room there",
            ),
        ),
        StoreError::NoSlot(task) => Rejection::unknown_task(task),
    }
}
