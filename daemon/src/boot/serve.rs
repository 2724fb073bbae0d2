//! The pinned thread, from its first to its last moment.
//!
//! The end goes in this order: no more tasks are taken and streams say so; listeners close; answers under way
//! are finished until the deadline, with the engine still turning, so that results on their way are
//! recorded; the segment is marked as left in order and detached. A private segment is gone with that, a
//! named one stays. Tested in `tests/daemon/in_process.rs` and `tests/daemon/start.rs`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use qtf_engine::{Engine, EngineConfig, ShareRule, WallTime};
use qtf_journal::{Appender, AppenderLimits};
use qtf_shm::Segment;
use tokio::sync::{Notify, watch};

use super::pages::PageKeeper;
use super::running::StopError;
use super::threaded_journal::ThreadedJournal;
use super::{BootError, Report, ThreadEnd};
use crate::config::settings::{SegmentKind, Settings};
use crate::core::info::{DaemonInfo, StartKind};
use crate::core::journal::Journal;
use crate::core::stability::stable;
use crate::core::{Core, CoreParts, core_cell, now_since};
use crate::cycle::bell::Bell;
use crate::cycle::duty_cycle;
use crate::cycle::idle::Rest;
use crate::cycle::journal_tasks::JournalTasks;
use crate::cycle::spill_task::SpillTask;
use crate::cycle::vigil::Vigil;
use crate::descriptors::Descriptors;
use crate::edge::connection::{ConnectionLimits, Connections};
use crate::edge::service::{EdgeService, Health};
use crate::net::Backend;
use crate::net::accept::Acceptor;
use crate::net::edge_io::Socket;
use crate::net::in_process::Arrivals;
use crate::net::listener::Listener;
use crate::spill::jobs::SpillJobs;
use crate::spill::thread::Told;
use crate::sys::lock_file::LockFile;
use crate::sys::{affinity, ring};

/// What the thread is given.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) settings: Settings,
    pub(crate) descriptors: Descriptors,
    pub(crate) lock: Option<LockFile>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) segment: Arc<Segment>,
    pub(crate) pages: PageKeeper,
    pub(crate) bell: Bell,
    /// Why the segment is smaller than was asked for, if it is.
    pub(crate) shortage: Option<String>,
    pub(crate) start: StartKind,
    pub(crate) journal: Option<ThreadedJournal>,
    /// The spill thread, and what it says.
    pub(crate) spill: (SpillJobs, Told),
    pub(crate) arrivals: Arrivals,
    pub(crate) stop: watch::Receiver<bool>,
}

/// The body of the thread.
pub(crate) fn run(parts: Parts, report: &Report) -> Result<(), ThreadEnd> {
    let cores = affinity::allowed_cores();
    // A pinned thread would hear of its own core only.
    let parallel = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let core = affinity::pin(parts.settings.core);
    match ring_for(&parts.settings, core, &cores).map_err(ThreadEnd::Boot)? {
        Some(runtime) => runtime.block_on(serve(parts, Backend::IoUring, core, parallel, report)),
        None => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| ThreadEnd::Boot(BootError::Thread(error)))?;
            let local = tokio::task::LocalSet::new();
            local.block_on(
                &runtime,
                serve(parts, Backend::Tokio, core, parallel, report),
            )
        }
    }
}

/// The ring's runtime where something is to be on the ring, or `None` for ordinary sockets.
fn ring_for(
    settings: &Settings,
    core: Option<u16>,
    cores: &[u16],
) -> Result<Option<tokio_uring::Runtime>, BootError> {
    if !settings.needs_ring() {
        return Ok(None);
    }
    let runtime = ring::build_runtime(core, cores).map_err(|reason| BootError::NoRing {
        reason: reason.to_string(),
    })?;
    Ok(Some(runtime))
}

pub(crate) fn engine_config(settings: &Settings) -> EngineConfig {
    let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let times = &settings.times;
    EngineConfig {
        lease_ns: ns(times.lease),
        probe_ns: ns(times.probe),
        heartbeat_ns: ns(times.heartbeat),
        result_ttl_ns: ns(times.result_ttl),
        failed_result_ttl_ns: ns(times.failed_result_ttl),
        keep_ns_max: ns(times.keep_max),
        stop_grace_ns: ns(times.stop_grace),
        start_within_ns: ns(times.start_within),
        payload_limit: settings.limits.payload_bytes,
        share_rule: share_rule(settings),
        operator_uid: nix::unistd::geteuid().as_raw(),
        // Tokens are secrets: without the kernel's randomness they would not be.
        seed: getrandom::u64().unwrap_or_else(|_| qtf_shm::time::wall_ns()),
        ..EngineConfig::default()
    }
}

/// A private segment is one user's, who may use it up.
pub(crate) fn share_rule(settings: &Settings) -> ShareRule {
    match settings.segment {
        SegmentKind::Private => ShareRule::Whole,
        SegmentKind::Named => ShareRule::Shared,
    }
}

