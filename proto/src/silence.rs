//! A connection of which nothing is heard any more: the peer's host has vanished, a link carries nothing, or the peer is stopped.
//!
//! Pings see to it that a peer that lives is heard. What counts is every byte that comes, and a write that waited for room and went on: an
//! answer may be on its way for long over a slow link, behind much else, and a ping may be behind what we send ourselves. A time
//! for one ping alone would take such a peer for dead.
//!
//! Only time in which this process itself ran counts. Whoever was stopped, suspended with its machine or held up by something else sent
//! no ping, and what has come meanwhile is not read yet; the clock went on. So time is counted in ticks, of which a late one is one:
//! after a gap there is time for a ping and its answer.
//! Tested at the end of this file and in `tests/tests/silence.rs`.

use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::error::Error as StdError;
use std::io;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

const WORDS: &str = "no answer for ";
/// Ticks in the longest silence; several of them are between two pings.
const TICKS: u32 = 10;

/// Whether a text is what [`silence_of`] gives.
#[must_use]
pub fn is_silence(cause: &str) -> bool {
    cause.starts_with(WORDS)
}

/// What is told when a connection broke because nothing was heard: `no answer for 10 s`. `None` when it broke for another reason.
#[must_use]
pub fn silence_of(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(current) = next {
        // The layers between keep the text of the error and not its type.
        let text = current.to_string();
        if let Some(at) = text.find(WORDS) {
            let words = text.get(at..)?;
            let end = words.find(" s").map_or(words.len(), |end| end + 2);
            return words.get(..end).map(str::to_owned);
        }
        next = current.source();
    }
    None
}

fn silent(limit: Duration) -> io::Error {
    let text = match limit.subsec_millis() {
        0 => format!("{WORDS}{} s", limit.as_secs()),
        _ => format!("{WORDS}{:.1} s", limit.as_secs_f64()),
    };
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// A connection that fails when nothing was heard for too long.
#[derive(Debug)]
pub(crate) struct Attentive<S> {
    inner: S,
    watch: Option<Watch>,
    /// A write waits for room.
    is_blocked: bool,
}

#[derive(Debug)]
struct Watch {
    limit: Duration,
    /// Counted until `counted_at`.
    silent: Duration,
    counted_at: Instant,
    /// The end of a tick.
    alarm: Pin<Box<Sleep>>,
}

impl Watch {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            silent: Duration::ZERO,
            counted_at: Instant::now(),
            alarm: Box::pin(tokio::time::sleep(limit / TICKS)),
        }
    }

    fn hears(&mut self) {
        self.silent = Duration::ZERO;
        self.counted_at = Instant::now();
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let tick = self.limit / TICKS;
        while self.alarm.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            self.silent += (now - self.counted_at).min(tick);
            self.counted_at = now;
            let left = self.limit.saturating_sub(self.silent);
            if left.is_zero() {
                return Poll::Ready(silent(self.limit));
            }
            self.alarm.as_mut().reset(now + left.min(tick));
        }
        Poll::Pending
    }
}

impl<S> Attentive<S> {
    /// `None`: it may be silent for as long as it likes.
    pub(crate) fn new(inner: S, limit: Option<Duration>) -> Self {
        Self {
            inner,
            watch: limit.map(Watch::new),
            is_blocked: false,
        }
    }

    fn hears(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.hears();
        }
    }

    fn wrote<T>(&mut self, written: Poll<T>) -> Poll<T> {
        if written.is_pending() {
            self.is_blocked = true;
        } else if core::mem::take(&mut self.is_blocked) {
            self.hears();
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Attentive<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let read = Pin::new(&mut me.inner).poll_read(cx, buf);
        if read.is_ready() {
            me.hears();
            return read;
        }
        match &mut me.watch {
            Some(watch) => watch.poll(cx).map(Err),
            None => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Attentive<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        let written = Pin::new(&mut me.inner).poll_write(cx, buf);
        me.wrote(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        let written = Pin::new(&mut me.inner).poll_write_vectored(cx, bufs);
        me.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);
    /// A little less than that.
    const NEARLY: Duration = Duration::from_secs(9);

    #[tokio::test(start_paused = true)]
    async fn connection_fails_when_nothing_was_heard_for_the_limit_and_not_before() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Attentive::new(near, Some(LIMIT));
        let began = Instant::now();
        let talking = async {
            for _ in 0..5 {
                tokio::time::sleep(NEARLY).await;
                far.write_all(b"x").await.unwrap();
            }
        };
        let mut byte = [0];
        let hearing = async {
            for _ in 0..5 {
                near.read_exact(&mut byte).await.unwrap();
            }
        };
        tokio::join!(talking, hearing);
        assert!(began.elapsed() >= 5 * NEARLY);
        let error = near.read_exact(&mut byte).await.unwrap_err();
        assert_eq!(error.to_string(), "no answer for 10 s");
        assert_eq!(began.elapsed(), 5 * NEARLY + LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn peer_that_takes_what_waited_for_room_counts_as_heard() {
        let (near, mut far) = tokio::io::duplex(1);
        let near = Attentive::new(near, Some(LIMIT));
        let (mut read, mut write) = tokio::io::split(near);
        let began = Instant::now();
        let taking = async {
            let mut byte = [0];
            for _ in 0..5 {
                tokio::time::sleep(NEARLY).await;
                far.read_exact(&mut byte).await.unwrap();
            }
        };
        let mut byte = [0];
        let (_, _, silence) = tokio::join!(taking, write.write_all(&[7; 6]), read.read(&mut byte));
        assert!(is_silence(&silence.unwrap_err().to_string()));
        assert_eq!(began.elapsed(), 5 * NEARLY + LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn gap_in_which_nothing_ran_counts_as_one_tick() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Attentive::new(near, Some(LIMIT));
        let began = Instant::now();
        let mut byte = [0];
        let answering = async {
            tokio::time::sleep(NEARLY / 2).await;
            for _ in 0..3 {
                tokio::time::advance(7 * LIMIT).await;
            }
            // A ping that goes out now has its time.
            tokio::time::sleep(LIMIT / 4).await;
            far.write_all(b"x").await.unwrap();
        };
        let (heard, ()) = tokio::join!(near.read_exact(&mut byte), answering);
        heard.unwrap();
        assert!(began.elapsed() > 20 * LIMIT);
        let began = Instant::now();
        let error = near.read_exact(&mut byte).await.unwrap_err();
        assert_eq!(error.to_string(), "no answer for 10 s");
        assert_eq!(began.elapsed(), LIMIT);
    }

    #[test]
    fn limit_is_told_as_it_is() {
        let told = [2_000, 2_600].map(|ms| silent(Duration::from_millis(ms)).to_string());
        assert_eq!(told, ["no answer for 2 s", "no answer for 2.6 s"]);
        for text in told {
            assert_eq!(silence_of(&io::Error::other(text.clone())), Some(text));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connection_without_a_limit_may_be_silent() {
        let (near, _far) = tokio::io::duplex(64);
        let mut near = Attentive::new(near, None);
        let mut byte = [0];
        let read = tokio::time::timeout(100 * LIMIT, near.read(&mut byte));
        assert!(read.await.is_err(), "nothing came, and nothing failed");
    }

    #[test]
    fn silence_is_found_in_what_the_layers_above_make_of_it() {
        let inner = io::Error::other("connection error: no answer for 10 s, at once");
        let outer = io::Error::other(inner);
        assert_eq!(silence_of(&outer).as_deref(), Some("no answer for 10 s"));
        assert_eq!(silence_of(&io::Error::other("reset")), None);
    }
}
