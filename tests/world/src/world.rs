//! Engine, clock and clients over a segment; the next daemon on the same segment; time and effects.

use std::sync::Arc;

use qtf_engine::{Effect, Engine, EngineConfig};
use qtf_shm::{ClientIndex, Now, Segment, SegmentSpec};
use tempfile::TempDir;

use crate::ground::{Ground, spec_in};
use crate::sentences::{Dispatched, client, dispatched};
use crate::settings::{SECOND, unshared};

/// LIMIT: cycles at one moment.
const CYCLES_MAX: u32 = 10_000;

/// An engine, its time and its clients.
pub struct World {
    /// What is tested.
    pub engine: Engine,
    /// The moment of the next call.
    pub now: Now,
    /// The first client.
    pub client: ClientIndex,
    /// All clients.
    pub clients: Vec<ClientIndex>,
    names: &'static [&'static str],
    /// What reads the clock of this thread reads `now`.
    #[cfg(feature = "kill-points")]
    is_clock: bool,
    directory: TempDir,
}

impl World {
    /// A world of a thousand slots.
    #[must_use]
    pub fn new() -> Self {
        Self::with(1_000, EngineConfig::default())
    }

    /// A world of so many task slots whose only client may use all of them.
    #[must_use]
    pub fn of_one(tasks: u64) -> Self {
        Self::with(tasks, unshared())
    }

    /// A world of so many task slots.
    #[must_use]
    pub fn with(tasks: u64, config: EngineConfig) -> Self {
        let ground = Ground::of(tasks, 16).with(|spec| spec.payload_limit = config.payload_limit);
        Self::on(ground, config, Now::from_ns(SECOND), &["tester"])
    }

    /// A world whose spill files hold so many bytes together.
    #[must_use]
    pub fn spilling_at_most(bytes: u64) -> Self {
        let ground = Ground::of(64, 16).with(|spec| spec.spill_limit = bytes);
        let config = EngineConfig::default();
        Self::on(ground, config, Now::from_ns(SECOND), &["tester"])
    }

    /// A world on any ground, from a moment on, with these clients.
    #[must_use]
    pub fn on(
        ground: Ground,
        config: EngineConfig,
        now: Now,
        names: &'static [&'static str],
    ) -> Self {
        let (segment, directory) = ground.made();
        let engine = Engine::new(segment, config, now).expect("the configuration is usable");
        Self::around(engine, now, directory, names)
    }

    /// A world around an engine that stands, with one client.
    #[must_use]
    pub fn of(engine: Engine, now: Now, directory: TempDir) -> Self {
        Self::around(engine, now, directory, &["tester"])
    }

    /// A world around an engine that stands, with these clients.
    #[must_use]
    pub fn around(
        engine: Engine,
        now: Now,
        directory: TempDir,
        names: &'static [&'static str],
    ) -> Self {
        let mut world = Self {
            engine,
            now,
            client: ClientIndex::UNKNOWN,
            clients: Vec::new(),
            names,
            #[cfg(feature = "kill-points")]
            is_clock: false,
            directory,
        };
        world.clients_come();
        world
    }

    /// From now on the clock of this thread shows the time of this world: for local processes, which read it.
    #[cfg(feature = "kill-points")]
    pub fn be_the_clock(&mut self) {
        self.is_clock = true;
        self.show_time();
    }

    #[cfg(feature = "kill-points")]
    fn show_time(&self) {
        if self.is_clock {
            qtf_shm::time::simulated::set_monotonic_ns(Some(self.now.ns));
        }
    }

    fn clients_come(&mut self) {
        let hellos = self.names.iter().map(|name| {
            let session = self.engine.client_hello(self.now, &client(name));
            session.expect("their records are kept or free").index
        });
        self.clients = hellos.collect();
        self.client = self.clients[0];
    }

    /// The daemon is gone, and this is the engine of the next one: its clients come again.
    pub fn goes_on_with(&mut self, engine: Engine) {
        self.engine = engine;
        self.clients_come();
    }

    /// The daemon was killed between two calls, and a new one adopts the segment.
    pub fn restart(&mut self, config: EngineConfig) {
        let segment = Arc::clone(self.engine.segment());
        segment.rebuild_caches(self.now);
        let engine = Engine::new(segment, config, self.now).expect("the configuration is usable");
        self.goes_on_with(engine);
    }

    /// Another segment of this size, in the same folder and in this process: the one before is lost.
    pub fn another_segment(&self, change: impl FnOnce(&mut SegmentSpec)) -> Arc<Segment> {
        let mut spec = spec_in(self.folder(), *self.segment().geometry());
        change(&mut spec);
        Arc::new(Segment::in_process(&spec))
    }

    /// The same world after a restart with the same settings.
    #[must_use]
    pub fn restarted(mut self) -> Self {
        self.restart(self.engine.config().clone());
        self
    }

    /// The engine is gone; what is left.
    #[must_use]
    pub fn killed(self) -> (Arc<Segment>, EngineConfig, Now, TempDir) {
        let segment = Arc::clone(self.engine.segment());
        let config = self.engine.config().clone();
        (segment, config, self.now, self.directory)
    }

    /// The segment.
    #[must_use]
    pub fn segment(&self) -> &Segment {
        self.engine.segment()
    }

    /// The folder of the spill files, and of whatever a test has beside them.
    #[must_use]
    pub fn folder(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// Time goes on.
    pub fn pass(&mut self, ns: u64) {
        self.now = self.now.plus_ns(ns);
        #[cfg(feature = "kill-points")]
        self.show_time();
    }

    /// One cycle at this moment, and its effects.
    pub fn cycle(&mut self) -> Vec<Effect> {
        self.engine.cycle(self.now);
        self.effects()
    }

    /// The effects that wait to be taken.
    pub fn effects(&mut self) -> Vec<Effect> {
        std::iter::from_fn(|| self.engine.pop_effect()).collect()
    }

    /// Removes the files that the engine has no use for any more, as the daemon does.
    pub fn remove_lost_files(&mut self) {
        while self.remove_a_lost_file() {}
    }

    /// Removes one of them; false if there is none.
    pub fn remove_a_lost_file(&mut self) -> bool {
        let Some(file) = self.engine.pop_lost_file() else {
            return false;
        };
        let removed = self.segment().spill().remove_given_up(file);
        removed.expect("the folder can be written");
        true
    }

    /// Cycles until there is nothing left to do at this moment.
    pub fn settle(&mut self) -> Vec<Effect> {
        let mut effects = self.effects();
        for _ in 0..CYCLES_MAX {
            let work = self.engine.cycle(self.now);
            effects.extend(self.effects());
            if work.is_zero() {
                return effects;
            }
        }
        panic!("the engine does not come to rest");
    }

    /// Lets time pass as the daemon would: a cycle at each deadline.
    pub fn settle_for(&mut self, ns: u64) -> Vec<Effect> {
        let end = self.now.plus_ns(ns);
        let mut effects = self.settle();
        while let Some(next) = self.engine.next_deadline().filter(|&next| next <= end) {
            self.now = self.now.plus_ns(256).max(next);
            effects.extend(self.settle());
        }
        self.now = self.now.max(end);
        effects.extend(self.settle());
        effects
    }

    /// Settles; who was given what.
    pub fn dispatches(&mut self) -> Vec<Dispatched> {
        dispatched(&self.settle())
    }

    /// Settles, and expects exactly one task to be handed out.
    pub fn dispatch(&mut self) -> Dispatched {
        let all = self.dispatches();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0]
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}
