//! What is said to beanstalkd: tasks in one tube, results in another; both are deleted when they were taken.

use qtf_benches::Failure;

use super::drive::{
    ClientWords, PAYLOAD_BYTES, RESULT_BYTES, WorkerWords, body, line, number, number_of,
    result_of, say_with_body,
};

pub(crate) struct Client;
pub(crate) struct Worker;

/// A reserved job: bytes of the whole answer, its id as it was written, its body.
type Job<'a> = (usize, &'a [u8], &'a [u8]);

/// One answer; `Ok(None)` if it is not all there, a job without a body for any other answer.
fn answer(bytes: &[u8]) -> Result<Option<Job<'_>>, Failure> {
    let Some((behind, text)) = line(bytes) else {
        return Ok(None);
    };
    let mut words = text.split(|byte| *byte == b' ');
    match words.next() {
        Some(b"RESERVED") => {
            let id = words.next().unwrap_or_default();
            let whole = body(bytes, behind, number(words.next())?);
            Ok(whole.map(|(end, body)| (end, id, body)))
        }
        Some(b"INSERTED" | b"DELETED" | b"USING" | b"WATCHING") => Ok(Some((behind, b"", b""))),
        _ => Err(format!("beanstalkd says {}", String::from_utf8_lossy(text)).into()),
    }
}

impl ClientWords for Client {
    const TWO_CONNECTIONS: bool = true;

    fn hello(&mut self, submissions: &mut Vec<u8>, ends: &mut Vec<u8>) {
        submissions.extend_from_slice(b"use tasks\r\n");
        ends.extend_from_slice(b"watch results\r\nreserve\r\n");
    }

    fn submit(&mut self, payload: &[u8; PAYLOAD_BYTES], out: &mut Vec<u8>) {
        say_with_body(&format!("put 100 0 600 {PAYLOAD_BYTES}"), payload, out);
    }

    fn hear(
        &mut self,
        bytes: &[u8],
        ended: &mut Vec<u64>,
        out: &mut Vec<u8>,
    ) -> Result<usize, Failure> {
        let Some((count, id, body)) = answer(bytes)? else {
            return Ok(0);
        };
        if !id.is_empty() {
            ended.push(number_of(body)?);
            out.extend_from_slice(b"delete ");
            out.extend_from_slice(id);
            out.extend_from_slice(b"\r\nreserve\r\n");
        }
        Ok(count)
    }
}

impl WorkerWords for Worker {
    fn hello(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"use results\r\nwatch tasks\r\nreserve\r\n");
    }

    fn hear(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, Failure> {
        let Some((count, id, body)) = answer(bytes)? else {
            return Ok(0);
        };
        if !id.is_empty() {
            let put = format!("put 100 0 600 {RESULT_BYTES}");
            say_with_body(&put, result_of(body)?, out);
            out.extend_from_slice(b"delete ");
            out.extend_from_slice(id);
            out.extend_from_slice(b"\r\nreserve\r\n");
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_is_not_all_there_is_waited_for() {
        let whole = b"RESERVED 12 4\r\nbody\r\nDELETED\r\n";
        assert_eq!(answer(&whole[..20]).unwrap(), None);
        assert_eq!(answer(whole).unwrap(), Some((21, &b"12"[..], &b"body"[..])));
        assert!(answer(b"OUT_OF_MEMORY\r\n").is_err());
    }
}
