//! What the processes of `qtf bench` do: a daemon, or a worker, until stdin ends.
//!
//! Stdin is a pipe whose other end the bench holds: it ends when the bench says so, and also when that was killed. Tested in
//! `tests/bench.rs`.

use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::time::Duration;

use prost::Message as _;
use qtf_daemon::config::RawConfig;
use qtf_daemon::{Daemon, Settings};
use qtf_proto::address::{Address, SegmentAddress};
use qtf_proto::v1::TaskOutput;
use qtf_shm::SegmentView;
use qtf_worker::{Worker, WorkerBuilder};
use tokio::sync::watch;

use super::segment::{self, Go};
use crate::args::{BenchPart, GlobalArgs};
use crate::daemon::given_address;
use crate::exit::{Ending, Exit, Failure};
use crate::signals::EndSignals;

/// Said on stdout by a daemon that serves.
pub(super) const READY: &str = "ready";
/// Said to a worker: it may end tasks.
pub(super) const GO: &str = "go";
/// A task ends at once; what has not by then never will.
const DRAIN: Duration = Duration::from_secs(5);

/// The socket of the own daemon.
pub(super) fn socket_in(folder: &Path) -> Address {
    Address::Unix(folder.join("bench.sock"))
}

/// What the bench says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Nothing,
    Go,
    /// It ends, or is gone.
    Leave,
}

/// Is that part.
pub(crate) async fn run(part: BenchPart, global: &GlobalArgs, signals: &mut EndSignals) -> Ending {
    let (say, said) = watch::channel(Said::Nothing);
    let listen = move || {
        for line in std::io::stdin().lock().lines() {
            if line.is_ok_and(|line| line == GO) {
                say.send_replace(Said::Go);
            }
        }
        say.send_replace(Said::Leave);
    };
    let thread = std::thread::Builder::new().name("qtf-bench-stdin".to_owned());
    thread
        .spawn(listen)
        .map_err(|error| Failure::usage(format!("cannot start a thread: {error}")))?;
    let mut heard = said.clone();
    let leave = async move {
        // A listener that is gone means the same.
        let _gone = heard.wait_for(|said| *said == Said::Leave).await;
    };
    match part {
        BenchPart::Daemon {
            folder,
            segment_bytes,
            journal,
        } => {
            let ending = serve(&folder, segment_bytes, journal, async {
                tokio::select! {
                    () = leave => {}
                    _ = signals.next() => {}
                }
            })
            .await;
            // The bench does it too, unless it was killed.
            let _gone = std::fs::remove_dir_all(&folder);
            ending
        }
        BenchPart::Worker {
            name,
            kind,
            slots,
            result,
            spin,
        } => {
            let address = given_address(global)?
                .ok_or_else(|| Failure::usage("a worker of a bench needs --addr"))?;
            if let Address::Segment(segment) = &address {
                let work = (segment.clone(), name, kind, (result, spin));
                return at_segment(work, said).await;
            }
            let worker = Worker::builder(address)
                .name(name)
                .slots(slots)
                .prefetch(slots)
                .drain_timeout(DRAIN);
            let worker = worker_of_kind(worker, kind, (said, result))?;
            let ran = worker.run(async {
                tokio::select! {
                    () = leave => {}
                    _ = signals.next() => {}
                }
            });
            ran.await
                .map(|()| Exit::Ok)
                .map_err(|error| Failure::new(Exit::Unreachable, error))
        }
    }
}

/// A worker at a segment, on a thread of its own.
async fn at_segment(
    (address, name, kind, (result, spin)): (SegmentAddress, String, String, (u32, Duration)),
    said: watch::Receiver<Said>,
) -> Ending {
    let output = TaskOutput {
        stdout: vec![b'.'; usize::try_from(result).unwrap_or(0)].into(),
        ..TaskOutput::default()
    };
    let output = match result {
        0 => Vec::new(),
        _ => output.encode_to_vec(),
    };
    let work = move || {
        let may = || match *said.borrow() {
            Said::Nothing => Go::NotYet,
            Said::Go => Go::Now,
            Said::Leave => Go::Leave,
        };
        segment::run_worker(&address, (&name, &kind), (&output, spin), &may)
    };
    let worked = tokio::task::spawn_blocking(work).await;
    worked
        .map_err(|error| Failure::new(Exit::Unreachable, error))?
        .map(|()| Exit::Ok)
}

/// A worker that answers with so many bytes, once it was told to.
fn worker_of_kind(
    worker: WorkerBuilder,
    kind: String,
    (said, result): (watch::Receiver<Said>, u32),
) -> Result<Worker, Failure> {
    let result = vec![b'.'; usize::try_from(result).unwrap_or(0)];
    let handler = move |_| {
        let gate = (*said.borrow() == Said::Nothing).then(|| said.clone());
        let result = result.clone();
        async move {
            if let Some(mut said) = gate {
                said.wait_for(|said| *said != Said::Nothing).await?;
            }
            Ok(result)
        }
    };
    let worker = worker.without_own_kinds().handler(kind, handler);
    worker.build().map_err(Failure::usage)
}

async fn serve(
    folder: &Path,
    segment_bytes: u64,
    journal: bool,
    leave: impl Future<Output = ()>,
) -> Ending {
    let raw = RawConfig {
        segment_bytes: Some(segment_bytes),
        ..RawConfig::default()
    };
    let settings = if journal {
        // A journal goes with a segment that has a name; the folder is this process's own.
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        Settings::from_raw(RawConfig {
            instance: Some(name.chars().take(48).collect()),
            runtime_dir: Some(folder.to_owned()),
            data_dir: Some(folder.join("data")),
            durability: Some("memory".to_owned()),
            listen: Some(Vec::new()),
            ..raw
        })
    } else {
        // As `qtfd` would by default, and unlike a daemon inside another program.
        Settings::private_with(raw).map(|settings| settings.core(qtf_daemon::config::Core::Auto))
    };
    let settings = settings.map_err(Failure::usage)?;
    let daemon = Daemon::start(settings.listen_also(socket_in(folder))).map_err(|error| {
        Failure::new(Exit::Unreachable, format!("cannot start a daemon: {error}"))
    })?;
    let shm_id = daemon.shm_id();
    let mut stdout = std::io::stdout();
    // A bench that is gone is heard of on stdin.
    let _unheard = writeln!(stdout, "{READY} {shm_id}").and_then(|()| stdout.flush());
    tokio::select! {
        () = leave => {}
        () = daemon.ended() => {}
    }
    let stopped = tokio::task::spawn_blocking(move || daemon.stop()).await;
    if journal {
        remove_segment(shm_id)?;
    }
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(
            Exit::Unreachable,
            format!("the daemon of the bench: {error}"),
        )
    };
    stopped
        .map_err(|error| failed(&error))?
        .map_err(|error| failed(&error))?;
    Ok(Exit::Ok)
}

/// Takes the segment of an own daemon from the system; one that is gone is well.
pub(super) fn remove_segment(shm_id: i32) -> Result<(), Failure> {
    match SegmentView::attach_by_id(shm_id) {
        Ok(view) => view.remove().map_err(|error| {
            let text =
                format!("the segment {shm_id} stays, `ipcrm -m {shm_id}` removes it: {error}");
            Failure::new(Exit::Unreachable, text)
        }),
        Err(_) => Ok(()),
    }
}
