//! Admission: from what a client asks for to a task in the segment.
//!
//! Everything is checked before a slot is claimed; a slot that was claimed and cannot be filled
//! goes back at once (dropping [`qtf_shm::ClaimedTask`] frees it). A memory task needs no judgement
//! and goes CLAIMED -> READY (or DELAYED) directly, one that is to be held CLAIMED -> HELD; a journal task becomes SUBMITTED with its record
//! appended, and is accepted when that is durable (`accepting.rs`). Stamps rise strictly, so tasks of one priority
//! keep the order of their submission. Tested in `engine/tests/rules/submission.rs`.

use qtf_shm::time::STAMP_MAX;
use qtf_shm::{
    AttachIndex, BlobRef, ClaimError, ClaimedTask, Counter, Event, KeyId, KeyPlace, KindIndex, Now,
    Segment, SideRecord, StoreError, TaskFields, TaskId, TaskOptions,
};

use qtf_shm::spill::SpillError;

use super::kinds::Namer;
use crate::clients::{arena_bytes, arena_bytes_of};
use crate::plm::Durability;
use crate::plm::Plm;
use crate::plm::answers::Accepted;
use crate::plm::keys::entries::{NamedTask, key_expiry};
use crate::plm::records::pending::Then;
use crate::plm::submission::{Payload, Submission};
use crate::rejection::{Detail, RejectReason, Rejection};
use crate::turn::Turn;

/// LIMIT: 31 bits of the side record, 68 years.
const KEEP_S_MAX: u32 = (1 << 31) - 1;

/// LIMIT: `max_attempts` is retries + 1 and attempts end at 254.
const RETRIES_MAX: u32 = 253;
/// LIMIT: ten years; keeps sums of times far from the end of 48-bit stamps.
const DELAY_MS_MAX: u64 = 315_360_000_000;
/// Priority of a task that names none.
const PRIORITY_DEFAULT: u32 = 128;
const NS_PER_MS: u64 = 1_000_000;

/// A submission that passed every check.
#[derive(Clone, Copy)]
pub(in crate::plm) struct Checked {
    pub(in crate::plm) priority: u8,
    pub(in crate::plm) max_attempts: u8,
    pub(in crate::plm) durability: Durability,
    pub(in crate::plm) key_expiry: u64,
    /// A kind that has its number already.
    kind: Option<KindIndex>,
}

/// A submission that passed every check, with what was claimed for it.
struct Prepared<'s> {
    claimed: ClaimedTask<'s>,
    checked: Checked,
    key: Option<KeyPlace>,
}

/// A submission on its way into the journal.
#[derive(Clone, Copy)]
pub(in crate::plm) struct NewTask {
    pub(in crate::plm) checked: Checked,
    pub(in crate::plm) id: TaskId,
    pub(in crate::plm) stamp: u64,
}

impl Plm {
    pub(crate) fn stop_intake(&mut self) {
        self.intake.is_stopped = true;
    }

    /// The stamp of the next submission: now, and later than every one before.
    fn next_stamp(&mut self, now: Now) -> u64 {
        self.intake.last_stamp = now.stamp().max(self.intake.last_stamp.saturating_add(1));
        self.intake.last_stamp
    }

    /// Takes a task in, and counts a refusal.
    #[inline]
    pub(crate) fn submit(
        &mut self,
        turn: &mut Turn<'_>,
        submission: &Submission<'_>,
    ) -> Result<Accepted, Rejection> {
        let taken = self.take_in(turn, submission);
        if let Err(refused) = &taken {
            count_refusal(turn, refused.reason);
        }
        taken
    }

