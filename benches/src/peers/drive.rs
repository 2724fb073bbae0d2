//! The client and the worker of any peer: sockets, windows and times here, words in the file of the peer.
//!
//! The client keeps so many tasks under way and takes the time of each from the moment before it is written to the moment after its
//! result was read. Each result must be that of a task that is under way: one that comes twice, or never, fails the run.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use qtf_benches::Failure;
use qtf_benches::machine::histogram;

use super::server::Server;
use super::{beanstalkd, gearmand, nats, redis};

/// Bytes of a payload, the first of which are its number.
pub(crate) const PAYLOAD_BYTES: usize = 64;
/// Bytes of a result: that number.
pub(crate) const RESULT_BYTES: usize = 16;
/// A peer that says nothing for so long has lost something.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// LIMIT: tasks in one write.
const BATCH_MAX: u64 = 512;

/// What a client says to its peer and hears from it.
pub(crate) trait ClientWords {
    /// Whether ends are waited for on a connection of their own, because waiting there holds up what comes behind.
    const TWO_CONNECTIONS: bool;
    /// At the begin, on the connection of submissions and on that of ends.
    fn hello(&mut self, submissions: &mut Vec<u8>, ends: &mut Vec<u8>);
    /// Submits a task.
    fn submit(&mut self, payload: &[u8; PAYLOAD_BYTES], out: &mut Vec<u8>);
    /// So many were submitted as go together: what is not said yet is said now.
    fn submitted(&mut self, _out: &mut Vec<u8>) {}
    /// Reads one thing from the connection of ends: how many bytes it had, 0 if it is not all there. Results go to `ended`, what is to be
    /// said because of them to `out`.
    fn hear(
        &mut self,
        bytes: &[u8],
        ended: &mut Vec<u64>,
        out: &mut Vec<u8>,
    ) -> Result<usize, Failure>;
}

/// What a worker says and hears.
pub(crate) trait WorkerWords {
    /// At the begin.
    fn hello(&mut self, out: &mut Vec<u8>);
    /// Whether tasks reach it from now on; a peer that keeps them until a worker comes need not say.
    fn is_ready(&self) -> bool {
        true
    }
    /// Reads one thing, as [`ClientWords::hear`].
    fn hear(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, Failure>;
}

/// A payload.
fn payload(number: u64) -> [u8; PAYLOAD_BYTES] {
    let mut payload = [b'.'; PAYLOAD_BYTES];
    payload[..RESULT_BYTES].copy_from_slice(format!("{number:016x}").as_bytes());
    payload
}

/// The result of a payload.
pub(crate) fn result_of(payload: &[u8]) -> Result<&[u8], Failure> {
    payload
        .get(..RESULT_BYTES)
        .ok_or_else(|| "a payload is cut".into())
}

/// The number of the task whose result this is.
pub(crate) fn number_of(result: &[u8]) -> Result<u64, Failure> {
    Ok(u64::from_str_radix(std::str::from_utf8(result)?, 16)?)
}

/// Position behind the first line, and that line without its end.
pub(crate) fn line(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let at = bytes.windows(2).position(|two| two == b"\r\n")?;
    Some((at + 2, &bytes[..at]))
}

/// A word of a line as a number.
pub(crate) fn number(word: Option<&[u8]>) -> Result<usize, Failure> {
    let word = word.ok_or("a number is missing")?;
    Ok(std::str::from_utf8(word)?.parse()?)
}

/// A body of `length` bytes that begins at `from` and ends with an end of a line: the position behind both, and the body. `None` if it
/// is not all there.
pub(crate) fn body(bytes: &[u8], from: usize, length: usize) -> Option<(usize, &[u8])> {
    let end = from.checked_add(length)?.checked_add(2)?;
    Some((end, &bytes.get(from..end)?[..length]))
}

/// Says a line that announces a body, and the body.
pub(crate) fn say_with_body(head: &str, body: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
    out.extend_from_slice(b"\r\n");
}

/// A connection and what was read and not yet heard.
struct Link {
    stream: TcpStream,
    bytes: Vec<u8>,
    read: usize,
    heard: usize,
}

impl Link {
    fn open(port: u16) -> Result<Self, Failure> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        Ok(Link {
            stream,
            bytes: vec![0; 1 << 16],
            read: 0,
            heard: 0,
        })
    }

