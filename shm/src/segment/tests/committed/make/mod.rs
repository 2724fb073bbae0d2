//! A small segment with something of everything, as a daemon and local processes of this version write it.

mod tasks;

use std::mem::ManuallyDrop;
use std::path::Path;

use super::super::spec_in;
use crate::ClientFields;
use crate::arena::Purpose;
use crate::id::{AttachIndex, ClientIndex, SlotIndex, TaskId, WorkerId, WorkerIndex};
use crate::keys::KeyId;
use crate::kind_set::KindSet;
use crate::layout::attach::AttachRole;
use crate::segment::{
    Attachment, AttachmentSpec, AttemptNote, LocalWorkerSpec, LockFile, Segment, SegmentSpec,
    TaskFields,
};
use crate::task::side::SideRecord;
use crate::task::slot::{Outcome, OutcomeKind, TaskOptions};
use crate::task::state::{Event, Phase};
use crate::time::STAMP_MAX;
use crate::tree::Key;
use crate::worker::{WorkerCounter, WorkerEvent, WorkerFields};

/// Seconds since 1970 that stand in for the time of the makers.
const WALL_MS: u64 = 1_764_500_000_000;

/// What stands around while the segment is filled.
struct Maker {
    segment: Segment,
    spec: SegmentSpec,
    daemon: LockFile,
    lock_path: std::path::PathBuf,
}

/// Makes the segment and writes its image. What local processes hold is left as a kill leaves it.
pub(super) fn make(dir: &Path, image: &Path) {
    let maker = Maker::new(dir);
    maker.local_processes();
    maker.workers();
    maker.clients();
    maker.waiting();
    maker.with_workers();
    maker.ended();
    maker.freed();
    maker.keys();
    maker.segment.set_gen_limit(1 << 20);
    maker.segment.set_journal_end(77);
    maker.segment.write_image(image).unwrap();
}

/// Bytes that tell their length.
fn content(len: usize) -> Vec<u8> {
    let salt = len.to_le_bytes()[0];
    (0..len)
        .map(|at| (at % 251).to_le_bytes()[0] ^ salt)
        .collect()
}

const fn outcome(kind: OutcomeKind, code: u8) -> Outcome {
    Outcome {
        kind,
        code,
        result_dropped: false,
        output_cut: false,
    }
}

fn key(number: u8) -> KeyId {
    KeyId::from_bytes(&[number; 16]).unwrap()
}

impl Maker {
    fn new(dir: &Path) -> Self {
        let lock_path = dir.join("test.lock");
        std::fs::write(&lock_path, "").unwrap();
        let spec = SegmentSpec {
            gen_base: Some(40),
            ..spec_in(dir.join("spill"), 48, 1 << 20)
        };
        let segment = Segment::create_private(&spec).unwrap();
        let daemon = LockFile::open(&lock_path).unwrap();
        assert!(daemon.lock(0).unwrap());
        segment.set_lock_file(daemon.identity());
        segment.kinds().intern("local").unwrap();
        segment.kinds().intern("render").unwrap();
        Self {
            segment,
            spec,
            daemon,
            lock_path,
        }
    }

    fn attach(&self, role: AttachRole, name: &str) -> Attachment {
        let spec =
            AttachmentSpec::new(role, name, &self.spec.spill_dir).with_lock_file(&self.lock_path);
        Attachment::open_id(self.segment.shm_id().unwrap(), &spec).unwrap()
    }

    fn fields(&self, kind: &str) -> TaskFields {
        TaskFields {
            kind: self.segment.kinds().find(kind),
            priority: 100,
            max_attempts: 3,
            client: ClientIndex::new_checked(1, 64),
            ..TaskFields::default()
        }
    }

    fn worker(&self, number: u16) -> WorkerIndex {
        self.segment.worker_index(number).unwrap()
    }

    fn slot(&self, id: TaskId) -> SlotIndex {
        self.segment.slot_of(id).unwrap()
    }

    /// A task of the daemon's clients.
    fn submit(&self, payload: usize, fields: &TaskFields, event: Event) -> TaskId {
        let mut claimed = self.segment.claim_task(AttachIndex::DAEMON).unwrap();
        claimed.set_payload(&content(payload)).unwrap();
        claimed.write(fields).unwrap();
        let stamp = self.segment.now().stamp();
        claimed.publish(event, stamp).unwrap()
    }

    /// One change of a task, as the engine makes it.
    fn change(&self, id: TaskId, event: Event) {
        let (slot, right) = (self.slot(id), self.segment.plm_right().unwrap());
        let from = self.segment.state(slot);
        let to = self.segment.apply(slot, from, event).unwrap();
        self.segment
            .write_task(right, slot)
            .set_phase_time(self.segment.now().stamp());
        if from.phase() == Phase::Ready && to.phase() != Phase::Ready {
            self.segment.unindex_ready(slot);
        }
        if to.phase() == Phase::Ready {
            self.segment.index_ready(slot, to);
        }
    }

    fn hand_out(&self, id: TaskId, number: u16) {
        let worker = self.worker(number);
        let slot = self.segment.worker(worker);
        slot.apply(slot.state(), WorkerEvent::Take).unwrap();
        self.change(id, Event::Assign { worker });
    }

    fn give(&self, number: u16) {
        let slot = self.segment.worker(self.worker(number));
        slot.apply(slot.state(), WorkerEvent::Give).unwrap();
    }

