//! Kills, reboots, failed syncs, and how the next daemon begins.

use std::sync::Arc;

use qtf_engine::{Engine, TimeAfter, restore};
use qtf_journal::{Appender, AppenderLimits, Opened, Write, recover, write_group};
use qtf_shm::sync::kill::killed_after;
use qtf_shm::time::STAMP_MAX;
use qtf_shm::{KeyId, Now, Phase, Segment, SegmentSpec, SlotIndex, StateWord, TaskId};

use super::world::{Kind, MS, World, engine_config};
use qtf_world::{Disk, journal_config, reopened};

/// Kills come after so many shared writes at most.
const WRITES_MAX: u32 = 60;
/// Places of the table of keys that are left where they are few.
const KEY_PLACES_LEFT: u32 = 12;

impl World {
    /// Something goes wrong with the daemon, its disk or its machine.
    pub(crate) fn disaster(&mut self) {
        match self.rng.u8(0..18) {
            0 => self.hot_start(),
            1..=5 | 14..=17 => self.killed_in_a_call(),
            6 if self.kind != Kind::Hot => self.cold_start(true),
            7 if self.kind != Kind::Hot => self.cold_start(false),
            8 => self.sync_fails(),
            9 | 10 => {
                let used = self.disk.disk.used();
                self.disk
                    .disk
                    .set_capacity(Some(used + self.rng.usize(0..300_000)));
                self.full_until = self.base.now.plus_ns(self.rng.u64(1..300) * MS);
            }
            11..=13 if self.kind == Kind::Ages => self.years_go_by(),
            11 if self.kind == Kind::Hot => {
                const YEAR_MS: i64 = 365 * 24 * 3_600_000;
                self.wall_skew_ms = self.rng.i64(-YEAR_MS..YEAR_MS);
            }
            _ => {}
        }
    }

    fn killed_in_a_call(&mut self) {
        let most = if self.rng.bool() {
            WRITES_MAX
        } else {
            WRITES_MAX / 4
        };
        let cut = Some(self.rng.u32(1..most));
        let few = Some(self.rng.u32(1..14));
        match self.rng.u8(0..21) {
            0 | 1 => self.submit(cut),
            // Few writes, and each of them counts.
            2..=6 => self.cancel(few),
            7 | 8 => self.revive(few),
            9 => self.forget(few),
            10 => self.drain(few),
            18 | 19 => self.hold(few),
            20 => self.release(few),
            11 => self.killed_while_it_takes_back(),
            12..=14 => {
                let holding = |&place: &usize| !self.workers[place].holds.is_empty();
                let places: Vec<usize> = (0..self.workers.len()).filter(holding).collect();
                if let Some(&place) = places.get(self.rng.usize(..places.len().max(1))) {
                    // What is judged of it lies behind the writes of its output and of its end.
                    let judged = Some(self.rng.u32(12..36));
                    let cut = if self.rng.u8(0..4) == 0 { cut } else { judged };
                    self.worker_ends(place, cut);
                }
            }
            _ => {
                // Something to hand out, and somebody to take it.
                if self.workers.len() < 5 {
                    self.worker_joins(2);
                }
                for _ in 0..3 {
                    self.submit(None);
                }
                let now = self.base.now;
                self.cut_off(cut, |engine| engine.cycle(now));
            }
        }
    }

    /// A worker is lost, and the daemon dies while it takes back what that one held.
    fn killed_while_it_takes_back(&mut self) {
        let Some(place) = self.workers.iter().position(|one| !one.holds.is_empty()) else {
            return;
        };
        let worker = self.workers.swap_remove(place);
        self.base.engine.worker_gone(self.base.now, worker.id);
        self.remember(&worker);
        // A pass of the sweep takes several cycles.
        for _ in 0..4 {
            let (now, writes) = (self.base.now, self.rng.u32(1..40));
            if self
                .cut_off(Some(writes), |engine| engine.cycle(now))
                .is_none()
            {
                return;
            }
        }
    }

