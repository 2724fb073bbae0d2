//! Model checks of the idempotency keys: the one writer beside an inspector. A bucket of one entry, so that every key lies
//! in the same words.
//!
//! Mutants: `loom_mutants.txt`.
#![cfg(loom)]

use std::sync::Arc;

use loom::thread;
use qtf_shm::keys::{KeyEntry, KeyId, KeyTable, KeyView};
use qtf_shm::sync::kill::killed_after;
use qtf_shm::sync::{AtomicU64, zeroed_words};
use qtf_shm::{Now, SlotIndex, TaskId};

const START: Now = Now { ns: 0 };

struct Cabinet {
    words: Box<[AtomicU64]>,
    used: AtomicU64,
}

impl Cabinet {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            words: zeroed_words(4),
            used: AtomicU64::new(0),
        })
    }

    fn keys(&self) -> KeyTable<'_, 1> {
        KeyTable::new(KeyView::new(&self.words, 1), &self.used)
    }

    fn seen(&self) -> Option<KeyEntry> {
        self.keys().iter().next()
    }
}

fn key(number: u64) -> KeyId {
    KeyId::from_words([number, number]).unwrap()
}

fn task(number: u64) -> TaskId {
    TaskId::new(number, SlotIndex::new_checked(1, 8).unwrap())
}

/// What `put` writes for a number: all parts tell it.
fn put(cabinet: &Cabinet, number: u64) {
    let keys = cabinet.keys();
    let place = keys.reserve(key(number), task(number), number, START);
    assert!(keys.confirm(place.unwrap()));
}

fn assert_whole(entry: KeyEntry) {
    let number = entry.expiry;
    assert_eq!((entry.key, entry.task), (key(number), task(number)));
}

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(4);
    builder.check(check);
}

#[test]
fn an_inspector_sees_a_new_key_whole_or_not_at_all() {
    model(|| {
        let cabinet = Cabinet::new();
        let reader = Arc::clone(&cabinet);
        let inspector = thread::spawn(move || {
            if let Some(entry) = reader.seen() {
                assert_whole(entry);
            }
        });
        put(&cabinet, 3);
        inspector.join().unwrap();
        assert_whole(cabinet.seen().unwrap());
    });
}

#[test]
fn an_inspector_never_takes_parts_of_two_keys_for_one() {
    model(|| {
        let cabinet = Cabinet::new();
        put(&cabinet, 3);
        let reader = Arc::clone(&cabinet);
        let inspector = thread::spawn(move || {
            if let Some(entry) = reader.seen() {
                assert_whole(entry);
            }
        });
        assert!(cabinet.keys().remove(key(3), task(3)));
        put(&cabinet, 5);
        inspector.join().unwrap();
        assert_eq!(cabinet.seen().unwrap().key, key(5));
    });
}

#[test]
fn a_writer_killed_at_any_store_leaves_one_key_or_none() {
    for writes in 1..8 {
        model(move || {
            let cabinet = Cabinet::new();
            put(&cabinet, 3);
            let reader = Arc::clone(&cabinet);
            let inspector = thread::spawn(move || {
                if let Some(entry) = reader.seen() {
                    assert_whole(entry);
                }
            });
            let _ = killed_after(writes, || {
                cabinet.keys().remove(key(3), task(3));
                put(&cabinet, 5);
            });
            inspector.join().unwrap();
            if let Some(entry) = cabinet.seen() {
                assert_whole(entry);
            }
        });
    }
}
