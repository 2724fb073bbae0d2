//! The naive model: operations with owned bytes, applied one after the other to a map of tasks.

use std::collections::BTreeMap;

use qtf_journal::{Blob, ClientRef, Lsn, Record, Recovered, WholeTask};
use qtf_shm::{KeyId, Outcome, OutcomeKind, Phase, SlotIndex, TaskId};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    None,
    Bytes(Vec<u8>),
    Spill(u32, u64, u32),
}

impl Content {
    pub(crate) fn blob(&self) -> Blob<'_> {
        match self {
            Self::None => Blob::None,
            Self::Bytes(bytes) => Blob::Bytes(bytes),
            &Self::Spill(number, len, crc32c) => Blob::Spill {
                number,
                len,
                crc32c,
            },
        }
    }

    pub(crate) fn random(rng: &mut fastrand::Rng, bytes_max: usize) -> Self {
        match rng.u8(0..8) {
            0 => Self::None,
            1 => Self::Spill(rng.u32(..), rng.u64(..), rng.u32(..)),
            _ => {
                let count = rng.usize(0..=bytes_max);
                Self::Bytes((0..count).map(|_| rng.u8(..)).collect())
            }
        }
    }
}

/// A whole task that owns its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) whole: WholeTask<'static>,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) host: String,
    pub(crate) payload: Content,
    pub(crate) result: Content,
}

impl Task {
    pub(crate) fn whole(&self) -> WholeTask<'_> {
        WholeTask {
            kind: &self.kind,
            client: ClientRef {
                uid: self.whole.client.uid,
                name: &self.name,
                host: &self.host,
            },
            payload: self.payload.blob(),
            result: self.result.blob(),
            ..self.whole.clone()
        }
    }

    /// As submitted.
    pub(crate) fn random(rng: &mut fastrand::Rng, id: TaskId, payload_max: usize) -> Self {
        let due = if rng.u8(..) < 40 {
            rng.u64(1..1 << 40)
        } else {
            0
        };
        let whole = WholeTask {
            id,
            phase: Phase::Submitted,
            cancel_requested: false,
            attempt: 0,
            failures: 0,
            losses: 0,
            max_attempts: rng.u8(1..),
            options: 2,
            priority: rng.u8(..),
            stamp: rng.u64(0..1 << 48),
            timeout_ms: rng.u32(..),
            estimate_ms: rng.u32(..),
            keep_s: rng.u32(..),
            kind: "",
            client: ClientRef {
                uid: rng.bool().then(|| rng.u32(..)),
                name: "",
                host: "",
            },
            submitted_unix_ms: rng.u64(..),
            due_unix_ms: due,
            ended_unix_ms: 0,
            array: rng.bool().then(|| (rng.u64(..), rng.u64(..))),
            key: (rng.u8(..) < 80).then(|| (key(rng), rng.u64(..))),
            outcome: Outcome::default(),
            payload: Blob::None,
            result: Blob::None,
            lsn: Lsn::NONE,
        };
        Self {
            whole,
            kind: "exec".to_owned(),
            name: "a client".to_owned(),
            host: "höst".to_owned(),
            payload: Content::random(rng, payload_max),
            result: Content::None,
        }
    }
}

pub(crate) fn key(rng: &mut fastrand::Rng) -> KeyId {
    KeyId::from_words([rng.u64(1..), rng.u64(..)]).expect("not zero")
}

pub(crate) fn id(generation: u64, slot: u32) -> TaskId {
    TaskId::new(
        generation,
        SlotIndex::new_checked(slot, 1 << 24).expect("a slot"),
    )
}

/// A record that owns its bytes.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Task(Box<Task>),
    Outcome {
        task: TaskId,
        attempt: u16,
        phase: Phase,
        ended: u64,
        result: Content,
    },
    /// A record without bytes.
    Plain(Record<'static>),
}

impl Op {
    pub(crate) fn record(&self) -> Record<'_> {
        match self {
            Self::Task(task) => Record::Task(task.whole()),
            Self::Outcome {
                task,
                attempt,
                phase,
                ended,
                result,
            } => Record::Outcome {
                task: *task,
                attempt: *attempt,
                phase: *phase,
                outcome: OUTCOME,
                failures: 3,
                losses: 1,
                ended_unix_ms: *ended,
                result: result.blob(),
            },
            Self::Plain(record) => record.clone(),
        }
    }
}

const OUTCOME: Outcome = Outcome {
    kind: OutcomeKind::Exited,
    code: 7,
    result_dropped: false,
    output_cut: false,
};

/// All tasks, and what each operation does to them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) tasks: BTreeMap<TaskId, Task>,
    pub(crate) keys: Vec<(KeyId, TaskId, u64)>,
    pub(crate) gen_limit: u64,
    /// Highest so far: a slot's next tenant has a higher one.
    generation: u64,
}

impl Model {
    pub(crate) fn of(history: &[Op]) -> Self {
        let mut model = Self::default();
        for (op, lsn) in history.iter().zip(1..) {
            model.apply(op, Lsn::new(lsn));
        }
        model
    }

    pub(crate) fn apply(&mut self, op: &Op, lsn: Lsn) {
        match op {
            Op::Task(task) => {
                let mut task = (**task).clone();
                task.whole.lsn = lsn;
                let slot = task.whole.id.slot();
                let before = self.tasks.keys().find(|id| id.slot() == slot).copied();
                if let Some(before) = before.and_then(|id| self.tasks.remove(&id)) {
                    // Freed without a record, as its result was not wanted.
                    let key = before.whole.key;
                    self.keys
                        .extend(key.map(|(key, expiry)| (key, before.whole.id, expiry)));
                }
                self.generation = self.generation.max(task.whole.id.generation());
                self.tasks.insert(task.whole.id, task);
            }
            Op::Outcome {
                task,
                attempt,
                phase,
                ended,
                result,
            } => {
                let task = self.tasks.get_mut(task).expect("alive");
                let whole = &mut task.whole;
                (whole.attempt, whole.phase) = (*attempt, *phase);
                (whole.failures, whole.losses, whole.outcome) = (3, 1, OUTCOME);
                whole.ended_unix_ms = *ended;
                whole.lsn = lsn;
                task.result = result.clone();
            }
            Op::Plain(record) => self.plain(record, lsn),
        }
    }

