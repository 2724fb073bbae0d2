//! The start: settings, lock, segment, pinned thread, ring, engine, sockets; in this order, each with its
//! own error that says what to do. A successor that takes over checks first whether it could serve (`preflight`).
//!
//! Everything that others could see (lock, segment, sockets) is made before the start is reported, and
//! undone if a later step fails. Tested in `tests/daemon/start.rs` and `tests/daemon/take_over.rs`.

pub(crate) mod data_dir;
mod error;
pub(crate) mod journal;
mod loops;
mod name;
mod pages;
mod preflight;
pub mod running;
pub(crate) mod serve;
pub(crate) mod threaded_journal;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use qtf_proto::address::Address;
use qtf_proto::instance::{self, LocalFacts};
use qtf_shm::segment::Earlier;
use qtf_shm::{Access, Adoption, CreateError, Geometry, Segment, SegmentSpec};
use tokio::sync::watch;

use crate::config::settings::{Core, SegmentAccess, SegmentKind, SegmentSize, Settings};
use crate::core::info::{DaemonInfo, StartKind};
use crate::cycle::bell::Bell;
use crate::descriptors::{self, Descriptors};
use crate::edge::entrances::Entrances;
use crate::net::in_process;
use crate::net::listener::Listener;
use crate::spill;
use crate::sys::activation::Inherited;
use crate::sys::lock_file::LockFile;
use crate::sys::{affinity, process};
use data_dir::DataDir;
use journal::{OpenJournal, holds_tasks, is_of_a_journal};
use pages::PageKeeper;
use running::{RunningDaemon, StopError};
use serve::Parts;
use threaded_journal::ThreadedJournal;

pub use error::BootError;
pub use loops::LoopsOfRoles;

/// The daemon, before it runs.
#[derive(Debug)]
pub struct Daemon;

impl Daemon {
    /// Starts a daemon on a thread of its own and returns when it serves.
    ///
    /// # Errors
    /// When a step of the start fails; nothing is left behind then.
    pub fn start(settings: Settings) -> Result<RunningDaemon, BootError> {
        Self::start_on(settings, Vec::new())
    }

    /// The same, serving these sockets too; of the addresses of the settings it binds those that they do not serve.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start_on(
        mut settings: Settings,
        sockets: Vec<Inherited>,
    ) -> Result<RunningDaemon, BootError> {
        let mut listeners = inherit(&mut settings, sockets);
        check_cores(&settings)?;
        let limit = descriptors::limit_of_process(settings.edge_threads)?;
        let lock = match settings.segment {
            SegmentKind::Named => Some(name::take(&settings)?),
            SegmentKind::Private => None,
        };
        bind(&settings, &mut listeners)?;
        if lock.is_some() {
            tell_local_processes(&settings);
            announce_stops(&settings, &mut listeners);
        }
        let Made {
            segment,
            shortage,
            start,
            journal,
        } = make_segment(&settings)?;
        let workers = segment.geometry().workers().into();
        let descriptors =
            Descriptors::share_out(limit, &settings.limits, workers, settings.edge_threads);
        settings.limits = descriptors.within(settings.limits);
        if let Some(file) = lock.as_ref().and_then(LockFile::identity) {
            segment.set_lock_file(file);
        }
        if let Some(lock) = &lock {
            lock.note_data_dir(own_data_dir(&settings).as_deref());
        }
        // Started here, where the thread is not pinned.
        let journal = journal
            .map(|open| ThreadedJournal::new(&settings, open))
            .transpose()?;
        tell_of_spill_folder(&settings);
        let spill = spill::thread::start(
            segment.spill().clone(),
            settings.limits.uploads,
            settings.disk_faults.clone(),
        )
        .map_err(BootError::Thread)?;
        let segment = Arc::new(segment);
        let loops = LoopsOfRoles::of(&segment);
        let pages = PageKeeper::start(&settings, &segment, start).map_err(BootError::Thread)?;
        let bell = Bell::listen(&segment, settings.needs_ring()).map_err(BootError::Thread)?;
        let (in_process, arrivals) = in_process::channel();
        let (stop, stop_seen) = watch::channel(false);
        let (report, reported) = mpsc::channel();
        let parts = Parts {
            settings,
            descriptors,
            lock,
            entrances: Entrances {
                listeners,
                arrivals,
            },
            segment,
            pages,
            bell,
            shortage,
            start,
            journal,
            spill,
            stop: stop_seen,
        };
        let thread = std::thread::Builder::new()
            .name("qtfd-core".to_owned())
            .spawn(move || serve::run(parts, &report))
            .map_err(BootError::Thread)?;
        match reported.recv() {
            Ok(info) => Ok(RunningDaemon::new((info, loops), in_process, stop, thread)),
            Err(mpsc::RecvError) => Err(failure(thread)),
        }
    }
}

