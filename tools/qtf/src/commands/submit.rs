//! `qtf submit`.
//!
//! Tested in `tests/`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use qtf_client::{Accepted, Submissions, SubmitError, Task, TaskId};
use serde::Serialize;
use tokio::time::Instant;

use super::environment::{Variable, parse_variables};
use super::input::{Input, InputFile};
use super::room;
use crate::args::{ExitCodeArgs, GlobalArgs, OutputMode, SubmitArgs};
use crate::daemon::Daemon;
use crate::exit::{Ending, Exit, Failure};
use crate::indexes::IndexSet;
use crate::last::Submission;
use crate::notices::RECONNECT_FOR;
use crate::output::{message, print_json, print_lines};
use crate::records::durability_name;
use crate::signals::EndSignals;
use crate::template::{Argument, fill_index, holes_of_others, names_index};

/// After this time without an answer a person wants to know why.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is on its way when the submission is cut short is waited for so long.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Why an array is not submitted to its end.
enum Cut {
    Signal(Exit),
    Failed(SubmitError),
}

/// The answer to one submission, which has a moment more when a signal comes: what is accepted must be known.
async fn answer_to(
    daemon: &Daemon,
    task: Task,
    signals: &mut EndSignals,
) -> Result<(Option<Accepted>, Exit), Failure> {
    let submit = || daemon.client.submit(task.clone());
    let mut answer = std::pin::pin!(room::submit_when_there_is_room(submit));
    let exit = tokio::select! {
        answer = &mut answer => match answer {
            Ok(accepted) => return Ok((Some(accepted), Exit::Ok)),
            Err(error) => return Err(room::explained(daemon, error).await),
        },
        exit = signals.next() => exit,
    };
    let late = tokio::select! {
        late = tokio::time::timeout(LAST_ANSWERS, answer) => late.ok(),
        _ = signals.next() => None,
    };
    Ok((late.and_then(Result::ok), exit))
}

