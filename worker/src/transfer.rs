//! Payloads and outputs that are too large for a message: chunked down and up.

use core::time::Duration;

use bytes::{Bytes, BytesMut};
use qtf_proto::limits::{CHUNK_BYTES, MESSAGE_BYTES_MAX};
use qtf_proto::refusal::refusal_of;
use qtf_proto::transport::Transport;
use qtf_proto::v1::register_client::RegisterClient;
use qtf_proto::v1::scheduler_client::SchedulerClient;
use qtf_proto::v1::{FetchPayloadRequest, RefusalReason, TaskRef, UploadChunk};
use tonic::{Code, Status};

// A transfer that stands still for so long has failed.
const SILENCE_MAX: Duration = Duration::from_secs(20);
// LIMIT: first reservation for an announced size, so that a lie costs nothing; growth is by arrival.
const RESERVE_BYTES_MAX: u64 = 1 << 20;

/// What a call on behalf of a registered worker needs.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) channel: Transport,
    pub(crate) worker_id: u64,
    pub(crate) token: u64,
}

/// Why a transfer did not come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TransferError {
    /// The daemon said no: trying again does not help.
    Refused(String),
    /// The connection broke, or the daemon is short of room, or does not know the worker yet: trying again may help.
    Broken(String),
}

impl TransferError {
    fn of(status: &Status) -> Self {
        let refusal = refusal_of(status);
        let may_retry = refusal
            .as_ref()
            .is_some_and(|refusal| refusal.retry_after_ms > 0);
        // A successor of the daemon that this worker knew: it will know the worker when that has said hello, over a new link.
        let is_unknown = refusal.as_ref().is_some_and(|refusal| {
            matches!(
                refusal.reason(),
                RefusalReason::UnknownWorker | RefusalReason::Stopping
            )
        });
        let is_refusal = refusal.is_some()
            || matches!(
                status.code(),
                Code::InvalidArgument
                    | Code::NotFound
                    | Code::ResourceExhausted
                    | Code::FailedPrecondition
                    | Code::OutOfRange
                    | Code::Unauthenticated
                    | Code::PermissionDenied
                    | Code::Unimplemented
            );
        let message = status.message().to_owned();
        if is_refusal && !may_retry && !is_unknown {
            Self::Refused(message)
        } else {
            Self::Broken(message)
        }
    }

    fn silence() -> Self {
        Self::Broken(format!("no progress for {} s", SILENCE_MAX.as_secs()))
    }
}

/// Fetches the payload of a task that is assigned to this worker.
pub(crate) async fn fetch_payload(access: Access, task: TaskRef) -> Result<Bytes, TransferError> {
    let mut scheduler =
        SchedulerClient::new(access.channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let call = scheduler.fetch_payload(FetchPayloadRequest {
        worker_id: access.worker_id,
        token: access.token,
        task: Some(task),
    });
    let mut chunks = within(call).await?.into_inner();
    let mut total_bytes = 0;
    let mut payload = BytesMut::new();
    while let Some(chunk) = within(chunks.message()).await? {
        if payload.is_empty() {
            total_bytes = chunk.total_bytes;
            let reserve = total_bytes.min(RESERVE_BYTES_MAX);
            payload.reserve(usize::try_from(reserve).unwrap_or(0));
        }
        payload.extend_from_slice(&chunk.data);
        if byte_count(&payload) > total_bytes {
            let message = "the payload is longer than announced".to_owned();
            return Err(TransferError::Refused(message));
        }
    }
    if byte_count(&payload) == total_bytes {
        Ok(payload.freeze())
    } else {
        Err(TransferError::Broken("the payload ended early".to_owned()))
    }
}

/// Uploads an output; gives the receipt.
pub(crate) async fn upload_output(access: Access, output: Bytes) -> Result<u64, TransferError> {
    let token = access.token;
    let total_bytes = byte_count(&output);
    let count = output.len().div_ceil(CHUNK_BYTES);
    let chunks = (0..count).map(move |index| {
        let from = index * CHUNK_BYTES;
        let to = output.len().min(from + CHUNK_BYTES);
        UploadChunk {
            session: if index == 0 { token } else { 0 },
            total_bytes: if index == 0 { total_bytes } else { 0 },
            data: output.slice(from..to),
        }
    });
    let mut register = RegisterClient::new(access.channel);
    let call = register.upload_output(tokio_stream::iter(chunks));
    Ok(within(call).await?.into_inner().upload)
}

async fn within<T>(step: impl Future<Output = Result<T, Status>>) -> Result<T, TransferError> {
    match tokio::time::timeout(SILENCE_MAX, step).await {
        Ok(result) => result.map_err(|status| TransferError::of(&status)),
        Err(_elapsed) => Err(TransferError::silence()),
    }
}

pub(crate) fn byte_count(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
