//! Many processes at once: producers, workers, repairers and a daemon, killed after a random number of shared writes, killed from outside at random
//! moments, or stopped for a while. Whoever dies is replaced, until an epoch has had its kills; then everybody is left to
//! end, the rest drains, and the books must balance.
//!
//! What is random comes from the seed; how the processes interleave does not, so a failure may need several runs to come again.

use core::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::child::{Actor, Errand, WORKER, What};
use super::ground::{Ground, Victim};
use super::ledger::Ledger;
use super::plm::Plm;
use crate::id::AttachIndex;
use crate::layout::attach::AttachRole;
use crate::segment::Segment;
use crate::task::state::StateWord;

/// Who runs at the same time.
const CREW: [What; 6] = [
    What::Producer,
    What::Producer,
    What::Worker,
    What::Worker,
    What::Repairer,
    What::Daemon,
];
const KILLS_PER_EPOCH: u64 = 60;
/// LIMIT: turns of a daemon until a small segment has drained.
const TURNS_MAX: u32 = 2_000;
/// Lines that the others must have written while one of them is stopped.
const PROGRESS_BYTES: u64 = 2_000;
/// LIMIT: for that.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) kills: u64,
    from_outside: u64,
    stopped: u64,
    pub(super) accepted: u64,
    /// Recoveries after which the segment was found in order.
    pub(super) verified: u64,
    delivered: u64,
    executed: u64,
    places: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} kills at random ({} from outside; at {} places), {} stopped and continued; {} tasks accepted, {} delivered, {} executions",
            self.kills,
            self.from_outside,
            self.places,
            self.stopped,
            self.accepted,
            self.delivered,
            self.executed
        )
    }
}

pub(super) fn run(seed: u64, kills: u64) -> Report {
    let ground = Ground::new();
    let mut ledger = Ledger::default();
    let mut report = Report::default();
    let mut rng = fastrand::Rng::with_seed(seed);
    while report.kills < kills {
        let goal = report.kills + KILLS_PER_EPOCH;
        let epoch = rng.u64(..);
        let again = format!(
            "seed {seed}, epoch {epoch}; again: QTF_SEED={seed} QTF_KILLS={kills} cargo test -p qtf-shm --lib processes_killed_and_stopped"
        );
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            Epoch::new(&ground, epoch).run(goal, &mut report);
            drain(&ground, &mut ledger, epoch);
            report.verified += 1;
        }));
        if let Err(cause) = done {
            eprintln!("after {} kills, {again}", report.kills);
            std::panic::resume_unwind(cause);
        }
    }
    report.accepted = ledger.accepted;
    report.delivered = ledger.delivered;
    report.executed = ledger.executed;
    report.places = ledger.killed_at.len();
    report
}

struct Member {
    errand: Errand,
    victim: Victim,
}

struct Epoch<'g> {
    ground: &'g Ground,
    rng: fastrand::Rng,
    crew: Vec<Member>,
    /// The member that is stopped at this time.
    stopped: Option<usize>,
}

impl<'g> Epoch<'g> {
    fn new(ground: &'g Ground, seed: u64) -> Self {
        let mut epoch = Self {
            ground,
            rng: fastrand::Rng::with_seed(seed),
            crew: Vec::new(),
            stopped: None,
        };
        for what in CREW {
            let member = epoch.hire(what);
            epoch.crew.push(member);
        }
        epoch
    }

    fn hire(&mut self, what: What) -> Member {
        // Mostly early, sometimes late, sometimes not at all.
        let reach = self.rng.choice([30, 150, 600, 2_500]).unwrap_or(30);
        let kill = if self.rng.u8(..) < 25 {
            0
        } else {
            self.rng.u64(1..=reach)
        };
        let errand = Errand {
            what,
            seed: self.rng.u64(..),
            kill,
            rounds: 1,
        };
        let victim = self.ground.spawn(&errand);
        Member { errand, victim }
    }

