//! The arena against a naive model, with operations cut after each of their writes, with nonsense in
//! its words, and with threads.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    AllocateError, Arena, ArenaShape, ArenaViolation, ChunkOwner, ChunkState, Claimant, Purpose,
};
use crate::sync::kill::{Killed, killed_after};
use crate::sync::{AtomicU64, Ordering, zeroed_words};

const ME: Claimant = Claimant {
    attach: 7,
    incarnation: 3,
};

/// An arena with its memory.
struct Ground {
    shape: ArenaShape<64>,
    meta: Box<[AtomicU64]>,
    data: Box<[AtomicU64]>,
}

impl Ground {
    /// Blocks of 64 units (4 KiB) instead of 1,024, so that small tests fill them.
    fn new(blocks: u32) -> Self {
        let shape = ArenaShape::new(blocks);
        let (meta, data) = (
            zeroed_words(shape.meta_words()),
            zeroed_words(shape.data_words()),
        );
        Self { shape, meta, data }
    }

    fn arena(&self) -> Arena<'_, 64> {
        Arena::new(&self.meta, &self.data, self.shape)
    }
}

fn owner(slot: u32) -> ChunkOwner {
    ChunkOwner {
        slot,
        generation: u64::from(slot) * 1_000 + 1,
    }
}

fn bytes_of(slot: u32, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from((i + slot as usize) % 251).unwrap_or(0))
        .collect()
}

fn violations(arena: Arena<'_, 64>) -> Vec<String> {
    arena
        .check()
        .map(|violation| violation.to_string())
        .collect()
}

#[derive(Debug, Clone)]
enum Command {
    Store { len: usize, purpose: Purpose },
    Abandon { len: usize },
    Release(usize),
    ReleaseStale(usize),
}

fn command() -> impl Strategy<Value = Command> {
    let len = prop_oneof![0..200_usize, 0..4_200_usize];
    let purpose = prop_oneof![Just(Purpose::Submission), Just(Purpose::Result)];
    prop_oneof![
        5 => (len.clone(), purpose).prop_map(|(len, purpose)| Command::Store { len, purpose }),
        1 => len.prop_map(|len| Command::Abandon { len }),
        3 => any::<usize>().prop_map(Command::Release),
        1 => any::<usize>().prop_map(Command::ReleaseStale),
    ]
}

/// What is stored: slot -> (unit, length).
type Model = BTreeMap<u32, (u32, usize)>;

fn run(arena: Arena<'_, 64>, model: &mut Model, slot: u32, command: &Command) {
    match *command {
        Command::Store { len, purpose } => {
            match arena.store(ME, owner(slot), &bytes_of(slot, len), purpose) {
                Ok(unit) => drop(model.insert(slot, (unit, len))),
                Err(AllocateError::TooLarge { .. }) => assert!(len > 4_096),
                Err(AllocateError::Full { .. }) => assert!(!model.is_empty() && len <= 4_096),
            }
        }
        Command::Abandon { len } => {
            if let Ok(claim) = arena.allocate(ME, len, Purpose::Result) {
                assert!(claim.bytes() >= len);
                arena.abandon(claim);
            }
        }
        Command::Release(nth) | Command::ReleaseStale(nth) => {
            let Some((&slot, &(unit, _))) = model.iter().nth(nth % model.len().max(1)) else {
                return;
            };
            let stale = ChunkOwner {
                slot,
                generation: 5,
            };
            assert!(!arena.release(unit, stale));
            if matches!(command, Command::Release(_)) {
                assert!(arena.release(unit, owner(slot)));
                assert!(!arena.release(unit, owner(slot)));
                model.remove(&slot);
            }
        }
    }
}

/// Everything in the model can be read, belongs to its slot, and overlaps with nothing.
fn assert_holds(arena: Arena<'_, 64>, model: &Model) {
    let mut spans = BTreeMap::new();
    for (&slot, &(unit, len)) in model {
        assert_eq!(arena.state(unit), Some(ChunkState::Used(owner(slot))));
        let mut out = vec![0; len];
        arena.read(unit, owner(slot), 0, &mut out).unwrap();
        assert_eq!(out, bytes_of(slot, len));
        spans.insert(unit, unit + u32::try_from(len.div_ceil(64).max(1)).unwrap());
    }
    let mut end_before = 0;
    for (start, end) in spans {
        assert!(start >= end_before, "chunks overlap at unit {start}");
        end_before = end;
    }
}

fn entries(arena: Arena<'_, 64>) -> BTreeMap<u32, ChunkState> {
    arena
        .chunks(0..u32::MAX)
        .map(|chunk| (chunk.unit, chunk.state))
        .collect()
}

