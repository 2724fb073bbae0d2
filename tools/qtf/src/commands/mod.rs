//! One file a command. Each takes its options and returns how it ended; none decides anything that
//! the daemon decides.

mod client;
mod completions;
mod dev;
mod environment;
mod ps;
mod result;
mod select;
mod size;
mod submit;
mod task;
mod verdicts;
mod wait;
mod worker;

use crate::args::{Cli, Command};
use crate::exit::{Ending, Exit, Failure};
use crate::signals::EndSignals;

pub(crate) use environment::{parse_variables, Variable};

/// Runs the command.
pub(crate) async fn run(cli: Cli) -> Ending {
    let Cli { global, command } = cli;
    let mut signals = EndSignals::listen()
        .map_err(|error| Failure::new(Exit::Usage, format!("cannot listen to signals: {error}")))?;
    let work = async {
        match command {
            // These two end what they started before they end themselves.
            Command::Dev(args) => return dev::run(args, &global, &mut signals).await,
            Command::Map(args) => return crate::map::run(args, &global, &mut signals).await,
            _ => {}
        }
        let short = async {
            match command {
                Command::Submit(args) => submit::run(args, &global).await,
                Command::Wait(args) => wait::run(args, &global).await,
                Command::Result(args) => result::run(args, &global).await,
                Command::Cancel(args) => verdicts::cancel(args, &global).await,
                Command::Forget(args) => verdicts::forget(args, &global).await,
                Command::Update(args) => verdicts::update(args, &global).await,
                Command::Task(args) => task::run(args, &global).await,
                Command::Ps(args) => ps::run(args, &global).await,
                Command::Worker(args) => worker::run(args, &global).await,
                Command::Client(args) => client::run(args, &global).await,
                Command::Size(args) => size::run(args, &global),
                Command::Completions(args) => completions::run(args),
                Command::Dev(_) | Command::Map(_) => Ok(Exit::Ok),
            }
        };
        tokio::select! {
            ending = short => ending,
            // The tasks go on; only this program ends.
            exit = signals.next() => Ok(exit),
        }
    };
    work.await
}