    fn run(mut self, goal: u64, report: &mut Report) {
        self.stop_one(report);
        while report.kills < goal {
            if self.rng.u8(..) < 8 {
                let index = self.rng.usize(..self.crew.len());
                if Some(index) != self.stopped {
                    self.crew[index].victim.signal(Signal::SIGKILL);
                    report.from_outside += 1;
                }
            }
            for index in 0..self.crew.len() {
                if Some(index) == self.stopped || !self.crew[index].victim.has_ended() {
                    continue;
                }
                let next = self.hire(self.crew[index].errand.what);
                let ended = std::mem::replace(&mut self.crew[index], next);
                let status = ended.victim.wait(&ended.errand);
                report.kills += u64::from(status.signal() == Some(9));
            }
            std::thread::park_timeout(Duration::from_micros(300));
        }
        self.end(report);
    }

    /// One of them is stopped at some moment and stays so for the whole epoch. The others go on.
    fn stop_one(&mut self, report: &mut Report) {
        let index = self.rng.usize(..self.crew.len());
        let lines = self.ground.log();
        // Not before it has begun, if it gets that far.
        let target = lines.len() + self.rng.u64(..400);
        let begun = Instant::now();
        while lines.len() < target
            && !self.crew[index].victim.has_ended()
            && begun.elapsed() < Duration::from_millis(50)
        {
            std::thread::park_timeout(Duration::from_micros(100));
        }
        self.crew[index].victim.signal(Signal::SIGSTOP);
        self.stopped = Some(index);
        report.stopped += 1;
        // A daemon that is stopped keeps its lock; producers and workers need none.
        let goal = lines.len() + PROGRESS_BYTES;
        let begun = Instant::now();
        while lines.len() < goal {
            if self.ground.segment.is_being_rebuilt() {
                // A daemon that is stopped while it is alone in the segment: nobody is harmed, but nobody can attach either.
                self.crew[index].victim.signal(Signal::SIGCONT);
            }
            for other in 0..self.crew.len() {
                if other != index && self.crew[other].victim.has_ended() {
                    let next = self.hire(self.crew[other].errand.what);
                    let ended = std::mem::replace(&mut self.crew[other], next);
                    let status = ended.victim.wait(&ended.errand);
                    report.kills += u64::from(status.signal() == Some(9));
                }
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "nobody gets on while {:?} is stopped",
                self.crew[index].errand
            );
            std::thread::park_timeout(Duration::from_micros(300));
        }
    }

    /// Everybody is left to end by itself, or by its own kill.
    fn end(self, report: &mut Report) {
        if let Some(index) = self.stopped {
            self.crew[index].victim.signal(Signal::SIGCONT);
        }
        for member in self.crew {
            let status = member.victim.wait(&member.errand);
            report.kills += u64::from(status.signal() == Some(9));
        }
    }
}

/// Nobody else is there: what is left is ended, delivered and freed, and everything is in order.
fn drain(ground: &Ground, ledger: &mut Ledger, seed: u64) {
    let mut actor = Actor {
        log: ground.log(),
        rng: fastrand::Rng::with_seed(seed),
        made: ledger.executed + 1_000_000,
    };
    let living = ground.attach(AttachRole::Worker);
    let worker = living
        .join_as_worker(&WORKER)
        .expect("a slot for the living");
    let plm = Plm::start(ground.shm_id(), ground.folder()).expect("the lock is free");
    for turn in 0.. {
        while let Some(taken) = actor.take(&worker) {
            actor.end(taken, 0, 100);
        }
        if plm.turn(&actor.log) == 0 {
            break;
        }
        assert!(
            turn < TURNS_MAX,
            "it does not drain: {:?}",
            left_over(&plm.segment)
        );
    }
    drop(worker);
    drop(living);
    plm.again();
    let second = plm.again();
    assert_eq!(second.total(), 0, "a repair after a repair: {second:?}");
    let verified = plm.segment.verify();
    assert_eq!(verified.findings, [], "{:?}", verified.findings);
    assert_eq!(verified.chunks, 0, "chunks are left");
    let left: Vec<_> = plm.segment.attached().map(|info| info.index).collect();
    assert_eq!(left, [AttachIndex::DAEMON], "records are left");
    ledger.read(&actor.log.take());
    ledger.settle();
}

/// What is not free, as the bitmap has it: slot, word, and whether it may be claimed.
fn left_over(segment: &Segment) -> Vec<(u32, StateWord, bool)> {
    let slots = segment.allocated_slots(0..u32::MAX);
    slots
        .map(|slot| {
            let state = segment.task(slot).state();
            (slot.get(), state, segment.is_claimable(state))
        })
        .collect()
}
