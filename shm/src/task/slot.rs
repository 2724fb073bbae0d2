//! The task slot: 128 bytes, one task.
//!
//! ```text
//! offset  field          bits                                              writer
//!      0  state          see `state.rs`                                    who may, by the table
//!      8  order          class 8 | stamp 48 | era 8                         submitter, PLM; the era: the PLM while FREE, the first submitter
//!     16  phase_time     stamp 48 | principal 16                           who changes the phase; the principal: submitter, PLM
//!     24  journal        lsn 48 | line 16                                  submitter, PLM
//!     32  limits         timeout_ms 32 | max_attempts 8 | failures 8 | losses 8 | options 8
//!     40  payload        blob reference, see `blob.rs`                     submitter
//!     48  result         blob reference                                    the worker's side
//!     56  links          side 32 | client 16 | outcome 16                  submitter, PLM
//!     64  started        stamp 48 | more options 16                        PLM; a local worker says it in its lane
//!     72  used           cpu_ms 32 | peak_kib 32                           PLM
//!     80  inline_bytes   48 bytes: the payload, and at the next word behind it the result, where they fit
//! ```
//! (The first part of a bit list is the upper one.) `side` is 0, or the unit of the side record plus one, or, with its highest
//! bit set, the place of the task's key in the table of keys. A line below 256 is a kind, asking for one cpu. The principal, the use and
//! the further options have no user yet and are 0.
//!
//! Invariants:
//! - I1: the fields behind the state are written with relaxed stores by whoever the state makes their writer, and
//!   published by that writer's next change of the state (label `task.state`). Who that is, is a type: `writer.rs`.
//! - I2: `phase_time` is the moment of the last change of phase; in DELAYED, and in SUBMITTED if the start is later than
//!   the stamp of the order, it is the moment the task is due. In final phases it is the end of the last attempt, if there was one.
//! - I3: `started` is the moment at which the last attempt began that has begun; 0 as long as none has. Of one whose worker tells the end alone it
//!   is the moment at which it was handed out.
//! - I4: the era changes in FREE alone, and a slot gets its first one before anything else of its first tenant is written.
//!
//! Tested at the end of this file and through `segment/`.

use crate::blob::BlobRef;
use crate::id::{ClientIndex, KINDS_COUNT, KindIndex};
use crate::layout::shared::shared_layout;
use crate::sync::{AtomicU64, Ordering, fence, store_load_cas, store_load_load};
use crate::task::state::StateWord;
use crate::tree::Key;

/// In `side`: the rest is a place in the table of keys, and there is no side record.
pub(super) const SIDE_IS_KEY: u32 = 1 << 31;

/// Bytes that lie in the slot itself.
pub const INLINE_BYTES_MAX: usize = 48;

shared_layout! {
    /// One task as it lies in the segment; see the drawing in this file's head.
    pub struct TaskSlot: 128 bytes, align 128 {
        0 => state: AtomicU64,
        8 => order: AtomicU64,
        16 => phase_time: AtomicU64,
        24 => journal: AtomicU64,
        32 => limits: AtomicU64,
        40 => payload: AtomicU64,
        48 => result: AtomicU64,
        56 => links: AtomicU64,
        64 => started: AtomicU64,
        72 => used: AtomicU64,
        80 => inline_bytes: [AtomicU64; 6],
    }
}

/// A lost worker that was counted, and the limits before and after.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CountedLoss {
    pub(crate) of: StateWord,
    pub(crate) before: u64,
    pub(crate) after: u64,
}

/// How a task or its last attempt ended; the numbers are those of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum OutcomeKind {
    /// Has not ended.
    #[default]
    None = 0,
    /// Exited by itself; the code is the exit code.
    Exited = 1,
    /// Ended by a signal; the code is its number.
    Signalled = 2,
    /// Ran longer than its timeout.
    TimedOut = 3,
    /// Stopped because it was cancelled.
    Cancelled = 4,
    /// Could not be started; the code is the errno.
    SpawnFailed = 5,
    /// The handler returned an error.
    HandlerFailed = 6,
    /// The worker has no handler of this kind, or could not decode the payload.
    Refused = 7,
    /// The worker was lost, and that was the last attempt.
    WorkerLost = 8,
    /// The worker could not fetch the payload or store the output.
    TransferFailed = 9,
    /// The worker says that no further attempt would end better.
    FailedForGood = 10,
    /// Not now: to be handed out again later, which counts as no failure.
    Again = 11,
    /// A number that this version does not know.
    Unknown = 15,
}

