//! `qtf ps`.

use qtf_client::ListFilter;

use super::select::{UNFINISHED, list};
use crate::args::{GlobalArgs, PsArgs};
use crate::daemon::Daemon;
use crate::exit::{Ending, Exit};
use crate::output::print_list;
use crate::records::{TaskRecord, proto_state};

/// Lists tasks.
pub(crate) async fn run(args: PsArgs, global: &GlobalArgs) -> Ending {
    let states = if !args.state.is_empty() {
        args.state.iter().map(|name| proto_state(*name)).collect()
    } else if args.all {
        Vec::new()
    } else {
        UNFINISHED.to_vec()
    };
    let filter = ListFilter {
        states,
        mine: args.mine,
        limit: args.limit,
        ..ListFilter::default()
    };
    let tasks = list(&Daemon::connect(global).await?, filter).await?;
    let records: Vec<TaskRecord> = tasks.iter().map(TaskRecord::from).collect();
    print_list(global.mode(), &records)?;
    Ok(Exit::Ok)
}