/// Listens on what was handed over; it need not be bound then.
fn inherit(settings: &mut Settings, sockets: Vec<Inherited>) -> Vec<Listener> {
    let listeners: Vec<_> = sockets.into_iter().map(Listener::of_inherited).collect();
    let is_served = |address: &Address| listeners.iter().any(|socket| socket.covers(address));
    settings.listen.retain(|address| !is_served(address));
    listeners
}

/// The file of the lock tells of the stop to whoever comes to the socket beside it; elsewhere the name of the socket does.
fn announce_stops(settings: &Settings, listeners: &mut [Listener]) {
    let beside_lock = lock_file_of(settings).with_extension("sock");
    for listener in listeners {
        listener.announce_stop(&beside_lock);
    }
}

/// Before there is a segment that they could find.
fn tell_local_processes(settings: &Settings) {
    let spill_dir = &settings.spill_dir;
    let facts = LocalFacts {
        ipc_namespace: instance::ipc_namespace(),
        durable_by_default: settings.durable_by_default,
        spill_dir: std::path::absolute(spill_dir).unwrap_or_else(|_| spill_dir.clone()),
    };
    if let Err(error) = facts.write(&settings.runtime_dir, &settings.instance) {
        tracing::warn!(%error, "local processes are not told where large payloads and outputs lie, and what tasks are by default");
    }
}

/// More edge threads than cores only take turns with each other.
fn check_edge_threads(settings: &Settings) -> Result<(), BootError> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if settings.edge_threads > cores {
        return Err(BootError::EdgeThreads {
            asked: settings.edge_threads,
            cores,
        });
    }
    Ok(())
}

/// Whether the process has the cores that it is to use.
pub(crate) fn check_cores(settings: &Settings) -> Result<(), BootError> {
    check_edge_threads(settings)?;
    check_core(settings)
}

/// A core that the process may not use is no place for its thread: the list of cores and the configuration contradict each other.
fn check_core(settings: &Settings) -> Result<(), BootError> {
    let allowed = affinity::allowed_cores();
    match settings.core {
        Core::Number(core) if !allowed.contains(&core) => Err(BootError::Core { core, allowed }),
        Core::Number(_) | Core::Auto | Core::None => Ok(()),
    }
}

/// Says where large payloads and outputs go, where there is no data folder for them.
fn tell_of_spill_folder(settings: &Settings) {
    if settings.segment == SegmentKind::Private || settings.journal.is_some() {
        return;
    }
    let folder = &settings.spill_dir;
    // It is made with the first file.
    let there = folder.ancestors().find(|folder| folder.exists());
    let is_in_memory = there
        .and_then(|folder| statfs(folder).ok())
        .is_some_and(|disk| disk.filesystem_type() == TMPFS_MAGIC);
    let limit_bytes = settings.limits.spill_bytes;
    if is_in_memory {
        tracing::info!(
            folder = %folder.display(), limit_bytes,
            "payloads and outputs that are too large for the segment go to files that are in memory too, as this folder is (tmpfs): --spill-dir names another"
        );
    } else {
        tracing::info!(
            folder = %folder.display(), limit_bytes,
            "payloads and outputs that are too large for the segment go to files in this folder"
        );
    }
}

/// How the thread says that it serves.
pub(crate) type Report = mpsc::Sender<DaemonInfo>;

/// Why the thread ended.
#[derive(Debug)]
pub(crate) enum ThreadEnd {
    /// It never served.
    Boot(BootError),
    /// It served, and stopped not cleanly.
    Stop(StopError),
}