    /// Calls the engine; with `cut`, kills the daemon after so many shared writes of the call. `None` if it was killed: then the
    /// next daemon has begun.
    pub(crate) fn cut_off<T>(
        &mut self,
        cut: Option<u32>,
        call: impl FnOnce(&mut Engine) -> T,
    ) -> Option<T> {
        let Some(writes) = cut else {
            return Some(call(&mut self.base.engine));
        };
        let waiting = self.waiting();
        let engine = &mut self.base.engine;
        match killed_after(writes, || call(engine)) {
            Ok(answer) => Some(answer),
            Err(_) => {
                self.assert_still_found(&waiting);
                self.cuts += 1;
                self.hot_start();
                None
            }
        }
    }

    /// READY tasks that the heap knows.
    fn waiting(&self) -> Vec<(SlotIndex, StateWord)> {
        let segment = self.base.engine.segment();
        let all = self.base.slots().map(|slot| (slot, segment.state(slot)));
        all.filter(|&(slot, state)| {
            state.phase() == Phase::Ready && segment.ready().leaf(slot.get()).is_some()
        })
        .collect()
    }

    /// State before index: a task that has waited and still waits is in the heap at any moment.
    fn assert_still_found(&self, waiting: &[(SlotIndex, StateWord)]) {
        let segment = self.base.engine.segment();
        for &(slot, state) in waiting {
            if segment.state(slot) == state {
                let leaf = segment.ready().leaf(slot.get());
                assert!(
                    leaf.is_some(),
                    "{slot} waits, and a kill left it without its leaf"
                );
            }
        }
    }

    /// What becomes of a write that was under way when the daemon died.
    fn settle_write(&mut self) {
        let Some(write) = self.disk.in_flight.take() else {
            return;
        };
        match self.rng.u8(0..4) {
            0 => {}
            1 => drop(write_group(&*self.disk.storage, write)),
            _ => self.write_without_sync(&write),
        }
    }

    fn write_without_sync(&mut self, write: &Write) {
        let bytes = write.bytes();
        let count = if self.rng.bool() {
            bytes.len()
        } else {
            self.rng.usize(1..=bytes.len())
        };
        let file = self
            .disk
            .storage
            .open(&write.file.name())
            .expect("it is there");
        file.write_at(write.offset, &bytes[..count])
            .expect("it has its full length");
    }

    /// A sync fails: nothing is told any more, and the daemon ends after a while.
    fn sync_fails(&mut self) {
        self.journal_turn(false);
        if self.disk.in_flight.is_none() {
            return;
        }
        self.disk.disk.break_next_sync();
        self.journal_turn(true);
        if self.disk.writer.failure().is_none() {
            return;
        }
        let told = (self.facts.answers.len(), self.base.engine.durable_lsn());
        for _ in 0..5 {
            self.submit(None);
            self.turn();
        }
        assert!(self.facts.answers.len() >= told.0 && self.base.engine.durable_lsn() == told.1);
        self.failures += 1;
        if self.kind != Kind::Hot && self.rng.bool() {
            self.cold_start(true);
        } else {
            self.hot_start();
        }
    }

    /// The daemon dies, its segment stays; the next daemon adopts it.
    pub(crate) fn hot_start(&mut self) {
        let durable = self.disk.writer.durable();
        self.end_of_daemon();
        self.disk.disk.process_died();
        self.nonce += 1;
        let opened = reopened(&self.disk.disk, self.nonce);
        let mut segment = Arc::clone(self.base.engine.segment());
        if self.kind == Kind::Ages {
            segment = self.begun_alone(&segment);
        } else {
            segment.rebuild_caches(self.base.now);
            segment.remove_lost_spills();
        }
        self.begin(segment, &opened);
        self.hot_starts += 1;
        self.assert_facts(false);
        self.assert_given_back(durable, false);
        self.assert_has_time();
    }

