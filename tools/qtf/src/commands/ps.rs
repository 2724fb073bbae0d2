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
    let states = if args.all {
        Vec::new()
    } else if args.state.is_empty() {
        UNFINISHED.to_vec()
    } else {
        args.state.iter().map(|name| proto_state(*name)).collect()
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
