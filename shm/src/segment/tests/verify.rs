//! Each rule of `verify` holds in a healthy segment, and is reported when it is broken.

use super::{segment, submit};
use crate::arena::{ChunkOwner, Claimant, Purpose};
use crate::blob::BlobRef;
use crate::id::{AttachIndex, SlotIndex, WorkerIndex};
use crate::kind_set::KindSet;
use crate::layout::RegionKind;
use crate::segment::verify::Rule;
use crate::segment::{Segment, TaskFields};
use crate::sync::Ordering;
use crate::task::state::{Event, Phase};
use crate::task::writer::SlotWriter;
use crate::time::Now;
use crate::tree::Key;
use crate::worker::WorkerWriter;
use crate::worker::{WorkerEvent, WorkerFields};

fn by(attach: u16) -> Claimant {
    Claimant {
        attach,
        incarnation: 1,
    }
}

fn rules(segment: &Segment) -> Vec<Rule> {
    let mut rules: Vec<_> = segment
        .verify()
        .findings
        .into_iter()
        .map(|finding| finding.rule)
        .collect();
    rules.dedup();
    rules
}

/// Tasks in all phases, one worker with two of them.
fn lively() -> Segment {
    let segment = segment(64);
    for stamp in 0..6 {
        submit(&segment, 5, stamp, &[1; 200]);
    }
    let mut claimed = segment.claim_task(AttachIndex::DAEMON).unwrap();
    claimed
        .write(&TaskFields {
            due: 900,
            side: Some(Default::default()),
            ..TaskFields::default()
        })
        .unwrap();
    claimed.publish(Event::AdmitDelayed, 1).unwrap();
    let worker = WorkerIndex::new_checked(1, 8).unwrap();
    let slot = segment.worker(worker);
    WorkerWriter::of(slot).fill(&WorkerFields {
        name: "w",
        ..WorkerFields::default()
    });
    slot.apply(slot.state(), WorkerEvent::Register { capacity: 4 })
        .unwrap();
    for _ in 0..2 {
        let (leaf, key) = segment.ready().locate().unwrap();
        let task = segment.slot(leaf).unwrap();
        segment
            .apply(task, segment.task(task).state(), Event::Assign { worker })
            .unwrap();
        assert!(segment.ready().remove(leaf, key));
        slot.apply(slot.state(), WorkerEvent::Take).unwrap();
    }
    segment.worker_heap().insert(1, Key::load(0, 0, 1)).unwrap();
    segment.leases().insert(1, Key::timed(99, 1)).unwrap();
    segment
}

fn first_in(segment: &Segment, phase: Phase) -> SlotIndex {
    segment
        .allocated_slots(0..64)
        .find(|&slot| segment.task(slot).state().phase() == phase)
        .unwrap()
}

#[test]
fn healthy_segment_has_no_findings() {
    let segment = lively();
    let report = segment.verify();
    assert!(!report.broken() && !report.torn(), "{:?}", report.findings);
    assert_eq!(
        (
            report.tasks,
            report.tasks_used,
            report.workers,
            report.passes
        ),
        (7, 7, 1, 1)
    );
    assert_eq!(report.chunks, 7);
    assert!(!super::segment(16).verify().broken());
}

/// What a kill does: the leaf is gone, whatever the slot says.
fn forget_ready(segment: &Segment, slot: SlotIndex) {
    let key = segment.ready().leaf(slot.get()).unwrap();
    assert!(segment.ready().remove(slot.get(), key));
}

fn forget_timer(segment: &Segment, slot: SlotIndex) {
    let key = segment.timers().leaf(slot.get()).unwrap();
    assert!(segment.timers().remove(slot.get(), key));
}

