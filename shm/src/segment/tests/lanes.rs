//! Lanes of attach records: opened, spoken through in both directions, full, killed, mad.

use std::path::PathBuf;
use std::time::Duration;

use super::{segment_in, spec_in};
use crate::id::{AttachIndex, TaskId};
use crate::lane::{Command, Event};
use crate::layout::attach::AttachRole;
use crate::segment::verify::Rule;
use crate::segment::{Attachment, AttachmentSpec, CoreLane, Segment};
use crate::sync::kill::{Killed, killed_after};
use crate::sync::{AtomicU64, Ordering};
use crate::task::state::Phase;

/// A real segment, whose daemon this process is.
struct Ground {
    segment: Segment,
    folder: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let segment = Segment::create_private(&spec_in(folder.path(), 64, 1 << 20)).unwrap();
        Self { segment, folder }
    }

    fn open(&self) -> Attachment {
        let folder: PathBuf = self.folder.path().into();
        let spec = AttachmentSpec::new(AttachRole::Client, "local", folder);
        Attachment::open_id(self.segment.shm_id().unwrap(), &spec).unwrap()
    }

    fn core(&self, attach: AttachIndex) -> Option<CoreLane<'_>> {
        self.segment.lane(self.segment.plm_right().unwrap(), attach)
    }

    /// The words of a lane, which nobody else may write.
    fn words(&self, attach: AttachIndex) -> [&AtomicU64; 6] {
        let lane = &self.segment.view.parts.lanes[attach.position()];
        [
            &lane.commands_in,
            &lane.commands_out,
            &lane.events_in,
            &lane.events_out,
            &lane.sleep,
            &lane.form,
        ]
    }
}

fn task(number: u64) -> TaskId {
    TaskId::from_raw((number << 24) | 5).unwrap()
}

fn ended(number: u64) -> Event {
    Event::Ended {
        task: task(number),
        phase: Phase::Done,
    }
}

#[test]
fn lane_is_there_from_its_opening_to_the_end_of_its_process_and_once() {
    let ground = Ground::new();
    let client = ground.open();
    let index = client.index();
    assert!(ground.core(index).is_none(), "not opened yet");
    let changes = ground.segment.local_changes();
    let _lane = client.open_lane().unwrap();
    assert!(
        ground.segment.local_changes() > changes,
        "the core is to look"
    );
    assert!(client.open_lane().is_err());
    let core = ground.core(index).unwrap();
    assert_eq!(core.attach(), index);
    assert!(client.open_lane().is_err(), "there is one for its life");
    let changes = ground.segment.local_changes();
    let incarnation = core.incarnation();
    drop(client);
    assert!(ground.core(index).is_none());
    assert!(ground.segment.local_changes() > changes);
    let next = ground.open();
    assert_eq!(next.index(), index);
    assert!(
        ground.core(index).is_none(),
        "the next process has not opened it"
    );
    let _lane = next.open_lane().unwrap();
    assert_ne!(ground.core(index).unwrap().incarnation(), incarnation);
    assert!(ground.core(AttachIndex::DAEMON).is_none());
}

#[test]
fn commands_and_events_come_in_order_and_stay_until_they_are_taken() {
    let ground = Ground::new();
    let client = ground.open();
    let lane = client.open_lane().unwrap();
    let core = ground.core(client.index()).unwrap();
    assert!(!ground.segment.has_commands(client.index()));
    lane.put(7, Command::Hello).unwrap();
    lane.put(8, Command::Watch(task(3))).unwrap();
    assert!(ground.segment.has_commands(client.index()));
    for _ in 0..2 {
        assert_eq!(core.next_command(), Ok(Some((7, Some(Command::Hello)))));
    }
    core.command_done();
    let watch = Command::Watch(task(3));
    assert_eq!(core.next_command(), Ok(Some((8, Some(watch)))));
    core.command_done();
    assert_eq!(core.next_command(), Ok(None));
    assert!(core.tell(ended(3)) && core.tell(Event::Lost));
    assert_eq!(lane.next(), Some(ended(3)));
    assert_eq!(lane.next(), Some(Event::Lost));
    assert_eq!(lane.next(), None);
    assert!(!lane.take_missed());
}

#[test]
fn full_ring_of_commands_is_told_and_takes_more_when_the_core_has_taken_one() {
    let ground = Ground::new();
    let client = ground.open();
    let lane = client.open_lane().unwrap();
    let core = ground.core(client.index()).unwrap();
    for number in 0..32 {
        lane.put(number, Command::Hello).unwrap();
    }
    assert!(lane.put(32, Command::Hello).is_err());
    assert!(!lane.commands.has_room());
    core.command_done();
    lane.put(32, Command::Hello).unwrap();
    let numbers: Vec<u32> = std::iter::from_fn(|| {
        let (number, _) = core.next_command().unwrap()?;
        core.command_done();
        Some(number)
    })
    .collect();
    assert_eq!(numbers, Vec::from_iter(1..=32));
}

