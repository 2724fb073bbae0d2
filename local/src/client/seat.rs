//! The seat of a local client: its attachment, and a thread that speaks with the daemon through the lane and sleeps there.
//!
//! Submissions of memory tasks, and all that is only read, are done where they are asked for. What the PLM decides goes through the lane as a
//! command; its answer, and the ends of tasks that are waited for, come back as events. Events are hints: an end counts when the state
//! word of its task says so, and all words are looked at when an event was missed, and now and then.
//!
//! Invariants:
//! - S1: an id that is waited for is answered once: when its word has come to an end, or is another task's.
//! - S2: a command that was not answered is repeated when something was missed (a daemon was killed); all of them may be done twice.
//! - S3: the thread sleeps on the lane's futex. While no daemon lives nobody rings for ends, so it looks every few milliseconds, as long as
//!   something is waited for.
//!
//! Tested in `tests/tests/local.rs`.

use core::time::Duration;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use qtf_proto::hashing::IdHashing;
use qtf_proto::v1::Refusal;
use qtf_shm::lane::{Command, Event};
use qtf_shm::segment::OwnedLane;
use qtf_shm::{Attachment, ClientIndex, Phase, TaskId, TaskOptions};
use tokio::sync::oneshot;

use super::ends::{Ended, EndsQueue};
use crate::instance::Opened;
use crate::refusals;
use crate::unheard::Unheard;

/// Longest sleep of the thread: events wake it.
const SLEEP_MAX: Duration = Duration::from_millis(500);
/// The same while no daemon lives and something is waited for.
const SLEEP_ALONE: Duration = Duration::from_millis(2);
/// All words are looked at so often, whatever was heard.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// To ask whether a daemon lives is a call of the kernel: an answer is good for so long.
const DAEMON_KNOWN: Duration = Duration::from_millis(10);
/// LIMIT: events taken in before what they brought is acted upon.
const EVENTS_MAX: u32 = 1024;
/// What was asked for at the end has this long to be put into the lane.
const FAREWELL_MAX: Duration = Duration::from_millis(500);

/// Answer to a command.
pub(crate) type Answered = Result<Accepted, Refusal>;

/// What the core has accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) task: TaskId,
    pub(crate) phase: Phase,
    pub(crate) is_repeat: bool,
    pub(crate) result_expired: bool,
}

/// Whom the answer is for.
type Reply = Option<oneshot::Sender<Answered>>;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) attachment: Attachment,
    pub(crate) durable_by_default: bool,
    /// Names the session.
    pub(crate) token: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<u64, Watched, IdHashing>,
    /// Commands that are not in the lane yet.
    asks: VecDeque<(Command, Reply)>,
    client: Option<Client>,
    is_leaving: bool,
    /// When it was last asked whether a daemon lives, and the answer.
    daemon: Option<(Instant, bool)>,
}

/// This process as a client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    pub(crate) index: ClientIndex,
    /// Ends of its tasks come to the lane.
    pub(crate) has_ends: bool,
}

/// A task whose end is waited for.
#[derive(Debug)]
struct Watched {
    /// A success leaves no result.
    discards: bool,
    /// Ends that are not durable yet are told by the daemon alone.
    is_journalled: bool,
    /// Its end comes to the lane by itself.
    is_told: bool,
    queue: Arc<EndsQueue>,
    /// Others that wait for it.
    more: Vec<Arc<EndsQueue>>,
}

/// What a state word says of a task that is waited for.
enum Look {
    Unfinished,
    Ended(Phase),
    /// The slot is free, or another task's.
    Gone,
}

impl Seat {
    /// Takes a seat at an open segment, and starts its thread.
    pub(crate) fn take(opened: Opened) -> std::io::Result<Arc<Self>> {
        let seat = Arc::new(Self {
            attachment: opened.attachment,
            durable_by_default: opened.durable_by_default,
            token: fastrand::u64(1..),
            state: Mutex::default(),
        });
        let of_thread = Arc::clone(&seat);
        std::thread::Builder::new()
            .name("qtf-local".to_owned())
            .spawn(move || sit(&of_thread))?;
        Ok(seat)
    }

