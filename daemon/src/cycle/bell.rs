//! The daemon's ear at the doorbell: what wakes the pinned thread when a local process has rung.
//!
//! The pinned thread sleeps in its poll of sockets. Of a daemon that was told to have a ring of `io_uring`, where the kernel can wait for a futex in a
//! thread's place (`sys/ear.rs`), the bell is in that poll too. Else a thread sleeps on the word in the segment and passes a ring on; it is started before the pinned thread is pinned, so that it
//! runs beside it. While the daemon is awake nobody rings.
//!
//! Tested at the end of this file and in `daemon/tests/daemon/neighbours.rs`.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use qtf_shm::doorbell::Rings;
use qtf_shm::sync::{AtomicBool, Ordering};
use qtf_shm::{Counter, Segment};
use tokio::sync::Notify;

use crate::sys::ear::{self, Ear};

/// The thread looks by itself so often: a word that a mad peer writes in must not make it sleep for ever.
const LOOK: Duration = Duration::from_secs(60);

/// The ear. Dropped, it does not listen any more.
#[derive(Debug)]
pub(crate) struct Bell {
    segment: Arc<Segment>,
    wake: Arc<Notify>,
    by: Means,
}

/// What listens.
#[derive(Debug)]
enum Means {
    /// The poll of the pinned thread, once it sleeps for the first time.
    Poll(Option<Box<Ear>>),
    Thread(#[expect(dead_code, reason = "it ends when this is dropped")] Listener),
    /// Nothing: the daemon sleeps for half a second at most.
    Deaf,
}

/// A thread that passes rings on.
#[derive(Debug)]
struct Listener {
    segment: Arc<Segment>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Bell {
    /// Begins to listen: in the poll, for a daemon that was told to have a ring, where the kernel can wait for a futex; else on a thread.
    ///
    /// # Errors
    /// No thread can be had.
    pub(crate) fn listen(segment: &Arc<Segment>, has_ring: bool) -> io::Result<Self> {
        let wake = Arc::new(Notify::new());
        let by = if has_ring && ear::is_to_be_had() {
            Means::Poll(None)
        } else {
            Means::Thread(Listener::start(segment, &wake)?)
        };
        let segment = Arc::clone(segment);
        Ok(Self { segment, wake, by })
    }
    /// What wakes the pinned thread: others who want it awake notify this.
    pub(crate) fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }

    /// The pinned thread is about to sleep: it looks through everything once more after this.
    pub(crate) fn goes_to_sleep(&self) {
        self.segment.doorbell().goes_to_sleep();
    }

    /// It is awake.
    pub(crate) fn wakes_up(&self) {
        self.segment.doorbell().wakes_up();
    }

    /// Comes back when somebody has rung, unless that notifies `wake`. To be polled by the pinned thread after it has said that it goes to sleep.
    pub(crate) async fn rung(&mut self) {
        loop {
            let heard = match &mut self.by {
                Means::Thread(_) | Means::Deaf => return core::future::pending().await,
                Means::Poll(Some(ear)) => ear.rung().await,
                Means::Poll(none) => match Ear::on_this_thread(Arc::clone(&self.segment)) {
                    Ok(ear) => {
                        *none = Some(Box::new(ear));
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            match heard {
                Ok(()) => {
                    self.segment.counters().add(Counter::DoorbellHeard, 1);
                    return;
                }
                Err(error) => self.have_a_thread_listen(&error),
            }
        }
    }

    /// The poll cannot hear the bell after all.
    fn have_a_thread_listen(&mut self, error: &io::Error) {
        tracing::warn!(%error, "no ring of io_uring for the doorbell: a thread listens");
        match Listener::start(&self.segment, &self.wake) {
            Ok(listener) => self.by = Means::Thread(listener),
            Err(error) => {
                tracing::error!(%error, "no thread for the doorbell: local processes are heard each half second");
                self.by = Means::Deaf;
            }
        }
    }
}

impl Listener {
    fn start(segment: &Arc<Segment>, wake: &Arc<Notify>) -> io::Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        // Before the thread runs: what is rung from here on is heard.
        let known = segment.doorbell().rings();
        let thread = std::thread::Builder::new()
            .name("qtfd-bell".to_owned())
            .spawn({
                let (segment, wake) = (Arc::clone(segment), Arc::clone(wake));
                let is_over = Arc::clone(&is_over);
                move || pass_on(&segment, known, &wake, &is_over)
            })?;
        Ok(Self {
            segment: Arc::clone(segment),
            is_over,
            thread: Some(thread),
        })
    }
}

fn pass_on(segment: &Segment, mut known: Rings, wake: &Notify, is_over: &AtomicBool) {
    let bell = segment.doorbell();
    loop {
        let seen = bell.rings();
        // ORDERING: the ring, which came after it, has been seen by an acquiring look.
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        if seen.count() != known.count() {
            known = seen;
            segment.counters().add(Counter::DoorbellHeard, 1);
            wake.notify_one();
        }
        bell.wait(seen, LOOK);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // ORDERING: the ring that follows carries it over.
        self.is_over.store(true, Ordering::Relaxed);
        self.segment.doorbell().ring_anyway();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the doorbell's thread has panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use qtf_shm::{Geometry, SegmentSpec};

    use super::*;

    fn segment(folder: &std::path::Path) -> Arc<Segment> {
        let mut spec = SegmentSpec::new("bell", folder);
        spec.geometry = Geometry::for_counts(64, 16).unwrap();
        Arc::new(Segment::create_private(&spec).unwrap())
    }

    /// Wakes the daemon three times.
    async fn rings(mut bell: Bell, segment: &Arc<Segment>) {
        let heard = || segment.counters().get(Counter::DoorbellHeard);
        let wake = bell.wake();
        segment.doorbell().ring();
        assert_eq!((segment.doorbell().rings().count(), heard()), (0, 0));
        for rings in 1..=3 {
            bell.goes_to_sleep();
            let (ringer, is_polled) = (Arc::clone(segment), rings > 1);
            // Without an ear this would last for ever. The ring comes before the look, or beside the sleep.
            let sleep = async {
                tokio::select! {
                    () = bell.rung() => {}
                    () = wake.notified() => {}
                }
            };
            let ring = async {
                if is_polled {
                    tokio::task::yield_now().await;
                }
                ringer.doorbell().ring();
                ringer.doorbell().ring();
            };
            tokio::join!(sleep, ring);
            assert_eq!(segment.doorbell().rings().count(), rings);
            assert_eq!(heard(), u64::from(rings));
        }
        bell.goes_to_sleep();
        bell.wakes_up();
        segment.doorbell().ring();
        assert_eq!(segment.doorbell().rings().count(), 3);
        drop(bell);
        assert_eq!(Arc::strong_count(segment), 1, "nobody listens any more");
    }

    #[tokio::test]
    async fn ring_wakes_the_sleeping_daemon_and_one_that_is_awake_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let segment = segment(folder.path());
        rings(Bell::listen(&segment, false).unwrap(), &segment).await;
    }

    #[tokio::test]
    async fn bell_is_in_the_poll_where_the_kernel_can_wait_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let segment = segment(folder.path());
        let bell = Bell::listen(&segment, true).unwrap();
        if matches!(bell.by, Means::Poll(_)) {
            rings(bell, &segment).await;
        } else {
            qtf_needs::skip(qtf_needs::Need::IoUring, "FUTEX_WAIT");
        }
    }
}
