//! The daemon's ear at the doorbell: a thread that sleeps on the word in the segment, and wakes the pinned thread when a local process
//! has rung.
//!
//! The pinned thread sleeps in its poll of sockets, where a futex cannot wake it; so this thread waits in its place, and passes a ring
//! on. While the daemon is awake nobody rings, and the thread sleeps. It is started before the pinned thread is pinned, so that it
//! runs beside it.
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

/// The thread looks by itself so often: a word that a mad peer writes in must not make it sleep for ever.
const LOOK: Duration = Duration::from_secs(60);

/// The ear. Dropped, its thread ends.
#[derive(Debug)]
pub(crate) struct Bell {
    segment: Arc<Segment>,
    wake: Arc<Notify>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Bell {
    /// Begins to listen; a ring notifies `wake`.
    ///
    /// # Errors
    /// No thread can be had.
    pub(crate) fn listen(segment: Arc<Segment>) -> io::Result<Self> {
        let wake = Arc::new(Notify::new());
        let is_over = Arc::new(AtomicBool::new(false));
        // Before the thread runs: what is rung from here on is heard.
        let known = segment.doorbell().rings();
        let thread = std::thread::Builder::new()
            .name("qtfd-bell".to_owned())
            .spawn({
                let (segment, wake) = (Arc::clone(&segment), Arc::clone(&wake));
                let is_over = Arc::clone(&is_over);
                move || pass_on(&segment, known, &wake, &is_over)
            })?;
        Ok(Self {
            segment,
            wake,
            is_over,
            thread: Some(thread),
        })
    }

    /// What a ring notifies; others who want the pinned thread awake do so too.
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

impl Drop for Bell {
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

    #[tokio::test]
    async fn ring_wakes_the_sleeping_daemon_and_one_that_is_awake_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let segment = segment(folder.path());
        let bell = Bell::listen(Arc::clone(&segment)).unwrap();
        let heard = || segment.counters().get(Counter::DoorbellHeard);
        segment.doorbell().ring();
        assert_eq!((segment.doorbell().rings().count(), heard()), (0, 0));
        for rings in 1..=3 {
            bell.goes_to_sleep();
            segment.doorbell().ring();
            segment.doorbell().ring();
            // Without an ear this would last for ever.
            bell.wake().notified().await;
            assert_eq!(segment.doorbell().rings().count(), rings);
            assert_eq!(heard(), u64::from(rings));
        }
        bell.goes_to_sleep();
        bell.wakes_up();
        segment.doorbell().ring();
        assert_eq!(segment.doorbell().rings().count(), 3);
        drop(bell);
        assert_eq!(Arc::strong_count(&segment), 1, "the thread has ended");
    }
}