#[test]
fn missing_and_stale_leaves_are_found() {
    let segment = lively();
    let ready = first_in(&segment, Phase::Ready);
    forget_ready(&segment, ready);
    assert_eq!(rules(&segment), [Rule::ReadyLeaf]);
    segment
        .ready()
        .insert(ready.get(), Key::ready(1, 1, 1))
        .unwrap();
    assert_eq!(rules(&segment), [Rule::ReadyLeaf], "another key");
    forget_ready(&segment, ready);
    segment.index_ready(ready, segment.task(ready).state());
    let assigned = first_in(&segment, Phase::Assigned);
    segment
        .ready()
        .insert(assigned.get(), segment.task(assigned).key())
        .unwrap();
    assert_eq!(rules(&segment), [Rule::ReadyLeaf], "left in the heap");
    forget_ready(&segment, assigned);
    let state = segment.task(ready).state();
    segment.apply(ready, state, Event::Hold).unwrap();
    assert_eq!(rules(&segment), [Rule::ReadyLeaf], "held, and to be found");
    forget_ready(&segment, ready);
    assert_eq!(rules(&segment), []);
    let state = segment.task(ready).state();
    let released = segment.apply(ready, state, Event::Release).unwrap();
    segment.index_ready(ready, released);
    segment.ready().insert(60, Key::ready(1, 1, 1)).unwrap();
    assert_eq!(rules(&segment), [Rule::ReadyLeaf], "of a slot never used");
}

#[test]
fn timers_of_nobody_and_missing_timers_are_found() {
    let segment = lively();
    let delayed = first_in(&segment, Phase::Delayed);
    forget_timer(&segment, delayed);
    assert_eq!(rules(&segment), [Rule::TimerLeaf]);
    segment
        .timers()
        .insert(delayed.get(), Key::timed(900, 77))
        .unwrap();
    assert_eq!(rules(&segment), [Rule::TimerLeaf], "of another generation");
    forget_timer(&segment, delayed);
    segment.index_timer(delayed, segment.task(delayed).state(), 900);
    segment.timers().insert(50, Key::timed(5, 0)).unwrap();
    assert_eq!(rules(&segment), [Rule::TimerLeaf], "of a free slot");
}

#[test]
fn heap_whose_inner_words_are_wrong_is_found() {
    let segment = lively();
    let first = segment.regions().get(RegionKind::Ready).offset / 8;
    segment.view.parts.mapping.words()[usize::try_from(first).unwrap()].store(7, Ordering::Relaxed);
    assert_eq!(rules(&segment), [Rule::HeapOrder]);
    segment.ready().scrub();
    assert!(!segment.verify().broken());
}

#[test]
fn bits_that_disagree_with_states_are_found() {
    let segment = lively();
    let bitmap = segment.view.parts.bitmap();
    let ready = first_in(&segment, Phase::Ready);
    bitmap.give_back(ready.get());
    assert_eq!(rules(&segment), [Rule::FreeBit]);
    assert!(bitmap.take_at(ready.get()));
    assert!(bitmap.take_at(50));
    assert_eq!(rules(&segment), [Rule::FreeBit], "taken by nobody");
}

#[test]
fn impossible_states_and_owners_are_found() {
    let segment = lively();
    let assigned = first_in(&segment, Phase::Assigned);
    let worker = WorkerIndex::new_checked(1, 8).unwrap();
    let slot = segment.worker(worker);
    let before = slot.state();
    slot.state.store(0, Ordering::Relaxed);
    assert!(rules(&segment).contains(&Rule::Owner));
    slot.state.store(before.as_raw(), Ordering::Relaxed);
    let state = segment.task(assigned).state();
    segment.apply(assigned, state, Event::Quarantine).unwrap();
    assert!(rules(&segment).contains(&Rule::Quarantine));
}

#[test]
fn running_count_that_is_wrong_is_found() {
    let segment = lively();
    let slot = segment.worker(WorkerIndex::new_checked(1, 8).unwrap());
    slot.apply(slot.state(), WorkerEvent::Give).unwrap();
    assert_eq!(rules(&segment), [Rule::RunningCount]);
}

#[test]
fn worker_that_is_in_a_heap_without_reason_is_found() {
    let segment = lively();
    let slot = segment.worker(WorkerIndex::new_checked(1, 8).unwrap());
    slot.apply(slot.state(), WorkerEvent::Drain).unwrap();
    assert_eq!(rules(&segment), [Rule::WorkerLeaf]);
    segment.leases().insert(5, Key::timed(1, 1)).unwrap();
    assert_eq!(rules(&segment), [Rule::WorkerLeaf, Rule::LeaseLeaf]);
}