fn used_by(model: &Model) -> BTreeMap<u32, ChunkState> {
    let used = |(&slot, &(unit, _)): (&u32, &(u32, usize))| (unit, ChunkState::Used(owner(slot)));
    model.iter().map(used).collect()
}

proptest! {
    #[test]
    fn behaves_as_a_map_of_byte_strings(
        blocks in 1_u32..9,
        commands in prop::collection::vec(command(), 1..250),
    ) {
        let ground = Ground::new(blocks);
        let arena = ground.arena();
        let mut model = Model::new();
        for (slot, command) in (0..).zip(&commands) {
            run(arena, &mut model, slot, command);
        }
        assert_holds(arena, &model);
        prop_assert_eq!(entries(arena), used_by(&model));
        prop_assert_eq!(violations(arena), Vec::<String>::new());
        for (slot, (unit, _)) in model {
            prop_assert!(arena.release(unit, owner(slot)));
        }
        prop_assert_eq!(arena.usage().blocks_unassigned, blocks);
        prop_assert_eq!(violations(arena), Vec::<String>::new());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    #[test]
    fn an_operation_cut_at_any_write_keeps_all_others_and_is_healed(
        commands in prop::collection::vec(command(), 0..60),
        cut in command(),
    ) {
        for writes in 0.. {
            let ground = Ground::new(4);
            let arena = ground.arena();
            let mut model = Model::new();
            for (slot, command) in (0..).zip(&commands) {
                run(arena, &mut model, slot, command);
            }
            let before = model.clone();
            let outcome = killed_after(writes, || run(arena, &mut model, 999, &cut));
            model.retain(|slot, _| before.contains_key(slot));
            let kept = survivors(arena, &before, &cut);
            assert_holds(arena, &kept);
            // A sweep while others work frees what the dead process claimed, and leaves at most one
            // count too high; chunks can still be used.
            arena.sweep(0..4, |chunk| match chunk.state {
                ChunkState::Used(owner) => kept.contains_key(&owner.slot),
                ChunkState::Free | ChunkState::Claimed(_) | ChunkState::Damaged(_) => false,
            });
            assert_holds(arena, &kept);
            let lost: Vec<_> = arena.check().collect();
            prop_assert!(lost.len() <= 1, "{lost:?}");
            let leak_only = |v: &ArenaViolation| matches!(v, ArenaViolation::CountTooHigh { .. });
            prop_assert!(lost.iter().all(leak_only), "{lost:?}");
            // A start-up heals everything.
            arena.rebuild(|chunk| matches!(chunk.state, ChunkState::Used(_)));
            prop_assert_eq!(violations(arena), Vec::<String>::new());
            prop_assert_eq!(entries(arena), used_by(&kept));
            let mut kept = kept;
            run(arena, &mut kept, 998, &Command::Store { len: 64, purpose: Purpose::Result });
            assert_holds(arena, &kept);
            if outcome != Err(Killed) {
                break;
            }
        }
    }
}

proptest! {
    #[test]
    fn nonsense_in_the_words_costs_room_but_neither_panics_nor_hangs(
        nonsense in prop::collection::vec((any::<prop::sample::Index>(), word()), 0..60),
        commands in prop::collection::vec(command(), 1..60),
    ) {
        let ground = Ground::new(4);
        let arena = ground.arena();
        for (at, word) in nonsense {
            ground.meta[at.index(ground.meta.len())].store(word, Ordering::Relaxed);
        }
        let mut out = vec![0; 100];
        for (slot, command) in (0..).zip(commands) {
            if let Command::Store { len, purpose } = command
                && let Ok(unit) = arena.store(ME, owner(slot), &bytes_of(slot, len), purpose)
            {
                let _ = arena.read(unit, owner(slot), 50, &mut out);
                arena.release(unit, owner(slot));
            }
        }
        let _ = (violations(arena), arena.usage(), entries(arena));
        arena.sweep(0..u32::MAX, |chunk| chunk.unit % 2 == 0);
        arena.rebuild(|chunk| chunk.unit % 3 == 0);
        prop_assert_eq!(violations(arena), Vec::<String>::new());
        arena.rebuild(|_| false);
        prop_assert_eq!(violations(arena), Vec::<String>::new());
        for slot in 0..4 {
            prop_assert!(arena.store(ME, owner(slot), &bytes_of(slot, 4_096), Purpose::Result).is_ok());
        }
    }
}

/// Words that mean something more often than random ones do.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0_u64..9, 0_u64..70).prop_map(|(class, count)| class | (count << 8)),
        (0_u32..9).prop_map(|slot| ChunkState::used_word(owner(slot))),
        Just(ChunkState::claimed_word(ME)),
        Just(0),
    ]
}

