//! `bench-structures`: what one operation of the shared structures costs, in private memory.
//!
//! Each line is one setting, measured in many short bursts. The best burst is what the code costs when
//! nothing else runs; the median is what this machine gave. Run it on an idle machine:
//! `cargo run --release --package qtf-benches --bin bench-structures`.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hint::black_box;
use std::time::Instant;

use qtf_shm::arena::{Arena, ArenaShape, ChunkOwner, Claimant, Purpose};
use qtf_shm::bitmap::{self, Bitmap};
use qtf_shm::sync::zeroed_words;
use qtf_shm::tree::{Key, MinTree, TreeShape};

const BURSTS: usize = 100;
const PAIRS_PER_BURST: u32 = 10_000;
const CAPACITY: u32 = 1 << 20;
const SIZES: [u32; 3] = [1_000, 100_000, 1_000_000];

/// How the keys of a heap are distributed.
#[derive(Debug, Clone, Copy)]
enum Keys {
    /// 256 random priorities, first in first out within each.
    Priorities,
    /// Due at now plus a random time that spreads over the whole queue.
    Deadlines,
    /// One priority: first in first out.
    Fifo,
}

impl Keys {
    fn next(self, random: &mut fastrand::Rng, stamp: u64, size: u32) -> Key {
        match self {
            Self::Priorities => Key::ready(random.u8(..), stamp, stamp),
            Self::Deadlines => Key::timed(stamp + random.u64(0..u64::from(size)), stamp),
            Self::Fifo => Key::ready(100, stamp, stamp),
        }
    }
}

fn main() {
    println!(
        "{:<44} {:>8} {:>10} {:>10}",
        "operation", "entries", "best ns", "median ns"
    );
    for keys in [Keys::Fifo, Keys::Priorities, Keys::Deadlines] {
        for size in SIZES {
            tree_pairs(keys, size, CAPACITY);
        }
        tree_pairs(keys, 1_000, 4_096);
    }
    for size in SIZES {
        private_heap_pairs(size);
    }
    for size in [16, 1_024, 4_095] {
        worker_updates(size);
    }
    for size in SIZES {
        bitmap_pairs(size);
    }
    for bytes in [64, 1_024, 65_536] {
        arena_pairs(bytes);
    }
    repairs();
}

/// Runs bursts of `count` operations and prints what one of them took.
fn measure(name: &str, size: u32, count: u32, mut operation: impl FnMut()) {
    let mut bursts: Vec<f64> = (0..BURSTS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..count {
                operation();
            }
            start.elapsed().as_secs_f64() * 1e9 / f64::from(count)
        })
        .collect();
    bursts.sort_by(f64::total_cmp);
    let (best, median) = (bursts[0], bursts[BURSTS / 2]);
    println!("{name:<44} {size:>8} {best:>10.1} {median:>10.1}");
}

/// Locate and remove the best entry, insert another one into its slot.
fn tree_pairs(keys: Keys, size: u32, capacity: u32) {
    let shape = TreeShape::<8>::new(capacity);
    let words = zeroed_words(shape.words());
    let tree = MinTree::new(&words, &shape);
    let mut random = fastrand::Rng::with_seed(1);
    let mut stamp = 0;
    for leaf in 0..size {
        stamp += 1;
        tree.insert(leaf, keys.next(&mut random, stamp, size))
            .unwrap_or_default();
    }
    measure(
        &format!("tree of {capacity}: one out, one in; {keys:?}"),
        size,
        PAIRS_PER_BURST,
        || {
            if let Some((leaf, key)) = tree.locate() {
                black_box(tree.remove(leaf, key));
                stamp += 1;
                tree.insert(leaf, keys.next(&mut random, stamp, size))
                    .unwrap_or_default();
            }
        },
    );
}

/// The standard library's heap, of one thread only: tells how fast the machine is at this moment.
fn private_heap_pairs(size: u32) {
    let mut random = fastrand::Rng::with_seed(1);
    let mut stamp = 0;
    let mut heap = BinaryHeap::new();
    for leaf in 0..size {
        stamp += 1;
        heap.push(Reverse((
            Keys::Priorities.next(&mut random, stamp, size),
            leaf,
        )));
    }
    measure(
        "for comparison: BinaryHeap, Priorities",
        size,
        PAIRS_PER_BURST,
        || {
            if let Some(Reverse((_, leaf))) = heap.pop() {
                stamp += 1;
                heap.push(Reverse((
                    Keys::Priorities.next(&mut random, stamp, size),
                    leaf,
                )));
            }
        },
    );
}

/// One assignment and one completion on the worker heap.
fn worker_updates(size: u32) {
    let shape = TreeShape::<8>::new(4_095);
    let words = zeroed_words(shape.words());
    let tree = MinTree::new(&words, &shape);
    let mut running = vec![0_u16; size as usize];
    for worker in 0..size {
        tree.set(worker, Key::load(0, 0, 0));
    }
    let mut stamp = 0;
    let mut random = fastrand::Rng::with_seed(1);
    measure(
        "worker heap: one assignment, one completion",
        size,
        PAIRS_PER_BURST,
        || {
            stamp += 1;
            if let Some((worker, key)) = tree.locate() {
                running[worker as usize] += 1;
                tree.rekey(worker, key, Key::load(running[worker as usize], stamp, 0));
            }
            let worker = random.u32(0..size);
            if let (Some(key), Some(left)) =
                (tree.leaf(worker), running[worker as usize].checked_sub(1))
            {
                running[worker as usize] = left;
                tree.rekey(worker, key, Key::load(left, stamp, 0));
            }
        },
    );
}

fn bitmap_pairs(size: u32) {
    let words = zeroed_words(bitmap::words_for(CAPACITY));
    let bitmap = Bitmap::new(&words, CAPACITY);
    bitmap.rebuild(0..size);
    let mut hint = 0;
    measure("bitmap: take + give back", size, PAIRS_PER_BURST, || {
        if let Some(entry) = bitmap.take(hint) {
            hint = entry + 1;
            bitmap.give_back(entry);
        }
    });
}

fn arena_pairs(bytes: usize) {
    let shape = ArenaShape::<1024>::new(256);
    let (meta, data) = (
        zeroed_words(shape.meta_words()),
        zeroed_words(shape.data_words()),
    );
    let arena = Arena::new(&meta, &data, shape);
    let owner = ChunkOwner {
        slot: 1,
        generation: 1,
    };
    let payload = vec![7; bytes];
    let mut out = vec![0; bytes];
    let _ = arena.store(Claimant::default(), owner, &payload, Purpose::Submission);
    measure(
        &format!("arena: store + read + release, {bytes} bytes"),
        1,
        1_000,
        || {
            if let Ok(unit) = arena.store(Claimant::default(), owner, &payload, Purpose::Submission)
            {
                black_box(arena.read(unit, owner, 0, &mut out)).unwrap_or_default();
                arena.release(unit, owner);
            }
        },
    );
}

fn repairs() {
    let shape = TreeShape::<8>::new(CAPACITY);
    let words = zeroed_words(shape.words());
    let tree = MinTree::new(&words, &shape);
    let entries = || (0..CAPACITY).map(|leaf| (leaf, Key::ready(1, u64::from(leaf), 1)));
    measure("tree: rebuild, whole", CAPACITY, 1, || {
        tree.rebuild(entries());
    });
    measure("tree: scrub, whole", CAPACITY, 1, || {
        black_box(tree.scrub());
    });
}
