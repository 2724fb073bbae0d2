//! Service `Admin` of a local client: what lies in the segment; what changes workers needs the daemon's socket.

use core::time::Duration;

use qtf_proto::v1::admin_server::Admin;
use qtf_proto::v1::{
    ClientInfo, DaemonInfo, DrainWorkerRequest, DrainWorkerResponse, Durability,
    EvictWorkerRequest, EvictWorkerResponse, GetInfoRequest, ListClientsRequest,
    ListClientsResponse, ListWorkersRequest, ListWorkersResponse, NamedValue, StartKind,
};
use qtf_shm::{Now, SegmentView};
use tonic::{Request, Response, Status};

use super::session::ClientEdge;
use crate::records;

#[tonic::async_trait]
impl Admin for ClientEdge {
    async fn get_info(
        &self,
        _request: Request<GetInfoRequest>,
    ) -> Result<Response<DaemonInfo>, Status> {
        let seat = self.seat()?;
        let segment = &seat.attachment;
        let (header, control) = (segment.header(), segment.control());
        let counters = SegmentView::counters(segment);
        let named = |(name, value): (&str, u64)| NamedValue {
            name: name.to_owned(),
            value,
        };
        Ok(Response::new(DaemonInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: header.instance.clone(),
            pid: if seat.daemon_is_there() {
                control.daemon_pid
            } else {
                0
            },
            shm_id: segment.shm_id().unwrap_or(-1),
            segment_id: segment.segment_id(),
            segment_bytes: header.total_bytes,
            task_slots: segment.geometry().tasks().into(),
            worker_slots: segment.geometry().workers().into(),
            uptime_ms: if seat.daemon_is_there() {
                uptime_ms(control.daemon_start)
            } else {
                0
            },
            network_backend: String::new(),
            counters: counters.named().map(named).collect(),
            tasks_by_state: counters
                .gauges()
                .map(|(phase, value)| named((phase.name(), value)))
                .collect(),
            private_segment: false,
            core: -1,
            default_durability: if seat.durable_by_default {
                Durability::Journal.into()
            } else {
                Durability::Memory.into()
            },
            // The daemon's to tell.
            journal: None,
            epoch: control.daemon_epoch,
            start: StartKind::Unspecified.into(),
            // Shares are of those who ask the daemon.
            task_slots_of_one: segment.geometry().tasks().into(),
        }))
    }

    async fn list_workers(
        &self,
        _request: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        let seat = self.seat()?;
        let segment = &seat.attachment;
        let indexes = (0..u16::MAX).map_while(|number| segment.worker_index(number));
        let workers = indexes
            .filter_map(|index| segment.read_worker(index))
            .filter_map(|reading| records::worker_info(segment, reading.record))
            .collect();
        Ok(Response::new(ListWorkersResponse { workers }))
    }

    async fn list_clients(
        &self,
        _request: Request<ListClientsRequest>,
    ) -> Result<Response<ListClientsResponse>, Status> {
        let seat = self.seat()?;
        let segment = &seat.attachment;
        let now = segment.now();
        let age_ms = |stamp| now.since_ns(Now::from_stamp(stamp)) / 1_000_000;
        let indexes = (0..u16::MAX).map_while(|number| segment.client_index(number));
        let clients = indexes
            .filter_map(|index| segment.read_client(index))
            .map(|reading| reading.record)
            .filter(|client| client.used)
            .map(|client| ClientInfo {
                client_id: client.index.get().into(),
                name: client.name,
                host: client.host,
                address: client.address,
                pid: client.pid,
                uid: client.uid,
                connections: client.connections,
                heartbeat_age_ms: age_ms(client.heartbeat),
                tasks_unfinished: client.unfinished,
                results_kept: client.kept,
                tasks_submitted: client.submitted,
            })
            .collect();
        Ok(Response::new(ListClientsResponse { clients }))
    }

    async fn drain_worker(
        &self,
        _request: Request<DrainWorkerRequest>,
    ) -> Result<Response<DrainWorkerResponse>, Status> {
        Err(self.is_an_operators())
    }

    async fn evict_worker(
        &self,
        _request: Request<EvictWorkerRequest>,
    ) -> Result<Response<EvictWorkerResponse>, Status> {
        Err(self.is_an_operators())
    }
}

/// How long a process has run that was started at this tick since boot; 0 where the kernel does not say how long that is ago.
fn uptime_ms(start_tick: u64) -> u64 {
    // Of each architecture's USER_HZ, in which `/proc` counts.
    const MS_OF_A_TICK: u64 = 10;
    let up = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    let up_ms = up.map_or(0, |up| Duration::from(up).as_millis());
    let up_ms = u64::try_from(up_ms).unwrap_or(u64::MAX);
    up_ms.saturating_sub(start_tick.saturating_mul(MS_OF_A_TICK))
}
