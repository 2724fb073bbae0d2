//! Lines that wait to be written: bounded, so that a reader that does not come costs lines and not the program.
//!
//! Tested at the end.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

use crate::Missing;
use crate::rates::Rates;

/// LIMIT: bytes that wait, beside as many that are being written.
pub const QUEUE_BYTES_MAX: usize = 256 << 10;

/// How often it is told what was left out.
const TELL_LEFT_OUT_EVERY: Duration = Duration::from_secs(10);

/// What is between those who log and the one that writes.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// For the writer: there is something to write.
    filled: Condvar,
    /// For those who wait for the end: all is written.
    emptied: Condvar,
    kind: Kind,
}

/// What the queue holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Lines, one behind the other.
    #[default]
    Lines,
    /// Entries of several lines, which are sent one by one: before each stands its length, of four bytes.
    Entries,
}

#[derive(Debug)]
struct State {
    waiting: Vec<u8>,
    is_writing: bool,
    rates: Rates,
    missing: Missing,
    /// Lines lost that no line has told of.
    lost_untold: u64,
    left_out_told: Instant,
}

/// What the writer is to write next.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) lines: Vec<u8>,
    /// Lines that were lost behind these.
    pub(crate) lost: u64,
    pub(crate) left_out: Vec<(&'static Metadata<'static>, u64)>,
    kind: Kind,
}

impl Batch {
    /// What is to be written at once: all lines together, or each entry.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.lines.as_slice();
        let kind = self.kind;
        std::iter::from_fn(move || {
            if kind == Kind::Lines {
                return Some(std::mem::take(&mut rest)).filter(|lines| !lines.is_empty());
            }
            let (length, behind) = rest.split_first_chunk::<4>()?;
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            let (entry, behind) = behind.split_at_checked(length)?;
            rest = behind;
            Some(entry)
        })
    }
}

/// What could not be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) lines: u64,
    /// Lines lost before, of which was to be told.
    pub(crate) untold: u64,
}

impl Queue {
    /// A queue of lines.
    pub(crate) fn new(now: Instant) -> Self {
        Self::of(Kind::Lines, now)
    }

    /// A queue of entries.
    pub(crate) fn of_entries(now: Instant) -> Self {
        Self::of(Kind::Entries, now)
    }

