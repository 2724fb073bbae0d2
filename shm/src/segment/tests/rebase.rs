//! A move of the origin keeps order and times, and a kill after any store of it changes nothing about what comes out.

use super::segment;
use crate::arena::{Claimant, Purpose};
use crate::hand_over::{EntryPlace, LANE_BYTES};
use crate::id::{AttachIndex, SlotIndex, TaskId};
use crate::keys::KeyId;
use crate::segment::rebase::{ANCIENT_STAMPS, Mark};
use crate::segment::{Segment, TaskFields};
use crate::sync::Ordering;
use crate::sync::kill::{Killed, killed_after};
use crate::task::side::SideRecord;
use crate::task::state::{Event, Phase};
use crate::time::{Now, REBASE_FROM, STAMP_MAX, STAMPS_KEPT};
use crate::worker::{WorkerEvent, WorkerFields, WorkerWriter};

const DAY: u64 = (86_400 * 1_000_000_000) >> 8;

/// A task that waits since `stamp`, and one in two has a key in a side record.
fn waiting(segment: &Segment, stamp: u64, expiry: Option<u64>) -> TaskId {
    let mut claimed = segment.claim_task(AttachIndex::DAEMON).unwrap();
    let side = expiry.map(|key_expiry| SideRecord {
        key: [stamp, 9],
        key_expiry,
        array_id: 1,
        ..SideRecord::default()
    });
    let fields = TaskFields {
        side,
        ..TaskFields::default()
    };
    claimed.write(&fields).unwrap();
    claimed.publish(Event::Admit, stamp).unwrap()
}

fn delayed(segment: &Segment, due: u64) -> TaskId {
    let mut claimed = segment.claim_task(AttachIndex::DAEMON).unwrap();
    let fields = TaskFields {
        due,
        ..TaskFields::default()
    };
    claimed.write(&fields).unwrap();
    claimed.publish(Event::AdmitDelayed, 5).unwrap()
}

/// A task that a local worker has begun at `started`, and what that has said about it in its lane.
fn begun(segment: &Segment, started: u64) {
    let task = waiting(segment, 7, None);
    let worker = segment.worker_index(2).unwrap();
    let arena = segment.view.parts.arena();
    let claimant = Claimant {
        attach: 1,
        incarnation: 5,
    };
    let chunk = arena.allocate(claimant, LANE_BYTES, Purpose::Result);
    let unit = chunk.unwrap().unit();
    let words = arena.claimed_words(unit, claimant, LANE_BYTES / 8).unwrap();
    let slot = WorkerWriter::of(segment.worker(worker));
    slot.fill(&WorkerFields::default());
    slot.set_local(claimant.attach);
    slot.set_lane((u64::from(claimant.incarnation) << 32) | u64::from(unit + 1));
    slot.apply(slot.state(), WorkerEvent::Register { capacity: 4 })
        .unwrap();
    EntryPlace::of(words)
        .unwrap()
        .begin(task.as_raw(), 1, started);
    for event in [Event::Assign { worker }, Event::Start] {
        let state = segment.state(task.slot());
        segment.apply(task.slot(), state, event).unwrap();
    }
}

/// A segment with tasks of all ages at `now`, and what else has a time.
fn aged(now: u64, seed: u64) -> Segment {
    let segment = segment(64);
    let mut random = fastrand::Rng::with_seed(seed);
    let taken = now.min(STAMP_MAX) - STAMPS_KEPT;
    for number in 0..24 {
        let stamp = match number % 4 {
            0 => random.u64(0..taken),
            1 => taken + random.u64(0..ANCIENT_STAMPS * 2),
            2 => random.u64(taken..now.min(STAMP_MAX)),
            // The same twice, and neighbours.
            _ => 1_000 + random.u64(0..3),
        };
        let expiry =
            (number % 3 == 0).then(|| now.saturating_add(random.u64(0..DAY)).min(STAMP_MAX));
        waiting(&segment, stamp, expiry);
    }
    delayed(&segment, (now + 3 * DAY).min(STAMP_MAX - 1));
    for number in 0..4 {
        let key = KeyId::from_words([number + 1, 3]).unwrap();
        let task = TaskId::from_raw(1 << 24).unwrap();
        let table = segment.keys();
        let expiry = [now + 7 * DAY, now + 1, 12, STAMP_MAX][usize::try_from(number).unwrap()];
        let place = table
            .reserve(key, task, expiry.min(STAMP_MAX), Now::from_stamp(1))
            .unwrap();
        assert!(table.confirm(place));
    }
    let worker = segment.worker(segment.worker_index(1).unwrap());
    WorkerWriter::of(worker).fill(&WorkerFields {
        registered: 44,
        ..WorkerFields::default()
    });
    worker
        .apply(worker.state(), WorkerEvent::Register { capacity: 4 })
        .unwrap();
    // ORDERING: one thread.
    worker
        .heartbeat
        .store(now.min(STAMP_MAX), Ordering::Relaxed);
    worker
        .lease_end
        .store((now + 77).min(STAMP_MAX), Ordering::Relaxed);
    begun(&segment, now.min(STAMP_MAX) - 30);
    segment.rebuild_caches(Now::from_stamp(now));
    segment
}

