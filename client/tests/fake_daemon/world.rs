//! What the daemon knows, and how it is to misbehave.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use prost::Message as _;
use qtf_client::TaskId;
use qtf_fake_daemon::refusal;
use qtf_proto::v1::{
    ClientHello, Durability, Outcome, OutcomeKind, Refusal, RefusalReason, SubmitVerdict, TaskEnd,
    TaskOutput, TaskSpec, TaskState,
};

#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// Of its key; empty = none.
    pub(super) key: Bytes,
    pub(crate) spec: TaskSpec,
    pub(crate) end: Option<TaskOutput>,
}

/// What the daemon knows, and how it is to misbehave.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one way to misbehave, and any may be combined"
)]
pub(crate) struct World {
    pub(crate) hello: Option<ClientHello>,
    pub(crate) heartbeats: u32,
    pub(super) sessions: HashSet<u64>,
    pub(super) next_session: u64,
    /// By raw id.
    pub(crate) tasks: BTreeMap<u64, Kept>,
    pub(crate) acknowledged: Vec<u64>,
    pub(super) uploads: BTreeMap<u64, Bytes>,
    pub(super) uploads_seen: u64,
    /// Take no more than the first chunk of an upload.
    pub(crate) hold_uploads: bool,
    pub(crate) uploads_under_way: usize,
    pub(crate) uploads_at_once: usize,
    /// So many slots; 0 = no limit.
    pub(crate) capacity: usize,
    /// Entries in stream batches that arrived, accepted or not.
    pub(crate) entries_seen: usize,
    /// Break the submission stream before answering this batch number.
    pub(crate) break_before_batch: u64,
    /// Break each watch stream after so many ends; 0 = never.
    pub(crate) break_watch_after: usize,
    pub(crate) watches_opened: usize,
    pub(crate) refuse_clients: bool,
    pub(crate) segment_id: u64,
    pub(crate) key_slots: usize,
    /// When the next place for a key is said to be free.
    pub(crate) key_hint_ms: u32,
    /// Task of each key.
    pub(crate) keys: HashMap<Bytes, u64>,
    /// Keys that were given back.
    pub(crate) keys_received: usize,
    /// Submissions whose key was known.
    pub(crate) repeats: usize,
    pub(crate) journal_is_full: bool,
    /// So many of the next fetches of outputs fail as if the daemon were killed.
    pub(crate) fetches_to_fail: u32,
    /// Accept so many entries of the stream and then break it without an answer to their batch; once.
    pub(crate) break_after_entries: Option<usize>,
    /// Carry so many single calls out without answering them.
    pub(crate) answers_to_lose: u32,
    /// Have no room for the first entry of each stream batch.
    pub(crate) refuse_first_of_batch: bool,
    /// Take submissions in without answering them.
    pub(crate) hold_answers: bool,
    /// Send each answer of the two streams twice.
    pub(crate) answers_twice: bool,
    pub(super) next_slot: u64,
    /// Never answer `GetTask`.
    pub(crate) is_mute: bool,
}

impl World {
    /// Forgets all sessions, as a daemon does that was started anew.
    pub(crate) fn forget_sessions(&mut self) {
        self.sessions.clear();
    }

    pub(super) fn check_session(&self, session: u64) -> Result<(), Refusal> {
        if self.sessions.contains(&session) {
            return Ok(());
        }
        let message = "the session is not known: say hello again";
        Err(refusal(RefusalReason::UnknownSession, message, 0))
    }

