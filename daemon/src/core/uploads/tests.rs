//! Uploads with a spill thread that can be made to hang.

use std::sync::{Arc, Condvar, Mutex};

use super::*;
use crate::config::faults::DiskFaults;
use crate::spill::thread::{self, Done, Told};

const LIMIT: u64 = 64 << 20;
const STEP: u64 = SPILL_STEP_BYTES;

const ONE: Principal = Principal::Uid(1);
const OTHER: Principal = Principal::Uid(2);

/// A disk that hangs while it is told to.
#[derive(Debug, Default)]
struct Disk {
    hangs: Mutex<bool>,
    woken: Condvar,
}

impl Disk {
    fn hang(&self, hangs: bool) {
        *self.hangs.lock().unwrap() = hangs;
        self.woken.notify_all();
    }
}

impl DiskFaults for Disk {
    fn spill(&self) -> bool {
        let hangs = self.hangs.lock().unwrap();
        drop(self.woken.wait_while(hangs, |hangs| *hangs).unwrap());
        false
    }
}

struct World {
    uploads: Uploads,
    told: Told,
    disk: Arc<Disk>,
    folder: tempfile::TempDir,
}

impl World {
    fn new(uploads_max: usize, rule: ShareRule) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SpillStore::open(folder.path().join("spill"), LIMIT);
        let disk = Arc::new(Disk::default());
        let faults: Arc<dyn DiskFaults> = Arc::clone(&disk) as _;
        let (jobs, told) = thread::start(store.clone(), uploads_max, Some(faults)).unwrap();
        Self {
            uploads: Uploads::new(store, Rc::new(jobs), uploads_max, rule),
            told,
            disk,
            folder,
        }
    }

    /// Takes in what the thread says until nothing is under way.
    fn settle(&mut self) {
        let busy = |uploads: &Uploads| {
            let jobs = uploads.under_way.values();
            jobs.filter(|upload| !matches!(upload.job, OneJob::None))
                .count()
                > 0
                || uploads.jobs.is_removing()
        };
        while busy(&self.uploads) {
            let done = self.told.done.blocking_recv().expect("the thread lives");
            match done {
                Done::Upload(key, answer) => self.uploads.done(key, answer),
                Done::Removed => self.uploads.jobs.removed(),
                Done::Read(..) => panic!("nobody reads"),
            }
        }
    }

    /// What came of a step that was asked for.
    fn answer(&mut self, asked: Asked) -> Answer {
        self.settle();
        asked.blocking_recv().expect("it is answered")
    }

    /// A whole upload of so many bytes; gives its receipt.
    fn upload(&mut self, principal: Principal, bytes: usize) -> u64 {
        let (key, asked) = self.uploads.begin(principal, bytes as u64).unwrap();
        self.answer(asked).unwrap();
        let asked = self.uploads.write(key, vec![7; bytes].into()).unwrap();
        self.answer(asked).unwrap();
        let asked = self.uploads.finish(key, true).unwrap();
        self.answer(asked).unwrap();
        self.uploads.keep(key, 1, Now::from_ns(0)).unwrap()
    }

    fn remove_lost(&mut self) {
        let lost = std::iter::from_fn(|| self.uploads.pop_lost_file()).collect();
        self.uploads.jobs.remove(lost);
        self.settle();
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("spill")).map_or(0, Iterator::count)
    }
}

#[test]
fn receipt_is_good_once_and_for_its_session_only() {
    let mut world = World::new(2, ShareRule::Whole);
    let receipt = world.upload(ONE, 3);
    let now = Now::from_ns(5);
    assert_eq!(world.uploads.take(receipt, 2, now), None);
    assert!(world.uploads.take(receipt, 1, now).is_some());
    assert_eq!(world.uploads.take(receipt, 1, now), None);
}

#[test]
fn unused_upload_is_removed_after_its_time() {
    let mut world = World::new(2, ShareRule::Whole);
    let receipt = world.upload(ONE, 3);
    let late = Now::from_ns(RECEIPT_NS);
    assert_eq!(world.uploads.take(receipt, 1, late), None);
    assert_eq!(world.files(), 1);
    assert_eq!(world.uploads.expire(late), 1);
    assert_eq!(world.uploads.store.used_bytes(), 0);
    world.remove_lost();
    assert_eq!(world.files(), 0);
    assert_eq!(world.uploads.next_expiry(), None);
}

#[test]
fn receipts_expire_a_bounded_number_a_turn_and_the_next_turn_is_due_at_once() {
    let mut world = World::new(200, ShareRule::Whole);
    for _ in 0..150 {
        world.upload(ONE, 1);
    }
    let late = Now::from_ns(RECEIPT_NS);
    let mut turns = Vec::new();
    while world.uploads.next_expiry().is_some_and(|due| due <= late) {
        turns.push(world.uploads.expire(late));
    }
    assert_eq!(turns, [64, 64, 22]);
    world.remove_lost();
    assert_eq!(world.files(), 0);
}

#[test]
fn upload_that_is_renewed_is_kept_for_as_long_again() {
    let mut world = World::new(2, ShareRule::Whole);
    let receipt = world.upload(ONE, 3);
    world.uploads.renew(receipt, Now::from_ns(RECEIPT_NS - 1));
    assert_eq!(world.uploads.expire(Now::from_ns(RECEIPT_NS)), 0);
    assert_eq!(world.files(), 1);
    let due = Now::from_ns(2 * RECEIPT_NS - 1);
    assert_eq!(world.uploads.next_expiry(), Some(due));
    let now = Now::from_ns(RECEIPT_NS);
    assert!(world.uploads.take(receipt, 1, now).is_some());
}

