//! `qtf client`.

use crate::args::{ClientCommand, GlobalArgs};
use crate::daemon::Daemon;
use crate::exit::{Ending, Exit};
use crate::output::print_list;
use crate::records::ClientRecord;

/// Lists the registered clients.
pub(crate) async fn run(command: ClientCommand, global: &GlobalArgs) -> Ending {
    let ClientCommand::Ls = command;
    let clients = Daemon::connect(global).await?.client.clients().await?;
    let records: Vec<ClientRecord> = clients.iter().map(ClientRecord::from).collect();
    print_list(global.mode(), &records)?;
    Ok(Exit::Ok)
}