#[test]
fn event_without_room_is_missed_and_the_mark_stands_until_its_owner_has_seen_it() {
    let ground = Ground::new();
    let client = ground.open();
    let lane = client.open_lane().unwrap();
    let core = ground.core(client.index()).unwrap();
    assert_eq!(core.room(), 64);
    for number in 1..=64 {
        assert!(core.tell(ended(number)));
    }
    assert_eq!(core.room(), 0);
    assert!(!core.tell(ended(65)) && !core.tell(ended(66)));
    let info = ground.segment.lane_info(client.index()).unwrap();
    assert_eq!((info.missed, info.is_mark_set), (2, true));
    assert_eq!((info.events, info.sizes), ((64, 0), (32, 64)));
    assert!(info.is_open && info.makes_sense() && !info.is_asleep);
    let told = std::iter::from_fn(|| lane.next()).count();
    assert_eq!(told, 64);
    assert!(lane.take_missed() && !lane.take_missed());
    core.miss();
    assert!(lane.take_missed(), "and again");
}

#[test]
fn next_owner_of_a_lane_finds_it_empty_and_writes_no_word_of_the_core() {
    let ground = Ground::new();
    let client = ground.open();
    let index = client.index();
    let lane = client.open_lane().unwrap();
    let core = ground.core(index).unwrap();
    lane.put(1, Command::Hello).unwrap();
    for number in 1..=70 {
        core.tell(ended(number));
    }
    drop(client);
    let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
    let before = ground.words(index).map(read);
    let next = ground.open();
    let lane = next.open_lane().unwrap();
    assert_eq!((lane.next(), lane.take_missed()), (None, false));
    let core = ground.core(index).unwrap();
    assert_eq!(core.next_command(), Ok(None));
    let after = ground.words(index).map(read);
    assert_eq!((after[1], after[2]), (before[1], before[2]));
}

#[test]
fn core_that_was_stopped_within_its_turn_for_an_owner_does_not_stop_the_next_one() {
    let ground = Ground::new();
    let client = ground.open();
    let index = client.index();
    let lane = client.open_lane().unwrap();
    lane.put(1, Command::Hello).unwrap();
    let late = ground.core(index).unwrap();
    assert!(late.next_command().unwrap().is_some());
    drop(client);
    let next = ground.open();
    let lane = next.open_lane().unwrap();
    // It goes on with what it was at.
    late.tell(ended(9));
    late.command_done();
    assert_eq!(
        lane.next(),
        Some(ended(9)),
        "a hint about a task that is not known here"
    );
    lane.put(5, Command::Watch(task(2))).unwrap();
    let core = ground.core(index).unwrap();
    assert_eq!(
        core.next_command(),
        Ok(Some((5, Some(Command::Watch(task(2))))))
    );
}

#[test]
fn owner_sleeps_until_it_is_rung_and_not_beside_something_to_do() {
    let ground = Ground::new();
    let client = ground.open();
    let lane = client.open_lane().unwrap();
    let core = ground.core(client.index()).unwrap();
    let for_ever = Duration::from_secs(3_600);
    assert!(!core.ring_if_asleep(), "it is awake");
    core.tell(ended(1));
    lane.sleep(for_ever);
    assert_eq!(lane.next(), Some(ended(1)));
    core.miss();
    lane.sleep(for_ever);
    assert!(lane.take_missed());
    lane.events.sleep_unless(for_ever, || true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 2..=50 {
                core.tell(ended(number));
                core.ring_if_asleep();
            }
        });
        for number in 2..=50 {
            let event = loop {
                match lane.next() {
                    Some(event) => break event,
                    None => lane.sleep(for_ever),
                }
            };
            assert_eq!(event, ended(number));
        }
    });
    let info = ground.segment.lane_info(client.index()).unwrap();
    assert!(!info.is_asleep);
}

#[test]
fn owner_that_waits_for_room_is_woken_by_the_core() {
    let ground = Ground::new();
    let client = ground.open();
    let lane = client.open_lane().unwrap();
    let core = ground.core(client.index()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut next = 0;
            while next < 1_000 {
                while let Some((number, _)) = core.next_command().unwrap() {
                    assert_eq!(number, next);
                    core.command_done();
                    next += 1;
                }
                core.ring_if_asleep();
                std::thread::yield_now();
            }
        });
        for number in 0..1_000 {
            while lane.put(number, Command::Hello).is_err() {
                lane.sleep(Duration::from_secs(3_600));
            }
        }
    });
}

/// Kills an operation after each of its writes; returns after how many it was through.
fn after_each_write(mut operation: impl FnMut(), mut check: impl FnMut(u32)) -> u32 {
    let mut writes = 1;
    while let Err(Killed) = killed_after(writes, &mut operation) {
        check(writes);
        writes += 1;
    }
    writes
}

