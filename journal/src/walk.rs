//! Going through the files of a journal, in order, up to its end.
//!
//! A file goes on where the one before it stopped, unless its header says that a new daemon began it after record E: then what
//! the earlier files hold beyond E was cut, for ever, and reading goes from E to that file. Tested in `journal/tests/`.

use crate::Lsn;
use crate::error::{JournalError, Why};
use crate::file::{FileKey, HEADER_BYTES, Header, JournalConfig};
use crate::record::frame::{self, BadFrame, Frame};
use crate::scan::{Scanner, proof_of};
use crate::storage::{Mapped, Storage};

/// One log with its header.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) key: FileKey,
    pub(crate) name: String,
    pub(crate) header: Header,
    /// Lsn of its first record, or the one it would have by the header.
    pub(crate) first: Option<Lsn>,
}

/// All logs, by sequence.
pub(crate) fn logs(
    storage: &dyn Storage,
    config: Option<&JournalConfig>,
) -> Result<Vec<Log>, JournalError> {
    let names = storage
        .list()
        .map_err(JournalError::io("list", "the journal's directory"))?;
    let mut logs = Vec::new();
    for name in names {
        if let Some(key) = FileKey::of_name(&name) {
            logs.push(read_log(storage, key, name)?);
        }
    }
    logs.sort_by_key(|log| log.key);
    for log in &logs {
        check_log(log, config, logs.first().map(|first| first.header.lineage))?;
    }
    Ok(logs)
}

fn read_log(storage: &dyn Storage, key: FileKey, name: String) -> Result<Log, JournalError> {
    let file = storage
        .open(&name)
        .map_err(JournalError::io("open", &name))?;
    // The header and the head of the first record.
    let mut start = vec![0; HEADER_BYTES + frame::RECORD_BYTES_MAX];
    let read = file
        .read_at(0, &mut start)
        .map_err(JournalError::io("read", &name))?;
    start.truncate(read);
    let header = Header::decode(&name, &start)?;
    let damaged = |why| Err(JournalError::damaged(&name, 0, Lsn::NONE, Why::Header(why)));
    if header.is_snapshot {
        return damaged("it is that of a snapshot");
    }
    if header.number != key.0 {
        return damaged("it belongs to another file");
    }
    let len = file.len().map_err(JournalError::io("read", &name))?;
    if len != header.file_bytes {
        let why = format!(
            "the file has {len} bytes; its header says {}, and it had all of them before it was used",
            header.file_bytes
        );
        let offset = usize::try_from(len).unwrap_or(usize::MAX);
        return Err(JournalError::damaged(
            &name,
            offset,
            Lsn::NONE,
            Why::Gap(why),
        ));
    }
    let records = start.get(HEADER_BYTES..).unwrap_or_default();
    let first = match header.follows {
        Some((follows, _)) => Some(follows.next()),
        None => frame::parse(records, header.epoch, None)
            .ok()
            .map(|frame| frame.lsn),
    };
    Ok(Log {
        key,
        name,
        header,
        first,
    })
}

fn check_log(
    log: &Log,
    config: Option<&JournalConfig>,
    lineage: Option<u64>,
) -> Result<(), JournalError> {
    if lineage.is_some_and(|lineage| lineage != log.header.lineage) {
        let why = Why::Header("it belongs to another journal than the first file");
        return Err(JournalError::damaged(&log.name, 48, Lsn::NONE, why));
    }
    match config {
        Some(config) if config.instance_text() != log.header.instance => {
            Err(JournalError::Instance {
                file: log.name.clone(),
                found: log.header.instance.clone(),
                wanted: config.instance.clone(),
            })
        }
        _ => Ok(()),
    }
}

/// A group of records that was cut off: never acknowledged, and not whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The file.
    pub file: String,
    /// Where it was cut.
    pub offset: u64,
    /// The first record that is gone.
    pub lsn: Lsn,
}

