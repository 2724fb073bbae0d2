//! What a child process does.
//!
//! Each says in the log what it is about to do (`try`) or has done (everything else), so that the model knows it whatever happens
//! next. An error that only a process believed dead can meet ends the child with a panic: the living were harmed.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names what it is about; everything else is left alone"
)]

use std::path::Path;

use super::ground::{Log, attach};
use super::plm::Plm;
use crate::id::TaskId;
use crate::kind_set::KindSet;
use crate::layout::attach::AttachRole;
use crate::segment::{
    Attachment, ClaimError, LocalWorker, LocalWorkerSpec, StoreError, Taken, TaskFields,
};
use crate::sync::kill::process;
use crate::task::side::SideRecord;
use crate::task::slot::{Outcome, OutcomeKind};
use crate::task::state::{Event, Phase};

pub(super) const WORKER: LocalWorkerSpec<'static> = LocalWorkerSpec {
    name: "worker",
    host: "here",
    kinds: KindSet::ALL,
    capacity: 2,
    losses_max: 250,
};

/// What a child is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Errand {
    pub(super) what: What,
    pub(super) seed: u64,
    /// After which shared write it kills itself; 0 = never.
    pub(super) kill: u64,
    /// How often it does it.
    pub(super) rounds: u64,
}

/// An operation, or a role that does many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    Attach,
    SubmitSmall,
    SubmitLarge,
    SubmitLater,
    SubmitHeld,
    SubmitForJudgement,
    GiveUpClaim,
    Join,
    TakeAndGiveBack,
    TakeAndEnd,
    TakeAndEndLarge,
    TakeAndFail,
    Repair,
    StartDaemon,
    ServeTimers,
    DaemonTurn,
    Producer,
    Worker,
    Repairer,
    Daemon,
}

impl What {
    /// Each by itself, for kills at every write.
    pub(super) const OPERATIONS: [Self; 16] = [
        Self::Attach,
        Self::SubmitSmall,
        Self::SubmitLarge,
        Self::SubmitLater,
        Self::SubmitHeld,
        Self::SubmitForJudgement,
        Self::GiveUpClaim,
        Self::Join,
        Self::TakeAndGiveBack,
        Self::TakeAndEnd,
        Self::TakeAndEndLarge,
        Self::TakeAndFail,
        Self::Repair,
        Self::StartDaemon,
        Self::ServeTimers,
        Self::DaemonTurn,
    ];

    const ROLES: [Self; 4] = [Self::Producer, Self::Worker, Self::Repairer, Self::Daemon];
}

impl Errand {
    pub(super) fn text(&self, shm_id: i32, folder: &Path) -> String {
        let Self {
            what,
            seed,
            kill,
            rounds,
        } = self;
        format!(
            "{what:?} {seed} {kill} {rounds} {shm_id} {}",
            folder.display()
        )
    }

    fn of(text: &str) -> (Self, i32, &Path) {
        let parts: Vec<&str> = text.splitn(6, ' ').collect();
        let number = |index: usize| parts[index].parse::<u64>().unwrap();
        let what = What::OPERATIONS
            .into_iter()
            .chain(What::ROLES)
            .find(|what| format!("{what:?}") == parts[0])
            .unwrap();
        let errand = Self {
            what,
            seed: number(1),
            kill: number(2),
            rounds: number(3),
        };
        (errand, parts[4].parse().unwrap(), Path::new(parts[5]))
    }
}

/// The child's whole life.
pub(super) fn run(text: &str) {
    let (errand, shm_id, folder) = Errand::of(text);
    let log = Log::open(folder);
    let farewell = Log::open(folder);
    // The log is written before the segment is opened, so that nothing of the kill's own bookkeeping fails after it.
    process::arm(errand.kill, move |place| {
        farewell.say(&format!("kil {}:{}", place.file(), place.line()));
    });
    let mut actor = Actor {
        log,
        rng: fastrand::Rng::with_seed(errand.seed),
        made: 0,
    };
    for _ in 0..errand.rounds.max(1) {
        actor.act(errand.what, shm_id, folder);
    }
    let places = process::disarm();
    let text: Vec<String> = places
        .iter()
        .map(|(file, line)| format!("{file}:{line}"))
        .collect();
    actor.log.say(&format!("saw {}", text.join(" ")));
}

