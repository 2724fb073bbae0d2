//! What is said to redis: tasks in a list, a stream or a sorted set, results in a list; all take up to 128 at a time.
//!
//! From list and set a task is gone when it was taken; in the stream it stays until it is acknowledged. The set is in the order of
//! priorities, by chance from 0 to 255, and among equal ones in that of submission.

use qtf_benches::Failure;

use super::drive::{
    ClientWords, PAYLOAD_BYTES, WorkerWords, body, line, number, number_of, result_of,
    say_with_body,
};

pub(crate) struct Client {
    /// Otherwise tasks go into a list.
    pub(crate) stream: bool,
}

/// Tasks go into a sorted set; those that are submitted together in one command.
#[derive(Default)]
pub(crate) struct SortedClient {
    scores: Vec<String>,
    payloads: Vec<[u8; PAYLOAD_BYTES]>,
    submitted: u64,
}

/// Scores are exact below 2^53: 8 bits of priority above so many of the order of submission.
const ORDER_BITS: u32 = 44;

pub(crate) struct ListWorker;
pub(crate) struct SortedWorker;
pub(crate) struct StreamWorker;

const TAKE_TASKS: &[&[u8]] = &[b"BLMPOP", b"0", b"1", b"tasks", b"RIGHT", b"COUNT", b"128"];
const TAKE_BEST: &[&[u8]] = &[b"BZMPOP", b"0", b"1", b"tasks", b"MIN", b"COUNT", b"128"];
const TAKE_RESULTS: &[&[u8]] = &[
    b"BLMPOP", b"0", b"1", b"results", b"RIGHT", b"COUNT", b"128",
];
const READ_TASKS: &[&[u8]] = &[
    b"XREADGROUP",
    b"GROUP",
    b"workers",
    b"one",
    b"COUNT",
    b"128",
    b"BLOCK",
    b"0",
    b"STREAMS",
    b"stream",
    b">",
];

/// A command.
fn command(words: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        say_with_body(&format!("${}", word.len()), word, out);
    }
}

/// One reply: its bytes, and the strings in it in their order, however deep; `None` if it is not all there.
type Reply<'a> = Option<(usize, Vec<&'a [u8]>)>;

fn reply(bytes: &[u8]) -> Result<Reply<'_>, Failure> {
    let mut strings = Vec::new();
    Ok(element(bytes, &mut strings)?.map(|count| (count, strings)))
}

fn element<'a>(bytes: &'a [u8], strings: &mut Vec<&'a [u8]>) -> Result<Option<usize>, Failure> {
    let Some((behind, text)) = line(bytes) else {
        return Ok(None);
    };
    match text.split_first() {
        Some((b'+' | b':', _)) => Ok(Some(behind)),
        Some((b'$', length)) => {
            let Some((end, string)) = body(bytes, behind, number(Some(length))?) else {
                return Ok(None);
            };
            strings.push(string);
            Ok(Some(end))
        }
        Some((b'*', count)) => {
            let mut at = behind;
            for _ in 0..number(Some(count))? {
                match element(&bytes[at..], strings)? {
                    Some(length) => at += length,
                    None => return Ok(None),
                }
            }
            Ok(Some(at))
        }
        _ => Err(format!("redis says {}", String::from_utf8_lossy(text)).into()),
    }
}

impl ClientWords for Client {
    const TWO_CONNECTIONS: bool = true;

    fn hello(&mut self, _submissions: &mut Vec<u8>, ends: &mut Vec<u8>) {
        command(TAKE_RESULTS, ends);
    }

    fn submit(&mut self, payload: &[u8; PAYLOAD_BYTES], out: &mut Vec<u8>) {
        if self.stream {
            command(&[b"XADD", b"stream", b"*", b"p", payload], out);
        } else {
            command(&[b"LPUSH", b"tasks", payload], out);
        }
    }

    fn hear(
        &mut self,
        bytes: &[u8],
        ended: &mut Vec<u64>,
        out: &mut Vec<u8>,
    ) -> Result<usize, Failure> {
        hear_results(bytes, ended, out)
    }
}

