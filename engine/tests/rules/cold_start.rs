//! Cold start: what a journal leads to, also when it ends after any of its records.
//!
//! A random life is played and every answer that names a record is written down as a fact. Then the journal is cut
//! after each of its records, restored, and compared: every fact whose record is there holds, no other task is there.

use std::collections::{BTreeMap, BTreeSet};

use qtf_engine::{EngineConfig, Lsn, Payload};
use qtf_journal::{HEADER_BYTES, SimDisk, Storage};
use qtf_shm::{KeyId, Phase, TaskId, WorkerId};

use qtf_world::JournalWorld;
use qtf_world::{Dispatched, MS, SECOND};

/// What a record has made true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fact {
    /// It is accepted, or waits again.
    Waits,
    /// Its cancellation was asked for while a worker held it.
    Asked,
    /// It has ended so.
    Ended(Phase),
    /// It is gone.
    Gone,
}

struct Life {
    world: JournalWorld,
    rng: fastrand::Rng,
    facts: Vec<(Lsn, TaskId, Fact)>,
    held: Vec<Dispatched>,
    asked: BTreeSet<TaskId>,
    unwanted: BTreeSet<TaskId>,
    tasks: Vec<TaskId>,
    worker: Option<WorkerId>,
    keys: BTreeMap<u64, (Lsn, TaskId)>,
}

impl Life {
    fn new(seed: u64) -> Self {
        let config = EngineConfig {
            losses_max: 1,
            retry_backoff_ns_min: MS,
            retry_backoff_ns_max: 4 * MS,
            ..EngineConfig::default()
        };
        Self {
            world: JournalWorld::with(config),
            rng: fastrand::Rng::with_seed(seed),
            facts: Vec::new(),
            held: Vec::new(),
            asked: BTreeSet::new(),
            unwanted: BTreeSet::new(),
            tasks: Vec::new(),
            worker: None,
            keys: BTreeMap::new(),
        }
    }

    fn fact(&mut self, lsn: Option<Lsn>, task: TaskId, fact: Fact) {
        if let Some(lsn) = lsn {
            self.facts.push((lsn, task, fact));
        }
    }

    fn step(&mut self) {
        match self.rng.u8(0..16) {
            0..=4 => self.submit(),
            5..=7 => self.work(),
            8..=9 => self.report(),
            10 => self.cancel(),
            11 => self.forget(),
            12 => self.lose(),
            13 => self.revive(),
            _ => self.sync(),
        }
    }

    fn submit(&mut self) {
        let number = self.rng.u64(0..40);
        let (retries, discard, delay) = (self.rng.u32(0..2), self.rng.u8(..) < 40, self.rng.u8(..));
        let payload = vec![7; self.rng.usize(0..200)];
        let taken = self.world.take_in("exec", |task| {
            task.retries = retries;
            task.discard_result = discard;
            task.payload = Payload::Bytes(&payload);
            task.delay_ms = if delay < 30 { 20 } else { 0 };
            task.key = KeyId::from_words([number, 0]);
        });
        let Ok(taken) = taken else {
            return;
        };
        if taken.is_repeat {
            assert_eq!(self.keys[&number].1, taken.task);
            return;
        }
        if number > 0 {
            self.keys
                .insert(number, (taken.durable.unwrap(), taken.task));
        }
        self.tasks.push(taken.task);
        if discard {
            self.unwanted.insert(taken.task);
        }
        self.fact(taken.durable, taken.task, Fact::Waits);
    }

    fn work(&mut self) {
        if self.worker.is_none() {
            self.worker = Some(self.world.worker(6, &["exec"]));
        }
        let got = self.world.dispatches();
        self.held.extend(got);
    }

