//! Targets `journal` and `record`: the files of a journal, damaged, forged, or made of one record.
//!
//! Input of `journal`: how (one byte), then changes: file (one byte), place (four bytes), count (one byte, up to 32), bytes.
//! How is 0: the bytes as they are; 1: all checksums are put right afterwards, so that the content is believed; 2: each change
//! flips one bit. Input of `record`: kind (one byte) and body of a record, which becomes the only one of a journal.
//!
//! Promises: a journal opens or is refused with a message, by both ways of opening; one that opens goes on, and what is
//! written then is found again; after flipped bits alone it holds what some prefix of its records says, and nothing else.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use qtf_journal::{
    Appender, AppenderLimits, Blob, ClientRef, Dump, FILE_BYTES_MIN, HEADER_BYTES, JournalConfig,
    Lsn, Record, SimDisk, SnapshotWriter, Step, Storage, WholeTask, Writer, make_spare, open_tail,
    recover, verify, write_group,
};
use qtf_shm::id::SlotIndex;
use qtf_shm::{KeyId, Outcome, OutcomeKind, Phase, TaskId};

/// Offsets of the head of a record, as `journal/src/record/frame.rs` draws it.
const AT_BYTES: usize = 4;
const AT_KIND: usize = 8;
const AT_PREV: usize = 12;
const AT_LSN: usize = 16;
const AT_INDEX: usize = 40;
const AT_LINEAGE: usize = 48;
const HEAD_BYTES: usize = 56;
/// Offsets of the header of a file, as `journal/src/file.rs` draws it.
const AT_EPOCH: usize = 32;
const AT_FOLLOWS_CRC: usize = 56;
const AT_HEADER_CRC: usize = HEADER_BYTES - 4;

struct Base {
    files: BTreeMap<String, Vec<u8>>,
    end: Lsn,
    /// What recovery gives when the journal ends with each of its records; some have none, as they are in a snapshot.
    states: BTreeMap<Lsn, String>,
}

fn config(nonce: u64) -> JournalConfig {
    JournalConfig {
        file_bytes: FILE_BYTES_MIN,
        ..JournalConfig::new("fuzz", nonce)
    }
}

fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    BASE.get_or_init(Base::new)
}

/// Takes one list of changes.
pub(crate) fn run(bytes: &[u8]) {
    let Some((&how, changes)) = bytes.split_first() else {
        return;
    };
    let mut files = base().files.clone();
    let names: Vec<String> = files.keys().cloned().collect();
    change(&mut files, &names, (how % 3, changes));
    if how % 3 == 1 {
        let mut chain = 0;
        for file in files.values_mut() {
            chain = put_checksums_right(file, chain);
        }
    }
    let disk = disk_of(&files);
    let state = recovered(&disk);
    inspect(&files, state.as_ref().map(|(end, _)| *end));
    let end = open_and_go_on(&disk);
    if how % 3 == 2 {
        assert!(end.is_none_or(|end| end <= base().end), "{end:?}");
        if let Some((end, state)) = state {
            assert_eq!(base().states.get(&end), Some(&state), "after {end:?}");
        }
    }
}

/// What a cold start would begin with, in words; `None` when it is refused.
fn recovered(disk: &SimDisk) -> Option<(Lsn, String)> {
    match recover(disk, &config(8)) {
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
        Ok(recovered) => {
            let mut text = String::new();
            for task in recovered.tasks() {
                text.push_str(&format!("{task:?}\n"));
            }
            let mut keys: Vec<String> = recovered.keys().map(|key| format!("{key:?}\n")).collect();
            // The two daemons of the base have ended the same tasks, so a journal read from its start says it twice.
            keys.sort();
            keys.dedup();
            text.push_str(&keys.concat());
            Some((recovered.opened.end, text))
        }
    }
}

/// Takes one record, as one of each format that is read.
pub(crate) fn run_record(bytes: &[u8]) {
    for format in [1, 2] {
        run_record_of(format, bytes);
    }
}

fn run_record_of(format: u8, bytes: &[u8]) {
    let Some((&kind, body)) = bytes.split_first() else {
        return;
    };
    let Some((name, first)) = base().files.iter().next() else {
        return;
    };
    let mut file = first.clone();
    file[HEADER_BYTES..].fill(0);
    let length = HEAD_BYTES + body.len();
    let Some(place) = file.get_mut(HEADER_BYTES..HEADER_BYTES + length) else {
        return;
    };
    place[AT_BYTES..AT_BYTES + 4].copy_from_slice(&(length as u64).to_le_bytes()[..4]);
    place[AT_KIND] = kind;
    place[AT_KIND + 1] = format;
    place[AT_LSN] = 1;
    place[AT_INDEX] = 1;
    place[AT_LINEAGE..HEAD_BYTES].copy_from_slice(&first[48..56]);
    place[HEAD_BYTES..].copy_from_slice(body);
    put_checksums_right(&mut file, 0);
    let files = BTreeMap::from([(name.clone(), file)]);
    let disk = disk_of(&files);
    let state = recovered(&disk);
    inspect(&files, state.map(|(end, _)| end));
    open_and_go_on(&disk);
}

