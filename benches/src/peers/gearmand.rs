//! What is said to gearmand: foreground jobs in its binary protocol; a worker asks for as many as it was given.

use qtf_benches::Failure;

use super::drive::{ClientWords, PAYLOAD_BYTES, WorkerWords, number_of, result_of};

const CAN_DO: u32 = 1;
const PRE_SLEEP: u32 = 4;
const NOOP: u32 = 6;
const SUBMIT_JOB: u32 = 7;
const JOB_CREATED: u32 = 8;
const GRAB_JOB: u32 = 9;
const NO_JOB: u32 = 10;
const JOB_ASSIGN: u32 = 11;
const WORK_COMPLETE: u32 = 13;
const HEAD_BYTES: usize = 12;
/// LIMIT: jobs that a worker has asked for.
const GRABS_MAX: usize = 64;

pub(crate) struct Client;

pub(crate) struct Worker {
    /// Asked for and not answered.
    asked: usize,
    /// Jobs since it was last told that there is none: so many are asked for at a time, one if they come one by one.
    streak: usize,
}

fn packet(kind: u32, parts: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(b"\0REQ");
    out.extend_from_slice(&kind.to_be_bytes());
    let length: usize =
        parts.iter().map(|part| part.len()).sum::<usize>() + parts.len().saturating_sub(1);
    out.extend_from_slice(&u32::try_from(length).unwrap_or(0).to_be_bytes());
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            out.push(0);
        }
        out.extend_from_slice(part);
    }
}

/// One packet: its kind and its body; `None` if it is not all there.
fn parse(bytes: &[u8]) -> Result<Option<(u32, &[u8])>, Failure> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
        return Ok(None);
    };
    let [a, b, c, d, kind @ .., l0, l1, l2, l3] = *head;
    if [a, b, c, d] != *b"\0RES" {
        return Err("gearmand says something else than a packet".into());
    }
    let length = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3]))?;
    Ok(rest
        .get(..length)
        .map(|body| (u32::from_be_bytes(kind), body)))
}

/// The parts of a body; the last may hold zeros.
fn parts<const N: usize>(body: &[u8]) -> Result<[&[u8]; N], Failure> {
    let parts: Vec<&[u8]> = body.splitn(N, |byte| *byte == 0).collect();
    parts
        .try_into()
        .map_err(|_| "gearmand sent a packet with too few parts".into())
}

impl ClientWords for Client {
    const TWO_CONNECTIONS: bool = false;

    fn hello(&mut self, _submissions: &mut Vec<u8>, _ends: &mut Vec<u8>) {}

    fn submit(&mut self, payload: &[u8; PAYLOAD_BYTES], out: &mut Vec<u8>) {
        packet(SUBMIT_JOB, &[b"noop", b"", payload], out);
    }

    fn hear(
        &mut self,
        bytes: &[u8],
        ended: &mut Vec<u64>,
        _out: &mut Vec<u8>,
    ) -> Result<usize, Failure> {
        let Some((kind, body)) = parse(bytes)? else {
            return Ok(0);
        };
        match kind {
            JOB_CREATED => {}
            WORK_COMPLETE => {
                let [_handle, result] = parts(body)?;
                ended.push(number_of(result)?);
            }
            other => return Err(format!("gearmand sent the client packet {other}").into()),
        }
        Ok(HEAD_BYTES + body.len())
    }
}

impl Worker {
    pub(crate) fn new() -> Self {
        Worker {
            asked: 0,
            streak: 0,
        }
    }

    fn ask(&mut self, out: &mut Vec<u8>) {
        let wanted = self.streak.clamp(1, GRABS_MAX);
        for _ in self.asked..wanted {
            packet(GRAB_JOB, &[], out);
        }
        self.asked = self.asked.max(wanted);
    }
}

impl WorkerWords for Worker {
    fn hello(&mut self, out: &mut Vec<u8>) {
        packet(CAN_DO, &[b"noop"], out);
        self.ask(out);
    }

    fn hear(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, Failure> {
        let Some((kind, body)) = parse(bytes)? else {
            return Ok(0);
        };
        match kind {
            NO_JOB => {
                self.asked = self.asked.saturating_sub(1);
                self.streak = 0;
                if self.asked == 0 {
                    packet(PRE_SLEEP, &[], out);
                }
            }
            NOOP => self.ask(out),
            JOB_ASSIGN => {
                self.asked = self.asked.saturating_sub(1);
                let [handle, _function, payload] = parts(body)?;
                packet(WORK_COMPLETE, &[handle, result_of(payload)?], out);
                self.streak += 1;
                self.ask(out);
            }
            other => return Err(format!("gearmand sent the worker packet {other}").into()),
        }
        Ok(HEAD_BYTES + body.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_written_and_read() {
        let mut bytes = Vec::new();
        packet(WORK_COMPLETE, &[b"H:1", b"result"], &mut bytes);
        bytes[..4].copy_from_slice(b"\0RES");
        let (kind, body) = parse(&bytes).unwrap().unwrap();
        assert_eq!((kind, body), (WORK_COMPLETE, &b"H:1\0result"[..]));
        assert_eq!(parts::<2>(body).unwrap(), [&b"H:1"[..], b"result"]);
        assert!(parse(&bytes[..bytes.len() - 1]).unwrap().is_none());
        assert!(parse(b"GET / HTTP/1.1\r\n").is_err());
    }
}
