//! The pipes of a child: standard input fed, outputs kept up to a limit and counted beyond it.

use core::cell::RefCell;
use std::io;

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;

// LIMIT: the default size of a pipe, so that one read can empty it.
const READ_BYTES: usize = 64 << 10;
const FIRST_BYTES: usize = 4 << 10;

thread_local! {
    /// What any pipe of this thread is read into: most outputs are short, and each is kept at its own length.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// One output of a child.
#[derive(Debug)]
pub(super) struct Capture {
    pipe: Option<pipe::Receiver>,
    limit: usize,
    /// The first bytes, at most `limit`.
    pub(super) kept: Vec<u8>,
    /// Bytes read beyond the limit.
    pub(super) dropped_bytes: u64,
}

impl Capture {
    pub(super) const fn new(pipe: Option<pipe::Receiver>, limit: usize) -> Self {
        Self {
            pipe,
            limit,
            kept: Vec::new(),
            dropped_bytes: 0,
        }
    }

    /// Reads to the end. May be dropped at any await without losing bytes.
    pub(super) async fn read_all(&mut self) {
        while let Some(pipe) = &self.pipe {
            let read = match pipe.readable().await {
                Ok(()) => BUFFER.with_borrow_mut(|buffer| {
                    let count = pipe.try_read(buffer)?;
                    Self::take_in(
                        (&mut self.kept, &mut self.dropped_bytes),
                        self.limit,
                        buffer.get(..count).unwrap_or_default(),
                    );
                    Ok(count)
                }),
                Err(error) => Err(error),
            };
            match read {
                // One that writes without end leaves time to others.
                Ok(1..) => tokio::task::coop::consume_budget().await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A pipe that cannot be read any more has nothing more to say.
                Ok(0) | Err(_) => self.pipe = None,
            }
        }
    }

    fn take_in((kept, dropped_bytes): (&mut Vec<u8>, &mut u64), limit: usize, bytes: &[u8]) {
        let room = limit.saturating_sub(kept.len());
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
        *dropped_bytes = dropped_bytes.saturating_add(rest);
    }
}

/// Writes standard input and closes it. A child need not read it: a broken pipe is no failure.
pub(super) async fn feed(pipe: Option<pipe::Sender>, stdin: Bytes) {
    if let Some(mut pipe) = pipe {
        let _ = pipe.write_all(&stdin).await;
    }
}