/// What must still be there after `cut` was cut: all of it, but for what it was about to release.
fn survivors(arena: Arena<'_, 64>, before: &Model, cut: &Command) -> Model {
    let mut kept = before.clone();
    if let Command::Release(nth) = *cut
        && let Some((&slot, &(unit, _))) = before.iter().nth(nth % before.len().max(1))
        && arena.state(unit) != Some(ChunkState::Used(owner(slot)))
    {
        kept.remove(&slot);
    }
    kept
}

#[test]
fn submissions_open_no_block_in_the_quarter_kept_for_results() {
    let ground = Ground::new(8);
    let arena = ground.arena();
    let store = |slot, purpose| arena.store(ME, owner(slot), &bytes_of(slot, 4_096), purpose);
    let taken = (0..20)
        .take_while(|&slot| store(slot, Purpose::Submission).is_ok())
        .count();
    assert_eq!(taken, 6);
    let taken = (20..40)
        .take_while(|&slot| store(slot, Purpose::Result).is_ok())
        .count();
    assert_eq!(taken, 2);
    assert_eq!(
        store(50, Purpose::Result),
        Err(AllocateError::Full { bytes: 4_096 })
    );
}

#[test]
fn small_chunks_go_into_larger_ones_when_no_block_is_left() {
    let ground = Ground::new(1);
    let arena = ground.arena();
    let large = arena
        .store(ME, owner(1), &bytes_of(1, 2_000), Purpose::Submission)
        .unwrap();
    let small = arena
        .store(ME, owner(2), &bytes_of(2, 10), Purpose::Submission)
        .unwrap();
    assert_eq!((large, small), (0, 32));
    let full = arena.store(ME, owner(3), &bytes_of(3, 10), Purpose::Submission);
    assert_eq!(full, Err(AllocateError::Full { bytes: 10 }));
}

#[test]
fn a_chunk_swept_away_from_a_slow_process_cannot_be_committed() {
    let ground = Ground::new(1);
    let arena = ground.arena();
    let claim = arena.allocate(ME, 10, Purpose::Submission).unwrap();
    let unit = claim.unit();
    assert_eq!(arena.sweep(0..1, |_| false), 1);
    assert!(arena.commit(claim, owner(1)).is_err());
    assert_eq!(arena.state(unit), Some(ChunkState::Free));
}

#[test]
fn production_blocks_hold_1024_small_chunks() {
    let shape = ArenaShape::<1024>::new(2);
    let (meta, data) = (
        zeroed_words(shape.meta_words()),
        zeroed_words(shape.data_words()),
    );
    let arena = Arena::new(&meta, &data, shape);
    for slot in 0..1_025 {
        arena
            .store(ME, owner(slot), &bytes_of(slot, 64), Purpose::Submission)
            .unwrap();
    }
    let usage = arena.usage();
    assert_eq!(
        (usage.blocks_unassigned, usage.classes[0].chunks_used),
        (0, 1_025)
    );
    assert_eq!(arena.check().count(), 0);
}

/// Stores, reads and releases chunks of all sizes; every read must be the own bytes.
fn churn(arena: Arena<'_, 64>, me: u32, rounds: u32) {
    let mut random = fastrand::Rng::with_seed(u64::from(me));
    let mut held = Model::new();
    for round in 0..rounds {
        let slot = (me << 16) | (round % 60_000);
        let len = random.usize(0..=if round % 8 == 0 { 4_096 } else { 200 });
        let stored = arena
            .store(ME, owner(slot), &bytes_of(slot, len), Purpose::Result)
            .map(|unit| (unit, len));
        if let Ok(place) = stored {
            held.insert(slot, place);
        }
        if stored.is_err() || held.len() > 12 {
            let nth = random.usize(0..held.len().max(1));
            let Some((&slot, &(unit, len))) = held.iter().nth(nth) else {
                continue;
            };
            let mut out = vec![0; len];
            arena.read(unit, owner(slot), 0, &mut out).unwrap();
            assert_eq!(out, bytes_of(slot, len));
            assert!(arena.release(unit, owner(slot)));
            held.remove(&slot);
        }
    }
    for (slot, (unit, _)) in held {
        assert!(arena.release(unit, owner(slot)));
    }
}

#[test]
fn threads_that_store_and_release_never_share_a_chunk_and_give_all_back() {
    const ROUNDS: u32 = if cfg!(debug_assertions) {
        10_000
    } else {
        300_000
    };
    let ground = Ground::new(12);
    std::thread::scope(|scope| {
        for me in 1..=3 {
            let arena = ground.arena();
            scope.spawn(move || churn(arena, me, ROUNDS));
        }
    });
    assert_eq!(ground.arena().usage().blocks_unassigned, 12);
    assert_eq!(violations(ground.arena()), Vec::<String>::new());
}
