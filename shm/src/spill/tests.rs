//! The store of spill files: bound, checksums, removal, and what a start finds.

use super::blocks::BLOCK_BYTES;
use super::*;
use std::os::unix::fs::PermissionsExt;

fn store() -> (tempfile::TempDir, SpillStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = SpillStore::open(dir.path().join("deep/spill"), 1 << 20);
    (dir, store)
}

fn files(store: &SpillStore) -> usize {
    fs::read_dir(store.dir()).map_or(0, Iterator::count)
}

#[test]
fn blob_that_is_there_can_be_synced_and_one_that_is_gone_cannot() {
    let (_dir, store) = store();
    let blob = store.store(b"kept").unwrap();
    store.secure(blob).unwrap();
    store.remove(blob).unwrap();
    assert!(matches!(store.secure(blob), Err(SpillError::File { .. })));
    assert!(matches!(
        store.secure(BlobRef::None),
        Err(SpillError::NotSpilled)
    ));
}

#[test]
fn each_flipped_bit_is_named_by_whoever_reads_the_block() {
    let (_dir, store) = store();
    let bytes: Vec<u8> = (0..140_000_u32).map(|at| (at % 251) as u8).collect();
    let mut writer = store.create(bytes.len() as u64).unwrap();
    for piece in bytes.chunks(50_001) {
        writer.write(piece).unwrap();
    }
    let blob = writer.finish().unwrap();
    let BlobRef::Spill { number, .. } = blob else {
        panic!("in a file");
    };
    let path = store.path_of(number);
    let whole = fs::read(&path).unwrap();
    let mut out = vec![0; 140_000];
    assert_eq!(store.read_at(blob, 0, &mut out).unwrap(), 140_000);
    assert_eq!(out, bytes);
    assert_eq!(store.read_at(blob, 65_530, &mut out[..100]).unwrap(), 100);
    assert_eq!(out[..100], bytes[65_530..65_630]);
    for at in (0..whole.len()).step_by(4_999).chain(140_000..whole.len()) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(&path, &flipped).unwrap();
        let block = if at < 140_000 {
            at >> 16
        } else {
            (at - 140_000) / 4
        };
        match store.crc32c(blob) {
            Err(SpillError::Damaged { offset, .. }) => assert_eq!(offset, (block as u64) << 16),
            other => panic!("byte {at}: {other:?}"),
        }
    }
}

#[test]
fn lengths_of_files_and_of_their_bytes_belong_together() {
    for bytes in [0, 1, 65_535, 65_536, 65_537, 131_072, 131_073, 1 << 30] {
        assert_eq!(data_bytes(file_bytes(bytes)), bytes);
    }
}

#[test]
fn blob_comes_back_in_pieces_and_is_removed() {
    let (_dir, store) = store();
    assert!(!store.dir().exists(), "nothing is made before it is needed");
    let bytes: Vec<u8> = (0..100_000_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    let mut writer = store.create(bytes.len() as u64).unwrap();
    for part in bytes.chunks(7_000) {
        writer.write(part).unwrap();
    }
    let blob = writer.finish().unwrap();
    let mut out = vec![0; 60_000];
    assert_eq!(store.read_at(blob, 0, &mut out).unwrap(), 60_000);
    assert_eq!(out, bytes[..60_000]);
    assert_eq!(store.read_at(blob, 60_000, &mut out).unwrap(), 40_000);
    assert_eq!(out[..40_000], bytes[60_000..]);
    assert_eq!(store.read_at(blob, 100_000, &mut out).unwrap(), 0);
    assert_eq!(store.read_at(blob, u64::MAX, &mut out).unwrap(), 0);
    store.remove(blob).unwrap();
    store.remove(blob).unwrap();
    assert!(matches!(
        store.read_at(blob, 0, &mut out),
        Err(SpillError::File { .. })
    ));
}

#[test]
fn directory_and_files_are_the_owners_only() {
    let (_dir, store) = store();
    store.store(b"secret").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(store.dir()), 0o700);
    let file = fs::read_dir(store.dir())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    assert_eq!(mode(&file), 0o600);
}

#[test]
fn file_that_was_cut_short_or_grew_is_an_error() {
    let (_dir, store) = store();
    let blob = store.store(&[7; 5000]).unwrap();
    let file = fs::read_dir(store.dir())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    for length in [0, 4999, 5001] {
        OpenOptions::new()
            .write(true)
            .open(&file)
            .unwrap()
            .set_len(length)
            .unwrap();
        let read = store.read_at(blob, 0, &mut [0; 10]);
        assert!(matches!(read, Err(SpillError::Length { .. })), "{length}");
    }
}

#[test]
fn unfinished_file_is_removed() {
    let (_dir, store) = store();
    let mut writer = store.create(10).unwrap();
    writer.write(b"12345").unwrap();
    assert!(matches!(
        writer.write(b"678901"),
        Err(SpillError::Announced { .. })
    ));
    assert!(matches!(writer.finish(), Err(SpillError::Announced { .. })));
    drop(store.create(100).unwrap());
    assert_eq!(files(&store), 0);
}

