//! `qtf cancel`, `qtf hold`, `qtf release`, `qtf forget`, `qtf update`: calls that are answered for each task on its own.

use qtf_client::{TaskState, TaskVerdict};
use serde::Serialize;

use super::select::{All, Selected, resolve};
use crate::args::{
    CancelArgs, ForgetArgs, GlobalArgs, HoldArgs, OutputMode, ReleaseArgs, UpdateArgs,
};
use crate::daemon::{Daemon, exit_of};
use crate::exit::{Ending, Exit};
use crate::output::{Listed, message, print_list};
use crate::records::state_name;

/// What became of one task.
#[derive(Clone, Debug, Serialize)]
struct VerdictRecord {
    id: String,
    state: Option<&'static str>,
    refusal: Option<String>,
}

impl Listed for VerdictRecord {
    const SCHEMA: &'static str = "qtf.verdict/1";
    const LIST_SCHEMA: &'static str = "qtf.verdicts/1";
    const LIST: &'static str = "verdicts";
    const COLUMNS: &'static [&'static str] = &["ID", "STATE"];

    fn cells(&self) -> Vec<String> {
        vec![self.id.clone(), self.state.unwrap_or("-").to_owned()]
    }
}

/// Cancels waiting tasks and asks running ones to stop.
pub(crate) async fn cancel(args: CancelArgs, global: &GlobalArgs) -> Ending {
    let daemon = Daemon::connect(global).await?;
    let selected = resolve(&daemon, args.selection, All::Unfinished).await?;
    let verdicts = daemon.client.cancel(&selected.ids, &args.reason).await?;
    report(&selected, &verdicts, global)
}

/// Keeps waiting tasks from being started.
pub(crate) async fn hold(args: HoldArgs, global: &GlobalArgs) -> Ending {
    let daemon = Daemon::connect(global).await?;
    let selected = resolve(&daemon, args.selection, All::Waiting).await?;
    let verdicts = daemon.client.hold(&selected.ids, &args.reason).await?;
    report(&selected, &verdicts, global)
}

/// Lets held tasks go on.
pub(crate) async fn release(args: ReleaseArgs, global: &GlobalArgs) -> Ending {
    let daemon = Daemon::connect(global).await?;
    let selected = resolve(&daemon, args.selection, All::Held).await?;
    let verdicts = daemon.client.release(&selected.ids, &args.reason).await?;
    report(&selected, &verdicts, global)
}

/// Acknowledges results.
pub(crate) async fn forget(args: ForgetArgs, global: &GlobalArgs) -> Ending {
    let daemon = Daemon::connect(global).await?;
    let selected = resolve(&daemon, args.selection, All::Ended).await?;
    let verdicts = daemon.client.forget(&selected.ids).await?;
    report(&selected, &verdicts, global)
}

/// Changes priorities.
pub(crate) async fn update(args: UpdateArgs, global: &GlobalArgs) -> Ending {
    let daemon = Daemon::connect(global).await?;
    let selected = resolve(&daemon, args.selection, All::Unfinished).await?;
    let verdicts = daemon
        .client
        .update_priority(&selected.ids, args.priority)
        .await?;
    report(&selected, &verdicts, global)
}

/// Tells of each refusal on stderr; in JSON also what became of the others. A task that frees its
/// slot by itself and is gone needs neither.
pub(super) fn report(selected: &Selected, verdicts: &[TaskVerdict], global: &GlobalArgs) -> Ending {
    let mut exit = Exit::Ok;
    for verdict in verdicts {
        let Err(refusal) = &verdict.result else {
            continue;
        };
        if refusal.is_unknown() && selected.freed_when_done.contains(&verdict.id) {
            continue;
        }
        message(refusal);
        exit = exit.worse(exit_of(refusal));
    }
    if global.mode() != OutputMode::Table {
        let records: Vec<VerdictRecord> = verdicts.iter().map(record).collect();
        print_list(global.mode(), &records)?;
    }
    Ok(exit)
}

fn record(verdict: &TaskVerdict) -> VerdictRecord {
    let known = |state: &TaskState| *state != TaskState::Unspecified;
    VerdictRecord {
        id: verdict.id.to_string(),
        state: verdict
            .result
            .as_ref()
            .ok()
            .copied()
            .filter(known)
            .map(state_name),
        refusal: verdict.result.as_ref().err().map(ToString::to_string),
    }
}
