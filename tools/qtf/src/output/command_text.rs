//! The command in a payload.
//!
//! A payload shown by the daemon may be cut off; what is whole of it is still shown. Nothing here
//! trusts the bytes: they come from any client. Tested at the end of this file.

use prost::encoding::{WireType, decode_key, decode_varint};
use qtf_shown::command::CommandLine;

/// The command of an `exec` task, or the name of the handler for other kinds. `preview` holds the
/// first bytes of a payload of `payload_bytes`.
pub(crate) fn command_of_payload(kind: &str, preview: &[u8], payload_bytes: u64) -> CommandLine {
    if kind != "exec" {
        return CommandLine::Text(format!("{kind} ({payload_bytes} bytes)"));
    }
    let cut = u64::try_from(preview.len()).unwrap_or(u64::MAX) < payload_bytes;
    let (words, whole) = leading_arguments(preview);
    CommandLine::Words {
        words: words.into_iter().map(<[u8]>::to_vec).collect(),
        mark: match (whole, cut) {
            (true, _) => "",
            (false, true) => "...",
            (false, false) => "(damaged)",
        },
    }
}

/// The values of field 1 at the start of an encoded `ExecSpec`, and whether all of them were seen.
fn leading_arguments(mut encoded: &[u8]) -> (Vec<&[u8]>, bool) {
    let mut words = Vec::new();
    while !encoded.is_empty() {
        let Ok((field, wire_type)) = decode_key(&mut encoded) else {
            return (words, false);
        };
        if (field, wire_type) != (1, WireType::LengthDelimited) {
            // The fields that follow are not part of the command.
            return (words, true);
        }
        let length = decode_varint(&mut encoded)
            .ok()
            .and_then(|length| usize::try_from(length).ok());
        let Some((word, rest)) = length.and_then(|length| encoded.split_at_checked(length)) else {
            return (words, false);
        };
        words.push(word);
        encoded = rest;
    }
    (words, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use qtf_proto::v1::ExecSpec;

    fn payload(words: &[&[u8]]) -> Vec<u8> {
        let argv = words
            .iter()
            .map(|word| bytes::Bytes::copy_from_slice(word))
            .collect();
        ExecSpec {
            argv,
            working_directory: "/tmp".into(),
            ..ExecSpec::default()
        }
        .encode_to_vec()
    }

    fn shown(words: &[&[u8]]) -> String {
        let payload = payload(words);
        let bytes = u64::try_from(payload.len()).unwrap();
        command_of_payload("exec", &payload, bytes).to_string()
    }

    #[test]
    fn arguments_are_quoted_as_a_shell_reads_them() {
        assert_eq!(
            shown(&[b"ls", b"-l", b"a b", b"it's", b""]),
            r"ls -l 'a b' 'it'\''s' ''"
        );
        assert_eq!(shown(&[b"x", b"a\nb", b"\xff"]), r"x $'a\nb' $'\xff'");
    }

    #[test]
    fn a_cut_payload_shows_what_is_whole() {
        let payload = payload(&[b"echo", b"one", b"two"]);
        let length = u64::try_from(payload.len()).unwrap();
        assert_eq!(
            command_of_payload("exec", &payload[..13], length).to_string(),
            "echo one ..."
        );
        assert_eq!(command_of_payload("exec", b"", length).to_string(), "");
    }

    #[test]
    fn any_bytes_are_shown_without_a_panic() {
        for bytes in [
            &b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"[..],
            b"\xff\xff",
            b"\x0a\x05ab",
        ] {
            assert_eq!(
                command_of_payload("exec", bytes, 0).to_string(),
                "(damaged)"
            );
        }
    }

    #[test]
    fn handlers_are_shown_by_name() {
        assert_eq!(
            command_of_payload("echo", b"hello", 5).to_string(),
            "echo (5 bytes)"
        );
    }
}
