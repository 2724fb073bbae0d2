//! `qtf result`.

use std::io::{self, Write as _};

use qtf_client::{CallError, Refusal, TaskId, TaskInfo, TaskOutput, TaskState};
use qtf_proto::v1::LimitOf;
use serde::Serialize;

use super::select::{All, resolve};
use crate::args::{GlobalArgs, OutputMode, ResultArgs};
use crate::daemon::Daemon;
use crate::exit::{Ending, Exit, Failure};
use crate::output::{JsonBytes, message, print_json, write_json};
use crate::records::{OutcomeRecord, describe, end_line, id_text, state_name};

const SCHEMA: &str = "qtf.result/1";

/// One result in JSON.
#[derive(Serialize)]
struct ResultRecord<'a> {
    id: String,
    state: &'static str,
    attempt: u32,
    outcome: Option<OutcomeRecord>,
    ending: String,
    stdout: JsonBytes<'a>,
    stderr: JsonBytes<'a>,
    stdout_dropped_bytes: u64,
    stderr_dropped_bytes: u64,
    message: &'a str,
}

/// Prints the outputs of tasks; keeps them where they are. One is one JSON document, several are a list.
pub(crate) async fn run(args: ResultArgs, global: &GlobalArgs) -> Ending {
    let daemon = Daemon::connect(global).await?;
    let selected = resolve(&daemon, args.selection, All::Ended).await?;
    let mut exit = Exit::Ok;
    let mut printer = Printer {
        mode: global.mode(),
        is_list: global.mode() == OutputMode::Json && selected.ids.len() != 1,
        printed: 0,
    };
    printer.begin()?;
    let mut without = 0_u64;
    for id in selected.ids {
        let ended = match print_one(&daemon, id, &mut printer).await? {
            Printed::Ended(exit) => exit,
            Printed::Unknown(_) if selected.freed_when_done.contains(&id) => {
                without += 1;
                Exit::NotFound
            }
            Printed::Unknown(refusal) => {
                message(&refusal);
                Exit::NotFound
            }
        };
        exit = exit.worse(ended);
    }
    printer.finish()?;
    match without {
        0 => {}
        1 => message("the task has succeeded and was to keep no result (--no-result)"),
        _ => message(format!(
            "{without} tasks have succeeded and were to keep no result (--no-result)"
        )),
    }
    Ok(exit)
}

/// Writes each result as it comes, so that only one is in memory.
struct Printer {
    mode: OutputMode,
    /// One JSON document around all.
    is_list: bool,
    printed: u64,
}

