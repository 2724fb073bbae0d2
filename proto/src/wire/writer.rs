//! Fields, written one behind the other into memory that grows as it is needed.
//!
//! What is empty or 0 is left out, as the generated code does. Tested in `proto/tests/wire.rs`.

use prost::Message;
use prost::encoding::encode_varint;

const NUMBER: u32 = 0;
const FIXED: u32 = 1;
const BYTES: u32 = 2;

/// A message that is being written.
#[derive(Debug)]
pub(super) struct Writer<'m>(pub(super) &'m mut Vec<u8>);

impl Writer<'_> {
    /// A key, and the number or length behind it. Mostly each is a byte, and both are written at once.
    #[inline]
    fn key(&mut self, (field, wire_type): (u32, u32), number: u64) {
        let key = u64::from((field << 3) | wire_type);
        match (u8::try_from(key), u8::try_from(number)) {
            (Ok(key @ ..0x80), Ok(number @ ..0x80)) => self.0.extend_from_slice(&[key, number]),
            _ => {
                encode_varint(key, self.0);
                encode_varint(number, self.0);
            }
        }
    }

    #[inline]
    fn length(&mut self, field: u32, bytes: usize) {
        self.key((field, BYTES), u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// An integer, a value of an enum or a boolean.
    #[inline]
    pub(super) fn number(&mut self, field: u32, number: impl Into<u64>) {
        let number = number.into();
        if number != 0 {
            self.key((field, NUMBER), number);
        }
    }

    /// A value of an enum.
    #[inline]
    pub(super) fn choice(&mut self, field: u32, value: i32) {
        // As the protocol has it: a negative one is written as 64 bits.
        self.number(field, i64::from(value).cast_unsigned());
    }

    #[inline]
    pub(super) fn fixed(&mut self, field: u32, number: u64) {
        if number != 0 {
            let key = (field << 3) | FIXED;
            if let Ok(key @ ..0x80) = u8::try_from(key) {
                let mut all = [key; 9];
                all[1..].copy_from_slice(&number.to_le_bytes());
                self.0.extend_from_slice(&all);
            } else {
                encode_varint(key.into(), self.0);
                self.0.extend_from_slice(&number.to_le_bytes());
            }
        }
    }

    #[inline]
    pub(super) fn bytes(&mut self, field: u32, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.length(field, bytes.len());
            self.0.extend_from_slice(bytes);
        }
    }

    /// Bytes that `fill` writes where they are to stand; nothing, if it says that it cannot.
    #[inline]
    pub(super) fn bytes_by(
        &mut self,
        field: u32,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> bool,
    ) {
        if length == 0 {
            return;
        }
        let before = self.0.len();
        self.length(field, length);
        let begin = self.0.len();
        self.0.resize(begin + length, 0);
        if !fill(&mut self.0[begin..]) {
            self.0.truncate(before);
        }
    }

    /// Several integers.
    pub(super) fn numbers(&mut self, field: u32, numbers: &[u64]) {
        if numbers.is_empty() {
            return;
        }
        self.within(field, |writer| {
            for number in numbers {
                encode_varint(*number, writer.0);
            }
        });
    }

    /// A message within this one, also an empty one.
    #[inline]
    pub(super) fn within(&mut self, field: u32, write: impl FnOnce(&mut Writer<'_>)) {
        self.length(field, 0);
        let begin = self.0.len();
        write(self);
        let length = self.0.len() - begin;
        match u8::try_from(length) {
            Ok(byte @ ..0x80) => self.0[begin - 1] = byte,
            _ => self.make_room(begin, length),
        }
    }

    /// What was written from `begin` on is longer than the one byte before it can say.
    #[cold]
    fn make_room(&mut self, begin: usize, length: usize) {
        let mut said = Vec::with_capacity(10);
        encode_varint(u64::try_from(length).unwrap_or(u64::MAX), &mut said);
        self.0.splice(begin - 1..begin, said);
    }

    /// A message of the generated code.
    pub(super) fn message(&mut self, field: u32, message: &impl Message) {
        self.within(field, |writer| message.encode_raw(writer.0));
    }
}