fn failure(thread: std::thread::JoinHandle<Result<(), ThreadEnd>>) -> BootError {
    match thread.join() {
        Ok(Err(ThreadEnd::Boot(error))) => error,
        Ok(_) | Err(_) => BootError::Thread(io::ErrorKind::Other.into()),
    }
}

/// Where the daemon and local processes hold their bytes.
pub(crate) fn lock_file_of(settings: &Settings) -> PathBuf {
    instance::lock_file_in(&settings.runtime_dir, &settings.instance)
}

fn own_data_dir(settings: &Settings) -> Option<PathBuf> {
    let folder = &settings.journal.as_ref()?.data_dir;
    Some(std::path::absolute(folder).unwrap_or_else(|_| folder.clone()))
}

/// The data folder of the daemon that served last under this name, if it is not this one's.
pub(crate) fn other_data_dir(settings: &Settings) -> Option<PathBuf> {
    let named = LockFile::data_dir_in(&lock_file_of(settings))?;
    (own_data_dir(settings).as_ref() != Some(&named)).then_some(named)
}

/// Binds what is not served yet.
fn bind(settings: &Settings, listeners: &mut Vec<Listener>) -> Result<(), BootError> {
    for listener in listeners.iter() {
        if let Some(open) = listener.open_to_others() {
            accept_open(settings, &Address::Tcp(open.to_string()), open)?;
        }
    }
    for address in &settings.listen {
        let bound = Listener::bind(address).map_err(|error| BootError::bind(address, &error))?;
        for listener in bound {
            // Nobody has been accepted yet; dropping the listener turns away who knocked meanwhile.
            if let Some(open) = listener.open_to_others() {
                accept_open(settings, address, open)?;
            }
            listeners.push(listener);
        }
    }
    Ok(())
}

fn accept_open(settings: &Settings, address: &Address, open: SocketAddr) -> Result<(), BootError> {
    refuse_if_open(settings, address, Some(open))?;
    tracing::warn!(
        address = %open,
        "neither encrypted nor authenticated: whoever reaches this address can run commands on the workers"
    );
    Ok(())
}

/// Addresses that others than those on this machine can reach are served only where that was accepted.
fn refuse_if_open(
    settings: &Settings,
    address: &Address,
    open: Option<SocketAddr>,
) -> Result<(), BootError> {
    match open {
        Some(bound) if !settings.allow_unauthenticated_remote => {
            Err(BootError::RemoteUnauthenticated {
                address: address.to_string(),
                bound,
            })
        }
        _ => Ok(()),
    }
}

fn spec(settings: &Settings) -> Result<SegmentSpec, BootError> {
    let geometry = match settings.segment_size {
        SegmentSize::Bytes(bytes) => Geometry::for_bytes(bytes)?,
        SegmentSize::Counts { tasks, workers } => Geometry::for_counts(tasks, workers)?,
    };
    Ok(SegmentSpec {
        geometry,
        mode: match settings.segment_access {
            SegmentAccess::Owner => Access::Owner,
            SegmentAccess::GroupRead(gid) => Access::GroupRead(gid),
            SegmentAccess::GroupWrite(gid) => Access::GroupWrite(gid),
        },
        payload_limit: settings.limits.payload_bytes,
        spill_limit: settings.limits.spill_bytes,
        clock_ns: Some(settings.clock.monotonic_ns()),
        huge_pages: settings.memory.huge_pages,
        node: pages::node_for(settings),
        ..SegmentSpec::new(settings.instance.clone(), settings.spill_dir.clone())
    })
}

/// What the daemon serves.
struct Made {
    segment: Segment,
    /// Why it is smaller than was asked for, if it is.
    shortage: Option<String>,
    start: StartKind,
    journal: Option<OpenJournal>,
}

fn make_segment(settings: &Settings) -> Result<Made, BootError> {
    let spec = spec(settings)?;
    match (settings.segment, &settings.journal) {
        (SegmentKind::Private, _) => {
            let (segment, shortage) = private_segment(spec)?;
            Ok(Made {
                segment,
                shortage,
                start: StartKind::Fresh,
                journal: None,
            })
        }
        (SegmentKind::Named, None) => memory_segment(settings, &spec),
        (SegmentKind::Named, Some(journal)) => {
            let dir = DataDir::open(settings, journal)?;
            let opening = journal::open(settings, spec, dir)?;
            Ok(Made {
                segment: opening.segment,
                shortage: None,
                start: opening.start,
                journal: Some(opening.journal),
            })
        }
    }
}