    /// The client leaves: what it has asked for goes out, then the thread ends, and with it the attachment.
    /// Who waits for ends hears that they do not come from here any more: another segment may have taken the place of this one, and in it their tasks may
    /// have ended.
    pub(crate) fn leave(&self) {
        {
            let mut state = self.state();
            state.is_leaving = true;
            for watched in state.waiting.values() {
                watched.queue.leave();
                watched.more.iter().for_each(|queue| queue.leave());
            }
        }
        self.attachment.wake_own_lane();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; what is in it is whole at any moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This process as a client, as soon as a daemon has welcomed it.
    pub(crate) fn client(&self) -> Option<Client> {
        self.state().client
    }

    /// A daemon lives, or did a moment ago.
    pub(crate) fn daemon_is_there(&self) -> bool {
        let known = self.state().daemon;
        if let Some((asked, lives)) = known
            && asked.elapsed() < DAEMON_KNOWN
        {
            return lives;
        }
        let lives = self.attachment.daemon_lives();
        self.state().daemon = Some((Instant::now(), lives));
        lives
    }

    /// Frees the slot of an ended memory task while no daemon lives, as nobody else would. Returns whether it did.
    pub(crate) fn free_alone(&self, task: TaskId) -> bool {
        let segment = &self.attachment;
        let Some(slot) = segment.slot_of(task) else {
            return false;
        };
        let record = segment.task(slot);
        let state = record.state();
        let is_ours_to_free = state.is_of(task)
            && matches!(
                state.phase(),
                Phase::Done | Phase::Failed | Phase::Cancelled
            )
            && !record.options().has(TaskOptions::JOURNAL)
            && !self.daemon_is_there();
        is_ours_to_free && segment.free_task(slot, state).is_ok()
    }

    /// Asks the core for something.
    pub(crate) fn ask(&self, command: Command) -> oneshot::Receiver<Answered> {
        let (reply, answered) = oneshot::channel();
        self.state().asks.push_back((command, Some(reply)));
        self.attachment.wake_own_lane();
        answered
    }

    /// Asks for several things whose answers nobody wants.
    pub(crate) fn tell(&self, commands: impl IntoIterator<Item = Command>) {
        let commands = commands.into_iter().map(|command| (command, None));
        self.state().asks.extend(commands);
        self.attachment.wake_own_lane();
    }

    /// Has the end of a task told to a queue; at once, if it has ended. `is_told`: its end comes to the lane by itself.
    pub(crate) fn watch(
        &self,
        task: TaskId,
        queue: &Arc<EndsQueue>,
        is_told: bool,
    ) -> Result<(), Refusal> {
        let segment = &self.attachment;
        let slot = segment
            .slot_of(task)
            .ok_or_else(|| refusals::unknown_task(task))?;
        let state = segment.state(slot);
        if !state.is_of(task) || matches!(state.phase(), Phase::Free | Phase::Claimed) {
            return Err(match state.id(slot) {
                Some(now) if state.phase() != Phase::Free && now != task => {
                    refusals::stale_task(task, now)
                }
                _ => refusals::unknown_task(task),
            });
        }
        let options = segment.task(slot).options();
        let watched = Watched {
            discards: options.has(TaskOptions::DISCARD_RESULT),
            is_journalled: options.has(TaskOptions::JOURNAL),
            is_told,
            queue: Arc::clone(queue),
            more: Vec::new(),
        };
        match self.look(task, &watched) {
            Look::Ended(phase) => {
                queue.push([Ended {
                    task,
                    phase: Some(phase),
                }]);
                return Ok(());
            }
            Look::Unfinished | Look::Gone => {}
        }
        let mut own = self.state();
        if own.is_leaving {
            queue.leave();
        }
        match own.waiting.get_mut(&task.as_raw()) {
            Some(known) => {
                known.more.push(watched.queue);
                return Ok(());
            }
            None => drop(own.waiting.insert(task.as_raw(), watched)),
        }
        // It may have ended before it was waited for: then nobody tells of it any more.
        self.settle(&mut own, task, None);
        let is_open = own.waiting.contains_key(&task.as_raw());
        if is_open && !is_told {
            own.asks.push_back((Command::Watch(task), None));
            drop(own);
            self.attachment.wake_own_lane();
        }
        Ok(())
    }

    /// Nobody reads this queue any more.
    pub(crate) fn forget_queue(&self, queue: &Arc<EndsQueue>) {
        self.state().waiting.retain(|_, watched| {
            watched.more.retain(|other| !Arc::ptr_eq(other, queue));
            if !Arc::ptr_eq(&watched.queue, queue) {
                return true;
            }
            match watched.more.pop() {
                Some(other) => {
                    watched.queue = other;
                    true
                }
                None => false,
            }
        });
    }

    fn look(&self, task: TaskId, watched: &Watched) -> Look {
        let segment = &self.attachment;
        let Some(slot) = segment.slot_of(task) else {
            return Look::Gone;
        };
        let state = segment.task(slot).state();
        if !state.is_of(task) || state.phase() == Phase::Free {
            return Look::Gone;
        }
        let phase = state.phase();
        // One that waited is ended before that is durable.
        let is_the_daemons_to_say =
            watched.is_journalled && matches!(phase, Phase::Cancelled | Phase::DeadLetter);
        if phase.is_final() && !is_the_daemons_to_say {
            Look::Ended(phase)
        } else {
            Look::Unfinished
        }
    }

    /// Tells of the end of a task if it has come; `said` is what an event says.
    fn settle(&self, state: &mut State, task: TaskId, said: Option<Phase>) {
        let Some(watched) = state.waiting.get(&task.as_raw()) else {
            return;
        };
        let phase = match (self.look(task, watched), said) {
            (Look::Ended(phase), _) => Some(phase),
            // The daemon knows when that is durable.
            (Look::Unfinished, Some(phase)) if watched.is_journalled && phase.is_final() => {
                Some(phase)
            }
            (Look::Unfinished, _) => return,
            (Look::Gone, Some(phase)) if phase.is_final() => Some(phase),
            (Look::Gone, _) => watched.discards.then_some(Phase::Done),
        };
        if let Some(watched) = state.waiting.remove(&task.as_raw()) {
            let ended = Ended { task, phase };
            watched.queue.push([ended]);
            for queue in watched.more {
                queue.push([ended]);
            }
        }
    }

    /// Looks at the words of all that is waited for.
    fn look_at_all(&self) {
        let tasks: Vec<TaskId> = {
            let state = self.state();
            let ids = state.waiting.keys().copied();
            ids.filter_map(TaskId::from_raw).collect()
        };
        // In parts, so that nobody waits long for the lock.
        for some in tasks.chunks(256) {
            let mut state = self.state();
            for task in some {
                self.settle(&mut state, *task, None);
            }
        }
    }
}

/// What the thread knows of the lane.
struct Lane<'s> {
    seat: &'s Seat,
    lane: OwnedLane<'s>,
    number: u32,
    /// Commands in the lane, by their numbers, that are not answered.
    open: HashMap<u32, (Command, Reply)>,
    daemon_lives: bool,
    /// What was acknowledged by commands that a daemon may not have taken yet.
    unheard: Unheard,
}

