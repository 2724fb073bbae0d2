//! The segment without messages: for programs that count nanoseconds, on a thread of their own.
//!
//! A [`DirectClient`] submits memory tasks without a key and hears of their ends, a [`DirectWorker`] takes tasks; neither makes a
//! system call while the other side is awake. Whoever wants more (journal tasks, keys, arrays, several threads) uses the client and the worker
//! library, which do the same behind their calls.
//!
//! Waiting is the caller's choice: [`Wait`] says for how long a thread looks again and again before it sleeps. Both
//! are bounded, so a thread that has something else to do comes back to it.
//!
//! Invariants:
//! - D1: an end is told once, when the state word of its task says so: events only say where to look.
//! - D2: no more is kept than one number for each task that is under way.
//!
//! Tested in `tests/tests/local.rs`; measured by `bench-local`.

use core::hint::spin_loop;
use core::time::Duration;
use std::collections::{HashSet, VecDeque};
use std::time::Instant;

use qtf_proto::address::SegmentAddress;
use qtf_proto::hashing::IdHashing;
use qtf_proto::v1::Refusal;
use qtf_shm::lane::{ACKNOWLEDGED_MAX, Command, Event as LaneEvent};
use qtf_shm::layout::attach::AttachRole;
use qtf_shm::segment::{JoinError, OwnedLane};
use qtf_shm::{
    Attachment, ClaimError, ClientIndex, Event, KindIndex, KindSet, KindsFull, LocalWorker,
    LocalWorkerSpec, Part, Phase, Taken, TaskFields, TaskId, TaskOptions,
};

use crate::instance::{Instance, OpenFailure};
use crate::refusals;
use crate::unheard::Unheard;

/// A daemon's welcome is waited for so long; without one its ends are looked for and not told.
const WELCOME_MAX: Duration = Duration::from_millis(500);
/// Longest sleep while no daemon lives: nobody rings then.
const SLEEP_ALONE: Duration = Duration::from_millis(2);
/// Whether one lives is asked after a sleep of this length.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// A task that took more workers down than this is left to the daemon, which buries it.
const LOSSES_MAX: u8 = 3;
/// Looks between two readings of the clock.
const SPINS: u32 = 64;

/// How long a call waits for something to come.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    /// Looking again and again, which takes a core.
    pub spin: Duration,
    /// Asleep then.
    pub sleep: Duration,
}

impl Wait {
    /// Not at all.
    pub const NOT: Self = Self {
        spin: Duration::ZERO,
        sleep: Duration::ZERO,
    };

    /// Asleep at once, for so long.
    #[must_use]
    pub const fn asleep(sleep: Duration) -> Self {
        Self {
            spin: Duration::ZERO,
            sleep,
        }
    }
}

/// An open segment, from which a client or a worker is made.
#[derive(Debug)]
pub struct OpenSegment(Attachment);

/// A task as a [`DirectClient`] submits it: in memory, with one attempt.
#[derive(Debug, Clone, Copy)]
pub struct DirectTask<'p> {
    /// What it is, by [`OpenSegment::kind`].
    pub kind: KindIndex,
    /// What the worker gets.
    pub payload: &'p [u8],
    /// 0 to 255, higher first.
    pub priority: u8,
}

/// A client on one thread.
#[derive(Debug)]
pub struct DirectClient<'s> {
    segment: &'s Attachment,
    lane: OwnedLane<'s>,
    /// By which its ends come to the lane.
    client: Option<ClientIndex>,
    under_way: HashSet<u64, IdHashing>,
    /// Ended, and not yet told.
    ended: VecDeque<(TaskId, Phase)>,
    /// Commands for which the lane had no room.
    later: VecDeque<Command>,
    /// Acknowledged, and not said yet.
    received: Vec<TaskId>,
    unheard: Unheard,
    number: u32,
    daemon_lives: bool,
    /// When the words of all that is under way were last looked at.
    looked: Instant,
}

/// A worker on one thread.
#[derive(Debug)]
pub struct DirectWorker<'s> {
    lane: OwnedLane<'s>,
    worker: LocalWorker<'s>,
}

