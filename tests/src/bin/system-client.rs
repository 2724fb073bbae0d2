//! A client that may be killed at any moment: submits numbered tasks, cancels some of them, writes down what it is told,
//! and goes on after a restart from what it has written.
//!
//! `system-client ADDRESS NAME COUNT LEDGER RUNS SEED hot|cold`. Each task has a key of the client's name and its number,
//! so a submission whose answer was lost is repeated and must give the same id; a cancellation is repeated in each life
//! until the end is known. An end is acknowledged only after it is written down; the last ends of the life before are asked
//! for again, and must be the same or forgotten. `cold` allows memory tasks to be lost. Exit codes: 0 all ends are written
//! down; 1 an error of the client library; 3 what it was told contradicts what it was told before.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt as _, stream};
use qtf_client::{
    Address, CallError, Client, Durability, ResultStream, Task, TaskEnd, TaskId, TaskKey,
    WatchError,
};
use qtf_tests::leaks;
use qtf_tests::ledger::{Ledger, append, brief};
use qtf_tests::workload::{Act, LOCAL_KIND, Work};
use tokio::sync::mpsc;

/// Long enough for every restart of a daemon that a busy machine can ask for.
const PATIENCE: Duration = Duration::from_secs(120);
/// Tasks that are open at the same time: some wait, and most run soon, so that cancellations meet all phases.
const OPEN_MAX: usize = 24;
/// Ends that are asked for again after a restart.
const ASKED_AGAIN: usize = 64;

struct Arguments {
    address: Address,
    name: String,
    count: u64,
    ledger: PathBuf,
    runs: PathBuf,
    seed: u64,
    is_cold: bool,
}

type Failure = (u8, String);
type Answer = Result<(u64, TaskId, String), CallError>;

fn main() -> ExitCode {
    let outcome = arguments().and_then(|arguments| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        runtime.block_on(run(&arguments))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, message)) => {
            // Whoever started it reads the log.
            tracing_line(&message);
            ExitCode::from(code)
        }
    }
}

#[expect(clippy::print_stderr, reason = "the log of a program")]
fn tracing_line(message: &str) {
    eprintln!("system-client: {message}");
}

fn failed(error: impl std::fmt::Display) -> Failure {
    (1, error.to_string())
}

fn arguments() -> Result<Arguments, Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [address, name, count, ledger, runs, seed, start] = words.as_slice() else {
        return Err((2, "ADDRESS NAME COUNT LEDGER RUNS SEED hot|cold".to_owned()));
    };
    Ok(Arguments {
        address: address.parse().map_err(|error| (2, format!("{error}")))?,
        name: name.clone(),
        count: count.parse().map_err(|error| (2, format!("{error}")))?,
        ledger: ledger.into(),
        runs: runs.into(),
        seed: seed.parse().map_err(|error| (2, format!("{error}")))?,
        is_cold: start == "cold",
    })
}

/// What this life knows.
struct Life<'a> {
    arguments: &'a Arguments,
    file: File,
    known: Ledger,
    /// Numbers whose submission is not answered, oldest first.
    asked: VecDeque<u64>,
    /// Tasks whose end is awaited.
    numbers: HashMap<TaskId, u64>,
    cancellations: FuturesUnordered<Pin<Box<dyn Future<Output = Answer>>>>,
}

