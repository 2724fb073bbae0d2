//! What the agent and the threads that start programs share: programs that stand in line, slots for them, and news of what became of them.
//!
//! Invariants:
//! - O1: one in line is taken with a slot: one that the agent has given, or that of a program that has ended. A slot that nobody takes is
//!   given back with the news of the end. So no more programs run than the agent has given slots for.
//! - O2: they are taken in the order in which they came.
//! - O3: after one could not be started for want of something, none is taken until the agent has taken all of them back.
//! - O4: news are told at once, or where gathering is asked for after that time at most, and only while there is enough to start
//!   besides.
//! - O5: a thread sleeps only after it has seen, under the lock, that nothing is to be started; whoever gives something to start
//!   wakes one that sleeps. While programs end and follow each other nobody is woken.
//!
//! Tested at the end of the file.

use core::fmt;
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::sys::eventfd::EventFd;
use qtf_proto::v1::Assignment;

use super::super::tasks::RunNumber;
use crate::attempt::Ending;
use crate::exec::Identity;
use crate::stop::StopSignal;

/// A program that is to be run.
#[derive(Debug)]
pub(in crate::agent) struct InLine {
    pub(in crate::agent) run: RunNumber,
    pub(in crate::agent) identity: Identity,
    /// With its whole payload.
    pub(in crate::agent) assignment: Assignment,
    pub(in crate::agent) output_limit_bytes: u64,
    /// Without its time limit, which begins with it.
    pub(in crate::agent) stop: StopSignal,
}

/// What has become of it.
#[derive(Debug)]
pub(in crate::agent) enum News {
    /// It lasts.
    Begun { run: RunNumber },
    /// It could not begin, and waits again.
    Short {
        run: RunNumber,
        assignment: Box<Assignment>,
        why: String,
    },
    Ended {
        run: RunNumber,
        /// It ran, and was not only about to.
        has_run: bool,
        ending: Box<Ending>,
        discard_result: bool,
        /// Its slot is taken by the next in line, or about to be.
        is_followed: bool,
    },
}

/// News that are told together.
#[derive(Debug)]
pub(in crate::agent) struct Told {
    pub(in crate::agent) news: Vec<News>,
    /// They have waited for each other as long as they may.
    pub(in crate::agent) has_waited: bool,
}

/// How the agent is told. Called under a lock: it must not wait.
pub(in crate::agent) struct Tell(pub(in crate::agent) Box<dyn Fn(Told) + Send + Sync>);

impl fmt::Debug for Tell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tell")
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Line {
    state: Mutex<State>,
    tell: Tell,
    /// News may wait so long while more than so many stand in line.
    gather: (Duration, usize),
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<InLine>,
    /// For those in line: never more than there are.
    slots: usize,
    is_short: bool,
    news: Vec<News>,
    /// The oldest of them.
    news_since: Option<Instant>,
    threads: Vec<Sleeper>,
    is_over: bool,
}

/// A thread that starts programs.
#[derive(Debug)]
struct Sleeper {
    bell: Arc<EventFd>,
    is_asleep: bool,
    /// Programs that it attends to.
    attends: usize,
}

/// What a thread is to do next.
#[derive(Debug)]
pub(super) enum Next {
    Start(Box<InLine>),
    /// Attend to what it has started, until then at the latest or until it is woken.
    Attend(Option<Instant>),
    Leave,
}

