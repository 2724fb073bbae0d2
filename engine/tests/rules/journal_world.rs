//! A world with a journal on a disk in memory: the test says when groups are taken, written and told to be durable.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use qtf_engine::{
    Accepted, Answer, Engine, EngineConfig, Lsn, Output, Payload, Rejection, ResultAnswer,
    ResultReport, Submission, WallTime, restore,
};
use qtf_journal::{
    Appender, AppenderLimits, FILE_BYTES_MIN, Group, JournalConfig, Opened, SimDisk, Step, Writer,
    make_spare, open_tail, recover, write_group,
};
use qtf_shm::{Geometry, Now, Outcome, OutcomeKind, Phase, Segment, SegmentSpec, TaskId, WorkerId};

use crate::world::{Dispatched, MS, World, finished, task_ref, unshared};

const SLOTS: u64 = 256;
/// What the wall clock says at moment 0 of the first segment.
const EPOCH_MS: u64 = 1_700_000_000_000;

pub(crate) struct JournalWorld {
    pub(crate) world: World,
    pub(crate) disk: SimDisk,
    writer: Writer,
    nonce: u64,
    /// Difference of the wall clock to the segment's time.
    pub(crate) wall_ms: u64,
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

impl JournalWorld {
    /// A first start, with ids reserved.
    pub(crate) fn new() -> Self {
        Self::with(EngineConfig::default())
    }

    pub(crate) fn with(config: EngineConfig) -> Self {
        let mut world = Self::unsynced(config, AppenderLimits::default());
        world.sync();
        world
    }

    /// A first start in a segment of this size.
    pub(crate) fn of_size(geometry: Geometry) -> Self {
        let limits = AppenderLimits::default();
        let mut world = Self::first(unshared(), limits, geometry);
        world.sync();
        world
    }

    /// A first start; nothing is durable yet.
    pub(crate) fn unsynced(config: EngineConfig, limits: AppenderLimits) -> Self {
        Self::first(config, limits, small())
    }

    fn first(config: EngineConfig, limits: AppenderLimits, geometry: Geometry) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let segment = Segment::in_process(&spec(&directory, 1, 0, geometry));
        Self::over(Arc::new(segment), directory, config, limits)
    }

