//! Kills after the n-th shared write, for every n of every operation.
//!
//! After each kill, in this order: a living process submits, takes and ends tasks, before anything is repaired; a daemon starts
//! beside it, and a repair finds what is left; a second repair finds nothing; `verify` is clean; everything drains.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names what it is about; everything else is left alone"
)]

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};

use super::child::{Actor, Errand, WORKER, What};
use super::ground::Ground;
use super::ledger::Ledger;
use super::plm::Plm;
use crate::layout::attach::AttachRole;
use crate::segment::{Attachment, LocalWorker};
use crate::task::state::{Event, Phase};

/// LIMIT: shared writes of one operation; more means that it does not end.
const WRITES_MAX: u64 = 5_000;
/// LIMIT: repetitions for places that were not met.
const MORE_MAX: u64 = 10;
/// LIMIT: turns of a daemon until a small segment has drained.
const TURNS_MAX: u32 = 1_000;

#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) kills: u64,
    pub(super) accepted: u64,
    /// Recoveries after which the segment was found in order.
    pub(super) verified: u64,
    executed: u64,
    /// Places in the sources where shared writes were made, and those right after which a process was killed.
    pub(super) places: BTreeSet<String>,
    pub(super) killed_at: BTreeSet<String>,
    by_operation: Vec<(What, u64)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} kills at chosen writes, at {} of {} places in the sources; {} tasks accepted, {} executions; {:?}",
            self.kills,
            self.killed_at.len(),
            self.places.len(),
            self.accepted,
            self.executed,
            self.by_operation
        )
    }
}

/// All operations, killed at every write. `seed` is that of the children; `order` shifts which of them comes first.
pub(super) fn run(seed: u64, order: u64) -> Report {
    let mut report = Report::default();
    let mut scene = Scene::new(seed);
    let count = What::OPERATIONS.len();
    for index in 0..count {
        let shifted = (index + usize::try_from(order).unwrap_or(0)) % count;
        let what = What::OPERATIONS[shifted];
        let kills = scene.kill_at_every_write(what, seed, None);
        report.kills += kills;
        report.by_operation.push((what, kills));
    }
    // What there is to repair differs from time to time: again with the mess in which a place was seen, then with others, until
    // each place where a living process has written is also one right after which a process was killed.
    for more in 1..=MORE_MAX {
        for (what, mess) in scene.messes_of_missed() {
            report.kills += scene.kill_at_every_write(what, seed, Some(mess));
        }
        if scene.ledger.missed().is_empty() {
            break;
        }
        for what in [What::Repair, What::StartDaemon, What::DaemonTurn] {
            report.kills += scene.kill_at_every_write(what, seed.wrapping_add(more), None);
        }
    }
    let ledger = scene.ledger;
    report.accepted = ledger.accepted;
    report.verified = scene.verified;
    report.executed = ledger.executed;
    report.places = ledger.seen;
    report.killed_at = ledger.killed_at;
    report
}

