//! Messages of the daemon on their way out: [`v1::SubmitStreamResponse`], [`v1::WatchResponse`], [`v1::DispatchResponse`].
//!
//! A frame is written to memory that its thread uses again when the frame has been sent or dropped. Tested in `proto/tests/wire.rs`.

use core::cell::RefCell;
use core::marker::PhantomData;

use super::writer::Writer;
use crate::v1;

/// LIMIT: memory of frames that a thread keeps: pieces, and bytes of each.
const KEPT_MAX: usize = 8;
const KEPT_BYTES_MAX: usize = 64 << 10;

thread_local! {
    static KEPT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A message `M` that is being written, or was.
#[derive(Debug)]
pub struct Frame<M> {
    bytes: Vec<u8>,
    message: PhantomData<fn(M)>,
}

impl<M> Default for Frame<M> {
    fn default() -> Self {
        Self {
            bytes: KEPT.with_borrow_mut(Vec::pop).unwrap_or_default(),
            message: PhantomData,
        }
    }
}

impl<M> Drop for Frame<M> {
    fn drop(&mut self) {
        let mut memory = core::mem::take(&mut self.bytes);
        if memory.capacity() == 0 || memory.capacity() > KEPT_BYTES_MAX {
            return;
        }
        memory.clear();
        // A thread that ends keeps nothing any more.
        let _gone = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < KEPT_MAX {
                kept.push(memory);
            }
        });
    }
}

impl<M> Frame<M> {
    /// Whether nothing was written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What was written.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    const fn writer(&mut self) -> Writer<'_> {
        Writer(&mut self.bytes)
    }
}

impl<M: prost::Message> From<M> for Frame<M> {
    fn from(message: M) -> Self {
        let mut frame = Self::default();
        message.encode_raw(&mut frame.bytes);
        frame
    }
}

/// The end of a task: [`v1::TaskEnd`] without output and refusal.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "the .proto file has the documentation")]
pub struct End<'a> {
    pub task_id: u64,
    pub state: v1::TaskState,
    pub outcome: Option<v1::Outcome>,
    pub attempt: u32,
    pub output_bytes: u64,
    pub worker_name: &'a str,
}

impl End<'_> {
    /// One of which no more is known.
    #[must_use]
    pub const fn new(task_id: u64, state: v1::TaskState) -> Self {
        Self {
            task_id,
            state,
            outcome: None,
            attempt: 0,
            output_bytes: 0,
            worker_name: "",
        }
    }

    fn write(
        &self,
        field: u32,
        writer: &mut Writer<'_>,
        output: usize,
        fill: impl FnOnce(&mut [u8]) -> bool,
    ) {
        writer.within(field, |writer| {
            writer.fixed(1, self.task_id);
            writer.choice(2, self.state.into());
            if let Some(outcome) = &self.outcome {
                writer.message(3, outcome);
            }
            writer.number(4, self.attempt);
            writer.bytes_by(5, output, fill);
            writer.number(6, self.output_bytes);
            writer.bytes(8, self.worker_name.as_bytes());
        });
    }
}

/// A message that tells ends of tasks.
pub trait TellsEnds: prost::Message {
    /// The field in which it does.
    const FIELD: u32;
}

impl TellsEnds for v1::SubmitStreamResponse {
    const FIELD: u32 = 3;
}

impl TellsEnds for v1::WatchResponse {
    const FIELD: u32 = 1;
}

impl<M: TellsEnds> Frame<M> {
    /// Writes an end, with so many bytes of output, which `fill` writes where they are to stand; without them, if it says that it
    /// cannot.
    pub fn end(&mut self, end: &End<'_>, output: usize, fill: impl FnOnce(&mut [u8]) -> bool) {
        end.write(M::FIELD, &mut self.writer(), output, fill);
    }

    /// Writes why an end does not come.
    pub fn no_end(&mut self, refused: &v1::TaskEnd) {
        self.writer().message(M::FIELD, refused);
    }
}

impl Frame<v1::SubmitStreamResponse> {
    /// Writes which batch this answers, and whether its ends come.
    pub fn batch(&mut self, number: u64, is_watched: bool) {
        let mut writer = self.writer();
        writer.number(1, number);
        writer.number(5, is_watched);
    }

    /// Writes that this answers none.
    pub fn ends_only(&mut self) {
        self.writer().number(4, true);
    }

    /// Writes that the next task of the batch is accepted.
    pub fn accepted(&mut self, accepted: &v1::SubmitTaskResponse) {
        self.writer().within(2, |writer| {
            writer.fixed(1, accepted.task_id);
            writer.choice(3, accepted.durability);
            writer.number(4, accepted.is_repeat);
            writer.number(5, accepted.result_expired);
        });
    }

    /// Writes why the next task of the batch is not.
    pub fn refused(&mut self, refusal: &v1::Refusal) {
        self.writer().within(2, |writer| writer.message(2, refusal));
    }
}

/// A task for a worker: [`v1::Assignment`] without its payload.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "the .proto file has the documentation")]
pub struct Assigned<'a> {
    pub task: v1::TaskRef,
    pub kind: &'a str,
    pub payload_bytes: u64,
    pub timeout_ms: u32,
    pub discard_result: bool,
    pub array_id: u64,
    pub array_index: u64,
}

impl Frame<v1::DispatchResponse> {
    /// Writes an assignment, with so many bytes of payload, which `fill` writes where they are to stand; without them, if it says that
    /// it cannot.
    pub fn assignment(
        &mut self,
        assigned: &Assigned<'_>,
        payload: usize,
        fill: impl FnOnce(&mut [u8]) -> bool,
    ) {
        self.writer().within(1, |writer| {
            writer.within(1, |writer| {
                writer.fixed(1, assigned.task.task_id);
                writer.number(2, assigned.task.attempt);
            });
            writer.bytes(2, assigned.kind.as_bytes());
            writer.bytes_by(3, payload, fill);
            writer.number(4, assigned.payload_bytes);
            writer.number(5, assigned.timeout_ms);
            writer.number(6, assigned.discard_result);
            writer.fixed(7, assigned.array_id);
            writer.number(8, assigned.array_index);
        });
    }

    /// Writes that an attempt is to be stopped.
    pub fn stop(&mut self, order: &v1::StopOrder) {
        self.writer().message(2, order);
    }

    /// Writes a question that is to be answered at once.
    pub fn probe(&mut self, nonce: u64) {
        self.writer().fixed(3, nonce);
    }

    /// Writes what became of results, and numbers of reports all of whose results are recorded.
    pub fn verdicts(&mut self, each: &[v1::ResultVerdict], recorded: &[u64]) {
        let mut writer = self.writer();
        for verdict in each {
            writer.message(4, verdict);
        }
        writer.numbers(5, recorded);
    }
}