/// Somebody who acts and says what it does. Also the living one in the test's own process.
pub(super) struct Actor {
    pub(super) log: Log,
    pub(super) rng: fastrand::Rng,
    /// Executions so far, to tell one's results apart.
    pub(super) made: u64,
}

impl Actor {
    fn act(&mut self, what: What, shm_id: i32, folder: &Path) {
        let role = match what {
            What::Repair | What::Repairer => AttachRole::Repairer,
            What::Join
            | What::TakeAndGiveBack
            | What::TakeAndEnd
            | What::TakeAndEndLarge
            | What::TakeAndFail
            | What::Worker => AttachRole::Worker,
            _ => AttachRole::Client,
        };
        match what {
            What::StartDaemon => drop(Plm::start(shm_id, folder)),
            What::ServeTimers => {
                if let Some(plm) = Plm::start(shm_id, folder) {
                    plm.serve_timers();
                }
            }
            What::DaemonTurn => {
                if let Some(plm) = Plm::start(shm_id, folder) {
                    plm.turn(&self.log);
                }
            }
            What::Daemon => self.be_daemon(shm_id, folder),
            _ => {
                let attachment = attach(shm_id, folder, role);
                self.act_attached(what, &attachment);
            }
        }
    }

    fn act_attached(&mut self, what: What, attachment: &Attachment) {
        match what {
            What::Attach => {}
            What::SubmitSmall => {
                self.submit(attachment, 10, Event::Admit);
            }
            What::SubmitLarge => {
                self.submit(attachment, 1_100, Event::Admit);
            }
            What::SubmitLater => {
                self.submit(attachment, 10, Event::AdmitDelayed);
            }
            What::SubmitHeld => {
                self.submit(attachment, 10, Event::AdmitHeld);
            }
            What::SubmitForJudgement => {
                self.submit(attachment, 200, Event::Submit);
            }
            What::GiveUpClaim => {
                let mut claimed = attachment.claim().unwrap();
                claimed.set_payload(&[1; 600]).unwrap();
            }
            What::Join => drop(attachment.join_as_worker(&WORKER).unwrap()),
            What::TakeAndGiveBack => self.work(attachment, |_, taken| taken.give_back()),
            What::TakeAndEnd => self.work(attachment, |actor, taken| actor.end(taken, 0, 20)),
            What::TakeAndEndLarge => {
                self.work(attachment, |actor, taken| actor.end(taken, 0, 1_500));
            }
            What::TakeAndFail => self.work(attachment, |actor, taken| actor.end(taken, 1, 300)),
            What::Repair => {
                attachment.repairer().run(attachment);
            }
            What::Producer => self.be_producer(attachment),
            What::Worker => self.be_worker(attachment),
            What::Repairer => self.be_repairer(attachment),
            What::StartDaemon | What::ServeTimers | What::DaemonTurn | What::Daemon => {
                unreachable!("{what:?} has the daemon's record")
            }
        }
    }

    /// A task from nothing to READY (or what the event says); `None` when the segment is full.
    pub(super) fn submit(
        &mut self,
        attachment: &Attachment,
        bytes: usize,
        event: Event,
    ) -> Option<TaskId> {
        let mut claimed = match attachment.claim() {
            Ok(claimed) => claimed,
            Err(ClaimError::Full) => return None,
            Err(error) => panic!("{error}"),
        };
        let fields = TaskFields {
            kind: attachment.kinds().find("noop"),
            priority: self.rng.u8(100..),
            max_attempts: 3,
            // Due at once, or a moment later.
            due: attachment.now().stamp() + self.rng.u64(0..4_000),
            // A whole one.
            side: (bytes > 1_000).then(|| SideRecord {
                trace: [1, 2],
                ..SideRecord::default()
            }),
            ..TaskFields::default()
        };
        let filled = claimed
            .write(&fields)
            .and_then(|()| claimed.set_payload(&vec![b'p'; bytes]));
        match filled {
            Ok(()) => {}
            Err(StoreError::ArenaFull { .. }) => return None,
            Err(error) => panic!("{error}"),
        }
        self.log.say(&format!("try {}", claimed.id().as_raw()));
        if event == Event::AdmitHeld {
            self.log.say(&format!("hol {}", claimed.id().as_raw()));
        }
        let id = claimed
            .publish(event, attachment.next_stamp())
            .expect("a living one's claim");
        self.log.say(&format!("acc {}", id.as_raw()));
        Some(id)
    }