struct Scene {
    ground: Ground,
    ledger: Ledger,
    actor: Actor,
    verified: u64,
    /// By place: the operation that wrote there, unkilled, and the seed of the mess that it found.
    seen_in: BTreeMap<String, (What, u64)>,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let ground = Ground::new();
        let actor = Actor {
            log: ground.log(),
            rng: fastrand::Rng::with_seed(seed),
            made: 0,
        };
        Self {
            ground,
            ledger: Ledger::default(),
            actor,
            verified: 0,
            seen_in: BTreeMap::new(),
        }
    }

    /// Where to find again the places that no process was killed at.
    fn messes_of_missed(&self) -> BTreeSet<(What, u64)> {
        let missed = self.ledger.missed();
        let messes = missed.iter().filter_map(|place| self.seen_in.get(place));
        messes.copied().collect()
    }

    /// Returns how many kills that were.
    fn kill_at_every_write(&mut self, what: What, seed: u64, mess: Option<u64>) -> u64 {
        for kill in 1..WRITES_MAX {
            let errand = Errand {
                what,
                seed,
                kill,
                rounds: 1,
            };
            let mess = mess.unwrap_or_else(|| self.actor.rng.u64(..));
            self.prepare(what, mess);
            let status = self.ground.run(&errand);
            let context = format!(
                "{errand:?}; again: QTF_SEED={seed} cargo test -p qtf-shm --lib kill_after_any_shared_write"
            );
            let recovered =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.recover()));
            if let Err(cause) = recovered {
                eprintln!("after {context}:");
                std::panic::resume_unwind(cause);
            }
            for place in self.ledger.missed() {
                self.seen_in.entry(place).or_insert((what, mess));
            }
            if status.success() {
                return kill - 1;
            }
        }
        panic!("{what:?} does not end");
    }

    /// What the operation needs to find.
    fn prepare(&mut self, what: What, mess: u64) {
        let client = self.ground.attach(AttachRole::Client);
        let kinds: &[(usize, Event)] = match what {
            What::TakeAndGiveBack
            | What::TakeAndEnd
            | What::TakeAndEndLarge
            | What::TakeAndFail => &[(10, Event::Admit), (700, Event::Admit)],
            What::ServeTimers | What::DaemonTurn | What::Repair | What::StartDaemon => &[
                (10, Event::Admit),
                (700, Event::Submit),
                (10, Event::AdmitDelayed),
                (3_000, Event::Admit),
            ],
            _ => &[(700, Event::Admit)],
        };
        for &(bytes, event) in kinds {
            self.actor
                .submit(&client, bytes, event)
                .expect("there is room");
        }
        if matches!(what, What::ServeTimers | What::DaemonTurn) {
            // Something to judge, something to deliver.
            let worker = client.join_as_worker(&WORKER).unwrap();
            for code in [0, 1] {
                if let Some(taken) = self.actor.take(&worker) {
                    self.actor.end(taken, code, 700);
                }
            }
        }
        if matches!(what, What::Repair | What::StartDaemon) {
            drop(client);
            self.leave_a_mess(mess);
        }
    }

    /// Things that only the dead leave behind.
    fn leave_a_mess(&self, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        for (what, kill) in [
            (What::SubmitLarge, 12),
            (What::GiveUpClaim, 30),
            (What::TakeAndEnd, 25),
            (What::Join, 12),
        ] {
            let seed = rng.u64(..);
            let kill = kill + rng.u64(0..12);
            self.ground.run(&Errand {
                what,
                seed,
                kill,
                rounds: 1,
            });
        }
    }

    fn recover(&mut self) {
        let living = self.ground.attach(AttachRole::Worker);
        let worker = living
            .join_as_worker(&WORKER)
            .expect("a slot for the living");
        self.live(&living, &worker);
        let plm = Plm::start(self.ground.shm_id(), self.ground.folder()).expect("the lock is free");
        for turn in 0.. {
            while let Some(taken) = self.actor.take(&worker) {
                self.actor.end(taken, 0, 100);
            }
            if plm.turn(&self.actor.log) == 0 {
                break;
            }
            assert!(turn < TURNS_MAX, "it does not drain: {:?}", self.states());
        }
        drop(worker);
        drop(living);
        plm.again();
        let plm_segment = &plm.segment;
        let second = plm.again();
        assert_eq!(second.total(), 0, "a repair after a repair: {second:?}");
        let verified = plm_segment.verify();
        assert_eq!(verified.findings, [], "{:?}", verified.findings);
        assert_eq!(verified.chunks, 0, "chunks are left");
        let left: Vec<_> = plm_segment.attached().map(|info| info.index).collect();
        assert_eq!(left, [crate::id::AttachIndex::DAEMON], "records are left");
        let workers = (0..1_280).filter_map(|number| plm_segment.worker_index(number));
        for worker in workers {
            let state = plm_segment.worker(worker).state();
            assert_eq!(state.phase(), crate::worker::WorkerPhase::Free, "{state:?}");
        }
        self.ledger.read(&self.actor.log.take());
        self.ledger.settle();
        self.verified += 1;
    }

    /// Before anything is repaired: the living go on as if nothing had happened.
    fn live(&mut self, living: &Attachment, worker: &LocalWorker<'_>) {
        for bytes in [10, 2_000] {
            let id = self
                .actor
                .submit(living, bytes, Event::Admit)
                .expect("there is room");
            // Others may stand before it.
            let mut found = false;
            for _ in 0..64 {
                let Some(taken) = self.actor.take(worker) else {
                    break;
                };
                found |= taken.id() == id;
                self.actor.end(taken, 0, 100);
                if found {
                    break;
                }
                // With a dead daemon an end is final and gives the room back; with a judgement to wait for, it would not.
                assert!(worker.state().has_room(), "{:?}", worker.state());
            }
            assert!(
                found,
                "the living one's task {id} is not found: {:?}",
                self.states()
            );
        }
    }

    fn states(&self) -> Vec<(u32, Phase)> {
        let segment = &self.ground.segment;
        let slots = (0..64).filter_map(|number| segment.slot(number));
        slots
            .map(|slot| (slot.get(), segment.state(slot).phase()))
            .filter(|&(_, phase)| phase != Phase::Free)
            .collect()
    }
}
