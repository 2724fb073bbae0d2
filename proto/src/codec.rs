//! How messages become frames and frames messages, for clients and servers of all services.
//!
//! A frame is taken out of the buffer of its connection as a whole, without a copy, and then read: reading from the buffer itself would
//! cost more for each field than the field does. Fields of bytes are parts of the frame and keep it. For the same reason a message is written
//! to memory of its stream's own first, which is used again for the next, and copied from there in one piece. What comes and goes with every
//! task the daemon reads and writes without the generated messages in between: [`crate::wire`].
//!
//! Tested at the end of the file.

use core::fmt;
use core::marker::PhantomData;

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::wire::{Frame, Malformed, Report, SubmitBatch};

/// LIMIT: bytes that a stream keeps to write the next message to.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// What can be written to a frame.
pub trait Outgoing: Send + 'static {
    /// Its frame; it may lie in this memory, which is used again.
    fn frame<'m>(&'m self, memory: &'m mut Vec<u8>) -> &'m [u8];
}

impl<M: Message + 'static> Outgoing for M {
    fn frame<'m>(&'m self, memory: &'m mut Vec<u8>) -> &'m [u8] {
        memory.clear();
        // Memory grows as it is needed: to ask for the length first would be to go through the message once more.
        self.encode_raw(memory);
        memory
    }
}

impl<M: 'static> Outgoing for Frame<M> {
    fn frame<'m>(&'m self, _memory: &'m mut Vec<u8>) -> &'m [u8] {
        self.as_bytes()
    }
}

/// What can be read from a frame.
pub trait Incoming: Sized + Send + 'static {
    /// Reads a whole frame.
    ///
    /// # Errors
    /// It is none of these; the text says why.
    fn of_frame(frame: Bytes) -> Result<Self, String>;
}

impl<M: Message + Default + 'static> Incoming for M {
    fn of_frame(frame: Bytes) -> Result<Self, String> {
        M::decode(frame).map_err(|error| error.to_string())
    }
}

impl Incoming for SubmitBatch {
    fn of_frame(frame: Bytes) -> Result<Self, String> {
        Self::read(frame).map_err(refused)
    }
}

impl Incoming for Report {
    fn of_frame(frame: Bytes) -> Result<Self, String> {
        Self::read(frame).map_err(refused)
    }
}

/// A peer is told the same whoever has read its frame: that it could not be decoded, and why.
fn refused(malformed: Malformed) -> String {
    format!("failed to decode the message: {malformed}")
}

/// Sends `T`, receives `U`.
pub struct FrameCodec<T, U>(PhantomData<fn(T) -> U>);

impl<T, U> Default for FrameCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> fmt::Debug for FrameCodec<T, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FrameCodec")
    }
}

impl<T, U> Codec for FrameCodec<T, U>
where
    T: Outgoing,
    U: Incoming,
{
    type Encode = T;
    type Decode = U;
    type Encoder = FrameEncoder<T>;
    type Decoder = FrameDecoder<U>;

    fn encoder(&mut self) -> FrameEncoder<T> {
        FrameEncoder {
            written: Vec::new(),
            message: PhantomData,
        }
    }

    fn decoder(&mut self) -> FrameDecoder<U> {
        FrameDecoder(PhantomData)
    }
}

/// Writes `T`.
pub struct FrameEncoder<T> {
    /// Empty between two messages.
    written: Vec<u8>,
    message: PhantomData<fn(T)>,
}

impl<T> fmt::Debug for FrameEncoder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FrameEncoder")
    }
}

impl<T: Outgoing> Encoder for FrameEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let written = message.frame(&mut self.written);
        buffer.reserve(written.len());
        buffer.put_slice(written);
        self.written.clear();
        self.written.shrink_to(KEPT_BYTES_MAX);
        Ok(())
    }
}

/// Reads `U`.
pub struct FrameDecoder<U>(PhantomData<fn() -> U>);

impl<U> fmt::Debug for FrameDecoder<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FrameDecoder")
    }
}

impl<U: Incoming> Decoder for FrameDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let frame = buffer.copy_to_bytes(buffer.remaining());
        message_in(frame).map(Some)
    }
}

/// The message that a frame is.
fn message_in<U: Incoming>(frame: Bytes) -> Result<U, Status> {
    U::of_frame(frame).map_err(Status::internal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::Assignment;

    #[test]
    fn bytes_of_a_message_are_parts_of_its_frame() {
        let sent = Assignment {
            kind: "echo".to_owned(),
            payload: Bytes::from_static(b"not copied"),
            ..Assignment::default()
        };
        let frame = Bytes::from(sent.encode_to_vec());
        let read: Assignment = message_in(frame.clone()).unwrap();
        assert_eq!(read, sent);
        assert!(frame.as_ptr_range().contains(&read.payload.as_ptr()));
    }

    #[test]
    fn message_is_written_whole_also_where_a_longer_one_was_before() {
        let mut memory = Vec::new();
        for kind in ["a longer name of a kind", "echo", ""] {
            let sent = Assignment {
                kind: kind.to_owned(),
                payload: Bytes::from_static(b"payload"),
                array_index: u64::MAX,
                ..Assignment::default()
            };
            assert_eq!(sent.frame(&mut memory), sent.encode_to_vec());
        }
    }

    #[test]
    fn frame_that_is_no_message_is_an_error_of_who_sent_it_and_says_what_is_wrong() {
        let frame = Bytes::from_static(b"\x0a\xff");
        let errors = [
            message_in::<Assignment>(frame.clone()).unwrap_err(),
            message_in::<SubmitBatch>(frame.clone()).unwrap_err(),
            message_in::<Report>(frame).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.code(), tonic::Code::Internal);
            assert!(error.message().starts_with("failed to decode"), "{error:?}");
        }
    }
}
