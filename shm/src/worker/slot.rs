//! The worker slot: 512 bytes, one worker.
//!
//! ```text
//! offset  field        bits                                          writer
//!      0  state        see `state.rs`                                Register, Scheduler
//!      8  load_key     key of the worker heap                        Register, Scheduler
//!     16  lease_end    stamp                                         Register
//!     24  heartbeat    stamp of the last one                         Register
//!     32  links        attach 16 | pool 16 | credits 32              Register, Scheduler
//!     40  token        secret of this registration                   Register
//!     48  registered   stamp                                         Register
//!     56  reconciled   stamp                                         Register
//!     64  counters     done, failed, lost, stale results, displaced,
//!                      moved in, moved out, 0                        Register
//!    128  name         63 bytes                                      Register
//!    192  kinds        one bit for each kind it can run              Register
//!    224  process      load_milli 32 | pid 32                        Register
//!    232  start_time   of its process, when it is local              Register
//!    240  identity     principal 16 | faults 16 | uid 32             Register
//!    248  lane         of a local worker: incarnation of its attach
//!                      record 32 | unit in the arena + 1 32          the local worker
//!    256  free         16 amounts: of each resource what is not
//!                      given out                                     PLM
//!    384  labels       128 bits by the table of names                Register
//!    400  devices      free indexes of two indexed resources         PLM
//!    416  profile      reference to facts about it                   Register
//!    424  leased_until stamp, of one that calls                      PLM
//!    432  leaves_at    stamp; 0 never                                Register
//!    440  limits       idle_timeout_ms 32 | min_lifetime_ms 32       Register
//!    448  aside_until  stamp                                         PLM
//!    456  reserved_for task id                                       PLM
//!    464  reservation  stamp 48 | gang 16                            PLM
//!    472  checkpoint   what checkpoints it can make and take         PLM
//!    480  host         31 bytes                                      Register
//! ```
//! Nothing uses yet and so zero: the counters behind the fourth, principal and faults, `free` to `profile`, `leaves_at` to `checkpoint`.
//!
//! (The first part of a bit list is the upper one.) Fields are published by the state word, label
//! `worker.state`. Only the daemon writes a slot, except `state`, which whoever takes a task changes too; a local worker fills in its own (JOINING).
//! Tested at the end of this file.

use crate::kind_set::KindSet;
use crate::layout::shared::shared_layout;
use crate::layout::text::{ShortText, load_short, load_text, store_text};
use crate::sync::{AtomicU64, Ordering, fence};
use crate::tree::Key;
use crate::worker::state::{IllegalWorkerTransition, WorkerEvent, WorkerState};

shared_layout! {
    /// One worker as it lies in the segment; see the drawing in this file's head.
    pub struct WorkerSlot: 512 bytes, align 128 {
        0 => state: AtomicU64,
        8 => load_key: AtomicU64,
        16 => lease_end: AtomicU64,
        24 => heartbeat: AtomicU64,
        32 => links: AtomicU64,
        40 => token: AtomicU64,
        48 => registered: AtomicU64,
        56 => reconciled: AtomicU64,
        64 => counters: [AtomicU64; 8],
        128 => name: [AtomicU64; 8],
        192 => kinds: [AtomicU64; 4],
        224 => process: AtomicU64,
        232 => start_time: AtomicU64,
        240 => identity: AtomicU64,
        248 => lane: AtomicU64,
        256 => free: [AtomicU64; 16],
        384 => labels: [AtomicU64; 2],
        400 => devices: [AtomicU64; 2],
        416 => profile: AtomicU64,
        424 => leased_until: AtomicU64,
        432 => leaves_at: AtomicU64,
        440 => limits: AtomicU64,
        448 => aside_until: AtomicU64,
        456 => reserved_for: AtomicU64,
        464 => reservation: AtomicU64,
        472 => checkpoint: AtomicU64,
        480 => host: [AtomicU64; 4],
    }
}

/// What a worker says of itself when it registers.
#[derive(Debug, Clone, Copy, Default)]
pub struct WorkerFields<'a> {
    /// Name for people; cut to 63 bytes.
    pub name: &'a str,
    /// Node; cut to 31 bytes.
    pub host: &'a str,
    /// Process id on that node.
    pub pid: u32,
    /// User, `u32::MAX` when not known.
    pub uid: u32,
    /// Secret of this registration.
    pub token: u64,
    /// The kinds it can run.
    pub kinds: KindSet,
    /// Stamp of the registration.
    pub registered: u64,
}

