//! Beside a `qtfd` of the same build: round trips from a submission to its end.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use qtf_benches::Failure;
use qtf_local::direct::{DirectClient, DirectTask, DirectWorker, OpenSegment, Wait};
use qtf_proto::address::{Address, SegmentAddress};
use qtf_shm::{KindIndex, Outcome, OutcomeKind, SegmentView};

use crate::{ns, pong, tell_times, times};

const START_MAX: Duration = Duration::from_secs(60);
const SPIN: Wait = Wait {
    spin: Duration::from_millis(10),
    sleep: Duration::from_millis(100),
};
const SLEEP: Wait = Wait::asleep(Duration::from_millis(100));
const WARM_UP: u32 = 2_000;
/// Round trips of one kind before those of the other have their turn.
const TURN: u32 = 500;
const WELL: Outcome = Outcome {
    kind: OutcomeKind::Exited,
    code: 0,
    result_dropped: false,
    output_cut: false,
};

/// A daemon on one core.
struct Daemon {
    child: Child,
    folder: tempfile::TempDir,
    instance: String,
}

impl Daemon {
    fn start(core: usize, idle: &str) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let instance = format!("bench-local-{}", std::process::id());
        let program = std::env::current_exe()?.with_file_name("qtfd");
        let child = Command::new(program)
            .env("XDG_RUNTIME_DIR", folder.path())
            .args([
                "--instance",
                &instance,
                "--core",
                &core.to_string(),
                "--idle",
                idle,
            ])
            .args(["--log", "warn"])
            .stdin(Stdio::null())
            .spawn()?;
        let daemon = Self {
            child,
            folder,
            instance,
        };
        let socket = daemon
            .folder
            .path()
            .join("qtf")
            .join(format!("{}.sock", daemon.instance));
        let until = Instant::now() + START_MAX;
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            if Instant::now() > until {
                return Err("the daemon does not serve".into());
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        // All of its threads: what wakes it must be here too.
        on_core(daemon.child.id(), core)?;
        Ok(daemon)
    }

    fn address(&self) -> Result<SegmentAddress, Failure> {
        let folder = self.folder.path().join("qtf");
        let address = format!("shm:{}/{}", folder.display(), self.instance).parse()?;
        if let Address::Segment(segment) = address {
            return Ok(segment);
        }
        Err(format!("{address} is no segment").into())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
        let uid = nix::unistd::geteuid().as_raw();
        if let Ok(view) = SegmentView::attach_by_instance(&self.instance, uid) {
            let _gone = view.remove();
        }
    }
}

/// All threads of a process.
fn on_core(pid: u32, core: usize) -> Result<(), Failure> {
    for thread in std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task"))? {
        let thread = thread?.file_name().to_string_lossy().parse()?;
        pin(Pid::from_raw(thread), core)?;
    }
    Ok(())
}

pub(crate) fn pin(thread: Pid, core: usize) -> Result<(), Failure> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    Ok(sched_setaffinity(thread, &cores)?)
}

const fn task(kind: KindIndex) -> DirectTask<'static> {
    DirectTask {
        kind,
        payload: b"",
        priority: 128,
    }
}

/// Client and worker look again and again on one thread, the daemon on another core.
pub(crate) fn spinning(trips: u32) -> Result<(), Failure> {
    let daemon = Daemon::start(1, "spin")?;
    pin(Pid::from_raw(0), 0)?;
    let address = daemon.address()?;
    let of_client = OpenSegment::client_of(&address, "bench")?;
    let of_worker = OpenSegment::worker_of(&address, "bench")?;
    let kind = of_client.kind("bench-local")?;
    let mut client = of_client.client().map_err(|refusal| refusal.message)?;
    let worker = of_worker.worker("bench", [kind].into_iter().collect(), 64)?;
    let mut measured = times()?;
    for trip in 0..WARM_UP + trips {
        let began = Instant::now();
        client
            .submit(&task(kind))
            .map_err(|refusal| refusal.message)?;
        run_one(&worker, SPIN)?;
        let (ended, _) = client.next_end(SPIN).ok_or("no end")?;
        if trip >= WARM_UP {
            measured.saturating_record(ns(began.elapsed()));
        }
        client.forget(ended);
    }
    tell_times("spinning, two cores", &measured);
    Ok(())
}

fn run_one(worker: &DirectWorker<'_>, wait: Wait) -> Result<(), Failure> {
    let taken = worker.take(wait).ok_or("nothing to take")?;
    taken.finish(WELL, b"")?;
    Ok(())
}

/// Everything on one core, asleep between two steps, in turns with a bare futex.
pub(crate) fn asleep(trips: u32) -> Result<(), Failure> {
    const CORE: usize = 0;
    let daemon = Daemon::start(CORE, "sleep")?;
    let address = daemon.address()?;
    pin(Pid::from_raw(0), CORE)?;
    let of_client = OpenSegment::client_of(&address, "bench")?;
    let kind = of_client.kind("bench-local")?;
    let mut client = of_client.client().map_err(|refusal| refusal.message)?;
    let (stop, stopped) = mpsc::channel::<()>();
    let works = std::thread::spawn(move || -> Result<(), Failure> {
        let of_worker = OpenSegment::worker_of(&address, "bench")?;
        let worker = of_worker.worker("bench", [kind].into_iter().collect(), 64)?;
        while matches!(stopped.try_recv(), Err(mpsc::TryRecvError::Empty)) {
            if let Some(taken) = worker.take(SLEEP) {
                taken.finish(WELL, b"")?;
            }
        }
        Ok(())
    });
    let bare = pong::Pong::start(CORE)?;
    let (mut local, mut futex) = (times()?, times()?);
    trips_of(&mut client, kind, WARM_UP, None)?;
    for _ in 0..trips.div_ceil(TURN) {
        trips_of(&mut client, kind, TURN, Some(&mut local))?;
        for _ in 0..TURN {
            let began = Instant::now();
            bare.round_trip();
            bare.round_trip();
            futex.saturating_record(ns(began.elapsed()));
        }
    }
    // A worker that has ended does not hear it.
    let _over = stop.send(());
    works.join().map_err(|_| "the worker panicked")??;
    tell_times("asleep, one core", &local);
    tell_times("two futex round trips, one core", &futex);
    let (local, futex) = (local.value_at_quantile(0.5), futex.value_at_quantile(0.5));
    println!(
        "{:<40} {:.2}",
        "ratio of the p50",
        local as f64 / futex.max(1) as f64
    );
    Ok(())
}

fn trips_of(
    client: &mut DirectClient<'_>,
    kind: KindIndex,
    count: u32,
    mut measured: Option<&mut Histogram<u64>>,
) -> Result<(), Failure> {
    for _ in 0..count {
        let began = Instant::now();
        client
            .submit(&task(kind))
            .map_err(|refusal| refusal.message)?;
        let (ended, _) = loop {
            if let Some(ended) = client.next_end(SLEEP) {
                break ended;
            }
        };
        if let Some(measured) = &mut measured {
            measured.saturating_record(ns(began.elapsed()));
        }
        client.forget(ended);
    }
    Ok(())
}