    /// The daemon dies and its segment is gone; with `power_cut` the machine stops as well.
    pub(crate) fn cold_start(&mut self, power_cut: bool) {
        let durable = self.disk.writer.durable();
        self.end_of_daemon();
        if power_cut {
            self.disk.disk.crash(self.rng.u64(..));
        } else {
            self.disk.disk.process_died();
        }
        self.nonce += 1;
        let recovered = recover(&self.disk.disk, &journal_config(self.nonce));
        let recovered = recovered.unwrap_or_else(|error| panic!("{error}"));
        self.base.pass(self.rng.u64(1..50) * MS);
        let gen_base = (recovered.gen_limit > 0).then_some(recovered.gen_limit);
        let time = if self.kind == Kind::Ages {
            TimeAfter::highest(recovered.max_stamp)
        } else {
            TimeAfter {
                first_stamp: recovered.max_stamp,
                stamps_moved: 0,
            }
        };
        let segment = self.base.another_segment(after(gen_base, time));
        if self.kind == Kind::Ages {
            self.goes_on_after(&segment, recovered.max_stamp);
        } else if self.has_few_key_places() {
            fill_keys(&segment, self.base.now);
        }
        let restored = restore(&segment, &recovered, self.wall());
        restored.unwrap_or_else(|error| panic!("{error}"));
        segment.remove_lost_spills();
        self.ghosts.clear();
        self.drained.clear();
        self.begin(segment, &recovered.opened);
        self.cold_starts += 1;
        self.assert_facts(true);
        self.assert_given_back(durable, true);
        self.assert_has_time();
    }

    fn end_of_daemon(&mut self) {
        self.settle_write();
        self.facts.lose_answers();
        self.disk.disk.set_capacity(None);
    }

    fn begin(&mut self, segment: Arc<Segment>, opened: &Opened) {
        let snapshots = self.disk.snapshots;
        self.disk = Disk::after(opened, self.disk.disk.clone(), self.nonce);
        self.disk.snapshots = snapshots;
        let appender = Appender::new(opened.end.next(), limits());
        let seed = self.rng.u64(..);
        let engine = Engine::with_journal(segment, engine_config(seed), appender, self.wall())
            .expect("the configuration is usable");
        self.base.goes_on_with(engine);
        for worker in &mut self.workers {
            worker.mail.clear();
            worker.is_cut_off = true;
        }
        for place in 0..self.workers.len() {
            if self.rng.u8(..) > 60 {
                self.worker_comes_back(place);
            }
        }
    }
}

/// What a segment after the one that was lost begins with: ids from a generation on, and a time.
pub(crate) fn after(gen_base: Option<u64>, time: TimeAfter) -> impl FnOnce(&mut SegmentSpec) {
    move |spec| {
        (spec.gen_base, spec.spill_id) = (gen_base.or(Some(2)), Some(1));
        (spec.first_stamp, spec.stamps_moved) = (time.first_stamp, time.stamps_moved);
    }
}

/// Leaves few places in the table of keys, as if others had filled it, whose tasks nobody has acknowledged.
pub(crate) fn fill_keys(segment: &Segment, now: Now) {
    let table = segment.keys();
    // Of the first tenant of a slot, before those of this world.
    let task = TaskId::from_raw(1 << 24).expect("an id");
    let count = table.capacity() - table.capacity() / 4 - KEY_PLACES_LEFT;
    for number in 0..u64::from(count) {
        let key = KeyId::from_words([number + 1, u64::MAX]).expect("not zero");
        let kept = table.put_back(key, task, STAMP_MAX / 2, now);
        kept.expect("three quarters of the table find places");
    }
}

pub(crate) fn limits() -> AppenderLimits {
    AppenderLimits {
        group_bytes: 1 << 18,
        reserve_bytes: 1 << 18,
    }
}
