//! `qtf-worker`: runs the tasks of a daemon on this machine.
//!
//! SIGTERM or SIGINT: takes nothing new, finishes what runs, leaves; a second one kills what runs.
//! Exit status: 0 left as told, 1 refused by the daemon or not able to start, 2 usage.

mod arguments;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use qtf_proto::address::{Address, DEFAULT_INSTANCE};
use qtf_worker::{ExecPolicy, Worker};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use arguments::Arguments;

/// Descriptors a running task takes: three pipes and its notice of end.
const DESCRIPTORS_PER_SLOT: u64 = 4;
const DESCRIPTORS_BESIDES: u64 = 128;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&arguments.log)
        .with_context(|| format!("--log {:?} is no level or filter", arguments.log));
    let fallback = || EnvFilter::new("info");
    let (filter, filter_error) = match filter {
        Ok(filter) => (filter, None),
        Err(error) => (fallback(), Some(error)),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // A reader of the log that has gone away must not take the worker with it.
        .log_internal_errors(false)
        .init();
    if let Some(error) = filter_error {
        return Err(error);
    }
    let address = arguments.connect;
    let address = address.unwrap_or_else(|| Address::of_instance(DEFAULT_INSTANCE));
    let policy = ExecPolicy::default()
        .output_limit_bytes(arguments.output_limit)
        .stop_grace(arguments.stop_grace)
        .inherit_environment(arguments.inherit_environment);
    let mut worker = Worker::builder(address)
        .prefetch(arguments.prefetch)
        .drain_timeout(arguments.drain_timeout)
        .exec(policy);
    if let Some(name) = arguments.name {
        worker = worker.name(name);
    }
    if let Some(slots) = arguments.slots {
        worker = worker.slots(slots);
    }
    let worker = worker.build()?;
    raise_descriptor_limit(worker.slots());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let signals = || {
            Ok::<_, std::io::Error>((
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
            ))
        };
        let (terminate, interrupt) = signals().context("cannot listen to signals")?;
        let (second_terminate, second_interrupt) = signals().context("cannot listen to signals")?;
        let drain = times(1, terminate, interrupt);
        let abort = times(2, second_terminate, second_interrupt);
        Ok(worker.run_with_abort(drain, abort).await?)
    })
}

/// Waits until so many signals have come.
async fn times(count: u32, mut terminate: Signal, mut interrupt: Signal) {
    for _ in 0..count {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

/// Each running program takes descriptors of ours; the default limit of 1,024 is enough for 224 only.
fn raise_descriptor_limit(slots: u32) {
    let wanted = u64::from(slots) * DESCRIPTORS_PER_SLOT + DESCRIPTORS_BESIDES;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    if soft >= wanted {
        return;
    }
    let raised = setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard);
    if wanted > hard || raised.is_err() {
        tracing::warn!(
            soft,
            hard,
            wanted,
            "the limit of open files is too low for this many slots: raise `ulimit -n`"
        );
    }
}
