//! Payloads and outputs in chunks: up into a spill file, down from wherever they lie.
//!
//! Neither direction holds more than one chunk in memory. What goes up is written by the spill thread, a chunk at a time, and only then the next
//! one is read: a disk that hangs keeps that upload, and nobody else. A blob that goes down is read as the peer
//! takes it; if its task is freed meanwhile the stream ends with an error, never with wrong bytes. Tested in
//! `tests/daemon/transfer.rs`.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use qtf_engine::Principal;
use qtf_proto::limits::{CHUNK_BYTES, UPLOAD_CHUNK_BYTES_MAX};
use qtf_proto::refusal;
use qtf_proto::v1::{OutputChunk, RefusalReason, UploadChunk, UploadReceipt};
use qtf_shm::spill::SpillError;
use qtf_shm::{BlobRef, Counter, LoadError, Part, TaskId};
use tonic::{Status, Streaming};

use super::previews::Reading;
use super::read::blob_of;
use super::{status, worker_session};
use crate::core::uploads::{Asked, NoUpload};
use crate::core::{Core, core_cell};
use crate::spill::thread::{Range, UploadKey};

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

/// The place of an upload that is under way; left when dropped.
struct Place(UploadKey);

impl Place {
    /// Has something done for the upload, and waits for it. Meanwhile no chunk of it is read, so that its peer stops sending when
    /// the window of its stream is used up.
    async fn ask(
        &self,
        ask: impl FnOnce(&mut Core, UploadKey) -> Result<Asked, NoUpload> + Send,
    ) -> Result<Option<BlobRef>, Status> {
        let asked = core_cell::attend(|core| {
            ask(core, self.0).map_err(|refused| no_upload(core.limits.uploads, refused))
        });
        answer(asked.ok_or_else(status::gone)??).await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        core_cell::attend(|core| core.uploads.leave(self.0));
    }
}

async fn answer(asked: Asked) -> Result<Option<BlobRef>, Status> {
    match asked.await {
        Ok(answer) => answer.map_err(|error| spill_status(&error)),
        Err(_) => Err(status::gone()),
    }
}

fn no_upload(uploads_max: usize, refused: NoUpload) -> Status {
    match refused {
        NoUpload::Full => refusal::status_of(status::too_many_uploads(uploads_max)),
        NoUpload::Share(used_up) => refusal::status_of(status::upload_share_used_up(&used_up)),
        NoUpload::Announced { received, total } => status::invalid(format!(
            "upload: {received} bytes came of {total} announced"
        )),
        NoUpload::Gone => status::gone(),
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
    let (place, begun) =
        core_cell::attend(|core| admit(core, &first, uploader)).ok_or_else(status::gone)??;
    answer(begun).await?;
    let mut chunk = Some(first);
    while let Some(next) = chunk {
        check(&next)?;
        let data = next.data;
        place.ask(|core, key| core.uploads.write(key, data)).await?;
        chunk = next_chunk(&mut chunks).await?;
    }
    // With a journal the file is on stable storage before its receipt is given, as a record may name it from then on.
    place
        .ask(|core, key| core.uploads.finish(key, core.journal.is_some()))
        .await?;
    let kept = core_cell::enter(|core| {
        let counters = core.segment().counters();
        counters.add(Counter::SpillWritten, 1);
        counters.add(Counter::SpillBytes, total);
        let now = core.now();
        core.uploads.keep(place.0, session, now)
    });
    let upload = kept.flatten().ok_or_else(status::gone)?;
    Ok(UploadReceipt { upload })
}

/// Whether the upload may begin. Nothing that it gives may be dropped inside the core.
fn admit(
    core: &mut Core,
    first: &UploadChunk,
    uploader: Uploader,
) -> Result<(Place, Asked), Status> {
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
    let begun = core.uploads.begin(uploader.principal(), first.total_bytes);
    let (key, asked) = begun.map_err(|refused| no_upload(core.limits.uploads, refused))?;
    Ok((Place(key), asked))
}

fn check(chunk: &UploadChunk) -> Result<(), Status> {
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
    Ok(())
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
    if let SpillError::NoRoom { .. } | SpillError::Behind { .. } | SpillError::Full { .. } = error {
        return refusal::status_of(status::no_spill_room(error));
    }
    tracing::warn!(%error, "upload not stored");
    refusal::status_of(status::refuse(
        RefusalReason::SpillFailed,
        error.to_string(),
    ))
}

/// One blob of a task on its way to a peer, a chunk at each poll. What lies in a file is read by the spill thread.
#[derive(Debug)]
pub(crate) struct BlobStream {
    part: Part,
    task: TaskId,
    total: u64,
    offset: u64,
    reading: Option<Reading>,
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
            reading: None,
            has_ended: false,
        }
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<OutputChunk, Status>> {
        if self.reading.is_none()
            && let Some(data) = self.read()?
        {
            return Poll::Ready(self.chunk(data));
        }
        let Some(reading) = &mut self.reading else {
            return Poll::Ready(Err(status::gone()));
        };
        let answer = ready!(reading.poll(cx));
        self.reading = None;
        let data = match answer {
            None => return Poll::Ready(Err(status::gone())),
            Some(Err(error)) => return Poll::Ready(Err(broken(self.task, &error.to_string()))),
            Some(Ok(data)) => data,
        };
        // A freed slot's file may be gone or replaced; the state tells whether it was ours.
        let is_there = core_cell::look(|core| blob_of(core, self.task, self.part).is_some());
        if is_there != Some(true) {
            return Poll::Ready(Err(broken(self.task, &LoadError::Gone.to_string())));
        }
        Poll::Ready(self.chunk(data))
    }

    /// Reads the next chunk, or has it read.
    fn read(&mut self) -> Result<Option<Vec<u8>>, Status> {
        let left = self.total.saturating_sub(self.offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let (task, part, offset) = (self.task, self.part, self.offset);
        let read = core_cell::attend(|core| match blob_of(core, task, part) {
            None => Err(LoadError::Gone),
            Some(blob @ BlobRef::Spill { .. }) => Ok(Err(core.reads.ask(Range {
                blob,
                offset,
                length,
            }))),
            Some(BlobRef::None | BlobRef::Inline { .. } | BlobRef::Arena { .. }) => {
                let mut data = vec![0; length];
                let count = core.segment().load(task, part, offset, &mut data)?;
                data.truncate(count);
                Ok(Ok(data))
            }
        });
        match read.ok_or_else(status::gone)? {
            Err(error) => Err(broken(task, &error.to_string())),
            Ok(Ok(data)) => Ok(Some(data)),
            Ok(Err((key, asked))) => {
                self.reading = Some(Reading::new(key, asked));
                Ok(None)
            }
        }
    }

    fn chunk(&self, data: Vec<u8>) -> Result<OutputChunk, Status> {
        let left = self.total.saturating_sub(self.offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        if data.len() != length {
            let why = format!("{} of {length} bytes were read", data.len());
            return Err(broken(self.task, &why));
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

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let chunk = ready!(self.poll_chunk(cx));
        let sent = chunk.as_ref().map_or(0, |chunk| chunk.data.len() as u64);
        self.offset = self.offset.saturating_add(sent);
        self.has_ended = chunk.is_err() || self.offset >= self.total;
        Poll::Ready(Some(chunk))
    }
}