/// What people see of the files: each is read to its end or refused, and what a cold start opens is found to be good.
fn inspect(files: &BTreeMap<String, Vec<u8>>, end: Option<Lsn>) {
    let folder = super::folder_in_memory();
    for (name, content) in files {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("a small file can be written");
        match Dump::open(&path) {
            Err(error) => assert!(!error.to_string().is_empty()),
            Ok(dump) => {
                let mut entries = dump.entries();
                let shown = entries
                    .by_ref()
                    .map(|entry| format!("{entry:?}").len())
                    .sum::<usize>();
                assert!(shown < content.len() * 64, "{name}: {shown} bytes of text");
                assert!(entries.stop().is_some(), "{name} has an end");
            }
        }
    }
    let report = verify(folder.path()).map(|report| report.end);
    match end {
        Some(end) => assert_eq!(report.ok(), Some(end), "a cold start opens it"),
        None => assert!(
            report
                .err()
                .is_none_or(|error| !error.to_string().is_empty())
        ),
    }
}

fn disk_of(files: &BTreeMap<String, Vec<u8>>) -> SimDisk {
    let disk = SimDisk::new();
    for (name, content) in files {
        disk.put(name, content);
    }
    disk
}

fn change(
    files: &mut BTreeMap<String, Vec<u8>>,
    names: &[String],
    (how, mut changes): (u8, &[u8]),
) {
    while let [file, p0, p1, p2, p3, count, rest @ ..] = changes {
        let place = u32::from_le_bytes([*p0, *p1, *p2, *p3]) as usize;
        let file = names.get(usize::from(*file) % names.len().max(1));
        let Some(content) = file.and_then(|file| files.get_mut(file)) else {
            return;
        };
        // Most of a file is zeros that nobody has written yet: its front is what is interesting.
        let length = content.len().min(HEADER_BYTES * 4);
        let at = place % length;
        if how == 2 {
            content[at] ^= 1 << (count % 8);
            changes = rest;
            continue;
        }
        let count = usize::from(*count % 32).saturating_add(1).min(rest.len());
        let (bytes, next) = rest.split_at(count);
        changes = next;
        for (to, from) in content.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|word| word.first_chunk())
        .map_or(0, |word| u32::from_le_bytes(*word))
}

fn put_word(bytes: &mut [u8], at: usize, word: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&word.to_le_bytes());
    }
}

/// Puts the checksum of the header and of each record right, and the chain, as far as lengths make sense. Returns the
/// checksum of the last record.
fn put_checksums_right(file: &mut [u8], chain: u32) -> u32 {
    if file.len() < HEADER_BYTES {
        return chain;
    }
    let flags = word(file, 36);
    if flags & 1 == 1 && chain != 0 {
        put_word(file, AT_FOLLOWS_CRC, chain);
    }
    let mut chain = if flags & 1 == 1 {
        word(file, AT_FOLLOWS_CRC)
    } else {
        chain
    };
    let crc = crc32c::crc32c(&file[..AT_HEADER_CRC]);
    put_word(file, AT_HEADER_CRC, crc);
    let epoch = word(file, AT_EPOCH);
    let mut at = HEADER_BYTES;
    loop {
        let length = word(file, at + AT_BYTES) as usize;
        let span = length.next_multiple_of(8);
        if length < HEAD_BYTES || at + span > file.len() {
            return chain;
        }
        let record = &mut file[at..at + span];
        put_word(record, AT_PREV, chain);
        chain = crc32c::crc32c_append(epoch, &record[AT_BYTES..]);
        put_word(record, 0, chain);
        at += span;
    }
}

/// Opens a journal as a hot restart does; if it opens, goes on with it. Gives its end.
fn open_and_go_on(disk: &SimDisk) -> Option<Lsn> {
    let opened = match open_tail(disk, &config(9)) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return None;
        }
    };
    let end = opened.end;
    // Too many records were written for another one: no daemon gets there.
    let next = end.next();
    if next == end {
        return Some(end);
    }
    let Ok(mut writer) = opened.start(disk, &config(9)) else {
        // Numbers of files can be used up by a forged header.
        return Some(end);
    };
    let mut appender = Appender::new(next, AppenderLimits::default());
    let record = Record::Reserve { gen_limit: 77 };
    appender.push(&record).expect("a small record is taken");
    let written = write(disk, &mut writer, &mut appender);
    assert_eq!(written, next);
    let again = open_tail(disk, &config(10)).expect("what was written is found again");
    assert_eq!(again.end, next);
    Some(end)
}