    fn unheard(&self) -> &[u8] {
        &self.bytes[self.heard..self.read]
    }

    fn say(&mut self, out: &mut Vec<u8>) -> Result<(), Failure> {
        if !out.is_empty() {
            self.stream.write_all(out)?;
            out.clear();
        }
        Ok(())
    }

    fn more(&mut self) -> Result<(), Failure> {
        self.bytes.copy_within(self.heard..self.read, 0);
        self.read -= self.heard;
        self.heard = 0;
        if self.read == self.bytes.len() {
            self.bytes.resize(self.bytes.len() * 2, 0);
        }
        match self.stream.read(&mut self.bytes[self.read..])? {
            0 => Err("the peer closed the connection".into()),
            count => {
                self.read += count;
                Ok(())
            }
        }
    }
}

/// Is the worker of a peer until the connection ends.
pub(crate) fn work(peer: &str, port: u16) -> Result<(), Failure> {
    match peer {
        "beanstalkd" => serve(port, beanstalkd::Worker),
        "gearmand" => serve(port, gearmand::Worker::new()),
        "redis list" | "redis list, synced" => serve(port, redis::ListWorker),
        "redis stream" | "redis stream, synced" => serve(port, redis::StreamWorker),
        "redis sorted set" => serve(port, redis::SortedWorker),
        "nats" => serve(port, nats::Worker::default()),
        other => Err(format!("no peer {other}").into()),
    }
}

fn serve(port: u16, mut words: impl WorkerWords) -> Result<(), Failure> {
    let mut link = Link::open(port)?;
    let mut out = Vec::new();
    words.hello(&mut out);
    let mut told = false;
    loop {
        link.say(&mut out)?;
        if !told && words.is_ready() {
            told = true;
            let mut stdout = std::io::stdout();
            writeln!(stdout, "ready")?;
            stdout.flush()?;
        }
        link.more()?;
        loop {
            match words.hear(link.unheard(), &mut out)? {
                0 => break,
                count => link.heard += count,
            }
        }
    }
}

/// A worker as a process; it ends when it is dropped.
struct WorkerProcess(Child);

impl WorkerProcess {
    fn start(peer: &str, port: u16) -> Result<Self, Failure> {
        let port = port.to_string();
        let mut child = Command::new("/proc/self/exe")
            .args(["--worker", peer, &port])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // It ends when its peer does, which is no error here.
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = child.stdout.take();
        let worker = Self(child);
        let mut ready = String::new();
        let mut lines = BufReader::new(stdout.ok_or("no stdout")?);
        if lines.read_line(&mut ready)? == 0 {
            return Err("its worker ended before it was ready".into());
        }
        Ok(worker)
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// What a run is of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    /// Tasks that count.
    pub(crate) count: u64,
    /// Under way at the same time.
    pub(crate) in_flight: u64,
    /// Waiting beside those all the time: the worker begins when they are there.
    pub(crate) backlog: u64,
}

impl Amount {
    /// Without a backlog.
    pub(crate) const fn of((count, in_flight): (u64, u64)) -> Self {
        Self {
            count,
            in_flight,
            backlog: 0,
        }
    }
}

/// What a run of a peer took.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    /// Of each task.
    pub(crate) times: Histogram<u64>,
    /// Of all.
    pub(crate) time: Duration,
    /// The peer's.
    pub(crate) processor: Duration,
}

