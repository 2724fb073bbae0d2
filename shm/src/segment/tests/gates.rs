//! Slots that come to a gate: nobody gets them there, and they go through when nobody can remember their words.

use super::{segment, spec_in, submit};
use crate::counters::Counter;
use crate::id::{AttachIndex, GATE_BITS, SlotIndex, TENANCY_BITS, TaskId};
use crate::layout::attach::AttachRole;
use crate::segment::{
    Attachment, AttachmentSpec, ClaimError, GateWatch, Repairer, Segment, SegmentSpec,
};
use crate::sync::kill::killed_after;
use crate::task::state::{Event, StateWord};
use crate::tree::Key;

const GATE: u64 = 1 << GATE_BITS;
const ERA: u64 = 1 << TENANCY_BITS;

/// A segment of so few slots that each claim meets the same one, aged.
fn aged(generation: u64) -> (Segment, SlotIndex) {
    let segment = segment(1);
    let slot = segment.slot(0).unwrap();
    segment.age_slot(slot, generation);
    (segment, slot)
}

fn watch(segment: &Segment, watch: &mut GateWatch) -> u32 {
    segment.watch_gates(segment.plm_right().unwrap(), watch, 0..u32::MAX)
}

fn ended(segment: &Segment, id: TaskId) {
    let slot = id.slot();
    let cancelled = segment
        .apply(slot, segment.state(slot), Event::Cancel)
        .unwrap();
    segment.unindex_ready(slot);
    segment.free_task(slot, cancelled).unwrap();
}

#[test]
fn slot_passes_both_gates_of_a_round_and_its_ids_go_on_rising() {
    for gate in [GATE, ERA, ERA + GATE, 255 * ERA] {
        let (segment, slot) = aged(gate - 3);
        let mut last = 0;
        for expected in [gate - 2, gate - 1] {
            let id = submit(&segment, 7, 9, b"x");
            assert_eq!((id.slot(), id.generation()), (slot, expected));
            assert!(id.as_raw() > last);
            last = id.as_raw();
            assert_eq!(
                segment.ready().leaf(0),
                Some(Key::ready(7, 9, expected)),
                "{gate:x}"
            );
            ended(&segment, id);
        }
        let refused = segment.claim_task(AttachIndex::DAEMON).map(|_| ());
        assert_eq!(refused, Err(ClaimError::Full), "{gate:x}");
        assert!(
            segment.verify().findings.is_empty(),
            "{:?}",
            segment.verify()
        );
        let mut gates = GateWatch::default();
        assert_eq!(watch(&segment, &mut gates), 1);
        let next = submit(&segment, 7, 9, b"y");
        assert_eq!(next.generation(), gate + 1, "{gate:x}");
        assert!(next.as_raw() > last);
        assert_eq!(segment.counters().get(Counter::GatePassed), 1);
        assert!(segment.verify().findings.is_empty());
        // What was asked about the last tenant before the gate is asked in vain.
        let before = TaskId::from_raw(last).unwrap();
        assert!(!segment.state(slot).is_of(before) && segment.state(slot).is_of(next));
    }
}

#[test]
fn task_of_a_round_before_is_not_taken_for_the_one_with_the_same_word() {
    let (segment, slot) = aged(ERA + 4);
    let now = submit(&segment, 1, 1, b"x");
    let before = TaskId::new(5, slot);
    assert_eq!(
        segment.state(slot).as_raw(),
        StateWord::in_era(segment.state(slot).as_raw(), 0).as_raw()
    );
    assert!(!segment.state(slot).is_of(before));
    assert_eq!(now, TaskId::new(ERA + 5, slot));
    let mut out = [0; 4];
    assert!(
        segment
            .load(before, crate::segment::Part::Payload, 0, &mut out)
            .is_err()
    );
}

#[test]
fn slot_at_its_last_generation_is_worn_out() {
    let (segment, _) = aged(256 * ERA - 1);
    let mut gates = GateWatch::default();
    assert_eq!((watch(&segment, &mut gates), gates.waiting()), (0, 0));
    let refused = segment.claim_task(AttachIndex::DAEMON).map(|_| ());
    assert_eq!(refused, Err(ClaimError::Full));
    assert!(segment.verify().findings.is_empty());
}

#[test]
fn bits_of_slots_at_gates_stay_taken_through_repair_and_rebuild() {
    let (segment, slot) = aged(GATE - 1);
    assert_eq!(Repairer::new(&segment, None).run(&segment).total(), 0);
    assert!(!segment.view.parts.bitmap().is_free(slot.get()));
    segment.rebuild_caches(segment.now());
    assert!(!segment.view.parts.bitmap().is_free(slot.get()));
    assert!(segment.verify().findings.is_empty());
    let mut gates = GateWatch::default();
    assert_eq!(watch(&segment, &mut gates), 1);
    assert!(segment.view.parts.bitmap().is_free(slot.get()));
}