impl OutcomeKind {
    /// Reads the number; what is not known is [`OutcomeKind::Unknown`].
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::None,
            1 => Self::Exited,
            2 => Self::Signalled,
            3 => Self::TimedOut,
            4 => Self::Cancelled,
            5 => Self::SpawnFailed,
            6 => Self::HandlerFailed,
            7 => Self::Refused,
            8 => Self::WorkerLost,
            9 => Self::TransferFailed,
            10 => Self::FailedForGood,
            11 => Self::Again,
            _ => Self::Unknown,
        }
    }

    /// The name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Exited => "exited",
            Self::Signalled => "signalled",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::SpawnFailed => "spawn_failed",
            Self::HandlerFailed => "handler_failed",
            Self::Refused => "refused",
            Self::WorkerLost => "worker_lost",
            Self::TransferFailed => "transfer_failed",
            Self::FailedForGood => "failed_for_good",
            Self::Again => "again",
            Self::Unknown => "unknown",
        }
    }
}

/// How a task or its last attempt ended: `kind 4 | unused 2 | output cut 1 | result dropped 1 | code 8`, upper part first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// What happened.
    pub kind: OutcomeKind,
    /// Exit code, signal number or errno.
    pub code: u8,
    /// The output could not be kept.
    pub result_dropped: bool,
    /// A part of the output is missing, by a limit.
    pub output_cut: bool,
}

impl Outcome {
    /// What a worker may report: numbers that only the engine gives are taken out. An attempt that has ended has an outcome, and
    /// its worker is not lost.
    #[must_use]
    pub const fn of_worker(self) -> Self {
        let (kind, code) = match self.kind {
            OutcomeKind::None | OutcomeKind::WorkerLost => (OutcomeKind::Unknown, self.code),
            kind @ (OutcomeKind::TimedOut | OutcomeKind::Cancelled) => (kind, 0),
            kind @ (OutcomeKind::Exited
            | OutcomeKind::Signalled
            | OutcomeKind::SpawnFailed
            | OutcomeKind::HandlerFailed
            | OutcomeKind::Refused
            | OutcomeKind::TransferFailed
            | OutcomeKind::FailedForGood
            | OutcomeKind::Again
            | OutcomeKind::Unknown) => (kind, self.code),
        };
        Self {
            kind,
            code,
            result_dropped: self.result_dropped,
            output_cut: self.output_cut,
        }
    }

    /// The 16 bits of the slot.
    #[must_use]
    pub const fn to_bits(self) -> u16 {
        ((self.kind as u16) << 12)
            | ((self.output_cut as u16) << 9)
            | ((self.result_dropped as u16) << 8)
            | self.code as u16
    }

    /// Reads the 16 bits of the slot.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        let [high, code] = bits.to_be_bytes();
        Self {
            kind: OutcomeKind::from_number(high >> 4),
            code,
            result_dropped: high & 1 != 0,
            output_cut: high & 2 != 0,
        }
    }
}

/// What was asked for a task, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TaskOptions(u8);

impl TaskOptions {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Free the slot as soon as the task has succeeded.
    pub const DISCARD_RESULT: Self = Self(1);
    /// Accepted on stable storage.
    pub const JOURNAL: Self = Self(2);
    /// Never handed out again once a worker may have begun it.
    pub const AT_MOST_ONCE: Self = Self(8);
    /// Its idempotency key was made up by a client library and ends with the acknowledgement of the task.
    pub const AUTOMATIC_KEY: Self = Self(16);
    /// Its end is told to the lane of its client. It is counted at its client from its end on: its submission may be a compare-and-swap that no daemon sees.
    pub const TELLS_LANE: Self = Self(32);

    /// Any bits; unknown ones are kept.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// All bits of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// With the bits of `other` cleared.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// With the bits of `other` set too.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl TaskSlot {
    /// The state, with everything its last writer wrote before it.
    #[inline]
    #[must_use]
    pub fn state(&self) -> StateWord {
        let order = if cfg!(qtf_mutant = "task_state_without_acquire") {
            // ORDERING: a mutant.
            Ordering::Relaxed
        } else {
            // ORDERING: [task.state] Acquire pairs with the Release of `exchange`: the fields behind the state are visible.
            Ordering::Acquire
        };
        // ORDERING: as chosen above.
        self.with_era(self.state.load(order))
    }

