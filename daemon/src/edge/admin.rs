//! Service `Admin`: what operators ask.
//!
//! Tested in `tests/daemon/listing.rs`.

use qtf_engine::{Engine, Rejection, ShareRule};
use qtf_proto::served::admin_server::Admin;
use qtf_proto::v1::{
    ClientInfo, DaemonInfo, DrainWorkerRequest, DrainWorkerResponse, Durability,
    EvictWorkerRequest, EvictWorkerResponse, GetInfoRequest, JournalInfo, JournalState,
    ListClientsRequest, ListClientsResponse, ListWorkersRequest, ListWorkersResponse, NamedValue,
    Refusal, StartKind, WorkerInfo, WorkerState,
};
use qtf_shm::{Now, WorkerId, WorkerPhase};
use tonic::{Request, Response, Status};

use super::stripes::{self, Stripe};
use super::{read, status};
use crate::core::info::StartKind as Start;
use crate::core::journal::{Journal, JournalState as State};
use crate::core::{Core, core_cell};

/// The service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdminEdge;

#[tonic::async_trait]
impl Admin for AdminEdge {
    async fn get_info(
        &self,
        _request: Request<GetInfoRequest>,
    ) -> Result<Response<DaemonInfo>, Status> {
        core_cell::look(info)
            .map(Response::new)
            .ok_or_else(status::gone)
    }

    async fn list_workers(
        &self,
        _request: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        let workers = stripes::collect(workers).await?;
        Ok(Response::new(ListWorkersResponse { workers }))
    }

    async fn list_clients(
        &self,
        _request: Request<ListClientsRequest>,
    ) -> Result<Response<ListClientsResponse>, Status> {
        let clients = stripes::collect(clients).await?;
        Ok(Response::new(ListClientsResponse { clients }))
    }

    async fn drain_worker(
        &self,
        request: Request<DrainWorkerRequest>,
    ) -> Result<Response<DrainWorkerResponse>, Status> {
        let DrainWorkerRequest { worker_id, reason } = request.into_inner();
        let worker = worker_of(worker_id)?;
        let refusal = refused(|engine, now| engine.drain_worker(now, worker))?;
        if refusal.is_none() {
            tracing::info!(%worker, reason = cut(&reason), "worker is to leave");
        }
        Ok(Response::new(DrainWorkerResponse { refusal }))
    }

    async fn evict_worker(
        &self,
        request: Request<EvictWorkerRequest>,
    ) -> Result<Response<EvictWorkerResponse>, Status> {
        let EvictWorkerRequest { worker_id, reason } = request.into_inner();
        let worker = worker_of(worker_id)?;
        let refusal = refused(|engine, now| engine.evict_worker(now, worker))?;
        if refusal.is_none() {
            tracing::warn!(%worker, reason = cut(&reason), "worker is given up");
        }
        Ok(Response::new(EvictWorkerResponse { refusal }))
    }
}

/// Has the engine change something; gives its refusal, if it refuses.
fn refused(
    change: impl FnOnce(&mut Engine, Now) -> Result<(), Rejection> + Send,
) -> Result<Option<Refusal>, Status> {
    let result = core_cell::enter(|core| {
        let now = core.now();
        let refused = change(&mut core.engine, now).err();
        refused.map(|rejection| status::refusal_of(&rejection))
    });
    result.ok_or_else(status::gone)
}

fn worker_of(raw: u64) -> Result<WorkerId, Status> {
    WorkerId::from_raw(raw).ok_or_else(|| status::invalid(format!("{raw:#x} is not a worker id")))
}

/// How the task slots are shared.
fn share_rule(core: &Core) -> ShareRule {
    if core.info.segment_is_private {
        ShareRule::Whole
    } else {
        ShareRule::Shared
    }
}

/// So much of an operator's reason goes into the log.
fn cut(reason: &str) -> String {
    reason.chars().take(200).collect()
}

fn info(core: &Core) -> DaemonInfo {
    let segment = core.segment();
    let counters = segment.counters();
    DaemonInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: core.info.instance.clone(),
        pid: std::process::id(),
        shm_id: core.info.shm_id,
        segment_id: segment.segment_id(),
        segment_bytes: core.info.segment_bytes,
        task_slots: core.info.task_slots,
        worker_slots: core.info.worker_slots,
        uptime_ms: core.now().since_ns(core.started) / 1_000_000,
        network_backend: core.info.network.to_owned(),
        counters: counters
            .named()
            .map(|(name, value)| NamedValue {
                name: name.to_owned(),
                value,
            })
            .chain(longest_turn(core))
            .chain(of_the_process(core))
            .chain(given_up_files(core))
            .collect(),
        tasks_by_state: counters
            .gauges()
            .map(|(phase, value)| NamedValue {
                name: phase.name().to_owned(),
                value,
            })
            .collect(),
        private_segment: core.info.segment_is_private,
        core: core.info.core.map_or(-1, i32::from),
        default_durability: if core.durable_by_default {
            Durability::Journal.into()
        } else {
            Durability::Memory.into()
        },
        journal: core
            .journal
            .as_ref()
            .map(|journal| journal_info(core, journal)),
        epoch: segment.epoch(),
        start: match core.info.start {
            Start::Fresh => StartKind::Fresh,
            Start::Hot => StartKind::Hot,
            Start::Cold => StartKind::Cold,
        }
        .into(),
        task_slots_of_one: share_rule(core).most(core.info.task_slots),
    }
}