fn info_of(parts: &Parts, backend: Backend, core: Option<u16>) -> DaemonInfo {
    let geometry = parts.segment.geometry();
    DaemonInfo {
        instance: parts.settings.instance.clone(),
        shm_id: parts.segment.shm_id().unwrap_or(-1),
        segment_bytes: geometry.total_bytes(),
        segment_shortage: parts.shortage.clone(),
        task_slots: geometry.tasks().into(),
        worker_slots: geometry.workers().into(),
        segment_is_private: parts.settings.segment == SegmentKind::Private,
        core,
        descriptors: parts.descriptors,
        network: backend.name(),
        start: parts.start,
        journal: parts
            .journal
            .as_ref()
            .map(|journal| journal.backend(backend)),
        addresses: parts
            .listeners
            .iter()
            .filter_map(|listener| listener.address().ok())
            .collect(),
    }
}

async fn serve(
    parts: Parts,
    backend: Backend,
    core: Option<u16>,
    parallel: usize,
    report: &Report,
) -> Result<(), ThreadEnd> {
    let info = info_of(&parts, backend, core);
    let Parts {
        settings,
        lock,
        listeners,
        segment,
        pages,
        bell,
        journal,
        spill: (jobs, told),
        arrivals,
        stop,
        ..
    } = parts;
    let vigil = lock.as_ref().map(|_| {
        let sockets = listeners.iter().filter_map(Listener::socket_file);
        Vigil::new(&segment, &super::lock_file_of(&settings), sockets)
    });
    let wake = bell.wake();
    let parts = CoreParts {
        limits: settings.limits,
        durable_by_default: settings.durable_by_default,
        key_ttl: settings.key_ttl,
        info: info.clone(),
        clock: Arc::clone(&settings.clock),
        spill: jobs,
        lock_file: lock.as_ref().map(|_| super::lock_file_of(&settings)),
        wake: Arc::clone(&wake),
    };
    let tasks = put_together(&settings, &segment, journal, backend, parts)?;
    let spill = SpillTask::start(told);
    let mut rest = Rest::new(&settings, backend, bell, parallel);
    duty_cycle::settle(&mut rest, &wake).await;
    let failure = core_cell::look(|core| core.journal_failure().map(str::to_owned)).flatten();
    if let Some(failure) = failure {
        give_up(&settings, tasks).await;
        return Err(ThreadEnd::Boot(BootError::JournalFailed(failure)));
    }
    let (service, health) = EdgeService::new(settings.limits.message_bytes).await;
    // The daemon may also end by itself.
    let (end_all, ending) = watch::channel(false);
    let connections = open(&settings, backend, service, &ending);
    if let Err(error) = listen(listeners, backend, &connections, &ending) {
        give_up(&settings, tasks).await;
        return Err(ThreadEnd::Boot(BootError::Thread(error)));
    }
    if let Some(vigil) = vigil {
        tokio::task::spawn_local(vigil.keep(ending.clone()));
    }
    take_in_process(arrivals, &connections, ending);
    tracing::info!(
        instance = info.instance, shm_id = info.shm_id, network = info.network,
        addresses = ?info.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        tasks = info.task_slots, workers = info.worker_slots,
        connections = info.descriptors.connections, open_files = info.descriptors.limit, "serving"
    );
    // Nobody waits for the report when the starter has given up; then the stop comes at once.
    let _ = report.send(info);
    // Its starter is told of the end by this receiver's, so it stays until then.
    let asked = stop.clone();
    duty_cycle::run(&mut rest, &wake, asked).await;
    core_cell::attend(Core::begin_stop);
    // Before its sockets go.
    lock.iter().for_each(LockFile::note_stop);
    end_all.send_replace(true);
    let result = end(&settings, &mut rest, &wake, &connections, &health).await;
    drop(stop);
    // With the threads at the doorbell and at the pages, which look at the segment.
    drop((rest, pages));
    leave(&settings, segment, tasks, spill).await;
    // Last: while it is held no other daemon touches the segment.
    drop(lock);
    tracing::info!("stopped");
    result.map_err(ThreadEnd::Stop)
}

/// A start that fails after all ends as a daemon does, without having served.
async fn give_up(settings: &Settings, tasks: Option<JournalTasks>) {
    core_cell::remove();
    if let Some(tasks) = tasks {
        // Nothing was uploaded yet.
        tasks.end(settings.times.stop_deadline, true).await;
    }
}

