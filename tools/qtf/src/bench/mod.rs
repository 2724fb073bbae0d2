//! `qtf bench`: how fast a daemon runs tasks that do nothing.
//!
//! | file | what |
//! |---|---|
//! | `plan` | what is to be done, from the options and what the daemon holds |
//! | `parts`, `part` | the processes that it starts, and what they do |
//! | `drive` | clients, each on a thread, through the stages of a run |
//! | `client` | one of them: keeps tasks under way, and its books |
//! | `segment` | client and worker at `shm:NAME`, without messages |
//! | `wire` | its two streams |
//! | `arrivals` | the schedule of an open loop |
//! | `meter`, `host` | processor time, and what was measured on |
//! | `report` | what is printed |
//!
//! Invariants:
//! - B1: each task that was accepted is told of once, or the run fails; a figure of anything else is never printed.
//! - B2: whatever way it ends, its processes, their segment and their folder are gone, and at another daemon its tasks are
//!   acknowledged, as long as that daemon answers.
//!
//! Tested in the files of this folder and in `tests/bench.rs`.

mod arrivals;
mod client;
mod drive;
mod host;
mod meter;
mod part;
mod parts;
mod plan;
mod report;
mod segment;
mod wire;

use std::pin::pin;

use tokio::sync::watch;

use crate::args::{BenchArgs, GlobalArgs};
use crate::daemon::given_address;
use crate::exit::{Ending, Exit, Failure};
use crate::output::message;
use crate::signals::EndSignals;
use drive::{Stage, Start};

pub(crate) use part::run as run_part;

/// Measures.
pub(crate) async fn run(args: BenchArgs, global: &GlobalArgs, signals: &mut EndSignals) -> Ending {
    plan::check(&args)?;
    let given = given_address(global)?;
    if args.one_core {
        host::stay_on_one_core()?;
    }
    if cfg!(debug_assertions) {
        message("this is a build without optimisation: its figures say nothing");
    }
    let (stage, _) = watch::channel(Stage::Filling);
    let start = Start {
        args: &args,
        given: given.as_ref(),
        mode: global.mode(),
        stage: &stage,
    };
    let mut work = pin!(drive::run(start));
    let mut asked = None;
    loop {
        tokio::select! {
            ended = &mut work => return match (ended?, asked) {
                (Some(report), None) => report.print(global.mode()).map(|()| Exit::Ok),
                (_, asked) => Ok(asked.unwrap_or(Exit::Interrupted)),
            },
            exit = signals.next() => {
                if asked.is_some() {
                    return Err(Failure::new(exit, "ended at once: at another daemon tasks of this run may be left"));
                }
                asked = Some(exit);
                stage.send_replace(Stage::Finishing);
            }
        }
    }
}