/// What an earlier daemon of this name has left. One that was killed has given its locks back some moments before it counts as
/// ended, the more the more threads it had: that is waited for.
pub(crate) fn adopt(spec: &SegmentSpec, runtime_dir: &Path) -> Result<Earlier, CreateError> {
    match Segment::adopt_named(spec, runtime_dir) {
        Err(CreateError::InUse { pid, .. }) if process::is_ending(pid) => {
            process::await_killed(pid, process::END_MAX);
            Segment::adopt_named(spec, runtime_dir)
        }
        other => other,
    }
}

/// The segment of a daemon without a data folder. One that was made for a journal is not taken while it holds tasks:
/// what became of them would be missing in that journal.
fn memory_segment(settings: &Settings, spec: &SegmentSpec) -> Result<Made, BootError> {
    let made = |segment, start| Made {
        segment,
        shortage: None,
        start,
        journal: None,
    };
    match adopt(spec, &settings.runtime_dir)? {
        Earlier::Adopted(segment, adoption) if !is_of_a_journal(&segment) => {
            report_adoption(&segment, &adoption);
            return Ok(made(*segment, StartKind::Hot));
        }
        Earlier::Adopted(segment, _) if holds_tasks(&segment) => {
            return Err(BootError::OtherSegment {
                instance: settings.instance.clone(),
                shm_id: segment.shm_id().unwrap_or(-1),
                whose: match other_data_dir(settings) {
                    Some(folder) => format!("belongs to the data folder {}", folder.display()),
                    None => "belongs to a data folder".to_owned(),
                },
            });
        }
        Earlier::Adopted(segment, _) => journal::remove(&segment)?,
        Earlier::None(adoption) => report_put_aside(&adoption),
    }
    let segment = Segment::create_named(spec, |_| Ok::<(), CreateError>(()))?;
    tracing::info!(id = segment.shm_id(), "segment made");
    Ok(made(segment, StartKind::Fresh))
}

/// Says that a segment could not be used, and where it is now.
pub(crate) fn report_put_aside(adoption: &Adoption) {
    if let Adoption::PutAside { file, why } = adoption {
        tracing::warn!(
            file = %file.display(), why,
            "the old segment cannot be used: saved to a file, new one made"
        );
    }
}

/// Says that the segment of an earlier daemon was adopted.
pub(crate) fn report_adoption(segment: &Segment, adoption: &Adoption) {
    let id = segment.shm_id();
    if let Adoption::Adopted {
        epoch,
        clean,
        other_sizes,
    } = adoption
    {
        tracing::info!(name: "segment-adopted", ?id, epoch, clean, "segment of an earlier daemon adopted");
        if *other_sizes {
            tracing::warn!("it keeps its own sizes, which are not those of the configuration");
        }
    }
    if let Adoption::Upgraded { from, epoch, clean } = adoption {
        tracing::info!(
            ?id,
            epoch,
            clean,
            "the segment was of layout {from}: all that was in it goes on in a new one of this layout"
        );
    }
    if let Some(rebuilt) = segment
        .last_rebuild()
        .filter(|rebuilt| rebuilt.impossible > 0)
    {
        tracing::warn!(
            slots = rebuilt.impossible,
            "states that cannot be: their slots are in quarantine, `shm-inspect verify` names them"
        );
    }
}

/// A private segment, half as large and again if the system does not give that much.
fn private_segment(mut spec: SegmentSpec) -> Result<(Segment, Option<String>), BootError> {
    let mut shortage = None;
    loop {
        match Segment::create_private(&spec) {
            Ok(segment) => {
                if let Some(why) = &shortage {
                    let bytes = spec.geometry.total_bytes();
                    tracing::warn!(bytes, "smaller segment taken: {why}");
                }
                return Ok((segment, shortage));
            }
            Err(error @ CreateError::Limit { .. }) => match spec.geometry.halved() {
                Some(half) => {
                    // The first refusal tells of the size that was asked for.
                    shortage.get_or_insert_with(|| error.to_string());
                    spec.geometry = half;
                }
                None => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
        }
    }
}
