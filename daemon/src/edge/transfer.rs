//! Payloads and outputs in chunks: up into a spill file, down from wherever they lie.
//!
//! Neither direction holds more than one chunk in memory. A blob that goes down is read as the peer
//! takes it; if its task is freed meanwhile the stream ends with an error, never with wrong bytes. Tested in
//! `tests/daemon/transfer.rs`.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use qtf_engine::Principal;
use qtf_proto::limits::CHUNK_BYTES;
use qtf_proto::refusal;
use qtf_proto::v1::{OutputChunk, RefusalReason, UploadChunk, UploadReceipt};
use qtf_shm::spill::{SpillError, SpillWriter};
use qtf_shm::{BlobRef, Counter, Part, TaskId};
use tokio::sync::oneshot;
use tonic::{Status, Streaming};

use super::{status, worker_session};
use crate::core_cell::uploads::NoUpload;
use crate::core_cell::{self, Core};
use crate::journal::chores::Job;

/// LIMIT: a chunk of an upload.
const UPLOAD_CHUNK_BYTES_MAX: usize = 256 << 10;
/// LIMIT: time between two chunks of an upload.
const CHUNK_TIME_MAX: Duration = Duration::from_secs(30);

/// Who uploads; says what the token of the chunks must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Uploader {
    Client(Principal),
    Worker(Principal),
}

impl Uploader {
    const fn principal(self) -> Principal {
        let (Self::Client(principal) | Self::Worker(principal)) = self;
        principal
    }
}

/// Counts an upload as under way until dropped.
struct UnderWay {
    principal: Principal,
    bytes: u64,
}

impl UnderWay {
    fn begin(core: &mut Core, principal: Principal, bytes: u64) -> Result<Self, Status> {
        let refused = match core.uploads.begin(principal, bytes) {
            Ok(()) => return Ok(Self { principal, bytes }),
            Err(NoUpload::Full) => status::too_many_uploads(core.limits.uploads),
            Err(NoUpload::Share(used_up)) => status::upload_share_used_up(&used_up),
        };
        Err(refusal::status_of(refused))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        core_cell::attend(|core| core.uploads.end(self.principal, self.bytes));
    }
}

/// Receives an upload; gives its receipt.
pub(crate) async fn receive(
    mut chunks: Streaming<UploadChunk>,
    uploader: Uploader,
) -> Result<UploadReceipt, Status> {
    let first = next_chunk(&mut chunks)
        .await?
        .ok_or_else(|| status::invalid("the upload is empty"))?;
    let session = first.session;
    let total = first.total_bytes;
    let _under_way =
        core_cell::attend(|core| admit(core, &first, uploader)).ok_or_else(status::gone)??;
    let mut writer = core_cell::attend(|core| core.uploads.create(total))
        .ok_or_else(status::gone)?
        .map_err(|error| spill_status(&error))?;
    let mut chunk = Some(first);
    while let Some(next) = chunk {
        write(&mut writer, &next, total)?;
        chunk = next_chunk(&mut chunks).await?;
    }
    let blob = writer.finish().map_err(|error| spill_status(&error))?;
    if let Err(status) = settle(blob).await {
        core_cell::attend(|core| core.uploads.discard(blob));
        return Err(status);
    }
    let kept = core_cell::enter(|core| {
        let counters = core.segment().counters();
        counters.add(Counter::SpillWritten, 1);
        counters.add(Counter::SpillBytes, total);
        let now = core.now();
        let receipt = core
            .uploads
            .keep((uploader.principal(), session), blob, now);
        if receipt.is_none() {
            core.uploads.discard(blob);
        }
        receipt
    });
    let upload = kept.flatten().ok_or_else(status::gone)?;
    Ok(UploadReceipt { upload })
}

/// With a journal the file is on stable storage before its receipt is given, as a record may name it from then on.
async fn settle(blob: BlobRef) -> Result<(), Status> {
    let (done, settled) = oneshot::channel();
    let is_asked = core_cell::attend(|core| {
        let store = core.segment().spill().clone();
        let journal = core.journal.as_mut()?;
        Some(journal.chores.hand(Job::SyncSpill { store, blob, done }))
    });
    match is_asked.ok_or_else(status::gone)? {
        None => return Ok(()),
        Some(true) => {}
        Some(false) => return Err(refusal::status_of(status::too_many_syncs())),
    }
    match settled.await {
        Ok(synced) => synced.map_err(|error| spill_status(&error)),
        Err(_) => Err(status::gone()),
    }
}