/// The longest turn of the loop while the last snapshot was taken.
fn longest_turn(core: &Core) -> Option<NamedValue> {
    let longest = core.journal.as_ref()?.snapshots.longest_turn;
    Some(NamedValue {
        name: "snapshot_longest_turn_us".to_owned(),
        value: u64::try_from(longest.as_micros()).unwrap_or(u64::MAX),
    })
}

/// Spill files that nobody needs and that are not removed yet: many, where a disk does not keep up.
fn given_up_files(core: &Core) -> Option<NamedValue> {
    Some(NamedValue {
        name: "spill_files_given_up".to_owned(),
        value: core.segment().spill().given_up_files(),
    })
}

/// What the process may open, and what of its log was not written.
fn of_the_process(core: &Core) -> [NamedValue; 4] {
    let missing = qtf_log::missing();
    [
        ("open_files_max", core.info.descriptors.limit),
        ("connections_max", core.info.descriptors.connections),
        ("log_lines_lost", missing.lost),
        ("log_lines_left_out", missing.left_out),
    ]
    .map(|(name, value)| NamedValue {
        name: name.to_owned(),
        value,
    })
}

fn journal_info(core: &Core, journal: &Journal) -> JournalInfo {
    let (state, message) = journal.state();
    let end = core
        .engine
        .journal()
        .map_or(0, |records| records.last_lsn().get());
    let reserve = journal.facts.reserve_bytes;
    let room = journal.room_bytes();
    JournalInfo {
        state: match state {
            State::Open => JournalState::Open,
            State::Full => JournalState::Full,
            State::Failed => JournalState::Failed,
        }
        .into(),
        end_lsn: end,
        durable_lsn: core.engine.durable_lsn().get(),
        snapshot_lsn: journal.snapshots.newest.get(),
        room_bytes: room.saturating_sub(reserve),
        reserve_bytes: room.min(reserve),
        backend: journal.facts.backend.to_owned(),
        data_dir: journal.facts.data_dir.display().to_string(),
        files: journal.files_in_use,
        message: message.to_owned(),
    }
}

/// The next workers of a list.
fn workers(core: &Core, stripe: &mut Stripe<WorkerInfo>) {
    let count = u16::try_from(core.segment().geometry().workers()).unwrap_or(u16::MAX);
    stripe.read(count, |number| {
        core.segment().worker_index(number).and_then(|index| {
            let record = core.segment().read_worker(index)?.record;
            let state = match record.state.phase() {
                WorkerPhase::Free | WorkerPhase::Joining | WorkerPhase::Reserved => {
                    return None;
                }
                WorkerPhase::Live => WorkerState::Live,
                WorkerPhase::Draining => WorkerState::Draining,
                WorkerPhase::Suspect => WorkerState::Suspect,
                WorkerPhase::Lost => WorkerState::Lost,
            };
            let [done, failed, ..] = record.counters;
            Some(WorkerInfo {
                worker_id: record.id.as_raw(),
                address: core
                    .routes
                    .get(record.id)
                    .map(|route| route.address.as_str())
                    .or_else(|| core.callers.address(record.id))
                    .map(ToOwned::to_owned)
                    .unwrap_or_default(),
                name: record.name,
                host: record.host,
                pid: record.pid,
                state: state.into(),
                capacity: record.state.capacity().into(),
                running: record.state.running().into(),
                credits: record.credits,
                heartbeat_age_ms: if record.is_local {
                    0
                } else {
                    read::age_ms(core, record.heartbeat)
                },
                registered_age_ms: read::age_ms(core, record.registered),
                tasks_done: done,
                tasks_failed: failed,
                kinds: read::kind_names(core, record.kinds),
                load_milli: record.load_milli,
                calls: core.segment().worker(index).leased_until() != 0,
            })
        })
    });
}

/// The next clients of a list; record 0 is nobody's.
fn clients(core: &Core, stripe: &mut Stripe<ClientInfo>) {
    let count = u16::try_from(core.segment().geometry().clients()).unwrap_or(u16::MAX);
    stripe.read(count, |number| {
        let index = core.segment().client_index(number).filter(|_| number > 0);
        index.and_then(|index| {
            let record = core.segment().read_client(index)?.record;
            record.used.then(|| ClientInfo {
                client_id: index.get().into(),
                heartbeat_age_ms: read::age_ms(core, record.heartbeat),
                name: record.name,
                host: record.host,
                address: record.address,
                pid: record.pid,
                uid: record.uid,
                connections: record.connections,
                tasks_unfinished: record.unfinished,
                results_kept: record.kept,
                tasks_submitted: record.submitted,
            })
        })
    });
}