fn write(disk: &dyn Storage, writer: &mut Writer, appender: &mut Appender) -> Lsn {
    let group = appender.take_group().expect("a record waits");
    let mut step = writer.begin(group);
    loop {
        step = match step {
            Step::Write(write) => {
                let (buffer, result) = write_group(disk, write);
                writer.written(buffer, result)
            }
            Step::NeedFile => {
                let file = make_spare(disk, writer.file_plan()).expect("the disk has room");
                writer
                    .add_file(file)
                    .expect("it is the file that was asked for")
            }
            Step::Durable(lsn) => {
                appender.give_back(writer.take_buffer().expect("it is done"));
                return lsn;
            }
            Step::Failed => panic!("{:?}", writer.failure()),
        };
    }
}

fn task(slot: u32) -> TaskId {
    let slot = SlotIndex::new_checked(slot, 1 << 20).expect("a small number");
    TaskId::new(5, slot)
}

fn whole(slot: u32) -> WholeTask<'static> {
    WholeTask {
        id: task(slot),
        phase: Phase::Submitted,
        cancel_requested: false,
        attempt: 0,
        failures: 0,
        losses: 0,
        max_attempts: 3,
        options: 0,
        priority: 128,
        stamp: 1_000 + u64::from(slot),
        timeout_ms: 10,
        estimate_ms: 0,
        keep_s: 0,
        kind: "exec",
        client: ClientRef {
            uid: Some(1_000),
            name: "fuzz",
            host: "node",
        },
        submitted_unix_ms: 1_700_000_000_000,
        due_unix_ms: u64::from(slot % 2) * 1_700_000_000_500,
        ended_unix_ms: 0,
        array: (slot.is_multiple_of(3)).then_some((task(0).as_raw(), u64::from(slot))),
        key: KeyId::from_bytes(&[7; 16])
            .filter(|_| slot == 1)
            .map(|key| (key, 1_700_000_900_000)),
        outcome: Outcome::default(),
        payload: match slot % 3 {
            0 => Blob::None,
            1 => Blob::Bytes(b"\n\x04echo\n\x05hello"),
            _ => Blob::Spill {
                number: slot,
                len: 70_000,
                crc32c: 1,
            },
        },
        result: Blob::None,
        lsn: Lsn::NONE,
    }
}

fn done(slot: u32) -> Record<'static> {
    Record::Outcome {
        task: task(slot),
        attempt: 1,
        phase: Phase::Done,
        outcome: Outcome {
            kind: OutcomeKind::Exited,
            code: 0,
            result_dropped: false,
            output_cut: false,
        },
        failures: 0,
        losses: 0,
        ended_unix_ms: 1_700_000_001_000,
        result: Blob::Bytes(b"out"),
    }
}

/// One record of each kind and more, in groups.
fn groups() -> Vec<Vec<Record<'static>>> {
    let attempt = |slot| Record::Attempt {
        task: task(slot),
        attempt: 1,
        worker: 0x1001,
    };
    let requeue = Record::Requeue {
        task: task(2),
        phase: Phase::Delayed,
        attempt: 1,
        failures: 1,
        losses: 0,
        due_unix_ms: 1_700_000_002_000,
    };
    let held = Record::Requeue {
        task: task(4),
        phase: Phase::Held,
        attempt: 0,
        failures: 0,
        losses: 0,
        due_unix_ms: 0,
    };
    vec![
        vec![Record::Reserve { gen_limit: 1 << 20 }],
        (0..6).map(|slot| Record::Task(whole(slot))).collect(),
        vec![attempt(0), attempt(1), attempt(2), attempt(3)],
        vec![
            done(0),
            done(1),
            requeue,
            held,
            Record::Cancel { task: task(3) },
        ],
        vec![
            Record::Acknowledged { task: task(0) },
            Record::Purge { task: task(1) },
            Record::Update {
                task: task(4),
                priority: 200,
            },
        ],
    ]
}

