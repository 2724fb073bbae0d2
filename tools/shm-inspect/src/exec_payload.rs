//! The command in the payload of an `exec` task, also when only the front of the payload is at hand.
//!
//! The payload is an encoded `ExecSpec` (see `proto/`), whose first field is the argument vector: a field
//! tag `0x0a`, a length, the bytes, again and again. Anything else ends the command. Any bytes are a
//! legal input. Tested at the end.

use qtf_shown::command::CommandLine;

const TAG_ARGUMENT: u8 = 0x0a;

/// The arguments at the front of a payload, the last one may be cut; and what follows them, `None` when something is
/// missing.
fn arguments(payload: &[u8]) -> (Vec<&[u8]>, Option<&[u8]>) {
    let mut arguments = Vec::new();
    let mut rest = payload;
    while let Some((&TAG_ARGUMENT, after_tag)) = rest.split_first() {
        let Some((length, after_length)) = length(after_tag) else {
            return (arguments, None);
        };
        let Some((argument, after)) = after_length.split_at_checked(length) else {
            arguments.push(after_length);
            return (arguments, None);
        };
        arguments.push(argument);
        rest = after;
    }
    (arguments, Some(rest))
}

/// The command at the front of a payload of `payload_bytes`, as far as `bytes_max` of its words go.
pub(crate) fn command_line(front: &[u8], payload_bytes: u64, bytes_max: usize) -> CommandLine {
    let is_front = u64::try_from(front.len()).unwrap_or(u64::MAX) < payload_bytes;
    let (arguments, rest) = arguments(front);
    let mut is_cut = rest.is_none_or(|rest| rest.is_empty() && is_front);
    let mut words = Vec::new();
    let mut left = bytes_max;
    for argument in arguments {
        let Some(after) = left.checked_sub(argument.len()) else {
            words.push(head(argument, left).to_vec());
            is_cut = true;
            break;
        };
        words.push(argument.to_vec());
        left = after;
    }
    CommandLine::Words {
        words,
        mark: if is_cut { "..." } else { "" },
    }
}

/// The front of an argument, without a part of a character at its end.
fn head(argument: &[u8], bytes_max: usize) -> &[u8] {
    let head = argument.get(..bytes_max).unwrap_or(argument);
    match std::str::from_utf8(head) {
        Err(error) if error.error_len().is_none() => {
            head.get(..error.valid_up_to()).unwrap_or(head)
        }
        _ => head,
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

    fn shown(front: &[u8], payload_bytes: u64, bytes_max: usize) -> String {
        command_line(front, payload_bytes, bytes_max).to_string()
    }

    #[test]
    fn command_is_read_from_the_front_of_the_payload() {
        let payload = b"\x0a\x02sh\x0a\x02-c\x0a\x06echo a\x12\x04/tmp";
        assert_eq!(shown(payload, 22, 80), "sh -c 'echo a'");
        assert_eq!(shown(payload, 22, 10), "sh -c 'echo a'");
        assert_eq!(shown(payload, 22, 8), "sh -c echo ...");
        assert_eq!(shown(payload, 22, 3), "sh - ...");
        // What is missing behind the arguments is not missed.
        assert_eq!(shown(payload, 5_000, 80), "sh -c 'echo a'");
    }

    #[test]
    fn cut_payload_gives_what_is_there() {
        assert_eq!(shown(b"\x0a\x02sh\x0a\x7fabc", 9, 80), "sh abc ...");
        assert_eq!(shown(b"\x0a\x02sh", 4, 80), "sh");
        assert_eq!(shown(b"\x0a\x02sh", 9, 80), "sh ...");
        assert_eq!(shown(b"\x0a", 1, 80), "...");
    }

    #[test]
    fn long_argument_is_not_cut_within_a_character() {
        let payload = "\x0a\x04\u{e4}\u{e4}".as_bytes();
        assert_eq!(shown(payload, 6, 3), "'\u{e4}' ...");
    }

    #[test]
    fn any_bytes_can_be_read() {
        for length in 0..64_u8 {
            let bytes: Vec<u8> = (0..length).map(|i| i.wrapping_mul(71) | 0x80).collect();
            for bytes in [bytes.clone(), [&[TAG_ARGUMENT][..], &bytes].concat()] {
                let text = shown(&bytes, u64::from(length), 20);
                assert!(!text.contains(qtf_shown::text::is_hidden), "{text:?}");
            }
        }
        assert_eq!(shown(b"\x0a\xff\xff\xff\xff\xff\xff\x01abc", 11, 80), "...");
    }
}
