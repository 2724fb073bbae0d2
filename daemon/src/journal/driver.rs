//! The two tasks of the daemon's thread that move the journal: one executes its writes, one listens to the chores thread.
//!
//! As soon as a write has been answered the next group goes out; no timer stands between a submission and its write.
//! Tested in `tests/daemon/journal.rs`, over both backends.

use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use qtf_journal::Lsn;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;

use super::backend::Disk;
use super::chores::Event;
use crate::core_cell::stability::stable;
use crate::core_cell::{self, Core};

/// LIMIT: time between two looks at what failed or is due; a full disk that has room again is noticed after as long.
const TEND: Duration = Duration::from_millis(250);

/// Writes groups until the core is gone from this thread.
pub(crate) async fn write_groups(mut disk: Disk, kick: Rc<Notify>) {
    loop {
        match core_cell::attend(Core::next_journal_write) {
            None => return,
            Some(None) => kick.notified().await,
            Some(Some(order)) => {
                let answer = disk.write(order).await;
                core_cell::enter(|core| core.journal_written(answer));
            }
        }
    }
}

/// Takes in what the chores thread says, and sees four times a second to what is due.
pub(crate) async fn tend(mut events: UnboundedReceiver<Event>) {
    let mut ticks = tokio::time::interval(TEND);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            _ = ticks.tick() => {
                if core_cell::attend(Core::tend_journal).is_none() {
                    return;
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
        Event::FileMade(made) => {
            core_cell::enter(|core| core.journal_file_made(made));
        }
        Event::SnapshotRead(reply) => {
            tokio::task::spawn_local(let_publish(reply));
        }
        Event::SnapshotTaken(taken) => {
            core_cell::enter(|core| core.snapshot_taken(taken));
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
    let end = core_cell::look(Core::unstable_end).flatten();
    if stable(end).await.is_ok()
        && let Some(durable) = core_cell::look(|core| core.engine.durable_lsn())
    {
        // The snapshot's thread has given up if nobody takes it.
        let _ = reply.send(durable);
    }
}