#[test]
fn file_under_way_takes_space_a_step_ahead_and_not_what_was_announced() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = tempfile::tempdir().unwrap();
    let store = SpillStore::open(dir.path(), 64 << 20);
    let mut writer = store.create(64 << 20).unwrap();
    let space = |writer: &SpillWriter| writer.file.metadata().unwrap().blocks() * 512;
    assert_eq!((store.used_bytes(), space(&writer)), (0, 0));
    writer.write(b"x").unwrap();
    assert_eq!(store.used_bytes(), SPILL_STEP_BYTES);
    assert!(space(&writer) <= SPILL_STEP_BYTES + BLOCK_BYTES);
    let piece = vec![7; 1 << 20];
    writer.write(&piece).unwrap();
    assert_eq!(store.used_bytes(), 2 * SPILL_STEP_BYTES);
    assert!(space(&writer) <= 2 * SPILL_STEP_BYTES + BLOCK_BYTES);
    drop(writer);
    assert_eq!((store.used_bytes(), files(&store)), (0, 0));
}

#[test]
fn upload_that_finds_the_store_full_in_its_middle_is_refused_and_gives_its_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = SpillStore::open(dir.path(), 4 << 20).bounded(3 << 20);
    let mut first = store.create(3 << 20).unwrap();
    let mut second = store.create(3 << 20).unwrap();
    first.write(&vec![1; 2 << 20]).unwrap();
    second.write(&[2]).unwrap();
    let refused = first.write(&[1]).unwrap_err();
    let SpillError::NoRoom { bytes, used, limit } = refused else {
        panic!("{refused}");
    };
    assert_eq!((bytes, used, limit), (1 << 20, 3 << 20, 3 << 20));
    drop(first);
    assert_eq!(store.used_bytes(), 1 << 20);
    second.write(&vec![2; (3 << 20) - 1]).unwrap();
    second.finish().unwrap();
    assert_eq!((store.used_bytes(), files(&store)), (3 << 20, 1));
}

#[test]
fn blob_above_the_limit_is_refused() {
    let (_dir, store) = store();
    assert!(matches!(
        store.create((1 << 20) + 1),
        Err(SpillError::TooLarge { .. })
    ));
    assert!(matches!(
        store.create(u64::MAX),
        Err(SpillError::TooLarge { .. })
    ));
    assert!(store.create(1 << 20).is_ok());
}

#[test]
fn all_blobs_together_stay_below_the_bound() {
    let (_dir, store) = store();
    let store = store.bounded(1000);
    let first = store.store(&[1; 600]).unwrap();
    let mut under_way = store.clone().create(300).unwrap();
    assert_eq!(store.used_bytes(), 600, "no byte has come");
    under_way.write(&[2]).unwrap();
    let refused = store.store(&[3; 101]).unwrap_err();
    assert!(
        matches!(
            refused,
            SpillError::NoRoom {
                bytes: 101,
                used: 900,
                limit: 1000
            }
        ),
        "{refused}"
    );
    assert!(
        refused.to_string().contains("spill_limit_bytes"),
        "{refused}"
    );
    assert_eq!(files(&store), 2, "nothing is made of what is refused");
    drop(under_way);
    let second = store.store(&[2; 400]).unwrap();
    assert_eq!(store.used_bytes(), 1000);
    store.remove(first).unwrap();
    store.remove(first).unwrap();
    assert_eq!(store.used_bytes(), 400, "given back once");
    store.remove(second).unwrap();
    assert_eq!((store.used_bytes(), files(&store)), (0, 0));
}

#[test]
fn file_that_cannot_be_made_takes_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let occupied = dir.path().join("file");
    fs::write(&occupied, "").unwrap();
    let store = SpillStore::open(occupied.join("spill"), 100);
    assert!(store.store(b"x").is_err());
    assert_eq!(store.used_bytes(), 0);
}

#[test]
fn files_that_are_kept_at_the_start_of_a_daemon_count() {
    let (_dir, store) = store();
    let before = store.of_segment(7);
    let kept = before.store(&[1; 70]).unwrap();
    before.store(&[2; 30]).unwrap();
    let after = SpillStore::open(before.dir(), 1000)
        .bounded(100)
        .of_segment(7);
    let wanted = |number| kept == BlobRef::Spill { number, len: 70 };
    assert_eq!(after.remove_others(wanted).unwrap(), 1);
    assert_eq!(after.used_bytes(), 70);
    assert!(matches!(
        after.store(&[3; 31]),
        Err(SpillError::NoRoom { .. })
    ));
    after.remove(kept).unwrap();
    assert!(after.store(&[3; 100]).is_ok());
}

#[test]
fn directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let occupied = dir.path().join("file");
    fs::write(&occupied, "").unwrap();
    let store = SpillStore::open(occupied.join("spill"), 100);
    let error = store.store(b"x").unwrap_err().to_string();
    assert!(error.contains("file/spill"), "{error}");
}

#[test]
fn reference_to_something_else_is_refused() {
    let (_dir, store) = store();
    let read = store.read_at(BlobRef::Inline { len: 3 }, 0, &mut [0; 3]);
    assert!(matches!(read, Err(SpillError::NotSpilled)));
    store.remove(BlobRef::None).unwrap();
}