    fn report(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let one = self.held.swap_remove(self.rng.usize(..self.held.len()));
        let code = u8::from(self.rng.u8(..) < 100);
        let answer = self.world.result(one, code, b"output");
        let task = one.1;
        let end = match code {
            0 if self.unwanted.contains(&task) => Fact::Gone,
            0 => Fact::Ended(Phase::Done),
            _ if self.asked.contains(&task) => Fact::Ended(Phase::Cancelled),
            _ => Fact::Ended(Phase::Failed),
        };
        match answer.durable {
            Some(lsn) => self.fact(Some(lsn), task, end),
            None => self.fact(self.lsn(task), task, Fact::Waits),
        }
        self.world.grant(one.0);
    }

    fn cancel(&mut self) {
        let Some(task) = self.any() else { return };
        if let Ok(answer) = self.world.cancel(task) {
            let fact = if answer.phase == Phase::Cancelled {
                Fact::Ended(Phase::Cancelled)
            } else {
                self.asked.insert(task);
                Fact::Asked
            };
            self.fact(answer.durable, task, fact);
        }
    }

    fn forget(&mut self) {
        let Some(task) = self.any() else { return };
        if let Ok(answer) = self.world.forget(task) {
            self.fact(answer.durable, task, Fact::Gone);
        }
    }

    /// The worker is lost: each task that it held has a record of what became of it.
    fn lose(&mut self) {
        let Some(worker) = self.worker.take() else {
            return;
        };
        self.world.lose(worker);
        self.world.settle();
        for (_, task, _) in std::mem::take(&mut self.held) {
            let phase = self.world.phase(task);
            let fact = if phase.is_final() {
                Fact::Ended(phase)
            } else {
                Fact::Waits
            };
            self.fact(self.lsn(task), task, fact);
        }
    }

    fn revive(&mut self) {
        let Some(task) = self.any() else { return };
        let now = self.world.now;
        if let Ok(answer) = self.world.engine.revive(now, task) {
            self.fact(answer.durable, task, Fact::Waits);
        }
    }

    fn sync(&mut self) {
        self.world.sync();
        let due = self.world.settle_for(MS);
        self.held.extend(qtf_world::dispatched(&due));
    }

    fn any(&mut self) -> Option<TaskId> {
        let count = self.tasks.len();
        (count > 0).then(|| self.tasks[self.rng.usize(..count)])
    }

    fn lsn(&self, task: TaskId) -> Option<Lsn> {
        Some(Lsn::new(self.world.segment().task(task.slot()).lsn()))
    }
}

/// The names of the logs that have records, and where the records of the last of them end.
fn record_ends(disk: &SimDisk) -> (String, Vec<usize>) {
    let mut logs: Vec<_> = disk.list().expect("a directory").into_iter().collect();
    logs.retain(|name| name.starts_with("log-"));
    logs.sort_unstable();
    assert_eq!(logs.len(), 1, "the life fits into one file");
    let content = disk.content(&logs[0]).expect("it is there");
    let mut ends = Vec::new();
    let mut at = HEADER_BYTES;
    while let Some(length) = content.get(at + 4..at + 8) {
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        if length == 0 {
            break;
        }
        at += length.next_multiple_of(8);
        ends.push(at);
    }
    (logs.remove(0), ends)
}

/// What a journal that ends at `end` must lead to.
fn wanted(facts: &[(Lsn, TaskId, Fact)], end: Lsn) -> BTreeMap<TaskId, Fact> {
    let mut sorted: Vec<_> = facts.iter().filter(|fact| fact.0 <= end).collect();
    sorted.sort_by_key(|fact| fact.0);
    sorted.into_iter().map(|fact| (fact.1, fact.2)).collect()
}

#[test]
fn journal_that_ends_after_any_of_its_records_leads_to_what_was_answered_until_then() {
    for seed in 0..4 {
        let mut life = Life::new(seed);
        for _ in 0..300 {
            life.step();
        }
        life.world.sync();
        let (name, ends) = record_ends(&life.world.disk);
        assert_eq!(Lsn::new(ends.len() as u64), life.world.durable());
        assert!(ends.len() > 150, "{}", ends.len());
        let content = life.world.disk.content(&name).expect("it is there");
        let unix_ms = life.world.wall_ms + life.world.now.ns / MS;
        for (number, &cut) in ends.iter().enumerate() {
            let end = Lsn::new(number as u64 + 1);
            let disk = life.world.disk.copy();
            let mut bytes = content.clone();
            bytes[cut..].fill(0);
            disk.put(&name, &bytes);
            let directory = tempfile::tempdir().expect("a temporary directory can be made");
            let config = life.world.engine.config().clone();
            let nonce = number as u64 + 10;
            let mut cold = JournalWorld::cold(disk, nonce, directory, config, unix_ms);
            compare(&life, &mut cold, end, seed);
        }
    }
}