#[test]
fn owner_killed_after_any_write_of_opening_or_putting_leaves_a_lane_that_the_core_can_read() {
    for cut in 1..40 {
        let ground = Ground::new();
        let client = ground.open();
        let index = client.index();
        let killed = killed_after(cut, || {
            let lane = client.open_lane().unwrap();
            lane.put(1, Command::Hello).unwrap();
            lane.put(2, Command::Watch(task(1))).unwrap();
            lane.ring();
        });
        let mut commands = Vec::new();
        if let Some(core) = ground.core(index) {
            while let Some((number, command)) = core.next_command().unwrap() {
                commands.push((number, command.unwrap()));
                core.command_done();
            }
            assert!(core.tell(Event::Lost));
        }
        let all = [(1, Command::Hello), (2, Command::Watch(task(1)))];
        assert!(all.starts_with(&commands), "{commands:?}");
        if killed.is_ok() {
            assert_eq!(commands, all);
            return;
        }
    }
    panic!("it takes more writes than were tried");
}

#[test]
fn core_killed_after_any_write_leaves_each_command_to_its_successor_until_it_was_done() {
    let ground = Ground::new();
    let client = ground.open();
    let lane = client.open_lane().unwrap();
    let index = client.index();
    let mut number = 0;
    let mut put = || {
        number += 1;
        lane.put(number, Command::Hello).unwrap();
    };
    put();
    let turn = || {
        let core = ground.core(index).unwrap();
        let (number, _) = core.next_command().unwrap().unwrap();
        core.tell(ended(number.into()));
        core.command_done();
    };
    let writes = after_each_write(turn, |_| {
        let core = ground.core(index).unwrap();
        if core.next_command().unwrap().is_some() {
            core.command_done();
        }
        put();
        while lane.next().is_some() {}
        assert!(!lane.take_missed());
    });
    assert!(writes > 5, "four words and two counts: {writes}");
}

#[test]
fn counts_that_a_mad_peer_has_written_are_told_and_both_sides_go_on_when_they_make_sense_again() {
    let ground = Ground::new();
    let client = ground.open();
    let lane = client.open_lane().unwrap();
    let index = client.index();
    let core = ground.core(index).unwrap();
    for mad in [33, 65, u64::MAX, 1 << 40] {
        let [commands_in, _, events_in, ..] = ground.words(index);
        commands_in.store(
            commands_in.load(Ordering::Relaxed).wrapping_add(mad),
            Ordering::Relaxed,
        );
        assert!(core.next_command().is_err(), "{mad}");
        assert!(!ground.segment.lane_info(index).unwrap().makes_sense());
        lane.put(4, Command::Hello).unwrap();
        assert_eq!(core.next_command(), Ok(Some((4, Some(Command::Hello)))));
        core.command_done();
        events_in.store(
            events_in.load(Ordering::Relaxed).wrapping_add(mad),
            Ordering::Relaxed,
        );
        while lane.next().is_some() {}
        if mad > 64 {
            assert!(lane.take_missed(), "{mad}");
        }
        while lane.next().is_some() {}
        assert!(core.tell(ended(3)));
        assert_eq!(lane.next(), Some(ended(3)));
        assert!(!lane.take_missed());
    }
}

#[test]
fn lane_of_nonsense_is_reported_as_that_and_as_damage_of_nothing_else() {
    let ground = Ground::new();
    let client = ground.open();
    let _lane = client.open_lane().unwrap();
    assert!(!ground.segment.verify().broken());
    ground.segment.scribble_on_lane(client.index(), 1 << 50);
    let findings = ground.segment.verify().findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].rule, Rule::Lane);
    assert_eq!(
        findings[0].subject,
        format!("lane {}", client.index().get())
    );
    assert!(
        findings[0].text.contains("no task is damaged"),
        "{findings:?}"
    );
}

#[test]
fn lane_of_random_words_is_read_to_its_end_by_both_sides() {
    let mut rng = fastrand::Rng::with_seed(11);
    let ground = Ground::new();
    let client = ground.open();
    let lane = client.open_lane().unwrap();
    let core = ground.core(client.index()).unwrap();
    let words = &ground.segment.view.parts.lanes[client.index().position()];
    for _ in 0..2_000 {
        for word in words.commands.iter().chain(&words.events) {
            let bits = rng.u32(0..64);
            word.store(rng.u64(..) >> bits, Ordering::Relaxed);
        }
        for word in ground.words(client.index()) {
            if rng.bool() {
                let near = words.commands_out.load(Ordering::Relaxed);
                let value = if rng.bool() {
                    rng.u64(..)
                } else {
                    near.wrapping_add(rng.u64(0..70))
                };
                word.store(value, Ordering::Relaxed);
            }
        }
        let mut steps = 0;
        while let Ok(Some(_)) = core.next_command() {
            core.command_done();
            steps += 1;
        }
        assert!(steps <= 32, "{steps}");
        core.tell(Event::Lost);
        core.ring_if_asleep();
        let told = std::iter::from_fn(|| lane.next()).take(200).count();
        assert!(told <= 64, "{told}");
        let _ = lane.take_missed();
        let _ = lane.put(1, Command::Hello);
    }
}

#[test]
fn record_that_is_not_there_has_no_lane() {
    let folder = tempfile::tempdir().unwrap();
    let segment = segment_in(folder.path(), 8, 1 << 20);
    assert!(segment.lane_info(AttachIndex::DAEMON).is_some());
    let beyond = AttachIndex::new_checked(200, 4_096).unwrap();
    assert!(segment.lane_info(beyond).is_none());
    assert!(!segment.has_commands(beyond));
}