#[test]
fn gauge_that_is_wrong_is_found() {
    let segment = lively();
    segment
        .counters()
        .count_transition(Phase::Held, Phase::Blocked);
    let findings = segment.verify().findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(
        (findings[0].rule, findings[0].subject.as_str()),
        (Rule::Gauge, "blocked")
    );
    segment.rebuild_caches(Now::default());
    assert!(!segment.verify().broken());
}

#[test]
fn chunks_and_references_that_disagree_are_found() {
    let segment = lively();
    let ready = first_in(&segment, Phase::Ready);
    let task = segment.task(ready);
    let id = task.state().id(ready).unwrap();
    let payload = task.payload();
    SlotWriter::of(task).set_payload(BlobRef::None);
    assert_eq!(
        rules(&segment),
        [Rule::Chunk],
        "a chunk that nobody refers to"
    );
    SlotWriter::of(task).set_payload(payload);
    SlotWriter::of(task).set_result(BlobRef::Arena { unit: 1023, len: 5 });
    assert_eq!(
        rules(&segment),
        [Rule::Reference],
        "a chunk that is nobody's"
    );
    SlotWriter::of(task).set_result(BlobRef::Inline { len: 65 });
    assert_eq!(rules(&segment), [Rule::Reference]);
    SlotWriter::of(task).set_result(BlobRef::None);
    let BlobRef::Arena { unit, .. } = payload else {
        panic!("{payload:?}")
    };
    SlotWriter::of(task).set_payload(BlobRef::Arena { unit, len: 5000 });
    assert_eq!(rules(&segment), [Rule::Reference], "longer than its chunk");
    SlotWriter::of(task).set_payload(payload);
    let stray = segment.store(id, &[3; 100], Purpose::Result).unwrap();
    assert_eq!(rules(&segment), [Rule::Chunk]);
    segment.release(id, stray);
    assert!(!segment.verify().broken());
    let claim = segment
        .view
        .parts
        .arena()
        .allocate(by(7), 100, Purpose::Result)
        .unwrap();
    assert_eq!(
        rules(&segment),
        [Rule::Chunk],
        "claimed by a process that died"
    );
    segment.view.parts.arena().abandon(claim);
    let owner = ChunkOwner {
        slot: 63,
        generation: 9,
    };
    segment
        .view
        .parts
        .arena()
        .store(by(0), owner, &[1; 10], Purpose::Result)
        .unwrap();
    assert_eq!(rules(&segment), [Rule::Chunk], "of a slot that is free");
    segment.rebuild_caches(Now::default());
    assert!(!segment.verify().broken());
}

#[test]
fn sweep_frees_chunks_of_the_gone_and_of_the_dead_only() {
    let segment = lively();
    let arena = segment.view.parts.arena();
    let gone = ChunkOwner {
        slot: 63,
        generation: 9,
    };
    arena.store(by(0), gone, &[1; 10], Purpose::Result).unwrap();
    let slot = first_in(&segment, Phase::Ready);
    let id = segment.task(slot).state().id(slot).unwrap();
    let pending = segment.store(id, &[3; 100], Purpose::Result).unwrap();
    let dead = arena.allocate(by(7), 100, Purpose::Result).unwrap();
    let alive = arena.allocate(by(2), 100, Purpose::Result).unwrap();
    let freed = segment.sweep_chunks(0..u32::MAX, |claimant| claimant.attach == 7);
    assert_eq!(freed, 2);
    arena.abandon(alive);
    arena.abandon(dead);
    segment.release(id, pending);
    assert!(!segment.verify().broken());
}

#[test]
fn rebuild_heals_everything_that_caches_can_get_wrong() {
    let segment = lively();
    let want: Vec<_> = segment.ready().entries_in_order().collect();
    let timers: Vec<_> = segment.timers().entries_in_order().collect();
    let words = segment.view.parts.mapping.words();
    fastrand::seed(11);
    for kind in [
        RegionKind::Ready,
        RegionKind::TaskBitmap,
        RegionKind::ArenaIndex,
    ] {
        if kind == RegionKind::ArenaIndex {
            continue; // Its chunk words are truth.
        }
        let entry = segment.regions().get(kind);
        for word in &words[usize::try_from(entry.offset / 8).unwrap()..]
            [..usize::try_from(entry.bytes / 8).unwrap()]
        {
            word.store(fastrand::u64(..), Ordering::Relaxed);
        }
    }
    // A claim of a process that died, with a payload.
    let mut claimed = segment.claim_task(AttachIndex::DAEMON);
    if let Ok(claimed) = &mut claimed {
        claimed.set_payload(&[1; 500]).unwrap();
    }
    let abandoned = u64::from(claimed.is_ok());
    let _killed = std::mem::ManuallyDrop::new(claimed);
    let rebuilt = segment.rebuild_caches(Now::from_ns(1 << 30));
    assert_eq!(
        (rebuilt.tasks, rebuilt.abandoned, rebuilt.impossible),
        (7, abandoned, 0)
    );
    let report = segment.verify();
    assert!(!report.broken(), "{:?}", report.findings);
    assert_eq!(segment.ready().entries_in_order().collect::<Vec<_>>(), want);
    assert_eq!(
        segment.timers().entries_in_order().collect::<Vec<_>>(),
        timers
    );
}

