//! `qtf-worker`: runs the tasks of a daemon on this machine.
//!
//! SIGTERM or SIGINT: takes nothing new, finishes what runs, leaves; a second one kills what runs. SIGHUP: the same as the first
//! one, unless it is ignored (`nohup`). As pid 1 of a container it reaps what others leave to it.
//! Exit status: 0 left as told, 1 refused by the daemon, its socket not trusted, or not able to start, 2 usage.

mod arguments;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use qtf_log::Form;
use qtf_proto::address::default_address;
use qtf_service::{Keeper, Loops};
use qtf_worker::{
    Containment, ExecPolicy, Vitals, Worker, prepare_containment, raise_descriptor_limit,
    reap_strays,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use arguments::Arguments;

/// As clap ends for what it cannot read.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let contain = arguments.contain;
    let told = |error: anyhow::Error| tracing::error!("{error:#}");
    let exit = match configured(arguments) {
        Ok(worker) => match run(worker, contain) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                told(error);
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            told(error);
            ExitCode::from(USAGE)
        }
    };
    qtf_log::finish();
    exit
}

/// The worker that was asked for, if there can be such a one.
fn configured(arguments: Arguments) -> anyhow::Result<Worker> {
    let form = arguments.log_format.parse::<Form>();
    let plain = || qtf_log::start("info", Form::Auto);
    let form = form.or_else(|error| plain().map(|()| Err(error).context("--log-format"))?)?;
    if let Err(error) = qtf_log::start(&arguments.log, form) {
        plain()?;
        return Err(error).context("--log");
    }
    let address = arguments.connect.unwrap_or_else(default_address);
    let policy = ExecPolicy::default()
        .output_limit_bytes(arguments.output_limit)
        .stop_grace(arguments.stop_grace)
        .linger(arguments.linger)
        .inherit_environment(arguments.inherit_environment)
        .containment(arguments.contain);
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
    Ok(worker.build()?)
}

fn run(mut worker: Worker, contain: Containment) -> anyhow::Result<()> {
    prepare_containment(contain)?;
    let (slots, carried) = (worker.slots(), raise_descriptor_limit(worker.slots(), 0));
    if carried < slots {
        tracing::warn!(
            carried,
            slots,
            "offering fewer slots, as the limits of open files and processes carry no more: raise `ulimit -n` or `ulimit -u` \
             (LimitNOFILE=, LimitNPROC= of a service)"
        );
        worker = worker.with_slots(carried);
    }
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
        let hangup = match is_ignored(SignalKind::hangup()) {
            true => None,
            false => Some(signal(SignalKind::hangup()).context("cannot listen to signals")?),
        };
        let reaping = async {
            if std::process::id() == 1 {
                reap_strays().await;
            }
            core::future::pending::<()>().await;
        };
        let drain = async {
            tokio::select! {
                () = times(1, terminate, interrupt) => {}
                // A terminal that is closed may send several: they do not kill.
                () = once(hangup) => {}
            }
        };
        let abort = times(2, second_terminate, second_interrupt);
        let vitals = worker.vitals();
        let keeper = qtf_service::keep(VitalsOfWorker(vitals.clone()));
        let keeper = keeper.inspect_err(|error| {
            tracing::error!(%error, "nobody looks whether the worker hangs, and no watchdog is fed");
        });
        let keeper = keeper.ok();
        let drain = async {
            drain.await;
            keeper.iter().for_each(Keeper::stops);
        };
        let registered = async {
            vitals.is_registered().await;
            qtf_service::ready();
            core::future::pending::<()>().await;
        };
        tokio::select! {
            ended = worker.run_with_abort(drain, abort) => Ok(ended?),
            () = reaping => Ok(()),
            () = registered => Ok(()),
        }
    })
}

/// What the service manager is told of.
struct VitalsOfWorker(Vitals);

impl Loops for VitalsOfWorker {
    fn turns(&self) -> Vec<(&'static str, u64)> {
        vec![("worker", self.0.turns())]
    }

    fn status(&self) -> String {
        match self.0.has_registered() {
            true => format!("registered, {} tasks", self.0.holding()),
            false => "waits for its daemon".to_owned(),
        }
    }
}

/// Whether this process was started with the signal ignored, which a handler would undo.
fn is_ignored(signal: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| (mask >> (signal.as_raw_value() - 1)) & 1 != 0)
}

async fn once(signal: Option<Signal>) {
    match signal {
        Some(mut signal) => drop(signal.recv().await),
        None => core::future::pending().await,
    }
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
