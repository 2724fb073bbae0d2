//! Rules about slots that come round to a number of their word: they are free again when nobody can remember it, and until then nobody has them.

use qtf_shm::{AttachIndex, Counter, SlotIndex, TaskId};

use crate::attaches::ground;
use qtf_world::{SECOND, World};

/// Half a round of a slot.
const HALF: u64 = 1 << 26;

fn age_all(world: &World, generation: u64) {
    let segment = world.segment();
    for number in 0..segment.geometry().tasks() {
        let slot = SlotIndex::new_checked(number, u32::MAX).unwrap();
        segment.age_slot(slot, generation);
    }
}

/// A task, from its submission to its last moment.
fn life(world: &mut World) -> TaskId {
    let task = world.submit("exec");
    let given = world.dispatch();
    world.start(given);
    world.end(given, 0);
    world.settle();
    let _ = world.engine.forget(world.now, task);
    world.settle();
    task
}

#[test]
fn all_slots_of_a_segment_go_through_both_gates_while_tasks_come_and_go() {
    let mut world = World::with(8, qtf_engine::EngineConfig::default());
    world.worker(1, &["exec"]);
    for gate in [HALF, 2 * HALF, 3 * HALF] {
        age_all(&world, gate - 3);
        let mut tasks: Vec<TaskId> = (0..64).map(|_| life(&mut world)).collect();
        assert!(tasks.iter().any(|task| task.generation() < gate));
        assert!(tasks.iter().all(|task| task.generation() != gate));
        assert!(tasks.iter().filter(|task| task.generation() > gate).count() > 40);
        for slot in 0..8 {
            let of_slot: Vec<_> = tasks
                .iter()
                .filter(|task| task.slot().get() == slot)
                .collect();
            assert!(of_slot.is_sorted(), "ids of a slot rise: {of_slot:?}");
        }
        tasks.sort_unstable();
        tasks.dedup();
        assert_eq!(tasks.len(), 64, "no id is given twice");
    }
    assert_eq!(world.segment().counters().get(Counter::GatePassed), 24);
    world.verify();
}

#[test]
fn process_within_a_piece_of_work_keeps_slots_at_their_gate_and_is_named_and_nothing_else_waits() {
    let (mut world, local) = ground();
    world.worker(1, &["exec"]);
    let tasks = world.segment().geometry().tasks();
    for number in 1..tasks {
        let slot = SlotIndex::new_checked(number, tasks).unwrap();
        world.segment().age_slot(
            slot,
            world.segment().gen_base() + 2 * HALF - 1 - world.segment().gen_base() % HALF,
        );
    }
    local.remembering(|| {
        world.settle_for(3 * SECOND);
        let kept: Vec<AttachIndex> = world.engine.gates().kept_by().collect();
        assert_eq!(kept, [local.index()]);
        assert_eq!(world.engine.gates().waiting(), 63);
        for _ in 0..3 {
            assert_eq!(life(&mut world).slot().get(), 0);
        }
    });
    world.settle_for(3 * SECOND);
    assert_eq!(world.engine.gates().kept_by().count(), 0);
    assert_eq!(world.engine.gates().waiting(), 0);
    world.verify();
}