    #[inline]
    fn take_in(
        &mut self,
        turn: &mut Turn<'_>,
        submission: &Submission<'_>,
    ) -> Result<Accepted, Rejection> {
        self.check_intake(submission)?;
        if let Some(key) = submission.key
            && let Some(known) = self.repeated(turn.segment, turn.now, key)?
        {
            return Ok(known);
        }
        let checked = self.check_submission(turn, submission)?;
        let more = arena_bytes_of(payload_bytes(submission), needs_side_record(submission));
        turn.clients
            .check_arena_share(turn.segment, submission.client, more)?;
        let mut claimed = self.claim(turn)?;
        let id = claimed.id();
        if let Payload::Bytes(bytes) = submission.payload {
            claimed
                .set_payload(bytes)
                .map_err(|error| refused_store(&error))?;
        }
        let key = match submission.key {
            Some(key) => {
                let named = NamedTask {
                    key,
                    expiry: checked.key_expiry,
                    task: id,
                    client: submission.client,
                };
                Some(self.reserve_key(turn, named)?)
            }
            None => None,
        };
        let prepared = Prepared {
            claimed,
            checked,
            key,
        };
        let taken = self.bring_in(turn, submission, prepared);
        if let (Err(_), Some(place)) = (&taken, key) {
            self.forget_key(turn, place, id);
        }
        taken
    }

    /// Makes a claimed slot with its payload a task. What can fail for want of room comes before, so that a new kind gets its number for
    /// good only when the submission is as good as taken.
    fn bring_in(
        &mut self,
        turn: &mut Turn<'_>,
        submission: &Submission<'_>,
        prepared: Prepared<'_>,
    ) -> Result<Accepted, Rejection> {
        let Prepared {
            mut claimed,
            checked,
            key,
        } = prepared;
        let id = claimed.id();
        let kind = match checked.kind {
            Some(known) => known,
            None => self.intern_kind(turn.segment, submission.kind, Namer::Submission)?,
        };
        claimed
            .write(&fields(turn.now, submission, checked, kind, id))
            .map_err(|error| refused_store(&error))?;
        if let Some(place) = key {
            claimed.set_key(place);
        }
        let stamp = self.next_stamp(turn.now);
        let new = NewTask { checked, id, stamp };
        let lsn = self.record_submission(turn, submission, new)?;
        if let Payload::Stored(blob) = submission.payload {
            // Last, as a claim that is given up takes its payload with it.
            claimed.set_payload_blob(blob);
        }
        let event = match (lsn, submission.delay_ms) {
            (_, _) if submission.hold => Event::AdmitHeld,
            (Some(_), _) => Event::Submit,
            (None, 0) => Event::Admit,
            (None, _) => Event::AdmitDelayed,
        };
        if claimed.publish(event, stamp).is_err() {
            return Err(refused_claim(turn.segment, ClaimError::Full));
        }
        if let Some(place) = key {
            turn.segment.keys().confirm(place);
        }
        if let (Some(lsn), Some(recorder)) = (lsn, &mut self.recorder) {
            turn.write(id.slot()).set_lsn(lsn.get());
            if !submission.hold {
                recorder.wait(lsn, id, Then::Accept);
            }
            turn.segment.counters().add(Counter::TaskJournalled, 1);
        }
        let arena = arena_bytes(turn.segment.task(id.slot()));
        turn.clients.arena_taken(submission.client, arena);
        turn.clients.task_accepted(turn.segment, submission.client);
        Ok(Accepted {
            task: id,
            durable: lsn,
            durability: checked.durability,
            is_repeat: false,
            result_expired: false,
        })
    }