#[test]
fn delayed_task_whose_timer_was_lost_gets_its_due_time_again() {
    let segment = lively();
    let delayed = first_in(&segment, Phase::Delayed);
    forget_timer(&segment, delayed);
    segment.rebuild_caches(Now::default());
    assert_eq!(
        segment.timers().leaf(delayed.get()).map(Key::timed_stamp),
        Some(900)
    );
}

#[test]
fn verify_of_a_busy_segment_finds_nothing_and_says_what_it_could_not_compare() {
    let segment = segment(256);
    let stop = crate::sync::AtomicBool::new(false);
    /// Also when an assertion fails: the scope waits for its threads.
    struct StopAtEnd<'a>(&'a crate::sync::AtomicBool);
    impl Drop for StopAtEnd<'_> {
        fn drop(&mut self) {
            // ORDERING: a flag alone; nothing else is read because of it.
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let _stop_at_end = StopAtEnd(&stop);
        for attach in 1..3_u16 {
            let (segment, stop) = (&segment, &stop);
            scope.spawn(move || {
                let attach = AttachIndex::new_checked(attach, 16).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let mut claimed = segment.claim_task(attach).unwrap();
                    claimed.set_payload(&[9; 300]).unwrap();
                    claimed.write(&TaskFields::default()).unwrap();
                    let id = claimed.publish(Event::Admit, 1).unwrap();
                    let state = segment.task(id.slot()).state();
                    let cancelled = segment.apply(id.slot(), state, Event::Cancel).unwrap();
                    segment.free_task(id.slot(), cancelled).unwrap();
                }
            });
        }
        // Nothing is asserted while the others run: they would never be told to stop.
        let reports: Vec<_> = (0..20).map(|_| segment.verify()).collect();
        stop.store(true, Ordering::Relaxed);
        for report in reports {
            assert!(!report.broken(), "{:?}", report.findings);
        }
    });
    let report = segment.verify();
    assert!(!report.broken() && !report.torn(), "{report:?}");
    assert_eq!(report.tasks_used, 0);
}

#[test]
fn counts_of_clients_that_are_wrong_are_found_and_counted_anew() {
    let segment = segment(64);
    let client = segment.client_index(2).unwrap();
    segment.client(client).open(&crate::client::ClientFields {
        name: "counted",
        host: "here",
        address: "none",
        pid: 1,
        uid: 2,
        registered: 3,
    });
    for (stamp, ends) in [(1, false), (2, false), (3, true)] {
        let mut claimed = segment.claim_task(AttachIndex::DAEMON).unwrap();
        let fields = TaskFields {
            client: Some(client),
            ..TaskFields::default()
        };
        claimed.write(&fields).unwrap();
        let task = claimed.publish(Event::Admit, stamp).unwrap();
        if ends {
            let state = segment.state(task.slot());
            segment.apply(task.slot(), state, Event::Cancel).unwrap();
            segment.unindex_ready(task.slot());
        }
    }
    // The submitter was killed before it counted.
    let report = segment.verify();
    let found: Vec<_> = report.findings.iter().map(|finding| finding.rule).collect();
    assert_eq!(found, [Rule::ClientCount], "{report:?}");
    segment.rebuild_caches(Now::default());
    let record = segment.client(client);
    assert_eq!((record.unfinished(), record.kept()), (2, 1));
    assert!(!segment.verify().broken());
    record.set_kept(0);
    segment.recount_clients();
    assert_eq!((record.unfinished(), record.kept()), (2, 1));
}

