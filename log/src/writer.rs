//! The thread that writes. It may be held up for as long as nobody reads; nothing waits for it.
//!
//! Tested at the end.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

use crate::native;
use crate::queue::{Batch, Failed, Queue};

/// Where the log goes.
#[derive(Debug)]
pub(crate) enum Sink {
    /// Lines for people.
    Text(File),
    /// Lines that are JSON objects.
    Json(File),
    /// The journal.
    Journal {
        socket: UnixDatagram,
        /// Where it listens.
        to: PathBuf,
        identifier: String,
    },
}

/// Starts the thread. It hears no signals: they are for those who wait for them.
pub(crate) fn spawn(queue: Arc<Queue>, out: Sink) -> io::Result<()> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let thread = std::thread::Builder::new().name("qtf-log".to_owned());
    let spawned = thread.spawn(move || write_all(&queue, out));
    before.thread_set_mask()?;
    spawned.map(drop)
}

#[expect(clippy::infinite_loop, reason = "the thread goes with the process")]
fn write_all(queue: &Queue, mut out: Sink) {
    let mut batch = Batch::default();
    let mut failed = Failed::default();
    loop {
        queue.next(&mut batch, failed);
        let mut lines = 0_u64;
        for piece in batch.pieces() {
            lines = lines.saturating_add(out.write(piece));
        }
        let mut is_told = lines == 0;
        for what in missing(&batch) {
            is_told &= out.warn(&what) == 0;
        }
        failed = Failed {
            lines,
            untold: if is_told { 0 } else { batch.lost },
        };
    }
}

/// What is said of lines that are missing.
fn missing(batch: &Batch) -> Vec<String> {
    let mut told = Vec::new();
    if batch.lost > 0 {
        told.push(format!(
            "{} lines of the log were lost: standard error was not read fast enough, or could not be written",
            batch.lost
        ));
    }
    for (of, count) in &batch.left_out {
        let (target, line) = (of.target(), of.line().unwrap_or(0));
        told.push(format!(
            "{count} lines of the log were left out, too many of one kind at once: {} from {target}, line {line}",
            of.level()
        ));
    }
    told
}

impl Sink {
    /// Writes lines, or sends one entry. How many lines or entries could not be.
    fn write(&mut self, piece: &[u8]) -> u64 {
        match self {
            Self::Text(file) | Self::Json(file) => {
                let written = write_some(file, piece);
                count_lines(piece.get(written..).unwrap_or_default())
            }
            // A journal that starts anew listens again at the same place: a connected socket would not find it.
            Self::Journal { socket, to, .. } => loop {
                match socket.send_to(piece, &*to) {
                    Ok(_) => break 0,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break 1,
                }
            },
        }
    }

    /// Writes a warning of the log's own, in the form of the others.
    fn warn(&mut self, what: &str) -> u64 {
        let mut now = String::new();
        // A clock that cannot be shown leaves its place empty.
        let _shown = SystemTime.format_time(&mut Writer::new(&mut now));
        let line = match self {
            Self::Text(_) => format!("{now}  WARN {what}\n").into_bytes(),
            // Neither of the two holds what JSON would escape.
            Self::Json(_) => format!(
                "{{\"timestamp\":\"{now}\",\"level\":\"WARN\",\"fields\":{{\"message\":\"{what}\"}},\"target\":\"qtf_log\"}}\n"
            )
            .into_bytes(),
            Self::Journal { identifier, .. } => native::of_line(identifier, 4, what),
        };
        self.write(&line)
    }
}

/// Writes until all is written or the system refuses. How much is written.
fn write_some(out: &mut File, bytes: &[u8]) -> usize {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match out.write(rest) {
            Ok(0) => break,
            Ok(count) => written = written.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Somebody who shares the pipe or terminal has made it so.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut asked = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
                // An error shows at the next write.
                let _ready = poll(&mut asked, PollTimeout::NONE);
            }
            // A reader that has gone, a full disk: the next lines may find it otherwise.
            Err(_) => break,
        }
    }
    written
}

fn count_lines(bytes: &[u8]) -> u64 {
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
    u64::try_from(lines).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::time::{Duration, Instant};

    use super::*;

    fn pipe() -> (File, File) {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        (File::from(reader), File::from(writer))
    }

    #[test]
    fn pipe_that_nobody_reads_holds_up_nobody_and_what_was_lost_is_told_when_it_is_read() {
        let (mut reader, writer) = pipe();
        let queue = Arc::new(Queue::new(Instant::now()));
        spawn(Arc::clone(&queue), Sink::Text(writer)).unwrap();
        let line = format!("{}\n", "x".repeat(1_023));
        // More than the pipe, what is being written and the queue hold together.
        for _ in 0..2_000 {
            queue.push(line.as_bytes());
        }
        assert!(!queue.flush(Duration::from_millis(1)));
        let lost = queue.missing().lost;
        assert!(lost > 0);
        // The writer may have told of the first ones before the last ones were lost.
        let mut told = 0;
        let mut lines = BufReader::new(&mut reader).lines();
        while told < lost {
            let line = lines.next().unwrap().unwrap();
            if let Some((count, _)) = line.split_once(" lines of the log were lost") {
                told += count.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
            }
        }
        assert_eq!(told, lost);
        assert!(queue.flush(Duration::from_secs(60)));
    }

    #[test]
    fn reader_that_has_gone_costs_lines_and_nothing_else() {
        let (reader, writer) = pipe();
        drop(reader);
        let queue = Arc::new(Queue::new(Instant::now()));
        spawn(Arc::clone(&queue), Sink::Text(writer)).unwrap();
        for count in 1..=3 {
            queue.push(b"unheard\n");
            assert!(queue.flush(Duration::from_secs(60)));
            assert_eq!(
                queue.missing().lost,
                count,
                "what was to be told of it counts for nothing"
            );
        }
    }

    #[test]
    fn entries_go_one_by_one_also_when_the_journal_was_away_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("socket");
        let journal = UnixDatagram::bind(&to).unwrap();
        let queue = Arc::new(Queue::of_entries(Instant::now()));
        let sink = Sink::Journal {
            socket: UnixDatagram::unbound().unwrap(),
            to: to.clone(),
            identifier: "test".to_owned(),
        };
        spawn(Arc::clone(&queue), sink).unwrap();
        let mut bytes = [0; 256];
        for entry in ["MESSAGE=a\nTASK_ID=1\n", "MESSAGE=b\n"] {
            queue.push(entry.as_bytes());
            let length = journal.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..length], entry.as_bytes());
        }
        drop(journal);
        std::fs::remove_file(&to).unwrap();
        queue.push(b"MESSAGE=lost\n");
        assert!(queue.flush(Duration::from_secs(60)));
        assert_eq!(queue.missing().lost, 1);
        let journal = UnixDatagram::bind(&to).unwrap();
        queue.push(b"MESSAGE=c\n");
        let length = journal.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"MESSAGE=c\n");
        let length = journal.recv(&mut bytes).unwrap();
        let told = String::from_utf8_lossy(&bytes[..length]).into_owned();
        assert!(
            told.contains("MESSAGE=1 lines of the log were lost"),
            "{told}"
        );
    }
}
