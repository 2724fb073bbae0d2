//! Model checks of the payload arena: blocks of two units, so that a class of two chunks and a class of one
//! fight for them.
//!
//! Every model ends in quiescence, where chunk words, counts and room must agree. Mutants:
//! `loom_mutants.txt`. What loom cannot show: the release of `arena.free`, since it does not explore reads
//! that are put off beyond a later write.
#![cfg(loom)]

use std::sync::Arc;

use loom::thread;
use qtf_shm::arena::{
    Arena, ArenaShape, ArenaViolation, ChunkOwner, ChunkState, Claimant, Purpose,
};
use qtf_shm::sync::kill::killed_after;
use qtf_shm::sync::{AtomicU64, zeroed_words};

const A: ChunkOwner = ChunkOwner {
    slot: 1,
    generation: 1,
};
const B: ChunkOwner = ChunkOwner {
    slot: 2,
    generation: 7,
};
const C: ChunkOwner = ChunkOwner {
    slot: 3,
    generation: 9,
};

struct Ground {
    shape: ArenaShape<2>,
    meta: Box<[AtomicU64]>,
    data: Box<[AtomicU64]>,
}

impl Ground {
    fn new(blocks: u32) -> Arc<Self> {
        let shape = ArenaShape::new(blocks);
        let meta = zeroed_words(shape.meta_words());
        Arc::new(Self {
            shape,
            meta,
            data: zeroed_words(shape.data_words()),
        })
    }

    fn arena(&self) -> Arena<'_, 2> {
        Arena::new(&self.meta, &self.data, self.shape)
    }

    fn violations(&self) -> Vec<ArenaViolation> {
        self.arena().check().collect()
    }
}

fn by(attach: u16) -> Claimant {
    Claimant {
        attach,
        incarnation: 1,
    }
}

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(4);
    builder.check(check);
}

/// Runs an operation on another thread.
fn spawn<T: 'static>(
    ground: &Arc<Ground>,
    operation: impl FnOnce(Arena<'_, 2>) -> T + 'static,
) -> thread::JoinHandle<T> {
    let ground = Arc::clone(ground);
    thread::spawn(move || operation(ground.arena()))
}

/// Claims, writes one word that tells the owner, commits.
fn store(arena: Arena<'_, 2>, owner: ChunkOwner, bytes: usize) -> Option<u32> {
    let claim = arena.allocate(by(1), bytes, Purpose::Result).ok()?;
    assert!(arena.write(&claim, 0, &u64::from(owner.slot).to_ne_bytes()));
    arena.commit(claim, owner).ok()
}

fn read(arena: Arena<'_, 2>, unit: u32, owner: ChunkOwner) -> Option<u64> {
    let mut out = [0; 8];
    arena
        .read(unit, owner, 0, &mut out)
        .ok()
        .map(|()| u64::from_ne_bytes(out))
}

#[test]
fn two_that_allocate_never_share_a_chunk() {
    model(|| {
        let ground = Ground::new(1);
        let other = spawn(&ground, |arena| store(arena, A, 64));
        let mine = store(ground.arena(), B, 64);
        let other = other.join().unwrap();
        assert!(mine.is_some() || other.is_some());
        assert!(mine != other);
        assert_eq!(ground.violations(), []);
    });
}

#[test]
fn a_block_is_not_cut_anew_while_a_chunk_of_it_is_being_taken() {
    model(|| {
        let ground = Ground::new(1);
        let unit = store(ground.arena(), A, 64).unwrap();
        let other = spawn(&ground, |arena| store(arena, B, 64));
        assert!(ground.arena().release(unit, A));
        let large = store(ground.arena(), C, 128);
        let small = other.join().unwrap();
        assert!(small.is_none() || large.is_none(), "overlapping chunks");
        let used = usize::from(small.is_some()) + usize::from(large.is_some());
        assert_eq!(ground.arena().chunks(0..1).count(), used);
        assert_eq!(ground.violations(), []);
    });
}

