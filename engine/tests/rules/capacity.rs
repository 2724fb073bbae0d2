//! How many tasks fit into a segment that is divided as the default one is.

use qtf_engine::{ArrayMember, Payload, RejectReason, Rejection, Submission};
use qtf_shm::{Geometry, KeyId, TaskId};

use qtf_world::JournalWorld;

const SIXTEEN_MIB: u64 = 16 << 20;
/// As many as a client library has unanswered at most.
const UNANSWERED_MAX: u32 = 4_096;

/// Submits as client libraries do, each task with a key of its own that is given back when the answer is there, until
/// something is refused; returns how many were taken. Where the table is small, half of it is used: which key of many finds no place is
/// chance.
fn fill(
    world: &mut JournalWorld,
    mut change: impl FnMut(u64, Option<TaskId>, &mut Submission<'_>),
) -> (u64, Rejection) {
    let (mut count, mut first, mut keys) = (0, None, Vec::new());
    let unanswered_max = UNANSWERED_MAX.min(world.segment().keys().capacity() / 2);
    let unanswered_max = usize::try_from(unanswered_max).expect("a small number");
    loop {
        let key = KeyId::from_words([count + 1, 0xC11E]).expect("not 0");
        let taken = world.take_in("exec", |task| {
            task.payload = Payload::Bytes(&[7; 48]);
            task.key = Some(key);
            task.key_ttl_ms = 120_000;
            change(count, first, task);
        });
        match taken {
            Ok(taken) => {
                first.get_or_insert(taken.task);
                count += 1;
                keys.push(key);
            }
            Err(refused) if refused.reason == RejectReason::JournalFull => world.sync(),
            Err(refused) => return (count, refused),
        }
        if keys.len() == unanswered_max {
            world.sync();
            let now = world.now;
            world.engine.release_keys(now, &keys);
            keys.clear();
        }
    }
}

#[test]
fn every_slot_takes_a_journal_task_with_a_key_and_no_more_payload_than_a_slot_holds() {
    let mut world = JournalWorld::of_size(Geometry::for_bytes(SIXTEEN_MIB).unwrap());
    let (count, refused) = fill(&mut world, |_, _, _| ());
    assert_eq!(refused.reason, RejectReason::TasksFull, "{refused}");
    assert_eq!(count, 65_536);
    let arena = world.segment().arena_usage();
    assert_eq!(
        arena.blocks_unassigned, arena.blocks,
        "all of it is left to results"
    );
    world.verify();
}

/// As `qtf size` divides a segment for a number of tasks: smaller ones by bytes have more workers for each task.
#[test]
fn every_slot_takes_a_member_of_an_array_too() {
    let mut world = JournalWorld::of_size(Geometry::for_counts(20_000, 64).unwrap());
    let (count, refused) = fill(&mut world, |index, array, task| {
        task.array = Some(ArrayMember { array, index });
        task.estimate_ms = 5;
    });
    assert_eq!(refused.reason, RejectReason::TasksFull, "{refused}");
    assert_eq!(count, 20_000);
    world.verify();
}

#[test]
fn default_segment_has_a_smallest_chunk_for_each_slot_within_what_submissions_may_fill() {
    let geometry = Geometry::default();
    let chunks = geometry.arena_bytes() / 64 * 3 / 4;
    assert!(chunks >= u64::from(geometry.tasks()), "{chunks}");
}