    fn plain(&mut self, record: &Record<'_>, lsn: Lsn) {
        if let Record::Reserve { gen_limit } = *record {
            self.gen_limit = self.gen_limit.max(gen_limit);
            return;
        }
        let id = record.task().expect("about a task");
        let task = self.tasks.get_mut(&id).expect("alive");
        let whole = &mut task.whole;
        whole.lsn = lsn;
        match *record {
            Record::Attempt { attempt, .. } => {
                (whole.phase, whole.attempt) = (Phase::Assigned, attempt);
            }
            Record::Requeue {
                phase,
                attempt,
                failures,
                losses,
                due_unix_ms,
                ..
            } => {
                whole.phase = phase;
                (whole.attempt, whole.failures, whole.losses) = (attempt, failures, losses);
                (whole.due_unix_ms, whole.ended_unix_ms) = (due_unix_ms, 0);
                whole.outcome = Outcome::default();
                task.result = Content::None;
                whole.cancel_requested &= attempt != 0;
            }
            Record::Cancel { .. } => whole.cancel_requested = true,
            Record::Update { priority, .. } => whole.priority = priority,
            Record::Acknowledged { .. } | Record::Purge { .. } => {
                let key = whole.key;
                self.keys.extend(key.map(|(key, expiry)| (key, id, expiry)));
                self.tasks.remove(&id);
            }
            Record::Task(_)
            | Record::Outcome { .. }
            | Record::Reserve { .. }
            | Record::Key { .. } => panic!("{record:?} is not plain"),
        }
    }

    /// Something that can happen next.
    pub(crate) fn random_op(&self, rng: &mut fastrand::Rng, payload_max: usize) -> Op {
        const SLOTS: u32 = 5000;
        let live = self.tasks.len();
        if live == 0 || (live < 60 && rng.u8(0..3) == 0) {
            loop {
                let id = id(self.generation + 1, rng.u32(0..SLOTS));
                if self.tasks.keys().all(|used| used.slot() != id.slot()) {
                    return Op::Task(Box::new(Task::random(rng, id, payload_max)));
                }
            }
        }
        let (&task, known) = self.tasks.iter().nth(rng.usize(..live)).expect("below");
        if rng.u8(..) < 3 {
            let next = id(self.generation + 1, task.slot().get());
            return Op::Task(Box::new(Task::random(rng, next, payload_max)));
        }
        let attempt = known.whole.attempt;
        let plain = match rng.u8(0..16) {
            0..4 => Record::Attempt {
                task,
                attempt: attempt.saturating_add(1),
                worker: rng.u64(..),
            },
            4..6 => Record::Requeue {
                task,
                phase: [Phase::Ready, Phase::Delayed, Phase::Held][rng.usize(0..3)],
                attempt: if rng.bool() { attempt } else { 0 },
                failures: rng.u8(..),
                losses: rng.u8(..),
                due_unix_ms: rng.u64(0..3),
            },
            6..11 => {
                let phases = [
                    Phase::Done,
                    Phase::Failed,
                    Phase::Cancelled,
                    Phase::DeadLetter,
                ];
                return Op::Outcome {
                    task,
                    attempt,
                    phase: phases[rng.usize(..4)],
                    ended: rng.u64(..),
                    result: Content::random(rng, payload_max),
                };
            }
            11 => Record::Cancel { task },
            12 => Record::Update {
                task,
                priority: rng.u8(..),
            },
            13 => Record::Reserve {
                gen_limit: rng.u64(..1 << 35),
            },
            14 => Record::Purge { task },
            _ => Record::Acknowledged { task },
        };
        Op::Plain(plain)
    }

    /// What a cold start must find.
    fn rested(&self) -> BTreeMap<TaskId, Task> {
        let mut tasks = self.tasks.clone();
        for task in tasks.values_mut() {
            let whole = &mut task.whole;
            let waits = matches!(whole.phase, Phase::Submitted | Phase::Delayed);
            if waits && whole.due_unix_ms > 0 {
                whole.phase = Phase::Delayed;
            } else if waits {
                whole.phase = Phase::Ready;
            }
        }
        tasks
    }

    /// The recovered state is this one, exactly.
    pub(crate) fn assert_is(&self, recovered: &Recovered, what: &str) {
        let expected = self.rested();
        let mut found = recovered.tasks();
        let mut by_slot: Vec<&Task> = expected.values().collect();
        by_slot.sort_by_key(|task| task.whole.id.slot());
        for task in by_slot {
            assert_eq!(found.next(), Some(task.whole()), "{what}");
        }
        assert_eq!(found.next(), None, "{what}");
        assert_eq!(recovered.tasks_count(), expected.len(), "{what}");
        assert_eq!(recovered.gen_limit, self.gen_limit, "{what}");
        let stamp = expected.values().map(|task| task.whole.stamp).max();
        assert!(recovered.max_stamp >= stamp.unwrap_or(0), "{what}");
        let keys: Vec<_> = recovered.keys().collect();
        for key in &self.keys {
            assert!(keys.contains(key), "{what}: a live key is gone");
        }
    }
}