impl Base {
    /// A journal of two daemons, with a snapshot of what the first one left.
    fn new() -> Self {
        let disk = SimDisk::new();
        let mut end = Lsn::NONE;
        let mut snapshot = Lsn::NONE;
        for nonce in 1..=2 {
            let opened = open_tail(&disk, &config(nonce)).expect("a good journal opens");
            let mut writer = opened
                .start(&disk, &config(nonce))
                .expect("a good journal goes on");
            let mut appender = Appender::new(opened.end.next(), AppenderLimits::default());
            for group in groups() {
                for record in &group {
                    appender.push(record).expect("small records are taken");
                }
                end = write(&disk, &mut writer, &mut appender);
            }
            if nonce == 1 {
                snapshot = end;
                write_snapshot(&disk, writer.lineage(), end);
            }
        }
        let names = disk.list().expect("a disk in memory can be listed");
        let files: BTreeMap<String, Vec<u8>> = names
            .into_iter()
            .filter_map(|name| Some((name.clone(), disk.content(&name)?)))
            .filter(|(name, _)| name.starts_with("log-") || name.starts_with("snapshot-"))
            .collect();
        let states = (0..=end.get())
            .map(Lsn::new)
            .map(|last| {
                let disk = disk_of(&cut_behind(&files, last, snapshot));
                let (end, state) = recovered(&disk).expect("each prefix is a journal");
                assert_eq!(end, last);
                (last, state)
            })
            .collect();
        Self { files, end, states }
    }

    /// Kind and body of each record of the first file.
    fn records(&self) -> Vec<(u8, Vec<u8>)> {
        let mut records = Vec::new();
        let Some(file) = self.files.values().next() else {
            return records;
        };
        let mut at = HEADER_BYTES;
        loop {
            let length = word(file, at + AT_BYTES) as usize;
            if length < HEAD_BYTES {
                return records;
            }
            records.push((
                file[at + AT_KIND],
                file[at + HEAD_BYTES..at + length].to_vec(),
            ));
            at += length.next_multiple_of(8);
        }
    }
}

fn write_snapshot(disk: &SimDisk, lineage: u64, start: Lsn) {
    let recovered = recover(disk, &config(1)).expect("a good journal is read");
    let storage = Arc::new(disk.clone());
    let mut snapshot = SnapshotWriter::create(storage, &config(1), lineage, start)
        .expect("a disk in memory has room");
    for task in recovered.tasks() {
        snapshot.push(&task).expect("small tasks are taken");
    }
    for (key, task, expires_unix_ms) in recovered.keys() {
        snapshot
            .push_key(key, task, expires_unix_ms)
            .expect("a key is small");
    }
    snapshot.reserve(recovered.gen_limit);
    snapshot
        .publish(start)
        .expect("everything it shows is durable");
}

/// The files as they were when `last` was the last record.
fn cut_behind(
    files: &BTreeMap<String, Vec<u8>>,
    last: Lsn,
    snapshot: Lsn,
) -> BTreeMap<String, Vec<u8>> {
    let mut cut = BTreeMap::new();
    for (name, content) in files {
        if name.starts_with("snapshot-") {
            if snapshot <= last {
                cut.insert(name.clone(), content.clone());
            }
            continue;
        }
        let mut content = content.clone();
        let mut at = HEADER_BYTES;
        loop {
            let length = word(&content, at + AT_BYTES) as usize;
            if length < HEAD_BYTES || u64::from(word(&content, at + AT_LSN)) > last.get() {
                break;
            }
            at += length.next_multiple_of(8);
        }
        content[at..].fill(0);
        if at > HEADER_BYTES || cut.is_empty() {
            cut.insert(name.clone(), content);
        }
    }
    cut
}

/// What the corpus of `journal` starts from.
pub(crate) fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = vec![
        ("whole".to_owned(), vec![0]),
        ("whole-sealed-again".to_owned(), vec![1]),
    ];
    for (number, place) in [
        0_u32, 8, 16, 24, 32, 40, 64, 4_092, 4_096, 4_100, 4_112, 4_200, 5_000,
    ]
    .into_iter()
    .enumerate()
    {
        for how in 0..3_u8 {
            let file = u8::from(number % 2 == 1);
            let mut bytes = vec![how, file];
            bytes.extend(place.to_le_bytes());
            bytes.push(7);
            bytes.extend([0xff; 8]);
            seeds.push((format!("change-{place}-{how}"), bytes));
        }
    }
    seeds
}

/// What the corpus of `record` starts from: bodies of good records.
pub(crate) fn record_seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds: Vec<(String, Vec<u8>)> = base()
        .records()
        .into_iter()
        .enumerate()
        .map(|(number, (kind, body))| {
            (format!("{number}-kind-{kind}"), [vec![kind], body].concat())
        })
        .collect();
    for kind in [0, 10, 11, 12, 13, 14, 99] {
        seeds.push((format!("nothing-of-kind-{kind}"), vec![kind]));
    }
    seeds
}
