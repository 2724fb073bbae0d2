//! A world with a journal on a disk in memory: the test says when groups are taken, written and told to be durable.

use std::ops::{Deref, DerefMut};

use qtf_engine::{
    Accepted, Answer, Engine, EngineConfig, Lsn, Output, Payload, Rejection, ResultAnswer,
    ResultReport, Said, Submission, WallTime, restore,
};
use qtf_journal::{Appender, AppenderLimits, Group, SimDisk, recover};
use qtf_shm::{Geometry, Now, Outcome, OutcomeKind, Phase, TaskId, WorkerId};
use tempfile::TempDir;

use crate::disk::{Disk, journal_config, reopened};
use crate::ground::Ground;
use crate::sentences::{Dispatched, finished, task_ref};
use crate::settings::{MS, unshared};
use crate::world::World;

const SLOTS: u64 = 256;
/// What the wall clock says at moment 0 of the first segment.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// A world whose tasks are durable.
pub struct JournalWorld {
    /// Engine, time and client.
    pub world: World,
    /// What a reboot leaves; another one may be put in its place.
    pub disk: SimDisk,
    journal: Disk,
    nonce: u64,
    /// Difference of the wall clock to the segment's time.
    pub wall_ms: u64,
    /// Written and synced, and not told to the engine.
    untold: Option<Lsn>,
}

impl Deref for JournalWorld {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl DerefMut for JournalWorld {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.world
    }
}

impl Default for JournalWorld {
    fn default() -> Self {
        Self::new()
    }
}

impl JournalWorld {
    /// A first start, with ids reserved.
    pub fn new() -> Self {
        Self::with(EngineConfig::default())
    }

    /// A first start with these settings, with ids reserved.
    pub fn with(config: EngineConfig) -> Self {
        let mut world = Self::unsynced(config, AppenderLimits::default());
        world.sync();
        world
    }

    /// A first start in a segment of this size.
    pub fn of_size(geometry: Geometry) -> Self {
        let limits = AppenderLimits::default();
        let mut world = Self::first(unshared(), limits, geometry);
        world.sync();
        world
    }

    /// A first start; nothing is durable yet.
    pub fn unsynced(config: EngineConfig, limits: AppenderLimits) -> Self {
        Self::first(config, limits, small())
    }

    fn first(config: EngineConfig, limits: AppenderLimits, geometry: Geometry) -> Self {
        Self::over(ground(Ground::sized(geometry), 1, 0), config, limits)
    }

    /// A first start in a segment that local processes open too.
    pub fn among_locals() -> Self {
        let ground = ground(Ground::sized(small()), 1, 0).shared();
        let (config, limits) = (EngineConfig::default(), AppenderLimits::default());
        let mut world = Self::over(ground, config, limits);
        world.sync();
        world
    }

    fn over(ground: Ground, config: EngineConfig, limits: AppenderLimits) -> Self {
        let (segment, directory) = ground.made();
        let disk = SimDisk::new();
        let opened = reopened(&disk, 1);
        let wall = WallTime {
            now: Now::from_ns(1_000 * MS),
            unix_ms: EPOCH_MS + 1_000,
        };
        let appender = Appender::new(opened.end.next(), limits);
        let engine = Engine::with_journal(segment, config, appender, wall).expect("usable");
        Self {
            world: World::of(engine, wall.now, directory),
            journal: Disk::after(&opened, disk.clone(), 1),
            disk,
            nonce: 1,
            wall_ms: EPOCH_MS,
            untold: None,
        }
    }

    /// Which journal this is.
    pub fn lineage(&self) -> u64 {
        self.journal.writer.lineage()
    }

    /// Takes what was appended and brings it to the disk; the engine is not told yet. False if there was nothing.
    pub fn write(&mut self) -> bool {
        let group = self.world.engine.take_journal_group();
        group.map(|group| self.write_group(group)).is_some()
    }

    /// Brings a group to the disk.
    pub fn write_group(&mut self, group: Group) {
        self.untold = Some(self.journal.bring(group));
    }

    /// Tells the engine what `write` has made durable.
    pub fn tell(&mut self) {
        if let Some(lsn) = self.untold.take() {
            if let Some(buffer) = self.journal.writer.take_buffer() {
                self.world.engine.give_back_journal_buffer(buffer);
            }
            let now = self.world.now;
            self.world.engine.journal_durable(now, lsn);
        }
    }

    /// Everything that was appended becomes durable, and the engine learns of it.
    pub fn sync(&mut self) {
        self.tell();
        while self.write() {
            self.tell();
        }
    }

    /// Up to where the engine knows records to be durable.
    pub fn durable(&self) -> Lsn {
        self.engine.durable_lsn()
    }

    /// The last record that was appended.
    pub fn last(&self) -> Lsn {
        self.engine.journal().expect("with a journal").last_lsn()
    }

    /// Submits, and is taken in.
    pub fn submit_journal(&mut self, kind: &str) -> Accepted {
        self.take_in(kind, |_| ()).expect("accepted")
    }

    /// Submits, with changes.
    pub fn take_in<'a>(
        &mut self,
        kind: &'a str,
        change: impl FnOnce(&mut Submission<'a>),
    ) -> Result<Accepted, Rejection> {
        let mut submission = Submission::new(self.client, kind, Payload::Bytes(b"payload"));
        submission.submitted_unix_ms = EPOCH_MS;
        change(&mut submission);
        let now = self.now;
        self.engine.submit(now, &submission)
    }

