//! `qtf submit`.
//!
//! Tested in `tests/` and, what waits for room, at the end of this file.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use qtf_client::{Accepted, RefusalReason, SubmitError, Task, TaskId};
use serde::Serialize;
use tokio::time::Instant;

use super::environment::{Variable, parse_variables};
use super::stdin::Stdin;
use crate::args::{GlobalArgs, OutputMode, SubmitArgs};
use crate::daemon::Daemon;
use crate::exit::{Ending, Exit, Failure};
use crate::indexes::IndexSet;
use crate::last::Submission;
use crate::notices::{RECONNECT_FOR, waiting_for_place};
use crate::output::{message, print_json, print_lines};
use crate::records::durability_name;
use crate::signals::EndSignals;
use crate::template::{Argument, fill_index, names_index};

/// After this time without an answer a person wants to know why.
const PATIENCE: Duration = Duration::from_secs(2);

/// LIMIT: a daemon that was killed and started again writes to its journal what it found, and makes files for it.
const ROOM_WITHIN: Duration = Duration::from_secs(5);

/// LIMIT: a place for a key is waited for at this pace, however far off the end of the next key is: others give keys back before.
const ASK_FOR_PLACE_AFTER: Duration = Duration::from_millis(500);

/// Submits a task. A journal without room is asked again, but not for long: the disk may be full. So is a table of keys without a
/// place, which is told.
async fn submit_when_there_is_room<T, F>(mut submit: impl FnMut() -> F) -> Result<T, SubmitError>
where
    F: Future<Output = Result<T, SubmitError>>,
{
    let begun = Instant::now();
    let give_up = begun + ROOM_WITHIN;
    let mut is_told = false;
    loop {
        match submit().await {
            Err(SubmitError::Refused(refusal))
                if refusal.reason == RefusalReason::KeysFull
                    && refusal.retry_after_ms > 0
                    && begun.elapsed() < refusal.worth_waiting(RECONNECT_FOR) =>
            {
                if !core::mem::replace(&mut is_told, true) {
                    let up_to = refusal.worth_waiting(RECONNECT_FOR);
                    message(waiting_for_place(&refusal, up_to));
                }
                let hint = Duration::from_millis(refusal.retry_after_ms.into());
                tokio::time::sleep(hint.min(ASK_FOR_PLACE_AFTER)).await;
            }
            Err(SubmitError::Refused(refusal))
                if refusal.reason == RefusalReason::JournalFull
                    && refusal.retry_after_ms > 0
                    && Instant::now() < give_up =>
            {
                tokio::time::sleep(Duration::from_millis(refusal.retry_after_ms.into())).await;
            }
            answer => return answer,
        }
    }
}

/// What all members have in common.
struct Common {
    argv: Vec<Argument>,
    directory: PathBuf,
    variables: Vec<Variable>,
    stdin: Stdin,
    args: SubmitArgs,
}

/// Submits a command or an array of them, and prints the ids.
pub(crate) async fn run(args: SubmitArgs, global: &GlobalArgs, signals: &mut EndSignals) -> Ending {
    let argv: Vec<Argument> = args
        .command
        .iter()
        .map(|word| word.clone().into_vec())
        .collect();
    let variables = parse_variables(&args.env)?;
    if args.array.is_none() {
        check_no_index(&argv, &variables, args.stdin.as_deref())?;
    }
    // A program without arguments, such as a shell, which would find an empty script.
    let may_want_stdin = argv.len() == 1 && args.stdin.is_none();
    let ready = async {
        let common = Common {
            argv,
            directory: working_directory()?,
            variables,
            stdin: Stdin::of_tasks(args.stdin.clone(), args.array.clone()).await?,
            args,
        };
        Ok::<_, Failure>((
            common,
            Daemon::connect_or_await(global, RECONNECT_FOR).await?,
        ))
    };
    let (common, daemon) = tokio::select! {
        ready = ready => ready?,
        exit = signals.next() => return Ok(exit),
    };
    let array = common.args.array.clone();
    let mut printer = IdPrinter {
        mode: global.mode(),
        submission: Submission::default(),
        accepted: Vec::new(),
    };
    printer.submission.no_result = common.args.no_result;
    let submit = async {
        match array {
            None => match common.task(None).await {
                Ok(task) => printer.one(&daemon, task).await,
                Err(failure) => Err(failure),
            },
            Some(indexes) => printer.array(&daemon, common, indexes).await,
        }
    };
    let ending = tokio::select! {
        submitted = submit => submitted.map(|()| Exit::Ok),
        exit = signals.next() => Ok(exit),
    };
    if may_want_stdin && ending.is_ok() && stdin_holds_bytes() {
        message(
            "what comes on the standard input of qtf is not for the task: give it to the task with --stdin -",
        );
    }
    // Also after a failure or a signal in the middle: what was accepted must be found again.
    printer.remember(&daemon);
    if printer.mode == OutputMode::Json && !printer.submission.ids.is_empty() {
        let ids: Vec<String> = printer
            .submission
            .ids
            .iter()
            .map(ToString::to_string)
            .collect();
        let body = serde_json::json!({ "ids": ids, "accepted": printer.accepted });
        print_json("qtf.submission/1", &body)?;
    }
    ending
}

