//! What is too large for a message: kept in memory between its upload and its use, a few at a time, each once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use qtf_proto::limits::UPLOAD_CHUNK_BYTES_MAX;
use qtf_proto::refusal;
use qtf_proto::v1::{RefusalReason, UploadChunk};
use tonic::{Status, Streaming};

use crate::refusals;

/// LIMIT: uploads that are not used yet; a library has two under way at a time.
const KEPT_MAX: usize = 64;
/// LIMIT: first reservation for an announced size; growth is by arrival.
const RESERVE_BYTES_MAX: usize = 1 << 20;

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Uploads(Mutex<HashMap<u64, Bytes>>);

impl Uploads {
    /// Takes an upload in; its receipt. `is_known` says whether the session or token in its first chunk is good.
    pub(crate) async fn take_in(
        &self,
        chunks: &mut Streaming<UploadChunk>,
        limit: u64,
        is_known: impl FnOnce(u64) -> Result<(), Status>,
    ) -> Result<u64, Status> {
        let invalid = |text: String| refusal::status_of(refusals::invalid(text));
        let Some(first) = chunks.message().await? else {
            return Err(invalid("an upload without a chunk".to_owned()));
        };
        is_known(first.session)?;
        let total_bytes = first.total_bytes;
        if total_bytes > limit {
            return Err(refusals::status(
                RefusalReason::PayloadTooLarge,
                format!(
                    "{total_bytes} bytes are over the limit of {limit} bytes: pass a file name instead, or raise payload_bytes_max of the daemon"
                ),
            ));
        }
        let whole = usize::try_from(total_bytes).unwrap_or(usize::MAX);
        let mut data = BytesMut::with_capacity(whole.min(RESERVE_BYTES_MAX));
        let mut next = Some(first);
        while let Some(chunk) = next {
            if chunk.data.len() > UPLOAD_CHUNK_BYTES_MAX || data.len() + chunk.data.len() > whole {
                return Err(invalid(format!(
                    "an upload is longer than the {total_bytes} bytes that it announced, or has a chunk of more than {UPLOAD_CHUNK_BYTES_MAX}"
                )));
            }
            data.extend_from_slice(&chunk.data);
            next = chunks.message().await?;
        }
        if data.len() != whole {
            return Err(invalid(format!(
                "an upload ended after {} of {total_bytes} bytes",
                data.len()
            )));
        }
        self.keep(data.freeze())
    }

    fn keep(&self, data: Bytes) -> Result<u64, Status> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            return Err(refusal::status_of(refusals::for_now(
                RefusalReason::SpillFailed,
                format!("{KEPT_MAX} uploads are not used yet: use some first"),
            )));
        }
        loop {
            let receipt = fastrand::u64(1..);
            if let Entry::Vacant(place) = kept.entry(receipt) {
                place.insert(data);
                return Ok(receipt);
            }
        }
    }

    /// The bytes of an upload; it stays until it is used up.
    pub(crate) fn look(&self, receipt: u64) -> Option<Bytes> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(&receipt).cloned()
    }

    pub(crate) fn use_up(&self, receipt: u64) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.remove(&receipt);
    }
}