/// The thread of a seat: until its client leaves.
fn sit(seat: &Arc<Seat>) {
    match seat.attachment.open_lane() {
        Ok(lane) => {
            let lane = Lane {
                seat,
                lane,
                number: 0,
                open: HashMap::new(),
                daemon_lives: true,
                unheard: Unheard::default(),
            };
            lane.run();
        }
        Err(error) => tracing::error!(%error, "a local client has no lane"),
    }
}

impl Lane<'_> {
    fn run(mut self) {
        self.seat.state().asks.push_front((Command::Hello, None));
        let mut look_at = Instant::now() + LOOK_EVERY;
        let mut leaves_at = None;
        loop {
            self.put_asks();
            self.take_events();
            if self.lane.take_missed() {
                self.repeat();
                look_at = Instant::now();
            }
            if Instant::now() >= look_at {
                self.daemon_lives = self.seat.daemon_is_there();
                self.seat.look_at_all();
                look_at = Instant::now() + LOOK_EVERY;
            }
            self.act_for_the_dead();
            let (is_leaving, has_asks, is_waiting) = {
                let state = self.seat.state();
                let has_asks = !state.asks.is_empty();
                (state.is_leaving, has_asks, !state.waiting.is_empty())
            };
            if is_leaving {
                let until = *leaves_at.get_or_insert_with(|| Instant::now() + FAREWELL_MAX);
                if !has_asks && self.open.is_empty() && self.lane.commands.are_taken()
                    || Instant::now() >= until
                    || !self.daemon_lives
                {
                    return;
                }
            }
            let at_most = match (self.daemon_lives, is_waiting) {
                _ if is_leaving => SLEEP_ALONE,
                (false, true) => SLEEP_ALONE,
                (false, false) | (true, _) => SLEEP_MAX,
            };
            self.sleep(at_most);
            if at_most == SLEEP_ALONE {
                look_at = Instant::now();
            }
        }
    }

    /// Frees what was acknowledged to a daemon that was dead by then.
    fn act_for_the_dead(&mut self) {
        if self.lane.commands.are_taken() {
            self.unheard.were_taken();
        } else if !self.daemon_lives {
            for task in self.unheard.take() {
                self.seat.free_alone(task);
            }
        }
    }

    /// Puts what is asked for into the lane, as far as there is room.
    fn put_asks(&mut self) {
        let mut has_put = false;
        while self.lane.commands.has_room() {
            let Some((command, reply)) = self.seat.state().asks.pop_front() else {
                break;
            };
            self.number = self.number.wrapping_add(1);
            if self.lane.put(self.number, command).is_err() {
                self.seat.state().asks.push_front((command, reply));
                break;
            }
            // An acknowledgement has no answer.
            if let Command::Acknowledge(tasks) = command {
                self.unheard.said(tasks.into_iter().flatten(), 0);
            } else {
                self.open.insert(self.number, (command, reply));
            }
            has_put = true;
        }
        if has_put {
            self.lane.ring();
        }
    }

    fn take_events(&mut self) {
        for _ in 0..EVENTS_MAX {
            let Some(event) = self.lane.next() else {
                return;
            };
            match event {
                Event::Ended { task, phase } => {
                    let seat = self.seat;
                    seat.settle(&mut seat.state(), task, Some(phase));
                }
                Event::Welcome {
                    number,
                    client,
                    has_ends,
                } => {
                    self.open.remove(&number);
                    let index = client;
                    self.seat.state().client = Some(Client { index, has_ends });
                }
                Event::Accepted {
                    number,
                    task,
                    phase,
                    is_repeat,
                    result_expired,
                    ..
                } => self.answer(
                    number,
                    Ok(Accepted {
                        task,
                        phase,
                        is_repeat,
                        result_expired,
                    }),
                ),
                Event::Refused {
                    number,
                    task,
                    reason,
                    retry_after_ms,
                } => {
                    let refusal = refusals::of_core(task, reason, retry_after_ms);
                    self.answer(number, Err(refusal));
                }
                // For workers.
                Event::Assign { .. } | Event::Stop { .. } | Event::Lost => {}
            }
        }
    }

    fn answer(&mut self, number: u32, answered: Answered) {
        let Some((command, reply)) = self.open.remove(&number) else {
            return;
        };
        if let Command::Watch(task) = command {
            // It has ended, or is gone, if so it says; else what its word says counts.
            let said = answered.as_ref().ok().map(|accepted| accepted.phase);
            let seat = self.seat;
            seat.settle(&mut seat.state(), task, said);
        }
        if let Some(reply) = reply {
            // Whoever asked may be gone.
            let _ = reply.send(answered);
        }
    }

    /// What was not answered is asked for again, and what was told of to a daemon that is gone is watched.
    fn repeat(&mut self) {
        let mut state = self.seat.state();
        for (_, asked) in self.open.drain() {
            state.asks.push_back(asked);
        }
        let watched: Vec<TaskId> = state
            .waiting
            .iter()
            .filter(|(_, watched)| !watched.is_told || watched.is_journalled)
            .filter_map(|(raw, _)| TaskId::from_raw(*raw))
            .collect();
        let commands = watched.into_iter().map(|task| (Command::Watch(task), None));
        state.asks.extend(commands);
    }

    fn sleep(&self, at_most: Duration) {
        let has_work = || {
            let state = self.seat.state();
            state.is_leaving || !state.asks.is_empty() && self.lane.commands.has_room()
        };
        self.lane.events.sleep_unless(at_most, has_work);
    }
}
