//! The command in the payload of an `exec` task, also when only the front of the payload is at hand.
//!
//! The payload is an encoded `ExecSpec` (see `proto/`), whose first field is the argument vector: a field
//! tag `0x0a`, a length, the bytes, again and again. Anything else ends the command. Any bytes are a
//! legal input. Tested at the end.

use crate::show;

const TAG_ARGUMENT: u8 = 0x0a;

/// The arguments at the front of a payload; the last one may be cut.
pub(crate) fn arguments(payload: &[u8]) -> Vec<&[u8]> {
    let mut arguments = Vec::new();
    let mut rest = payload;
    while let Some((&TAG_ARGUMENT, after_tag)) = rest.split_first() {
        let Some((length, after_length)) = length(after_tag) else {
            break;
        };
        let (argument, after) = match after_length.split_at_checked(length) {
            Some(parts) => parts,
            None => (after_length, &[][..]),
        };
        arguments.push(argument);
        rest = after;
    }
    arguments
}

/// The arguments on one line, quoted where a reader would take them for several.
pub(crate) fn command_line(payload: &[u8], characters_max: usize) -> String {
    let words = arguments(payload).into_iter().map(|argument| {
        let text = show::line(argument, characters_max);
        if text.is_empty() || text.contains([' ', '\'', '"']) {
            format!("'{text}'")
        } else {
            text
        }
    });
    let line = words.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(characters_max) {
        Some((at, _)) => format!("{}..", line.get(..at).unwrap_or_default()),
        None => line,
    }
}

/// A base-128 number and what follows it.
fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_u64;
    for (index, &byte) in bytes.iter().enumerate().take(5) {
        value |= u64::from(byte & 0x7F) << (index.checked_mul(7)?);
        if byte & 0x80 == 0 {
            let rest = bytes.get(index.checked_add(1)?..)?;
            return Some((usize::try_from(value).ok()?, rest));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_read_from_the_front_of_the_payload() {
        let payload = b"\x0a\x02sh\x0a\x02-c\x0a\x06echo a\x12\x04/tmp";
        assert_eq!(arguments(payload), [&b"sh"[..], b"-c", b"echo a"]);
        assert_eq!(command_line(payload, 80), "sh -c 'echo a'");
        assert_eq!(command_line(payload, 4), "sh -..");
    }

    #[test]
    fn cut_payload_gives_what_is_there() {
        assert_eq!(arguments(b"\x0a\x02sh\x0a\x7fabc"), [&b"sh"[..], b"abc"]);
        assert_eq!(arguments(b"\x0a"), Vec::<&[u8]>::new());
    }

    #[test]
    fn any_bytes_can_be_read() {
        for length in 0..64_u8 {
            let bytes: Vec<u8> = (0..length).map(|i| i.wrapping_mul(71) | 0x80).collect();
            let _ = command_line(&bytes, 20);
            let _ = command_line(&[&[TAG_ARGUMENT][..], &bytes].concat(), 20);
        }
        assert!(arguments(b"\x0a\xff\xff\xff\xff\xff\xff\x01abc").is_empty());
    }
}
