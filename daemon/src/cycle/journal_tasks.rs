//! The two tasks of the daemon's thread that move the journal: one executes its writes, one listens to the chores thread.
//!
//! As soon as a write has been answered the next group goes out; no timer stands between a submission and its write,
//! but a burst is let in whole, and records that nobody waits for ride with the next group.
//! Tested in `tests/daemon/journal.rs`, over both backends.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use qtf_journal::Lsn;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

use crate::core::journal::Journal;
use crate::core::stability::stable;
use crate::core::{Core, core_cell};
use crate::journal::backend::Disk;
use crate::journal::chores::{Event, Told};
use crate::net::Backend;
use crate::sys::lock_file::LockFile;

/// LIMIT: time between two looks at what failed or is due; a full disk that has room again is noticed after as long.
const TEND: Duration = Duration::from_millis(250);

/// The file that is being written is looked at so many times more seldom.
const LOOK_EACH: u32 = 4;

/// What of a journal does not go into the core.
#[derive(Debug)]
pub(crate) struct JournalTaskParts {
    pub(crate) disk: Disk,
    pub(crate) told: Told,
    pub(crate) lock: LockFile,
}

/// The tasks of a journal, and what must not be given up before them.
#[derive(Debug)]
pub(crate) struct JournalTasks {
    writing: JoinHandle<()>,
    tending: JoinHandle<()>,
    kick: Rc<Notify>,
    end: mpsc::Receiver<Infallible>,
    lock: LockFile,
}

impl JournalTasks {
    /// Starts them; the core is installed already.
    pub(crate) fn start(parts: JournalTaskParts, network: Backend, kick: Rc<Notify>) -> Self {
        let JournalTaskParts { disk, told, lock } = parts;
        Self {
            writing: tokio::task::spawn_local(write_groups(disk, network, Rc::clone(&kick))),
            tending: tokio::task::spawn_local(tend(told.events)),
            kick,
            end: told.end,
            lock,
        }
    }

    /// Waits until nobody touches the data folder any more; the core is gone by now. Gives the folder up then. If
    /// the disk keeps somebody longer than `bound`, the folder stays locked until the process ends.
    /// `is_left_alone` says whether everybody else touches it no more.
    pub(crate) async fn end(mut self, bound: Duration, is_left_alone: bool) {
        self.kick.notify_one();
        self.tending.abort();
        // Told to end, so how it ends says nothing.
        let _ = (&mut self.tending).await;
        let is_written = tokio::time::timeout(bound, &mut self.writing).await.is_ok();
        let is_done = matches!(
            self.end.recv_timeout(bound),
            Err(mpsc::RecvTimeoutError::Disconnected)
        );
        if is_written && is_done && is_left_alone {
            drop(self.lock);
        } else {
            tracing::error!(
                "the disk keeps a thread that writes there: the data folder stays locked"
            );
            self.lock.keep();
        }
    }
}

/// LIMIT: records that nobody waits for are written after this time.
const LAZY: Duration = Duration::from_millis(2);
/// LIMIT: time that a group is held for the rest of a burst, if the one before was a burst; also at most a quarter of
/// what a write takes.
const GATHER: Duration = Duration::from_micros(50);

/// Writes groups until the core is gone from this thread.
async fn write_groups(mut disk: Disk, network: Backend, kick: Rc<Notify>) {
    let mut last = LastGroup::default();
    loop {
        ride_along(&kick).await;
        last.gather(network).await;
        let count = core_cell::look(Core::unwritten).map_or(0, |(count, _)| count);
        match core_cell::attend(Core::next_journal_write) {
            None => return,
            Some(None) => kick.notified().await,
            Some(Some(order)) => {
                let begun = Instant::now();
                let answer = disk.write(order).await;
                last = LastGroup {
                    records: count,
                    took: begun.elapsed(),
                };
                tracing::trace!(records = count, took = ?last.took, "group written");
                core_cell::enter(|core| core.journal_written(answer));
            }
        }
    }
}

/// Holds records that nobody waits for until somebody waits, or for a short while: they go with the next group then.
async fn ride_along(kick: &Notify) {
    let until = tokio::time::Instant::now() + LAZY;
    while core_cell::look(Core::unwritten).is_some_and(|(count, awaited)| count > 0 && !awaited) {
        if tokio::time::timeout_at(until, kick.notified())
            .await
            .is_err()
        {
            return;
        }
    }
}

/// What the last write was: those who waited for it may come again together.
#[derive(Debug, Default)]
struct LastGroup {
    records: u64,
    took: Duration,
}

impl LastGroup {
    /// Lets the rest of a burst arrive, because whoever misses this write waits for two. A single submission is
    /// never held.
    async fn gather(&self, network: Backend) {
        let bound = GATHER.min(self.took / 4);
        let begun = Instant::now();
        while begun.elapsed() < bound {
            let count = core_cell::look(Core::unwritten).map_or(0, |(count, _)| count);
            if count == 0 || count >= self.records {
                return;
            }
            network.turn().await;
        }
    }
}

/// Takes in what the chores thread says, and sees four times a second to what is due.
async fn tend(mut events: UnboundedReceiver<Event>) {
    let mut ticks = tokio::time::interval(TEND);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut count = 0_u32;
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            _ = ticks.tick() => {
                if core_cell::attend(Core::tend_journal).is_none() {
                    return;
                }
                count = (count + 1) % LOOK_EACH;
                if count == 0 {
                    core_cell::attend(|core| core.look_at_journal_file());
                }
                continue;
            }
        };
        let Some(event) = event else {
            return;
        };
        take(event);
    }
}

fn take(event: Event) {
    match event {
        Event::Done(kind) => {
            core_cell::attend(|core| core.chore_done(kind));
        }
        Event::FileMade(made) => {
            core_cell::enter(|core| core.journal_file_made(made));
        }
        Event::SnapshotRead(reply) => {
            tokio::task::spawn_local(let_publish(reply));
        }
        Event::SnapshotTaken(taken) => {
            core_cell::enter(|core| core.snapshot_taken(taken));
        }
        Event::FileGone(file) => {
            core_cell::enter(|core| {
                core.fail_journal(format!(
                    "{file} was removed or replaced while it is written: the next start would not find it; nothing is acknowledged any more"
                ));
            });
        }
        Event::Files(logs) => {
            core_cell::attend(|core| core.note_journal_files(logs));
        }
        Event::Reclaimed(Ok(done)) => {
            tracing::debug!(
                recycled = done.recycled,
                removed = done.removed,
                "journal files"
            );
            // There may be room now.
            core_cell::attend(Core::tend_journal);
        }
        Event::Reclaimed(Err(error)) => {
            tracing::warn!(%error, "old journal files are left for the next snapshot");
        }
    }
}

/// Everything that a snapshot may show was appended by now; it may be published when that is stable.
async fn let_publish(reply: mpsc::Sender<Lsn>) {
    // Where this daemon has no file yet nothing becomes stable, and the snapshot may be what makes room for one. If it
    // shows anything that is not stable it is refused its name, and the next one tried.
    let is_begun = core_cell::look(|core| core.journal.as_ref().is_some_and(Journal::has_begun));
    let end = core_cell::look(Core::unstable_end)
        .flatten()
        .filter(|_| is_begun == Some(true));
    if stable(end).await.is_ok()
        && let Some(durable) = core_cell::look(|core| core.engine.durable_lsn())
    {
        // The snapshot's thread has given up if nobody takes it.
        let _ = reply.send(durable);
    }
}
