//! A local process of the simulation: a thread of its own with an attachment of its own, which runs only while the world waits for it.
//!
//! Order and answer hand a baton to and fro, so that one thread runs at a time and a seed gives one history. An operation can be held
//! up right after any of its shared writes: then the answer is `Paused`, the world goes on for as long as it likes, and the process
//! goes on in the middle of its operation, or is killed there.

#![expect(
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "a process is a thread of its own; what it says is passed on"
)]

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use qtf_shm::layout::attach::AttachRole;
use qtf_shm::sync::kill::{Killed, cut, paused_after};
use qtf_shm::time::simulated::set_monotonic_ns;
use qtf_shm::{
    AttachIndex, Attachment, AttachmentSpec, KindSet, LocalWorker, LocalWorkerSpec, Now, Outcome,
    Phase, Taken, TaskId, WorkerId,
};

/// Where the segment is, and what the process is.
#[derive(Debug, Clone)]
pub(crate) struct ProcessSpec {
    pub(crate) shm_id: i32,
    pub(crate) folder: PathBuf,
    pub(crate) lock_file: PathBuf,
    /// Kinds that it can run, a bit for each.
    pub(crate) kinds: KindSet,
    pub(crate) capacity: u16,
    pub(crate) losses_max: u8,
}

/// One operation. Places are those in the list of what the process holds.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    Take,
    Start(usize),
    Finish(usize, Outcome, Vec<u8>),
    GiveBack(usize),
    /// Which flags are set on what it holds.
    Flags(usize),
    /// It ends in order: what it holds goes back.
    Leave,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Said {
    Joined(AttachIndex, WorkerId),
    /// No attach record or no worker slot is free.
    Refused,
    Took(Option<(TaskId, u16)>),
    /// Or it was no longer the worker's, which shows when it ends.
    Started,
    /// The phase that the attempt has led to; `None` if it was no longer the worker's.
    Finished(Option<Phase>),
    GaveBack,
    Flags(u8),
    Left,
    /// The operation stands still between two of its writes.
    Paused,
    /// It was killed.
    Dead,
    Panicked(String),
}

enum Command {
    Do {
        now: Now,
        ask: Ask,
        pause_after: Option<u32>,
    },
    GoOn(Now),
    Die,
}

/// The world's end of it.
#[derive(Debug)]
pub(crate) struct Process {
    commands: Sender<Command>,
    said: Receiver<Said>,
    thread: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts it; what it says first is whether it has joined.
    pub(crate) fn start(spec: ProcessSpec, now: Now) -> (Self, Said) {
        let (commands, inbox) = channel();
        let (outbox, said) = channel();
        let thread = std::thread::spawn(move || {
            set_monotonic_ns(Some(now.ns));
            let last = catch_unwind(AssertUnwindSafe(|| live(&spec, inbox, &outbox)));
            let last = last.unwrap_or_else(|cause| {
                if cause.is::<Killed>() {
                    return Said::Dead;
                }
                let text = cause.downcast_ref::<String>().cloned();
                let text = text.or_else(|| cause.downcast_ref::<&str>().map(ToString::to_string));
                Said::Panicked(text.unwrap_or_else(|| "a panic without words".to_owned()))
            });
            // Nobody listens any more when a world has failed.
            drop(outbox.send(last));
        });
        let process = Self {
            commands,
            said,
            thread: Some(thread),
        };
        let first = process.hear();
        (process, first)
    }

    /// Runs an operation to its end, or to the shared write after which it is to stand still.
    pub(crate) fn ask(&self, now: Now, ask: Ask, pause_after: Option<u32>) -> Said {
        self.send(Command::Do {
            now,
            ask,
            pause_after,
        });
        self.hear()
    }

    /// Goes on with the operation that stands still.
    pub(crate) fn go_on(&self, now: Now) -> Said {
        self.send(Command::GoOn(now));
        self.hear()
    }