/// Why a change of a state word was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WorkerApplyError {
    /// The table has no such change.
    #[error(transparent)]
    Illegal(#[from] IllegalWorkerTransition),
    /// Somebody else changed the word first; it holds this now.
    #[error("the worker's state has moved on to {0:?}")]
    Moved(WorkerState),
}

/// What is counted for one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum WorkerCounter {
    /// Tasks it ended well.
    Done = 0,
    /// Attempts it ended badly.
    Failed = 1,
    /// Attempts taken from it.
    Lost = 2,
    /// Results of attempts that were no longer its own.
    Stale = 3,
}

impl WorkerSlot {
    /// The state, with everything its last writer wrote before it.
    #[inline]
    #[must_use]
    pub fn state(&self) -> WorkerState {
        let order = if cfg!(qtf_mutant = "worker_state_without_acquire") {
            // ORDERING: a mutant.
            Ordering::Relaxed
        } else {
            // ORDERING: [worker.state] Acquire pairs with the AcqRel of `apply`: the registration's fields are visible.
            Ordering::Acquire
        };
        // ORDERING: as chosen above.
        WorkerState::from_raw(self.state.load(order))
    }

    /// Changes the state by one event, if it still is `from`.
    ///
    /// # Errors
    /// The table has no such change, or the word has moved on.
    pub fn apply(
        &self,
        from: WorkerState,
        event: WorkerEvent,
    ) -> Result<WorkerState, WorkerApplyError> {
        let to = from.after(event)?;
        let order = if cfg!(qtf_mutant = "worker_state_without_release") {
            // ORDERING: a mutant.
            Ordering::Acquire
        } else {
            // ORDERING: [worker.state] AcqRel: publishes what the caller wrote before; pairs with `state`.
            Ordering::AcqRel
        };
        // ORDERING: as chosen above; a failure hands out the word found.
        self.state
            .compare_exchange(from.as_raw(), to.as_raw(), order, Ordering::Acquire)
            .map(|_| to)
            .map_err(|found| WorkerApplyError::Moved(WorkerState::from_raw(found)))
    }

    /// The attach record of the local process that is this worker; `None` for one that is connected to the daemon.
    #[must_use]
    pub fn local(&self) -> Option<u16> {
        let attach = part16(read(&self.links) >> 48);
        (attach != 0).then_some(attach)
    }

    /// Where the lane of a local worker lies; 0 = it has none.
    #[must_use]
    pub(crate) fn lane(&self) -> u64 {
        read(&self.lane)
    }

    /// The stamp until which an attempt of it has a lease at the latest; 0 of a worker that holds streams.
    #[must_use]
    pub fn leased_until(&self) -> u64 {
        read(&self.leased_until)
    }

    /// Its word of `leased_until`, for a move of the origin; `None` of a worker that holds streams.
    pub(crate) fn leased_until_word(&self) -> Option<&AtomicU64> {
        (self.leased_until() != 0).then_some(&self.leased_until)
    }

    /// The key it has, or would have, in the worker heap.
    #[must_use]
    pub fn key(&self) -> Key {
        Key::from_raw(read(&self.load_key))
    }

    /// Stamp at which its lease ends.
    #[must_use]
    pub fn lease_end(&self) -> u64 {
        read(&self.lease_end)
    }

    /// Stamp of its last heartbeat.
    #[must_use]
    pub fn heartbeat(&self) -> u64 {
        read(&self.heartbeat)
    }

    /// Tasks that may still be sent to it.
    #[must_use]
    pub fn credits(&self) -> u32 {
        low(read(&self.links))
    }

    /// Secret of this registration.
    #[must_use]
    pub fn token(&self) -> u64 {
        read(&self.token)
    }

    /// Stamp of its registration.
    #[must_use]
    pub fn registered(&self) -> u64 {
        read(&self.registered)
    }

    /// Stamp of the last comparison of what it holds with what the segment says.
    #[must_use]
    pub fn reconciled(&self) -> u64 {
        read(&self.reconciled)
    }

    /// The kinds it can run.
    #[must_use]
    pub fn kinds(&self) -> KindSet {
        KindSet::from_words([0, 1, 2, 3].map(|word| read(&self.kinds[word])))
    }