fn hear_results(bytes: &[u8], ended: &mut Vec<u64>, out: &mut Vec<u8>) -> Result<usize, Failure> {
    let Some((count, strings)) = reply(bytes)? else {
        return Ok(0);
    };
    // The first is the name of the list.
    for result in strings.iter().skip(1) {
        ended.push(number_of(result)?);
    }
    command(TAKE_RESULTS, out);
    Ok(count)
}

impl ClientWords for SortedClient {
    const TWO_CONNECTIONS: bool = true;

    fn hello(&mut self, _submissions: &mut Vec<u8>, ends: &mut Vec<u8>) {
        command(TAKE_RESULTS, ends);
    }

    fn submit(&mut self, payload: &[u8; PAYLOAD_BYTES], _out: &mut Vec<u8>) {
        let behind = u64::from(fastrand::u8(..)) << ORDER_BITS;
        self.scores.push((behind | self.submitted).to_string());
        self.payloads.push(*payload);
        self.submitted += 1;
    }

    fn submitted(&mut self, out: &mut Vec<u8>) {
        let mut words: Vec<&[u8]> = vec![b"ZADD", b"tasks"];
        for (score, payload) in self.scores.iter().zip(&self.payloads) {
            words.extend([score.as_bytes(), payload]);
        }
        command(&words, out);
        self.scores.clear();
        self.payloads.clear();
    }

    fn hear(
        &mut self,
        bytes: &[u8],
        ended: &mut Vec<u64>,
        out: &mut Vec<u8>,
    ) -> Result<usize, Failure> {
        hear_results(bytes, ended, out)
    }
}

fn push_results(payloads: &[&[u8]], out: &mut Vec<u8>) -> Result<(), Failure> {
    let mut words: Vec<&[u8]> = vec![b"LPUSH", b"results"];
    for payload in payloads {
        words.push(result_of(payload)?);
    }
    command(&words, out);
    Ok(())
}

impl WorkerWords for ListWorker {
    fn hello(&mut self, out: &mut Vec<u8>) {
        command(TAKE_TASKS, out);
    }

    fn hear(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, Failure> {
        let Some((count, strings)) = reply(bytes)? else {
            return Ok(0);
        };
        // The reply to the push before has no strings.
        if !strings.is_empty() {
            push_results(&strings[1..], out)?;
            command(TAKE_TASKS, out);
        }
        Ok(count)
    }
}

impl WorkerWords for SortedWorker {
    fn hello(&mut self, out: &mut Vec<u8>) {
        command(TAKE_BEST, out);
    }

    fn hear(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, Failure> {
        let Some((count, strings)) = reply(bytes)? else {
            return Ok(0);
        };
        if !strings.is_empty() {
            // The name of the set, then of each task its payload and its score.
            let payloads: Vec<&[u8]> = strings[1..].chunks_exact(2).map(|task| task[0]).collect();
            push_results(&payloads, out)?;
            command(TAKE_BEST, out);
        }
        Ok(count)
    }
}

impl WorkerWords for StreamWorker {
    fn hello(&mut self, out: &mut Vec<u8>) {
        command(
            &[
                b"XGROUP",
                b"CREATE",
                b"stream",
                b"workers",
                b"0",
                b"MKSTREAM",
            ],
            out,
        );
        command(READ_TASKS, out);
    }

    fn hear(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, Failure> {
        let Some((count, strings)) = reply(bytes)? else {
            return Ok(0);
        };
        if !strings.is_empty() {
            // The name of the stream, then of each task its id, the name of the field, its payload.
            let tasks: Vec<&[&[u8]]> = strings[1..].chunks_exact(3).collect();
            let payloads: Vec<&[u8]> = tasks.iter().map(|task| task[2]).collect();
            push_results(&payloads, out)?;
            let mut done: Vec<&[u8]> = vec![b"XACK", b"stream", b"workers"];
            done.extend(tasks.iter().map(|task| task[0]));
            command(&done, out);
            command(READ_TASKS, out);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_that_is_not_all_there_is_waited_for() {
        let whole = b"*2\r\n$5\r\ntasks\r\n*1\r\n$2\r\nab\r\n:1\r\n";
        assert!(reply(&whole[..25]).unwrap().is_none());
        let (count, strings) = reply(whole).unwrap().unwrap();
        assert_eq!((count, strings), (27, vec![&b"tasks"[..], b"ab"]));
        assert!(reply(b"-ERR unknown command\r\n").is_err());
    }
}