/// Where a journal ends.
#[derive(Debug)]
pub(crate) struct End {
    /// Its last record.
    pub(crate) lsn: Lsn,
    pub(crate) crc: u32,
    /// The log it lies in (position in the list), and where that log's records end.
    pub(crate) log: usize,
    pub(crate) offset: usize,
    /// Where the records begin of which no later one says that they are stable.
    pub(crate) unproven: usize,
    pub(crate) cut: Option<TornTail>,
}

/// Goes through logs.
pub(crate) struct Walk<'a> {
    pub(crate) logs: &'a [Log],
    /// The content of each log from the first one that is walked on.
    pub(crate) content: &'a dyn Fn(usize) -> Option<&'a Mapped>,
}

impl<'a> Walk<'a> {
    /// Calls `visit` for each record from log `from` on (which has a first record, or a header that follows one), up to the end.
    pub(crate) fn run(
        &self,
        from: usize,
        visit: &mut dyn FnMut(usize, usize, &Frame<'a>) -> Result<(), Why>,
    ) -> Result<End, JournalError> {
        let first = self.log(from)?.first.unwrap_or(Lsn::NONE.next());
        let mut end = End {
            lsn: Lsn::new(first.get().saturating_sub(1)),
            crc: 0,
            log: from,
            offset: HEADER_BYTES,
            unproven: HEADER_BYTES,
            cut: None,
        };
        let mut chain = None;
        let mut at = from;
        loop {
            let log = self.log(at)?;
            if let Some((follows, crc)) = log.header.follows {
                if end.lsn != follows || chain.is_some_and(|chain| chain != crc) {
                    let why = Why::Header("it follows another record than the one before it");
                    return Err(JournalError::damaged(&log.name, 40, end.lsn.next(), why));
                }
                chain = Some(crc);
                end = End {
                    crc,
                    log: at,
                    offset: HEADER_BYTES,
                    unproven: HEADER_BYTES,
                    ..end
                };
            }
            let limit = self.limit(at);
            let scanner =
                Scanner::new(self.bytes(at)?, log.header.epoch).after(Some(end.lsn.next()), chain);
            let stop = self.read(at, scanner, visit, &mut end)?;
            chain = (end.lsn >= first).then_some(end.crc).or(chain);
            match (limit, stop) {
                (Some((next, lsn)), _) if lsn == end.lsn => at = next,
                _ if self.goes_on(at, end.lsn.next()) => at += 1,
                (Some((next, lsn)), bad) => {
                    let name = &self.log(next)?.name;
                    let witness = format!("the header of {name}, which follows lsn {lsn},");
                    return Err(self.missing(at, &end, bad, witness));
                }
                (None, bad) => return self.cut(at, end, bad),
            }
        }
    }

    /// Reads one log up to `limit`, or to where it stops.
    fn read(
        &self,
        at: usize,
        mut scanner: Scanner<'a>,
        visit: &mut dyn FnMut(usize, usize, &Frame<'a>) -> Result<(), Why>,
        end: &mut End,
    ) -> Result<Option<BadFrame>, JournalError> {
        let name = &self.log(at)?.name;
        let limit = self.limit(at).map(|(_, lsn)| lsn);
        let mut durable = None;
        loop {
            if limit.is_some_and(|limit| limit <= end.lsn) {
                return Ok(None);
            }
            let offset = scanner.offset;
            let damaged = |why| JournalError::damaged(name, offset, end.lsn.next(), why);
            let frame = match scanner.next() {
                Ok(frame) => frame,
                // Right checksum, right ordinal: that is no torn write.
                Err(bad @ (BadFrame::Chain | BadFrame::Later { .. })) => {
                    return Err(damaged(Why::Frame(bad)));
                }
                Err(bad) => return Ok(Some(bad)),
            };
            visit(at, offset, &frame).map_err(damaged)?;
            if durable != Some(frame.durable) {
                durable = Some(frame.durable);
                end.unproven = offset;
            }
            end.lsn = frame.lsn;
            end.crc = frame.crc;
            end.log = at;
            end.offset = scanner.offset;
        }
    }

    fn log(&self, at: usize) -> Result<&'a Log, JournalError> {
        self.logs.get(at).ok_or_else(|| {
            let why = Why::Gap("no file says where the journal begins".to_owned());
            JournalError::damaged("the journal", 0, Lsn::NONE, why)
        })
    }

    fn bytes(&self, at: usize) -> Result<&'a [u8], JournalError> {
        let mapped = (self.content)(at).ok_or_else(|| {
            JournalError::io("map", &self.logs[at].name)(std::io::ErrorKind::NotFound.into())
        })?;
        Ok(mapped)
    }

