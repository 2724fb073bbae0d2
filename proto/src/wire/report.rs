//! What a worker says, as it came: [`v1::WorkerReport`]; and what its tasks have left: [`v1::TaskOutput`].
//!
//! Tested in `proto/tests/wire.rs`.

use bytes::Bytes;

use super::fields::{Fields, Malformed, Value};
use crate::v1;

const STARTED: u32 = 2;
const RESULTS: u32 = 3;

/// A report in its frame. Invariant: the frame was gone through without a fault.
#[derive(Debug, Clone, Default)]
pub struct Report {
    frame: Bytes,
    /// See the `.proto` file, as for the others.
    pub hello: Option<v1::WorkerHello>,
    /// How many attempts have started.
    pub started: usize,
    /// How many results there are.
    pub results: usize,
    /// How many tasks the worker holds.
    pub holding: Option<u32>,
    /// Load of its machine.
    pub load_milli: u32,
    /// It takes no more tasks.
    pub draining: bool,
    /// It leaves.
    pub goodbye: bool,
    /// The attempts that it has.
    pub held: Option<v1::HeldTasks>,
    /// Tasks that it can take more.
    pub credits: u32,
    /// Number of the report.
    pub number: u64,
}

impl Report {
    /// Goes through a frame.
    ///
    /// # Errors
    /// It is no such message.
    pub fn read(frame: Bytes) -> Result<Self, Malformed> {
        let mut read = Self::default();
        let mut fields = Fields::of(&frame);
        while let Some((number, value)) = fields.take()? {
            match number {
                1 => merge(&mut read.hello, value)?,
                STARTED => {
                    task_ref(fields.within(value)?, v1::TaskRef::default())?;
                    read.started += 1;
                }
                RESULTS => {
                    Ended::read(fields.within(value)?)?;
                    read.results += 1;
                }
                4 => read.holding = Some(value.short()?),
                5 => read.load_milli = value.short()?,
                6 => read.draining = value.flag()?,
                7 => read.goodbye = value.flag()?,
                8 => merge(&mut read.held, value)?,
                9 => read.credits = value.short()?,
                10 => read.number = value.number()?,
                _ => {}
            }
        }
        read.frame = frame;
        Ok(read)
    }

    /// Attempts that have started.
    pub fn attempts_started(&self) -> impl Iterator<Item = v1::TaskRef> + Clone {
        let mut fields = Fields::of(&self.frame);
        core::iter::from_fn(move || {
            while let Ok(Some((number, value))) = fields.take() {
                if number == STARTED {
                    let fields = fields.within(value).ok()?;
                    return task_ref(fields, v1::TaskRef::default()).ok();
                }
            }
            None
        })
    }

    /// Results of attempts.
    pub fn attempts_ended(&self) -> impl Iterator<Item = Ended<'_>> + Clone {
        let mut fields = Fields::of(&self.frame);
        core::iter::from_fn(move || {
            while let Ok(Some((number, value))) = fields.take() {
                if number == RESULTS {
                    return Ended::read(fields.within(value).ok()?).ok();
                }
            }
            None
        })
    }
}

/// What comes seldom, and in parts where somebody has split it.
fn merge<M: prost::Message + Default>(
    message: &mut Option<M>,
    value: Value<'_>,
) -> Result<(), Malformed> {
    let bytes = value.bytes()?;
    let message = message.get_or_insert_default();
    message.merge(bytes).map_err(|_| Malformed::Within)
}

fn task_ref(mut fields: Fields<'_>, mut read: v1::TaskRef) -> Result<v1::TaskRef, Malformed> {
    while let Some((number, value)) = fields.take()? {
        match number {
            1 => read.task_id = value.fixed()?,
            2 => read.attempt = value.short()?,
            _ => {}
        }
    }
    Ok(read)
}

fn outcome(mut fields: Fields<'_>, mut read: v1::Outcome) -> Result<v1::Outcome, Malformed> {
    while let Some((number, value)) = fields.take()? {
        match number {
            1 => read.kind = value.choice()?,
            2 => read.code = value.short()?,
            3 => read.result_dropped = value.flag()?,
            4 => read.output_cut = value.flag()?,
            5 => read.again_after_ms = value.number()?,
            _ => {}
        }
    }
    Ok(read)
}

/// How an attempt ended: [`v1::TaskResult`], whose fields it has.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[expect(missing_docs, reason = "the .proto file has the documentation")]
pub struct Ended<'f> {
    pub task: Option<v1::TaskRef>,
    pub outcome: Option<v1::Outcome>,
    pub output: &'f [u8],
    pub output_upload: u64,
    pub stderr_tail: &'f [u8],
}

impl<'f> Ended<'f> {
    fn read(mut fields: Fields<'f>) -> Result<Self, Malformed> {
        let mut read = Self::default();
        while let Some((number, value)) = fields.take()? {
            match number {
                1 => {
                    let before = read.task.unwrap_or_default();
                    read.task = Some(task_ref(fields.within(value)?, before)?);
                }
                2 => {
                    let before = read.outcome.unwrap_or_default();
                    read.outcome = Some(outcome(fields.within(value)?, before)?);
                }
                3 => read.output = value.bytes()?,
                4 => read.output_upload = value.fixed()?,
                5 => read.stderr_tail = value.bytes()?,
                _ => {}
            }
        }
        Ok(read)
    }

    /// The same, with memory of its own.
    #[must_use]
    pub fn to_message(&self) -> v1::TaskResult {
        v1::TaskResult {
            task: self.task,
            outcome: self.outcome,
            output: Bytes::copy_from_slice(self.output),
            output_upload: self.output_upload,
            stderr_tail: Bytes::copy_from_slice(self.stderr_tail),
        }
    }
}

impl<'f> From<&'f v1::TaskResult> for Ended<'f> {
    fn from(result: &'f v1::TaskResult) -> Self {
        Self {
            task: result.task,
            outcome: result.outcome,
            output: &result.output,
            output_upload: result.output_upload,
            stderr_tail: &result.stderr_tail,
        }
    }
}

/// What an attempt left, as far as the daemon looks at it: [`v1::TaskOutput`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Output<'f> {
    /// Standard error.
    pub stderr: &'f [u8],
    /// Why it failed, for people.
    pub message: &'f str,
    /// A limit has cut some of it off.
    pub is_cut: bool,
}

impl<'f> Output<'f> {
    /// Reads an encoded output.
    ///
    /// # Errors
    /// It is no such message.
    pub fn read(encoded: &'f [u8]) -> Result<Self, Malformed> {
        let mut read = Self::default();
        let mut dropped = [0; 2];
        let mut fields = Fields::of(encoded);
        while let Some((number, value)) = fields.take()? {
            match number {
                1 => {
                    value.bytes()?;
                }
                2 => read.stderr = value.bytes()?,
                3 => dropped[0] = value.number()?,
                4 => dropped[1] = value.number()?,
                5 => read.message = value.text()?,
                6 | 7 => {
                    value.number()?;
                }
                _ => {}
            }
        }
        read.is_cut = dropped != [0; 2];
        Ok(read)
    }
}
