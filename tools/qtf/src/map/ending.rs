//! What one ended task prints: its bytes, or its JSON record, and a line when it failed.
//!
//! Tested at the end of this file and in `tests/map.rs`.

use bytes::Bytes;
use prost::Message as _;
use qtf_client::{CallError, Client, TaskEnd, TaskOutput};
use serde::Serialize;
use tokio::sync::mpsc;

use super::printer::Chunk;
use crate::args::OutputMode;
use crate::commands::notes;
use crate::daemon::exit_of_call;
use crate::exit::Exit;
use crate::output::{JsonBytes, message_line, write_json};
use crate::records::{OutcomeRecord, describe, explain, state_name};
use qtf_shown::command::quoted;

/// LIMIT: bytes handed to the printer at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// How the task of one input ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// As the daemon says.
    Task(TaskEnd),
    /// It did not come to a task, or its end is not known.
    Not {
        /// What it means for the exit code.
        exit: Exit,
        /// What happened.
        reason: String,
    },
}

impl Ended {
    /// Bytes that are held for it, here or in the daemon.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Ended::Not { .. } => 0,
            Ended::Task(end) => {
                let here = end.output.as_ref().map_or(0, TaskOutput::encoded_len);
                u64::try_from(here)
                    .unwrap_or(u64::MAX)
                    .saturating_add(end.output_left_bytes)
            }
        }
    }
}

/// The printer is gone: nobody reads stdout any more.
#[derive(Debug)]
pub(super) struct PrinterGone;

/// Prints ended tasks one after the other.
#[derive(Clone, Debug)]
pub(super) struct EndPrinter {
    pub(super) client: Client,
    pub(super) chunks: mpsc::Sender<Chunk>,
    pub(super) mode: OutputMode,
}

#[derive(Serialize)]
struct MapRecord<'a> {
    index: u64,
    input: JsonBytes<'a>,
    id: Option<String>,
    state: Option<&'static str>,
    attempt: u32,
    outcome: Option<OutcomeRecord>,
    ending: &'a str,
    stdout: JsonBytes<'a>,
    stderr: JsonBytes<'a>,
    stdout_dropped_bytes: u64,
    stderr_dropped_bytes: u64,
    message: &'a str,
}

/// One that was printed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Printed {
    /// What it means for the exit code.
    pub(super) exit: Exit,
    /// All of its output was handed over: its result may be acknowledged.
    pub(super) is_handed_over: bool,
}

impl EndPrinter {
    /// Prints one and says what it means for the exit code.
    pub(super) async fn print(
        &self,
        index: u64,
        input: Vec<u8>,
        ended: Ended,
    ) -> Result<Printed, PrinterGone> {
        let mut is_handed_over = true;
        let mut notes_of_output = Vec::new();
        let (exit, ending, output) = match &ended {
            Ended::Not { exit, reason } => (*exit, reason.clone(), TaskOutput::default()),
            Ended::Task(end) => {
                let mut exit = if end.is_done() {
                    Exit::Ok
                } else {
                    Exit::TaskFailed
                };
                let ending = describe(end.state, Some(&end.outcome));
                match self.output_of(end).await {
                    Ok(output) => {
                        notes_of_output = notes(&output, end.outcome.result_dropped);
                        if !notes_of_output.is_empty() {
                            // Whoever redirects stdout must not take a part for the whole.
                            exit = exit.worse(Exit::TaskFailed);
                        }
                        (exit, ending, output)
                    }
                    Err(error) => {
                        is_handed_over = false;
                        let text = format!(
                            "its output could not be fetched, and stays for `qtf result {}`: {error}",
                            end.id
                        );
                        notes_of_output.push(text);
                        (
                            exit.worse(exit_of_call(&error)),
                            ending,
                            TaskOutput::default(),
                        )
                    }
                }
            }
        };
        match self.mode {
            OutputMode::Table => self.bytes(&output).await?,
            OutputMode::Json | OutputMode::Jsonl => {
                self.record(index, &input, &ended, (&ending, &output))
                    .await?;
            }
        }
        let lines = lines(&input, &ended, (&ending, &output.message), &notes_of_output);
        self.pieces(&lines.into(), Chunk::Stderr).await?;
        Ok(Printed {
            exit,
            is_handed_over,
        })
    }

