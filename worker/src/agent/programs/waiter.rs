//! The thread that waits for programs that last: their pipes, their ends, their time limits, on a runtime of its own.
//!
//! Invariant: when it is gone, all that ran on it is killed: dropping it waits for that.
//!
//! Tested at the end of the file, and with all that runs programs.

use std::io;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Waiter {
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Waiter {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name("qtf-programs".to_owned());
        let thread = thread.spawn(move || {
            // It ends when its sender is gone; what still runs on the runtime goes with that.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self {
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it waits.
    pub(super) const fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // One that has panicked has ended as well.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn what_runs_is_dropped_before_the_thread_is_gone() {
        struct Kept(mpsc::UnboundedSender<&'static str>);
        impl Drop for Kept {
            fn drop(&mut self) {
                self.0.send("dropped").unwrap();
            }
        }
        let waiter = Waiter::start().unwrap();
        let (told, mut said) = mpsc::unbounded_channel();
        for _ in 0..4 {
            let kept = Kept(told.clone());
            waiter.runtime().spawn(async move {
                kept.0.send("runs").unwrap();
                core::future::pending::<()>().await;
                drop(kept);
            });
        }
        for _ in 0..4 {
            assert_eq!(said.recv().await, Some("runs"));
        }
        drop(waiter);
        for _ in 0..4 {
            assert_eq!(said.try_recv(), Ok("dropped"));
        }
    }
}
