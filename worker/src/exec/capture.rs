//! The pipes of a child: standard input fed, outputs kept up to a limit and counted beyond it.
//!
//! Most programs end before anybody would have to wait for their pipes. So what is in a pipe is taken by whoever has the time, and the
//! runtime watches it only where it is waited for. Invariant: our ends do not block; whoever tries them goes on at once.
//!
//! Tested in `exec/tests.rs`.

use core::cell::RefCell;
use core::time::Duration;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use bytes::{Buf as _, Bytes};
use nix::errno::Errno;
use tokio::io::unix::AsyncFd;

use crate::sys;

// LIMIT: the default size of a pipe, so that one read can empty it.
const READ_BYTES: usize = 64 << 10;
const FIRST_BYTES: usize = 4 << 10;
// LIMIT: reads or writes without a pause, where the other side is as fast.
const TRIES_AT_ONCE: u32 = 16;
/// Between two looks at a pipe that the runtime has no room to watch.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

thread_local! {
    /// What any pipe of this thread is read into: most outputs are short, and each is kept at its own length.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// One output of a child.
#[derive(Debug)]
pub(super) struct Capture {
    /// Until its end is read.
    pipe: Option<OwnedFd>,
    pub(super) kept: Kept,
}

/// What is kept of an output.
#[derive(Debug)]
pub(super) struct Kept {
    limit: usize,
    /// The first bytes, at most `limit`.
    pub(super) bytes: Vec<u8>,
    /// Those beyond.
    pub(super) dropped_bytes: u64,
}

impl Capture {
    /// Of our end of a pipe, which does not block.
    pub(super) const fn new(pipe: OwnedFd, limit: usize) -> Self {
        Self {
            pipe: Some(pipe),
            kept: Kept {
                limit,
                bytes: Vec::new(),
                dropped_bytes: 0,
            },
        }
    }

    /// All is read, and nobody is there who could write more.
    pub(super) const fn is_over(&self) -> bool {
        self.pipe.is_none()
    }

    /// Takes what is there, without waiting. Says whether that was anything, were it the end.
    pub(super) fn read_now(&mut self) -> bool {
        let mut is_new = false;
        for _ in 0..TRIES_AT_ONCE {
            let Some(pipe) = &self.pipe else { break };
            match self.kept.read(pipe) {
                Ok(true) => is_new = true,
                Ok(false) => {
                    is_new = true;
                    self.pipe = None;
                }
                Err(_would_block) => break,
            }
        }
        is_new
    }

    /// Reads to the end. May be dropped at any await without losing bytes.
    pub(super) async fn read_all(&mut self) {
        while let Some(pipe) = &self.pipe {
            let is_watched = match sys::watched(pipe) {
                Ok(watched) => {
                    read_watched(&watched, &mut self.kept).await;
                    true
                }
                Err(error) => {
                    tracing::debug!(%error, "a pipe cannot be watched: it is looked at from time to time");
                    false
                }
            };
            if is_watched {
                self.pipe = None;
            } else if !self.read_now() {
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        }
    }
}

async fn read_watched<T: AsFd + std::os::fd::AsRawFd>(pipe: &AsyncFd<T>, kept: &mut Kept) {
    // It fails only with the runtime, which takes this future with it.
    while let Ok(mut ready) = pipe.readable().await {
        match ready.try_io(|pipe| kept.read(pipe.get_ref())) {
            // One that writes without end leaves time to others.
            Ok(Ok(true)) => tokio::task::coop::consume_budget().await,
            Ok(Ok(false) | Err(_)) => return,
            Err(_would_block) => {}
        }
    }
}

impl Kept {
    /// Reads once: whether there will be more. Fails only because there is nothing now.
    fn read(&mut self, pipe: impl AsFd) -> io::Result<bool> {
        BUFFER.with_borrow_mut(|buffer| {
            match nix::unistd::read(pipe, buffer) {
                Ok(count) => {
                    self.take_in(buffer.get(..count).unwrap_or_default());
                    Ok(count > 0)
                }
                Err(Errno::EINTR) => Ok(true),
                Err(Errno::EAGAIN) => Err(io::ErrorKind::WouldBlock.into()),
                // A pipe that cannot be read any more has nothing more to say.
                Err(_) => Ok(false),
            }
        })
    }

    fn take_in(&mut self, bytes: &[u8]) {
        let kept = &mut self.bytes;
        let room = self.limit.saturating_sub(kept.len());
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        if kept.capacity() - kept.len() < first.len() {
            let more = match kept.len() {
                0 => 0,
                some => some.clamp(FIRST_BYTES, 16 * READ_BYTES),
            };
            kept.reserve_exact(more.min(room).max(first.len()));
        }
        kept.extend_from_slice(first);
        let rest = u64::try_from(rest.len()).unwrap_or(u64::MAX);
        self.dropped_bytes = self.dropped_bytes.saturating_add(rest);
    }
}

/// The standard input of a child.
#[derive(Debug)]
pub(super) struct Feed {
    /// Until all is written. A child need not read it: that nobody reads it any more is no failure.
    pipe: Option<OwnedFd>,
    rest: Bytes,
}

impl Feed {
    /// Into our end of a pipe, which does not block, if there is anything to be written.
    pub(super) const fn new(pipe: Option<OwnedFd>, stdin: Bytes) -> Self {
        Self { pipe, rest: stdin }
    }

    /// All is written, as far as anybody wants it.
    pub(super) const fn is_over(&self) -> bool {
        self.pipe.is_none()
    }

    /// Writes what there is room for, without waiting.
    pub(super) fn write_now(&mut self) {
        for _ in 0..TRIES_AT_ONCE {
            let Some(pipe) = &self.pipe else { break };
            match write(pipe, &mut self.rest) {
                Ok(true) => {}
                Ok(false) => self.pipe = None,
                Err(_would_block) => break,
            }
        }
    }

    /// Writes the rest, and closes.
    pub(super) async fn write_all(&mut self) {
        while let Some(pipe) = &self.pipe {
            let is_watched = match sys::watched(pipe) {
                Ok(watched) => {
                    write_watched(&watched, &mut self.rest).await;
                    true
                }
                Err(error) => {
                    tracing::debug!(%error, "a pipe cannot be watched: it is written to from time to time");
                    false
                }
            };
            if is_watched {
                self.pipe = None;
            } else {
                self.write_now();
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        }
    }
}

async fn write_watched<T: AsFd + std::os::fd::AsRawFd>(pipe: &AsyncFd<T>, rest: &mut Bytes) {
    while let Ok(mut ready) = pipe.writable().await {
        match ready.try_io(|pipe| write(pipe.get_ref(), rest)) {
            Ok(Ok(true)) => tokio::task::coop::consume_budget().await,
            Ok(Ok(false) | Err(_)) => return,
            Err(_would_block) => {}
        }
    }
}

/// Writes once: whether there is more to be written, and somebody who may read it. Fails only because there is no room now.
fn write(pipe: impl AsFd, rest: &mut Bytes) -> io::Result<bool> {
    if rest.is_empty() {
        return Ok(false);
    }
    match nix::unistd::write(pipe, rest) {
        Ok(count) => {
            rest.advance(count);
            Ok(!rest.is_empty())
        }
        Err(Errno::EINTR) => Ok(true),
        Err(Errno::EAGAIN) => Err(io::ErrorKind::WouldBlock.into()),
        Err(_) => Ok(false),
    }
}
