//! `qtf worker`.

use qtf_client::{CallError, WorkerId};

use crate::args::{GlobalArgs, OutputMode, WorkerCommand};
use crate::daemon::Daemon;
use crate::exit::{Ending, Exit, Failure};
use crate::output::{message, print_json, print_list};
use crate::records::WorkerRecord;

/// Lists workers, drains or evicts one.
pub(crate) async fn run(command: WorkerCommand, global: &GlobalArgs) -> Ending {
    match command {
        WorkerCommand::Ls => list(global).await,
        WorkerCommand::Drain { worker, reason } => drain(&worker, &reason, global).await,
        WorkerCommand::Evict { worker, reason } => evict(&worker, &reason, global).await,
        WorkerCommand::Check(args) => crate::check::run(args, global).await,
    }
}

async fn list(global: &GlobalArgs) -> Ending {
    let workers = Daemon::connect(global).await?.client.workers().await?;
    let records: Vec<WorkerRecord> = workers.iter().map(WorkerRecord::from).collect();
    print_list(global.mode(), &records)?;
    Ok(Exit::Ok)
}

async fn drain(worker: &str, reason: &str, global: &GlobalArgs) -> Ending {
    let id: WorkerId = worker.parse().map_err(Failure::usage)?;
    let daemon = Daemon::connect(global).await?;
    let answer = daemon.client.drain(id, reason).await;
    expect_known(answer, &name_of(id), &daemon)?;
    tell(
        global.mode(),
        id,
        (
            "qtf.drain/1",
            "draining",
            "takes no more tasks and leaves when it holds none",
        ),
    )
}

async fn evict(worker: &str, reason: &str, global: &GlobalArgs) -> Ending {
    let id: WorkerId = worker.parse().map_err(Failure::usage)?;
    let daemon = Daemon::connect(global).await?;
    let answer = daemon.client.evict(id, reason).await;
    expect_known(answer, &name_of(id), &daemon)?;
    tell(
        global.mode(),
        id,
        (
            "qtf.evict/1",
            "evicted",
            "is given up; its tasks run again elsewhere",
        ),
    )
}

fn expect_known(
    answer: Result<(), CallError>,
    worker: &str,
    daemon: &Daemon,
) -> Result<(), Failure> {
    match answer {
        Ok(()) => Ok(()),
        Err(CallError::Refused(refusal)) if refusal.is_unknown() => {
            let text = format!(
                "no worker {worker} is at {}; `qtf worker ls` lists them",
                daemon.address
            );
            Err(Failure::new(Exit::NotFound, text))
        }
        Err(error) => Err(error.into()),
    }
}

/// As it was typed: without an incarnation, `w3` means whoever is in that slot.
fn name_of(worker: WorkerId) -> String {
    let text = worker.to_string();
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

/// Says what a worker is to do from now on: a field of the document, or a sentence.
fn tell(mode: OutputMode, id: WorkerId, (schema, field, sentence): (&str, &str, &str)) -> Ending {
    let worker = name_of(id);
    match mode {
        OutputMode::Table => message(format!("worker {worker} {sentence}")),
        OutputMode::Json | OutputMode::Jsonl => {
            print_json(
                schema,
                &serde_json::json!({ "worker": worker, field: true }),
            )?;
        }
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_named_as_it_was_typed() {
        for (typed, name) in [
            ("3", "w3"),
            ("w3", "w3"),
            ("w3.1", "w3.1"),
            ("w3.10", "w3.10"),
        ] {
            assert_eq!(name_of(typed.parse().unwrap()), name);
        }
    }
}