fn compare(life: &Life, cold: &mut JournalWorld, end: Lsn, seed: u64) {
    let wanted = wanted(&life.facts, end);
    for &task in &life.tasks {
        let found = cold.engine.check(task).ok().map(|state| state.phase());
        let text = format!("seed {seed}, {task} behind lsn {end}: {found:?}");
        match wanted.get(&task) {
            None | Some(Fact::Gone) => assert_eq!(found, None, "{text}"),
            Some(Fact::Waits) => {
                assert!(
                    matches!(found, Some(Phase::Ready | Phase::Delayed)),
                    "{text}"
                );
            }
            Some(Fact::Asked) => assert_eq!(found, Some(Phase::Cancelled), "{text}"),
            Some(Fact::Ended(phase)) => assert_eq!(found, Some(*phase), "{text}"),
        }
    }
    for (&number, &(lsn, task)) in &life.keys {
        let key = KeyId::from_words([number, 0]).expect("not 0");
        let known = cold.segment().keys().find(key, cold.now);
        let found = known.map(|entry| entry.task);
        if lsn <= end {
            assert_eq!(found, Some(task), "key {number} behind {end}");
        } else {
            assert_eq!(found, None, "key {number} behind {end}");
        }
    }
    cold.verify();
    // It goes on: what was cut off may come again, under another id.
    cold.sync();
    if let Ok(taken) = cold.take_in("exec", |_| ()) {
        assert!(
            !life.tasks.contains(&taken.task),
            "{} is given twice",
            taken.task
        );
    }
    cold.settle();
    cold.verify();
}

#[test]
fn restored_tasks_keep_order_priority_attempt_and_client() {
    let mut world = JournalWorld::new();
    let worker = world.worker(1, &["exec"]);
    let first = world.ready("exec");
    world.dispatch();
    world.lose(worker);
    world.settle();
    let second = world.ready("exec");
    let urgent = world.ready("exec");
    let now = world.now;
    world.engine.update_priority(now, urgent, 250).unwrap();
    let third = world.ready("exec");
    world.sync();
    let mut world = world.cold_restart();
    world.verify();
    assert_eq!(world.counts(), (4, 0), "they are the client's again");
    world.worker(4, &["exec"]);
    world.sync();
    let order: Vec<_> = world.dispatches();
    let order: Vec<_> = order.iter().map(|one| (one.1, one.2)).collect();
    assert_eq!(order, [(urgent, 1), (first, 2), (second, 1), (third, 1)]);
    let later = world.ready("exec");
    assert!(later.generation() > third.generation());
}

#[test]
fn delay_goes_on_by_the_wall_clock_while_the_machine_is_off() {
    for (off_ms, is_due) in [(1_000, false), (31_536_000_000, true)] {
        let mut world = JournalWorld::new();
        let taken = world.take_in("exec", |task| task.delay_ms = 60_000);
        let task = taken.unwrap().task;
        world.sync();
        world.wall_ms += off_ms;
        let mut world = world.cold_restart();
        let phase = if is_due { Phase::Ready } else { Phase::Delayed };
        assert_eq!(world.phase(task), phase);
        world.worker(1, &["exec"]);
        world.sync();
        let got = qtf_world::dispatched(&world.settle_for(55 * SECOND));
        assert_eq!(got.len(), usize::from(is_due));
        // The first worker was silent for too long.
        world.worker(1, &["exec"]);
        let got = qtf_world::dispatched(&world.settle_for(5 * SECOND));
        assert_eq!(got[0].2, if is_due { 2 } else { 1 });
    }
}

