//! Payloads and results of all sizes, in all places, and what happens when there is no room.

use crate::task::writer::SlotWriter;
use std::fs;

use super::{segment, segment_in, submit};
use crate::arena::Purpose;
use crate::blob::BlobRef;
use crate::id::AttachIndex;
use crate::id::TaskId;
use crate::segment::{LoadError, Part, Segment, StoreError};
use crate::spill::SpillError;
use crate::task::slot::INLINE_BYTES_MAX;
use crate::task::state::Event;

const SIZES: [usize; 10] = [0, 1, 32, 33, 48, 49, 4096, 65_536, 65_537, 1 << 20];

fn bytes(len: usize) -> Vec<u8> {
    (0..len)
        .map(|index| u8::try_from(index % 251).unwrap())
        .collect()
}

fn load_all(segment: &Segment, task: TaskId, part: Part) -> Result<Vec<u8>, LoadError> {
    let mut all = Vec::new();
    let mut piece = [0; 10_000];
    loop {
        let count = segment.load(task, part, all.len() as u64, &mut piece)?;
        if count == 0 {
            return Ok(all);
        }
        all.extend_from_slice(&piece[..count]);
    }
}

fn end(segment: &Segment, task: TaskId) {
    let slot = task.slot();
    let cancelled = segment
        .apply(slot, segment.task(slot).state(), Event::Cancel)
        .unwrap();
    segment.free_task(slot, cancelled).unwrap();
}