    fn work(&mut self, attachment: &Attachment, then: impl FnOnce(&mut Self, Taken<'_>)) {
        let worker = attachment.join_as_worker(&WORKER).unwrap();
        if let Some(taken) = self.take(&worker) {
            then(self, taken);
        }
    }

    /// Takes a task, and says so.
    pub(super) fn take<'w>(&mut self, worker: &'w LocalWorker<'_>) -> Option<Taken<'w>> {
        let taken = worker.take()?;
        self.made += 1;
        let (id, attempt) = (taken.id().as_raw(), taken.attempt());
        self.log
            .say(&format!("exe {id} {attempt} {}", self.nonce()));
        Some(taken)
    }

    /// Ends what was taken last.
    pub(super) fn end(&mut self, taken: Taken<'_>, code: u8, bytes: usize) {
        let outcome = Outcome {
            kind: OutcomeKind::Exited,
            code,
            result_dropped: false,
            output_cut: false,
        };
        let (id, attempt, nonce) = (taken.id().as_raw(), taken.attempt(), self.nonce());
        taken
            .start()
            .expect("nobody takes an attempt from a living worker");
        let mut output = nonce.clone().into_bytes();
        output.push(b' ');
        output.resize(output.len().max(bytes), b'r');
        let phase = taken
            .finish(outcome, &output)
            .expect("nobody takes an attempt from a living worker");
        assert!(matches!(phase, Phase::Ended | Phase::Done));
        self.log.say(&format!("end {id} {attempt} {nonce} {code}"));
    }

    fn nonce(&self) -> String {
        format!("{}-{}", std::process::id(), self.made)
    }

    fn be_producer(&mut self, attachment: &Attachment) {
        for _ in 0..40 {
            let event = self.rng.choice([
                Event::Admit,
                Event::Admit,
                Event::AdmitDelayed,
                Event::AdmitHeld,
                Event::Submit,
            ]);
            let bytes = self.rng.choice([0, 10, 64, 65, 900, 5_000]);
            if self
                .submit(attachment, bytes.unwrap(), event.unwrap())
                .is_none()
            {
                std::thread::yield_now();
            }
            if self.rng.u8(..) < 20 {
                let mut claimed = attachment.claim();
                if let Ok(claimed) = &mut claimed {
                    // Full is no harm.
                    let _ = claimed.set_payload(&[1; 3_000]);
                }
            }
        }
    }

    fn be_worker(&mut self, attachment: &Attachment) {
        let worker = attachment.join_as_worker(&WORKER).unwrap();
        for _ in 0..60 {
            let Some(taken) = self.take(&worker) else {
                std::thread::yield_now();
                continue;
            };
            match self.rng.u8(..) {
                0..20 => taken.give_back(),
                20..50 => self.end(taken, 1, 100),
                _ => {
                    let bytes = self.rng.choice([20, 64, 500, 5_000]).unwrap();
                    self.end(taken, 0, bytes);
                }
            }
        }
    }

    fn be_repairer(&mut self, attachment: &Attachment) {
        for _ in 0..6 {
            attachment.repairer().run(attachment);
            std::thread::yield_now();
        }
    }

    fn be_daemon(&mut self, shm_id: i32, folder: &Path) {
        let Some(plm) = Plm::start(shm_id, folder) else {
            return;
        };
        for _ in 0..20 {
            plm.turn(&self.log);
            std::thread::yield_now();
        }
    }
}