    /// The next log that a new daemon began, and after which record.
    fn limit(&self, at: usize) -> Option<(usize, Lsn)> {
        let later = self.logs.iter().enumerate().skip(at + 1);
        later
            .filter_map(|(at, log)| Some((at, log.header.follows?.0)))
            .next()
    }

    /// The next log begins with the record that comes next.
    fn goes_on(&self, at: usize, expected: Lsn) -> bool {
        self.logs
            .get(at + 1)
            .is_some_and(|log| log.first == Some(expected))
    }

    fn missing(
        &self,
        at: usize,
        end: &End,
        bad: Option<BadFrame>,
        witness: String,
    ) -> JournalError {
        // The reading of log `at` may have stopped before its first record.
        let offset = if end.log == at {
            end.offset
        } else {
            HEADER_BYTES
        };
        let frame = bad.unwrap_or(BadFrame::Nothing);
        let witness = match self.absent_after(at) {
            Some(name) => format!("{witness} and there is no {name},"),
            None => witness,
        };
        let why = Why::Missing { frame, witness };
        JournalError::damaged(&self.logs[at].name, offset, end.lsn.next(), why)
    }

    /// The file that would come after a log by its number, if another one comes. That alone is no damage: numbers of files that
    /// were never used are left out.
    fn absent_after(&self, at: usize) -> Option<String> {
        let wanted = FileKey(self.logs.get(at)?.key.0.saturating_add(1));
        let next = self.logs.get(at + 1)?.key;
        (next != wanted).then(|| wanted.name())
    }

    /// What lies behind the last record was written behind it: it carries that one's checksum. Its length or ordinal may be
    /// what was damaged, and by these alone it looks like something older in a file that is used again.
    fn names_the_last(&self, at: usize, end: &End) -> bool {
        let from = if end.log == at {
            end.offset
        } else {
            HEADER_BYTES
        };
        let head = self
            .logs
            .get(at)
            .and_then(|_| (self.content)(at)?.get(from..));
        end.lsn != Lsn::NONE
            && head.is_some_and(|head| {
                head.len() >= frame::HEAD_BYTES && frame::read_u32(head, frame::AT_PREV) == end.crc
            })
    }

    /// The tail rule.
    fn cut(&self, at: usize, mut end: End, bad: Option<BadFrame>) -> Result<End, JournalError> {
        let wanted = end.lsn.next();
        let mut is_torn = bad == Some(BadFrame::Checksum) || self.names_the_last(at, &end);
        for (number, log) in self.logs.iter().enumerate().skip(at) {
            let from = if number == end.log {
                end.offset
            } else {
                HEADER_BYTES
            };
            let proof = proof_of(self.bytes(number)?, log.header.epoch, from, wanted);
            if let Some(later) = proof.stable {
                let witness = format!(
                    "lsn {} at offset {} of {}, written when lsn {} was durable,",
                    later.lsn, later.offset, log.name, later.durable
                );
                return Err(self.missing(at, &end, bad, witness));
            }
            is_torn |= proof.valid.is_some();
        }
        if is_torn {
            let offset = if end.log == at {
                end.offset
            } else {
                HEADER_BYTES
            };
            end.cut = Some(TornTail {
                file: self.logs[at].name.clone(),
                offset: offset as u64,
                lsn: wanted,
            });
        }
        Ok(end)
    }
}
