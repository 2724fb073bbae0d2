//! `qtf worker check`: a real daemon for a worker in any language, and a list of what it does right.
//!
//! The daemon is private to this process and reached by the worker over a [`proxy`] alone, which sees every message and can
//! hold back or add some ([`wire`]). The checks are in [`script`]; each says where in docs/PROTOCOL.md its rule stands. Tested in
//! `tests/tests/conformance/worker_check.rs`.

mod proxy;
mod script;
mod wire;

use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use qtf_client::Client;
use qtf_daemon::config::RawConfig;
use qtf_daemon::{Daemon, Settings};
use qtf_proto::address::{Address, runtime_dir};
use qtf_proto::channel;
use qtf_proto::folder::OwnFolder;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{CheckArgs, GlobalArgs, OutputMode};
use crate::daemon::{CLIENT_NAME, unreachable};
use crate::exit::{Ending, Exit, Failure};
use crate::output::{Listed, message, print_lines, print_list};
use proxy::Proxy;
use script::{Checked, Script};
use wire::Wire;

/// For each step that the worker is to take; several times what the daemon itself allows.
const PATIENCE: Duration = Duration::from_secs(15);
// Shorter than a daemon's by default, so that a check does not take long.
const HEARTBEAT: Duration = Duration::from_millis(500);
const LEASE: Duration = Duration::from_secs(3);
const GRACE: Duration = Duration::from_secs(3);

/// One check and how it went.
#[derive(Debug, Serialize)]
struct CheckRecord {
    check: &'static str,
    /// Section of docs/PROTOCOL.md, and the point in it.
    rule: &'static str,
    passed: bool,
    /// Of one that failed.
    expected: Option<String>,
    found: Option<String>,
    /// Of one that passed and has something to say.
    note: Option<&'static str>,
}

impl CheckRecord {
    fn of(check: &'static str, rule: &'static str, checked: Checked) -> Self {
        let (note, complaint) = match checked {
            Ok(note) => (note, None),
            Err(complaint) => (None, Some(complaint)),
        };
        let passed = complaint.is_none();
        let (expected, found) = complaint
            .map(|complaint| (complaint.expected, complaint.found))
            .unzip();
        Self {
            check,
            rule,
            passed,
            expected,
            found,
            note,
        }
    }

    fn line(&self) -> String {
        match (&self.expected, &self.found, self.note) {
            (Some(expected), Some(found), _) => format!(
                "FAILED  {}: expected {expected}; found {found}; docs/PROTOCOL.md, {}",
                self.check, self.rule
            ),
            (_, _, Some(note)) => format!("passed  {} ({note})", self.check),
            (_, _, None) => format!("passed  {}", self.check),
        }
    }
}

impl Listed for CheckRecord {
    const SCHEMA: &'static str = "qtf.check/1";
    const LIST_SCHEMA: &'static str = "qtf.checks/1";
    const LIST: &'static str = "checks";
    const COLUMNS: &'static [&'static str] = &["CHECK"];

    fn cells(&self) -> Vec<String> {
        vec![self.line()]
    }
}

/// A worker that was started here; it ends with the check.
struct OwnWorker(Child);

impl OwnWorker {
    /// How it ended, as soon as it has.
    async fn ended(&mut self) -> ExitStatus {
        let Ok(mut children) = signal(SignalKind::child()) else {
            return core::future::pending().await;
        };
        loop {
            if let Ok(Some(status)) = self.0.try_wait() {
                return status;
            }
            if children.recv().await.is_none() {
                return core::future::pending().await;
            }
        }
    }
}