#[test]
fn worker_with_room_and_credits_outside_the_heap_is_a_note_and_no_fault() {
    let segment = lively();
    let worker = segment.worker(WorkerIndex::new_checked(1, 8).unwrap());
    WorkerWriter::of(worker).set_credits(2);
    assert_eq!(segment.verify().workers_set_aside, 0);
    let key = segment.worker_heap().leaf(1).unwrap();
    assert!(segment.worker_heap().remove(1, key));
    let report = segment.verify();
    assert!(!report.broken(), "{:?}", report.findings);
    assert_eq!(report.workers_set_aside, 1);
}

/// Word `word` of an entry of the table of kinds; words: tag, six of the name, ready.
fn kind_word(segment: &Segment, entry: u64, word: u64) -> &crate::sync::AtomicU64 {
    let kinds = segment.regions().get(RegionKind::Kinds);
    let at = usize::try_from((kinds.offset + entry * 64 + word * 8) / 8).unwrap();
    &segment.view.parts.mapping.words()[at]
}

#[test]
fn damage_to_the_table_of_kinds_is_found_whichever_word_it_hits() {
    const TAG: u64 = 0;
    const READY: u64 = 7;
    for (entry, word, value, text) in [
        (1, TAG, 0, "has a name and no tag"),
        (1, TAG, 5, "impossible tag"),
        (1, TAG, u64::MAX, "impossible tag"),
        (1, READY, 2, "impossible ready word"),
        (1, 1, 0xFF, "no UTF-8"),
        (1, 1, 0x61_61_61_61, "is not that of its name"),
        (1, 1, 0x61_61_61_61_61, "goes on after 4 bytes"),
        (1, 4, 1, "goes on after 4 bytes"),
        (0, TAG, (1 << 63) | (4 << 56) | 7, "stands for no kind"),
        (
            9,
            TAG,
            (1 << 63) | (4 << 56) | 7,
            "behind the unused entry 4",
        ),
    ] {
        let segment = lively();
        kind_word(&segment, entry, word).store(value, Ordering::Relaxed);
        let findings = segment.verify().findings;
        let is_said = findings.iter().any(|finding| {
            finding.rule == Rule::Kind
                && finding.subject == format!("kind {entry}")
                && finding.text.contains(text)
        });
        assert!(is_said, "entry {entry}, word {word}: {findings:?}");
    }
}

#[test]
fn kind_that_is_named_twice_is_found_and_one_that_is_being_named_is_not() {
    let segment = lively();
    for word in 0..8 {
        let copied = kind_word(&segment, 1, word).load(Ordering::Relaxed);
        kind_word(&segment, 4, word).store(copied, Ordering::Relaxed);
    }
    let findings = segment.verify().findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].text.contains("as entry 1 does"), "{findings:?}");
    kind_word(&segment, 4, 7).store(0, Ordering::Relaxed);
    assert!(!segment.verify().broken(), "its writer may be at work");
}

#[test]
fn task_or_worker_of_a_kind_that_has_no_name_is_found() {
    let segment = lively();
    let ready = first_in(&segment, Phase::Ready);
    let worker = segment.worker(WorkerIndex::new_checked(1, 8).unwrap());
    WorkerWriter::of(worker).fill(&WorkerFields {
        name: "w",
        kinds: KindSet::from_words([1 << 2, 0, 1 << 40, 0]),
        ..WorkerFields::default()
    });
    let tasks = segment.regions().get(RegionKind::Tasks);
    let at = usize::try_from((tasks.offset + u64::from(ready.get()) * 128 + 24) / 8).unwrap();
    let journal = &segment.view.parts.mapping.words()[at];
    for kind in [17, 64, 255, 256, 0xFFFF] {
        let before = journal.load(Ordering::Relaxed);
        journal.store((before & !0xFFFF) | kind, Ordering::Relaxed);
        let findings = segment.verify().findings;
        let subjects: Vec<_> = findings
            .iter()
            .map(|finding| &finding.subject[..])
            .collect();
        assert_eq!(
            subjects,
            [&format!("slot {}", ready.get())[..], "worker 1"],
            "{findings:?}"
        );
        assert!(findings.iter().all(|finding| finding.rule == Rule::Kind));
    }
}
