//! The loop of `qtf map`: inputs come in while there is room, ends come back in any order, outputs go
//! out in the order of the inputs.
//!
//! Invariants: each input that was read is printed once or, when the run is stopped, cancelled; a
//! result is acknowledged after it was handed to the printer or its task was cancelled.
//! Tested in `tests/map.rs` and `tests/map_ends.rs`.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use indicatif::ProgressBar;
use qtf_client::{
    Accepted, Client, Durability, Outputs, RefusalReason, ResultFeed, ResultStream, Submissions,
    SubmitError, Task, TaskEnd, TaskId, WatchError,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::ending::{EndPrinter, Ended, PrinterGone};
use super::in_order::{InOrder, Limits};
use super::printer::{Chunk, Printer};
use super::progress;
use crate::args::{ExitCodeArgs, OutputMode};
use crate::commands::{Variable, with_exit_codes};
use crate::daemon::{Daemon, exit_of};
use crate::exit::{Ending, Exit, Failure};
use crate::inputs::{InputError, Source};
use crate::output::message_line;
use crate::signals::EndSignals;
use crate::template::Template;

/// How long answers to what is on its way are awaited when the run is stopped.
const ANSWERS_WAIT: Duration = Duration::from_secs(2);
/// How long the ends of cancelled tasks are awaited: workers give TERM 2 s before KILL.
const ENDS_WAIT: Duration = Duration::from_secs(8);

/// What is to be done for each input.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) template: Template,
    pub(super) directory: PathBuf,
    pub(super) variables: Vec<Variable>,
    pub(super) priority: Option<u8>,
    pub(super) retries: Option<u8>,
    pub(super) exit_codes: ExitCodeArgs,
    pub(super) timeout: Option<Duration>,
    pub(super) durability: Option<Durability>,
    /// Ends an input in a file and on stdin.
    pub(super) delimiter: u8,
    pub(super) mode: OutputMode,
    pub(super) bar: ProgressBar,
}

/// Why the loop ended.
enum Stop {
    /// All inputs are printed.
    Complete,
    /// A signal asks for the end.
    Signal(Exit),
    /// Writing to stdout failed.
    Output(io::Error),
    /// The daemon is gone.
    Lost(Failure),
}

/// One input in flight.
struct Flight {
    input: Vec<u8>,
    id: Option<TaskId>,
}

type Printing = Pin<Box<dyn Future<Output = Result<(Exit, Option<TaskId>), PrinterGone>>>>;

/// The state of the loop.
pub(super) struct Drive {
    job: Job,
    client: Client,
    inputs: mpsc::Receiver<Result<Vec<u8>, InputError>>,
    inputs_are_over: bool,
    /// There may be inputs that were not read, as there was no place for their keys.
    left_out: bool,
    inputs_read: u64,
    /// Dropped when no more tasks come.
    tasks: Option<mpsc::UnboundedSender<Task>>,
    submissions: Submissions,
    /// Number of the input whose answer comes next.
    next_answer: u64,
    feed: ResultFeed,
    results: ResultStream,
    numbers: HashMap<TaskId, u64>,
    line_up: InOrder<Flight, Ended>,
    end_printer: EndPrinter,
    printing: Option<Printing>,
    printer: Printer,
    exit: Exit,
}

impl Drive {
    /// Starts the threads and streams.
    pub(super) fn start(
        job: Job,
        source: Source,
        daemon: &Daemon,
        limits: Limits,
    ) -> io::Result<Self> {
        let client = daemon.client.clone();
        let (tasks, mut queue) = mpsc::unbounded_channel();
        let submissions = client.submit_stream(stream::poll_fn(move |cx| queue.poll_recv(cx)));
        let (feed, results) = client.result_feed_with(Outputs::Small);
        let printer = Printer::start(job.bar.clone())?;
        let end_printer = EndPrinter {
            client: client.clone(),
            chunks: printer.sender(),
            mode: job.mode,
        };
        Ok(Drive {
            inputs: source.stream(job.delimiter)?,
            inputs_are_over: false,
            left_out: false,
            inputs_read: 0,
            tasks: Some(tasks),
            submissions,
            next_answer: 0,
            feed,
            results,
            numbers: HashMap::new(),
            line_up: InOrder::new(limits),
            end_printer,
            printing: None,
            printer,
            exit: Exit::Ok,
            job,
            client,
        })
    }