    /// A first start in a segment that local processes open too.
    pub(crate) fn among_locals() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let segment = Segment::create_private(&spec(&directory, 1, 0, small()));
        let segment = Arc::new(segment.expect("shared memory can be had"));
        let (config, limits) = (EngineConfig::default(), AppenderLimits::default());
        let mut world = Self::over(segment, directory, config, limits);
        world.sync();
        world
    }

    fn over(
        segment: Arc<Segment>,
        directory: tempfile::TempDir,
        config: EngineConfig,
        limits: AppenderLimits,
    ) -> Self {
        let disk = SimDisk::new();
        let opened =
            open_tail(&disk, &journal_config(1)).expect("an empty disk is an empty journal");
        let writer = start(&opened, &disk, 1);
        let wall = WallTime {
            now: Now::from_ns(1_000 * MS),
            unix_ms: EPOCH_MS + 1_000,
        };
        let appender = Appender::new(opened.end.next(), limits);
        let engine = Engine::with_journal(segment, config, appender, wall).expect("usable");
        Self {
            world: World::of(engine, wall.now, directory),
            disk,
            writer,
            nonce: 1,
            wall_ms: EPOCH_MS,
            untold: None,
        }
    }

    /// Which journal this is.
    pub(crate) fn lineage(&self) -> u64 {
        self.writer.lineage()
    }

    /// Takes what was appended and brings it to the disk; the engine is not told yet. False if there was nothing.
    pub(crate) fn write(&mut self) -> bool {
        let group = self.world.engine.take_journal_group();
        group.map(|group| self.write_group(group)).is_some()
    }

    /// Brings a group to the disk.
    pub(crate) fn write_group(&mut self, group: Group) {
        let mut step = self.writer.begin(group);
        loop {
            step = match step {
                Step::Write(write) => {
                    let (buffer, result) = write_group(&self.disk, write);
                    self.writer.written(buffer, result)
                }
                Step::NeedFile => {
                    let file = make_spare(&self.disk, self.writer.file_plan());
                    let step = self.writer.add_file(file.expect("the disk has room"));
                    step.expect("the group waited for it")
                }
                Step::Durable(lsn) => {
                    self.untold = Some(lsn);
                    return;
                }
                Step::Failed => panic!("{:?}", self.writer.failure()),
            };
        }
    }

    /// Tells the engine what `write` has made durable.
    pub(crate) fn tell(&mut self) {
        if let Some(lsn) = self.untold.take() {
            if let Some(buffer) = self.writer.take_buffer() {
                self.world.engine.give_back_journal_buffer(buffer);
            }
            let now = self.world.now;
            self.world.engine.journal_durable(now, lsn);
        }
    }

    /// Everything that was appended becomes durable, and the engine learns of it.
    pub(crate) fn sync(&mut self) {
        self.tell();
        while self.write() {
            self.tell();
        }
    }

    pub(crate) fn durable(&self) -> Lsn {
        self.engine.durable_lsn()
    }

    pub(crate) fn last(&self) -> Lsn {
        self.engine.journal().expect("with a journal").last_lsn()
    }

    pub(crate) fn submit_journal(&mut self, kind: &str) -> Accepted {
        self.take_in(kind, |_| ()).expect("accepted")
    }

    pub(crate) fn take_in<'a>(
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
    pub(crate) fn ready(&mut self, kind: &str) -> TaskId {
        let task = self.submit_journal(kind).task;
        self.sync();
        task
    }

    pub(crate) fn result(
        &mut self,
        (worker, task, attempt): Dispatched,
        code: u8,
        output: &[u8],
    ) -> ResultAnswer {
        let report = ResultReport {
            said: qtf_engine::Said::default(),
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

    pub(crate) fn cancel(&mut self, task: TaskId) -> Result<Answer, Rejection> {
        let now = self.now;
        self.engine.cancel(now, task)
    }

    pub(crate) fn forget(&mut self, task: TaskId) -> Result<Answer, Rejection> {
        let now = self.now;
        self.engine.forget(now, task)
    }

    /// One more credit of a worker.
    pub(crate) fn grant(&mut self, worker: WorkerId) {
        let now = self.now;
        let granted = self.engine.worker_credits(now, worker, 1, false);
        granted.expect("the worker is known");
    }

    pub(crate) fn lose(&mut self, worker: WorkerId) {
        let now = self.now;
        self.engine.worker_gone(now, worker);
    }

    /// Every worker that is there says that it is alive and holds something.
    pub(crate) fn beat_all(&mut self) {
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
    pub(crate) fn ends(&mut self) -> Vec<(TaskId, Phase)> {
        let effects = self.settle();
        finished(&effects)
    }

    /// The daemon is killed; the segment stays, and a new one adopts it. What was appended and not written is lost.
    pub(crate) fn hot_restart(self) -> Self {
        self.hot_restart_with(AppenderLimits::default())
    }

    pub(crate) fn hot_restart_with(self, limits: AppenderLimits) -> Self {
        let (segment, config, now, directory) = self.world.killed();
        self.disk.process_died();
        let nonce = self.nonce + 1;
        let opened = open_tail(&self.disk, &journal_config(nonce)).expect("the journal opens");
        let writer = start(&opened, &self.disk, nonce);
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
            writer,
            nonce,
            wall_ms: self.wall_ms,
            untold: None,
        }
    }

    /// The machine stops; only the disk is left.
    pub(crate) fn cold_restart(self) -> Self {
        let config = self.engine.config().clone();
        let wall_ms = self.wall_ms + self.now.ns / MS;
        let (disk, nonce) = (self.disk.clone(), self.nonce + 1);
        let (_, _, _, directory) = self.world.killed();
        disk.crash(nonce);
        Self::cold(disk, nonce, directory, config, wall_ms)
    }

    /// A cold start from a disk, at a time of day.
    pub(crate) fn cold(
        disk: SimDisk,
        nonce: u64,
        directory: tempfile::TempDir,
        config: EngineConfig,
        unix_ms: u64,
    ) -> Self {
        let recovered = recover(&disk, &journal_config(nonce)).expect("the journal is whole");
        let writer = start(&recovered.opened, &disk, nonce);
        let base = recovered.gen_limit.max(1);
        let spec = spec(&directory, base, recovered.max_stamp, small());
        let segment = Arc::new(Segment::in_process(&spec));
        let now = Now::from_stamp(recovered.max_stamp + 1);
        let wall = WallTime { now, unix_ms };
        restore(&segment, &recovered, wall).expect("the tasks fit");
        let appender = Appender::new(recovered.opened.end.next(), AppenderLimits::default());
        let engine = Engine::with_journal(segment, config, appender, wall).expect("usable");
        Self {
            world: World::of(engine, now, directory),
            disk,
            writer,
            nonce,
            wall_ms: unix_ms - now.ns / MS,
            untold: None,
        }
    }
}

pub(crate) fn journal_config(nonce: u64) -> JournalConfig {
    let mut config = JournalConfig::new("rules", nonce);
    config.file_bytes = FILE_BYTES_MIN;
    config
}

fn start(opened: &Opened, disk: &SimDisk, nonce: u64) -> Writer {
    let writer = opened.start(disk, &journal_config(nonce));
    writer.expect("a new file can be made")
}

fn small() -> Geometry {
    Geometry::for_counts(SLOTS, 16).expect("a small segment fits")
}

fn spec(
    directory: &tempfile::TempDir,
    base: u64,
    first_stamp: u64,
    geometry: Geometry,
) -> SegmentSpec {
    let mut spec = SegmentSpec::new("rules", directory.path());
    spec.geometry = geometry;
    spec.gen_base = Some(base);
    spec.first_stamp = first_stamp;
    spec.spill_id = Some(7);
    spec
}