impl Line {
    pub(super) fn new(tell: Tell, gather: (Duration, usize)) -> Self {
        Self {
            state: Mutex::default(),
            tell,
            gather,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more thread, and its number. It is woken by `bell`.
    pub(super) fn enter(&self, bell: Arc<EventFd>) -> usize {
        let mut state = self.state();
        state.threads.push(Sleeper {
            bell,
            is_asleep: false,
            attends: 0,
        });
        state.threads.len() - 1
    }

    /// All threads are to leave.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_over = true;
        for thread in &state.threads {
            thread.ring();
        }
    }

    /// Puts one at the end.
    pub(super) fn put(&self, next: InLine) {
        self.state().waiting.push_back(next);
    }

    /// Gives a slot to the first that has none; false if there is no such one.
    pub(super) fn give_slot(&self) -> bool {
        let mut state = self.state();
        let is_wanted = state.unslotted() > 0;
        if is_wanted {
            state.slots += 1;
            state.wake_one();
        }
        is_wanted
    }

    /// How many stand in line without a slot.
    pub(super) fn waiting(&self) -> usize {
        self.state().unslotted()
    }

    /// Takes back what was not taken: the programs, first to last, and how many slots.
    pub(super) fn take_back(&self) -> (VecDeque<InLine>, usize) {
        let mut state = self.state();
        state.is_short = false;
        let slots = core::mem::take(&mut state.slots);
        (core::mem::take(&mut state.waiting), slots)
    }

    /// What a thread does next that attends to so many.
    pub(super) fn next(&self, thread: usize, attends: usize) -> Next {
        let mut state = self.state();
        if state.is_over {
            return Next::Leave;
        }
        let next = match state.slots {
            0 => None,
            _ if state.is_short => None,
            _ => state.waiting.pop_front(),
        };
        if let Some(next) = next {
            state.slots -= 1;
            return Next::Start(Box::new(next));
        }
        self.tell_what_is_due(&mut state);
        if let Some(thread) = state.threads.get_mut(thread) {
            thread.is_asleep = true;
            thread.attends = attends;
        }
        let (gather, _) = self.gather;
        Next::Attend(state.news_since.map(|since| since + gather))
    }

    /// A thread has stopped sleeping.
    pub(super) fn awake(&self, thread: usize) {
        if let Some(thread) = self.state().threads.get_mut(thread) {
            thread.is_asleep = false;
        }
    }

    /// A program lasts.
    pub(super) fn begun(&self, run: RunNumber) {
        self.note(&mut self.state(), News::Begun { run });
    }

    /// One could not begin. Its slot goes back with it.
    pub(super) fn short(&self, next: InLine, why: String) {
        let mut state = self.state();
        state.is_short = true;
        let news = News::Short {
            run: next.run,
            assignment: Box::new(next.assignment),
            why,
        };
        self.note(&mut state, news);
    }

    /// One has ended; `here` if by the thread that asks for the next one now. Its slot goes to that.
    pub(super) fn ended(&self, (run, discard_result): (RunNumber, bool), ended: Ended, here: bool) {
        let mut state = self.state();
        let is_followed = !state.is_short && state.unslotted() > 0;
        if is_followed {
            state.slots += 1;
            // Whoever asks next takes one.
            if !here || state.slots > 1 {
                state.wake_one();
            }
        }
        let news = News::Ended {
            run,
            has_run: ended.has_run,
            ending: Box::new(ended.ending),
            discard_result,
            is_followed,
        };
        self.note(&mut state, news);
    }

    fn note(&self, state: &mut State, news: News) {
        state.news.push(news);
        state.news_since.get_or_insert_with(Instant::now);
        self.tell_what_is_due(state);
    }

    fn tell_what_is_due(&self, state: &mut State) {
        let Some(since) = state.news_since else {
            return;
        };
        let (gather, well) = self.gather;
        let has_waited = since.elapsed() >= gather;
        if !has_waited && !state.is_short && state.unslotted() > well {
            return;
        }
        state.news_since = None;
        let news = core::mem::take(&mut state.news);
        (self.tell.0)(Told { news, has_waited });
    }
}

/// How one has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) ending: Ending,
    /// See [`News::Ended`].
    pub(super) has_run: bool,
}

impl State {
    /// How many in line have no slot.
    fn unslotted(&self) -> usize {
        self.waiting.len().saturating_sub(self.slots)
    }

    /// Wakes the thread that sleeps and has the least to attend to. If none sleeps, one will look before it does.
    fn wake_one(&mut self) {
        let asleep = self.threads.iter_mut().filter(|thread| thread.is_asleep);
        if let Some(thread) = asleep.min_by_key(|thread| thread.attends) {
            thread.is_asleep = false;
            thread.ring();
        }
    }
}

impl Sleeper {
    fn ring(&self) {
        // Full, it is heard all the same; nothing else can go wrong with an open one.
        let _ = self.bell.write(1);
    }
}

#[cfg(test)]
mod tests {
    use qtf_proto::v1::OutcomeKind;
    use qtf_shm::TaskId;
    use tokio::sync::mpsc;

    use super::*;
    use crate::stop::stop_pair;

    const NO_GATHER: (Duration, usize) = (Duration::ZERO, 0);
    const HOUR: Duration = Duration::from_secs(3_600);

    struct Scene {
        line: Line,
        told: mpsc::UnboundedReceiver<Told>,
    }

    impl Scene {
        fn new(gather: (Duration, usize), ready: u64) -> Self {
            let (sender, told) = mpsc::unbounded_channel();
            let tell = Tell(Box::new(move |told| sender.send(told).unwrap()));
            let line = Line::new(tell, gather);
            for number in 1..=ready {
                line.put(program(number));
            }
            Self { line, told }
        }

        fn thread(&self) -> (usize, Arc<EventFd>) {
            let flags = nix::sys::eventfd::EfdFlags::EFD_NONBLOCK;
            let bell = Arc::new(EventFd::from_flags(flags).unwrap());
            (self.line.enter(Arc::clone(&bell)), bell)
        }

        fn start(&self, thread: usize) -> Option<InLine> {
            match self.line.next(thread, 0) {
                Next::Start(next) => Some(*next),
                Next::Attend(_) | Next::Leave => None,
            }
        }

        fn end(&self, next: &InLine) {
            let ended = Ended {
                ending: Ending::new(OutcomeKind::Exited, ""),
                has_run: true,
            };
            self.line.ended((next.run, false), ended, true);
        }

        fn news(&mut self) -> Option<Vec<News>> {
            self.told.try_recv().ok().map(|told| told.news)
        }
    }

    fn program(number: u64) -> InLine {
        InLine {
            run: RunNumber::of(number),
            identity: Identity {
                task: TaskId::from_raw(1 << 24).unwrap(),
                attempt: 1,
                array: None,
            },
            assignment: Assignment::default(),
            output_limit_bytes: 0,
            stop: stop_pair(0).1,
        }
    }

