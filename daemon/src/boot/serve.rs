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
use crate::edge::entrances::Entrances;
use crate::edge::service::{EdgeService, Health};
use crate::edge::threads::EdgeThreads;
use crate::net::Backend;
use crate::net::listener::Listener;
use crate::spill::jobs::SpillJobs;
use crate::spill::thread::Told;
use crate::sys::desk::{Ticket, desk};
use crate::sys::lock_file::LockFile;
use crate::sys::{affinity, ring};

/// What the thread is given.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) settings: Settings,
    pub(crate) descriptors: Descriptors,
    pub(crate) lock: Option<LockFile>,
    pub(crate) entrances: Entrances,
    pub(crate) segment: Arc<Segment>,
    pub(crate) pages: PageKeeper,
    pub(crate) bell: Bell,
    /// Why the segment is smaller than was asked for, if it is.
    pub(crate) shortage: Option<String>,
    pub(crate) start: StartKind,
    pub(crate) journal: Option<ThreadedJournal>,
    /// The spill thread, and what it says.
    pub(crate) spill: (SpillJobs, Told),
    pub(crate) stop: watch::Receiver<bool>,
}

/// Where the thread runs, and where others may.
struct Whereabouts {
    /// It is pinned to this one.
    core: Option<u16>,
    /// The process may use these.
    cores: Vec<u16>,
    /// How many threads of it can run at the same time.
    parallel: usize,
}

/// The body of the thread.
pub(crate) fn run(parts: Parts, report: &Report) -> Result<(), ThreadEnd> {
    let cores = affinity::allowed_cores();
    // A pinned thread would hear of its own core only.
    let parallel = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let core = affinity::pin(parts.settings.core);
    let place = Whereabouts {
        core,
        cores,
        parallel,
    };
    match ring_for(&parts.settings, core, &place.cores).map_err(ThreadEnd::Boot)? {
        Some(runtime) => runtime.block_on(serve(parts, Backend::IoUring, &place, report)),
        None => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| ThreadEnd::Boot(BootError::Thread(error)))?;
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, serve(parts, Backend::Tokio, &place, report))
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
        edge_threads: parts.settings.edge_threads,
        network: sockets_of(&parts.settings, backend).name(),
        start: parts.start,
        journal: parts
            .journal
            .as_ref()
            .map(|journal| journal.backend(backend)),
        addresses: parts
            .entrances
            .listeners
            .iter()
            .filter_map(|listener| listener.address().ok())
            .collect(),
    }
}