    /// Changes the state if it still is `from`, with everything that the caller wrote before. Leaf and bit are looked at afterwards.
    ///
    /// # Errors
    /// The word has moved on, and holds this now.
    #[inline]
    #[cfg_attr(test, track_caller)]
    pub(crate) fn exchange(&self, from: StateWord, to: StateWord) -> Result<(), StateWord> {
        let (from, to) = (from.as_raw(), to.as_raw());
        let result = if cfg!(qtf_mutant = "task_state_without_release") {
            // ORDERING: a mutant.
            self.state
                .compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed)
        } else {
            // ORDERING: [task.state] Release: publishes the fields written before; pairs with the Acquire of `state`.
            // [tree.tenancy], [bitmap.tenancy] write half: leaf and bit are looked at afterwards.
            store_load_cas(&self.state, from, to)
        };
        result.map(|_| ()).map_err(|found| self.with_era(found))
    }

    /// The state, read after everything that this process wrote before: the look half of a pair with the write of a leaf
    /// or a free bit.
    #[inline]
    #[must_use]
    pub(crate) fn state_in_order(&self) -> StateWord {
        // ORDERING: [tree.tenancy], [bitmap.tenancy] look half; pairs with the CAS in `exchange`.
        self.with_era(store_load_load(&self.state))
    }

    /// A word that was loaded, with the era: it was written before the slot's present tenant had it, and stays as long as that.
    #[inline]
    pub(crate) fn with_era(&self, word: u64) -> StateWord {
        StateWord::in_era(word, part8(read(&self.order)))
    }

    /// The key of the ready heap: the order, and the low bits of the tenancy.
    #[must_use]
    pub fn key(&self) -> Key {
        self.key_of(self.state())
    }

    /// The same, of the tenant that this state is of.
    #[inline]
    pub(crate) fn key_of(&self, state: StateWord) -> Key {
        Key::of_order(read(&self.order), state.generation())
    }

    /// Stamp of its place in the order.
    #[must_use]
    pub fn order_stamp(&self) -> u64 {
        Key::from_raw(read(&self.order)).ready_stamp()
    }

    /// 0 to 255, higher first.
    #[must_use]
    pub fn priority(&self) -> u8 {
        Key::from_raw(read(&self.order)).ready_priority()
    }

    /// Moment of the last change of phase as a stamp; in DELAYED the moment the task is due, in HELD too if that is later.
    #[must_use]
    pub fn phase_time(&self) -> u64 {
        read(&self.phase_time) >> 16
    }

    /// The principal that submitted it; 0 = not known.
    #[must_use]
    pub fn principal(&self) -> u16 {
        part16(read(&self.phase_time))
    }

    /// Log sequence number of the task's last record in the journal; 0 = none.
    #[must_use]
    pub fn lsn(&self) -> u64 {
        read(&self.journal) >> 16
    }

    /// As `lsn`, before all other fields that are copied: whoever meets the number of a record also meets what it is about.
    pub(crate) fn lsn_before_fields(&self) -> u64 {
        let lsn = self.lsn();
        if !cfg!(qtf_mutant = "task_lsn_without_acquire_fence") {
            // ORDERING: [task.lsn] Acquire: orders the copy of the number before those of the other fields; pairs with the fence
            // in `set_lsn`.
            fence(Ordering::Acquire);
        }
        lsn
    }

    /// The line that it waits in. The first ones are the kinds of work: check it against the kind table before use.
    #[must_use]
    pub fn line(&self) -> u16 {
        part16(read(&self.journal))
    }

    /// The kind of work; `None` if the number is out of range.
    #[must_use]
    pub fn kind(&self) -> Option<KindIndex> {
        KindIndex::new_checked(self.line(), KINDS_COUNT)
    }

    /// Longest run time of one attempt; 0 = no limit.
    #[must_use]
    pub fn timeout_ms(&self) -> u32 {
        part32(read(&self.limits) >> 32)
    }

    /// Attempts in all that failures may use.
    #[must_use]
    pub fn max_attempts(&self) -> u8 {
        part8(read(&self.limits) >> 24)
    }

    /// Attempts that ended badly.
    #[must_use]
    pub fn failures(&self) -> u8 {
        part8(read(&self.limits) >> 16)
    }

    /// Attempts whose worker was lost.
    #[must_use]
    pub fn losses(&self) -> u8 {
        part8(read(&self.limits) >> 8)
    }

    /// Counts the lost worker of the attempt that this state word is of. `None` if the slot has moved on, or somebody else
    /// changes the limits meanwhile. To be followed by the change of state, and where that fails by
    /// [`TaskSlot::uncount_loss`].
    pub(crate) fn count_loss(&self, of: StateWord) -> Option<CountedLoss> {
        // ORDERING: Acquire: the look at the state comes after it, so the limits are of this attempt if the state still is.
        let before = self.limits.load(Ordering::Acquire);
        if self.state() != of {
            return None;
        }
        let losses = u64::from(part8(before >> 8).saturating_add(1));
        let after = before & !(0xFF << 8) | (losses << 8);
        // ORDERING: published by the change of state that follows; the CAS keeps a late repairer from undoing what others wrote.
        self.limits
            .compare_exchange(before, after, Ordering::AcqRel, Ordering::Relaxed)
            .ok()
            .map(|_| CountedLoss { of, before, after })
    }

    /// Takes the count back: the state had moved on. Another repairer may have counted the same loss and made the change, or
    /// the slot had a next tenant with equal limits when it was counted.
    pub(crate) fn uncount_loss(&self, counted: CountedLoss) {
        let CountedLoss { of, before, after } = counted;
        let is_same_tenant = self.state().generation() == of.generation();
        // ORDERING: a count beside others, as when it was made; whoever reads it has read a state that was published later.
        let mut now = self.limits.load(Ordering::Relaxed);
        loop {
            let without = if now == after {
                before
            } else if is_same_tenant && part8(now >> 8) > part8(before >> 8) {
                // Others have counted or written on top.
                now - (1 << 8)
            } else {
                // What was counted was written anew.
                return;
            };
            // ORDERING: as above.
            match self
                .limits
                .compare_exchange(now, without, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(found) => now = found,
            }
        }
    }

    /// Stamp at which the last attempt began that has begun; 0 = none has.
    #[must_use]
    pub fn started(&self) -> u64 {
        read(&self.started) >> 16
    }

    /// What was asked for.
    #[must_use]
    pub fn options(&self) -> TaskOptions {
        TaskOptions::from_bits(part8(read(&self.limits)))
    }

    /// The client that submitted it, as the number in the slot.
    #[must_use]
    pub fn client_number(&self) -> u16 {
        part16(read(&self.links) >> 16)
    }

    /// The client that submitted it; not yet checked against the number of records, as any index of a slot:
    /// [`crate::Segment::client`] does that.
    #[must_use]
    pub fn client(&self) -> ClientIndex {
        ClientIndex::new_checked(self.client_number(), u32::from(u16::MAX))
            .unwrap_or(ClientIndex::UNKNOWN)
    }

    /// How the task or its last attempt ended.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        Outcome::from_bits(part16(read(&self.links)))
    }

    /// Unit of the side record in the arena; `None` when the task has none.
    #[must_use]
    pub fn side_unit(&self) -> Option<u32> {
        // The stored number is the unit plus one, so that zeroed memory means none.
        let side = part32(read(&self.links) >> 32);
        (side & SIDE_IS_KEY == 0).then_some(side)?.checked_sub(1)
    }

    /// Place of its key in the table of keys; `None` for a task without a key, or with a side record, which has it then. The
    /// entry there may be another task's by now.
    #[must_use]
    pub fn key_place(&self) -> Option<u32> {
        let side = part32(read(&self.links) >> 32);
        (side & SIDE_IS_KEY != 0).then_some(side & !SIDE_IS_KEY)
    }

    /// Where the payload lies.
    #[must_use]
    pub fn payload(&self) -> BlobRef {
        BlobRef::from_raw(read(&self.payload))
    }

    /// Where the result lies.
    #[must_use]
    pub fn result(&self) -> BlobRef {
        BlobRef::from_raw(read(&self.result))
    }
}