/// What counts: order of the waiting, and what is left of each time.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    order: Vec<u32>,
    due_in: Vec<u64>,
    keys: Vec<(KeyId, u64)>,
    side_keys: Vec<u64>,
    lease_left: u64,
    /// How long an attempt at a local worker has run.
    runs_for: Vec<u64>,
}

fn seen(segment: &Segment, now: u64) -> Seen {
    let mut ready: Vec<(u64, u32)> = Vec::new();
    let (mut due_in, mut side_keys, mut runs_for) = (Vec::new(), Vec::new(), Vec::new());
    for slot in segment.allocated_slots(0..64) {
        let task = segment.task(slot);
        if let Some(attempt) = segment.completion(slot, task.state()) {
            runs_for.push(now.abs_diff(attempt.started));
        }
        if task.state().phase() == Phase::Delayed {
            due_in.push(task.phase_time() - now);
            assert_eq!(
                segment.timers().leaf(slot.get()).unwrap().timed_stamp(),
                task.phase_time()
            );
            continue;
        }
        ready.push((task.key().ready_stamp(), slot.get()));
        let record = segment.read_task(slot).unwrap().record;
        if let Some(side) = segment.read_side(&record).filter(|side| side.key != [0, 0]) {
            side_keys.push(side.key_expiry.saturating_sub(now));
        }
    }
    ready.sort_unstable();
    let mut keys: Vec<_> = segment
        .keys()
        .iter()
        .map(|entry| (entry.key, entry.expiry.saturating_sub(now)))
        .collect();
    keys.sort_unstable();
    let worker = segment.worker(segment.worker_index(1).unwrap());
    Seen {
        order: ready.into_iter().map(|(_, slot)| slot).collect(),
        due_in,
        keys,
        side_keys,
        lease_left: worker.lease_end() - now,
        runs_for,
    }
}

fn clock(segment: &Segment, stamp: u64) -> u64 {
    segment.header().origin_ns + (stamp << 8)
}

fn rebase(segment: &mut Segment, clock_ns: u64) -> u64 {
    segment.rebase_if_due(clock_ns);
    let now = segment.now_at(clock_ns);
    segment.rebuild_caches(now);
    now.stamp()
}

#[test]
fn order_and_remaining_times_stay_over_a_move_of_the_origin() {
    for seed in 0..60 {
        let before = REBASE_FROM + (seed * (STAMP_MAX - REBASE_FROM - 8 * DAY) / 60);
        let mut segment = aged(before, seed);
        let (moved, clock) = (segment.stamps_moved(), clock(&segment, before));
        let wanted = seen(&segment, before);
        let now = rebase(&mut segment, clock);
        assert_eq!(now, STAMPS_KEPT);
        let mut found = seen(&segment, now);
        // A key without a known end is known for longer, never shorter.
        for (key, left) in &mut found.keys {
            if key.words() == [4, 3] {
                assert!(*left >= STAMP_MAX - before, "{seed}: {left}");
                *left = STAMP_MAX - before;
            }
        }
        assert_eq!(found, wanted, "{seed}");
        // The journal's order goes on behind what it was.
        assert_eq!(segment.stamps_moved() - moved, before - STAMPS_KEPT);
        assert!(!segment.is_half_rebased() && segment.verify().findings.is_empty());
        // It is read as it was written.
        assert_eq!(Mark::read(segment.view.parts.control()), Ok(None));
    }
}

#[test]
fn origin_stays_where_it_is_before_its_time() {
    let mut segment = aged(REBASE_FROM - 1, 3);
    let clock = clock(&segment, REBASE_FROM - 1);
    assert_eq!(rebase(&mut segment, clock), REBASE_FROM - 1);
    assert_eq!(segment.stamps_moved(), 0);
}

#[test]
fn time_that_ran_out_has_stood_still_and_goes_on() {
    let mut segment = aged(STAMP_MAX, 4);
    let ended = segment.slot(0).unwrap();
    // ORDERING: one thread.
    let phase_time = &segment.task(ended).phase_time;
    phase_time.store(STAMP_MAX << 16, Ordering::Relaxed);
    // Half a year too late.
    let clock = clock(&segment, STAMP_MAX + 180 * DAY);
    let now = rebase(&mut segment, clock);
    assert_eq!(now, STAMPS_KEPT);
    assert_eq!(segment.task(ended).phase_time(), now, "it ended just now");
    let later = segment.now_at(clock + 256_000);
    assert_eq!(later.stamp(), now + 1_000);
}

/// After the kill another process begins, with nothing but the segment.
fn successor(segment: Segment) -> Segment {
    let view =
        crate::segment::SegmentView::of(crate::region::Mapping::Heap(copy_of(&segment)), None)
            .unwrap();
    let spill = segment.spill().clone();
    drop(segment);
    Segment::of(view, spill)
}

