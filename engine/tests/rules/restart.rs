//! Hot restart: the daemon is killed at each point of a task's life, the segment stays.

use qtf_engine::{Disposition, EngineConfig, RejectReason};
use qtf_journal::{AppenderLimits, LSN_MAX};
use qtf_shm::{Counter, Event, OutcomeKind, Phase, TaskId};

use qtf_world::JournalWorld;
use qtf_world::{Dispatched, MS, SECOND};

fn held(world: &mut JournalWorld) -> Dispatched {
    world.worker(1, &["exec"]);
    world.ready("exec");
    let got = world.dispatch();
    world.start(got);
    got
}

/// After a cold start from what is durable now the task stands there.
fn cold_phase(mut world: JournalWorld, task: TaskId) -> Option<Phase> {
    world.sync();
    let world = world.cold_restart();
    world.verify();
    world.engine.check(task).ok().map(|state| state.phase())
}

#[test]
fn submission_whose_record_was_lost_is_journalled_again_and_then_accepted() {
    let mut world = JournalWorld::new();
    let accepted = world.submit_journal("exec");
    let mut world = world.hot_restart();
    assert_eq!(world.phase(accepted.task), Phase::Submitted);
    assert_eq!(world.counter(Counter::TaskJournalledAgain), 1);
    world.settle();
    assert_eq!(world.phase(accepted.task), Phase::Submitted);
    world.sync();
    assert_eq!(world.phase(accepted.task), Phase::Ready);
    world.verify();
    assert_eq!(cold_phase(world, accepted.task), Some(Phase::Ready));
}

#[test]
fn submission_whose_record_was_durable_but_not_told_is_accepted() {
    let mut world = JournalWorld::new();
    let task = world
        .take_in("exec", |task| task.delay_ms = 60_000)
        .unwrap()
        .task;
    assert!(world.write());
    let mut world = world.hot_restart();
    world.sync();
    assert_eq!(world.phase(task), Phase::Delayed);
    world.verify();
    assert_eq!(cold_phase(world, task), Some(Phase::Delayed));
}

#[test]
fn outcome_whose_record_was_lost_is_journalled_again_and_its_worker_hears_the_same() {
    for is_written in [false, true] {
        let mut world = JournalWorld::new();
        let got = held(&mut world);
        world.result(got, 0, b"output");
        if is_written {
            assert!(world.write());
        }
        let mut world = world.hot_restart();
        assert_eq!(world.phase(got.1), Phase::Ended);
        let again = world.result(got, 0, b"output");
        assert_eq!(again.disposition, Disposition::AlreadyRecorded);
        assert!(again.durable > Some(world.durable()));
        assert!(world.ends().is_empty());
        world.verify();
        world.sync();
        assert_eq!(world.ends(), [(got.1, Phase::Done)]);
        world.verify();
        assert_eq!(cold_phase(world, got.1), Some(Phase::Done));
    }
}

#[test]
fn outcome_that_was_not_written_at_all_is_journalled_again() {
    let mut world = JournalWorld::new();
    let got = held(&mut world);
    world.sync();
    world.result(got, 3, b"");
    let mut world = world.hot_restart();
    world.sync();
    assert_eq!(world.ends(), [(got.1, Phase::Failed)]);
    assert_eq!(world.outcome(got.1).code, 3);
    assert_eq!(cold_phase(world, got.1), Some(Phase::Failed));
}

#[test]
fn attempt_that_ended_and_was_not_judged_is_judged() {
    for (code, end) in [(0, Phase::Ended), (1, Phase::Delayed)] {
        let mut world = JournalWorld::new();
        world.worker(1, &["exec"]);
        let taken = world.take_in("exec", |task| task.retries = 1);
        let task = taken.unwrap().task;
        world.sync();
        let got = world.dispatch();
        world.start(got);
        let slot = qtf_world::written(world.segment(), task.slot());
        slot.set_outcome(qtf_shm::Outcome {
            kind: OutcomeKind::Exited,
            code,
            result_dropped: false,
            output_cut: false,
        });
        let running = slot.state();
        let ended = world.segment().apply(task.slot(), running, Event::End);
        assert!(ended.is_ok());
        let mut world = world.hot_restart();
        assert_eq!(world.phase(task), end);
        world.sync();
        world.settle();
        world.verify();
        assert_eq!(world.segment().task(task.slot()).failures(), code);
    }
}