impl Printer {
    fn begin(&self) -> io::Result<()> {
        self.around(r#"{"schema":"qtf.results/1","results":["#)
    }

    fn finish(&self) -> io::Result<()> {
        self.around("\n]}\n")
    }

    fn around(&self, text: &str) -> io::Result<()> {
        if !self.is_list {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    fn one(&mut self, info: &TaskInfo, output: &TaskOutput) -> io::Result<()> {
        if self.mode == OutputMode::Table {
            return print_bytes(output);
        }
        if !self.is_list {
            return print_json(SCHEMA, &record(info, output));
        }
        let mut document = Vec::new();
        write_json(SCHEMA, &record(info, output), &mut document)?;
        document.pop();
        let mut out = io::stdout().lock();
        out.write_all(if self.printed == 0 { b"\n" } else { b",\n" })?;
        out.write_all(&document)?;
        self.printed += 1;
        out.flush()
    }
}

/// What became of one id.
enum Printed {
    /// It was printed, or why not was told.
    Ended(Exit),
    /// The daemon does not know it.
    Unknown(Refusal),
}

async fn print_one(daemon: &Daemon, id: TaskId, printer: &mut Printer) -> Result<Printed, Failure> {
    let (info, output) = match look_up(daemon, id).await {
        Ok(found) => found,
        Err(CallError::Refused(refusal)) if refusal.is_unknown() => {
            return Ok(Printed::Unknown(refusal));
        }
        Err(error) => return Err(Failure::from(error)),
    };
    let state = info.state();
    let Some(output) = output else {
        let name = state_name(state);
        let next = if state == TaskState::Held {
            format!("let it go on with `qtf release {id}`")
        } else {
            format!("wait for it with `qtf wait {id}`")
        };
        message(format!("task {id} has not ended, it is {name}; {next}"));
        return Ok(Printed::Ended(Exit::TimedOut));
    };
    printer.one(&info, &output)?;
    let is_whole = tell(id, &info, &output);
    Ok(Printed::Ended(if state == TaskState::Done && is_whole {
        Exit::Ok
    } else {
        // Whoever redirects stdout must not take a part for the whole.
        Exit::TaskFailed
    }))
}

/// The task, and its output if it has ended.
async fn look_up(daemon: &Daemon, id: TaskId) -> Result<(TaskInfo, Option<TaskOutput>), CallError> {
    let info = daemon.client.task(id).await?;
    let output = match info.state() {
        TaskState::Done | TaskState::Failed | TaskState::Cancelled | TaskState::DeadLetter => {
            Some(daemon.client.fetch_output(id).await?)
        }
        TaskState::Unspecified
        | TaskState::Submitted
        | TaskState::Blocked
        | TaskState::Held
        | TaskState::Delayed
        | TaskState::Ready
        | TaskState::Assigned
        | TaskState::Running
        | TaskState::Ended
        | TaskState::Quarantine => None,
    };
    Ok((info, output))
}

fn print_bytes(output: &TaskOutput) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(&output.stdout)?;
    stdout.flush()?;
    // Nobody reads stderr: nowhere is left to say so.
    let _unheard = io::stderr().lock().write_all(&output.stderr);
    Ok(())
}

fn record<'a>(info: &TaskInfo, output: &'a TaskOutput) -> ResultRecord<'a> {
    ResultRecord {
        id: id_text(info.task_id),
        state: state_name(info.state()),
        attempt: info.attempt,
        outcome: info.outcome.as_ref().map(OutcomeRecord::from),
        ending: describe(info.state(), info.outcome.as_ref()),
        stdout: JsonBytes(&output.stdout),
        stderr: JsonBytes(&output.stderr),
        stdout_dropped_bytes: output.stdout_dropped_bytes,
        stderr_dropped_bytes: output.stderr_dropped_bytes,
        message: &output.message,
    }
}

/// Says on stderr what the bytes do not say. Returns whether nothing is missing.
fn tell(id: TaskId, info: &TaskInfo, output: &TaskOutput) -> bool {
    if info.state() != TaskState::Done {
        message(end_line(
            id,
            info.state(),
            info.outcome.as_ref(),
            &output.message,
        ));
    } else if let Some(said) = said_of_done(info, output) {
        message(format!("task {id}: {said}"));
    }
    let notes = notes(
        output,
        info.outcome
            .as_ref()
            .is_some_and(|outcome| outcome.result_dropped),
    );
    for note in &notes {
        message(format!("task {id}: {note}"));
    }
    notes.is_empty()
}

/// What the worker says of a task that ended well. Of an output that was dropped the notes tell.
fn said_of_done<'a>(info: &TaskInfo, output: &'a TaskOutput) -> Option<&'a str> {
    let is_dropped = info.outcome.is_some_and(|outcome| outcome.result_dropped);
    (!is_dropped && !output.message.is_empty()).then_some(&output.message)
}

/// What is missing of an output.
pub(crate) fn notes(output: &TaskOutput, dropped: bool) -> Vec<String> {
    let limit = output.cut_limit_bytes;
    let by = match output.cut_by() {
        LimitOf::Worker => {
            format!("by its worker's limit of {limit} bytes: raise --output-limit of qtf-worker")
        }
        LimitOf::Daemon => format!(
            "by the daemon's limit of {limit} bytes, half of an output: raise payload_bytes_max of qtfd"
        ),
        LimitOf::Unspecified => "by a limit of its worker".to_owned(),
    };
    let cut = |name: &str, bytes: u64| {
        (bytes > 0).then(|| format!("{bytes} bytes of its {name} were cut off {by}"))
    };
    let dropped = dropped.then(|| "its output could not be kept, there was no room".to_owned());
    [
        cut("stdout", output.stdout_dropped_bytes),
        cut("stderr", output.stderr_dropped_bytes),
        dropped,
    ]
    .into_iter()
    .flatten()
    .collect()
}