#[test]
fn two_that_release_the_last_chunks_give_the_block_back_once() {
    model(|| {
        let ground = Ground::new(1);
        let first = store(ground.arena(), A, 64).unwrap();
        let second = store(ground.arena(), B, 64).unwrap();
        let other = spawn(&ground, move |arena| arena.release(second, B));
        assert!(ground.arena().release(first, A));
        assert!(!ground.arena().release(first, A));
        assert!(other.join().unwrap());
        assert_eq!(ground.violations(), []);
        assert!(store(ground.arena(), C, 128).is_some());
    });
}

#[test]
fn room_made_while_the_block_fills_up_is_found() {
    model(|| {
        let ground = Ground::new(1);
        let first = store(ground.arena(), A, 64).unwrap();
        let other = spawn(&ground, |arena| store(arena, B, 64));
        let third = store(ground.arena(), C, 64);
        assert!(ground.arena().release(first, A));
        let second = other.join().unwrap();
        assert!(second.is_some() || third.is_some());
        assert_eq!(ground.violations(), []);
    });
}

#[test]
fn a_reader_never_takes_the_next_tenants_bytes_for_its_own() {
    model(|| {
        let ground = Ground::new(1);
        let unit = store(ground.arena(), A, 128).unwrap();
        let reader = spawn(&ground, move |arena| read(arena, unit, A));
        assert!(ground.arena().release(unit, A));
        assert_eq!(store(ground.arena(), B, 128), Some(unit));
        assert!(matches!(reader.join().unwrap(), None | Some(1)));
        assert_eq!(read(ground.arena(), unit, B), Some(2));
    });
}

/// The next tenant has its reservation already, so nothing but the chunk itself passes between the one
/// that frees and the one that claims.
#[test]
fn a_reader_beside_a_release_and_a_waiting_tenant_never_takes_its_bytes() {
    model(|| {
        let ground = Ground::new(1);
        let unit = store(ground.arena(), A, 64).unwrap();
        let reader = spawn(&ground, move |arena| read(arena, unit, A));
        let tenant = spawn(&ground, |arena| store(arena, B, 64));
        assert!(ground.arena().release(unit, A));
        assert!(matches!(reader.join().unwrap(), None | Some(1)));
        // It may have found the only block between closed and free: full for a moment.
        let used = usize::from(tenant.join().unwrap().is_some());
        assert_eq!(ground.arena().chunks(0..1).count(), used);
        assert_eq!(ground.violations(), []);
    });
}

#[test]
fn a_reader_sees_what_was_written_before_the_commit() {
    model(|| {
        let ground = Ground::new(1);
        let reader = spawn(&ground, |arena| read(arena, 0, A));
        assert_eq!(store(ground.arena(), A, 128), Some(0));
        assert!(matches!(reader.join().unwrap(), None | Some(1)));
    });
}

#[test]
fn an_allocation_killed_at_any_write_costs_at_most_its_room() {
    for writes in 1..7 {
        model(move || {
            let ground = Ground::new(1);
            let unit = store(ground.arena(), A, 64).unwrap();
            let killed = spawn(&ground, move |arena| {
                killed_after(writes, || {
                    arena.allocate(by(9), 64, Purpose::Result).is_ok()
                })
                .is_err()
            });
            assert!(ground.arena().release(unit, A));
            let _ = killed.join().unwrap();
            ground
                .arena()
                .sweep(0..1, |chunk| chunk.state != ChunkState::Claimed(by(9)));
            assert_eq!(ground.arena().chunks(0..1).count(), 0);
            let lost = |found: &ArenaViolation| {
                matches!(
                    found,
                    ArenaViolation::CountTooHigh {
                        counted: 1,
                        used: 0,
                        ..
                    }
                )
            };
            assert!(
                ground.violations().iter().all(lost),
                "{:?}",
                ground.violations()
            );
            ground.arena().rebuild(|_| true);
            assert_eq!(ground.violations(), []);
            assert!(store(ground.arena(), C, 128).is_some());
        });
    }
}

#[test]
fn a_sweep_beside_an_opener_does_not_take_its_block_away() {
    model(|| {
        let ground = Ground::new(1);
        let opener = spawn(&ground, |arena| store(arena, A, 64));
        ground.arena().sweep(0..1, |_| true);
        let small = opener.join().unwrap();
        let large = store(ground.arena(), B, 128);
        assert!(small.is_none() || large.is_none(), "overlapping chunks");
        assert_eq!(ground.violations(), []);
    });
}
