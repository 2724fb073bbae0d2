//! Sessions, and outputs that are uploaded.

use qtf_fake_daemon::{Answers, refusal};
use qtf_proto::refusal::status_of;
use qtf_proto::v1::register_server::Register;
use qtf_proto::v1::{
    ClientHeartbeat, ClientNotice, ClientWelcome, RefusalReason, UploadChunk, UploadReceipt,
    WorkerNotice, WorkerReport,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{INLINE_BYTES, PAYLOAD_BYTES, Service};

#[tonic::async_trait]
impl Register for Service {
    type WorkerSessionStream = Answers<WorkerNotice>;
    type ClientSessionStream = Answers<ClientNotice>;

    async fn worker_session(
        &self,
        _: Request<Streaming<WorkerReport>>,
    ) -> Result<Response<Self::WorkerSessionStream>, Status> {
        Err(Status::unimplemented("clients only"))
    }

    async fn upload_output(
        &self,
        _: Request<Streaming<UploadChunk>>,
    ) -> Result<Response<UploadReceipt>, Status> {
        Err(Status::unimplemented("clients only"))
    }

    async fn client_session(
        &self,
        request: Request<Streaming<ClientHeartbeat>>,
    ) -> Result<Response<Self::ClientSessionStream>, Status> {
        let mut heartbeats = request.into_inner();
        let first = heartbeats.message().await?.and_then(|first| first.hello);
        let (session, segment_id, key_slots) = {
            let mut world = self.world();
            if world.refuse_clients {
                let message = "64 of 64 client records in use";
                return Err(status_of(refusal(RefusalReason::ClientsFull, message, 0)));
            }
            world.hello = first;
            world.next_session += 1;
            let session = 100 + world.next_session;
            world.sessions.insert(session);
            let key_slots = u64::try_from(world.key_slots).unwrap();
            (session, world.segment_id, key_slots)
        };
        let welcome = ClientNotice {
            welcome: Some(ClientWelcome {
                session,
                client_id: 5,
                segment_id,
                heartbeat_ms: 20,
                payload_limit_bytes: PAYLOAD_BYTES,
                payload_inline_limit_bytes: INLINE_BYTES,
                key_slots,
                ..ClientWelcome::default()
            }),
            daemon_stopping: false,
        };
        let (notices, stream) = mpsc::channel(1);
        notices.try_send(Ok(welcome)).unwrap();
        let service = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(_)) = heartbeats.message().await {
                service.world().heartbeats += 1;
            }
            drop(notices);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}