/// Whether the upload may begin. Nothing that it gives may be dropped inside the core.
fn admit(core: &mut Core, first: &UploadChunk, uploader: Uploader) -> Result<UnderWay, Status> {
    match uploader {
        // Without a session it is for whoever the connection is.
        Uploader::Client(_) if first.session == 0 => {}
        Uploader::Client(_) => {
            let client = core.engine.client_of(first.session);
            client.map_err(|rejection| status::status_of(&rejection))?;
        }
        Uploader::Worker(_) => worker_session::may_upload(core, first.session)?,
    }
    let limit = core.limits.payload_bytes;
    if first.total_bytes == 0 || first.total_bytes > limit {
        return Err(refusal::status_of(status::refuse(
            RefusalReason::PayloadTooLarge,
            format!(
                "upload of {} bytes: 1 to {limit} are taken (payload_bytes_max)",
                first.total_bytes
            ),
        )));
    }
    UnderWay::begin(core, uploader.principal(), first.total_bytes)
}

fn write(writer: &mut SpillWriter, chunk: &UploadChunk, total: u64) -> Result<(), Status> {
    if chunk.data.is_empty() {
        // It would hold the upload open for ever.
        return Err(status::invalid("chunk without data"));
    }
    if chunk.data.len() > UPLOAD_CHUNK_BYTES_MAX {
        return Err(status::invalid(format!(
            "chunk of {} bytes: at most {UPLOAD_CHUNK_BYTES_MAX} are taken",
            chunk.data.len()
        )));
    }
    let after = writer.written().saturating_add(chunk.data.len() as u64);
    if after > total {
        return Err(status::invalid(format!(
            "upload has more than the {total} bytes that it announced"
        )));
    }
    writer
        .write(&chunk.data)
        .map_err(|error| spill_status(&error))
}

async fn next_chunk(chunks: &mut Streaming<UploadChunk>) -> Result<Option<UploadChunk>, Status> {
    match tokio::time::timeout(CHUNK_TIME_MAX, chunks.message()).await {
        Ok(chunk) => chunk,
        Err(_) => Err(Status::deadline_exceeded(
            "the next chunk of the upload did not come in time",
        )),
    }
}

fn spill_status(error: &SpillError) -> Status {
    if let SpillError::Announced { .. } = error {
        return status::invalid(format!("upload: {error}"));
    }
    if let SpillError::NoRoom { .. } | SpillError::Behind { .. } = error {
        return refusal::status_of(status::no_spill_room(error));
    }
    tracing::warn!(%error, "upload not stored");
    refusal::status_of(status::refuse(
        RefusalReason::SpillFailed,
        error.to_string(),
    ))
}

/// One blob of a task on its way to a peer, a chunk at each poll.
#[derive(Debug)]
pub(crate) struct BlobStream {
    part: Part,
    task: TaskId,
    total: u64,
    offset: u64,
    has_ended: bool,
}

impl BlobStream {
    /// The blob of `task` with `total` bytes.
    pub(crate) fn new(part: Part, task: TaskId, total: u64) -> Self {
        Self {
            part,
            task,
            total,
            offset: 0,
            has_ended: false,
        }
    }

    fn next_chunk(&self) -> Result<OutputChunk, Status> {
        let left = self.total.saturating_sub(self.offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let mut data = vec![0; length];
        let read = core_cell::look(|core| {
            core.segment()
                .load(self.task, self.part, self.offset, &mut data)
        });
        match read.ok_or_else(status::gone)? {
            Ok(count) if count == length => {}
            Ok(count) => {
                return Err(broken(
                    self.task,
                    &format!("{count} of {length} bytes were read"),
                ));
            }
            Err(error) => return Err(broken(self.task, &error.to_string())),
        }
        Ok(OutputChunk {
            total_bytes: self.total,
            data: Bytes::from(data),
        })
    }
}

fn broken(task: TaskId, why: &str) -> Status {
    refusal::status_of(status::refuse(
        RefusalReason::UnknownTask,
        format!("the bytes of task {task} are gone: {why}"),
    ))
}

impl Stream for BlobStream {
    type Item = Result<OutputChunk, Status>;

    fn poll_next(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let chunk = self.next_chunk();
        let sent = chunk.as_ref().map_or(0, |chunk| chunk.data.len() as u64);
        self.offset = self.offset.saturating_add(sent);
        self.has_ended = chunk.is_err() || self.offset >= self.total;
        Poll::Ready(Some(chunk))
    }
}
