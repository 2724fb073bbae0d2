//! A message as the fields that it consists of, one after the other, without a copy.
//!
//! Takes and refuses the same bytes as the generated code does. Tested in `proto/tests/wire.rs`.

use thiserror::Error;

/// LIMIT: groups within groups, and messages within messages; that of the generated code.
const LEVELS_MAX: u32 = 100;
/// Bytes of the longest number.
const VARINT_BYTES_MAX: usize = 10;

/// What is wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Malformed {
    /// The length of a field is beyond the end.
    #[error("a field goes on behind the end of its message")]
    CutOff,
    /// More than 64 bits, or no last byte.
    #[error("a number has no end")]
    Number,
    /// Its number is 0 or too large, or its type is none.
    #[error("a field has a number or a type that no field has")]
    Field,
    /// A known field of another type.
    #[error("a field is not of the type that it must be of")]
    Type,
    /// Not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// It was not begun.
    #[error("a group ends that did not begin")]
    Group,
    /// A message within it, of those that come seldom.
    #[error("a message within it is malformed")]
    Within,
    /// Too many.
    #[error("more than {LEVELS_MAX} groups and messages lie within each other")]
    Levels,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'f> {
    /// All integers, enums and booleans.
    Number(u64),
    /// Eight bytes.
    Fixed(u64),
    /// Bytes, texts, messages and packed numbers.
    Bytes(&'f [u8]),
    /// What no field of ours holds.
    Other,
}

/// What is left of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'f> {
    rest: &'f [u8],
    levels: u32,
}

impl<'f> Fields<'f> {
    /// Those of a whole frame.
    pub(super) const fn of(frame: &'f [u8]) -> Self {
        Self {
            rest: frame,
            levels: LEVELS_MAX,
        }
    }

    /// Those of a message within this one.
    pub(super) fn within(&self, value: Value<'f>) -> Result<Self, Malformed> {
        Ok(Self {
            rest: value.bytes()?,
            levels: self.levels.saturating_sub(1),
        })
    }

    /// How many bytes are left.
    pub(super) const fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next field: its number and what it holds.
    ///
    /// Always inlined: what comes back is as many words as a call would hand over through memory, written byte by byte and read back
    /// as whole ones, for which the processor has to wait. That took a sixth of the daemon's time with many tasks in flight.
    #[inline(always)]
    pub(super) fn take(&mut self) -> Result<Option<(u32, Value<'f>)>, Malformed> {
        let Some((key, rest)) = key_of(self.rest)? else {
            return Ok(None);
        };
        let (value, rest) = match key.wire_type {
            0 => number_of(rest).map(|(number, rest)| (Value::Number(number), rest)),
            1 => {
                array_of(rest).map(|(fixed, rest)| (Value::Fixed(u64::from_le_bytes(fixed)), rest))
            }
            2 => bytes_of(rest).map(|(bytes, rest)| (Value::Bytes(bytes), rest)),
            _ => behind(key, rest, self.levels).map(|rest| (Value::Other, rest)),
        }?;
        self.rest = rest;
        Ok(Some((key.number, value)))
    }
}

impl<'f> Value<'f> {
    #[inline]
    pub(super) const fn number(self) -> Result<u64, Malformed> {
        match self {
            Value::Number(number) => Ok(number),
            Value::Fixed(_) | Value::Bytes(_) | Value::Other => Err(Malformed::Type),
        }
    }