/// The words of a slot that a submitter writes at once.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FilledWords {
    pub(crate) phase_time: u64,
    pub(crate) journal: u64,
    pub(crate) limits: u64,
    /// Without the era, which `fill` keeps.
    pub(crate) order: u64,
}

#[inline]
fn read(word: &AtomicU64) -> u64 {
    // ORDERING: published by [task.state], which the caller has acquired with `state()`.
    word.load(Ordering::Relaxed)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low part is what is asked for"
)]
const fn part8(word: u64) -> u8 {
    word as u8
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low part is what is asked for"
)]
const fn part16(word: u64) -> u16 {
    word as u16
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low part is what is asked for"
)]
const fn part32(word: u64) -> u32 {
    word as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TENANCY_BITS;
    use crate::task::writer::SlotWriter;
    use crate::time::STAMP_MAX;

    fn slot() -> TaskSlot {
        TaskSlot {
            state: AtomicU64::new(0),
            order: AtomicU64::new(0),
            phase_time: AtomicU64::new(0),
            journal: AtomicU64::new(0),
            limits: AtomicU64::new(0),
            payload: AtomicU64::new(0),
            result: AtomicU64::new(0),
            links: AtomicU64::new(0),
            started: AtomicU64::new(0),
            used: AtomicU64::new(0),
            inline_bytes: Default::default(),
        }
    }

    #[test]
    fn fields_of_one_word_do_not_touch_each_other() {
        let slot = slot();
        SlotWriter::of(&slot).fill(&FilledWords {
            phase_time: 7,
            journal: (5 << 16) | 2,
            limits: (1000 << 32) | (3 << 24) | 1,
            order: Key::ready(200, 99, 4).as_raw(),
        });
        SlotWriter::of(&slot).set_failures(255);
        SlotWriter::of(&slot).set_losses(17);
        SlotWriter::of(&slot).set_phase_time(u64::MAX);
        SlotWriter::of(&slot).set_client(ClientIndex::new_checked(77, 100).unwrap());
        SlotWriter::of(&slot).set_outcome(Outcome {
            kind: OutcomeKind::Signalled,
            code: 9,
            result_dropped: true,
            output_cut: false,
        });
        SlotWriter::of(&slot).set_side_unit(Some(0));
        assert_eq!(
            (slot.failures(), slot.losses(), slot.max_attempts()),
            (255, 17, 3)
        );
        assert_eq!(
            (slot.timeout_ms(), slot.options()),
            (1000, TaskOptions::DISCARD_RESULT)
        );
        assert_eq!((slot.phase_time(), slot.principal()), (STAMP_MAX, 7));
        assert_eq!((slot.client_number(), slot.side_unit()), (77, Some(0)));
        assert_eq!(slot.outcome().code, 9);
        assert!(slot.outcome().result_dropped);
        assert_eq!((slot.priority(), slot.lsn(), slot.line()), (200, 5, 2));
        SlotWriter::of(&slot).set_started(u64::MAX);
        assert_eq!(
            (slot.started(), part16(read(&slot.started))),
            (STAMP_MAX, 0)
        );
        SlotWriter::of(&slot).set_side_unit(None);
        assert_eq!((slot.side_unit(), slot.client_number()), (None, 77));
    }

    #[test]
    fn era_stays_whatever_the_order_becomes_and_the_key_is_of_the_tenancy() {
        let slot = slot();
        slot.order.store(0xE5, Ordering::Relaxed);
        let generation = (0xE5 << TENANCY_BITS) | 0x1_2345;
        slot.state.store(0x1_2345, Ordering::Relaxed);
        assert_eq!(slot.state().generation(), generation);
        SlotWriter::of(&slot).set_key(Key::ready(7, 99, generation));
        assert_eq!(
            (slot.state().era(), slot.key()),
            (0xE5, Key::ready(7, 99, generation))
        );
        SlotWriter::of(&slot).fill(&FilledWords {
            order: Key::ready(8, 98, 0xFF).as_raw(),
            ..FilledWords::default()
        });
        assert_eq!(
            (slot.state().era(), slot.key()),
            (0xE5, Key::ready(8, 98, generation))
        );
        SlotWriter::of(&slot).clear(0xE5);
        assert_eq!(
            (slot.state().generation(), slot.order_stamp()),
            (generation, 0)
        );
    }

    #[test]
    fn slot_names_a_side_record_or_the_place_of_a_key_and_never_both() {
        let slot = slot();
        let named = || (slot.side_unit(), slot.key_place());
        assert_eq!(named(), (None, None));
        SlotWriter::of(&slot).set_key_place(0);
        assert_eq!(named(), (None, Some(0)));
        SlotWriter::of(&slot).set_key_place(262_143);
        assert_eq!(named(), (None, Some(262_143)));
        SlotWriter::of(&slot).set_side_unit(Some(SIDE_IS_KEY - 2));
        assert_eq!(named(), (Some(SIDE_IS_KEY - 2), None));
        assert_eq!(slot.outcome(), Outcome::default());
    }

    #[test]
    fn every_outcome_survives_its_bits() {
        for number in 0..=15 {
            for code in [0, 1, 255] {
                for result_dropped in [false, true] {
                    let outcome = Outcome {
                        kind: OutcomeKind::from_number(number),
                        code,
                        result_dropped,
                        output_cut: code & 1 == 0,
                    };
                    assert_eq!(Outcome::from_bits(outcome.to_bits()), outcome);
                }
            }
        }
    }

    #[test]
    fn zeroed_slot_is_free_and_empty() {
        let slot = slot();
        assert_eq!(slot.state(), StateWord::default());
        assert_eq!(
            (slot.payload(), slot.result()),
            (BlobRef::None, BlobRef::None)
        );
        assert_eq!(
            (slot.side_unit(), slot.outcome()),
            (None, Outcome::default())
        );
    }
}