#[test]
fn payload_of_every_size_comes_back_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let segment = segment_in(dir.path(), 16, 1 << 20);
    for len in SIZES {
        let task = submit(&segment, 1, 1, &bytes(len));
        assert_eq!(
            load_all(&segment, task, Part::Payload).unwrap(),
            bytes(len),
            "{len}"
        );
        let place = segment.task(task.slot()).payload().place();
        let wanted = match len {
            0 => "none",
            1..=48 => "inline",
            49..=65_536 => "arena",
            _ => "spill",
        };
        assert_eq!(place, wanted, "{len}");
        let record = segment.read_task(task.slot()).unwrap().record;
        end(&segment, task);
        assert!(matches!(
            segment.load(task, Part::Payload, 0, &mut [0]),
            Err(LoadError::Gone)
        ));
        if len > 0 {
            assert!(
                segment
                    .load_blob(&record, Part::Payload, 0, &mut [0])
                    .is_err(),
                "{len}"
            );
        }
    }
    assert!(
        segment
            .arena_usage()
            .classes
            .iter()
            .all(|class| class.chunks_used == 0)
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn result_of_every_size_comes_back_beside_every_payload() {
    let dir = tempfile::tempdir().unwrap();
    let segment = segment_in(dir.path(), 16, 1 << 20);
    for payload in [0, 10, 100] {
        for len in SIZES {
            let task = submit(&segment, 1, 1, &bytes(payload));
            let blob = segment.store(task, &bytes(len), Purpose::Result).unwrap();
            SlotWriter::of(segment.task(task.slot())).set_result(blob);
            assert_eq!(load_all(&segment, task, Part::Result).unwrap(), bytes(len));
            assert_eq!(
                load_all(&segment, task, Part::Payload).unwrap(),
                bytes(payload)
            );
            if (1..=48).contains(&len) {
                // The payload takes two words of the slot.
                let fits = payload != 10 || len <= INLINE_BYTES_MAX - 16;
                let wanted = if fits { "inline" } else { "arena" };
                assert_eq!(blob.place(), wanted, "{payload} {len}");
            }
            end(&segment, task);
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn full_arena_refuses_submissions_and_spills_results() {
    let dir = tempfile::tempdir().unwrap();
    let segment = segment_in(dir.path(), 64, 4 * 65_536);
    let task = submit(&segment, 1, 1, b"");
    let mut stored = Vec::new();
    let refusal = loop {
        match segment.store(task, &bytes(60_000), Purpose::Submission) {
            Ok(blob) => stored.push(blob),
            Err(refusal) => break refusal,
        }
    };
    assert!(matches!(refusal, StoreError::ArenaFull { bytes: 60_000 }));
    assert_eq!(stored.len(), 3, "three quarters");
    let last = segment
        .store(task, &bytes(60_000), Purpose::Result)
        .unwrap();
    assert_eq!(last.place(), "arena");
    let spilled = segment
        .store(task, &bytes(60_000), Purpose::Result)
        .unwrap();
    assert_eq!(spilled.place(), "spill");
    SlotWriter::of(segment.task(task.slot())).set_result(spilled);
    assert_eq!(
        load_all(&segment, task, Part::Result).unwrap(),
        bytes(60_000)
    );
    segment.release(task, stored[0]);
    assert!(
        segment
            .store(task, &bytes(60_000), Purpose::Submission)
            .is_ok()
    );
}

#[test]
fn blob_above_the_limit_is_refused() {
    let segment = segment(4);
    let task = submit(&segment, 1, 1, b"");
    let limit = segment.payload_limit();
    let too_large = vec![0; usize::try_from(limit).unwrap() + 1];
    let refusal = segment.store(task, &too_large, Purpose::Result);
    assert!(matches!(refusal, Err(StoreError::TooLarge { .. })));
}

#[test]
fn spill_that_cannot_be_written_is_an_error_that_names_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let segment = segment_in(file.join("spill"), 4, 1 << 20);
    let mut claimed = segment.claim_task(AttachIndex::DAEMON).unwrap();
    let error = claimed.set_payload(&bytes(100_000)).unwrap_err();
    assert!(
        matches!(error, StoreError::Spill(SpillError::Directory { .. })),
        "{error}"
    );
    assert!(error.to_string().contains("file/spill"));
}

#[test]
fn spill_that_was_cut_short_or_removed_is_an_error_of_its_task() {
    let dir = tempfile::tempdir().unwrap();
    let segment = segment_in(dir.path(), 4, 1 << 20);
    let task = submit(&segment, 1, 1, &bytes(100_000));
    let file = fs::read_dir(dir.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    fs::OpenOptions::new()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(4096)
        .unwrap();
    let cut = segment.load(task, Part::Payload, 0, &mut [0; 64]);
    assert!(matches!(
        cut,
        Err(LoadError::Spill(SpillError::Length { .. }))
    ));
    fs::remove_file(&file).unwrap();
    let gone = segment.load(task, Part::Payload, 0, &mut [0; 64]);
    assert!(matches!(
        gone,
        Err(LoadError::Spill(SpillError::File { .. }))
    ));
    end(&segment, task);
}

#[test]
fn bytes_of_another_task_are_neither_read_nor_freed() {
    let segment = segment(4);
    let first = submit(&segment, 1, 1, &bytes(1000));
    let second = submit(&segment, 1, 2, &bytes(500));
    let blob = segment.task(first.slot()).payload();
    segment.release(second, blob);
    assert_eq!(
        load_all(&segment, first, Part::Payload).unwrap(),
        bytes(1000)
    );
    SlotWriter::of(segment.task(second.slot())).set_result(blob);
    assert!(matches!(
        segment.load(second, Part::Result, 0, &mut [0; 8]),
        Err(LoadError::Gone)
    ));
}

#[test]
fn reference_that_cannot_be_is_an_error() {
    let segment = segment(4);
    let task = submit(&segment, 1, 1, b"");
    for blob in [
        BlobRef::Inline { len: 65 },
        BlobRef::Inline { len: 1 << 29 },
        BlobRef::Arena {
            unit: 0,
            len: 65_537,
        },
        BlobRef::Arena {
            unit: u32::MAX,
            len: 5,
        },
        BlobRef::Spill { number: 7, len: 5 },
    ] {
        SlotWriter::of(segment.task(task.slot())).set_result(blob);
        assert!(
            segment.load(task, Part::Result, 0, &mut [0; 100]).is_err(),
            "{blob:?}"
        );
    }
}