    /// A task that is accepted for good.
    pub fn ready(&mut self, kind: &str) -> TaskId {
        let task = self.submit_journal(kind).task;
        self.sync();
        task
    }

    /// Reports an end with this output.
    pub fn result(
        &mut self,
        (worker, task, attempt): Dispatched,
        code: u8,
        output: &[u8],
    ) -> ResultAnswer {
        let report = ResultReport {
            said: Said::default(),
            outcome: Outcome {
                kind: OutcomeKind::Exited,
                code,
                result_dropped: false,
                output_cut: false,
            },
            output: Output::Bytes(output),
            asked_pause_ns: None,
        };
        let now = self.now;
        self.engine
            .task_result(now, worker, task_ref(task, attempt), &report)
    }

    /// Cancels.
    pub fn cancel(&mut self, task: TaskId) -> Result<Answer, Rejection> {
        let now = self.now;
        self.engine.cancel(now, task)
    }

    /// Acknowledges.
    pub fn forget(&mut self, task: TaskId) -> Result<Answer, Rejection> {
        let now = self.now;
        self.engine.forget(now, task)
    }

    /// One more credit of a worker.
    pub fn grant(&mut self, worker: WorkerId) {
        let now = self.now;
        let granted = self.engine.worker_credits(now, worker, 1, false);
        granted.expect("the worker is known");
    }

    /// The worker's connection is gone.
    pub fn lose(&mut self, worker: WorkerId) {
        let now = self.now;
        self.engine.worker_gone(now, worker);
    }

    /// Every worker that is there says that it is alive and holds something.
    pub fn beat_all(&mut self) {
        for number in 0..16 {
            let index = self
                .segment()
                .worker_index(number)
                .expect("below the count");
            let state = self.segment().worker(index).state();
            let worker = WorkerId::new(index, state.incarnation());
            let _ = self.beat(worker, 1);
        }
    }

    /// The ends that were told since the last time.
    pub fn ends(&mut self) -> Vec<(TaskId, Phase)> {
        let effects = self.settle();
        finished(&effects)
    }

    /// The daemon is killed; the segment stays, and a new one adopts it. What was appended and not written is lost.
    pub fn hot_restart(self) -> Self {
        self.hot_restart_with(AppenderLimits::default())
    }

    /// The same; the next daemon writes groups of another size.
    pub fn hot_restart_with(self, limits: AppenderLimits) -> Self {
        let (segment, config, now, directory) = self.world.killed();
        self.disk.process_died();
        let nonce = self.nonce + 1;
        let opened = reopened(&self.disk, nonce);
        let journal = Disk::after(&opened, self.disk.clone(), nonce);
        segment.rebuild_caches(now);
        let wall = WallTime {
            now,
            unix_ms: self.wall_ms + now.ns / MS,
        };
        let appender = Appender::new(opened.end.next(), limits);
        let engine = Engine::with_journal(segment, config, appender, wall).expect("usable");
        Self {
            world: World::of(engine, now, directory),
            disk: self.disk,
            journal,
            nonce,
            wall_ms: self.wall_ms,
            untold: None,
        }
    }

    /// The machine stops; only the disk is left.
    pub fn cold_restart(self) -> Self {
        let config = self.engine.config().clone();
        let wall_ms = self.wall_ms + self.now.ns / MS;
        let (disk, nonce) = (self.disk.clone(), self.nonce + 1);
        let (_, _, _, directory) = self.world.killed();
        disk.crash(nonce);
        Self::cold(disk, nonce, directory, config, wall_ms)
    }

    /// A cold start from a disk, at a time of day.
    pub fn cold(
        disk: SimDisk,
        nonce: u64,
        directory: TempDir,
        config: EngineConfig,
        unix_ms: u64,
    ) -> Self {
        let recovered = recover(&disk, &journal_config(nonce)).expect("the journal is whole");
        let journal = Disk::after(&recovered.opened, disk.clone(), nonce);
        let base = recovered.gen_limit.max(1);
        let ground = ground(Ground::again(directory, small()), base, recovered.max_stamp);
        let (segment, directory) = ground.made();
        let now = Now::from_stamp(recovered.max_stamp + 1);
        let wall = WallTime { now, unix_ms };
        restore(&segment, &recovered, wall).expect("the tasks fit");
        let appender = Appender::new(recovered.opened.end.next(), AppenderLimits::default());
        let engine = Engine::with_journal(segment, config, appender, wall).expect("usable");
        Self {
            world: World::of(engine, now, directory),
            disk,
            journal,
            nonce,
            wall_ms: unix_ms - now.ns / MS,
            untold: None,
        }
    }
}

fn small() -> Geometry {
    Geometry::for_counts(SLOTS, 16).expect("a small segment fits")
}

/// The segment of a cold start: ids from a generation on, and stamps after one.
fn ground(ground: Ground, base: u64, first_stamp: u64) -> Ground {
    ground.with(|spec| {
        spec.gen_base = Some(base);
        spec.first_stamp = first_stamp;
        spec.spill_id = Some(7);
    })
}