/// Engine and core, and the tasks that move the journal.
fn put_together(
    settings: &Settings,
    segment: &Arc<Segment>,
    journal: Option<ThreadedJournal>,
    backend: Backend,
    parts: CoreParts,
) -> Result<Option<JournalTasks>, ThreadEnd> {
    let now = now_since(&*settings.clock, segment.header().origin_ns);
    let config = engine_config(settings);
    let boot = |error: qtf_engine::ConfigError| ThreadEnd::Boot(error.into());
    let Some(journal) = journal else {
        let engine = Engine::new(Arc::clone(segment), config, now).map_err(boot)?;
        core_cell::install(Core::new(engine, parts, None));
        return Ok(None);
    };
    let wall = WallTime {
        now,
        unix_ms: settings.clock.wall_ns() / 1_000_000,
    };
    let appender = Appender::new(journal.open.end.next(), AppenderLimits::default());
    let engine = Engine::with_journal(Arc::clone(segment), config, appender, wall).map_err(boot)?;
    let (parts_of_journal, rest) = journal.split(settings, backend)?;
    tracing::info!(
        backend = rest.disk.backend.name(),
        data_dir = %parts_of_journal.facts.data_dir.display(),
        end = engine.durable_lsn().get(),
        "journal"
    );
    let kick = Rc::new(Notify::new());
    let journal = Journal::new(parts_of_journal, now, Rc::clone(&kick));
    core_cell::install(Core::new(engine, parts, Some(journal)));
    core_cell::attend(Core::tend_journal);
    Ok(Some(JournalTasks::start(rest, backend, kick)))
}

fn open(
    settings: &Settings,
    backend: Backend,
    service: EdgeService,
    stop: &watch::Receiver<bool>,
) -> Rc<Connections> {
    let limits = ConnectionLimits {
        connections: settings.limits.connections,
        rule: share_rule(settings),
        streams: settings.limits.streams_per_connection,
        handshake: settings.times.handshake,
    };
    Connections::new(backend, limits, service, stop.clone())
}

fn listen(
    listeners: Vec<Listener>,
    backend: Backend,
    connections: &Rc<Connections>,
    stop: &watch::Receiver<bool>,
) -> std::io::Result<()> {
    for listener in listeners {
        let acceptor = Acceptor::new(listener, backend)?;
        let connections = Rc::clone(connections);
        tokio::task::spawn_local(
            acceptor.run(stop.clone(), move |socket| connections.take(socket)),
        );
    }
    Ok(())
}

fn take_in_process(
    mut arrivals: Arrivals,
    connections: &Rc<Connections>,
    mut stop: watch::Receiver<bool>,
) {
    let connections = Rc::clone(connections);
    tokio::task::spawn_local(async move {
        let arriving = async {
            while let Some(socket) = arrivals.recv().await {
                connections.take(Socket::Unix(socket));
            }
        };
        tokio::select! {
            () = arriving => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    });
}

/// LIMIT: after the journal has failed only refusals are left to be sent.
const FAILED_DEADLINE: Duration = Duration::from_millis(500);

/// Says that the daemon stops, and finishes what is under way until the deadline.
async fn end(
    settings: &Settings,
    rest: &mut Rest,
    wake: &Notify,
    connections: &Connections,
    health: &Health,
) -> Result<(), StopError> {
    let was_superseded = core_cell::look(Core::is_superseded).unwrap_or(false);
    let failure = || core_cell::look(|core| core.journal_failure().map(str::to_owned)).flatten();
    let deadline = match failure() {
        None => settings.times.stop_deadline,
        Some(_) => settings.times.stop_deadline.min(FAILED_DEADLINE),
    };
    health.stops().await;
    let all_told = async {
        connections.all_closed().await;
        // What nobody waits for is written all the same.
        let end = core_cell::look(Core::last_to_write).flatten();
        // A failure is told below.
        let _ = stable(end).await;
    };
    let is_cut = tokio::select! {
        biased;
        () = all_told => false,
        () = tokio::time::sleep(deadline) => true,
        () = duty_cycle::turn_at_the_end(rest, wake) => false,
    };
    if let Some(failure) = failure() {
        return Err(StopError::JournalFailed(failure));
    }
    if is_cut {
        tracing::warn!("connections still open at the stop deadline are cut");
        return Err(StopError::Cut);
    }
    if was_superseded {
        Err(StopError::Superseded)
    } else {
        Ok(())
    }
}

async fn leave(
    settings: &Settings,
    segment: Arc<Segment>,
    tasks: Option<JournalTasks>,
    spill: SpillTask,
) {
    let Some(core) = core_cell::remove() else {
        return;
    };
    let is_ours = !core.is_superseded();
    let is_sound = core.journal_failure().is_none() && core.unstable_end().is_none();
    core.end();
    let bound = settings.times.stop_deadline;
    let is_left_alone = spill.end(bound);
    if !is_left_alone {
        tracing::error!(folder = %settings.spill_dir.display(), "the disk keeps the thread of the spill files: what it has not removed is left to the next start");
    }
    if let Some(tasks) = tasks {
        tasks.end(bound, is_left_alone).await;
    }
    match settings.segment {
        SegmentKind::Named if is_ours && is_sound => segment.set_clean_shutdown(),
        SegmentKind::Named => {}
        SegmentKind::Private => remove_spill_dir(&settings.spill_dir),
    }
    drop(segment);
}

fn remove_spill_dir(folder: &std::path::Path) {
    match std::fs::remove_dir_all(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(%error, folder = %folder.display(), "spill folder not removed");
        }
    }
}
