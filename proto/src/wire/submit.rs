//! A batch of submissions as it came: [`v1::SubmitStreamRequest`].
//!
//! Tested in `proto/tests/wire.rs`.

use bytes::Bytes;

use super::fields::{Fields, Malformed};
use crate::v1;

const TASKS: u32 = 3;
const RECEIVED_KEYS: u32 = 5;
const ACKNOWLEDGE: u32 = 8;

/// A batch in its frame. Invariant: the frame was gone through without a fault.
#[derive(Debug, Clone, Default)]
pub struct SubmitBatch {
    frame: Bytes,
    /// See the `.proto` file, as for the others.
    pub session: u64,
    /// Number of the batch.
    pub batch: u64,
    /// All entries belong to one array.
    pub as_array: bool,
    /// The ends are wanted.
    pub watch: bool,
    /// With their outputs.
    pub with_output: bool,
    /// How many submissions there are.
    pub tasks: usize,
    /// How many keys there are.
    pub received_keys: usize,
    /// How many acknowledgements there are.
    pub acknowledge: usize,
}

impl SubmitBatch {
    /// Goes through a frame.
    ///
    /// # Errors
    /// It is no such message.
    pub fn read(frame: Bytes) -> Result<Self, Malformed> {
        let mut read = Self::default();
        let mut fields = Fields::of(&frame);
        while let Some((number, value)) = fields.take()? {
            match number {
                1 => read.session = value.fixed()?,
                2 => read.batch = value.number()?,
                TASKS => {
                    Spec::read(fields.within(value)?)?;
                    read.tasks += 1;
                }
                4 => read.as_array = value.flag()?,
                RECEIVED_KEYS => {
                    value.bytes()?;
                    read.received_keys += 1;
                }
                6 => read.watch = value.flag()?,
                7 => read.with_output = value.flag()?,
                ACKNOWLEDGE => read.acknowledge += value.fixed_all()?.count(),
                _ => {}
            }
        }
        read.frame = frame;
        Ok(read)
    }

    /// The submissions, in order.
    #[must_use]
    pub fn specs(&self) -> Specs<'_> {
        self.specs_from(0)
    }

    /// Those from a [place](Specs::place) on that was told before.
    #[must_use]
    pub fn specs_from(&self, place: usize) -> Specs<'_> {
        Specs {
            fields: Fields::of(self.frame.get(place..).unwrap_or_default()),
            length: self.frame.len(),
        }
    }

    /// The keys whose answers have arrived.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let mut fields = Fields::of(&self.frame);
        core::iter::from_fn(move || {
            while let Ok(Some((number, value))) = fields.take() {
                if number == RECEIVED_KEYS {
                    return value.bytes().ok();
                }
            }
            None
        })
    }

    /// Results that were received.
    pub fn acknowledged(&self) -> impl Iterator<Item = u64> + Clone {
        let mut fields = Fields::of(&self.frame);
        let runs = core::iter::from_fn(move || {
            while let Ok(Some((number, value))) = fields.take() {
                if number == ACKNOWLEDGE {
                    return value.fixed_all().ok();
                }
            }
            None
        });
        runs.flatten()
    }
}

/// Submissions of a batch that are still to come.
#[derive(Debug, Clone, Copy)]
pub struct Specs<'f> {
    fields: Fields<'f>,
    length: usize,
}

impl Specs<'_> {
    /// Where the next one begins, for [`SubmitBatch::specs_from`].
    #[must_use]
    pub const fn place(&self) -> usize {
        self.length.saturating_sub(self.fields.left())
    }
}

impl<'f> Iterator for Specs<'f> {
    type Item = Spec<'f>;

    #[inline]
    fn next(&mut self) -> Option<Spec<'f>> {
        while let Ok(Some((number, value))) = self.fields.take() {
            if number == TASKS {
                return Spec::read(self.fields.within(value).ok()?).ok();
            }
        }
        None
    }
}

/// One submission: [`v1::TaskSpec`], whose fields it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(
    missing_docs,
    clippy::struct_excessive_bools,
    reason = "the .proto file has the documentation, and decides what there is"
)]
pub struct Spec<'f> {
    pub kind: &'f str,
    pub payload: &'f [u8],
    pub payload_upload: u64,
    pub priority: Option<u32>,
    pub timeout_ms: u32,
    pub retries: u32,
    pub estimate_ms: u32,
    pub delay_ms: u64,
    pub durability: i32,
    pub idempotency_key: &'f [u8],
    pub discard_result: bool,
    pub array_id: u64,
    pub array_member: bool,
    pub array_index: u64,
    pub key_ttl_ms: u64,
    pub at_most_once: bool,
    pub automatic_key: bool,
    pub hold: bool,
    pub keep_ms: u64,
}

impl<'f> Spec<'f> {
    fn read(mut fields: Fields<'f>) -> Result<Self, Malformed> {
        let mut read = Self::default();
        while let Some((number, value)) = fields.take()? {
            match number {
                1 => read.kind = value.text()?,
                2 => read.payload = value.bytes()?,
                3 => read.payload_upload = value.fixed()?,
                4 => read.priority = Some(value.short()?),
                5 => read.timeout_ms = value.short()?,
                6 => read.retries = value.short()?,
                7 => read.estimate_ms = value.short()?,
                8 => read.delay_ms = value.number()?,
                9 => read.durability = value.choice()?,
                10 => read.idempotency_key = value.bytes()?,
                11 => read.discard_result = value.flag()?,
                12 => read.array_id = value.fixed()?,
                13 => read.array_member = value.flag()?,
                14 => read.array_index = value.number()?,
                15 => read.key_ttl_ms = value.number()?,
                16 => read.at_most_once = value.flag()?,
                17 => read.automatic_key = value.flag()?,
                18 => read.hold = value.flag()?,
                19 => read.keep_ms = value.number()?,
                _ => {}
            }
        }
        Ok(read)
    }
}

impl<'f> From<&'f v1::TaskSpec> for Spec<'f> {
    fn from(spec: &'f v1::TaskSpec) -> Self {
        Self {
            kind: &spec.kind,
            payload: &spec.payload,
            payload_upload: spec.payload_upload,
            priority: spec.priority,
            timeout_ms: spec.timeout_ms,
            retries: spec.retries,
            estimate_ms: spec.estimate_ms,
            delay_ms: spec.delay_ms,
            durability: spec.durability,
            idempotency_key: &spec.idempotency_key,
            discard_result: spec.discard_result,
            array_id: spec.array_id,
            array_member: spec.array_member,
            array_index: spec.array_index,
            key_ttl_ms: spec.key_ttl_ms,
            at_most_once: spec.at_most_once,
            automatic_key: spec.automatic_key,
            hold: spec.hold,
            keep_ms: spec.keep_ms,
        }
    }
}
