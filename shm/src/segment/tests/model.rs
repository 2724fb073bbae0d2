//! Random lives of tasks against a plain model: who is best, who has which bytes, what is left in the end.

use crate::task::writer::SlotWriter;
use crate::worker::WorkerWriter;
use std::collections::BTreeMap;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{segment_in, spec_in};
use crate::arena::Purpose;
use crate::id::{AttachIndex, TaskId, WorkerIndex};
use crate::segment::{Part, Segment, StoreError, TaskFields};
use crate::task::state::{Event, Phase};
use crate::time::Now;
use crate::tree::Key;
use crate::worker::{WorkerEvent, WorkerFields};

const TASKS: usize = 24;

#[derive(Debug, Clone)]
enum Step {
    Submit { priority: u8, bytes: usize },
    GiveUp { bytes: usize },
    TakeBest,
    Finish { pick: usize, bytes: usize },
    Retry { pick: usize },
    Lose { pick: usize },
    Cancel { pick: usize },
    Hold { pick: usize },
    Release { pick: usize },
    Free { pick: usize },
    Rebuild,
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![Just(0_usize), 1..=64_usize, 65..3000_usize, Just(70_000)];
    prop_oneof![
        6 => (any::<u8>(), bytes.clone()).prop_map(|(priority, bytes)| Step::Submit { priority, bytes }),
        1 => bytes.clone().prop_map(|bytes| Step::GiveUp { bytes }),
        5 => Just(Step::TakeBest),
        3 => (any::<usize>(), bytes).prop_map(|(pick, bytes)| Step::Finish { pick, bytes }),
        1 => any::<usize>().prop_map(|pick| Step::Retry { pick }),
        1 => any::<usize>().prop_map(|pick| Step::Lose { pick }),
        1 => any::<usize>().prop_map(|pick| Step::Cancel { pick }),
        2 => any::<usize>().prop_map(|pick| Step::Hold { pick }),
        1 => any::<usize>().prop_map(|pick| Step::Release { pick }),
        3 => any::<usize>().prop_map(|pick| Step::Free { pick }),
        1 => Just(Step::Rebuild),
    ]
}

#[derive(Debug, Clone)]
struct Expected {
    phase: Phase,
    attempt: u16,
    key: Key,
    payload: Vec<u8>,
    result: Vec<u8>,
}

struct World {
    segment: Segment,
    model: BTreeMap<TaskId, Expected>,
    worker: WorkerIndex,
    stamp: u64,
}

impl World {
    fn new(segment: Segment) -> Self {
        let worker = WorkerIndex::new_checked(3, 8).unwrap();
        let slot = segment.worker(worker);
        WorkerWriter::of(slot).fill(&WorkerFields::default());
        slot.apply(slot.state(), WorkerEvent::Register { capacity: 1000 })
            .unwrap();
        Self {
            segment,
            model: BTreeMap::new(),
            worker,
            stamp: 0,
        }
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        self.stamp += 1;
        vec![u8::try_from(self.stamp % 250).unwrap() + 1; count]
    }

    fn apply(&self, id: TaskId, event: Event) {
        let task = self.segment.task(id.slot());
        self.segment.apply(id.slot(), task.state(), event).unwrap();
    }

    fn worker_apply(&self, event: WorkerEvent) {
        let slot = self.segment.worker(self.worker);
        slot.apply(slot.state(), event).unwrap();
    }

    fn pick(&self, pick: usize, wanted: impl Fn(Phase) -> bool) -> Option<TaskId> {
        let fitting: Vec<TaskId> = self
            .model
            .iter()
            .filter(|(_, task)| wanted(task.phase))
            .map(|(&id, _)| id)
            .collect();
        fitting.get(pick.checked_rem(fitting.len())?).copied()
    }

    fn submit(&mut self, priority: u8, count: usize) {
        let payload = self.bytes(count);
        let stamp = self.stamp;
        let Ok(mut claimed) = self.segment.claim_task(AttachIndex::DAEMON) else {
            assert_eq!(self.model.len(), TASKS);
            return;
        };
        match claimed.set_payload(&payload) {
            Ok(()) => {}
            Err(StoreError::ArenaFull { .. }) => return,
            Err(error) => panic!("{error}"),
        }
        claimed
            .write(&TaskFields {
                priority,
                ..TaskFields::default()
            })
            .unwrap();
        let id = claimed.publish(Event::Admit, stamp).unwrap();
        let key = Key::ready(priority, stamp, id.generation());
        let task = Expected {
            phase: Phase::Ready,
            attempt: 0,
            key,
            payload,
            result: Vec::new(),
        };
        assert!(self.model.insert(id, task).is_none(), "an id is given once");
    }

    fn take_best(&mut self) {
        let best = self
            .model
            .iter()
            .filter(|(_, task)| task.phase == Phase::Ready)
            .min_by_key(|(_, task)| task.key);
        let found = self.segment.ready().locate();
        let Some((&id, _)) = best else {
            assert_eq!(found, None);
            return;
        };
        let task = self.model.get_mut(&id).unwrap();
        assert_eq!(found, Some((id.slot().get(), task.key)));
        task.phase = Phase::Running;
        task.attempt = task.attempt.saturating_add(1);
        self.apply(
            id,
            Event::Assign {
                worker: self.worker,
            },
        );
        self.segment.unindex_ready(id.slot());
        self.worker_apply(WorkerEvent::Take);
        self.apply(id, Event::Start);
    }