#[test]
fn files_that_nobody_refers_to_are_removed_and_those_of_other_segments_stay() {
    let (_dir, store) = store();
    let ours = store.clone().of_segment(7);
    assert_eq!(ours.remove_others(|_| false).unwrap(), 0);
    let kept = ours.store(b"kept").unwrap();
    ours.store(b"lost").unwrap();
    let other = store.of_segment(8).store(b"other").unwrap();
    fs::write(ours.dir().join("note.txt"), "").unwrap();
    let wanted = |number| kept == BlobRef::Spill { number, len: 4 };
    assert_eq!(ours.remove_others(wanted).unwrap(), 1);
    assert_eq!(files(&ours), 3);
    assert_eq!(ours.read_at(kept, 0, &mut [0; 4]).unwrap(), 4);
    assert!(
        ours.read_at(other, 0, &mut [0; 5]).is_err(),
        "of another segment"
    );
}

#[test]
fn two_stores_of_one_directory_do_not_overwrite_each_other() {
    let (_dir, store) = store();
    let other = SpillStore::open(store.dir(), 100);
    other
        .next
        .store(store.next.load(Ordering::Relaxed), Ordering::Relaxed);
    let first = store.store(b"first").unwrap();
    let second = other.store(b"second").unwrap();
    let mut out = [0; 5];
    store.read_at(first, 0, &mut out).unwrap();
    assert_eq!(&out, b"first");
    assert_ne!(first.as_raw() & 0xFFFF_FFFF, second.as_raw() & 0xFFFF_FFFF);
}

#[test]
fn what_is_given_up_makes_room_before_its_file_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = SpillStore::open(dir.path(), 1 << 20).bounded(10);
    let first = store.store(&[1; 8]).unwrap();
    assert!(matches!(
        store.store(&[2; 8]),
        Err(SpillError::NoRoom { .. })
    ));
    store.give_up(first);
    assert_eq!(store.used_bytes(), 0);
    let second = store.store(&[2; 8]).unwrap();
    store.remove_given_up(first).unwrap();
    assert_eq!(store.used_bytes(), 8, "it counts once");
    assert_eq!(store.files().unwrap().len(), 1);
    store.remove(second).unwrap();
    assert_eq!(store.used_bytes(), 0);
    store.remove_given_up(second).unwrap();
}

#[test]
fn nothing_new_is_made_while_more_waits_to_be_removed_than_the_store_may_hold() {
    let dir = tempfile::tempdir().unwrap();
    let store = SpillStore::open(dir.path(), 1 << 20).bounded(10);
    let blobs: Vec<BlobRef> = (0..3)
        .map(|number| {
            let blob = store.store(&[number; 5]).unwrap();
            store.give_up(blob);
            blob
        })
        .collect();
    assert_eq!(store.given_up_files(), 3);
    let refused = store.store(b"x").unwrap_err();
    assert!(
        matches!(refused, SpillError::Behind { files: 3, .. }),
        "{refused}"
    );
    assert!(refused.to_string().contains("try again later"), "{refused}");
    assert_eq!(store.used_bytes(), 0);
    store.remove_given_up(blobs[0]).unwrap();
    assert!(store.store(b"x").is_ok());
    for &blob in &blobs[1..] {
        store.remove_given_up(blob).unwrap();
    }
    assert_eq!(store.given_up_files(), 0);
}

#[test]
fn nothing_new_is_made_while_too_many_files_wait_to_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = SpillStore::open(dir.path(), 1 << 20);
    let gone = BlobRef::Spill { number: 1, len: 0 };
    for _ in 0..GIVEN_UP_FILES_MAX {
        assert!(!store.room.is_behind());
        store.give_up(gone);
    }
    assert!(matches!(store.store(b"x"), Err(SpillError::Behind { .. })));
    store.remove_given_up(gone).unwrap();
    assert!(store.store(b"x").is_ok());
}

#[test]
fn file_that_is_gone_can_neither_be_synced_nor_summed_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = SpillStore::open(dir.path().join("a/b"), 1 << 20);
    assert_eq!(store.files().unwrap(), Vec::new());
    assert!(matches!(
        store.sync_dir(),
        Err(SpillError::Directory { .. })
    ));
    let blob = store.store(&vec![1; 70_000]).unwrap();
    let BlobRef::Spill { number, len } = blob else {
        panic!("{blob:?} is no file");
    };
    store.sync(number).unwrap();
    store.sync_dir().unwrap();
    store.sync_dir().unwrap();
    assert_eq!(store.files().unwrap(), vec![(number, u64::from(len))]);
    assert_eq!(
        store.crc32c(blob).unwrap(),
        crc32c::crc32c(&vec![1; 70_000])
    );
    store.remove(blob).unwrap();
    let text = store.sync(number).unwrap_err().to_string();
    assert!(text.contains(&format!("{number:08x}.spill")), "{text}");
    assert!(store.crc32c(blob).is_err());
    assert!(matches!(
        store.crc32c(BlobRef::None),
        Err(SpillError::NotSpilled)
    ));
}