async fn serve(
    parts: Parts,
    backend: Backend,
    place: &Whereabouts,
    report: &Report,
) -> Result<(), ThreadEnd> {
    let info = info_of(&parts, backend, place.core);
    let Parts {
        settings,
        lock,
        entrances,
        segment,
        pages,
        bell,
        journal,
        spill: (jobs, told),
        stop,
        ..
    } = parts;
    let vigil = lock.as_ref().map(|_| {
        let sockets = entrances.listeners.iter().filter_map(Listener::socket_file);
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
    let (clerk, tickets) = desk(settings.edge_threads, Arc::clone(&wake), place.parallel);
    let mut rest = Rest::new(&settings, backend, bell, clerk, place.parallel);
    duty_cycle::settle(&mut rest, &wake).await;
    let failure = core_cell::look(|core| core.journal_failure().map(str::to_owned)).flatten();
    if let Some(failure) = failure {
        give_up(&settings, tasks).await;
        return Err(ThreadEnd::Boot(BootError::JournalFailed(failure)));
    }
    let opened = open(&settings, backend, entrances, (tickets, &place.cores)).await;
    let open = match opened {
        Ok(open) => open,
        Err(error) => {
            give_up(&settings, tasks).await;
            return Err(ThreadEnd::Boot(BootError::Thread(error)));
        }
    };
    if let Some(vigil) = vigil {
        tokio::task::spawn_local(vigil.keep(open.end_all.subscribe()));
    }
    log_serving(&info);
    // Nobody waits for the report when the starter has given up; then the stop comes at once.
    let _ = report.send(info);
    // Its starter is told of the end by this receiver's, so it stays until then.
    let asked = stop.clone();
    duty_cycle::run(&mut rest, &wake, asked).await;
    core_cell::attend(Core::begin_stop);
    // Before its sockets go.
    lock.iter().for_each(LockFile::note_stop);
    open.end_all.send_replace(true);
    let mut result = end(&settings, &mut rest, &wake, &open).await;
    drop(stop);
    // With the threads at the doorbell and at the pages, which look at the segment, and with the desk: nobody enters the core from outside any more.
    drop((rest, pages));
    if let Some(edges) = open.edges
        && !edges.end(settings.times.stop_deadline).await
    {
        result = result.and(Err(StopError::Cut));
    }
    leave(&settings, segment, tasks, spill).await;
    // Last: while it is held no other daemon touches the segment.
    drop(lock);
    tracing::info!(name: "daemon-stopped", "stopped");
    result.map_err(ThreadEnd::Stop)
}

fn log_serving(info: &DaemonInfo) {
    tracing::info!(
        name: "daemon-serves",
        instance = info.instance, shm_id = info.shm_id, network = info.network, edge_threads = info.edge_threads,
        addresses = ?info.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        tasks = info.task_slots, workers = info.worker_slots,
        connections = info.descriptors.connections, open_files = info.descriptors.limit, "serving"
    );
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

/// On which sockets connections are: those of edge threads are always ordinary ones.
fn sockets_of(settings: &Settings, backend: Backend) -> Backend {
    if settings.edge_threads > 0 {
        Backend::Tokio
    } else {
        backend
    }
}

/// What is open to others.
struct Open {
    connections: Arc<Connections>,
    edges: Option<EdgeThreads>,
    health: Health,
    /// The daemon may also end by itself.
    end_all: watch::Sender<bool>,
}

/// Lets connections in: on the calling thread, or on edge threads where there are tickets for them, on these cores.
async fn open(
    settings: &Settings,
    backend: Backend,
    entrances: Entrances,
    (tickets, cores): (Vec<Ticket>, &[u16]),
) -> std::io::Result<Open> {
    let (service, health) = EdgeService::new(settings.limits.message_bytes).await;
    let (end_all, ending) = watch::channel(false);
    let sockets = sockets_of(settings, backend);
    let connections = connections(settings, sockets, service, &ending);
    let taking = Arc::clone(&connections);
    let edges = if tickets.is_empty() {
        entrances.open(sockets, &ending, move |socket| taking.take(socket))?;
        None
    } else {
        let started = EdgeThreads::start(tickets, cores, entrances, taking, ending);
        Some(started?)
    };
    Ok(Open {
        connections,
        edges,
        health,
        end_all,
    })
}

fn connections(
    settings: &Settings,
    backend: Backend,
    service: EdgeService,
    stop: &watch::Receiver<bool>,
) -> Arc<Connections> {
    let limits = ConnectionLimits {
        connections: settings.limits.connections,
        rule: share_rule(settings),
        streams: settings.limits.streams_per_connection,
        handshake: settings.times.handshake,
    };
    Connections::new(backend, limits, service, stop.clone())
}

/// LIMIT: after the journal has failed only refusals are left to be sent.
const FAILED_DEADLINE: Duration = Duration::from_millis(500);

/// Says that the daemon stops, and finishes what is under way until the deadline.
async fn end(
    settings: &Settings,
    rest: &mut Rest,
    wake: &Notify,
    open: &Open,
) -> Result<(), StopError> {
    let was_superseded = core_cell::look(Core::is_superseded).unwrap_or(false);
    let failure = || core_cell::look(|core| core.journal_failure().map(str::to_owned)).flatten();
    let deadline = match failure() {
        None => settings.times.stop_deadline,
        Some(_) => settings.times.stop_deadline.min(FAILED_DEADLINE),
    };
    open.health.stops().await;
    let all_told = async {
        open.connections.all_closed().await;
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