async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let file = Ledger::append_to(&arguments.ledger).map_err(failed)?;
    append(&file, "life").map_err(failed)?;
    let known = Ledger::read(&arguments.ledger).map_err(failed)?;
    let mut life = Life {
        arguments,
        file,
        known,
        asked: VecDeque::new(),
        numbers: HashMap::new(),
        cancellations: FuturesUnordered::new(),
    };
    let is_closed = |number: &u64| life.known.pages.get(number).is_some_and(|p| p.is_closed());
    let mut open = (0..arguments.count)
        .filter(|number| !is_closed(number))
        .collect::<VecDeque<_>>();
    if open.is_empty() {
        return Ok(());
    }
    let client = connect(arguments).await?;
    let (tasks, queue) = mpsc::unbounded_channel();
    let queue = stream::unfold(queue, async |mut queue| Some((queue.recv().await?, queue)));
    let mut answers = client.submit_stream(queue);
    let (feed, mut ends) = client.result_feed();
    let again = life.told_last();
    feed.watch(again.iter().map(|(id, _)| *id));
    life.numbers.extend(again);
    loop {
        while life.asked.len() + life.numbers.len() < OPEN_MAX
            && let Some(number) = open.pop_front()
        {
            life.asked.push_back(number);
            tasks.send(life.task(number)).map_err(failed)?;
        }
        let is_settled = life.asked.is_empty() && life.numbers.is_empty() && open.is_empty();
        if is_settled && life.cancellations.is_empty() {
            break;
        }
        tokio::select! {
            answer = answers.next(), if !life.asked.is_empty() => {
                let answer = answer.ok_or((3, "the answers end early".to_owned()))?;
                let id = life.accepted(&client, answer.map_err(failed)?.id)?;
                feed.watch([id]);
            }
            end = ends.next() => {
                life.ended(&ends, end.ok_or((3, "the ends end early".to_owned()))?)?;
            }
            Some(answer) = life.cancellations.next() => {
                let (number, id, answer) = answer.map_err(failed)?;
                append(&life.file, &format!("answered {number} {id} {answer}")).map_err(failed)?;
            }
        }
    }
    drop(feed);
    ends.close()
        .await
        .map_err(|error| (1, format!("last acknowledgements: {error}")))
}

