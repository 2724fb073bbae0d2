//! Rules about what a worker says that it holds: nothing said is nothing compared, names are believed, and what it does not hold by its own
//! word goes to others, counted and told. An order that is still on its way to it does not.

use qtf_engine::{Effect, Held, Holding, StopReason};
use qtf_shm::{Counter, Phase, TaskId, WorkerId};

use qtf_world::{SECOND, World, dispatched};

fn held(task: TaskId, attempt: u32) -> Held {
    Held {
        task_id: task.as_raw(),
        attempt,
        finished: false,
    }
}

/// Attempts that a worker was told to stop because they are not its own.
fn stale(effects: &[Effect]) -> Vec<(WorkerId, TaskId, u16)> {
    let stops = effects.iter().filter_map(|effect| match *effect {
        Effect::Stop {
            worker,
            task,
            attempt,
            reason: StopReason::Stale,
        } => Some((worker, task, attempt)),
        Effect::Dispatch { .. }
        | Effect::Stop { .. }
        | Effect::Probe { .. }
        | Effect::Evict { .. }
        | Effect::Drain { .. }
        | Effect::Finished { .. } => None,
    });
    stops.collect()
}

/// Heartbeats of some seconds, of a worker to which nothing comes; returns what came of them, and how many attempts were missed.
fn deaf_beats(
    world: &mut World,
    worker: WorkerId,
    says: Holding<'_>,
    times: u32,
) -> (Vec<Effect>, u32) {
    let (mut effects, mut missing) = (Vec::new(), 0);
    for _ in 0..times {
        effects.extend(world.settle_for(SECOND));
        missing += world.beat_with(worker, says).expect("it is known");
        effects.extend(world.settle());
    }
    (effects, missing)
}

/// The same of a worker that answers what it is asked. What it is asked is left out.
fn beats(world: &mut World, worker: WorkerId, says: Holding<'_>, times: u32) -> (Vec<Effect>, u32) {
    let (mut effects, mut missing) = (Vec::new(), 0);
    for _ in 0..times {
        let (came, missed) = deaf_beats(world, worker, says, 1);
        world.answer(&came);
        effects.extend(came);
        missing += missed;
    }
    effects.retain(|effect| !matches!(effect, Effect::Probe { .. }));
    (effects, missing)
}

#[test]
fn worker_that_says_nothing_of_what_it_holds_keeps_it() {
    let mut world = World::new();
    let worker = world.worker(4, &["exec"]);
    let task = world.submit("exec");
    let given = world.dispatch();
    world.start(given);
    let (effects, missing) = beats(&mut world, worker, Holding::Unsaid, 60);
    assert_eq!((effects, missing), (vec![], 0));
    assert_eq!(world.phase(task), Phase::Running);
}

#[test]
fn what_a_worker_does_not_hold_by_its_own_word_goes_to_another_and_is_stopped_and_buried_in_the_end()
 {
    let mut world = World::new();
    let worker = world.worker(4, &["exec"]);
    let task = world.submit("exec");
    let given = world.dispatch();
    world.start(given);
    let losses_max = u32::from(world.engine.config().losses_max);
    let (effects, missing) = beats(&mut world, worker, Holding::Count(0), 40);
    let attempts: Vec<_> = dispatched(&effects).iter().map(|&(.., one)| one).collect();
    let given = u16::try_from(losses_max).unwrap() + 1;
    assert_eq!(attempts, (2..=given).collect::<Vec<_>>());
    assert_eq!(missing, losses_max + 1, "each is told");
    let stopped: Vec<_> = stale(&effects).iter().map(|&(.., one)| one).collect();
    assert_eq!(stopped, (1..=given).collect::<Vec<_>>());
    assert_eq!(world.phase(task), Phase::DeadLetter);
    let counters = world.segment().counters();
    assert_eq!(
        counters.get(Counter::AssignmentReconciled),
        u64::from(losses_max) + 1
    );
}

#[test]
fn attempts_that_are_named_stay_and_those_that_are_not_go_to_others() {
    let mut world = World::new();
    let worker = world.worker(4, &["exec"]);
    let (kept, lost) = (world.submit("exec"), world.submit("exec"));
    for given in world.dispatches() {
        world.start(given);
    }
    let named = [held(kept, 1)];
    let (effects, missing) = beats(&mut world, worker, Holding::Named(&named), 9);
    assert_eq!(missing, 1);
    assert_eq!(dispatched(&effects), [(worker, lost, 2)]);
    assert_eq!(stale(&effects), [(worker, lost, 1)]);
    assert_eq!(world.phase(kept), Phase::Running);
    assert_eq!(world.segment().task(lost.slot()).losses(), 1);
    world.verify();
}

