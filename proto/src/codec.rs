//! How messages become frames and frames messages, for clients and servers of all services.
//!
//! A frame is taken out of the buffer of its connection as a whole, without a copy, and then read: reading from the buffer itself would
//! cost more for each field than the field does. Fields of bytes are parts of the frame and keep it.
//!
//! Tested at the end of the file.

use core::fmt;
use core::marker::PhantomData;

use bytes::{Buf as _, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

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
    type Encoder = ProstEncoder<T>;
    type Decoder = FrameDecoder<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> FrameDecoder<U> {
        FrameDecoder(PhantomData)
    }
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
    fn frame_that_is_no_message_is_an_error_of_who_sent_it_and_says_what_is_wrong() {
        let error = message_in::<Assignment>(Bytes::from_static(b"\x0a\xff")).unwrap_err();
        assert_eq!(error.code(), tonic::Code::Internal);
        assert!(!error.message().is_empty());
    }
}