    fn run(next: Option<&InLine>) -> Option<RunNumber> {
        next.map(|next| next.run)
    }

    #[test]
    fn one_in_line_is_taken_with_a_slot_that_was_given_or_with_that_of_one_that_has_ended() {
        let mut scene = Scene::new(NO_GATHER, 3);
        let (thread, _bell) = scene.thread();
        assert!(scene.start(thread).is_none(), "no slot");
        assert!(scene.line.give_slot());
        let first = scene.start(thread);
        assert_eq!(run(first.as_ref()), Some(RunNumber::of(1)));
        assert!(scene.start(thread).is_none());
        for (next, follows) in [(2, true), (3, true), (4, false)] {
            let ended = program(next - 1);
            scene.end(&ended);
            let news = scene.news().unwrap();
            let [
                News::Ended {
                    is_followed, run, ..
                },
            ] = &news[..]
            else {
                panic!("{news:?}");
            };
            assert_eq!((*run, *is_followed), (ended.run, follows));
            let started = scene.start(thread);
            assert_eq!(run_of(started.as_ref(), next), follows);
        }
        assert!(!scene.line.give_slot(), "nobody wants it");
    }

    fn run_of(next: Option<&InLine>, number: u64) -> bool {
        run(next) == Some(RunNumber::of(number))
    }

    #[test]
    fn no_more_slots_are_taken_than_there_are_in_line_and_what_is_not_taken_comes_back_in_order() {
        let scene = Scene::new(NO_GATHER, 3);
        let (thread, _bell) = scene.thread();
        assert!(scene.line.give_slot() && scene.line.give_slot() && scene.line.give_slot());
        assert!(!scene.line.give_slot());
        assert_eq!(scene.line.waiting(), 0);
        assert!(run_of(scene.start(thread).as_ref(), 1));
        let (back, slots) = scene.line.take_back();
        let runs: Vec<RunNumber> = back.iter().map(|one| one.run).collect();
        assert_eq!((runs, slots), (vec![RunNumber::of(2), RunNumber::of(3)], 2));
        assert!(scene.start(thread).is_none());
    }

    #[test]
    fn after_one_that_could_not_begin_none_is_taken_until_the_agent_has_them_back() {
        let mut scene = Scene::new((HOUR, 0), 4);
        let (thread, _bell) = scene.thread();
        assert!(scene.line.give_slot() && scene.line.give_slot());
        let first = scene.start(thread).unwrap();
        let second = scene.start(thread).unwrap();
        scene.line.short(second, "no more processes".to_owned());
        assert_eq!(scene.news().map(|news| news.len()), Some(1), "at once");
        scene.end(&first);
        let news = scene.news().unwrap();
        assert!(matches!(
            news[..],
            [News::Ended {
                is_followed: false,
                ..
            }]
        ));
        assert!(scene.start(thread).is_none());
        assert_eq!(scene.line.take_back().0.len(), 2);
        scene.line.put(program(3));
        assert!(scene.line.give_slot());
        assert!(run_of(scene.start(thread).as_ref(), 3));
    }

    #[test]
    fn news_wait_for_others_while_there_is_enough_to_start_and_no_longer_than_they_may() {
        let mut scene = Scene::new((HOUR, 1), 4);
        let (thread, _bell) = scene.thread();
        assert!(scene.line.give_slot());
        for number in 1..=2 {
            let first = scene.start(thread).unwrap();
            assert!(run_of(Some(&first), number));
            assert!(scene.news().is_none());
            scene.end(&first);
        }
        // One has a slot, one is left.
        assert_eq!(scene.news().map(|news| news.len()), Some(2));
        let mut scene = Scene::new((Duration::from_nanos(1), 0), 4);
        assert!(scene.line.give_slot());
        let first = scene.start(thread).unwrap();
        scene.end(&first);
        drop(scene.start(thread));
        scene.line.next(thread, 0);
        assert!(scene.news().is_some(), "its time is over");
    }

    #[test]
    fn who_sleeps_and_has_least_to_do_is_woken_and_nobody_where_programs_follow_each_other() {
        let scene = Scene::new(NO_GATHER, 4);
        let [(busy, its_bell), (idle, bell)] = [scene.thread(), scene.thread()];
        assert!(matches!(scene.line.next(busy, 3), Next::Attend(None)));
        assert!(matches!(scene.line.next(idle, 0), Next::Attend(None)));
        assert!(scene.line.give_slot());
        assert!(its_bell.read().is_err() && bell.read().is_ok());
        scene.line.awake(idle);
        let first = scene.start(idle).unwrap();
        scene.end(&first);
        assert!(its_bell.read().is_err() && bell.read().is_err());
        assert!(run_of(scene.start(idle).as_ref(), 2));
        scene.line.close();
        assert!(its_bell.read().is_ok() && bell.read().is_ok());
        assert!(matches!(scene.line.next(idle, 0), Next::Leave));
    }
}