#[test]
fn order_that_is_still_on_its_way_is_not_lost_however_long_it_takes() {
    let mut world = World::new();
    let worker = world.worker(4, &["exec"]);
    let (first, second) = (world.submit("exec"), world.submit("exec"));
    let given = world.dispatches();
    for says in [Holding::Count(0), Holding::Named(&[held(first, 1)])] {
        let (effects, missing) = deaf_beats(&mut world, worker, says, 60);
        assert_eq!(missing, 0);
        let asked = |effect: &Effect| matches!(effect, Effect::Probe { .. });
        assert!(
            effects.len() > 50 && effects.iter().all(asked),
            "{effects:?}"
        );
    }
    // They have come at last.
    for given in given {
        world.start(given);
        assert_eq!(world.end(given, 0), qtf_engine::Disposition::Recorded);
    }
    for task in [first, second] {
        assert_eq!(world.phase(task), Phase::Done);
        assert_eq!(world.segment().task(task.slot()).losses(), 0);
    }
    world.verify();
}

#[test]
fn answer_tells_nothing_of_what_was_sent_after_its_question() {
    let mut world = World::new();
    let worker = world.worker(4, &["exec"]);
    let first = world.submit("exec");
    world.dispatch();
    let (asked, _) = deaf_beats(&mut world, worker, Holding::Count(0), 6);
    let second = world.submit("exec");
    world.dispatch();
    world.answer(&asked);
    let (effects, missing) = deaf_beats(&mut world, worker, Holding::Count(0), 30);
    assert_eq!((dispatched(&effects), missing), (vec![], 0));
    // Both are behind what it answers now.
    world.answer(&effects);
    let (effects, missing) = deaf_beats(&mut world, worker, Holding::Count(0), 2);
    assert_eq!(missing, 2);
    let mut again = dispatched(&effects);
    again.sort_unstable();
    assert_eq!(again, [(worker, first, 2), (worker, second, 2)]);
}

#[test]
fn heartbeat_that_may_have_been_overtaken_by_the_answer_takes_nothing_away() {
    let mut world = World::new();
    let worker = world.worker(4, &["exec"]);
    let task = world.submit("exec");
    world.dispatch();
    let (asked, _) = deaf_beats(&mut world, worker, Holding::Count(0), 6);
    world.answer(&asked);
    for _ in 0..3 {
        assert_eq!(world.beat_with(worker, Holding::Count(0)), Ok(0));
    }
    let named = [held(task, 1)];
    let (effects, missing) = deaf_beats(&mut world, worker, Holding::Named(&named), 9);
    assert_eq!((effects, missing), (vec![], 0));
}

#[test]
fn attempt_that_is_another_ones_is_told_to_stop_with_each_heartbeat_that_names_it() {
    let mut world = World::new();
    let worker = world.worker(4, &["exec"]);
    let task = world.submit("exec");
    let given = world.dispatch();
    world.start(given);
    let both = [held(task, 1), held(task, 9)];
    let (effects, missing) = beats(&mut world, worker, Holding::Named(&both), 3);
    assert_eq!(missing, 0);
    assert_eq!(stale(&effects), [(worker, task, 9); 3]);
    // One whose result is on its way gets a verdict instead.
    let finished = Held {
        finished: true,
        ..both[1]
    };
    let on_its_way = [both[0], finished];
    let (effects, _) = beats(&mut world, worker, Holding::Named(&on_its_way), 1);
    assert_eq!(effects, []);
    assert_eq!(world.phase(task), Phase::Running);
}

#[test]
fn names_beyond_what_a_worker_can_hold_are_refused() {
    let mut world = World::new();
    let worker = world.worker(4, &["exec"]);
    let task = world.submit("exec");
    let named = vec![held(task, 1); 2 * 65_535 + 1];
    let refused = world.beat_with(worker, Holding::Named(&named)).unwrap_err();
    assert!(refused.to_string().contains("held tasks"), "{refused}");
}
