//! What is said to NATS: requests to a queue group and their replies, kept nowhere.

use qtf_benches::Failure;

use super::drive::{
    ClientWords, PAYLOAD_BYTES, RESULT_BYTES, WorkerWords, body, line, number, number_of,
    result_of, say_with_body,
};

pub(crate) struct Client;
/// A task that comes while nobody is subscribed is lost.
#[derive(Default)]
pub(crate) struct Worker {
    subscribed: bool,
}

const CONNECT: &[u8] = b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";

/// One thing that was said.
#[derive(Debug, PartialEq, Eq)]
enum Said<'a> {
    Message { reply: &'a [u8], body: &'a [u8] },
    Ping,
    Pong,
    Other,
}

fn parse(bytes: &[u8]) -> Result<Option<(usize, Said<'_>)>, Failure> {
    let Some((behind, text)) = line(bytes) else {
        return Ok(None);
    };
    let words: Vec<&[u8]> = text.split(|byte| *byte == b' ').collect();
    match &words[..] {
        [b"MSG", _subject, _number, between @ .., length] => {
            let reply = between.first().copied().unwrap_or_default();
            let whole = body(bytes, behind, number(Some(length))?);
            Ok(whole.map(|(end, body)| (end, Said::Message { reply, body })))
        }
        [b"PING"] => Ok(Some((behind, Said::Ping))),
        [b"PONG"] => Ok(Some((behind, Said::Pong))),
        [b"INFO" | b"+OK", ..] => Ok(Some((behind, Said::Other))),
        _ => Err(format!("NATS says {}", String::from_utf8_lossy(text)).into()),
    }
}

impl ClientWords for Client {
    const TWO_CONNECTIONS: bool = false;

    fn hello(&mut self, submissions: &mut Vec<u8>, _ends: &mut Vec<u8>) {
        submissions.extend_from_slice(CONNECT);
        submissions.extend_from_slice(b"SUB results 1\r\n");
    }

    fn submit(&mut self, payload: &[u8; PAYLOAD_BYTES], out: &mut Vec<u8>) {
        say_with_body(&format!("PUB tasks results {PAYLOAD_BYTES}"), payload, out);
    }

    fn hear(
        &mut self,
        bytes: &[u8],
        ended: &mut Vec<u64>,
        out: &mut Vec<u8>,
    ) -> Result<usize, Failure> {
        let Some((count, said)) = parse(bytes)? else {
            return Ok(0);
        };
        match said {
            Said::Message { body, .. } => ended.push(number_of(body)?),
            Said::Ping => out.extend_from_slice(b"PONG\r\n"),
            Said::Pong | Said::Other => {}
        }
        Ok(count)
    }
}

impl WorkerWords for Worker {
    fn hello(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(CONNECT);
        out.extend_from_slice(b"SUB tasks workers 1\r\nPING\r\n");
    }

    fn is_ready(&self) -> bool {
        self.subscribed
    }

    fn hear(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, Failure> {
        let Some((count, said)) = parse(bytes)? else {
            return Ok(0);
        };
        match said {
            Said::Message { reply, body } => {
                out.extend_from_slice(b"PUB ");
                out.extend_from_slice(reply);
                say_with_body(&format!(" {RESULT_BYTES}"), result_of(body)?, out);
            }
            Said::Ping => out.extend_from_slice(b"PONG\r\n"),
            Said::Pong => self.subscribed = true,
            Said::Other => {}
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_with_and_without_a_reply_are_read() {
        let whole = b"MSG tasks 1 results 2\r\nab\r\nPING\r\n";
        assert_eq!(parse(&whole[..24]).unwrap(), None);
        let said = Said::Message {
            reply: b"results",
            body: b"ab",
        };
        assert_eq!(parse(whole).unwrap(), Some((27, said)));
        let said = Said::Message {
            reply: b"",
            body: b"ab",
        };
        assert_eq!(
            parse(b"MSG results 1 2\r\nab\r\n").unwrap(),
            Some((21, said))
        );
        assert!(parse(b"-ERR 'Slow Consumer'\r\n").is_err());
    }
}