    /// Runs to the end, whichever it is.
    pub(super) async fn run(mut self, signals: &mut EndSignals) -> Ending {
        if self.job.mode == OutputMode::Json {
            self.send_text(r#"{"schema":"qtf.map/1","results":["#).await;
        }
        let stop = self.until_stopped(signals).await;
        match stop {
            Stop::Complete => self.complete().await,
            Stop::Signal(exit) => {
                self.abandon(signals).await;
                Ok(exit)
            }
            Stop::Output(error) => {
                self.abandon(signals).await;
                let failure = Failure::from(error);
                if failure.message().is_none() {
                    Ok(Exit::ReaderGone)
                } else {
                    Err(failure)
                }
            }
            Stop::Lost(failure) => Err(failure),
        }
    }

    async fn until_stopped(&mut self, signals: &mut EndSignals) -> Stop {
        loop {
            self.start_printing();
            if self.inputs_are_over && self.printing.is_none() && self.line_up.is_empty() {
                return Stop::Complete;
            }
            let may_read = !self.inputs_are_over && self.line_up.has_room();
            let answers_wait = self.next_answer < self.inputs_read;
            tokio::select! {
                exit = signals.next() => return Stop::Signal(exit),
                written = self.printer.ended() => {
                    return Stop::Output(written.err().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()));
                }
                printed = until_printed(&mut self.printing), if self.printing.is_some() => {
                    self.printing = None;
                    // When the printer is gone, its end says why.
                    if let Ok((exit, id)) = printed {
                        self.on_printed(exit, id);
                    }
                }
                result = self.results.next(), if !self.numbers.is_empty() => {
                    if let Err(failure) = self.on_result(result) {
                        return Stop::Lost(failure);
                    }
                }
                answer = self.submissions.next(), if answers_wait => {
                    if let Err(failure) = self.on_answer(answer) {
                        return Stop::Lost(failure);
                    }
                }
                input = self.inputs.recv(), if may_read => self.on_input(input).await,
            }
        }
    }

    async fn on_input(&mut self, input: Option<Result<Vec<u8>, InputError>>) {
        match input {
            Some(Ok(input)) => {
                let task = self.job.task(&input);
                self.line_up.push(Flight { input, id: None });
                self.inputs_read += 1;
                if let Some(tasks) = &self.tasks {
                    // A closed queue is told by the answers.
                    let _told = tasks.send(task);
                }
                return;
            }
            Some(Err(error)) => {
                // What was read before still runs.
                self.exit = self.exit.worse(Exit::Usage);
                self.send_message(&error.to_string()).await;
            }
            None => {}
        }
        self.inputs_are_over = true;
        self.tasks = None;
        progress::set_total(&self.job.bar, self.inputs_read);
    }

    fn on_answer(&mut self, answer: Option<Result<Accepted, SubmitError>>) -> Result<(), Failure> {
        let number = self.next_answer;
        self.next_answer += 1;
        match answer {
            Some(Ok(Accepted { id, .. })) => {
                self.numbers.insert(id, number);
                if let Some(flight) = self.line_up.get_mut(number) {
                    flight.id = Some(id);
                }
                self.feed.watch([id]);
                Ok(())
            }
            Some(Err(SubmitError::Refused(refusal))) => {
                // Whatever comes next finds no place either: what is accepted goes on to its end, and no more is read.
                let is_last = refusal.reason == RefusalReason::KeysFull && !self.inputs_are_over;
                if is_last {
                    self.inputs_are_over = true;
                    self.tasks = None;
                    self.left_out = true;
                }
                let ended = Ended::Not {
                    exit: exit_of(&refusal),
                    reason: refusal.to_string(),
                };
                self.line_up.end(number, ended, 0);
                Ok(())
            }
            Some(Err(error)) => Err(error.into()),
            None => Err(Failure::new(
                Exit::Unreachable,
                "the daemon stopped taking tasks",
            )),
        }
    }

    fn on_result(&mut self, result: Option<Result<TaskEnd, WatchError>>) -> Result<(), Failure> {
        let (id, ended) = match result {
            Some(Ok(end)) => (end.id, Ended::Task(end)),
            Some(Err(WatchError::Task { id, refusal })) => {
                let reason = format!("its result is gone: {refusal}");
                (
                    id,
                    Ended::Not {
                        exit: exit_of(&refusal),
                        reason,
                    },
                )
            }
            Some(Err(WatchError::Output { id, error })) => (
                id,
                Ended::Not {
                    exit: Exit::Unreachable,
                    reason: error.to_string(),
                },
            ),
            Some(Err(WatchError::Call(error))) => return Err(error.into()),
            Some(Err(error)) => return Err(error.into()),
            None => {
                return Err(Failure::new(
                    Exit::Unreachable,
                    "the daemon stopped telling results",
                ));
            }
        };
        if let Some(number) = self.numbers.remove(&id) {
            let bytes = ended.bytes();
            self.line_up.end(number, ended, bytes);
        }
        Ok(())
    }

