//! A local worker that may be killed or stopped at any moment: takes tasks of the kind `local` from the segment, with no
//! daemon between, and does what [`qtf_tests::workload`] says of them.
//!
//! `system-local INSTANCE NAME RUNTIME-FOLDER SPILL-FOLDER RUNS`. A segment that was replaced by another one is left for it. At SIGTERM
//! it hands back what it holds, and leaves. What it does takes no process of its own: nothing can be left over when it dies.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::geteuid;
use prost::Message as _;
use qtf_client::TaskOutput;
use qtf_shm::layout::attach::AttachRole;
use qtf_shm::task::state::{FLAG_CANCEL, FLAG_TIMED_OUT};
use qtf_shm::{
    Attachment, AttachmentSpec, LocalWorker, LocalWorkerSpec, Outcome, OutcomeKind, Part,
    SegmentView, Taken,
};
use qtf_tests::ledger::{Ledger, append};
use qtf_tests::workload::{AGAIN_CODE, Act, LOCAL_KIND, Work};

/// Between two looks at the queue and at what is held.
const PAUSE: Duration = Duration::from_millis(2);
/// Between two looks for another segment, and two tries to attach.
const LOOK: Duration = Duration::from_millis(50);
/// Tasks held at once.
const HELD_MAX: u16 = 3;
/// A stubborn task goes on for so long after it is told to stop.
const STUBBORN: Duration = Duration::from_millis(300);
/// Longest payload that has something to say; behind it are zero bytes.
const ORDER_BYTES_MAX: usize = 128;

struct Arguments {
    instance: String,
    name: String,
    lock_file: PathBuf,
    spill: PathBuf,
    runs: PathBuf,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            say(&message);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the log of a program")]
fn say(message: &str) {
    eprintln!("system-local: {message}");
}

fn run() -> Result<(), String> {
    let arguments = arguments()?;
    let runs = Ledger::append_to(&arguments.runs).map_err(|error| error.to_string())?;
    let mut terminate = SigSet::empty();
    terminate.add(Signal::SIGTERM);
    terminate
        .thread_block()
        .map_err(|error| error.to_string())?;
    let terminate = SignalFd::with_flags(&terminate, SfdFlags::SFD_NONBLOCK)
        .map_err(|error| error.to_string())?;
    let is_over = || matches!(terminate.read_signal(), Ok(Some(_)));
    let mut told = String::new();
    while !is_over() {
        let tried = attach(&arguments).and_then(|attachment| {
            say("attached");
            told.clear();
            serve(&arguments, &attachment, (&runs, &is_over))
        });
        match tried {
            Ok(Left::Asked) => return Ok(()),
            Ok(Left::Replaced) => say("another segment"),
            // The daemon is being started.
            Err(error) if error == told => {}
            Err(error) => {
                say(&error);
                told = error;
            }
        }
        std::thread::park_timeout(LOOK);
    }
    Ok(())
}

fn arguments() -> Result<Arguments, String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [instance, name, runtime, spill, runs] = words.as_slice() else {
        return Err("INSTANCE NAME RUNTIME-FOLDER SPILL-FOLDER RUNS".to_owned());
    };
    Ok(Arguments {
        instance: instance.clone(),
        name: name.clone(),
        lock_file: PathBuf::from(runtime).join(format!("{instance}.lock")),
        spill: spill.into(),
        runs: runs.into(),
    })
}

fn attach(arguments: &Arguments) -> Result<Attachment, String> {
    let spec = AttachmentSpec::new(AttachRole::Worker, &arguments.name, &arguments.spill)
        .with_lock_file(&arguments.lock_file);
    Attachment::open_instance(&arguments.instance, geteuid().as_raw(), &spec)
        .map_err(|error| error.to_string())
}

/// Why it does not serve a segment any more.
enum Left {
    Asked,
    Replaced,
}

/// A task that is being done.
struct Held<'w> {
    taken: Taken<'w>,
    work: Work,
    number: u64,
    begun: Instant,
    /// When it was first seen to be stopped.
    stopped: Option<Instant>,
}