    /// The low half of a number, as the generated code has it.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the protocol cuts what is too long for a field"
    )]
    pub(super) const fn short(self) -> Result<u32, Malformed> {
        match self.number() {
            Ok(number) => Ok(number as u32),
            Err(malformed) => Err(malformed),
        }
    }

    /// The number of a value of an enum, be it known or not.
    #[inline]
    pub(super) fn choice(self) -> Result<i32, Malformed> {
        Ok(self.short()?.cast_signed())
    }

    #[inline]
    pub(super) fn flag(self) -> Result<bool, Malformed> {
        Ok(self.number()? != 0)
    }

    #[inline]
    pub(super) const fn fixed(self) -> Result<u64, Malformed> {
        match self {
            Value::Fixed(fixed) => Ok(fixed),
            Value::Number(_) | Value::Bytes(_) | Value::Other => Err(Malformed::Type),
        }
    }

    #[inline]
    pub(super) const fn bytes(self) -> Result<&'f [u8], Malformed> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Number(_) | Value::Fixed(_) | Value::Other => Err(Malformed::Type),
        }
    }

    #[inline]
    pub(super) fn text(self) -> Result<&'f str, Malformed> {
        core::str::from_utf8(self.bytes()?).map_err(|_| Malformed::Text)
    }

    /// A field of eight bytes that may be there many times, packed or not: all that are here.
    pub(super) fn fixed_all(self) -> Result<impl Iterator<Item = u64> + Clone + 'f, Malformed> {
        let (single, packed) = match self {
            Value::Fixed(fixed) => (Some(fixed), &[][..]),
            Value::Bytes(bytes) => match bytes.as_chunks::<8>() {
                (chunks, []) => (None, chunks),
                _ => return Err(Malformed::CutOff),
            },
            Value::Number(_) | Value::Other => return Err(Malformed::Type),
        };
        let packed = packed.iter().map(|chunk| u64::from_le_bytes(*chunk));
        Ok(single.into_iter().chain(packed))
    }
}

/// Number and type of a field.
#[derive(Debug, Clone, Copy)]
struct Key {
    number: u32,
    wire_type: u32,
}

/// Something, and what stands behind it.
type And<'f, T> = Result<(T, &'f [u8]), Malformed>;

#[inline(always)]
fn key_of(rest: &[u8]) -> Result<Option<(Key, &[u8])>, Malformed> {
    let (key, rest) = match rest {
        [] => return Ok(None),
        [key @ ..0x80, rest @ ..] => (u32::from(*key), rest),
        _ => {
            let (key, rest) = long_number_of(rest)?;
            (u32::try_from(key).map_err(|_| Malformed::Field)?, rest)
        }
    };
    let key = Key {
        number: key >> 3,
        wire_type: key & 7,
    };
    if key.number == 0 || key.wire_type > 5 {
        return Err(Malformed::Field);
    }
    Ok(Some((key, rest)))
}

#[inline(always)]
fn number_of(rest: &[u8]) -> And<'_, u64> {
    match rest {
        [byte @ ..0x80, rest @ ..] => Ok((u64::from(*byte), rest)),
        _ => long_number_of(rest),
    }
}

#[inline(never)]
fn long_number_of(rest: &[u8]) -> And<'_, u64> {
    let mut number = 0_u64;
    for (place, byte) in rest.iter().take(VARINT_BYTES_MAX).enumerate() {
        let is_too_large = place + 1 == VARINT_BYTES_MAX && *byte > 1;
        if is_too_large {
            break;
        }
        number |= u64::from(byte & 0x7F) << (7 * place);
        if *byte < 0x80 {
            return Ok((number, &rest[place + 1..]));
        }
    }
    Err(Malformed::Number)
}

#[inline(always)]
fn array_of<const N: usize>(rest: &[u8]) -> And<'_, [u8; N]> {
    let (array, rest) = rest.split_first_chunk().ok_or(Malformed::CutOff)?;
    Ok((*array, rest))
}

#[inline(always)]
fn bytes_of(rest: &[u8]) -> And<'_, &[u8]> {
    let (length, rest) = number_of(rest)?;
    let length = usize::try_from(length).map_err(|_| Malformed::CutOff)?;
    rest.split_at_checked(length).ok_or(Malformed::CutOff)
}

/// What stands behind a field whose key was taken.
#[cold]
fn behind(key: Key, rest: &[u8], levels: u32) -> Result<&[u8], Malformed> {
    let levels_within = levels.checked_sub(1).ok_or(Malformed::Levels)?;
    match key.wire_type {
        0 => number_of(rest).map(|(_, rest)| rest),
        1 => array_of::<8>(rest).map(|(_, rest)| rest),
        2 => bytes_of(rest).map(|(_, rest)| rest),
        3 => {
            let mut rest = rest;
            loop {
                let (within, behind_it) = key_of(rest)?.ok_or(Malformed::CutOff)?;
                if within.wire_type != 4 {
                    rest = behind(within, behind_it, levels_within)?;
                } else if within.number == key.number {
                    return Ok(behind_it);
                } else {
                    return Err(Malformed::Group);
                }
            }
        }
        5 => array_of::<4>(rest).map(|(_, rest)| rest),
        _ => Err(Malformed::Group),
    }
}