#[test]
fn cancellation_whose_record_was_lost_stays_and_is_told_when_durable() {
    let mut world = JournalWorld::new();
    let task = world.ready("exec");
    world.cancel(task).unwrap();
    let mut world = world.hot_restart();
    assert_eq!(world.phase(task), Phase::Cancelled);
    assert_eq!(world.engine.settled_end(task), Ok(None));
    assert!(world.ends().is_empty());
    world.sync();
    assert_eq!(world.ends(), [(task, Phase::Cancelled)]);
    assert_eq!(cold_phase(world, task), Some(Phase::Cancelled));
}

#[test]
fn running_task_goes_on_over_a_restart_and_its_result_counts() {
    let mut world = JournalWorld::new();
    let got = held(&mut world);
    let mut world = world.hot_restart();
    world.sync();
    assert_eq!(world.phase(got.1), Phase::Running);
    let answer = world.result(got, 0, b"");
    assert_eq!(answer.disposition, Disposition::Recorded);
    world.sync();
    assert_eq!(world.ends(), [(got.1, Phase::Done)]);
    world.verify();
}

#[test]
fn retry_whose_record_was_lost_keeps_its_failures_and_its_pause() {
    let mut world = JournalWorld::new();
    world.worker(1, &["exec"]);
    let taken = world.take_in("exec", |task| task.retries = 1);
    let task = taken.unwrap().task;
    world.sync();
    let got = world.dispatch();
    world.result(got, 1, b"");
    let mut world = world.hot_restart();
    world.sync();
    let world = world.cold_restart();
    assert_eq!(world.phase(task), Phase::Delayed);
    let slot = world.segment().task(task.slot());
    assert_eq!((slot.failures(), slot.state().fence()), (1, 1));
}

#[test]
fn acknowledgement_that_was_not_durable_is_as_if_never_made_after_a_cold_start() {
    let mut world = JournalWorld::new();
    let got = held(&mut world);
    world.result(got, 0, b"output");
    world.sync();
    world.forget(got.1).unwrap();
    let mut world = world.cold_restart();
    assert_eq!(world.phase(got.1), Phase::Done);
    world.forget(got.1).unwrap();
    world.sync();
    let world = world.cold_restart();
    assert!(world.engine.check(got.1).is_err());
}

#[test]
fn change_that_a_kill_cut_off_before_its_record_is_journalled_as_a_whole() {
    let mut world = JournalWorld::new();
    let task = world.ready("exec");
    // As after the change of the state and before the append of the record.
    let slot = qtf_world::written(world.segment(), task.slot());
    slot.set_lsn(LSN_MAX);
    slot.set_outcome(qtf_shm::Outcome {
        kind: OutcomeKind::Cancelled,
        ..qtf_shm::Outcome::default()
    });
    let state = slot.state();
    let cancelled = world.segment().apply(task.slot(), state, Event::Cancel);
    assert!(cancelled.is_ok());
    let mut world = world.hot_restart();
    assert_eq!(world.engine.settled_end(task), Ok(None));
    world.sync();
    assert_eq!(world.ends(), [(task, Phase::Cancelled)]);
    assert_eq!(cold_phase(world, task), Some(Phase::Cancelled));
}

#[test]
fn what_the_journal_has_is_not_written_again() {
    let mut world = JournalWorld::new();
    let got = held(&mut world);
    for _ in 0..20 {
        world.ready("exec");
    }
    world.result(got, 0, b"");
    world.sync();
    world.settle();
    world.sync();
    let end = world.durable();
    let mut world = world.hot_restart();
    world.sync();
    assert_eq!(world.counter(Counter::TaskJournalledAgain), 0);
    // How far ids are reserved is said once more.
    assert_eq!(world.durable(), end.next());
    world.verify();
}