    /// Load of its machine: run-queue length per core, times 1000.
    #[must_use]
    pub fn load_milli(&self) -> u32 {
        low(read(&self.process) >> 32)
    }

    /// Process id on its node.
    #[must_use]
    pub fn pid(&self) -> u32 {
        low(read(&self.process))
    }

    /// Its user; `u32::MAX` when not known.
    #[must_use]
    pub fn uid(&self) -> u32 {
        low(read(&self.identity))
    }

    /// The words of its name.
    pub(crate) const fn name_words(&self) -> &[AtomicU64; 8] {
        &self.name
    }

    /// Name for people.
    #[must_use]
    pub fn name(&self) -> String {
        load_text(&self.name)
    }

    /// As [`WorkerSlot::name`], without memory of its own.
    #[must_use]
    pub fn short_name(&self) -> ShortText {
        load_short(&self.name)
    }

    /// Node.
    #[must_use]
    pub fn host(&self) -> String {
        load_text(&self.host)
    }

    /// What has been counted.
    #[must_use]
    pub fn counter(&self, counter: WorkerCounter) -> u64 {
        read(&self.counters[counter as usize])
    }

    /// Adds one.
    pub fn count(&self, counter: WorkerCounter) {
        // ORDERING: statistics.
        self.counters[counter as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// A worker slot whose fields the holder may write: the Register, with the right of the PLM; or a local worker that is filling its own
/// in.
#[derive(Debug, Clone, Copy)]
pub struct WorkerWriter<'s>(&'s WorkerSlot);

impl core::ops::Deref for WorkerWriter<'_> {
    type Target = WorkerSlot;

    fn deref(&self) -> &WorkerSlot {
        self.0
    }
}

impl<'s> WorkerWriter<'s> {
    /// For those whom the state makes the writer.
    pub(crate) const fn of(slot: &'s WorkerSlot) -> Self {
        Self(slot)
    }

    /// Writes what a registration says; the caller then applies `Register`.
    pub fn fill(self, fields: &WorkerFields<'_>) {
        if !cfg!(qtf_mutant = "worker_fill_without_release_fence") {
            // ORDERING: [worker.reuse] Release: whoever meets a new field also meets that the slot was given back;
            // pairs with the fence in `second_look`.
            fence(Ordering::Release);
        }
        store_text(&self.0.name, fields.name);
        store_text(&self.0.host, fields.host);
        write(&self.0.process, u64::from(fields.pid));
        write(&self.0.identity, u64::from(fields.uid));
        write(&self.0.token, fields.token);
        self.set_kinds(fields.kinds);
        write(&self.0.registered, fields.registered);
        for word in [
            &self.0.reconciled,
            &self.0.links,
            &self.0.lease_end,
            &self.0.start_time,
            &self.0.lane,
            &self.0.leased_until,
        ] {
            write(word, 0);
        }
        write(&self.0.heartbeat, fields.registered);
        for counter in &self.0.counters {
            write(counter, 0);
        }
    }

    /// Says where the lane lies. Only while the slot is being filled in.
    pub(crate) fn set_lane(self, word: u64) {
        write(&self.0.lane, word);
    }

    /// Says until when an attempt of it has a lease at the latest, and that it calls instead of holding streams.
    pub fn set_leased_until(self, stamp: u64) {
        write(&self.0.leased_until, stamp.max(1));
    }

    /// Makes the slot that of a local process. Only while it is being filled in.
    pub(crate) fn set_local(self, attach: u16) {
        write(
            &self.0.links,
            (read(&self.0.links) & !(0xFFFF << 48)) | (u64::from(attach) << 48),
        );
    }

    /// Sets the key; the leaf is another matter.
    pub fn set_key(self, key: Key) {
        write(&self.0.load_key, key.as_raw());
    }

    /// Sets the end of its lease.
    pub fn set_lease_end(self, stamp: u64) {
        write(&self.0.lease_end, stamp);
    }

    /// Sets the moment of its last heartbeat.
    pub fn set_heartbeat(self, stamp: u64) {
        write(&self.0.heartbeat, stamp);
    }

    /// Sets the tasks that may still be sent to it.
    pub fn set_credits(self, credits: u32) {
        write(
            &self.0.links,
            (read(&self.0.links) & !0xFFFF_FFFF) | u64::from(credits),
        );
    }

