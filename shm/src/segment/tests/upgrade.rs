//! A segment of layout 2.0 goes on in the present layout: all that was in it is there, whenever a start is killed, and nobody else has it open.

use std::sync::Arc;

use super::committed;
use super::named::Instance;
use crate::layout::header::HEADER_BYTES;
use crate::region::sysv::{self, SysvMemory};
use crate::region::{HeapMemory, Mapping};
use crate::segment::create::{Identity, build};
use crate::segment::header::Front;
use crate::segment::process::ProcessIdentity;
use crate::segment::upgrade::Earlier;
use crate::segment::upgrade::left_behind::{leave, records, seal};
use crate::segment::verify::Rule;
use crate::segment::{Adoption, CreateError, SegmentSpec, SegmentView};
use crate::sync::kill::killed_after;
use crate::sync::{AtomicU64, Ordering};
use crate::task::state::{Event, Phase};

const REGIONS: usize = 32;

fn put(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::Relaxed);
}

/// Puts the committed segment at a key of the instance; the kernel's id.
fn leave_one_of_before(instance: &Instance) -> (i32, Mapping) {
    leave(&instance.name, &committed::image()).unwrap()
}

fn segments_of(instance: &Instance) -> Vec<i32> {
    let keys = instance.keys().into_iter();
    keys.filter_map(|key| sysv::find(key).ok()).collect()
}

/// Segments that are being made were made by a process that is gone.
fn makers_are_dead(instance: &Instance) {
    for shm_id in segments_of(instance) {
        let memory = Mapping::Sysv(SysvMemory::attach(shm_id, false).unwrap());
        let control = &memory.words()[2 * HEADER_BYTES / 8..];
        // Creator, and when that was started.
        put(&control[1], 0x3f_fff0);
        put(&control[2], 1);
    }
}

/// What a segment holds, without moments and without the count of the local worker that was killed: that is a cache, which each start brings one
/// pass nearer to the truth.
fn lasting(view: &SegmentView) -> Vec<String> {
    let mut story = committed::without_moments(&committed::story_of(view));
    let lost = story
        .iter_mut()
        .find(|line| line.starts_with("worker 0 lost"));
    *lost.expect("it held tasks when it was killed") = String::new();
    story
}

#[test]
fn everything_of_the_committed_image_is_there_afterwards_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let image = committed::image();
    let old = HeapMemory::zeroed(image.len());
    let old = Arc::new(Mapping::Heap(old));
    let (words, _) = image.as_chunks::<8>();
    for (to, from) in old.words().iter().zip(words) {
        put(to, u64::from_le_bytes(*from));
    }
    let header = Front::of(Arc::clone(&old)).unwrap().header().unwrap();
    let spec = SegmentSpec::new(header.instance.clone(), dir.path().join("spill"));
    let earlier = Earlier::of(&old, header.clone()).unwrap();
    let spec = earlier.spec(&spec).unwrap();
    let bytes = usize::try_from(spec.geometry.total_bytes()).unwrap();
    let memory = Mapping::Heap(HeapMemory::zeroed(bytes));
    let made = build(memory, None, &spec, Identity::of_earlier(&earlier)).unwrap();
    made.segment().take_over(&earlier).unwrap();
    let segment = made.publish();
    let found = committed::story_of(&segment);
    let wanted = committed::wanted();
    for (line, (found, wanted)) in found.lines().zip(wanted.lines()).enumerate() {
        assert_eq!(found, wanted, "line {}", line + 1);
    }
    assert_eq!(found.lines().count(), wanted.lines().count());
    let own = segment.header();
    assert_eq!(
        (own.segment_id, own.gen_base, own.origin_ns, own.spill_id),
        (
            header.segment_id,
            header.gen_base,
            header.origin_ns,
            header.spill_id
        )
    );
    assert_eq!(own.made_of, [2 << 32, header.segment_id]);
    // The trees are the start's that follows.
    let rules = segment
        .verify()
        .findings
        .into_iter()
        .map(|finding| finding.rule);
    let of_tasks: Vec<Rule> = rules
        .filter(|rule| !matches!(rule, Rule::FreeBit | Rule::BitmapSummary))
        .filter(|rule| {
            !matches!(
                rule,
                Rule::ReadyLeaf | Rule::TimerLeaf | Rule::WorkerLeaf | Rule::LeaseLeaf
            )
        })
        .collect();
    assert_eq!(of_tasks, [Rule::Quarantine, Rule::Key]);
}

