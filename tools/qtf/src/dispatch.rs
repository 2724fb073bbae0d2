//! From a command line to the command, and the signals that may end it.

use crate::args::{Cli, Command};
use crate::commands::{
    client, completions, dead, dev, info, ps, result, select, size, submit, task, verdicts, wait,
    worker,
};
use crate::exit::{Ending, Exit, Failure};
use crate::signals::EndSignals;
use crate::{bench, journal, map};

/// Runs the command.
pub(crate) async fn run(cli: Cli) -> Ending {
    let Cli { global, command } = cli;
    let global = &global;
    let mut signals = EndSignals::listen()
        .map_err(|error| Failure::new(Exit::Usage, format!("cannot listen to signals: {error}")))?;
    let signals = &mut signals;
    match command {
        // These do not just stop: they end what they started, or remember what was accepted.
        Command::Dev(args) => dev::run(args, global, signals).await,
        Command::Map(args) => map::run(args, global, signals).await,
        Command::Bench(args) => bench::run(args, global, signals).await,
        Command::BenchPart(part) => bench::run_part(part, global, signals).await,
        Command::Submit(args) => submit::run(args, global, signals).await,
        Command::Wait(args) => or_signal(signals, wait::run(args, global)).await,
        Command::Result(args) => or_signal(signals, result::run(args, global)).await,
        Command::Cancel(args) => or_signal(signals, verdicts::cancel(args, global)).await,
        Command::Hold(args) => or_signal(signals, verdicts::hold(args, global)).await,
        Command::Release(args) => or_signal(signals, verdicts::release(args, global)).await,
        Command::Forget(args) => or_signal(signals, verdicts::forget(args, global)).await,
        Command::Update(args) => or_signal(signals, verdicts::update(args, global)).await,
        Command::Task(args) => or_signal(signals, task::run(args, global)).await,
        Command::Ps(args) => or_signal(signals, ps::run(args, global)).await,
        Command::Dead(args) => or_signal(signals, dead::run(args, global)).await,
        Command::Worker(args) => or_signal(signals, worker::run(args, global)).await,
        Command::Client(args) => or_signal(signals, client::run(args, global)).await,
        Command::Info(_) => or_signal(signals, info::run(global)).await,
        Command::Journal(command) => {
            let global = global.clone();
            let work = move || journal::run(command, &global);
            or_signal(signals, select::off_the_runtime(work)).await
        }
        Command::Size(args) => size::run(&args, global),
        Command::Completions(args) => completions::run(&args),
    }
}

/// Ends at a signal. Tasks go on; only this program ends.
async fn or_signal(signals: &mut EndSignals, work: impl Future<Output = Ending>) -> Ending {
    tokio::select! {
        ending = work => ending,
        exit = signals.next() => Ok(exit),
    }
}
