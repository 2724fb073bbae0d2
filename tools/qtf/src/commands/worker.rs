//! `qtf worker`.

use qtf_client::WorkerId;

use crate::args::{GlobalArgs, OutputMode, WorkerCommand};
use crate::daemon::Daemon;
use crate::exit::{Ending, Exit, Failure};
use crate::output::{message, print_json, print_list};
use crate::records::WorkerRecord;

/// Lists workers or drains one.
pub(crate) async fn run(command: WorkerCommand, global: &GlobalArgs) -> Ending {
    match command {
        WorkerCommand::Ls => list(global).await,
        WorkerCommand::Drain { worker, reason } => drain(&worker, &reason, global).await,
    }
}

async fn list(global: &GlobalArgs) -> Ending {
    let workers = Daemon::connect(global).await?.client.workers().await?;
    let records: Vec<WorkerRecord> = workers.iter().map(WorkerRecord::from).collect();
    print_list(global.mode(), &records)?;
    Ok(Exit::Ok)
}

async fn drain(worker: &str, reason: &str, global: &GlobalArgs) -> Ending {
    let worker: WorkerId = worker.parse().map_err(Failure::usage)?;
    Daemon::connect(global)
        .await?
        .client
        .drain(worker, reason)
        .await?;
    match global.mode() {
        OutputMode::Table => {
            message(format!(
                "worker {worker} takes no more tasks and leaves when it holds none"
            ));
        }
        OutputMode::Json | OutputMode::Jsonl => {
            let body = serde_json::json!({ "worker": worker.to_string(), "draining": true });
            print_json("qtf.drain/1", &body)?;
        }
    }
    Ok(Exit::Ok)
}