#[test]
fn start_reads_it_into_a_new_one_and_removes_it_and_the_next_start_adopts_that() {
    let instance = Instance::new("upgrade");
    let (shm_id, memory) = leave_one_of_before(&instance);
    drop(memory);
    let (segment, adoption) = instance.start().unwrap();
    assert!(
        matches!(adoption, Adoption::Upgraded { from: "2.0", .. }),
        "{adoption:?}"
    );
    assert_ne!(segment.shm_id(), Some(shm_id));
    assert_eq!(segments_of(&instance), [segment.shm_id().unwrap()]);
    let findings = segment.verify().findings;
    assert!(
        findings.iter().all(|found| {
            // What a dead local worker held was taken back, and its count is for the next pass.
            found.rule == Rule::Quarantine
                || found.rule == Rule::RunningCount && found.subject == "worker 0"
        }),
        "{findings:?}"
    );
    let told = lasting(&segment);
    segment.detach();
    let (again, adoption) = instance.start().unwrap();
    assert!(matches!(adoption, Adoption::Adopted { .. }), "{adoption:?}");
    assert_eq!(lasting(&again), told);
    let waiting = again.counters().gauge(Phase::Ready);
    assert!(waiting > 5, "{waiting}");
    // Tasks go on as any others.
    let (leaf, _) = again.ready().locate().unwrap();
    let slot = again.slot(leaf).unwrap();
    let before = again.state(slot);
    let worker = again.worker_index(0).unwrap();
    let assigned = again.apply(slot, before, Event::Assign { worker }).unwrap();
    assert_eq!(assigned.fence(), before.fence() + 1);
}

#[test]
fn start_that_is_killed_after_any_write_loses_nothing_and_doubles_nothing() {
    let whole = |instance: &Instance| {
        let (segment, _) = instance.start().unwrap();
        let story = lasting(&segment);
        assert_eq!(segments_of(instance), [segment.shm_id().unwrap()]);
        segment.remove().unwrap();
        story
    };
    let instance = Instance::new("upgrade-killed");
    drop(leave_one_of_before(&instance));
    let wanted = whole(&instance);
    let mut writes = 0;
    loop {
        drop(leave_one_of_before(&instance));
        let ended = killed_after(writes, || {
            instance.start().map(|(segment, _)| segment.detach())
        });
        let was_killed = ended.is_err();
        makers_are_dead(&instance);
        assert_eq!(whole(&instance), wanted, "killed after {writes} writes");
        if !was_killed {
            break;
        }
        // At the beginning each, later one of many: most writes are copies.
        writes += if writes < 40 { 1 } else { 97 };
    }
    assert!(writes > 1_000, "{writes}");
}

#[test]
fn process_that_still_has_it_open_is_named_and_the_start_refuses_and_changes_nothing() {
    let instance = Instance::new("upgrade-attached");
    let (shm_id, memory) = leave_one_of_before(&instance);
    let own = ProcessIdentity::own();
    let record = records(memory.words())
        .skip(1)
        .find(|record| record[0].load(Ordering::Relaxed) >> 60 == 2)
        .expect("somebody was attached");
    let before = [&record[1], &record[2]].map(|word| word.load(Ordering::Relaxed));
    put(&record[1], u64::from(own.pid));
    put(&record[2], own.start_time);
    let refused = instance.start().unwrap_err();
    assert!(matches!(refused, CreateError::StillAttached { .. }));
    assert!(
        refused.to_string().contains(&format!("(pid {})", own.pid)),
        "{refused}"
    );
    assert_eq!(segments_of(&instance), [shm_id]);
    for (word, value) in [&record[1], &record[2]].into_iter().zip(before) {
        put(word, value);
    }
    let (_, adoption) = instance.start().unwrap();
    assert!(
        matches!(adoption, Adoption::Upgraded { .. }),
        "{adoption:?}"
    );
}

#[test]
fn segment_of_before_whose_regions_or_ids_cannot_go_on_is_put_aside_with_the_reason() {
    for (place, value, reason) in [
        (REGIONS + 12 * 4, 4096 + 8, "table of regions"),
        (REGIONS + 6 * 4 + 2, 1, "table of regions"),
        (14, 1 << 35, "jobs of a grid"),
    ] {
        let instance = Instance::new(&format!("upgrade-damaged-{place}"));
        let (_, memory) = leave_one_of_before(&instance);
        for copy in 0..2 {
            put(&memory.words()[copy * HEADER_BYTES / 8 + place], value);
        }
        seal(memory.words());
        let (_, adoption) = instance.start().unwrap();
        let Adoption::PutAside { why, .. } = adoption else {
            panic!("{adoption:?}");
        };
        assert!(why.contains(reason), "{why}");
    }
}

/// Whoever reads without a daemon learns which two versions there are.
#[test]
fn inspector_refuses_the_layout_of_before_by_name() {
    let instance = Instance::new("upgrade-inspected");
    let (shm_id, _memory) = leave_one_of_before(&instance);
    let refused = SegmentView::attach_by_id(shm_id).unwrap_err().to_string();
    assert!(
        refused.contains("2.0") && refused.contains("3.0"),
        "{refused}"
    );
}