/// Runs so many tasks with so many under way, after a tenth more that does not count.
pub(crate) fn measure<W: ClientWords>(
    server: &Server,
    (peer, mut words): (&str, W),
    amount: Amount,
) -> Result<Taken, Failure> {
    let Amount { count, backlog, .. } = amount;
    let level = backlog + amount.in_flight;
    let start = || WorkerProcess::start(peer, server.port);
    let mut worker = (backlog == 0).then(start).transpose()?;
    let submissions = Link::open(server.port)?;
    submissions.stream.set_read_timeout(Some(SILENCE_MAX))?;
    let mut ends = None;
    if W::TWO_CONNECTIONS {
        let link = Link::open(server.port)?;
        link.stream.set_read_timeout(Some(SILENCE_MAX))?;
        ends = Some(link);
        // Nobody waits for what is said there, but it must be read.
        let mut answers = submissions.stream.try_clone()?;
        answers.set_read_timeout(None)?;
        std::thread::Builder::new()
            .spawn(move || std::io::copy(&mut answers, &mut std::io::sink()).is_ok())?;
    }
    let (mut out, mut out_ends) = (Vec::new(), Vec::new());
    words.hello(&mut out, &mut out_ends);
    let mut client = ClientOf {
        words,
        submissions,
        ends,
        out,
        out_ends,
        next: 0,
        under_way: HashMap::new(),
    };
    client.say()?;
    client.submit(backlog)?;
    if worker.is_none() {
        worker = Some(start()?);
    }
    client.run(count / 10, level)?;
    let (before, began) = (server.processor_time()?, Instant::now());
    let times = client.run(count, level)?;
    let taken = Taken {
        times,
        time: began.elapsed(),
        processor: server.processor_time()?.saturating_sub(before),
    };
    client
        .submissions
        .stream
        .shutdown(std::net::Shutdown::Both)?;
    drop(worker);
    Ok(taken)
}

struct ClientOf<W> {
    words: W,
    submissions: Link,
    ends: Option<Link>,
    out: Vec<u8>,
    out_ends: Vec<u8>,
    next: u64,
    under_way: HashMap<u64, Instant>,
}

impl<W: ClientWords> ClientOf<W> {
    fn say(&mut self) -> Result<(), Failure> {
        self.submissions.say(&mut self.out)?;
        match &mut self.ends {
            Some(ends) => ends.say(&mut self.out_ends),
            None => self.submissions.say(&mut self.out_ends),
        }
    }

    fn submit(&mut self, mut count: u64) -> Result<(), Failure> {
        while count > 0 {
            let batch = count.min(BATCH_MAX);
            count -= batch;
            let now = Instant::now();
            for _ in 0..batch {
                self.words.submit(&payload(self.next), &mut self.out);
                self.under_way.insert(self.next, now);
                self.next += 1;
            }
            self.words.submitted(&mut self.out);
            self.say()?;
        }
        Ok(())
    }

    /// Keeps `level` tasks under way until so many have ended; without a backlog those are the ones that it has submitted.
    fn run(&mut self, count: u64, level: u64) -> Result<Histogram<u64>, Failure> {
        let mut times = histogram();
        let (mut sent, mut ended) = (0, Vec::new());
        while times.len() < count {
            let room = level.saturating_sub(self.under_way.len() as u64);
            let room = room.min(count - sent);
            sent += room;
            self.submit(room)?;
            let link = self.ends.as_mut().unwrap_or(&mut self.submissions);
            link.more()?;
            let now = Instant::now();
            loop {
                let heard = self
                    .words
                    .hear(link.unheard(), &mut ended, &mut self.out_ends)?;
                if heard == 0 {
                    break;
                }
                link.heard += heard;
            }
            for number in ended.drain(..) {
                let from = self.under_way.remove(&number);
                let from = from
                    .ok_or_else(|| format!("a result of task {number}, which nobody waits for"))?;
                times.record(
                    u64::try_from(now.saturating_duration_since(from).as_nanos())?.max(1),
                )?;
            }
            self.say()?;
        }
        Ok(times)
    }
}