    fn ready_again(&mut self, id: TaskId, events: &[Event]) {
        for &event in events {
            self.apply(id, event);
        }
        self.worker_apply(WorkerEvent::Give);
        assert!(
            self.segment
                .index_ready(id.slot(), self.segment.task(id.slot()).state())
        );
        self.model.get_mut(&id).unwrap().phase = Phase::Ready;
    }

    fn run(&mut self, step: &Step) {
        let running = |phase| phase == Phase::Running;
        match *step {
            Step::Submit { priority, bytes } => self.submit(priority, bytes),
            Step::GiveUp { bytes } => {
                if let Ok(mut claimed) = self.segment.claim_task(AttachIndex::DAEMON) {
                    let _ = claimed.set_payload(&vec![1; bytes]);
                }
            }
            Step::TakeBest => self.take_best(),
            Step::Finish { pick, bytes } => {
                if let Some(id) = self.pick(pick, running) {
                    let result = self.bytes(bytes);
                    let blob = self.segment.store(id, &result, Purpose::Result).unwrap();
                    SlotWriter::of(self.segment.task(id.slot())).set_result(blob);
                    self.apply(id, Event::End);
                    self.apply(id, Event::Complete);
                    self.worker_apply(WorkerEvent::Give);
                    let task = self.model.get_mut(&id).unwrap();
                    (task.phase, task.result) = (Phase::Done, result);
                }
            }
            Step::Retry { pick } => {
                if let Some(id) = self.pick(pick, running) {
                    self.ready_again(id, &[Event::End, Event::Retry]);
                }
            }
            Step::Lose { pick } => {
                if let Some(id) = self.pick(pick, running) {
                    self.ready_again(id, &[Event::Requeue]);
                }
            }
            Step::Cancel { pick } => {
                if let Some(id) = self.pick(pick, |phase| phase == Phase::Ready) {
                    self.apply(id, Event::Cancel);
                    self.segment.unindex_ready(id.slot());
                    self.model.get_mut(&id).unwrap().phase = Phase::Cancelled;
                }
            }
            Step::Hold { pick } => {
                if let Some(id) = self.pick(pick, |phase| phase == Phase::Ready) {
                    self.apply(id, Event::Hold);
                    self.segment.unindex_ready(id.slot());
                    self.model.get_mut(&id).unwrap().phase = Phase::Held;
                }
            }
            Step::Release { pick } => {
                if let Some(id) = self.pick(pick, |phase| phase == Phase::Held) {
                    self.apply(id, Event::Release);
                    let released = self.segment.task(id.slot()).state();
                    assert!(self.segment.index_ready(id.slot(), released));
                    self.model.get_mut(&id).unwrap().phase = Phase::Ready;
                }
            }
            Step::Free { pick } => {
                if let Some(id) = self.pick(pick, Phase::is_final) {
                    self.segment
                        .free_task(id.slot(), self.segment.task(id.slot()).state())
                        .unwrap();
                    self.model.remove(&id);
                }
            }
            Step::Rebuild => {
                self.segment.rebuild_caches(Now::default());
            }
        }
    }

    fn compare(&self) {
        for (&id, task) in &self.model {
            let record = self.segment.read_task(id.slot()).unwrap().record;
            assert_eq!((record.id, record.state.phase()), (Some(id), task.phase));
            assert_eq!((record.state.fence(), record.key), (task.attempt, task.key));
            for (part, bytes) in [(Part::Payload, &task.payload), (Part::Result, &task.result)] {
                let mut out = vec![0; bytes.len() + 1];
                assert_eq!(
                    self.segment.load(id, part, 0, &mut out).unwrap(),
                    bytes.len()
                );
                assert_eq!(&out[..bytes.len()], bytes);
            }
        }
        let allocated = self.segment.allocated_slots(0..u32::MAX).count();
        assert_eq!(allocated, self.model.len());
        let report = self.segment.verify();
        assert!(!report.broken() && !report.torn(), "{report:?}");
    }
}

/// Runs the steps and compares; then ends all tasks, and looks for what is left.
fn live(segment: Segment, dir: &Path, steps: &[Step]) {
    let mut world = World::new(segment);
    for step in steps {
        world.run(step);
    }
    world.compare();
    let ids: Vec<TaskId> = world.model.keys().copied().collect();
    for id in ids {
        let phase = world.model[&id].phase;
        if matches!(phase, Phase::Ready | Phase::Held) {
            world.apply(id, Event::Cancel);
        } else if phase == Phase::Running {
            world.apply(id, Event::RequestCancel);
            world.apply(id, Event::Cancel);
            world.worker_apply(WorkerEvent::Give);
        }
        let task = world.segment.task(id.slot());
        world.segment.free_task(id.slot(), task.state()).unwrap();
    }
    let report = world.segment.verify();
    assert!(!report.broken(), "{report:?}");
    assert_eq!((report.tasks_used, report.chunks), (0, 0));
    assert_eq!(std::fs::read_dir(dir).map_or(0, Iterator::count), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_lives_of_tasks_agree_with_the_model(steps in vec(step(), 1..120)) {
        let dir = tempfile::tempdir().unwrap();
        live(segment_in(dir.path(), TASKS as u64, 1 << 20), dir.path(), &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn memory_of_the_kernel_behaves_as_memory_of_this_process(steps in vec(step(), 1..120)) {
        let dir = tempfile::tempdir().unwrap();
        let spec = spec_in(dir.path(), TASKS as u64, 1 << 20);
        live(Segment::create_private(&spec).unwrap(), dir.path(), &steps);
    }
}