#[test]
fn wall_clock_that_goes_back_a_year_harms_nothing() {
    let mut world = JournalWorld::new();
    world.worker(1, &["exec"]);
    let done = world.ready("exec");
    let got = world.dispatch();
    world.result(got, 0, b"output");
    let taken = world.take_in("exec", |task| {
        task.delay_ms = 10;
        task.key = KeyId::from_words([1, 1]);
    });
    let delayed = taken.unwrap().task;
    world.sync();
    world.wall_ms -= 31_536_000_000;
    let mut world = world.cold_restart();
    assert_eq!(world.phase(done), Phase::Done);
    assert_eq!(world.phase(delayed), Phase::Delayed);
    world.sync();
    world.settle_for(10 * SECOND);
    world.verify();
}

#[test]
fn result_kept_over_a_reboot_is_read_and_expires() {
    let mut world = JournalWorld::new();
    world.worker(2, &["exec"]);
    let (small, large) = (world.ready("exec"), world.ready("exec"));
    let got = world.dispatches();
    let bytes = vec![5; 60_000];
    world.result(got[0], 0, b"output");
    world.result(got[1], 0, &bytes);
    world.sync();
    let mut world = world.cold_restart();
    for (task, wanted) in [(small, b"output".as_slice()), (large, &bytes)] {
        let record = world.segment().read_task(task.slot()).unwrap().record;
        let mut out = vec![0; wanted.len()];
        let part = qtf_shm::Part::Result;
        let read = world.segment().load_blob(&record, part, 0, &mut out);
        assert_eq!(read.unwrap(), wanted.len());
        assert_eq!(out, wanted);
    }
    world.sync();
    world.settle_for(3_600 * SECOND);
    world.sync();
    assert!(world.engine.check(small).is_err());
    world.verify();
}

#[test]
fn task_that_was_to_be_cancelled_is_cancelled_and_that_is_journalled() {
    let mut world = JournalWorld::new();
    world.worker(1, &["exec"]);
    let task = world.ready("exec");
    let got = world.dispatch();
    world.start(got);
    world.cancel(task).unwrap();
    world.sync();
    let mut world = world.cold_restart();
    assert_eq!(world.phase(task), Phase::Cancelled);
    assert_eq!(world.engine.settled_end(task), Ok(None));
    world.sync();
    assert_eq!(world.ends(), [(task, Phase::Cancelled)]);
    world.verify();
    let world = world.cold_restart();
    assert_eq!(world.phase(task), Phase::Cancelled);
}

#[test]
fn memory_tasks_are_gone_and_their_ids_are_never_given_again() {
    let mut world = JournalWorld::new();
    let mut given = BTreeSet::new();
    for _ in 0..3 {
        for _ in 0..20 {
            let taken = world.take_in("exec", |task| {
                task.durability = qtf_engine::Durability::Memory;
            });
            assert!(given.insert(taken.unwrap().task));
        }
        world = world.cold_restart();
        for task in &given {
            assert!(world.engine.check(*task).is_err());
        }
        world.sync();
    }
}

#[test]
fn succeeded_task_whose_result_nobody_wants_does_not_come_back() {
    let mut world = JournalWorld::new();
    world.worker(1, &["exec"]);
    let taken = world.take_in("exec", |task| task.discard_result = true);
    let task = taken.unwrap().task;
    world.sync();
    let got = world.dispatch();
    world.result(got, 0, b"output");
    world.sync();
    let world = world.cold_restart();
    assert!(world.engine.check(task).is_err());
    world.verify();
}