    fn of(kind: Kind, now: Instant) -> Self {
        Self {
            kind,
            state: Mutex::new(State {
                waiting: Vec::new(),
                is_writing: false,
                rates: Rates::default(),
                missing: Missing::default(),
                lost_untold: 0,
                left_out_told: now,
            }),
            filled: Condvar::new(),
            emptied: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked with it has left it whole: each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a line or an entry, or counts it as lost.
    pub(crate) fn push(&self, line: &[u8]) {
        let length = u32::try_from(line.len()).unwrap_or(u32::MAX).to_le_bytes();
        let before: &[u8] = match self.kind {
            Kind::Lines => &[],
            Kind::Entries => &length,
        };
        let bytes = line.len().saturating_add(before.len());
        let mut state = self.state();
        if state.waiting.len().saturating_add(bytes) > QUEUE_BYTES_MAX {
            state.lose(1);
        } else {
            state.waiting.extend_from_slice(before);
            state.waiting.extend_from_slice(line);
        }
        drop(state);
        self.filled.notify_one();
    }

    /// Whether a line of this place may come now.
    pub(crate) fn admits(&self, of: &'static Metadata<'static>, now: Instant) -> bool {
        let mut state = self.state();
        let is_admitted = state.rates.admits(of, now);
        if !is_admitted {
            state.missing.left_out = state.missing.left_out.saturating_add(1);
            drop(state);
            self.filled.notify_one();
        }
        is_admitted
    }

    pub(crate) fn missing(&self) -> Missing {
        self.state().missing
    }

    /// Waits for something to write. The batch of before is written by then, but for what `failed` says.
    pub(crate) fn next(&self, batch: &mut Batch, failed: Failed) {
        let mut state = self.state();
        state.is_writing = false;
        state.lose(failed.lines);
        state.lost_untold = state.lost_untold.saturating_add(failed.untold);
        loop {
            let now = Instant::now();
            let tell_at = state.left_out_told + TELL_LEFT_OUT_EVERY;
            let tells = state.rates.has_left_out() && now >= tell_at;
            if !state.waiting.is_empty() || tells {
                break;
            }
            self.emptied.notify_all();
            state = if state.rates.has_left_out() {
                let left = tell_at.saturating_duration_since(now);
                let waited = self.filled.wait_timeout(state, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            } else {
                let waited = self.filled.wait(state);
                waited.unwrap_or_else(PoisonError::into_inner)
            };
        }
        state.is_writing = true;
        batch.kind = self.kind;
        batch.lines.clear();
        std::mem::swap(&mut batch.lines, &mut state.waiting);
        batch.lost = std::mem::take(&mut state.lost_untold);
        let now = Instant::now();
        if now >= state.left_out_told + TELL_LEFT_OUT_EVERY {
            state.left_out_told = now;
            batch.left_out = state.rates.take_left_out();
        }
    }

    /// Waits until all is written, at most for so long. Whether it is.
    pub(crate) fn flush(&self, limit: Duration) -> bool {
        let is_busy = |state: &mut State| state.is_writing || !state.waiting.is_empty();
        let waited = self
            .emptied
            .wait_timeout_while(self.state(), limit, is_busy);
        let (_state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }
}

impl State {
    fn lose(&mut self, lines: u64) {
        self.missing.lost = self.missing.lost.saturating_add(lines);
        self.lost_untold = self.lost_untold.saturating_add(lines);
    }
}

/// The way of an event into the queue: each is one write, and one line, whatever names and reasons of others it holds.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) queue: Arc<Queue>,
    pub(crate) written: Written,
}

/// What the formatter has done to hidden characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Nothing.
    Plain,
    /// It puts colours in, and escapes those of others.
    Coloured,
    /// All that ends a line or drives a terminal is escaped in JSON's own way, and there is no other in JSON.
    Json,
}

#[derive(Debug)]
pub(crate) struct Line<'a>(&'a Lines);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

impl io::Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.written == Written::Json {
            self.0.queue.push(line);
            return Ok(line.len());
        }
        let text = String::from_utf8_lossy(line);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let is_own = |c| self.0.written == Written::Coloured && c == '\u{1b}';
        let mut shown = qtf_shown::text::visible_but(text, is_own).into_owned();
        shown.push('\n');
        self.0.queue.push(shown.as_bytes());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn lines_beyond_the_bound_are_lost_and_counted_and_told_once() {
        let queue = Queue::new(Instant::now());
        let line = vec![b'x'; 1 << 10];
        for _ in 0..300 {
            queue.push(&line);
        }
        assert_eq!(queue.missing().lost, 300 - 256);
        let mut batch = Batch::default();
        queue.next(&mut batch, Failed::default());
        assert_eq!((batch.lines.len(), batch.lost), (QUEUE_BYTES_MAX, 44));
        queue.push(b"again");
        let failed = Failed {
            lines: 2,
            untold: 1,
        };
        queue.next(&mut batch, failed);
        assert_eq!(
            (batch.lines.as_slice(), batch.lost),
            (b"again".as_slice(), 3)
        );
        assert_eq!(queue.missing().lost, 46);
    }

    #[test]
    fn an_event_is_one_line_in_which_all_can_be_seen() {
        let odd = "worker \u{1b}[31m\u{202e}eno\nWARN \u{9b}1m\n";
        for (written, expected) in [
            (
                Written::Plain,
                "worker \\u{1b}[31m\\u{202e}eno\\nWARN \\u{9b}1m\n",
            ),
            (
                Written::Coloured,
                "worker \u{1b}[31m\\u{202e}eno\\nWARN \\u{9b}1m\n",
            ),
        ] {
            let lines = Lines {
                queue: Arc::new(Queue::new(Instant::now())),
                written,
            };
            lines.make_writer().write_all(odd.as_bytes()).unwrap();
            let mut batch = Batch::default();
            lines.queue.next(&mut batch, Failed::default());
            assert_eq!(String::from_utf8(batch.lines).unwrap(), expected);
        }
    }

    #[test]
    fn end_waits_for_what_is_written_but_not_for_ever() {
        let queue = Arc::new(Queue::new(Instant::now()));
        assert!(queue.flush(Duration::ZERO));
        queue.push(b"last");
        assert!(!queue.flush(Duration::from_millis(1)), "nobody writes");
        let mut batch = Batch::default();
        queue.next(&mut batch, Failed::default());
        assert!(
            !queue.flush(Duration::from_millis(1)),
            "it is being written"
        );
        let writer = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.next(&mut Batch::default(), Failed::default())
        });
        assert!(queue.flush(Duration::from_secs(60)));
        queue.push(b"so that the thread ends");
        writer.join().unwrap();
    }
}