    pub(super) fn submit(&mut self, mut spec: TaskSpec) -> Result<u64, Refusal> {
        if spec.payload_upload != 0 {
            let unknown = || refusal(RefusalReason::UnknownUpload, "no such upload", 0);
            spec.payload = self
                .uploads
                .remove(&spec.payload_upload)
                .ok_or_else(unknown)?;
        }
        if spec.kind == "bad" {
            return Err(refusal(RefusalReason::InvalidArgument, "kind: bad", 0));
        }
        let waiting = self
            .tasks
            .values()
            .filter(|task| task.end.is_none())
            .count();
        let key = core::mem::take(&mut spec.idempotency_key);
        if let Some(id) = self.keys.get(&key) {
            self.repeats += 1;
            return Ok(*id);
        }
        if !key.is_empty() && self.keys.len() >= self.key_slots {
            let message = "all keys in use";
            return Err(refusal(RefusalReason::KeysFull, message, self.key_hint_ms));
        }
        if self.journal_is_full && spec.durability() != Durability::Memory {
            let message = "the journal has no room";
            return Err(refusal(RefusalReason::JournalFull, message, 10));
        }
        if self.capacity > 0 && waiting >= self.capacity {
            return Err(refusal(
                RefusalReason::TasksFull,
                "all task slots in use",
                10,
            ));
        }
        let id = (self.segment_id << 24) | self.next_slot;
        self.next_slot += 1;
        if !key.is_empty() {
            self.keys.insert(key.clone(), id);
        }
        let end = None;
        self.tasks.insert(id, Kept { key, spec, end });
        Ok(id)
    }

    pub(super) fn take_back(&mut self, keys: &[Bytes]) {
        for key in keys {
            self.keys.remove(key);
        }
        self.keys_received += keys.len();
    }

    /// What a new daemon with an empty segment finds: the tasks of the journal.
    pub(super) fn start_cold(&mut self) {
        self.segment_id += 1;
        self.next_slot = 0;
        let is_kept = |kept: &Kept| kept.spec.durability() == Durability::Journal;
        self.tasks.retain(|_, kept| is_kept(kept));
        let tasks = &self.tasks;
        self.keys.retain(|_, id| tasks.contains_key(id));
    }

    /// True when the answer to this call is to be lost.
    pub(super) fn loses_answer(&mut self) -> bool {
        let loses = self.answers_to_lose > 0;
        self.answers_to_lose = self.answers_to_lose.saturating_sub(1);
        loses
    }

    pub(super) fn verdict(&mut self, spec: TaskSpec) -> SubmitVerdict {
        let durability = spec.durability;
        let repeats = self.repeats;
        match self.submit(spec) {
            Ok(task_id) => SubmitVerdict {
                task_id,
                durability,
                is_repeat: self.repeats > repeats,
                ..SubmitVerdict::default()
            },
            Err(refusal) => SubmitVerdict {
                refusal: Some(refusal),
                ..SubmitVerdict::default()
            },
        }
    }

    /// Ends waiting tasks, oldest first.
    pub(crate) fn end_oldest(&mut self, count: usize, stdout: &[u8]) {
        let waiting = self.tasks.values_mut().filter(|task| task.end.is_none());
        for task in waiting.take(count) {
            task.end = Some(TaskOutput {
                stdout: Bytes::copy_from_slice(stdout),
                ..TaskOutput::default()
            });
        }
    }

    pub(crate) fn end(&mut self, id: TaskId, stdout: &[u8]) {
        let task = self.tasks.get_mut(&id.as_raw()).unwrap();
        task.end = Some(TaskOutput {
            stdout: Bytes::copy_from_slice(stdout),
            ..TaskOutput::default()
        });
    }

    pub(super) fn task_end(&self, id: u64, with_output: bool) -> Option<TaskEnd> {
        let mut end = TaskEnd {
            task_id: id,
            ..TaskEnd::default()
        };
        let Some(task) = self.tasks.get(&id) else {
            end.refusal = Some(refusal(RefusalReason::UnknownTask, "no such task", 0));
            return Some(end);
        };
        let output = task.end.as_ref()?.encode_to_vec();
        end.set_state(TaskState::Done);
        end.outcome = Some(Outcome {
            kind: OutcomeKind::Exited.into(),
            ..Outcome::default()
        });
        end.attempt = 1;
        end.output_bytes = u64::try_from(output.len()).unwrap();
        if with_output && output.len() <= 64 << 10 {
            end.output = output.into();
        }
        Some(end)
    }
}