    /// Kills it, where it stands.
    pub(crate) fn kill(mut self) {
        self.send(Command::Die);
        let last = self.hear();
        assert!(matches!(last, Said::Dead), "{last:?}");
        self.join();
    }

    /// It has said that it has left.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("its panics are caught");
        }
    }

    fn send(&self, command: Command) {
        self.commands.send(command).expect("it waits for commands");
    }

    fn hear(&self) -> Said {
        match self.said.recv().expect("it says a last word") {
            Said::Panicked(text) => panic!("a local process: {text}"),
            said => said,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A world that has failed: it dies where it stands.
        if self.thread.is_some() {
            let _ = self.commands.send(Command::Die);
            self.join();
        }
    }
}

/// The life of the process; returns its last word.
fn live(spec: &ProcessSpec, inbox: Receiver<Command>, outbox: &Sender<Said>) -> Said {
    let attachment = AttachmentSpec::new(AttachRole::Worker, "local", &spec.folder)
        .with_lock_file(&spec.lock_file);
    let Ok(attachment) = Attachment::open_id(spec.shm_id, &attachment) else {
        return Said::Refused;
    };
    let attachment = Rc::new(attachment);
    let worker = attachment.join_as_worker(&LocalWorkerSpec {
        name: "local",
        host: "here",
        kinds: spec.kinds,
        capacity: spec.capacity,
        losses_max: spec.losses_max,
    });
    let Ok(worker) = worker else {
        return Said::Refused;
    };
    let say = |said| outbox.send(said).expect("the world listens");
    say(Said::Joined(attachment.index(), worker.id()));
    let inbox = Rc::new(inbox);
    let held = RefCell::new(Vec::new());
    loop {
        match inbox.recv() {
            Ok(Command::Do {
                now,
                ask: Ask::Leave,
                ..
            }) => {
                set_monotonic_ns(Some(now.ns));
                return Said::Left;
            }
            Ok(Command::Do {
                now,
                ask,
                pause_after,
            }) => {
                set_monotonic_ns(Some(now.ns));
                let act = || act(&worker, &mut held.borrow_mut(), ask);
                let said = match pause_after {
                    None => act(),
                    Some(writes) => {
                        let (inbox, outbox) = (Rc::clone(&inbox), outbox.clone());
                        let attachment = Rc::clone(&attachment);
                        let pause = move || stand_still(&attachment, &inbox, &outbox);
                        paused_after(writes, pause, act)
                    }
                };
                say(said);
            }
            Ok(Command::Die) | Err(_) => {
                attachment.dies();
                return Said::Dead;
            }
            Ok(Command::GoOn(_)) => panic!("it does not stand still"),
        }
    }
}

/// Between two writes of an operation.
fn stand_still(attachment: &Attachment, inbox: &Receiver<Command>, outbox: &Sender<Said>) {
    outbox.send(Said::Paused).expect("the world listens");
    match inbox.recv() {
        Ok(Command::GoOn(now)) => set_monotonic_ns(Some(now.ns)),
        Ok(Command::Die) | Err(_) => {
            attachment.dies();
            cut();
        }
        Ok(Command::Do { .. }) => panic!("it stands still"),
    }
}

fn act<'w>(worker: &'w LocalWorker<'w>, held: &mut Vec<Taken<'w>>, ask: Ask) -> Said {
    match ask {
        Ask::Take => {
            let taken = worker.take();
            let said = taken.as_ref().map(|taken| (taken.id(), taken.attempt()));
            held.extend(taken);
            Said::Took(said)
        }
        Ask::Start(place) => {
            let _ = held[place].start();
            Said::Started
        }
        Ask::Finish(place, outcome, output) => {
            let taken = held.swap_remove(place);
            Said::Finished(taken.finish(outcome, &output).ok())
        }
        Ask::GiveBack(place) => {
            held.swap_remove(place).give_back();
            Said::GaveBack
        }
        Ask::Flags(place) => Said::Flags(held[place].stop_flags()),
        Ask::Leave => Said::Left,
    }
}
