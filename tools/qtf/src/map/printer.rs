//! Writes outputs on a thread of its own, so that a reader who pauses does not stop the heartbeats.
//!
//! Invariant: chunks are written in the order in which they were handed over, stdout and stderr
//! interleaved as handed over; at most [`CHUNKS_AHEAD`] wait. After a failed write to stdout nothing
//! more is written there. Tested at the end of this file.

use std::io::{self, Write};

use bytes::Bytes;
use indicatif::ProgressBar;
use tokio::sync::{mpsc, oneshot};

/// LIMIT: chunks of at most 64 KiB that wait for the reader: 2 MiB.
const CHUNKS_AHEAD: usize = 32;

/// What is to be written.
#[derive(Debug)]
pub(crate) enum Chunk {
    /// Bytes for stdout.
    Stdout(Bytes),
    /// Bytes for stderr.
    Stderr(Bytes),
}

/// The way to the writing thread.
#[derive(Debug)]
pub(crate) struct Printer {
    chunks: mpsc::Sender<Chunk>,
    ended: oneshot::Receiver<io::Result<()>>,
}

impl Printer {
    /// Starts the thread. It may sit in a write when the program ends; that holds nothing up.
    pub(crate) fn start(bar: ProgressBar) -> io::Result<Self> {
        let (chunks, mut waiting) = mpsc::channel(CHUNKS_AHEAD);
        let (end, ended) = oneshot::channel();
        let write = move || {
            let result = write_all(&mut waiting, &bar, &mut io::stdout(), &mut io::stderr());
            // Close the channel first: who sees the end must not hand over more.
            drop(waiting);
            let _nobody_asks = end.send(result);
        };
        std::thread::Builder::new()
            .name("qtf-printer".to_owned())
            .spawn(write)?;
        Ok(Printer { chunks, ended })
    }

    /// A handle for handing over chunks.
    pub(crate) fn sender(&self) -> mpsc::Sender<Chunk> {
        self.chunks.clone()
    }

    /// Waits for the end of the thread: a failed write, or the last chunk after all senders are gone.
    pub(crate) async fn ended(&mut self) -> io::Result<()> {
        (&mut self.ended).await.unwrap_or(Ok(()))
    }

    /// Lets the thread write what waits and waits for it.
    pub(crate) async fn finish(self) -> io::Result<()> {
        let Printer { chunks, ended } = self;
        drop(chunks);
        ended.await.unwrap_or(Ok(()))
    }
}

/// Writes until no more chunks come; flushes whenever none waits.
fn write_all(
    waiting: &mut mpsc::Receiver<Chunk>,
    bar: &ProgressBar,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
) -> io::Result<()> {
    let mut stdout = io::BufWriter::with_capacity(64 * 1024, stdout);
    while let Some(chunk) = waiting.blocking_recv() {
        match chunk {
            Chunk::Stdout(bytes) => {
                stdout.write_all(&bytes)?;
                if waiting.is_empty() {
                    bar.suspend(|| stdout.flush())?;
                }
            }
            Chunk::Stderr(bytes) => {
                // On a terminal both go to the same place: keep their order.
                bar.suspend(|| stdout.flush())?;
                // Nobody reads stderr any more: nowhere is left to say so.
                let _unheard = bar.suspend(|| stderr.write_all(&bytes));
            }
        }
    }
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue(chunks: Vec<Chunk>) -> mpsc::Receiver<Chunk> {
        let (sender, receiver) = mpsc::channel(16);
        for chunk in chunks {
            sender.try_send(chunk).unwrap();
        }
        receiver
    }

    #[test]
    fn chunks_keep_their_order_across_both_outputs() {
        let both = Shared::default();
        let mut chunks = queue(vec![
            Chunk::Stdout(Bytes::from_static(b"1")),
            Chunk::Stderr(Bytes::from_static(b"2")),
            Chunk::Stdout(Bytes::from_static(b"3")),
        ]);
        let bar = ProgressBar::hidden();
        write_all(&mut chunks, &bar, &mut both.clone(), &mut both.clone()).unwrap();
        assert_eq!(*both.0.lock().unwrap(), b"123");
    }

    #[test]
    fn a_closed_stdout_is_told_and_a_closed_stderr_is_not() {
        let bar = ProgressBar::hidden();
        let mut chunks = queue(vec![Chunk::Stdout(Bytes::from_static(b"1"))]);
        let error = write_all(&mut chunks, &bar, &mut Closed, &mut Shared::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);

        let out = Shared::default();
        let mut chunks = queue(vec![
            Chunk::Stderr(Bytes::from_static(b"2")),
            Chunk::Stdout(Bytes::from_static(b"1")),
        ]);
        write_all(&mut chunks, &bar, &mut out.clone(), &mut Closed).unwrap();
        assert_eq!(*out.0.lock().unwrap(), b"1");
    }
}
