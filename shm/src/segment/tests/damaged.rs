//! Named segments with destroyed words, adopted by the next daemon: never a panic, never a silent new start.

use super::named::{Instance, scribble};
use super::submit;
use crate::id::AttachIndex;
use crate::layout::RegionKind;
use crate::region::sysv;
use crate::segment::{Adoption, ClaimError, CreateError, Segment};
use crate::sync::Ordering;
use crate::task::state::Phase;

const READY_WORD: usize = 1024;
const EPOCH_WORD: usize = READY_WORD + 16;

/// Adopts what was left. What could not be used must be in a file.
fn adopt(instance: &Instance) -> Result<(Segment, Adoption), CreateError> {
    let taken = instance.start();
    if let Ok((_, Adoption::PutAside { file, why })) = &taken {
        assert!(file.exists() && !why.is_empty(), "{why}");
    }
    taken
}

#[test]
fn segment_whose_ready_word_or_first_magic_is_destroyed_is_not_lost_silently() {
    let instance = Instance::new("damaged-front");
    for (word, value) in [(READY_WORD, 99), (READY_WORD, 0), (READY_WORD, 1), (0, 5)] {
        let (segment, _) = instance.start().unwrap();
        // Another daemon has had it, so it was ready once.
        segment.raise_epoch();
        let task = submit(&segment, 0, 1, b"kept");
        scribble(&segment, &[(word, value)]);
        segment.detach();
        let (segment, adoption) = adopt(&instance).unwrap();
        if word == 0 {
            // The second copy of the header is as good as the first.
            assert!(matches!(adoption, Adoption::Adopted { .. }), "{adoption:?}");
            assert_eq!(segment.state(task.slot()).phase(), Phase::Ready);
        } else {
            assert!(
                matches!(adoption, Adoption::PutAside { .. }),
                "{value}: {adoption:?}"
            );
        }
        segment.remove().unwrap();
    }
}

/// A daemon's first segment, never adopted: nothing but its sign of life and its tasks says that it was in use.
#[test]
fn whichever_word_of_the_front_is_zeroed_or_garbled_no_segment_with_tasks_is_dropped_without_a_file()
 {
    let instance = Instance::new("damaged-words");
    let (segment, _) = instance.start().unwrap();
    let words = segment.view().parts.mapping.words();
    // ORDERING: of this thread.
    let written = |word: &usize| words[*word].load(Ordering::Relaxed) != 0;
    let header: Vec<_> = (0..READY_WORD).filter(written).collect();
    assert!(header.len() > 60, "two copies of the header");
    segment.remove().unwrap();
    drop(segment);
    // Who made it is gone, as after a crash: a maker that lives is waited for, whatever the ready word says.
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let dead = u64::from(child.id());
    let mut aside = 0;
    // The words of the control region that have a use lie in its first 96.
    for word in header.into_iter().chain(READY_WORD..READY_WORD + 96) {
        for value in [0, 1, 0x5A5A_5A5A_5A5A_5A5A, u64::MAX] {
            let (segment, adoption) = instance.start().unwrap();
            assert_eq!(adoption, Adoption::Created, "the one before is gone");
            segment.set_daemon_beat(77);
            scribble(&segment, &[(READY_WORD + 1, dead), (READY_WORD + 2, 1)]);
            let task = submit(&segment, 0, 1, b"kept");
            scribble(&segment, &[(word, value)]);
            segment.detach();
            let (segment, adoption) = match adopt(&instance) {
                Ok(taken) => taken,
                // The word says that somebody who lives has it. Refused, and nothing was dropped.
                Err(CreateError::InUse { .. }) => {
                    let first = instance.keys()[0];
                    let kept = sysv::find(first).expect("a refused segment stays");
                    sysv::remove(kept).unwrap();
                    continue;
                }
                Err(error) => panic!("word {word} = {value:#x}: {error}"),
            };
            match adoption {
                Adoption::Adopted { .. } => assert!(
                    segment
                        .allocated_slots(0..64)
                        .any(|slot| slot == task.slot()),
                    "word {word} = {value:#x}: adopted without its task"
                ),
                Adoption::PutAside { file, .. } => {
                    std::fs::remove_file(file).unwrap();
                    aside += 1;
                }
                Adoption::Created | Adoption::Upgraded { .. } => {
                    panic!("word {word} = {value:#x}: dropped without a file")
                }
            }
            segment.remove().unwrap();
        }
    }
    // The ready word, with each value.
    assert!(aside >= 4, "{aside}");
}

