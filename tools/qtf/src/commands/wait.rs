//! `qtf wait`.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::StreamExt as _;
use qtf_client::{OutcomeKind, Outputs, TaskEnd, TaskId, WatchError};
use serde::Serialize;

use super::select::{All, Selected, resolve};
use super::unstarted;
use crate::args::{GlobalArgs, OutputMode, WaitArgs};
use crate::daemon::{Daemon, exit_of};
use crate::durations::age;
use crate::exit::{Ending, Exit, Failure};
use crate::notices::RECONNECT_FOR;
use crate::output::{Listed, message, print_list};
use crate::records::{OutcomeRecord, describe, end_line, state_name};

/// The daemon is asked also with --timeout 0; a busy machine needs this long for its answer.
const ASK: Duration = Duration::from_millis(200);

/// LIMIT: failed tasks whose workers' words are fetched; of the others the kind of their end is told.
const REASONS_MAX: u32 = 100;

/// How one task ended.
#[derive(Clone, Debug, Serialize)]
struct EndRecord {
    id: String,
    state: &'static str,
    attempt: u32,
    outcome: OutcomeRecord,
    ending: String,
    /// What the worker says of a task that it could not run, or whose handler failed.
    message: String,
    worker_name: String,
}

impl EndRecord {
    fn new(end: &TaskEnd, message: String) -> Self {
        EndRecord {
            id: end.id.to_string(),
            state: state_name(end.state),
            attempt: end.attempt,
            outcome: OutcomeRecord::from(&end.outcome),
            ending: describe(end.state, Some(&end.outcome)),
            message,
            worker_name: end.worker_name.clone(),
        }
    }
}

impl Listed for EndRecord {
    const SCHEMA: &'static str = "qtf.end/1";
    const LIST_SCHEMA: &'static str = "qtf.ends/1";
    const LIST: &'static str = "ends";
    const COLUMNS: &'static [&'static str] = &["ID", "STATE", "ATTEMPT", "ENDING"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.state.to_owned(),
            self.attempt.to_string(),
            self.ending.clone(),
        ]
    }
}

/// What is known so far.
struct Waiting {
    open: HashSet<TaskId>,
    freed_when_done: HashSet<TaskId>,
    ends: Vec<EndRecord>,
    exit: Exit,
    keep_records: bool,
    /// How many were held when the waiting began.
    held: usize,
    reasons_left: u32,
}

/// Waits for the ends of tasks.
pub(crate) async fn run(args: WaitArgs, global: &GlobalArgs) -> Ending {
    let limit = args
        .timeout
        .map_or(RECONNECT_FOR, |timeout| timeout.max(ASK).min(RECONNECT_FOR));
    let daemon = Daemon::connect_or_await(global, limit).await?;
    let Selected {
        ids,
        freed_when_done,
    } = resolve(&daemon, args.selection, All::Unfinished).await?;
    let mut waiting = Waiting {
        open: ids.iter().copied().collect(),
        freed_when_done,
        ends: Vec::new(),
        exit: Exit::Ok,
        keep_records: global.mode() != OutputMode::Table,
        held: 0,
        reasons_left: REASONS_MAX,
    };
    let total = ids.len();
    let in_time = match args.timeout {
        None => waiting
            .until_all_have_ended(&daemon, ids)
            .await
            .map(|()| true)?,
        Some(timeout) => {
            let all = waiting.until_all_have_ended(&daemon, ids);
            match tokio::time::timeout(timeout.max(ASK), all).await {
                Ok(result) => result.map(|()| true)?,
                Err(_elapsed) => false,
            }
        }
    };
    if !in_time {
        let after = args.timeout.map_or(0, |timeout| {
            u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)
        });
        message(format!(
            "{} of {total} tasks have not ended after {}{}",
            waiting.open.len(),
            age(after),
            match waiting.held {
                0 => String::new(),
                held => format!(", {held} of them held"),
            }
        ));
        waiting.exit = waiting.exit.worse(Exit::TimedOut);
    }
    if global.mode() != OutputMode::Table {
        print_list(global.mode(), &waiting.ends)?;
    }
    Ok(waiting.exit)
}

impl Waiting {
    async fn until_all_have_ended(
        &mut self,
        daemon: &Daemon,
        ids: Vec<TaskId>,
    ) -> Result<(), Failure> {
        self.held = unstarted::tell(daemon, &self.open).await;
        let mut results = daemon.client.results_with(ids, Outputs::Leave);
        while let Some(result) = results.next().await {
            match result {
                Ok(end) => self.on_end(daemon, &end).await,
                Err(WatchError::Task { id, refusal }) => {
                    self.open.remove(&id);
                    if !(refusal.is_unknown() && self.freed_when_done.contains(&id)) {
                        message(&refusal);
                        self.exit = self.exit.worse(exit_of(&refusal));
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn on_end(&mut self, daemon: &Daemon, end: &TaskEnd) {
        self.open.remove(&end.id);
        let reason = self.reason_of(daemon, end).await;
        if !end.is_done() {
            message(end_line(end.id, end.state, Some(&end.outcome), &reason));
            self.exit = self.exit.worse(Exit::TaskFailed);
        }
        if self.keep_records {
            self.ends.push(EndRecord::new(end, reason));
        }
    }

    /// What the worker says where the outcome alone says little: which program there is not, why a handler failed.
    async fn reason_of(&mut self, daemon: &Daemon, end: &TaskEnd) -> String {
        use OutcomeKind::{HandlerFailed, Refused, SpawnFailed, TransferFailed};
        let kind = end.outcome.kind();
        let is_told = matches!(kind, SpawnFailed | HandlerFailed | Refused | TransferFailed);
        if !is_told || end.output_left_bytes == 0 || self.reasons_left == 0 {
            return String::new();
        }
        self.reasons_left -= 1;
        // It may be forgotten by now; the end is told all the same.
        let output = daemon.client.fetch_output(end.id).await;
        output.map(|output| output.message).unwrap_or_default()
    }
}