impl OpenSegment {
    /// Opens the segment of an instance.
    ///
    /// # Errors
    /// See [`OpenFailure`].
    pub fn client_of(address: &SegmentAddress, name: &str) -> Result<Self, OpenFailure> {
        let opened = Instance::of(address).open(AttachRole::Client, name)?;
        Ok(Self(opened.attachment))
    }

    /// The same for a worker.
    ///
    /// # Errors
    /// See [`OpenFailure`].
    pub fn worker_of(address: &SegmentAddress, name: &str) -> Result<Self, OpenFailure> {
        let opened = Instance::of(address).open(AttachRole::Worker, name)?;
        Ok(Self(opened.attachment))
    }

    /// Over an attachment that is open already.
    #[must_use]
    pub const fn over(attachment: Attachment) -> Self {
        Self(attachment)
    }

    /// The number of a kind of tasks.
    ///
    /// # Errors
    /// The table of kinds is full, or the name is empty or too long.
    pub fn kind(&self, name: &str) -> Result<KindIndex, KindsFull> {
        self.0.kinds().intern(name)
    }

    /// Task slots of the segment.
    #[must_use]
    pub fn task_slots(&self) -> u32 {
        self.0.geometry().tasks()
    }

    /// The one client of this segment; a daemon that lives is told of it.
    ///
    /// # Errors
    /// It has a client or a worker already.
    pub fn client(&self) -> Result<DirectClient<'_>, Refusal> {
        let lane = self.0.open_lane();
        let lane = lane.map_err(|error| refusals::invalid(error.to_string()))?;
        let mut client = DirectClient {
            segment: &self.0,
            lane,
            client: None,
            under_way: HashSet::default(),
            ended: VecDeque::new(),
            later: VecDeque::new(),
            received: Vec::with_capacity(ACKNOWLEDGED_MAX),
            unheard: Unheard::default(),
            number: 0,
            daemon_lives: self.0.daemon_lives(),
            looked: Instant::now(),
        };
        client.say_hello();
        Ok(client)
    }

    /// The one worker of this segment, which takes tasks of these kinds.
    ///
    /// # Errors
    /// No worker slot is free, or it has a client or a worker already.
    pub fn worker(
        &self,
        name: &str,
        kinds: KindSet,
        capacity: u16,
    ) -> Result<DirectWorker<'_>, JoinError> {
        let lane = self.0.open_lane().map_err(|_| JoinError::NoRoom)?;
        let worker = self.0.join_as_worker(&LocalWorkerSpec {
            name,
            host: "",
            kinds,
            capacity,
            losses_max: LOSSES_MAX,
        })?;
        Ok(DirectWorker { lane, worker })
    }
}