/// A daemon that is being restarted is not there for a moment.
async fn connect(arguments: &Arguments) -> Result<Client, Failure> {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let builder = Client::builder(arguments.address.clone())
            .name(&arguments.name)
            .call_timeout(PATIENCE)
            .reconnect_for(PATIENCE);
        match builder.connect().await {
            Ok(client) => return Ok(client),
            Err(error) if tokio::time::Instant::now() > until => {
                return Err((1, format!("connect: {error}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

impl Life<'_> {
    fn work(&self, number: u64) -> Work {
        Work::of(self.arguments.seed, &self.arguments.name, number)
    }

    /// Tasks whose ends were written down last, and may not have been acknowledged.
    fn told_last(&self) -> Vec<(TaskId, u64)> {
        let told = self.known.pages.iter().filter_map(|(number, page)| {
            let (life, told) = page.told.last()?;
            Some((*life, told.id.parse().ok()?, *number))
        });
        let mut told: Vec<(u32, TaskId, u64)> = told.collect();
        told.sort_unstable_by_key(|(life, _, number)| (*life, *number));
        let older = told.len().saturating_sub(ASKED_AGAIN);
        told.drain(..older);
        told.into_iter()
            .map(|(_, id, number)| (id, number))
            .collect()
    }

    fn task(&self, number: u64) -> Task {
        let work = self.work(number);
        let mut task = if work.is_local {
            self.local_task(&work, number)
        } else {
            self.process(&work, number)
        };
        task = task
            // The same for each life of this client.
            .key(TaskKey::of(&format!("{} {number}", self.arguments.name)))
            .retries(work.retries())
            .durability(if work.is_memory {
                Durability::Memory
            } else {
                Durability::Journal
            });
        if work.is_urgent {
            task = task.priority(200);
        }
        if let Act::Overrun { limit_ms, .. } = work.act {
            task = task.timeout(Duration::from_millis(limit_ms));
        }
        if work.act == Act::Once {
            task = task.at_most_once();
        }
        task
    }

    fn local_task(&self, work: &Work, number: u64) -> Task {
        let Arguments { seed, name, .. } = self.arguments;
        let mut payload = Work::order(*seed, name, number).into_bytes();
        if work.fed_bytes() > 0 {
            payload.resize(payload.len() + work.fed_bytes(), 0);
        }
        Task::handler(LOCAL_KIND, payload)
    }

    fn process(&self, work: &Work, number: u64) -> Task {
        let runs = self.arguments.runs.to_string_lossy().into_owned();
        let mut task = Task::exec(["sh", "-c", &work.script(), "x", &number.to_string(), &runs]);
        if let Ok(mark) = std::env::var(leaks::MARK) {
            task = task.env(leaks::MARK, mark);
        }
        if work.fed_bytes() > 0 {
            task = task.stdin(vec![0; work.fed_bytes()]);
        }
        task
    }

    /// Takes the answer to the oldest submission; it may have to be cancelled.
    fn accepted(&mut self, client: &Client, id: TaskId) -> Result<TaskId, Failure> {
        let number = self
            .asked
            .pop_front()
            .ok_or((3, format!("{id} answers nothing")))?;
        let work = self.work(number);
        let page = self.known.pages.get(&number);
        let before = page.and_then(|page| page.accepted.last());
        let may_be_lost = work.is_memory && self.arguments.is_cold;
        if let Some(before) = before
            && *before != id.to_string()
            && !may_be_lost
        {
            return Err((3, format!("task {number} was {before} and is {id}")));
        }
        append(&self.file, &format!("accepted {number} {id}")).map_err(failed)?;
        self.numbers.insert(id, number);
        if let Some(after) = work.cancel_after {
            let client = client.clone();
            self.cancellations
                .push(Box::pin(cancel(client, number, id, after)));
        }
        Ok(id)
    }

    fn ended(
        &mut self,
        ends: &ResultStream,
        end: Result<TaskEnd, WatchError>,
    ) -> Result<(), Failure> {
        let (id, end) = match end {
            Ok(end) => (end.id, Ok(end)),
            Err(WatchError::Task { id, refusal }) => (id, Err(refusal)),
            // Gone between the end and its output.
            Err(WatchError::Output {
                id,
                error: CallError::Refused(refusal),
            }) => (id, Err(refusal)),
            Err(error) => return Err((1, format!("end: {error}"))),
        };
        let number = self
            .numbers
            .remove(&id)
            .ok_or_else(|| (3, format!("an end of {id}, which nobody watches")))?;
        let line = match end {
            Ok(end) => told(number, &end),
            Err(refusal) if !refusal.is_unknown() => {
                return Err((1, format!("task {number}: {refusal}")));
            }
            // Acknowledged in the life before.
            Err(_) if self.is_known(number) => return Ok(()),
            Err(_) if self.arguments.is_cold && self.work(number).is_memory => {
                return append(&self.file, &format!("lost {number} {id}")).map_err(failed);
            }
            Err(refusal) => return Err((3, format!("task {number}: {refusal}"))),
        };
        append(&self.file, &line).map_err(failed)?;
        ends.acknowledge([id]);
        Ok(())
    }

    /// Its end was written down in a life before.
    fn is_known(&self, number: u64) -> bool {
        let page = self.known.pages.get(&number);
        page.is_some_and(|page| !page.told.is_empty())
    }
}

async fn cancel(client: Client, number: u64, id: TaskId, after: Duration) -> Answer {
    tokio::time::sleep(after).await;
    let verdicts = client.cancel(&[id], "the test wants it").await?;
    let answer = match verdicts.into_iter().next().map(|verdict| verdict.result) {
        Some(Ok(state)) => lower(state.as_str_name(), "TASK_STATE_"),
        Some(Err(refusal)) => format!("refused {}", refusal.reason.as_str_name()),
        None => "refused without a verdict".to_owned(),
    };
    Ok((number, id, answer))
}

fn told(number: u64, end: &TaskEnd) -> String {
    let output = end.output.as_ref().map(|output| brief(&output.stdout));
    format!(
        "told {number} {} {} {} {} {} {} {}",
        end.id,
        end.attempt,
        lower(end.state.as_str_name(), "TASK_STATE_"),
        lower(end.outcome.kind().as_str_name(), "OUTCOME_KIND_"),
        end.outcome.code,
        end.outcome.result_dropped,
        output.unwrap_or_default()
    )
}

fn lower(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_lowercase()
}