/// What all members have in common.
struct Common {
    argv: Vec<Argument>,
    directory: PathBuf,
    variables: Vec<Variable>,
    /// What the program reads, or the handler is given.
    input: Input,
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
    args.exit_codes.check().map_err(Failure::usage)?;
    check_holes(&args, &argv, &variables)?;
    // A program without arguments, such as a shell, which would find an empty script; or a handler.
    let may_want_stdin = argv.len() <= 1 && args.stdin.is_none() && args.payload.is_none();
    let is_handler = args.kind.is_some();
    let ready = async {
        let common = Common {
            argv,
            directory: working_directory()?,
            variables,
            input: Input::of_tasks(input_of(&args), args.array.clone()).await?,
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
    let ending = match array {
        None => match common.task(None).await {
            Ok(task) => printer.one(&daemon, task, signals).await,
            Err(failure) => Err(failure),
        },
        Some(indexes) => printer.array(&daemon, common, (indexes, signals)).await,
    };
    if may_want_stdin && ending.is_ok() && stdin_holds_bytes() {
        let option = if is_handler {
            "--payload -"
        } else {
            "--stdin -"
        };
        message(format!(
            "what comes on the standard input of qtf is not for the task: give it to the task with {option}"
        ));
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
    async fn one(&mut self, daemon: &Daemon, task: Task, signals: &mut EndSignals) -> Ending {
        let (accepted, exit) = answer_to(daemon, task, signals).await?;
        let Some(accepted) = accepted else {
            return Ok(exit);
        };
        if accepted.is_repeat {
            let gone = if accepted.result_expired {
                ", whose result is no longer kept"
            } else {
                ""
            };
            message(format!("the key is known: this is its first task{gone}"));
        }
        self.print(&[accepted])?;
        Ok(exit)
    }

    /// The first member names the array, so it is submitted before the others.
    async fn array(
        &mut self,
        daemon: &Daemon,
        common: Common,
        (indexes, signals): (IndexSet, &mut EndSignals),
    ) -> Ending {
        if !common.args.no_result {
            room::must_fit(daemon, indexes.count()).await?;
        }
        let mut members = indexes.members();
        let Some(first_index) = members.next() else {
            return Ok(Exit::Ok);
        };
        let task = common.task(Some(first_index)).await?;
        let task = task.array(None, first_index);
        let (first, exit) = answer_to(daemon, task, signals).await?;
        let Some(first) = first else {
            return Ok(exit);
        };
        self.print(&[first])?;
        if exit != Exit::Ok {
            return Ok(exit);
        }
        let first = first.id;
        let (tasks, broken_off) = rest_of_array(common, &indexes, first);
        let answers = daemon.client.submit_stream(tasks);
        let cut_short = self.print_all(answers, (daemon, signals)).await?;
        match cut_short {
            None => match broken_off.take() {
                Some(failure) => Err(self.after_some(&indexes, &failure)),
                None => Ok(Exit::Ok),
            },
            Some(Cut::Signal(exit)) => {
                let (accepted, total) = (self.submission.ids.len(), indexes.count());
                message(format!("{accepted} of {total} members accepted"));
                Ok(exit)
            }
            Some(Cut::Failed(error)) => {
                let failure = room::explained(daemon, error).await;
                Err(self.after_some(&indexes, &failure))
            }
        }
    }

    /// Prints the ids of what is accepted, also of what is on its way when a signal comes or one is refused.
    async fn print_all(
        &mut self,
        answers: Submissions,
        (daemon, signals): (&Daemon, &mut EndSignals),
    ) -> io::Result<Option<Cut>> {
        let mut answers = answers.ready_chunks(256);
        let mut cut = None;
        let mut give_up = Instant::now();
        let mut is_told = false;
        loop {
            let batch = tokio::select! {
                batch = answers.next() => batch,
                () = tokio::time::sleep(PATIENCE), if cut.is_none() && !is_told => {
                    is_told = true;
                    message(room::waiting(daemon).await);
                    continue;
                }
                () = tokio::time::sleep_until(give_up), if cut.is_some() => break,
                exit = signals.next() => {
                    if cut.is_some() {
                        break;
                    }
                    cut = Some(Cut::Signal(exit));
                    answers.get_mut().stop(LAST_ANSWERS);
                    give_up = Instant::now() + 2 * LAST_ANSWERS;
                    continue;
                }
            };
            let Some(batch) = batch else { break };
            is_told = false;
            let mut accepted = Vec::with_capacity(batch.len());
            for answer in batch {
                match answer {
                    Ok(answer) => accepted.push(answer),
                    Err(SubmitError::Stopped) => {}
                    Err(error) if cut.is_none() => {
                        cut = Some(Cut::Failed(error));
                        answers.get_mut().stop(LAST_ANSWERS);
                        give_up = Instant::now() + 2 * LAST_ANSWERS;
                    }
                    // The first tells why.
                    Err(_) => {}
                }
            }
            self.print(&accepted)?;
        }
        Ok(cut)
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
        let input = self.input.for_task(index).await?;
        if let Some(kind) = &self.args.kind {
            return Ok(self.with_options(Task::handler(kind.as_str(), input)));
        }
        let words = self.argv.iter().map(|word| match index {
            Some(index) => OsString::from_vec(fill_index(word, index)),
            None => OsStr::from_bytes(word).to_owned(),
        });
        let mut task = Task::exec(words)
            .working_directory(&self.directory)
            .stdin(input);
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
        task = with_exit_codes(task, &args.exit_codes);
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

/// The task with what its exit codes mean.
pub(crate) fn with_exit_codes(task: Task, codes: &ExitCodeArgs) -> Task {
    let task = task.final_exit_codes(codes.final_exit.iter().copied());
    if codes.again_exit.is_empty() {
        return task;
    }
    let pause = codes.again_after.unwrap_or_default();
    task.again_exit_codes(codes.again_exit.iter().copied(), pause)
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

/// The file that the task is given, and the option that named it.
fn input_of(args: &SubmitArgs) -> Option<InputFile> {
    let stdin = args.stdin.clone().map(|file| InputFile("--stdin", file));
    let payload = args
        .payload
        .clone()
        .map(|file| InputFile("--payload", file));
    stdin.or(payload)
}

/// `%{index}` is of members of an array, and nothing else is filled in.
fn check_holes(
    args: &SubmitArgs,
    argv: &[Argument],
    variables: &[Variable],
) -> Result<(), Failure> {
    let words = argv.iter().map(|word| ("the command", &word[..]));
    let written = variables.iter().filter_map(Variable::written);
    let values = written.map(|value| ("--env", value));
    let input = input_of(args);
    let file = input
        .iter()
        .map(|InputFile(option, file)| (*option, file.as_os_str().as_bytes()));
    for (place, text) in words.chain(values).chain(file) {
        if args.array.is_none() {
            if names_index(text) {
                return Err(Failure::usage(format!(
                    "%{{index}} in {place} needs --array, as in --array 1-10"
                )));
            }
        } else if let Some(hole) = holes_of_others(text, true).next() {
            return Err(Failure::usage(format!(
                "{hole} in {place} is nothing that is filled in; the index of a member is %{{index}}, and for the text itself write \\{hole} in quotes"
            )));
        }
    }
    Ok(())
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