fn serve(
    arguments: &Arguments,
    attachment: &Attachment,
    (runs, is_over): (&File, &dyn Fn() -> bool),
) -> Result<Left, String> {
    let kind = attachment
        .kinds()
        .intern(LOCAL_KIND)
        .map_err(|error| error.to_string())?;
    let worker = attachment
        .join_as_worker(&LocalWorkerSpec {
            name: &arguments.name,
            host: "here",
            kinds: [kind].into_iter().collect(),
            capacity: HELD_MAX,
            losses_max: 3,
        })
        .map_err(|error| error.to_string())?;
    let mut held: Vec<Held<'_>> = Vec::new();
    let mut look_at = Instant::now();
    loop {
        if is_over() {
            return Ok(Left::Asked);
        }
        if Instant::now() >= look_at {
            look_at = Instant::now() + LOOK;
            if is_replaced(arguments, attachment) {
                return Ok(Left::Replaced);
            }
        }
        while held.len() < usize::from(HELD_MAX)
            && let Some(task) = begin(attachment, &worker, runs)?
        {
            held.push(task);
        }
        for mut task in std::mem::take(&mut held) {
            match task.end() {
                Some(outcome) => task.finish(outcome),
                None => held.push(task),
            }
        }
        std::thread::park_timeout(PAUSE);
    }
}

/// None at all is a daemon that is being started.
fn is_replaced(arguments: &Arguments, attachment: &Attachment) -> bool {
    let now = SegmentView::attach_by_instance(&arguments.instance, geteuid().as_raw());
    now.is_ok_and(|now| now.segment_id() != attachment.segment_id())
}

/// Takes a task and says so; `None` when there is nothing to do, or it is not ours any more.
fn begin<'w>(
    attachment: &Attachment,
    worker: &'w LocalWorker<'_>,
    runs: &File,
) -> Result<Option<Held<'w>>, String> {
    let Some(taken) = worker.take() else {
        return Ok(None);
    };
    let mut payload = [0; ORDER_BYTES_MAX];
    if taken.start().is_err() {
        return Ok(None);
    }
    let read = attachment.load(taken.id(), Part::Payload, 0, &mut payload);
    let read = read.map_err(|error| format!("payload of {}: {error}", taken.id()))?;
    let order = payload.get(..read).unwrap_or_default();
    let order = order.split(|byte| *byte == 0).next().unwrap_or_default();
    let order = String::from_utf8_lossy(order).into_owned();
    let (work, number) = Work::of_order(&order)
        .ok_or_else(|| format!("payload of {} says {order:?}", taken.id()))?;
    let line = format!("{} {} {number}", taken.id(), taken.attempt());
    append(runs, &line).map_err(|error| error.to_string())?;
    Ok(Some(Held {
        taken,
        work,
        number,
        begun: Instant::now(),
        stopped: None,
    }))
}

impl Held<'_> {
    /// How it ends now, if it does.
    fn end(&mut self) -> Option<Outcome> {
        let flags = self.taken.stop_flags();
        if flags & (FLAG_CANCEL | FLAG_TIMED_OUT) != 0 {
            let since = self.stopped.get_or_insert_with(Instant::now).elapsed();
            let kind = if flags & FLAG_CANCEL != 0 {
                OutcomeKind::Cancelled
            } else {
                OutcomeKind::TimedOut
            };
            let obeys = !self.work.is_stubborn() || since >= STUBBORN;
            return obeys.then(|| outcome(kind, 0));
        }
        let code = match self.work.act {
            Act::Succeed | Act::Print { .. } | Act::Once => 0,
            Act::SucceedLate { ms } if self.begun.elapsed() >= Duration::from_millis(ms) => 0,
            Act::Fail { code } => code,
            Act::FailFirst { attempts } if u32::from(self.taken.attempt()) > attempts => 0,
            Act::FailFirst { .. } | Act::FailAlways => AGAIN_CODE,
            Act::SucceedLate { .. } | Act::Overrun { .. } | Act::Endless { .. } => return None,
        };
        Some(outcome(OutcomeKind::Exited, code))
    }

    fn finish(self, outcome: Outcome) {
        let (id, attempt) = (self.taken.id(), self.taken.attempt());
        let mut stdout = format!("{id} {attempt} {}\n", self.number).into_bytes();
        let length = stdout.len() + self.work.printed_bytes();
        stdout.resize(length, 0);
        let output = TaskOutput {
            stdout: stdout.into(),
            ..TaskOutput::default()
        };
        if let Err(error) = self.taken.finish(outcome, &output.encode_to_vec()) {
            say(&format!("{id}, attempt {attempt}: {error}"));
        }
    }
}

fn outcome(kind: OutcomeKind, code: u32) -> Outcome {
    Outcome {
        kind,
        code: u8::try_from(code).unwrap_or(u8::MAX),
        result_dropped: false,
        output_cut: false,
    }
}