/// Prints ids as they come and remembers them.
struct IdPrinter {
    mode: OutputMode,
    submission: Submission,
    /// For one JSON document at the end.
    accepted: Vec<AcceptedRecord>,
}

/// The answer to one submission, in JSON.
#[derive(Serialize)]
struct AcceptedRecord {
    id: String,
    durability: &'static str,
    is_repeat: bool,
    result_expired: bool,
}

impl From<&Accepted> for AcceptedRecord {
    fn from(accepted: &Accepted) -> Self {
        AcceptedRecord {
            id: accepted.id.to_string(),
            durability: durability_name(accepted.durability),
            is_repeat: accepted.is_repeat,
            result_expired: accepted.result_expired,
        }
    }
}

impl IdPrinter {
    async fn one(&mut self, daemon: &Daemon, task: Task) -> Result<(), Failure> {
        let submit = || daemon.client.submit(task.clone());
        let accepted = submit_when_there_is_room(submit).await?;
        if accepted.is_repeat {
            let gone = if accepted.result_expired {
                ", whose result is no longer kept"
            } else {
                ""
            };
            message(format!("the key is known: this is its first task{gone}"));
        }
        self.print(&[accepted])?;
        Ok(())
    }

    /// The first member names the array, so it is submitted before the others.
    async fn array(
        &mut self,
        daemon: &Daemon,
        common: Common,
        indexes: IndexSet,
    ) -> Result<(), Failure> {
        let mut members = indexes.members();
        let Some(first_index) = members.next() else {
            return Ok(());
        };
        let task = common.task(Some(first_index)).await?;
        let task = task.array(None, first_index);
        let submit = || daemon.client.submit(task.clone());
        let first = submit_when_there_is_room(submit).await?;
        self.print(&[first])?;
        let first = first.id;
        let (tasks, broken_off) = rest_of_array(common, &indexes, first);
        let mut answers = daemon.client.submit_stream(tasks).ready_chunks(256);
        loop {
            let batch = match tokio::time::timeout(PATIENCE, answers.next()).await {
                Ok(batch) => batch,
                Err(_elapsed) => {
                    message(
                        "waiting for room in the daemon's segment, or for the daemon; Ctrl-C keeps what is accepted",
                    );
                    answers.next().await
                }
            };
            let Some(batch) = batch else {
                let failure = broken_off.take();
                return failure.map_or(Ok(()), |failure| Err(self.after_some(&indexes, &failure)));
            };
            let mut accepted = Vec::with_capacity(batch.len());
            let mut failure = None;
            for answer in batch {
                match answer {
                    Ok(answer) => accepted.push(answer),
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
            self.print(&accepted)?;
            if let Some(error) = failure {
                return Err(self.after_some(&indexes, &Failure::from(error)));
            }
        }
    }

    /// A failure in the middle of an array.
    fn after_some(&self, indexes: &IndexSet, failure: &Failure) -> Failure {
        let (accepted, total) = (self.submission.ids.len(), indexes.count());
        let text = failure.message().unwrap_or_default();
        Failure::new(
            failure.exit(),
            format!("{accepted} of {total} members accepted, then: {text}"),
        )
    }

    fn print(&mut self, accepted: &[Accepted]) -> io::Result<()> {
        let ids = accepted.iter().map(|accepted| accepted.id);
        self.submission.ids.extend(ids.clone());
        match self.mode {
            OutputMode::Table => print_lines(ids),
            OutputMode::Json => {
                self.accepted
                    .extend(accepted.iter().map(AcceptedRecord::from));
                Ok(())
            }
            OutputMode::Jsonl => accepted.iter().try_for_each(|accepted| {
                print_json("qtf.submitted/1", &AcceptedRecord::from(accepted))
            }),
        }
    }

    /// A convenience that fails must not make the submission fail.
    fn remember(&self, daemon: &Daemon) {
        if self.submission.ids.is_empty() {
            return;
        }
        if let Err(error) = daemon.last().write(&self.submission) {
            message(format!(
                "cannot remember this submission for `last`: {error}"
            ));
        }
    }
}

impl Common {
    /// The task, or the member of the array.
    async fn task(&self, index: Option<u64>) -> Result<Task, Failure> {
        let stdin = self.stdin.for_task(index).await?;
        let words = self.argv.iter().map(|word| match index {
            Some(index) => OsString::from_vec(fill_index(word, index)),
            None => OsStr::from_bytes(word).to_owned(),
        });
        let mut task = Task::exec(words)
            .working_directory(&self.directory)
            .stdin(stdin);
        for variable in &self.variables {
            task = match index {
                Some(index) => task.env(&variable.name, variable.value_for(index)),
                None => task.env(&variable.name, variable.value()),
            };
        }
        Ok(self.with_options(task))
    }

    fn with_options(&self, mut task: Task) -> Task {
        let ms = |ms: u32| Duration::from_millis(ms.into());
        let args = &self.args;
        if let Some(priority) = args.priority {
            task = task.priority(priority);
        }
        if args.once {
            task = task.at_most_once();
        }
        if let Some(retries) = args.retries {
            task = task.retries(retries.into());
        }
        task = task.final_exit_codes(args.final_exit.iter().copied());
        if !args.again_exit.is_empty() {
            let pause = args.again_after.unwrap_or_default();
            task = task.again_exit_codes(args.again_exit.iter().copied(), pause);
        }
        if let Some(timeout) = args.timeout {
            task = task.timeout(ms(timeout));
        }
        if let Some(estimate) = args.estimate {
            task = task.estimate(ms(estimate));
        }
        if let Some(delay) = args.delay {
            task = task.delay(delay);
        }
        if args.hold {
            task = task.hold();
        }
        if let Some(keep) = args.keep {
            task = task.keep(keep);
        }
        if let Some(durability) = args.durability {
            task = task.durability(durability.into());
        }
        if let Some(key) = &args.key {
            task = task.key(key.as_str());
        }
        if let Some(ttl) = args.key_ttl {
            task = task.key_ttl(ttl);
        }
        if args.no_result {
            task.discard_result()
        } else {
            task
        }
    }
}

/// The directory that tasks run in: that of the submitter.
pub(crate) fn working_directory() -> Result<PathBuf, Failure> {
    std::env::current_dir().map_err(|error| {
        Failure::usage(format!(
            "the current directory cannot be named ({error}); cd to one that exists"
        ))
    })
}

/// Whether somebody has written into the pipe that is the standard input of this program. Nothing is read from it.
fn stdin_holds_bytes() -> bool {
    let stdin = io::stdin();
    let is_pipe = stdin
        .as_fd()
        .try_clone_to_owned()
        .and_then(|fd| std::fs::File::from(fd).metadata())
        .is_ok_and(|metadata| metadata.file_type().is_fifo());
    let mut asked = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    is_pipe
        && poll(&mut asked, PollTimeout::ZERO).is_ok()
        && asked[0]
            .revents()
            .is_some_and(|events| events.contains(PollFlags::POLLIN))
}

/// `%{index}` is of members of an array.
fn check_no_index(
    argv: &[Argument],
    variables: &[Variable],
    stdin: Option<&Path>,
) -> Result<(), Failure> {
    let place = if argv.iter().any(|word| names_index(word)) {
        "the command"
    } else if variables.iter().any(Variable::names_index) {
        "--env"
    } else if stdin.is_some_and(|file| names_index(file.as_os_str().as_bytes())) {
        "--stdin"
    } else {
        return Ok(());
    };
    Err(Failure::usage(format!(
        "%{{index}} in {place} needs --array, as in --array 1-10"
    )))
}

/// Why the members that follow were not submitted, if so.
#[derive(Clone, Default)]
struct BrokenOff(Arc<Mutex<Option<Failure>>>);

impl BrokenOff {
    fn take(&self) -> Option<Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The task, or `None` for ever from the first failure on.
    fn note(&self, task: Result<Task, Failure>) -> Option<Task> {
        task.map_err(|failure| {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
        })
        .ok()
    }
}

/// The members of an array behind the first; they end early where the input of one cannot be read.
fn rest_of_array(
    common: Common,
    indexes: &IndexSet,
    first: TaskId,
) -> (impl Stream<Item = Task> + Send + 'static, BrokenOff) {
    let (common, broken_off) = (Arc::new(common), BrokenOff::default());
    let noted = broken_off.clone();
    let members = futures_util::stream::iter(indexes.clone().into_members().skip(1));
    let tasks = members
        .then(move |index| {
            let common = Arc::clone(&common);
            async move {
                let task = common.task(Some(index)).await?;
                Ok(task.array(Some(first), index))
            }
        })
        .scan((), move |(), task| std::future::ready(noted.note(task)));
    (tasks, broken_off)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use qtf_client::Refusal;

    use super::*;

    /// What is answered where the first `refused` calls are refused, after how long, and how often it was asked.
    async fn asked(
        reason: RefusalReason,
        retry_after_ms: u32,
        refused: u32,
    ) -> (bool, Duration, u32) {
        let (start, calls) = (Instant::now(), Cell::new(0));
        let answer = submit_when_there_is_room(|| {
            calls.set(calls.get() + 1);
            let message = "no room".to_owned();
            let refusal = Refusal {
                reason,
                message,
                retry_after_ms,
            };
            std::future::ready(if calls.get() > refused {
                Ok(())
            } else {
                Err(SubmitError::Refused(refusal))
            })
        });
        (answer.await.is_ok(), start.elapsed(), calls.get())
    }

    #[tokio::test(start_paused = true)]
    async fn journal_without_room_is_asked_again_for_a_while_and_other_refusals_are_told_at_once() {
        use RefusalReason::{JournalFull, TasksFull};
        let (ms, once) = (Duration::from_millis, (false, Duration::ZERO, 1));
        assert_eq!(asked(JournalFull, 100, 3).await, (true, ms(300), 4));
        assert_eq!(
            asked(JournalFull, 500, 1000).await,
            (false, ROOM_WITHIN, 11)
        );
        assert_eq!(asked(JournalFull, 0, 1).await, once);
        assert_eq!(asked(TasksFull, 100, 1).await, once);
    }

    #[tokio::test(start_paused = true)]
    async fn place_for_a_key_is_waited_for_while_that_is_short_and_known_and_else_a_moment() {
        use RefusalReason::KeysFull;
        let s = Duration::from_secs;
        assert_eq!(
            asked(KeysFull, 300, 2).await,
            (true, s(0) + Duration::from_millis(600), 3)
        );
        assert_eq!(
            asked(KeysFull, 2_000, 9).await,
            (true, Duration::from_millis(4_500), 10)
        );
        assert_eq!(asked(KeysFull, 25_000, 1_000).await, (false, s(30), 61));
        assert_eq!(asked(KeysFull, 3_500_000, 1_000).await, (false, s(5), 11));
        assert_eq!(asked(KeysFull, 0, 1).await, (false, s(0), 1));
    }
}