impl DirectClient<'_> {
    fn say_hello(&mut self) {
        if !self.daemon_lives || !self.command(Command::Hello) {
            return;
        }
        self.lane.ring();
        let until = Instant::now() + WELCOME_MAX;
        while self.client.is_none() && Instant::now() < until {
            self.lane.sleep(SLEEP_ALONE);
            self.hear();
        }
    }

    fn command(&mut self, command: Command) -> bool {
        self.number = self.number.wrapping_add(1);
        self.lane.put(self.number, command).is_ok()
    }

    /// Submits a task: ready when this returns.
    ///
    /// # Errors
    /// No slot or no room for the payload; the reasons are those of any submission.
    #[inline]
    pub fn submit(&mut self, task: &DirectTask<'_>) -> Result<TaskId, Refusal> {
        let mut claimed = match self.segment.claim() {
            Ok(claimed) => claimed,
            Err(error) => {
                // Slots that were acknowledged may be all that it takes.
                self.acknowledge();
                self.lane.ring();
                return Err(refusals::claim(error));
            }
        };
        if !task.payload.is_empty() {
            let stored = claimed.set_payload(task.payload);
            stored.map_err(|error| refusals::store(&error))?;
        }
        let options = match self.client {
            Some(_) => TaskOptions::TELLS_LANE,
            None => TaskOptions::NONE,
        };
        let written = claimed.write(&TaskFields {
            kind: Some(task.kind),
            priority: task.priority,
            max_attempts: 1,
            client: self.client,
            options,
            ..TaskFields::default()
        });
        written.map_err(|error| refusals::store(&error))?;
        let published = claimed.publish(Event::Admit, self.segment.next_stamp());
        // Only if this process was believed dead.
        let id = published.map_err(|_| refusals::claim(ClaimError::Full))?;
        self.under_way.insert(id.as_raw());
        Ok(id)
    }

    /// Tasks whose ends are not told yet.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way.len() + self.ended.len()
    }

    /// The next end.
    pub fn next_end(&mut self, wait: Wait) -> Option<(TaskId, Phase)> {
        if let Some(ended) = self.look() {
            return Some(ended);
        }
        if !wait.spin.is_zero() {
            let until = Instant::now() + wait.spin;
            loop {
                for _ in 0..SPINS {
                    if let Some(ended) = self.look() {
                        return Some(ended);
                    }
                    spin_loop();
                }
                if Instant::now() >= until {
                    break;
                }
            }
        }
        if wait.sleep.is_zero() || self.under_way.is_empty() {
            return None;
        }
        self.acknowledge();
        let until = Instant::now() + wait.sleep;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let most = if self.daemon_lives && self.client.is_some() {
                SLEEP_MAX
            } else {
                SLEEP_ALONE
            };
            self.lane.sleep(left.min(most));
            // Counted from the last look and not from here: whoever waits in short pieces looks as often.
            if self.looked.elapsed() >= most {
                self.daemon_lives = self.segment.daemon_lives();
                self.act_for_the_dead();
                self.look_at_all();
            }
            if let Some(ended) = self.look() {
                return Some(ended);
            }
        }
    }

    #[inline]
    fn look(&mut self) -> Option<(TaskId, Phase)> {
        if self.ended.is_empty() {
            self.hear();
        }
        self.ended.pop_front()
    }

    /// Takes in what the lane has.
    fn hear(&mut self) {
        while let Some(event) = self.lane.next() {
            match event {
                LaneEvent::Ended { task, phase } => self.settle(task, Some(phase)),
                LaneEvent::Welcome {
                    client, has_ends, ..
                } => {
                    self.client = has_ends.then_some(client);
                    // Of what was submitted before it the daemon tells nobody.
                    self.look_at_all();
                }
                LaneEvent::Accepted { .. }
                | LaneEvent::Refused { .. }
                | LaneEvent::Assign { .. }
                | LaneEvent::Stop { .. }
                | LaneEvent::Lost => {}
            }
        }
        if self.lane.take_missed() {
            self.look_at_all();
        }
        if self.later.is_empty() {
            return;
        }
        while let Some(command) = self.later.front().copied()
            && self.command(command)
        {
            self.later.pop_front();
        }
        self.lane.ring();
    }

    fn settle(&mut self, task: TaskId, said: Option<Phase>) {
        let Some(slot) = self.segment.slot_of(task) else {
            return;
        };
        let state = self.segment.task(slot).state();
        let phase = match (state.is_of(task), said) {
            (true, _) if state.phase().is_final() => state.phase(),
            (true, _) => return,
            // Somebody else has freed it.
            (false, said) => said.unwrap_or(Phase::Free),
        };
        if self.under_way.remove(&task.as_raw()) {
            self.ended.push_back((task, phase));
        }
    }

    /// Looks at the word of one task: for those who know that it has ended, as they have ended it themselves while no daemon lived.
    pub fn look_at(&mut self, task: TaskId) {
        self.settle(task, None);
    }

    fn look_at_all(&mut self) {
        self.looked = Instant::now();
        let (segment, ended) = (self.segment, &mut self.ended);
        self.under_way.retain(|raw| {
            let Some((task, slot)) =
                TaskId::from_raw(*raw).and_then(|task| Some((task, segment.slot_of(task)?)))
            else {
                return false;
            };
            let state = segment.task(slot).state();
            let phase = match state.is_of(task) {
                true if !state.phase().is_final() => return true,
                true => state.phase(),
                // Somebody else has freed it.
                false => Phase::Free,
            };
            ended.push_back((task, phase));
            false
        });
    }

    /// Copies what a task has left, from `offset` on; returns how many bytes, 0 at the end.
    ///
    /// # Errors
    /// The task is gone, or its bytes cannot be read.
    pub fn read_output(
        &self,
        task: TaskId,
        offset: u64,
        out: &mut [u8],
    ) -> Result<usize, qtf_shm::LoadError> {
        self.segment.load(task, Part::Result, offset, out)
    }

    /// The result was received: its slot may be freed. The daemon hears of up to three at once, at the latest when this client sleeps,
    /// [settles up](Self::settle_up) or finds no slot free.
    #[inline]
    pub fn forget(&mut self, task: TaskId) {
        if !self.daemon_lives
            && let Some(slot) = self.segment.slot_of(task)
        {
            let state = self.segment.state(slot);
            if state.is_of(task) && self.segment.free_task(slot, state).is_ok() {
                return;
            }
        }
        self.received.push(task);
        if self.received.len() == ACKNOWLEDGED_MAX {
            self.acknowledge();
        }
    }

    /// Says what was received. A daemon that sleeps is not woken for it: it wakes for the next end, and by itself.
    fn acknowledge(&mut self) {
        if self.received.is_empty() {
            return;
        }
        if self.lane.commands.are_taken() && self.later.is_empty() {
            self.unheard.were_taken();
        }
        let waiting = self.later.len() + 1;
        self.unheard.said(self.received.iter().copied(), waiting);
        let mut tasks = [None; ACKNOWLEDGED_MAX];
        for (place, task) in tasks.iter_mut().zip(self.received.drain(..)) {
            *place = Some(task);
        }
        self.later(Command::Acknowledge(tasks));
        if !self.later.is_empty() {
            self.lane.ring();
        }
    }

    /// Frees what was acknowledged to a daemon that was dead by then.
    fn act_for_the_dead(&mut self) {
        if self.daemon_lives {
            return;
        }
        for task in self.unheard.take() {
            if let Some(slot) = self.segment.slot_of(task) {
                let state = self.segment.state(slot);
                if state.is_of(task) {
                    // Where it fails its successor acts upon the command.
                    let _ = self.segment.free_task(slot, state);
                }
            }
        }
    }

    /// Puts a command into the lane, or keeps it until there is room.
    fn later(&mut self, command: Command) {
        if !self.later.is_empty() || !self.command(command) {
            self.later.push_back(command);
        }
    }

    /// Asks for a task to be cancelled; its end tells whether it was.
    pub fn cancel(&mut self, task: TaskId) {
        self.later(Command::Cancel(task));
        self.lane.ring();
    }

    /// Waits until the daemon has acted upon all that was asked for, at most for so long: what lies in a lane whose owner has gone is lost.
    pub fn settle_up(&mut self, at_most: Duration) {
        let until = Instant::now() + at_most;
        self.acknowledge();
        self.lane.ring();
        let is_done = |client: &Self| client.later.is_empty() && client.lane.commands.are_taken();
        while !is_done(self) && self.daemon_lives && Instant::now() < until {
            self.lane.sleep(SLEEP_ALONE);
            self.hear();
        }
    }
}

impl DirectWorker<'_> {
    /// The next task, which the caller [starts](Taken::start) and ends.
    pub fn take(&self, wait: Wait) -> Option<Taken<'_>> {
        if let Some(taken) = self.worker.take() {
            return Some(taken);
        }
        if !wait.spin.is_zero() {
            let until = Instant::now() + wait.spin;
            loop {
                for _ in 0..SPINS {
                    if let Some(taken) = self.worker.take() {
                        return Some(taken);
                    }
                    spin_loop();
                }
                if Instant::now() >= until {
                    break;
                }
            }
        }
        if wait.sleep.is_zero() {
            return None;
        }
        while self.lane.next().is_some() {}
        let _looked_at_anyway = self.lane.take_missed();
        self.worker.sleep(&self.lane.events, wait.sleep);
        self.worker.take()
    }
}