#[test]
fn uploads_under_way_count() {
    let mut world = World::new(2, ShareRule::Whole);
    let (first, _) = world.uploads.begin(ONE, 3).unwrap();
    let receipt = world.upload(ONE, 3);
    let refused = world.uploads.begin(ONE, 3).unwrap_err();
    assert_eq!(refused, NoUpload::Full);
    world.uploads.leave(first);
    world.settle();
    let (second, _) = world.uploads.begin(ONE, 3).unwrap();
    world.uploads.use_up(receipt);
    world.uploads.leave(second);
    world.settle();
    let uploads = &world.uploads;
    assert_eq!((uploads.all, uploads.held.len()), (Held::default(), 0));
    assert!(uploads.under_way.is_empty());
}

#[test]
fn disk_that_hangs_keeps_the_places_of_those_who_have_left_and_makes_no_queue_grow() {
    let mut world = World::new(8, ShareRule::Whole);
    let (key, asked) = world.uploads.begin(OTHER, LIMIT).unwrap();
    world.answer(asked).unwrap();
    world.disk.hang(true);
    let write = world.uploads.write(key, vec![1; 10].into()).unwrap();
    let again = world.uploads.write(key, vec![2; 10].into());
    assert!(again.is_err(), "one job of an upload at a time");
    let mut taken = 0;
    for _ in 0..1_000 {
        // Whoever comes, and leaves while nothing moves.
        match world.uploads.begin(ONE, LIMIT) {
            Ok((key, _)) => {
                taken += 1;
                world.uploads.leave(key);
            }
            Err(refused) => assert_eq!(refused, NoUpload::Full),
        }
    }
    assert_eq!(
        taken, 7,
        "their places are in use until their files are gone"
    );
    world.disk.hang(false);
    world.answer(write).unwrap();
    assert_eq!(world.uploads.under_way.len(), 1);
    assert_eq!(world.files(), 1);
    world.uploads.leave(key);
    world.settle();
    assert_eq!((world.files(), world.uploads.all), (0, Held::default()));
    assert_eq!(world.uploads.store.used_bytes(), 0);
}

#[test]
fn upload_whose_peer_leaves_when_its_file_is_complete_leaves_nothing() {
    let mut world = World::new(2, ShareRule::Whole);
    let (key, asked) = world.uploads.begin(ONE, 1).unwrap();
    world.answer(asked).unwrap();
    let asked = world.uploads.write(key, vec![1].into()).unwrap();
    world.answer(asked).unwrap();
    let asked = world.uploads.finish(key, false).unwrap();
    world.settle();
    // The answer is there, and nobody looks at it.
    drop(asked);
    world.uploads.leave(key);
    world.remove_lost();
    assert_eq!((world.files(), world.uploads.all), (0, Held::default()));
}

#[test]
fn what_comes_and_what_was_announced_must_be_the_same() {
    let mut world = World::new(2, ShareRule::Whole);
    let (key, asked) = world.uploads.begin(ONE, 3).unwrap();
    world.answer(asked).unwrap();
    let more = world.uploads.write(key, vec![1; 4].into()).unwrap_err();
    let announced = |received| NoUpload::Announced { received, total: 3 };
    assert_eq!(more, announced(4));
    let fewer = world.uploads.finish(key, false).unwrap_err();
    assert_eq!(fewer, announced(0));
}

#[test]
fn upload_counts_for_the_steps_that_it_has_taken_and_not_for_what_it_announced() {
    let mut world = World::new(64, ShareRule::Whole);
    for number in 1..=60 {
        let (key, asked) = world.uploads.begin(ONE, LIMIT).unwrap();
        world.answer(asked).unwrap();
        let asked = world.uploads.write(key, vec![1].into()).unwrap();
        world.answer(asked).unwrap();
        assert_eq!(world.uploads.all.bytes, number * STEP);
    }
    assert_eq!(world.uploads.store.used_bytes(), 60 * STEP);
}

#[test]
fn one_principal_leaves_uploads_and_room_to_others_and_hears_whose_share_is_used_up() {
    let mut world = World::new(64, ShareRule::Shared);
    let uploads = &mut world.uploads;
    let mut keys = Vec::new();
    let refused = loop {
        match uploads.begin(ONE, 1) {
            Ok((key, _)) => keys.push(key),
            Err(NoUpload::Share(used_up)) => break used_up,
            Err(other) => panic!("nothing is left for others: {other:?}"),
        }
    };
    assert_eq!((keys.len(), refused.held, refused.size), (62, 62, 64));
    assert!(uploads.begin(OTHER, 1).is_ok());
    for key in keys {
        uploads.leave(key);
    }
    world.settle();
    // The store holds 4 GiB; what counts is what is taken.
    let size = world.uploads.store.total_limit();
    world.uploads.count(ONE, 1, size / 32 * 31 - 2 * STEP);
    let (key, asked) = world.uploads.begin(ONE, 2 * STEP).unwrap();
    world.answer(asked).unwrap();
    let step = vec![1; usize::try_from(STEP).unwrap()];
    let asked = world.uploads.write(key, step.into()).unwrap();
    world.answer(asked).unwrap();
    let refused = world.uploads.write(key, vec![1].into()).unwrap_err();
    assert!(matches!(refused, NoUpload::Share(used_up) if used_up.what.contains("bytes")));
    assert!(world.uploads.begin(OTHER, STEP).is_ok());
}