    /// Takes the next in order to the printer, when it has ended and the one before is through.
    fn start_printing(&mut self) {
        if self.printing.is_some() {
            return;
        }
        let Some((number, flight, ended)) = self.line_up.pop() else {
            return;
        };
        let end_printer = self.end_printer.clone();
        self.printing = Some(Box::pin(async move {
            let printed = end_printer.print(number, flight.input, ended).await?;
            let acknowledged = flight.id.filter(|_| printed.is_handed_over);
            Ok((printed.exit, acknowledged))
        }));
    }

    fn on_printed(&mut self, exit: Exit, id: Option<TaskId>) {
        self.exit = self.exit.worse(exit);
        self.feed.acknowledge(id);
        self.job.bar.inc(1);
    }

    /// All is handed over: lets acknowledgements and outputs go out.
    async fn complete(self) -> Ending {
        if self.left_out {
            self.send_message(
                "no input was read after the first that was refused; those that were accepted have run",
            )
            .await;
        }
        if self.job.mode == OutputMode::Json {
            self.send_text("\n]}\n").await;
        }
        let Drive {
            submissions,
            feed,
            results,
            end_printer,
            printer,
            exit,
            job,
            ..
        } = self;
        drop((submissions, feed, end_printer));
        job.bar.finish_and_clear();
        let written = printer.finish().await;
        // Results that stay unacknowledged are kept until their time to live is over.
        drop(results.close().await);
        match written {
            Ok(()) => Ok(exit),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::ReaderGone),
            Err(error) => Err(error.into()),
        }
    }

    /// Cancels what is in flight and waits until it is gone; a second signal ends the waiting.
    async fn abandon(&mut self, signals: &mut EndSignals) {
        self.tasks = None;
        self.printing = None;
        self.job.bar.finish_and_clear();
        tokio::select! {
            () = self.cancel_all() => {}
            _ = signals.next() => {}
        }
    }

    async fn cancel_all(&mut self) {
        let until = Instant::now() + ANSWERS_WAIT;
        while self.next_answer < self.inputs_read {
            match timeout_at(until, self.submissions.next()).await {
                Ok(answer @ Some(_)) => {
                    if self.on_answer(answer).is_err() {
                        return;
                    }
                }
                Ok(None) | Err(_) => break,
            }
        }
        let ids: Vec<TaskId> = self
            .line_up
            .unfinished_entries()
            .filter_map(|flight| flight.id)
            .collect();
        if !ids.is_empty()
            && self
                .client
                .cancel(&ids, "qtf map was stopped")
                .await
                .is_err()
        {
            return;
        }
        let until = Instant::now() + ENDS_WAIT;
        while !self.numbers.is_empty() {
            match timeout_at(until, self.results.next()).await {
                Ok(result @ Some(_)) => {
                    if self.on_result(result).is_err() {
                        return;
                    }
                }
                Ok(None) | Err(_) => break,
            }
        }
        let mut ended = ids;
        while let Some((_, flight, _)) = self.line_up.pop() {
            ended.extend(flight.id);
        }
        // Of what has not ended, nothing can be forgotten; the daemon says so and keeps it.
        drop(self.client.forget(&ended).await);
    }

    async fn send_text(&self, text: &'static str) {
        let chunk = Chunk::Stdout(text.as_bytes().into());
        // When the printer is gone, its end says why.
        let _told = self.end_printer.chunks.send(chunk).await;
    }

    async fn send_message(&self, text: &str) {
        let chunk = Chunk::Stderr(message_line(text).into());
        let _told = self.end_printer.chunks.send(chunk).await;
    }
}

async fn until_printed(
    printing: &mut Option<Printing>,
) -> Result<(Exit, Option<TaskId>), PrinterGone> {
    match printing {
        Some(printing) => printing.await,
        None => std::future::pending().await,
    }
}

impl Job {
    fn task(&self, input: &[u8]) -> Task {
        let argv = self.template.fill(input);
        let words = argv.iter().map(|word| OsStr::from_bytes(word));
        let mut task = Task::exec(words).working_directory(&self.directory);
        for variable in &self.variables {
            task = task.env(&variable.name, variable.value());
        }
        if let Some(priority) = self.priority {
            task = task.priority(priority);
        }
        if let Some(retries) = self.retries {
            task = task.retries(retries.into());
        }
        task = with_exit_codes(task, &self.exit_codes);
        if let Some(durability) = self.durability {
            task = task.durability(durability);
        }
        match self.timeout {
            Some(timeout) => task.timeout(timeout),
            None => task,
        }
    }
}
