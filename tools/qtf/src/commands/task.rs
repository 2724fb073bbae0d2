//! `qtf task`.

use std::io::Write as _;

use qtf_client::CallError;

use super::select::{All, resolve};
use crate::args::{GlobalArgs, OutputMode, TaskArgs};
use crate::daemon::Daemon;
use crate::exit::{Ending, Exit};
use crate::output::{Listed as _, message, print_list, write_fields, write_json};
use crate::records::TaskRecord;

/// Shows everything about tasks. One task is one JSON document, several are a list.
pub(crate) async fn run(args: TaskArgs, global: &GlobalArgs) -> Ending {
    let daemon = Daemon::connect(global).await?;
    let selected = resolve(&daemon, args.selection, All::Unfinished).await?;
    let mut exit = Exit::Ok;
    let mut records = Vec::new();
    for id in &selected.ids {
        match daemon.client.task(*id).await {
            Ok(info) => records.push(TaskRecord::with_ends(&info)),
            Err(CallError::Refused(refusal)) if refusal.is_unknown() => {
                message(&refusal);
                exit = exit.worse(Exit::NotFound);
            }
            Err(error) => return Err(error.into()),
        }
    }
    print(&records, selected.ids.len(), global)?;
    Ok(exit)
}

/// Prints everything about tasks, of which so many were named.
pub(super) fn print(
    records: &[TaskRecord],
    named: usize,
    global: &GlobalArgs,
) -> std::io::Result<()> {
    match (global.mode(), records) {
        (OutputMode::Json, [record]) if named == 1 => {
            let mut out = std::io::stdout().lock();
            write_json(TaskRecord::SCHEMA, record, &mut out)?;
            out.flush()
        }
        (OutputMode::Table, records) => print_fields(records),
        (OutputMode::Json | OutputMode::Jsonl, records) => print_list(global.mode(), records),
    }
}

fn print_fields(records: &[TaskRecord]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for (number, record) in records.iter().enumerate() {
        if number > 0 {
            out.write_all(b"\n")?;
        }
        write_fields(&record.fields(), &mut out)?;
        if let Some(ends) = record.ends() {
            ends.write(&mut out)?;
        }
    }
    out.flush()
}