impl Drop for OwnWorker {
    fn drop(&mut self) {
        // One that left when it was drained has ended already.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

/// Serves a worker, and tells how it keeps to the protocol.
pub(crate) async fn run(args: CheckArgs, global: &GlobalArgs) -> Ending {
    known(&args.only)?;
    let raw = RawConfig {
        heartbeat_ms: Some(millis(HEARTBEAT)),
        lease_ms: Some(millis(LEASE)),
        stop_grace_ms: Some(millis(GRACE)),
        ..RawConfig::default()
    };
    let settings = Settings::private_with(raw).map_err(Failure::usage)?;
    let daemon = Daemon::start(settings).map_err(|error| {
        Failure::new(Exit::Unreachable, format!("cannot start a daemon: {error}"))
    })?;
    let inside = Address::InProcess(daemon.in_process());
    let client = Client::builder(inside.clone()).name(CLIENT_NAME);
    let client = client
        .connect()
        .await
        .map_err(|error| unreachable(&error))?;
    let channel = channel::connect(&inside)
        .await
        .map_err(|error| Failure::new(Exit::Unreachable, error))?;
    let wire = Arc::new(Wire::new());
    let proxy = Proxy::start(&listen(args.listen.as_deref())?, channel, Arc::clone(&wire)).await?;
    let address = proxy.address().to_string();
    let mut worker = match args.worker.split_first() {
        Some(command) => Some(start(command, &address)?),
        None => {
            message(format!(
                "start your worker with the address {address}; it offers the kinds {} (gives its payload back) and {} (runs as many ms as its payload says, \
                 and gives that back), or exec; waiting for it up to {} s",
                script::ECHO,
                script::WAIT,
                args.wait.as_secs()
            ));
            None
        }
    };
    let mut script = Script::new(&wire, &proxy, client, args.wait);
    let records = checks(&mut script, worker.as_mut(), &args.only, global.mode()).await?;
    if global.mode() != OutputMode::Table {
        print_list(global.mode(), &records)?;
    }
    let failed = records.iter().filter(|record| !record.passed).count();
    message(format!(
        "{} checks passed, {failed} failed",
        records.len() - failed
    ));
    Ok(if failed == 0 {
        Exit::Ok
    } else {
        Exit::TaskFailed
    })
}

/// The checks that were asked for, in order; only the first if no worker comes, as then nothing can be said, and none any more when
/// its program has ended.
async fn checks(
    script: &mut Script<'_>,
    worker: Option<&mut OwnWorker>,
    only: &[String],
    mode: OutputMode,
) -> Result<Vec<CheckRecord>, Failure> {
    let mut records = Vec::new();
    let mut ended = core::pin::pin!(async {
        match worker {
            Some(worker) => worker.ended().await,
            None => core::future::pending().await,
        }
    });
    for step in script::STEPS {
        let is_first = records.is_empty();
        let is_wanted = only.is_empty() || only.iter().any(|name| name == step.name);
        if !is_first && !is_wanted {
            continue;
        }
        let made = script.make(step.check);
        let mut has_ended = false;
        let checked = if step.sends_away() {
            made.await
        } else {
            tokio::select! {
                biased;
                checked = made => checked,
                status = &mut ended => {
                    has_ended = true;
                    script::program_ended(status)
                }
            }
        };
        let record = CheckRecord::of(step.name, step.rule, checked);
        if mode == OutputMode::Table {
            print_lines([record.line()])?;
        }
        let passed = record.passed;
        records.push(record);
        if has_ended || is_first && !passed {
            break;
        }
        if !passed {
            script.clean().await;
        }
    }
    Ok(records)
}

/// The names of checks that there are not.
fn known(only: &[String]) -> Result<(), Failure> {
    let is_known = |name: &String| script::STEPS.iter().any(|step| step.name == name);
    match only.iter().find(|name| !is_known(name)) {
        None => Ok(()),
        Some(name) => {
            let names: Vec<&str> = script::STEPS.iter().map(|step| step.name).collect();
            let names = names.join(", ");
            Err(Failure::usage(format!(
                "--only {name}: there is no such check; there are {names}"
            )))
        }
    }
}

/// Where the worker finds the check: by default a socket that only this user can reach.
fn listen(given: Option<&str>) -> Result<Address, Failure> {
    if let Some(text) = given {
        return text
            .parse()
            .map_err(|error| Failure::usage(format!("--listen: {error}")));
    }
    OwnFolder::make(&runtime_dir(), 0o700).map_err(|error| {
        let text = format!("{error}; set XDG_RUNTIME_DIR to a folder of your own, or choose an address with --listen");
        Failure::new(Exit::Unreachable, text)
    })?;
    Ok(Address::of_instance(&format!(
        "check-{}",
        std::process::id()
    )))
}

/// Starts the worker that was named; `{}` becomes the address. What it prints goes to stderr.
fn start((program, arguments): (&String, &[String]), address: &str) -> Result<OwnWorker, Failure> {
    let child = Command::new(program)
        .args(
            arguments
                .iter()
                .map(|argument| argument.replace("{}", address)),
        )
        .env("QTF_ADDR", address)
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .spawn()
        .map_err(|error| Failure::usage(format!("cannot start {program}: {error}")))?;
    Ok(OwnWorker(child))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
