//! `qtf dev`.

use std::num::NonZero;

use qtf_daemon::Settings;
use qtf_proto::address::{Address, default_address, runtime_dir};
use qtf_proto::folder::OwnFolder;
use qtf_worker::ExecPolicy;
use serde::Serialize;

use crate::args::{DevArgs, GlobalArgs, OutputMode};
use crate::crew::{Crew, Pace, default_slots};
use crate::exit::{Ending, Exit, Failure};
use crate::output::{print_json, print_lines};
use crate::signals::EndSignals;

/// How to reach the daemon.
#[derive(Serialize)]
struct DevRecord {
    addresses: Vec<String>,
    shm_id: i32,
    segment_bytes: u64,
    pid: u32,
    workers: u16,
    slots: u16,
}

/// Runs a daemon and workers until a signal.
pub(crate) async fn run(args: DevArgs, global: &GlobalArgs, signals: &mut EndSignals) -> Ending {
    let mut settings =
        Settings::private().allow_unauthenticated_remote(args.allow_unauthenticated_remote);
    for address in addresses(&args.listen)? {
        settings = settings.listen_also(address);
    }
    let slots = args
        .slots
        .map_or_else(|| share(default_slots(), args.workers), NonZero::get);
    let policy = ExecPolicy::default().containment(args.contain);
    let mut crew = Crew::start(settings, args.workers, (slots, Pace::ONE_BY_ONE), &policy)?;
    signals.pause_own_tasks()?;
    let info = crew.daemon().info();
    let record = DevRecord {
        addresses: crew
            .daemon()
            .addresses()
            .iter()
            .map(Address::to_string)
            .collect(),
        shm_id: info.shm_id,
        segment_bytes: info.segment_bytes,
        pid: std::process::id(),
        workers: args.workers,
        slots: crew.slots_of_each(),
    };
    match global.mode() {
        OutputMode::Table => print_lines(lines(&record))?,
        OutputMode::Json | OutputMode::Jsonl => print_json("qtf.dev/1", &record)?,
    }
    let ending = tokio::select! {
        exit = signals.next() => Ok(exit),
        failure = crew.ended_by_itself() => Err(failure),
    };
    tokio::select! {
        stopped = crew.stop() => ending.and_then(|exit| stopped.map(|()| exit)),
        exit = signals.next() => Ok(exit),
    }
}

/// The addresses to serve: those that were given, else the default socket.
fn addresses(given: &[String]) -> Result<Vec<Address>, Failure> {
    if given.is_empty() {
        make_runtime_folder()?;
        return Ok(vec![default_address()]);
    }
    given
        .iter()
        .map(|text| text.parse().map_err(Failure::usage))
        .collect()
}

/// A private daemon has no lock file and so makes no folder; its default socket needs one.
fn make_runtime_folder() -> Result<(), Failure> {
    let made = OwnFolder::make(&runtime_dir(), 0o700);
    made.map(drop).map_err(|error| {
        let text = format!(
            "{error}; set XDG_RUNTIME_DIR to a folder of your own, or choose an address with --listen"
        );
        Failure::new(Exit::Unreachable, text)
    })
}

fn lines(record: &DevRecord) -> Vec<String> {
    let mut lines = vec![format!(
        "qtf dev: {} of {}, segment of {} MiB, pid {}; Ctrl-C ends it",
        match record.workers {
            1 => "1 worker".to_owned(),
            workers => format!("{workers} workers"),
        },
        match record.slots {
            1 => "1 slot".to_owned(),
            slots => format!("{slots} slots"),
        },
        record.segment_bytes >> 20,
        record.pid
    )];
    lines.extend(
        record
            .addresses
            .iter()
            .map(|address| format!("  export QTF_ADDR={address}")),
    );
    lines.push(format!("  shm-inspect --id {} info", record.shm_id));
    lines
}

/// Slots of each worker, so that all together have one for each CPU.
fn share(cpus: u16, workers: u16) -> u16 {
    cpus.checked_div(workers).unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_the_cpus_and_have_a_slot_at_least() {
        assert_eq!(
            (share(8, 2), share(2, 3), share(4, 0), share(7, 2)),
            (4, 1, 1, 3)
        );
    }

    #[test]
    fn addresses_are_served_as_given_or_refused() {
        let given = addresses(&["127.0.0.1:1".to_owned()]).unwrap();
        assert_eq!(given[0].to_string(), "127.0.0.1:1");
        assert!(addresses(&["nonsense".to_owned()]).is_err());
    }
}