fn copy_of(segment: &Segment) -> crate::region::HeapMemory {
    let words = segment.view.parts.mapping.words();
    let copy = crate::region::HeapMemory::zeroed(words.len() * 8);
    let mapping = crate::region::Mapping::Heap(copy);
    for (to, from) in mapping.words().iter().zip(words) {
        // ORDERING: one thread.
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    match mapping {
        crate::region::Mapping::Heap(copy) => copy,
        crate::region::Mapping::Sysv(_) | crate::region::Mapping::Image(_) => {
            unreachable!("made above")
        }
    }
}

#[test]
fn kill_after_any_store_of_a_move_changes_nothing_about_what_comes_out() {
    let before = REBASE_FROM + 40 * DAY;
    let mut whole = aged(before, 11);
    let stamps: std::collections::BTreeMap<u32, u64> = whole
        .allocated_slots(0..64)
        .map(|slot| (slot.get(), whole.task(slot).key().ready_stamp()))
        .collect();
    let clock = clock(&whole, before);
    let now = rebase(&mut whole, clock);
    let wanted = seen(&whole, now);
    assert_eq!(wanted.runs_for, [30]);
    let mut kills = 0;
    for writes in 1.. {
        let mut segment = aged(before, 11);
        let first = killed_after(writes, || segment.rebase_if_due(clock));
        if first.is_ok() {
            break;
        }
        assert_eq!(first, Err(Killed));
        kills += 1;
        // And once more in the second run, somewhere.
        let mut second = successor(segment);
        let _ = killed_after(writes * 7 % 97 + 1, || second.rebase_if_due(clock));
        let mut third = successor(second);
        let moment = rebase(&mut third, clock);
        assert_eq!(moment, now, "{writes}");
        let found = seen(&third, moment);
        // Those that had the same stamp may come in either order.
        let order = |seen: &Seen| {
            seen.order
                .iter()
                .map(|slot| stamps[slot])
                .collect::<Vec<_>>()
        };
        assert_eq!(order(&found), order(&wanted), "{writes}");
        assert_eq!(
            (
                &found.due_in,
                &found.keys,
                &found.side_keys,
                found.lease_left,
                &found.runs_for
            ),
            (
                &wanted.due_in,
                &wanted.keys,
                &wanted.side_keys,
                wanted.lease_left,
                &wanted.runs_for
            ),
            "{writes}"
        );
        assert!(
            third.verify().findings.is_empty(),
            "{writes}: {:?}",
            third.verify().findings
        );
    }
    assert!(kills > 60, "{kills}");
}

#[test]
fn mark_that_nobody_wrote_is_known_as_damage() {
    let segment = aged(REBASE_FROM + DAY, 1);
    let control = segment.view.parts.control();
    for (place, value) in [(14, 9), (14, 2), (14, u64::MAX)] {
        // ORDERING: one thread.
        control.reserved[place].store(value, Ordering::Relaxed);
        assert!(Mark::read(control).is_err(), "{value}");
    }
    let slot = SlotIndex::new_checked(0, 64).unwrap();
    assert!(segment.state(slot).phase() != Phase::Free);
}

#[test]
fn damaged_mark_of_a_move_lets_nobody_build_caches_beside_the_living() {
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("a.lock");
    std::fs::write(&lock, "").unwrap();
    let spec = super::spec_in(folder.path(), 64, 1 << 20);
    let segment = Segment::create_private(&spec).unwrap();
    let judge = crate::segment::LockFile::open(&lock).unwrap();
    segment.set_lock_file(judge.identity());
    let attaching = crate::segment::AttachmentSpec::new(
        crate::layout::attach::AttachRole::Client,
        "living",
        folder.path(),
    )
    .with_lock_file(lock);
    let shm_id = segment.shm_id().unwrap();
    let _living = crate::segment::Attachment::open_id(shm_id, &attaching).unwrap();
    // ORDERING: one thread.
    let mark = |step| segment.view.parts.control().reserved[14].store(step, Ordering::Relaxed);
    mark(9);
    assert!(segment.is_being_rebuilt(), "nobody gets in");
    assert!(!segment.be_alone(Some(&judge)), "somebody lives");
    mark(0);
    assert!(!segment.be_alone(Some(&judge)));
}

#[test]
fn times_in_the_history_of_attempts_move_with_the_origin() {
    let mut segment = segment(64);
    let task = waiting(&segment, REBASE_FROM - 10, None);
    let kept = |segment: &Segment| segment.attempts_kept(task)[0].ended;
    let note = crate::segment::AttemptNote {
        task,
        attempt: 1,
        worker: None,
        ended: REBASE_FROM - 5,
        outcome: crate::task::slot::Outcome::default(),
        message: "",
        stderr: b"",
    };
    assert!(segment.keep_attempt(segment.plm_right().unwrap(), &note));
    let (before, origin) = (kept(&segment), segment.view.header.origin_ns);
    let now = Now::from_stamp(REBASE_FROM + 3);
    segment.rebase_if_due(origin.wrapping_add(now.ns));
    assert_eq!(segment.stamps_moved(), before - kept(&segment));
    assert_ne!(kept(&segment), before);
}