#[test]
fn segment_of_noise_is_put_aside_and_one_with_a_few_damaged_states_is_not() {
    let instance = Instance::new("damaged-states");
    let (segment, _) = instance.start().unwrap();
    let tasks = segment.regions().get(RegionKind::Tasks);
    let state_of = |slot: u64| usize::try_from((tasks.offset + slot * 128) / 8).unwrap();
    for stamp in 0..40 {
        submit(&segment, 0, stamp, b"kept");
    }
    let impossible = (u64::from(Phase::Reserved as u8) << 59) | 7;
    let few: Vec<_> = (0..3).map(|slot| (state_of(slot), impossible)).collect();
    scribble(&segment, &few);
    segment.detach();
    let (segment, adoption) = adopt(&instance).unwrap();
    assert!(matches!(adoption, Adoption::Adopted { .. }), "{adoption:?}");
    assert_eq!(segment.last_rebuild().unwrap().impossible, 3);
    assert_eq!(segment.counters().gauge(Phase::Ready), 37);

    let many: Vec<_> = (0..20).map(|slot| (state_of(slot), impossible)).collect();
    scribble(&segment, &many);
    segment.detach();
    let (_, adoption) = adopt(&instance).unwrap();
    let Adoption::PutAside { why, .. } = adoption else {
        panic!("{adoption:?}");
    };
    assert!(why.contains("20 of 40"), "{why}");
}

/// Whatever is destroyed: the next daemon says what it did, and takes new tasks as long as a slot and room are free.
#[test]
fn random_damage_before_each_restart_never_stops_the_next_daemon() {
    let instance = Instance::new("damaged-random");
    std::fs::write(
        instance.dir.path().join(format!("{}.lock", instance.name)),
        b"",
    )
    .unwrap();
    let mut random = fastrand::Rng::with_seed(5);
    let mut aside = 0;
    for round in 0..150 {
        let (segment, adoption) = match adopt(&instance) {
            Ok(taken) => taken,
            // A random process id may be one that lives.
            Err(CreateError::InUse { .. } | CreateError::BeingMade { .. }) => continue,
            Err(error) => panic!("round {round}: {error}"),
        };
        match adoption {
            Adoption::Created | Adoption::Upgraded { .. } => {
                assert_eq!(round, 0, "made anew without a word");
            }
            Adoption::PutAside { .. } => aside += 1,
            Adoption::Adopted { .. } => {}
        }
        for stamp in 0..5 {
            match segment.claim_task(AttachIndex::DAEMON) {
                Ok(claimed) => drop(claimed.publish(crate::Event::Admit, stamp)),
                // Noise in the state of a free slot makes it one in use.
                Err(ClaimError::Full) => assert_eq!(segment.allocated_slots(0..64).count(), 64),
                Err(ClaimError::IdsExhausted) => assert_ne!(segment.gen_limit(), 0),
                Err(ClaimError::OutOfStamps) => unreachable!("said to local processes only"),
            }
        }
        let words = segment.view().parts.mapping.words().len();
        let last = if round % 5 == 0 { words } else { 9_000 };
        let noise: Vec<_> = (0..random.usize(1..60))
            .map(|_| {
                let front = random.u8(0..10) == 0;
                let index = if front {
                    random.usize(0..1536)
                } else {
                    random.usize(1024..last)
                };
                // The epoch is what tells a segment that was in use.
                let index = if index == EPOCH_WORD {
                    index + 1
                } else {
                    index
                };
                (index, random.u64(..))
            })
            .collect();
        scribble(&segment, &noise);
        segment.detach();
        if aside > 0 && random.u8(0..4) == 0 {
            // A clean one from time to time.
            if let Ok((segment, _)) = instance.start() {
                segment.remove().unwrap();
                drop(segment);
                let (segment, _) = instance.start().unwrap();
                segment.raise_epoch();
            }
        }
    }
    assert!(aside > 0, "no round destroyed enough to be put aside");
}