#[test]
fn segment_whose_journal_is_lost_is_journalled_as_a_whole_group_by_group() {
    let mut world = JournalWorld::new();
    let bytes = vec![7; 4_000];
    let mut tasks = Vec::new();
    for _ in 0..60 {
        let taken = world.take_in("exec", |task| {
            task.payload = qtf_engine::Payload::Bytes(&bytes);
        });
        tasks.push(taken.unwrap().task);
    }
    world.sync();
    world.settle();
    let limits = AppenderLimits {
        group_bytes: 0,
        reserve_bytes: 0,
    };
    world.disk = qtf_journal::SimDisk::new();
    let mut world = world.hot_restart_with(limits);
    world.worker(1, &["exec"]);
    assert!(world.engine.is_adopting(), "more than a group");
    let refused = world.take_in("exec", |_| ()).unwrap_err();
    assert_eq!(refused.reason, RejectReason::JournalFull);
    assert!(refused.retry_after_ms > 0);
    assert_eq!(
        world.cancel(tasks[59]).unwrap_err().reason,
        RejectReason::JournalFull
    );
    for _ in 0..100 {
        world.sync();
        let effects = world.cycle();
        if !world.engine.is_adopting() {
            break;
        }
        assert!(effects.is_empty(), "{effects:?}");
    }
    assert!(!world.engine.is_adopting());
    world.sync();
    assert_eq!(world.dispatch().1, tasks[0], "the old order");
    assert_eq!(world.counter(Counter::TaskJournalledAgain), 60);
    let world = world.cold_restart();
    for task in tasks {
        assert_eq!(world.phase(task), Phase::Ready);
    }
    world.verify();
}

#[test]
fn tasks_of_a_journal_go_on_in_a_daemon_without_one() {
    let mut world = JournalWorld::new();
    let got = held(&mut world);
    let waiting = world.submit_journal("exec").task;
    world.result(got, 0, b"");
    let mut world = world.world.restarted();
    world.settle_for(10 * SECOND);
    assert_eq!(world.phase(got.1), Phase::Done);
    let phase = world.phase(waiting);
    assert!(
        matches!(phase, Phase::Ready | Phase::Blocked | Phase::Assigned),
        "{phase}"
    );
    world.verify();
}

#[test]
fn restarts_at_every_step_of_a_life_lead_to_the_same_end() {
    let steps = 9;
    for restart_at in 0..steps {
        let mut world = JournalWorld::with(EngineConfig::default());
        world.worker(1, &["exec"]);
        let task = world.submit_journal("exec").task;
        let mut got = None;
        for step in 0..steps {
            match step {
                0 | 5 => drop(world.write()),
                1 | 6 => world.tell(),
                2 => {
                    let all = world.dispatches();
                    got = got.or(all.first().copied());
                }
                3 => got.into_iter().for_each(|got| world.start(got)),
                4 | 7 => {
                    if let Some(got) = got {
                        world.result(got, 0, b"output");
                    }
                }
                _ => world.sync(),
            }
            if step == restart_at {
                world = world.hot_restart();
            }
        }
        world.pass(MS);
        for _ in 0..3 {
            world.sync();
            for one in world.dispatches() {
                world.result(one, 0, b"output");
            }
            if let Some(got) = got {
                world.result(got, 0, b"output");
                let now = world.now;
                let _ = world.engine.worker_credits(now, got.0, 1, false);
            } else {
                world.worker(1, &["exec"]);
            }
            world.beat_all();
        }
        world.sync();
        world.verify();
        assert_eq!(world.phase(task), Phase::Done, "restart at {restart_at}");
        assert_eq!(cold_phase(world, task), Some(Phase::Done));
    }
}

#[test]
fn task_that_a_local_process_submits_is_journalled_as_a_whole_and_then_accepted() {
    for is_changed_first in [false, true] {
        let mut world = JournalWorld::new();
        let segment = std::sync::Arc::clone(world.engine.segment());
        let mut claimed = segment.claim_task(qtf_shm::AttachIndex::DAEMON).unwrap();
        let fields = qtf_shm::TaskFields {
            kind: segment.kinds().find("exec"),
            priority: 9,
            options: qtf_shm::TaskOptions::JOURNAL,
            ..qtf_shm::TaskFields::default()
        };
        claimed.write(&fields).unwrap();
        claimed.set_payload(b"of a local process").unwrap();
        let task = claimed.publish(Event::Submit, 77).unwrap();
        if is_changed_first {
            let now = world.now;
            let answer = world.engine.update_priority(now, task, 7).unwrap();
            assert_eq!(answer.durable, Some(world.last()));
            world.sync();
        }
        world.settle_for(10 * SECOND);
        world.sync();
        world.settle_for(10 * SECOND);
        assert_eq!(world.phase(task), Phase::Ready);
        let world = world.cold_restart();
        assert_eq!(world.phase(task), Phase::Ready);
        let record = world.segment().read_task(task.slot()).unwrap().record;
        assert_eq!(record.priority, if is_changed_first { 7 } else { 9 });
        let mut payload = [0; 18];
        let part = qtf_shm::Part::Payload;
        let read = world.segment().load_blob(&record, part, 0, &mut payload);
        assert_eq!((read.unwrap(), &payload), (18, b"of a local process"));
    }
}
