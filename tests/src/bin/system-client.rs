//! A client that may be killed at any moment: submits numbered journal tasks, writes down what it is told, and goes on
//! after a restart from what it has written.
//!
//! `system-client ADDRESS NAME COUNT LEDGER RUNS`. Each task has a key of the client's name and its number, so a
//! submission whose answer was lost is repeated and must give the same id. An end is acknowledged only after it is
//! written down. Exit codes: 0 all ends are written down; 1 an error of the client library; 3 what it was told
//! contradicts what it was told before.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::StreamExt as _;
use qtf_client::{Address, Client, Durability, ResultFeed, ResultStream, Task, TaskId, TaskKey};
use qtf_tests::ledger::{Ledger, append};

/// Long enough for every restart of a daemon that a busy machine can ask for.
const PATIENCE: Duration = Duration::from_secs(120);

/// Says on which file a task appends that it has run, and prints the same.
const SCRIPT: &str = r#"line="$QTF_TASK_ID $QTF_ATTEMPT $1"; echo "$line" >> "$2"; echo "$line""#;

struct Arguments {
    address: Address,
    name: String,
    count: u64,
    ledger: PathBuf,
    runs: PathBuf,
}

type Failure = (u8, String);

fn main() -> ExitCode {
    let outcome = arguments().and_then(|arguments| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| (1, error.to_string()))?;
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

fn arguments() -> Result<Arguments, Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [address, name, count, ledger, runs] = words.as_slice() else {
        return Err((2, "ADDRESS NAME COUNT LEDGER RUNS".to_owned()));
    };
    Ok(Arguments {
        address: address.parse().map_err(|error| (2, format!("{error}")))?,
        name: name.clone(),
        count: count.parse().map_err(|error| (2, format!("{error}")))?,
        ledger: ledger.into(),
        runs: runs.into(),
    })
}

async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| (1, error.to_string());
    let known = Ledger::read(&arguments.ledger).map_err(|error| failed(&error))?;
    let file = Ledger::append_to(&arguments.ledger).map_err(|error| failed(&error))?;
    let open: Vec<u64> = (0..arguments.count)
        .filter(|number| !known.delivered.contains_key(number))
        .collect();
    if open.is_empty() {
        return Ok(());
    }
    let client = connect(arguments).await?;
    let tasks: Vec<Task> = open.iter().map(|number| task(arguments, *number)).collect();
    let mut answers = client.submit_many(tasks);
    let (feed, mut ends) = client.result_feed();
    let mut feed: Option<ResultFeed> = Some(feed);
    let mut numbers: HashMap<TaskId, u64> = HashMap::new();
    let mut asked = open.iter();
    loop {
        tokio::select! {
            answer = answers.next(), if feed.is_some() => match (answer, asked.next()) {
                (Some(answer), Some(number)) => {
                    let answer = answer.map_err(|error| (1, format!("submission {number}: {error}")))?;
                    let id = answer.id;
                    accepted(&known, *number, id)?;
                    append(&file, &format!("accepted {number} {id}")).map_err(|error| failed(&error))?;
                    numbers.insert(id, *number);
                    if let Some(feed) = &feed {
                        feed.watch([id]);
                    }
                }
                (None, None) => feed = None,
                (answer, number) => {
                    return Err((3, format!("answers and tasks differ: {answer:?} {number:?}")));
                }
            },
            end = ends.next() => match end {
                None => break,
                Some(end) => {
                    let end = end.map_err(|error| (1, format!("end: {error}")))?;
                    let line = delivery(&numbers, &end)?;
                    append(&file, &line).map_err(|error| failed(&error))?;
                    ends.acknowledge([end.id]);
                }
            },
        }
    }
    close(ends).await
}

async fn close(ends: ResultStream) -> Result<(), Failure> {
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

fn task(arguments: &Arguments, number: u64) -> Task {
    let runs = arguments.runs.to_string_lossy().into_owned();
    let number_text = number.to_string();
    Task::exec(["sh", "-c", SCRIPT, "x", &number_text, &runs])
        .key(key(&arguments.name, number))
        .durability(Durability::Journal)
        // A killed worker must not use a task up: its tasks die with it through no fault of theirs.
        .retries(100)
}

/// The same for each life of this client.
fn key(name: &str, number: u64) -> TaskKey {
    TaskKey::of(&format!("{name} {number}"))
}

fn accepted(known: &Ledger, number: u64, id: TaskId) -> Result<(), Failure> {
    let before = known.accepted.get(&number).and_then(|ids| ids.first());
    match before {
        Some(before) if *before != id.to_string() => {
            Err((3, format!("task {number} was {before} and is {id}")))
        }
        _ => Ok(()),
    }
}

fn delivery(numbers: &HashMap<TaskId, u64>, end: &qtf_client::TaskEnd) -> Result<String, Failure> {
    let number = numbers
        .get(&end.id)
        .ok_or_else(|| (3, format!("an end of {}, which nobody watches", end.id)))?;
    let output = end
        .output
        .as_ref()
        .map(|output| output.stdout.clone())
        .unwrap_or_default();
    let output = String::from_utf8_lossy(&output)
        .trim_end()
        .replace('\n', "|");
    let state = end
        .state
        .as_str_name()
        .trim_start_matches("TASK_STATE_")
        .to_lowercase();
    Ok(format!(
        "delivered {number} {} {} {state} {output}",
        end.id, end.attempt
    ))
}