    /// Sets the moment of the last comparison.
    pub fn set_reconciled(self, stamp: u64) {
        write(&self.0.reconciled, stamp);
    }

    /// Sets the kinds it can run.
    pub fn set_kinds(self, kinds: KindSet) {
        for (word, bits) in self.0.kinds.iter().zip(kinds.words()) {
            write(word, bits);
        }
    }

    /// Sets the load of its machine.
    pub fn set_load_milli(self, load: u32) {
        let pid = read(&self.0.process) & 0xFFFF_FFFF;
        write(&self.0.process, pid | (u64::from(load) << 32));
    }
}

#[inline]
fn read(word: &AtomicU64) -> u64 {
    // ORDERING: published by [worker.state], which the caller has acquired with `state()`.
    word.load(Ordering::Relaxed)
}

#[inline]
fn write(word: &AtomicU64, value: u64) {
    // ORDERING: single writer; published by [worker.state].
    word.store(value, Ordering::Relaxed);
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low half is what is asked for"
)]
const fn low(word: u64) -> u32 {
    word as u32
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low part is what is asked for"
)]
const fn part16(word: u64) -> u16 {
    word as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{KINDS_COUNT, KindIndex};

    fn slot() -> WorkerSlot {
        WorkerSlot {
            state: AtomicU64::new(0),
            load_key: AtomicU64::new(0),
            lease_end: AtomicU64::new(0),
            heartbeat: AtomicU64::new(0),
            links: AtomicU64::new(0),
            token: AtomicU64::new(0),
            registered: AtomicU64::new(0),
            reconciled: AtomicU64::new(0),
            counters: Default::default(),
            name: Default::default(),
            kinds: Default::default(),
            process: AtomicU64::new(0),
            start_time: AtomicU64::new(0),
            identity: AtomicU64::new(0),
            lane: AtomicU64::new(0),
            free: Default::default(),
            labels: Default::default(),
            devices: Default::default(),
            profile: AtomicU64::new(0),
            leased_until: AtomicU64::new(0),
            leaves_at: AtomicU64::new(0),
            limits: AtomicU64::new(0),
            aside_until: AtomicU64::new(0),
            reserved_for: AtomicU64::new(0),
            reservation: AtomicU64::new(0),
            checkpoint: AtomicU64::new(0),
            host: Default::default(),
        }
    }

    fn kinds_of(numbers: &[u16]) -> KindSet {
        let kind = |&number| KindIndex::new_checked(number, KINDS_COUNT).unwrap();
        numbers.iter().map(kind).collect()
    }

    #[test]
    fn registration_is_read_back_and_fields_do_not_touch_each_other() {
        let slot = slot();
        let fields = WorkerFields {
            name: "one",
            host: "node-7",
            pid: 42,
            uid: 1000,
            token: 99,
            kinds: kinds_of(&[1, 2, 63, 64, 255]),
            registered: 5,
        };
        WorkerWriter::of(&slot).fill(&fields);
        slot.apply(slot.state(), WorkerEvent::Register { capacity: 3 })
            .unwrap();
        WorkerWriter::of(&slot).set_load_milli(1500);
        WorkerWriter::of(&slot).set_credits(u32::MAX);
        slot.count(WorkerCounter::Failed);
        assert_eq!(
            (slot.name().as_str(), slot.host().as_str()),
            ("one", "node-7")
        );
        assert_eq!(
            (slot.pid(), slot.load_milli(), slot.uid()),
            (42, 1500, 1000)
        );
        assert_eq!(
            (slot.credits(), slot.token(), slot.kinds()),
            (u32::MAX, 99, kinds_of(&[1, 2, 63, 64, 255]))
        );
        assert_eq!(
            (slot.heartbeat(), slot.counter(WorkerCounter::Failed)),
            (5, 1)
        );
        assert_eq!(slot.state().capacity(), 3);
    }

    #[test]
    fn change_of_a_word_that_moved_on_is_refused_with_the_new_word() {
        let slot = slot();
        let old = slot.state();
        let now = slot
            .apply(old, WorkerEvent::Register { capacity: 3 })
            .unwrap();
        let late = slot.apply(old, WorkerEvent::Register { capacity: 4 });
        assert_eq!(late, Err(WorkerApplyError::Moved(now)));
    }
}
