//! A segment whose words were written by a program gone mad: nothing panics, overflows or reads out of bounds, in any call.

use super::segment;
use crate::arena::Purpose;
use crate::id::{AttachIndex, ClientIndex, TASKS_COUNT_MAX, TaskId, WorkerIndex};
use crate::layout::RegionKind;
use crate::segment::{Heap, Part, Segment, TaskFields};
use crate::sync::Ordering;
use crate::task::side::SideRecord;
use crate::task::slot::Outcome;
use crate::task::state::{Blocked, Event};
use crate::task::writer::SlotWriter;
use crate::time::Now;
use crate::worker::WorkerWriter;
use crate::worker::{WorkerEvent, WorkerFields};

const ROUNDS: u64 = 10_000;
const TASKS: u64 = 64;

/// Writes noise into some words of the segment, not into the header, which is read once.
fn scribble(segment: &Segment, random: &mut fastrand::Rng) {
    let regions: Vec<_> = segment
        .regions()
        .iter()
        .skip(1)
        .map(|(_, entry)| entry)
        .collect();
    let words = segment.view.parts.mapping.words();
    for _ in 0..random.usize(1..200) {
        let region = regions[random.usize(..regions.len())];
        if region.bytes < 8 {
            continue;
        }
        let word = usize::try_from(region.offset / 8 + random.u64(..region.bytes / 8)).unwrap();
        let value = match random.u8(..6) {
            0 => 0,
            1 => u64::MAX,
            2 => random.u64(..100),
            // A state word, a chunk word or a reference that looks like one.
            3 => {
                let (phase, flags) = (random.u64(..16), random.u64(..4));
                let (owner, generation) = (random.u64(..9), random.u64(..5));
                (phase << 60) | (flags << 56) | (owner << 44) | generation
            }
            4 => {
                let (tag, slot) = (random.u64(1..4), random.u64(..70));
                (tag << 62) | (slot << 36) | random.u64(..5)
            }
            _ => random.u64(..),
        };
        words[word].store(value, Ordering::Relaxed);
    }
}

fn any_task(random: &mut fastrand::Rng) -> TaskId {
    let slot = if random.bool() {
        random.u32(..70)
    } else {
        random.u32(..) >> 8
    };
    let slot = crate::id::SlotIndex::new_checked(slot, TASKS_COUNT_MAX).unwrap();
    TaskId::new(random.u64(..4), slot)
}

fn any_event(random: &mut fastrand::Rng) -> Event {
    let attach = AttachIndex::new_checked(random.u16(..20), 20).unwrap();
    let worker = WorkerIndex::new_checked(random.u16(..4095), 4095).unwrap();
    let events = [
        Event::Claim { attach },
        Event::Submit,
        Event::Admit,
        Event::Abandon,
        Event::Accept,
        Event::Refuse,
        Event::Park {
            why: Blocked::NO_JOURNAL_ROOM,
        },
        Event::Release,
        Event::Assign { worker },
        Event::Start,
        Event::End,
        Event::Complete,
        Event::Fail,
        Event::Retry,
        Event::Bury,
        Event::Requeue,
        Event::Cancel,
        Event::RequestCancel,
        Event::RequestStop,
        Event::Revive,
        Event::Free,
        Event::Quarantine,
    ];
    events[random.usize(..events.len())]
}

/// One call of each kind on random arguments.
fn write_somewhere(segment: &Segment, random: &mut fastrand::Rng) {
    let attach = AttachIndex::new_checked(random.u16(..20), 20).unwrap();
    let bytes = vec![random.u8(..); random.usize(..3000)];
    if let Ok(mut claimed) = segment.claim_task(attach) {
        let _ = claimed.set_payload(&bytes);
        let side = random.bool().then(SideRecord::default);
        let _ = claimed.write(&TaskFields {
            side,
            ..TaskFields::default()
        });
        let event = [
            Event::Admit,
            Event::AdmitDelayed,
            Event::Submit,
            Event::Free,
        ][random.usize(..4)];
        let _ = claimed.publish(event, random.u64(..));
    }
    let id = any_task(random);
    let slot = id.slot();
    let task = segment.task(slot);
    let state = task.state();
    let _ = segment.apply(slot, state, any_event(random));
    let _ = segment.free_task(slot, task.state());
    if let Ok(blob) = segment.store(id, &bytes, Purpose::Result) {
        SlotWriter::of(task).set_result(blob);
    }
    segment.release(id, task.payload());
    segment.index_ready(slot, state);
    segment.index_timer(slot, state, random.u64(..));
    segment.unindex_ready(slot);
    segment.unindex_timer(slot);
    SlotWriter::of(task).set_outcome(Outcome::from_bits(random.u16(..)));
    SlotWriter::of(task).set_failures(random.u8(..));
    let worker = segment.worker(WorkerIndex::new_checked(random.u16(..10), 4095).unwrap());
    WorkerWriter::of(worker).fill(&WorkerFields::default());
    let _ = worker.apply(worker.state(), WorkerEvent::Take);
    let _ = worker.apply(worker.state(), WorkerEvent::Give);
    let client = segment.client(ClientIndex::new_checked(random.u16(..100), 100).unwrap());
    client.set_connections(random.u32(..));
    let _ = segment.kinds().intern("noise");
    let _ = (
        segment.ready().locate(),
        segment.timers().locate(),
        segment.worker_heap().locate(),
    );
}

