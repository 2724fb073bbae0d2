//! Commands as people can read them and paste them into a shell.
//!
//! A payload shown by the daemon may be cut off; what is whole of it is still shown. Nothing here
//! trusts the bytes: they come from any client. Tested at the end of this file.

use prost::encoding::{WireType, decode_key, decode_varint};

/// The text with control characters replaced by escapes.
pub(crate) fn visible(text: &str) -> String {
    let escape = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(escape).collect()
}

/// The command of an `exec` task, or the name of the handler for other kinds. `preview` holds the
/// first bytes of a payload of `payload_bytes`.
pub(crate) fn command_of_payload(kind: &str, preview: &[u8], payload_bytes: u64) -> String {
    if kind != "exec" {
        return format!("{kind} ({payload_bytes} bytes)");
    }
    let cut = u64::try_from(preview.len()).unwrap_or(u64::MAX) < payload_bytes;
    let (words, whole) = leading_arguments(preview);
    let mut shown: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    if !whole && cut {
        shown.push("...".to_owned());
    } else if !whole {
        shown.push("(damaged)".to_owned());
    }
    shown.join(" ")
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

/// One argument in the form in which a shell would read it back.
pub(crate) fn quoted(word: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(byte);
    match std::str::from_utf8(word) {
        Ok(text) if !word.is_empty() && word.iter().all(plain) => text.to_owned(),
        Ok(text) if !text.chars().any(char::is_control) => {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
        _ => format!(
            "$'{}'",
            word.iter()
                .map(|byte| ansi_escaped(*byte))
                .collect::<String>()
        ),
    }
}

fn ansi_escaped(byte: u8) -> String {
    match byte {
        b'\n' => r"\n".to_owned(),
        b'\t' => r"\t".to_owned(),
        b'\r' => r"\r".to_owned(),
        b'\'' => r"\'".to_owned(),
        b'\\' => r"\\".to_owned(),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    }
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
        command_of_payload("exec", &payload, u64::try_from(payload.len()).unwrap())
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
            command_of_payload("exec", &payload[..13], length),
            "echo one ..."
        );
        assert_eq!(command_of_payload("exec", b"", length), "");
    }

    #[test]
    fn any_bytes_are_shown_without_a_panic() {
        for bytes in [
            &b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"[..],
            b"\xff\xff",
            b"\x0a\x05ab",
        ] {
            assert_eq!(command_of_payload("exec", bytes, 0), "(damaged)");
        }
    }

    #[test]
    fn handlers_are_shown_by_name() {
        assert_eq!(command_of_payload("echo", b"hello", 5), "echo (5 bytes)");
    }
}