#[test]
fn bytes_in_files_stay_in_their_files_and_small_ones_come_back_into_the_segment() {
    let mut world = JournalWorld::new();
    world.worker(1, &["exec"]);
    let large = vec![9; 100_000];
    let payload = world.segment().spill().store(&large).unwrap();
    let result = world.segment().spill().store(&large[1..]).unwrap();
    let taken = world.take_in("exec", |task| task.payload = Payload::Stored(payload));
    let task = taken.unwrap().task;
    world.sync();
    let got = world.dispatch();
    let report = qtf_engine::ResultReport {
        said: qtf_engine::Said::default(),
        outcome: qtf_shm::Outcome {
            kind: qtf_shm::OutcomeKind::Exited,
            ..qtf_shm::Outcome::default()
        },
        output: qtf_engine::Output::Stored(result),
        asked_pause_ns: None,
    };
    let now = world.now;
    let asked = qtf_world::task_ref(task, got.2);
    let answer = world.engine.task_result(now, got.0, asked, &report);
    assert!(answer.durable.is_some());
    world.sync();
    let world = world.cold_restart();
    let record = world.segment().read_task(task.slot()).unwrap().record;
    for (part, wanted) in [
        (qtf_shm::Part::Payload, large.as_slice()),
        (qtf_shm::Part::Result, &large[1..]),
    ] {
        let mut out = vec![0; wanted.len()];
        let read = world.segment().load_blob(&record, part, 0, &mut out);
        assert_eq!(read.unwrap(), wanted.len());
        assert_eq!(out, wanted);
    }
    assert_eq!(world.segment().remove_lost_spills(), 0);
}

#[test]
fn small_output_that_found_the_arena_full_is_in_the_journal_itself() {
    let mut world = JournalWorld::new();
    world.worker(1, &["exec"]);
    let task = world.ready("exec");
    let got = world.dispatch();
    // Fill the arena with results.
    let owner = task;
    let bytes = vec![1; 60_000];
    let is_in_arena = |blob| matches!(blob, qtf_shm::BlobRef::Arena { .. });
    while is_in_arena(
        world
            .segment()
            .store(owner, &bytes, qtf_shm::Purpose::Result)
            .unwrap(),
    ) {}
    let output = vec![3; 50_000];
    world.result(got, 0, &output);
    let blob = world.segment().task(task.slot()).result();
    assert!(matches!(blob, qtf_shm::BlobRef::Spill { .. }));
    world.sync();
    // The file was never synced: the machine may have lost it.
    world.segment().spill().remove(blob).unwrap();
    let world = world.cold_restart();
    let record = world.segment().read_task(task.slot()).unwrap().record;
    let mut out = vec![0; output.len()];
    let part = qtf_shm::Part::Result;
    let read = world.segment().load_blob(&record, part, 0, &mut out);
    assert_eq!((read.unwrap(), out), (output.len(), output));
}

#[test]
fn key_that_somebody_chose_outlives_a_crowd_of_keys_that_clients_made_for_a_moment() {
    let mut world = JournalWorld::new();
    let capacity = u64::from(world.segment().keys().capacity());
    let chosen = KeyId::from_words([7, u64::MAX]).unwrap();
    let taken = world.take_in("exec", |task| {
        task.key = Some(chosen);
        task.key_ttl_ms = 3_600_000;
    });
    let task = taken.unwrap().task;
    // More than the table holds, each given back as clients do when they have the answer.
    let last = capacity * 2;
    for number in 1..=last {
        let key = KeyId::from_words([number, 0]).unwrap();
        let taken = world.take_in("exec", |task| {
            task.key = Some(key);
            task.key_ttl_ms = 120_000;
        });
        let passing = taken.unwrap().task;
        world.cancel(passing).unwrap();
        world.sync();
        let now = world.now;
        world.engine.release_keys(now, &[key]);
        assert!(world.ends().contains(&(passing, Phase::Cancelled)));
        world.forget(passing).unwrap();
        world.sync();
        world.now = world.now.plus_ns(1_000_000);
    }
    let world = world.cold_restart();
    let known = world.segment().keys().find(chosen, world.now);
    assert_eq!(known.map(|entry| entry.task), Some(task));
    let newest = KeyId::from_words([last, 0]).unwrap();
    let found = world.segment().keys().find(newest, world.now);
    assert_eq!(found, None, "it was given back");
    world.verify();
}
