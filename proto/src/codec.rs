//! How messages become frames and frames messages, for clients and servers of all services.
//!
//! A frame is taken out of the buffer of its connection as a whole, without a copy, and then read: reading from the buffer itself would
//! cost more for each field than the field does. Fields of bytes are parts of the frame and keep it. For the same reason a message is written
//! to memory of its stream's own first, which is used again for the next, and copied from there in one piece.
//!
//! Tested at the end of the file.

use core::fmt;
use core::marker::PhantomData;

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// LIMIT: bytes that a stream keeps to write the next message to.
const KEPT_BYTES_MAX: usize = 64 << 10;

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
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
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

impl<T: Message> Encoder for FrameEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let written = write(&message, &mut self.written);
        buffer.reserve(written.len());
        buffer.put_slice(written);
        self.written.clear();
        self.written.shrink_to(KEPT_BYTES_MAX);
        Ok(())
    }
}

/// The frame of a message, in memory that is used again.
fn write<'m>(message: &impl Message, memory: &'m mut Vec<u8>) -> &'m [u8] {
    memory.clear();
    // Memory grows as it is needed: to ask for the length first would be to go through the message once more.
    message.encode_raw(memory);
    memory
}

/// Reads `U`.
pub struct FrameDecoder<U>(PhantomData<fn() -> U>);

impl<U> fmt::Debug for FrameDecoder<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FrameDecoder")
    }
}

impl<U: Message + Default> Decoder for FrameDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let frame = buffer.copy_to_bytes(buffer.remaining());
        message_in(frame).map(Some)
    }
}

/// The message that a frame is.
fn message_in<U: Message + Default>(frame: Bytes) -> Result<U, Status> {
    U::decode(frame).map_err(|error| Status::internal(error.to_string()))
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
            assert_eq!(write(&sent, &mut memory), sent.encode_to_vec());
        }
    }

    #[test]
    fn frame_that_is_no_message_is_an_error_of_who_sent_it_and_says_what_is_wrong() {
        let error = message_in::<Assignment>(Bytes::from_static(b"\x0a\xff")).unwrap_err();
        assert_eq!(error.code(), tonic::Code::Internal);
        assert!(!error.message().is_empty());
    }
}
