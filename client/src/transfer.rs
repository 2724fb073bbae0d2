//! Payloads and outputs that are too large for a message: chunked up and down.

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use qtf_proto::limits::CHUNK_BYTES;
use qtf_proto::v1::{FetchOutputRequest, RefusalReason, TaskOutput, TaskSpec, UploadChunk};

use crate::TaskId;
use crate::client::Client;
use crate::error::{CallError, Refusal};
use crate::session::Session;

// LIMIT: first reservation for an announced size, so that a lie costs nothing; growth is by arrival.
const RESERVE_BYTES_MAX: u64 = 1 << 20;

impl Client {
    /// Gives the form of a task that fits a message: a large payload is uploaded first.
    pub(crate) async fn sendable(
        &self,
        spec: &TaskSpec,
        session: &Session,
    ) -> Result<TaskSpec, CallError> {
        let payload_bytes = byte_count(&spec.payload);
        if payload_bytes <= session.payload_inline_limit_bytes {
            return Ok(spec.clone());
        }
        if payload_bytes > session.payload_limit_bytes {
            return Err(CallError::Refused(Refusal {
                reason: RefusalReason::PayloadTooLarge,
                message: format!(
                    "payload of {payload_bytes} bytes is over the daemon's limit of {} bytes: \
                     pass large data by file, or raise the limit",
                    session.payload_limit_bytes
                ),
                retry_after_ms: 0,
            }));
        }
        let mut small = spec.clone();
        small.payload_upload = self
            .upload(core::mem::take(&mut small.payload), session)
            .await?;
        Ok(small)
    }

    async fn upload(&self, payload: Bytes, session: &Session) -> Result<u64, CallError> {
        let token = session.token;
        let total_bytes = byte_count(&payload);
        let chunks = payload.len().div_ceil(CHUNK_BYTES);
        let chunks = (0..chunks).map(move |index| {
            let from = index * CHUNK_BYTES;
            let to = payload.len().min(from + CHUNK_BYTES);
            UploadChunk {
                session: if index == 0 { token } else { 0 },
                total_bytes: if index == 0 { total_bytes } else { 0 },
                data: payload.slice(from..to),
            }
        });
        // Never closed. The wait for a turn does not count for the call: it is bounded by those of the others.
        let _turn = self.inner.uploads.acquire().await;
        let mut plm = self.plm();
        let call = plm.upload_payload(tokio_stream::iter(chunks));
        Ok(self.timed(call).await?.upload)
    }

    /// Fetches what a finished task left behind; empty when it left nothing. A daemon that goes away meanwhile is waited for, and asked again from
    /// the beginning.
    ///
    /// # Errors
    /// [`CallError::Refused`] when the task is unknown or has not ended, [`CallError::Unreachable`] when the daemon stays away.
    pub async fn fetch_output(&self, id: TaskId) -> Result<TaskOutput, CallError> {
        let mut patience = self.patience();
        loop {
            match self.fetch_output_once(id).await {
                Ok(output) => return Ok(output),
                Err(error) => patience.after(error).await?,
            }
        }
    }

    async fn fetch_output_once(&self, id: TaskId) -> Result<TaskOutput, CallError> {
        let request = FetchOutputRequest {
            task_id: id.as_raw(),
        };
        let mut plm = self.plm();
        let mut chunks = self.timed(plm.fetch_output(request)).await?;
        let mut total_bytes = 0;
        let mut encoded = BytesMut::new();
        let after = self.inner.call_timeout;
        loop {
            let chunk = match tokio::time::timeout(after, chunks.message()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => break,
                Ok(Err(status)) => return Err(CallError::of_status(&status)),
                Err(_elapsed) => return Err(CallError::TimedOut { after }),
            };
            if encoded.is_empty() {
                total_bytes = chunk.total_bytes;
                let reserve = total_bytes.min(RESERVE_BYTES_MAX);
                encoded.reserve(usize::try_from(reserve).unwrap_or(0));
            }
            encoded.extend_from_slice(&chunk.data);
            if byte_count(&encoded) > total_bytes {
                return Err(CallError::protocol("an output is longer than announced"));
            }
        }
        if byte_count(&encoded) != total_bytes {
            return Err(CallError::protocol("an output is shorter than announced"));
        }
        decode_output(encoded.freeze())
    }
}

pub(crate) fn decode_output(encoded: Bytes) -> Result<TaskOutput, CallError> {
    TaskOutput::decode(encoded)
        .map_err(|error| CallError::protocol(format!("an output cannot be decoded: {error}")))
}

fn byte_count(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