#[test]
fn random_base_of_any_segment_gives_its_first_id_at_once() {
    for base in [
        0,
        1,
        GATE - 2,
        GATE - 1,
        GATE,
        ERA - 1,
        ERA,
        77 * ERA + GATE - 1,
        127 * ERA + 9,
    ] {
        let spec = SegmentSpec {
            gen_base: Some(base),
            ..spec_in("/dev/null/spill", 2, 1 << 20)
        };
        let segment = Segment::in_process(&spec);
        let id = submit(&segment, 1, 1, b"x");
        assert!(
            id.generation() > base && id.generation() <= base + 2,
            "{base:x}"
        );
        assert!(segment.state(id.slot()).is_of(id));
        assert!(segment.verify().findings.is_empty(), "{base:x}");
    }
}

#[test]
fn claimer_that_dies_before_it_has_written_the_first_era_gives_no_id_of_an_earlier_segment() {
    let base = 9 * ERA + 100;
    let spec = SegmentSpec {
        gen_base: Some(base),
        ..spec_in("/dev/null/spill", 1, 1 << 20)
    };
    for writes in 0..8 {
        let segment = Segment::in_process(&spec);
        let killed = killed_after(writes, || segment.claim_task(AttachIndex::DAEMON).map(drop));
        segment.rebuild_caches(segment.now());
        let mut gates = GateWatch::default();
        watch(&segment, &mut gates);
        let id = submit(&segment, 1, 1, b"x");
        assert!(
            id.generation() > base,
            "{writes} {killed:?} {:x}",
            id.generation()
        );
        assert!(segment.verify().findings.is_empty(), "{writes}");
    }
}

#[test]
fn kill_while_a_slot_goes_through_a_gate_costs_at_most_an_era() {
    for writes in 0..4 {
        let (segment, slot) = aged(ERA - 1);
        let mut gates = GateWatch::default();
        let _ = killed_after(writes, || watch(&segment, &mut gates));
        segment.rebuild_caches(segment.now());
        let mut gates = GateWatch::default();
        watch(&segment, &mut gates);
        let id = submit(&segment, 1, 1, b"x");
        assert!(
            [ERA + 1, 2 * ERA + 1].contains(&id.generation()),
            "{writes}"
        );
        assert!(segment.state(slot).is_of(id));
        assert!(segment.verify().findings.is_empty(), "{writes}");
    }
}

/// A real segment, which this process is the daemon of, and another process's attachment.
fn with_a_local_process() -> (tempfile::TempDir, Segment, Attachment) {
    let folder = tempfile::tempdir().unwrap();
    let spec = SegmentSpec {
        gen_base: Some(0),
        ..spec_in(folder.path(), 1, 1 << 20)
    };
    let segment = Segment::create_private(&spec).unwrap();
    let spec = AttachmentSpec::new(AttachRole::Client, "local", folder.path());
    let local = Attachment::open_id(segment.shm_id().unwrap(), &spec).unwrap();
    (folder, segment, local)
}

#[test]
fn gate_stays_shut_while_a_process_is_within_a_section_and_says_whose() {
    let (_folder, segment, local) = with_a_local_process();
    let slot = segment.slot(0).unwrap();
    segment.age_slot(slot, 4 * ERA - 1);
    let mut gates = GateWatch::default();
    local.remembering(|| {
        for _ in 0..3 {
            assert_eq!(watch(&segment, &mut gates), 0);
            assert_eq!(gates.kept_by().collect::<Vec<_>>(), [local.index()]);
            assert_eq!(gates.waiting(), 1);
        }
        assert!(matches!(local.claim().map(|_| ()), Err(ClaimError::Full)));
    });
    assert_eq!(watch(&segment, &mut gates), 1);
    assert_eq!((gates.waiting(), gates.kept_by().count()), (0, 0));
    assert_eq!(local.claim().unwrap().id().generation(), 4 * ERA + 1);
}

#[test]
fn process_that_goes_in_and_out_of_sections_keeps_no_gate_shut() {
    let (_folder, segment, local) = with_a_local_process();
    segment.age_slot(segment.slot(0).unwrap(), GATE - 1);
    let mut gates = GateWatch::default();
    local.remembering(|| assert_eq!(watch(&segment, &mut gates), 0));
    local.remembering(|| ());
    assert_eq!(watch(&segment, &mut gates), 1);
}

#[test]
fn process_that_dies_within_a_section_keeps_gates_shut_until_its_record_is_given_back() {
    let (_folder, segment, local) = with_a_local_process();
    segment.age_slot(segment.slot(0).unwrap(), GATE - 1);
    let mut gates = GateWatch::default();
    let index = local.index();
    let died = killed_after(1, || local.remembering(|| ()));
    assert!(died.is_err());
    assert_eq!(watch(&segment, &mut gates), 0);
    let state = segment.attach_info(index).unwrap().state;
    local.dies();
    let convicted = crate::segment::Convicted::none().and(index, state);
    let scope = crate::segment::RepairScope {
        convicted,
        takes_back: false,
    };
    assert_eq!(
        Repairer::with_scope(&segment, scope)
            .run(&segment)
            .attaches_freed,
        1
    );
    assert_eq!(watch(&segment, &mut gates), 1);
}
