//! The threads that programs are started on and waited for, each with a runtime of its own.
//!
//! Whoever starts a program stands still until the kernel has loaded it. With one thread for all, the end of one program would wait for the
//! start of another, with a processor idle meanwhile.
//!
//! Invariants:
//! - H1: a thread lives as long as its worker: a program is killed when the thread that started it ends (`sys/launch`, L2).
//! - H2: when the last thread is gone all that ran on them is killed: dropping them waits for that.
//! - H3: what has to be woken between two programs is woken once: an attempt stays where it was begun.
//!
//! Tested at the end of the file, and with all that runs programs.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// LIMIT: each has four descriptors, and the kernel starts no more programs at the same time than this many can ask for.
const THREADS_MAX: usize = 16;

/// The threads of one worker.
#[derive(Debug)]
pub(crate) struct Threads(Vec<Thread>);

#[derive(Debug)]
struct Thread {
    runtime: Handle,
    /// As many as there are attempts on it, and one.
    attempts: Arc<()>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Threads {
    /// For a worker that runs so many programs at once. They are started with it: later there may be no descriptors for them.
    pub(crate) fn for_slots(slots: u32) -> Self {
        let cores = thread::available_parallelism().map_or(1, core::num::NonZero::get);
        let slots = usize::try_from(slots).unwrap_or(usize::MAX);
        Self::of(slots.min(cores).min(THREADS_MAX))
    }

    fn of(wanted: usize) -> Self {
        if wanted < 2 {
            return Self(Vec::new());
        }
        let started = (1..=wanted).map_while(|number| {
            let thread = Thread::start(number);
            let told = thread.inspect_err(|error| {
                tracing::warn!(%error, number, wanted, "programs are started on fewer threads");
            });
            told.ok()
        });
        Self(started.collect())
    }

    /// Has an attempt run on the thread that has the fewest.
    pub(crate) fn run(&self, attempt: impl Future<Output = ()> + Send + 'static) {
        let threads = self.0.iter();
        match threads.min_by_key(|thread| Arc::strong_count(&thread.attempts)) {
            Some(thread) => {
                let counted = Arc::clone(&thread.attempts);
                thread.runtime.spawn(async move {
                    let _counted = counted;
                    attempt.await;
                });
            }
            None => drop(tokio::spawn(attempt)),
        }
    }
}

impl Thread {
    fn start(number: usize) -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name(format!("qtf-programs-{number}"));
        let thread = thread.spawn(move || {
            // It ends when its sender is gone; what still runs on the runtime goes with that.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self {
            runtime: handle,
            attempts: Arc::new(()),
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        for thread in &mut self.0 {
            thread.stop = None;
        }
        for thread in self.0.drain(..) {
            // One that has panicked has ended as well.
            let _ = thread.thread.map(JoinHandle::join);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::Mutex;
    use tokio::sync::{Barrier, mpsc};

    #[tokio::test]
    async fn attempts_at_the_same_time_are_spread_over_all_threads_and_none_is_where_the_worker_is()
    {
        let threads = Threads::of(3);
        let all_run = Arc::new(Barrier::new(7));
        let seen = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..6 {
            let (all_run, seen) = (Arc::clone(&all_run), Arc::clone(&seen));
            threads.run(async move {
                seen.lock().unwrap().push(thread::current().id());
                all_run.wait().await;
            });
        }
        all_run.wait().await;
        let seen = seen.lock().unwrap();
        let different: HashSet<_> = seen.iter().collect();
        assert_eq!(different.len(), 3);
        for id in different {
            assert_ne!(*id, thread::current().id());
            assert_eq!(seen.iter().filter(|one| *one == id).count(), 2);
        }
    }

    #[tokio::test]
    async fn one_slot_needs_no_thread() {
        let threads = Threads::for_slots(1);
        let (told, mut ids) = mpsc::unbounded_channel();
        threads.run(async move { told.send(thread::current().id()).unwrap() });
        assert_eq!(ids.recv().await, Some(thread::current().id()));
    }

    #[tokio::test]
    async fn what_runs_is_dropped_before_the_threads_are_gone() {
        struct Kept(mpsc::UnboundedSender<&'static str>);
        impl Drop for Kept {
            fn drop(&mut self) {
                self.0.send("dropped").unwrap();
            }
        }
        let threads = Threads::of(2);
        let (told, mut said) = mpsc::unbounded_channel();
        for _ in 0..4 {
            let kept = Kept(told.clone());
            threads.run(async move {
                kept.0.send("runs").unwrap();
                core::future::pending::<()>().await;
                drop(kept);
            });
        }
        for _ in 0..4 {
            assert_eq!(said.recv().await, Some("runs"));
        }
        drop(threads);
        for _ in 0..4 {
            assert_eq!(said.try_recv(), Ok("dropped"));
        }
    }
}
