//! The caches made anew: cut at any write, over any content, by two threads; the next rebuild mends it.

use proptest::prelude::*;

use super::{segment, segment_in, submit};
use crate::id::{AttachIndex, TaskId};
use crate::segment::{Part, RestoredTask, Segment};
use crate::sync::Ordering;
use crate::sync::kill::{Killed, killed_after};
use crate::task::slot::TaskOptions;
use crate::task::state::{Blocked, Event, Phase};
use crate::time::Now;

/// Tasks in all kinds of phases, with and without bytes; what a killed daemon and submitter leave is in it too.
fn populated(tasks: u64) -> Segment {
    let segment = segment(tasks);
    let mut random = fastrand::Rng::with_seed(tasks);
    for stamp in 0..tasks * 2 / 3 {
        let bytes = vec![3; random.usize(0..300)];
        let id = submit(&segment, random.u8(..), stamp, &bytes);
        let slot = id.slot();
        let step = |event| {
            let state = segment.state(slot);
            segment.apply(slot, state, event).unwrap();
        };
        match random.u8(0..6) {
            // Taken back by its client, and freed.
            0 => {
                step(Event::Cancel);
                segment.free_task(slot, segment.state(slot)).unwrap();
            }
            1 => {
                step(Event::Cancel);
                segment.unindex_ready(slot);
            }
            2 => {
                step(Event::Park {
                    why: Blocked::NO_WORKER_OFFERS,
                });
                segment.unindex_ready(slot);
            }
            _ => {}
        }
    }
    // A submitter killed between its claim and its publication: nobody gives the slot back.
    let claimed = segment.claim_task(AttachIndex::DAEMON).unwrap();
    let mut claimed = core::mem::ManuallyDrop::new(claimed);
    claimed.set_payload(&[4; 200]).unwrap();
    segment
}

fn tasks_of(segment: &Segment) -> Vec<(TaskId, Phase, Vec<u8>)> {
    let slots = (0..segment.geometry().tasks()).filter_map(|number| segment.slot(number));
    slots
        .filter_map(|slot| {
            let state = segment.state(slot);
            let id = state.id(slot)?;
            if matches!(state.phase(), Phase::Free | Phase::Claimed) {
                return None;
            }
            let mut out = vec![0; 300];
            let count = segment.load(id, Part::Payload, 0, &mut out).unwrap();
            out.truncate(count);
            Some((id, state.phase(), out))
        })
        .collect()
}

#[test]
fn rebuild_cut_at_any_write_is_mended_by_the_next_one_and_loses_no_task() {
    for writes in 1.. {
        let segment = populated(90);
        // So that there is something to write: the bitmap and the trees are all wrong.
        scramble(&segment);
        let tasks = tasks_of(&segment);
        let outcome = killed_after(writes, || segment.rebuild_caches(Now::from_stamp(5)));
        if outcome == Err(Killed) {
            assert_eq!(tasks_of(&segment), tasks, "after {writes} writes");
            segment.rebuild_caches(Now::from_stamp(6));
        }
        assert_eq!(
            tasks_of(&segment),
            tasks,
            "after {writes} writes and a second rebuild"
        );
        // Findings would be looked at again after pauses, which take most of the time of this test.
        let report = segment.verify();
        assert!(!report.broken() && !report.torn(), "{writes}: {report:?}");
        if outcome.is_ok() {
            assert!(
                writes > 300,
                "{writes} writes are too few to have been cut in"
            );
            break;
        }
    }
}

/// Noise in every word of the trees, and in the bitmap above the tasks.
fn scramble(segment: &Segment) {
    use crate::layout::RegionKind;
    let mut random = fastrand::Rng::with_seed(8);
    for kind in [
        RegionKind::Ready,
        RegionKind::Timers,
        RegionKind::TaskBitmap,
    ] {
        let entry = segment.regions().get(kind);
        let first = usize::try_from(entry.offset / 8).unwrap();
        let count = usize::try_from(entry.bytes / 8).unwrap();
        for word in &segment.view().parts.mapping.words()[first..first + count] {
            word.store(random.u64(..), Ordering::Relaxed);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn rebuild_over_any_caches_gives_those_of_the_states(
        tasks in prop_oneof![1_u64..40, 60_u64..70, 500_u64..600, 4_000_u64..4_200],
        used in prop::collection::btree_map(0_u32..4_200, 0_u8..5, 0..200),
        noise in any::<bool>(),
    ) {
        let segment = segment_in("/dev/null/spill", tasks, 1 << 16);
        let mut count = 0;
        for (&slot, &phase) in &used {
            let Some(slot) = segment.slot(slot) else {
                continue;
            };
            let phases = [Phase::Ready, Phase::Delayed, Phase::Done, Phase::Blocked, Phase::Held];
            let task = RestoredTask {
                phase: phases[usize::from(phase)],
                priority: phase,
                stamp: u64::from(slot.get()),
                phase_time: 7,
                ..RestoredTask::new(TaskId::new(1 + u64::from(phase), slot))
            };
            segment.restore_task(&task).unwrap();
            count += 1;
        }
        if noise {
            scramble(&segment);
        }
        let rebuilt = segment.rebuild_caches(Now::from_stamp(9));
        prop_assert_eq!(rebuilt.tasks, count);
        let report = segment.verify();
        prop_assert!(!report.broken() && !report.torn(), "{:?}", report);
        let order: Vec<_> = segment.ready().entries_in_order().collect();
        let ready = used.iter().filter(|&(&slot, &phase)| phase == 0 && u64::from(slot) < tasks);
        prop_assert_eq!(order.len(), ready.count());
        prop_assert!(order.is_sorted_by_key(|&(slot, key)| (key, slot)));
    }
}

#[test]
fn large_segment_read_by_two_threads_is_rebuilt_as_a_small_one() {
    let segment = segment_in("/dev/null/spill", 1 << 18, 1 << 20);
    let last = (1 << 18) - 1;
    for slot in (0..1 << 18).filter(|slot| slot % 3 == 0 || *slot == last) {
        let slot = segment.slot(slot).unwrap();
        let task = RestoredTask {
            stamp: u64::from(slot.get()),
            lsn: u64::from(slot.get()),
            options: TaskOptions::JOURNAL,
            ..RestoredTask::new(TaskId::new(5, slot))
        };
        segment.restore_task(&task).unwrap();
    }
    let rebuilt = segment.rebuild_caches(Now::default());
    let expected = (1_u64 << 18).div_ceil(3);
    assert_eq!(rebuilt.tasks, expected + u64::from(last % 3 != 0));
    assert_eq!(rebuilt.lsn_top, u64::from(last));
    assert_eq!(rebuilt.unnumbered, 1, "that of slot 0");
    assert_eq!(segment.counters().gauge(Phase::Ready), rebuilt.tasks);
    let report = segment.verify();
    assert!(!report.broken(), "{report:?}");
}
