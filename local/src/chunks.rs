//! What is too large for a message, from the segment or its file to whoever fetches it, a chunk at a time. The other direction is `uploads.rs`.
//!
//! Tested through the services.

use bytes::Bytes;
use qtf_proto::limits::CHUNK_BYTES;
use qtf_proto::refusal;
use qtf_proto::v1::OutputChunk;
use qtf_shm::{LoadError, TaskId};
use tokio::sync::mpsc;
use tonic::Status;

use crate::refusals;

/// Sends `total_bytes` of a task, as far as `load` (which copies from an offset on) has them: to the end, to the first failure, or until nobody
/// listens any more.
pub(crate) async fn send(
    task: TaskId,
    total_bytes: u64,
    load: impl Fn(u64, &mut [u8]) -> Result<usize, LoadError>,
    out: mpsc::Sender<Result<OutputChunk, Status>>,
) {
    let mut offset = 0;
    while offset < total_bytes {
        let rest = usize::try_from(total_bytes - offset).unwrap_or(CHUNK_BYTES);
        let mut data = vec![0; rest.min(CHUNK_BYTES)];
        let chunk = match load(offset, &mut data) {
            Ok(count) if count > 0 => {
                data.truncate(count);
                offset += count as u64;
                Ok(OutputChunk {
                    total_bytes,
                    data: Bytes::from(data),
                })
            }
            Ok(_) => Err(refusal::status_of(refusals::unknown_task(task))),
            Err(error) => Err(Status::internal(error.to_string())),
        };
        let is_over = chunk.is_err();
        if out.send(chunk).await.is_err() || is_over {
            return;
        }
    }
}
