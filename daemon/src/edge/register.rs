//! Service `Register`: sessions of workers and clients, and the outputs that are too large for them.
//!
//! Tested in `tests/daemon/sessions.rs`.

use qtf_proto::served::register_server::Register;
use qtf_proto::v1::{ClientHeartbeat, UploadChunk, UploadReceipt};
use qtf_proto::wire::Report;
use tonic::{Request, Response, Status, Streaming};

use super::client_session::ClientSessionStream;
use super::service::{peer_of, principal_of};
use super::worker_session::WorkerSessionStream;
use super::{status, transfer};
use crate::core::core_cell;

/// The service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RegisterEdge;

#[tonic::async_trait]
impl Register for RegisterEdge {
    type WorkerSessionStream = WorkerSessionStream;
    type ClientSessionStream = ClientSessionStream;

    async fn worker_session(
        &self,
        request: Request<Streaming<Report>>,
    ) -> Result<Response<WorkerSessionStream>, Status> {
        let key = core_cell::attend(|core| core.routes.next_key()).ok_or_else(status::gone)?;
        let peer = peer_of(&request);
        Ok(Response::new(WorkerSessionStream::new(
            request.into_inner(),
            key,
            peer,
        )))
    }

    async fn upload_output(
        &self,
        request: Request<Streaming<UploadChunk>>,
    ) -> Result<Response<UploadReceipt>, Status> {
        let uploader = transfer::Uploader::Worker(principal_of(&request));
        let receipt = transfer::receive(request.into_inner(), uploader).await?;
        Ok(Response::new(receipt))
    }

    async fn client_session(
        &self,
        request: Request<Streaming<ClientHeartbeat>>,
    ) -> Result<Response<ClientSessionStream>, Status> {
        let peer = peer_of(&request);
        Ok(Response::new(ClientSessionStream::new(
            request.into_inner(),
            peer,
        )))
    }
}