    /// Ends an attempt that runs with a result.
    fn end(&self, id: TaskId, what: Outcome, result: usize, number: u16) {
        let (slot, right) = (self.slot(id), self.segment.plm_right().unwrap());
        let writer = self.segment.write_task(right, slot);
        if result > 0 {
            let bytes = content(result);
            let blob = self.segment.store(id, &bytes, Purpose::Result).unwrap();
            writer.set_result(blob);
        }
        writer.set_outcome(what);
        self.change(id, Event::End);
        self.give(number);
    }

    fn note(&self, id: TaskId, attempt: u16, what: Outcome, (message, stderr): (&str, &[u8])) {
        let note = AttemptNote {
            task: id,
            attempt,
            worker: Some(WorkerId::new(self.worker(1), 1)),
            ended: self.segment.now().stamp(),
            outcome: what,
            message,
            stderr,
        };
        let right = self.segment.plm_right().unwrap();
        assert!(self.segment.keep_attempt(right, &note));
    }
}

/// Local processes: first, as a local worker takes the best task that it can run.
impl Maker {
    fn local_processes(&self) {
        let kind = self.segment.kinds().find("local").unwrap();
        // Killed in the end: nothing of it is dropped.
        let attached = ManuallyDrop::new(self.attach(AttachRole::Worker, "local worker"));
        let worker = ManuallyDrop::new(
            attached
                .join_as_worker(&LocalWorkerSpec {
                    name: "local",
                    host: "here",
                    kinds: [kind].into_iter().collect(),
                    capacity: 4,
                    losses_max: 2,
                })
                .unwrap(),
        );
        let ids: Vec<TaskId> = (0..5)
            .map(|_| self.submit(12, &self.fields("local"), Event::Admit))
            .collect();
        let taken: Vec<_> = (0..4).map(|_| worker.take().unwrap()).collect();
        let mut taken = taken.into_iter();
        let (assigned, runs) = (taken.next().unwrap(), taken.next().unwrap());
        runs.start().unwrap();
        let ended = taken.next().unwrap();
        ended.start().unwrap();
        ended
            .finish(outcome(OutcomeKind::Exited, 0), &content(200))
            .unwrap();
        // The daemon is gone for the last one.
        let done = taken.next().unwrap();
        done.start().unwrap();
        self.daemon.unlock(0).unwrap();
        done.finish(outcome(OutcomeKind::Exited, 0), b"done")
            .unwrap();
        assert!(self.daemon.lock(0).unwrap());
        assert_eq!(self.segment.state(self.slot(ids[3])).phase(), Phase::Done);
        self.change(ids[4], Event::Hold);
        let _ = (ManuallyDrop::new(assigned), ManuallyDrop::new(runs));
        let client = ManuallyDrop::new(self.attach(AttachRole::Client, "local client"));
        let mut claimed = ManuallyDrop::new(client.claim().unwrap());
        claimed.set_payload(&content(300)).unwrap();
        let mut judged = client.claim().unwrap();
        judged.set_payload(&content(64)).unwrap();
        judged
            .write(&TaskFields {
                side: Some(SideRecord {
                    key: key(0xCC).words(),
                    key_expiry: STAMP_MAX,
                    submitted_unix_ms: WALL_MS,
                    ..SideRecord::default()
                }),
                options: TaskOptions::JOURNAL,
                ..self.fields("noop")
            })
            .unwrap();
        judged.publish(Event::Submit, client.next_stamp()).unwrap();
    }
}

/// Workers of the daemon and clients.
impl Maker {
    fn workers(&self) {
        let right = self.segment.plm_right().unwrap();
        let registered = self.segment.now().stamp();
        for (number, name) in [(1, "streams"), (2, "drains"), (3, "suspect"), (4, "calls")] {
            let writer = self.segment.write_worker(right, self.worker(number));
            writer.fill(&WorkerFields {
                name,
                host: "node-7",
                pid: 4242,
                uid: 1000,
                token: 7_000 + u64::from(number),
                kinds: KindSet::from_words([0b10_1110, 0, 0, 0]),
                registered,
            });
            writer
                .apply(writer.state(), WorkerEvent::Register { capacity: 8 })
                .unwrap();
            writer.set_lease_end(registered + 20_000_000);
            writer.set_credits(8);
            writer.set_load_milli(1_250);
            writer.set_key(Key::load(0, 5, number));
        }
        for (number, event) in [(2, WorkerEvent::Drain), (3, WorkerEvent::Suspect)] {
            let slot = self.segment.worker(self.worker(number));
            slot.apply(slot.state(), event).unwrap();
        }
        let calls = self.segment.write_worker(right, self.worker(4));
        calls.set_leased_until(registered + 30_000_000);
        let streams = self.segment.worker(self.worker(1));
        streams.count(WorkerCounter::Done);
        streams.count(WorkerCounter::Stale);
        for number in [1, 4] {
            let worker = self.worker(number);
            let key = self.segment.worker(worker).key();
            self.segment
                .worker_heap()
                .insert(u32::from(number), key)
                .unwrap();
        }
    }

    fn clients(&self) {
        for (number, name, unfinished) in [(1, "sweep", 22), (2, "", 0)] {
            let client = self
                .segment
                .client(ClientIndex::new_checked(number, 64).unwrap());
            client.open(&ClientFields {
                name,
                host: "login-1",
                address: "10.0.0.9:4000",
                pid: 99,
                uid: 1000,
                registered: self.segment.now().stamp(),
            });
            client.set_connections(u32::from(2 - number));
            client.set_unfinished(unfinished);
            client.set_kept(if unfinished > 0 { 9 } else { 0 });
            client.set_submitted(30);
        }
    }
}
