//! The pipes of a child: standard input fed, outputs kept up to a limit and counted beyond it.

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;

// LIMIT: the default size of a pipe, so that one read can empty it.
const READ_BYTES: usize = 64 << 10;
const FIRST_BYTES: usize = 4 << 10;

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
        let Some(pipe) = &mut self.pipe else { return };
        let mut surplus = Vec::new();
        loop {
            let room = self.limit.saturating_sub(self.kept.len());
            let read = if room > 0 {
                if self.kept.len() == self.kept.capacity() {
                    let more = self.kept.len().clamp(FIRST_BYTES, 16 * READ_BYTES);
                    self.kept.reserve_exact(more.min(room));
                }
                let room = u64::try_from(room).unwrap_or(u64::MAX);
                pipe.take(room).read_buf(&mut self.kept).await
            } else {
                surplus.clear();
                surplus.reserve(READ_BYTES);
                let read = pipe.read_buf(&mut surplus).await;
                let count = *read.as_ref().unwrap_or(&0);
                let count = u64::try_from(count).unwrap_or(u64::MAX);
                self.dropped_bytes = self.dropped_bytes.saturating_add(count);
                read
            };
            // A pipe that cannot be read any more has nothing more to say.
            if matches!(read, Ok(0) | Err(_)) {
                self.pipe = None;
                return;
            }
        }
    }
}

/// Writes standard input and closes it. A child need not read it: a broken pipe is no failure.
pub(super) async fn feed(pipe: Option<pipe::Sender>, stdin: Bytes) {
    if let Some(mut pipe) = pipe {
        let _ = pipe.write_all(&stdin).await;
    }
}