fn read_everything(segment: &Segment, random: &mut fastrand::Rng) {
    let mut out = vec![0; 5000];
    for number in 0..u32::try_from(TASKS).unwrap() {
        let Some(reading) = segment
            .slot(number)
            .and_then(|slot| segment.read_task(slot))
        else {
            continue;
        };
        let record = reading.record;
        let offset = random.u64(..) >> random.u32(..64);
        for part in [Part::Payload, Part::Result] {
            let _ = segment.load_blob(&record, part, offset, &mut out);
            if let Some(id) = record.id {
                let _ = segment.load(id, part, offset, &mut out);
            }
        }
        let _ = (
            segment.read_side(&record),
            segment.slot_of(any_task(random)),
        );
    }
    for number in 0..8 {
        let _ = segment
            .worker_index(number)
            .map(|worker| segment.read_worker(worker));
        let _ = segment
            .client_index(number)
            .map(|client| segment.read_client(client));
    }
    for heap in [Heap::Task, Heap::Worker, Heap::Timer, Heap::Lease] {
        let _ = segment.heap(heap).entries_in_order().count();
    }
    let _ = (
        segment.control(),
        segment.high_water(),
        segment.kinds_in_order().count(),
    );
    let _ = (
        segment.counters().named().count(),
        segment.counters().gauges().count(),
    );
    let _ = (
        segment.allocated_slots(0..u32::MAX).count(),
        segment.arena_usage(),
    );
}

#[test]
fn calls_on_a_segment_full_of_noise_never_panic() {
    let segment = segment(TASKS);
    let mut random = fastrand::Rng::with_seed(20);
    for round in 0..ROUNDS {
        scribble(&segment, &mut random);
        write_somewhere(&segment, &mut random);
        if round % 10 == 0 {
            read_everything(&segment, &mut random);
        }
    }
}

#[test]
fn verify_and_rebuild_of_noise_never_panic_and_rebuild_leaves_consistent_caches() {
    let mut random = fastrand::Rng::with_seed(21);
    for _ in 0..30 {
        let segment = segment(TASKS);
        for _ in 0..20 {
            if let Ok(mut claimed) = segment.claim_task(AttachIndex::DAEMON) {
                let _ = claimed.set_payload(&[1; 100]);
                let _ = claimed.publish(Event::Admit, random.u64(..1 << 40));
            }
            scribble(&segment, &mut random);
        }
        let _ = segment.verify();
        segment.rebuild_caches(Now::from_ns(random.u64(..)));
        let broken: Vec<_> = segment
            .verify()
            .findings
            .into_iter()
            .map(|finding| finding.rule)
            .collect();
        // What a rebuild can restore, it has restored; states, owners, references, keys, names of kinds and regions that
        // nothing uses are what they are.
        for rule in broken {
            use crate::segment::verify::Rule;
            assert!(
                matches!(
                    rule,
                    Rule::State
                        | Rule::Quarantine
                        | Rule::Owner
                        | Rule::Reference
                        | Rule::Chunk
                        | Rule::Key
                        | Rule::Kind
                        | Rule::Lane
                        | Rule::Unused
                ),
                "{rule:?}"
            );
        }
    }
}

#[test]
fn snapshot_of_noise_can_be_written_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let segment = segment(TASKS);
    let mut random = fastrand::Rng::with_seed(22);
    for round in 0..20 {
        scribble(&segment, &mut random);
        let file = dir.path().join(format!("{round}.image"));
        segment.write_image(&file).unwrap();
        // The ready word may have been hit.
        if let Ok(image) = crate::segment::SegmentView::open_image(&file) {
            let _ = image.verify();
        }
    }
    assert_eq!(segment.regions().get(RegionKind::Header).offset, 0);
}
