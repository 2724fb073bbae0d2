//! Years that go by: time leaps to where the origin is due to be moved, and to the last stamp; each start may move it.
//!
//! The world's moments are the segment's, so when the origin moves they all do; what the journal counts goes on. And clients give keys back, which
//! no start may bring back.

use std::sync::Arc;

use qtf_engine::Lsn;
use qtf_shm::time::{REBASE_FROM, STAMP_MAX};
use qtf_shm::{Now, Phase, Segment, TaskId};

use super::world::{Kind, MS, TTL_NS, World};

impl World {
    /// The machine sleeps for years, or the daemon is stopped for so long: up to shortly before one of the moments that matter, or beyond.
    pub(crate) fn years_go_by(&mut self) {
        let border = [REBASE_FROM, STAMP_MAX][self.rng.usize(0..2)];
        let short = self.rng.u64(0..600 * MS);
        let moment = Now::from_ns(Now::from_stamp(border).ns - short);
        if moment <= self.base.now {
            return;
        }
        self.base.now = moment;
        self.leaps += 1;
        // Keys are known for an hour.
        self.facts.keys.clear();
        self.facts.unanswered.clear();
        self.given_back.clear();
        for task in self.facts.tasks.values_mut() {
            task.is_of_an_earlier_age = true;
        }
    }

    /// No stamp is left for what comes in now, or for its delay.
    pub(crate) fn has_no_time_for(&self, delay_ms: u64) -> bool {
        let due = self.base.now.plus_ns(delay_ms * MS);
        self.kind == Kind::Ages && due.is_out_of_stamps()
    }

    /// The next daemon has the segment, whose origin it may have moved.
    pub(crate) fn begun_alone(&mut self, segment: &Arc<Segment>) -> Arc<Segment> {
        let clock_ns = segment.header().origin_ns.wrapping_add(self.base.now.ns);
        let begun = segment.begun_alone(clock_ns);
        let begun = begun.unwrap_or_else(|error| panic!("{error}"));
        let now = begun.now_at(clock_ns);
        self.moves += u64::from(segment.stamps_moved() != begun.stamps_moved());
        self.moments_move_to(now);
        Arc::new(begun)
    }

    /// A new segment goes on right behind what the journal knows.
    pub(crate) fn goes_on_after(&mut self, segment: &Segment, max_stamp: u64) {
        // What only memory knew is gone, and its places with it.
        self.last_stamp = max_stamp;
        self.moves += u64::from(segment.stamps_moved() > 0);
        self.moments_move_to(segment.now_at(0));
    }

    /// A daemon that has just started takes tasks for months.
    pub(crate) fn assert_has_time(&self) {
        const DAYS_MS: u64 = 200 * 24 * 3_600_000;
        assert!(!self.has_no_time_for(DAYS_MS), "a start has left no time");
    }

    /// The present has another number.
    fn moments_move_to(&mut self, now: Now) {
        let before = core::mem::replace(&mut self.base.now, now);
        let moved = |moment: Now| {
            let ns = (moment.ns + now.ns).saturating_sub(before.ns);
            Now::from_ns(ns)
        };
        for task in self.facts.tasks.values_mut() {
            // Time may begin anew with less behind it than has gone by.
            let first = task.first_end().map_or(before, |(_, at)| at);
            task.is_of_an_earlier_age |= first.ns + now.ns < before.ns;
            for at in [&mut task.life.end, &mut task.found_final] {
                *at = at.map(|(phase, at)| (phase, moved(at)));
            }
        }
        self.full_until = moved(self.full_until);
        let ms = |moment: Now| i64::try_from(moment.ns / MS).expect("some hundred years");
        self.wall_skew_ms += ms(before) - ms(now);
    }

    /// Whoever was submitted first stands before who came later, however old both are.
    pub(crate) fn assert_old_order(&self) {
        let segment = self.base.engine.segment();
        let is_there = |id: &TaskId| segment.state(id.slot()).is_of(*id);
        let mut places: Vec<(u64, u64)> = self
            .facts
            .tasks
            .iter()
            .filter(|(id, _)| is_there(id))
            .map(|(id, task)| (task.stamp, segment.task(id.slot()).key().ready_stamp()))
            .collect();
        places.sort_unstable();
        let is_in_order = |pair: &[(u64, u64)]| pair[0].1 < pair[1].1;
        assert!(places.windows(2).all(is_in_order), "{places:?}");
    }

    /// A client that has its answer needs its key no more.
    pub(crate) fn gives_a_key_back(&mut self) {
        let facts = &self.facts;
        let mut answered = facts.keys.iter().filter(|(_, id)| {
            let task = facts.tasks.get(id);
            task.is_some_and(|task| task.is_accepted)
        });
        let count = answered.clone().count();
        // A journal without room takes no note of it.
        let has_room = self.base.now >= self.full_until && self.disk.writer.failure().is_none();
        if count == 0 || !has_room {
            return;
        }
        let place = self.rng.usize(..count);
        let Some((&key, _)) = answered.nth(place) else {
            return;
        };
        self.facts.keys.remove(&key);
        self.facts.unanswered.retain(|&other| other != key);
        self.base.engine.release_keys(self.base.now, &[key]);
        self.given_back.push((key, None));
        self.keys_given_back += 1;
    }

    /// A record that was made after keys were given back: when it is durable, so is that.
    pub(crate) fn note_recorded(&mut self, lsn: Option<Lsn>) {
        for (_, recorded) in &mut self.given_back {
            *recorded = recorded.or(lsn);
        }
    }

    /// No start brings a key back that was given back. A cold one may where no record of that was durable when a daemon died: nobody waits for it.
    pub(crate) fn assert_given_back(&mut self, durable: Lsn, is_cold: bool) {
        let known = self.base.engine.segment().keys();
        for (key, recorded) in core::mem::take(&mut self.given_back) {
            let is_durable = recorded.is_some_and(|lsn| lsn <= durable);
            let is_gone = known.find(key, self.base.now).is_none();
            assert!(
                is_gone || is_cold && !is_durable,
                "{key:?} was given back, and is known"
            );
            if is_durable {
                self.given_back.push((key, recorded));
            }
        }
    }

    /// Results whose time is over go by themselves; dead letters stay.
    pub(crate) fn assert_purged_in_time(&mut self) {
        for _ in 0..50 {
            self.base.now = self.base.now.plus_ns(TTL_NS / 25);
            self.turn();
        }
        for _ in 0..200 {
            self.turn();
        }
        for (id, task) in &self.facts.tasks {
            let is_kept = task
                .end
                .is_some_and(|(phase, _)| phase == Phase::DeadLetter);
            assert!(task.is_freed || is_kept, "{id} is kept for ever: {task:?}");
        }
    }
}