    /// Claims a slot, and has more ids reserved before they run out.
    fn claim<'s>(&mut self, turn: &Turn<'s>) -> Result<ClaimedTask<'s>, Rejection> {
        let claimed = turn.segment.claim_task(AttachIndex::DAEMON);
        if let Some(recorder) = &mut self.recorder {
            let highest = match &claimed {
                Ok(claimed) => claimed.id().generation(),
                Err(_) => turn.segment.gen_top(),
            };
            recorder.reserve_ids(highest);
        }
        claimed.map_err(|error| refused_claim(turn.segment, error))
    }

    /// Says why nothing is taken in at all, and no repeat answered.
    fn check_intake(&self, submission: &Submission<'_>) -> Result<(), Rejection> {
        if self.intake.is_stopped {
            return Err(Rejection::new(
                RejectReason::Stopping,
                Detail::Plain("the daemon is stopping and takes no more tasks: submit again later"),
            ));
        }
        let Some(recorder) = &self.recorder else {
            return Ok(());
        };
        if submission.key.is_some() {
            recorder.check_open()?;
        }
        if recorder.reservation.is_open() {
            Ok(())
        } else if recorder.room.is_none() {
            Err(Rejection::for_now(
                RejectReason::JournalFull,
                Detail::Plain(
                    "no task can be taken: new ids must be reserved in the journal, which has no room at all; make room on the disk of the data directory, then it goes on by itself",
                ),
            ))
        } else {
            Err(Rejection::for_now(
                RejectReason::IdsExhausted,
                Detail::Plain("the journal has not reserved ids yet: try again later"),
            ))
        }
    }

    fn check_submission(
        &mut self,
        turn: &Turn<'_>,
        submission: &Submission<'_>,
    ) -> Result<Checked, Rejection> {
        let durability = self.durability_of(submission)?;
        if !turn.clients.is_open(turn.segment, submission.client) {
            return Err(Rejection::new(
                RejectReason::UnknownSession,
                Detail::Session,
            ));
        }
        turn.clients
            .check_task_share(turn.segment, submission.client)?;
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
        if submission.at_most_once && submission.retries > 0 {
            return Err(Rejection::invalid(
                "at_most_once and retries are both set: a task that runs at most once has no retries",
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
        check_keep(turn, submission)?;
        if turn.now.is_out_of_stamps() {
            return Err(out_of_stamps());
        }
        let due = turn
            .now
            .plus_ns(submission.delay_ms.saturating_mul(NS_PER_MS));
        if due.is_out_of_stamps() {
            // Its moment could not be noted.
            let left_ns = Now::from_stamp(STAMP_MAX).since_ns(turn.now);
            let most = (left_ns / NS_PER_MS).saturating_sub(1);
            return Err(Rejection::range("delay_ms", submission.delay_ms, 0, most));
        }
        check_payload(submission.payload, turn.config.payload_limit)?;
        let kind = self.known_kind(turn.segment, submission.kind)?;
        if kind.is_none() {
            self.check_kinds(turn.segment, &[submission.kind], Namer::Submission)?;
        }
        Ok(Checked {
            kind,
            priority,
            max_attempts: u8::try_from(submission.retries.saturating_add(1)).unwrap_or(u8::MAX),
            durability,
            key_expiry: match submission.key {
                Some(_) => key_expiry(turn, submission)?,
                None => 0,
            },
        })
    }

    /// What the answer will promise.
    fn durability_of(&self, submission: &Submission<'_>) -> Result<Durability, Rejection> {
        match (&self.recorder, submission.durability) {
            (Some(recorder), Durability::Journal | Durability::Best) => {
                recorder.check_submission(payload_bytes(submission))?;
                Ok(Durability::Journal)
            }
            (None, Durability::Journal) => Err(Rejection::no_journal()),
            (_, Durability::Memory) | (None, Durability::Best) => Ok(Durability::Memory),
        }
    }
}

#[cold]
fn count_refusal(turn: &Turn<'_>, reason: RejectReason) {
    let counter = if reason == RejectReason::TasksFull {
        Counter::RefusedTasksFull
    } else if reason == RejectReason::ArenaFull {
        Counter::RefusedArenaFull
    } else if reason == RejectReason::JournalFull {
        Counter::RefusedJournalFull
    } else if reason == RejectReason::KeysFull {
        Counter::RefusedKeysFull
    } else {
        Counter::RefusedOther
    };
    turn.segment.counters().add(counter, 1);
}

fn check_keep(turn: &Turn<'_>, submission: &Submission<'_>) -> Result<(), Rejection> {
    let most = turn.config.keep_ns_max / NS_PER_MS;
    if submission.keep_ms <= most {
        return Ok(());
    }
    let value = submission.keep_ms;
    Err(Rejection::setting("keep_ms", value, most, "keep_max_ms"))
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

/// Bytes that come with the submission.
fn payload_bytes(submission: &Submission<'_>) -> u64 {
    match submission.payload {
        Payload::Bytes(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        Payload::Stored(_) => 0,
    }
}

const fn needs_side_record(submission: &Submission<'_>) -> bool {
    submission.estimate_ms != 0 || submission.keep_ms != 0 || submission.array.is_some()
}

/// Few tasks need a side record; the others get none, and their slot says where in the table their key lies. The first
/// member of an array names itself.
fn side_record(submission: &Submission<'_>, checked: &Checked, own: TaskId) -> Option<SideRecord> {
    if !needs_side_record(submission) {
        return None;
    }
    let key = submission.key;
    let (array_id, array_index) = array_of(submission, own).unwrap_or((0, 0));
    Some(SideRecord {
        key: key.map_or([0, 0], KeyId::words),
        key_expiry: if key.is_some() { checked.key_expiry } else { 0 },
        array_id,
        array_index,
        estimate_ms: submission.estimate_ms,
        keep_s: keep_s(submission),
        submitted_unix_ms: submission.submitted_unix_ms,
        ..SideRecord::default()
    })
}

/// How long the result is kept, rounded up.
pub(in crate::plm) fn keep_s(submission: &Submission<'_>) -> u32 {
    let seconds = submission.keep_ms.div_ceil(1_000);
    u32::try_from(seconds).map_or(KEEP_S_MAX, |seconds| seconds.min(KEEP_S_MAX))
}

/// Raw id of the array and the index in it.
pub(in crate::plm) fn array_of(submission: &Submission<'_>, own: TaskId) -> Option<(u64, u64)> {
    let member = submission.array?;
    Some((member.array.unwrap_or(own).as_raw(), member.index))
}

/// What goes into the slot.
fn fields(
    now: Now,
    submission: &Submission<'_>,
    checked: Checked,
    kind: KindIndex,
    id: TaskId,
) -> TaskFields {
    let delay_ns = submission.delay_ms.saturating_mul(NS_PER_MS);
    let side = side_record(submission, &checked, id);
    TaskFields {
        kind: Some(kind),
        priority: checked.priority,
        principal: 0,
        timeout_ms: submission.timeout_ms,
        max_attempts: checked.max_attempts,
        client: Some(submission.client),
        options: options_of(submission, checked.durability),
        due: now.plus_ns(delay_ns).stamp(),
        side,
    }
}

/// What was asked for, as bits.
pub(in crate::plm) fn options_of(
    submission: &Submission<'_>,
    durability: Durability,
) -> TaskOptions {
    let mut options = TaskOptions::NONE;
    if submission.discard_result {
        options = options.with(TaskOptions::DISCARD_RESULT);
    }
    if submission.at_most_once {
        options = options.with(TaskOptions::AT_MOST_ONCE);
    }
    if submission.key.is_some() && submission.key_is_automatic {
        options = options.with(TaskOptions::AUTOMATIC_KEY);
    }
    if durability == Durability::Journal {
        options = options.with(TaskOptions::JOURNAL);
    }
    options
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
        ClaimError::OutOfStamps => out_of_stamps(),
    }
}

/// What comes in could not be put in order.
const fn out_of_stamps() -> Rejection {
    Rejection::new(
        RejectReason::IdsExhausted,
        Detail::Plain(
            "the segment's stamps end 833 days after its origin, and none is left: restart qtfd, which moves the origin; nothing is lost",
        ),
    )
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
        StoreError::Spill(SpillError::Behind { .. }) => Rejection::for_now(
            RejectReason::SpillFailed,
            Detail::Plain(
                "files that nobody needs are not removed as fast as new ones come: try again later, and look at the disk of the daemon's spill directory",
            ),
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