    async fn output_of(&self, end: &TaskEnd) -> Result<TaskOutput, CallError> {
        if end.output_left_bytes > 0 {
            return self.client.fetch_output(end.id).await;
        }
        Ok(end.output.clone().unwrap_or_default())
    }

    async fn bytes(&self, output: &TaskOutput) -> Result<(), PrinterGone> {
        self.pieces(&output.stdout, Chunk::Stdout).await?;
        self.pieces(&output.stderr, Chunk::Stderr).await
    }

    async fn pieces(&self, bytes: &Bytes, chunk: fn(Bytes) -> Chunk) -> Result<(), PrinterGone> {
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(CHUNK_BYTES));
            self.chunks
                .send(chunk(piece))
                .await
                .map_err(|_| PrinterGone)?;
        }
        Ok(())
    }

    async fn record(
        &self,
        index: u64,
        input: &[u8],
        ended: &Ended,
        (ending, output): (&str, &TaskOutput),
    ) -> Result<(), PrinterGone> {
        let end = match ended {
            Ended::Task(end) => Some(end),
            Ended::Not { .. } => None,
        };
        let record = MapRecord {
            index,
            input: JsonBytes(input),
            id: end.map(|end| end.id.to_string()),
            state: end.map(|end| state_name(end.state)),
            attempt: end.map_or(0, |end| end.attempt),
            outcome: end.map(|end| OutcomeRecord::from(&end.outcome)),
            ending,
            stdout: JsonBytes(&output.stdout),
            stderr: JsonBytes(&output.stderr),
            stdout_dropped_bytes: output.stdout_dropped_bytes,
            stderr_dropped_bytes: output.stderr_dropped_bytes,
            message: &output.message,
        };
        let mut line = Vec::new();
        if self.mode == OutputMode::Json {
            line.extend_from_slice(if index == 0 { b"\n" } else { b",\n" });
        }
        // Writing to memory cannot fail.
        let _written = write_json("qtf.mapped/1", &record, &mut line);
        if self.mode == OutputMode::Json {
            line.pop();
        }
        self.pieces(&line.into(), Chunk::Stdout).await
    }
}

/// A line for a task that failed or whose worker has something to say, and one for each thing that is missing of its output.
fn lines(input: &[u8], ended: &Ended, (ending, reason): (&str, &str), notes: &[String]) -> String {
    let name = shown(input);
    let mut text = match ended {
        Ended::Task(end) if end.is_done() && (reason.is_empty() || end.outcome.result_dropped) => {
            String::new()
        }
        Ended::Task(end) if end.is_done() => failure_line(&name, reason, end.attempt),
        Ended::Task(end) => {
            let ending = explain(end.state, Some(&end.outcome), reason);
            failure_line(&name, &ending, end.attempt)
        }
        Ended::Not { .. } => failure_line(&name, ending, 1),
    };
    for note in notes {
        text.push_str(&message_line(format_args!("input {name}: {note}")));
    }
    text
}

fn failure_line(name: &str, ending: &str, attempt: u32) -> String {
    let attempts = if attempt > 1 {
        format!(" (attempt {attempt})")
    } else {
        String::new()
    };
    message_line(format_args!("input {name}: {ending}{attempts}"))
}

/// An input, quoted and short enough for a line.
fn shown(input: &[u8]) -> String {
    const BYTES_MAX: usize = 200;
    match input.get(..BYTES_MAX) {
        Some(head) if input.len() > BYTES_MAX => format!("{}..", quoted(head)),
        _ => quoted(input),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_input_what_happened_and_the_attempt() {
        assert_eq!(
            failure_line("a", "exit code 3", 1),
            "qtf: input a: exit code 3\n"
        );
        assert_eq!(
            failure_line("'a b'", "killed by SIGKILL", 3),
            "qtf: input 'a b': killed by SIGKILL (attempt 3)\n"
        );
        assert_eq!(
            failure_line("a", "its handler failed: \u{202e}\nqtf: all is well", 1),
            "qtf: input a: its handler failed: \\u{202e}\\nqtf: all is well\n"
        );
    }

    #[test]
    fn long_inputs_are_shortened_and_odd_ones_escaped() {
        assert_eq!(shown(b"\xff\n"), r"$'\xff\n'");
        assert_eq!(shown(&[b'x'; 200]).len(), 200);
        assert!(shown(&[b'x'; 201]).ends_with("x.."));
    }
}
