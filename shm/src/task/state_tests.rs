//! Every pair of phase and event against a second writing of the table: as a string per phase, one letter for each
//! target.

use super::*;

const ATTACH: u16 = 7;
const WORKER: u16 = 9;

fn all_events() -> Vec<(&'static str, Event)> {
    let attach = AttachIndex::new_checked(ATTACH, 100).unwrap();
    let worker = WorkerIndex::new_checked(WORKER, 100).unwrap();
    vec![
        ("claim", Event::Claim { attach }),
        ("submit", Event::Submit),
        ("admit", Event::Admit),
        ("admit_delayed", Event::AdmitDelayed),
        ("admit_held", Event::AdmitHeld),
        ("abandon", Event::Abandon),
        ("accept", Event::Accept),
        ("accept_delayed", Event::AcceptDelayed),
        (
            "block",
            Event::Block {
                why: Blocked::NO_JOURNAL_ROOM,
            },
        ),
        ("hold", Event::Hold),
        ("refuse", Event::Refuse),
        (
            "park",
            Event::Park {
                why: Blocked::NO_WORKER_OFFERS,
            },
        ),
        ("release", Event::Release),
        ("release_delayed", Event::ReleaseDelayed),
        ("assign", Event::Assign { worker }),
        ("start", Event::Start),
        ("end", Event::End),
        ("judge", Event::Judge),
        ("complete", Event::Complete),
        ("fail", Event::Fail),
        ("retry", Event::Retry),
        ("retry_later", Event::RetryLater),
        ("bury", Event::Bury),
        ("requeue", Event::Requeue),
        ("cancel", Event::Cancel),
        ("request_cancel", Event::RequestCancel),
        ("request_stop", Event::RequestStop),
        ("complete_unattended", Event::CompleteUnattended),
        ("revive", Event::Revive),
        ("forget", Event::Forget),
        ("free", Event::Free),
        ("quarantine", Event::Quarantine),
    ]
}

/// `event>target` for each legal event of the phase, without the cancellation that needs a flag.
fn expected(phase: &str) -> &'static str {
    match phase {
        "free" => "claim>claimed quarantine>quarantine",
        "claimed" => {
            "submit>submitted admit>ready admit_delayed>delayed admit_held>held abandon>free \
             quarantine>quarantine"
        }
        "submitted" => {
            "accept>ready accept_delayed>delayed block>blocked hold>held refuse>free cancel>cancelled \
             quarantine>quarantine"
        }
        "blocked" | "delayed" => "hold>held release>ready cancel>cancelled quarantine>quarantine",
        "held" => "release>ready release_delayed>delayed cancel>cancelled quarantine>quarantine",
        "ready" => {
            "hold>held park>blocked assign>assigned bury>dead_letter cancel>cancelled quarantine>quarantine"
        }
        "assigned" => {
            "start>running bury>dead_letter requeue>ready request_cancel>assigned request_stop>assigned \
             quarantine>quarantine"
        }
        "running" => {
            "end>ended bury>dead_letter requeue>ready request_cancel>running request_stop>running \
             complete_unattended>done quarantine>quarantine"
        }
        "ended" => {
            "judge>ended complete>done fail>failed retry>ready retry_later>delayed bury>dead_letter \
             cancel>cancelled quarantine>quarantine"
        }
        "done" => "forget>done free>free quarantine>quarantine",
        "failed" => "forget>failed free>free quarantine>quarantine",
        "cancelled" => "forget>cancelled free>free quarantine>quarantine",
        "dead_letter" => "revive>ready forget>dead_letter free>free quarantine>quarantine",
        "reserved" => "quarantine>quarantine",
        _ => "",
    }
}

fn word(phase: Phase, flags: u8, fence: u16) -> StateWord {
    StateWord::from_raw(77)
        .with_phase(phase)
        .with_flags(flags)
        .with_fence(fence)
        .with_owner(3)
}

#[test]
fn every_pair_of_phase_and_event_is_as_the_table_says() {
    for phase in Phase::ALL {
        for flags in 0..16 {
            let from = word(phase, flags, 5);
            let legal: Vec<String> = all_events()
                .into_iter()
                .filter_map(|(name, event)| {
                    from.after(event)
                        .ok()
                        .map(|to| format!("{name}>{}", to.phase()))
                })
                .collect();
            let mut wanted: Vec<String> = expected(phase.name())
                .split_whitespace()
                .map(str::to_owned)
                .collect();
            if phase == Phase::Ended && flags & FLAG_SETTLING != 0 {
                // Decided: it is not decided again, and no retry follows.
                wanted.retain(|step| !step.starts_with("retry") && !step.starts_with("judge"));
            }
            if phase.is_final() && flags & FLAG_SETTLING != 0 {
                // On its way out: it is not forgotten again, and comes back no more.
                wanted.retain(|step| !step.starts_with("forget") && !step.starts_with("revive"));
            }
            if flags & FLAG_CANCEL != 0 {
                // It is to be cancelled.
                wanted.retain(|step| step != "hold>held");
            }
            if matches!(phase, Phase::Assigned | Phase::Running) && flags & FLAG_CANCEL != 0 {
                wanted.push("cancel>cancelled".to_owned());
            }
            if flags != 0 {
                // A daemon has set the flag, so one judges.
                wanted.retain(|step| !step.starts_with("complete_unattended"));
            }
            let (mut legal_sorted, mut wanted_sorted) = (legal, wanted);
            legal_sorted.sort();
            wanted_sorted.sort();
            assert_eq!(legal_sorted, wanted_sorted, "{phase} with flags {flags}");
        }
    }
}

#[test]
fn owner_follows_the_phase() {
    for phase in Phase::ALL {
        for (name, event) in all_events() {
            let Ok(to) = word(phase, FLAG_CANCEL, 5).after(event) else {
                continue;
            };
            let owner_bits = to.owner_bits();
            let wanted = match name {
                "claim" => ATTACH,
                "assign" => WORKER,
                "submit"
                | "start"
                | "end"
                | "judge"
                | "complete"
                | "fail"
                | "bury"
                | "request_cancel"
                | "request_stop"
                | "complete_unattended"
                | "forget"
                | "quarantine" => 3,
                "cancel" if phase.is_with_worker() => 3,
                "block" => 2 << 10,
                "park" => 1 << 10,
                _ => 0xFFFF,
            };
            assert_eq!(owner_bits, wanted, "{phase} {name}");
            assert_eq!(
                to.generation(),
                if name == "claim" { 78 } else { 77 },
                "{phase} {name}"
            );
        }
    }
}

#[test]
fn fence_and_flags_follow_the_event() {
    for phase in Phase::ALL {
        for (name, event) in all_events() {
            let flags = FLAG_CANCEL | FLAG_TIMED_OUT;
            let Ok(to) = word(phase, flags, 5).after(event) else {
                continue;
            };
            let (attempt, left) = match name {
                "claim" | "abandon" | "refuse" | "free" => (0, 0),
                "revive" => (5, 0),
                "judge" => (5, flags | FLAG_SETTLING),
                "forget" => (5, flags | FLAG_SETTLING),
                "assign" => (6, FLAG_CANCEL),
                "retry" | "retry_later" => (5, 0),
                _ => (5, flags),
            };
            assert_eq!((to.fence(), to.flags()), (attempt, left), "{phase} {name}");
        }
    }
}

#[test]
fn requests_set_their_flag_once() {
    let running = word(Phase::Running, 0, 1);
    let once = running.after(Event::RequestCancel).unwrap();
    assert!(once.has_flag(FLAG_CANCEL) && !once.has_flag(FLAG_TIMED_OUT));
    assert_eq!(once.after(Event::RequestCancel).unwrap(), once);
    assert!(
        once.after(Event::RequestStop)
            .unwrap()
            .has_flag(FLAG_CANCEL | FLAG_TIMED_OUT)
    );
}

#[test]
fn parts_of_the_word_lie_where_the_drawing_says() {
    let word = StateWord::from_raw(0)
        .at((0xA5 << 27) | 0x5A5_A5A5)
        .with_phase(Phase::Ended)
        .with_flags(0xF)
        .with_owner(0xF00F)
        .with_fence(0x8F1);
    assert_eq!(
        word.as_raw(),
        (9 << 59) | (0xF << 55) | (0xF00F << 39) | (0x8F1 << 27) | 0x5A5_A5A5
    );
    assert_eq!((word.era(), word.fence()), (0xA5, 0x8F1));
    assert_eq!(word.generation(), (0xA5 << 27) | 0x5A5_A5A5);
    let last = StateWord::from_raw(u64::MAX);
    assert_eq!(
        (last.phase(), last.fence(), last.flags()),
        (Phase::Reserved, FENCE_MAX, 0xF)
    );
}

#[test]
fn last_fence_is_final_and_does_not_wrap() {
    let worker = WorkerIndex::new_checked(0, 1).unwrap();
    let assign = Event::Assign { worker };
    let last = word(Phase::Ready, 0, FENCE_MAX - 1).after(assign).unwrap();
    assert_eq!(last.fence(), 4_095);
    let back = last.after(Event::Requeue).unwrap();
    assert!(back.after(assign).is_err());
    assert_eq!(back.after(Event::Bury).unwrap().fence(), 4_095);
}

#[test]
fn no_claim_goes_through_a_gate() {
    let claim = Event::Claim {
        attach: AttachIndex::DAEMON,
    };
    let half = 1 << 26;
    for gate in [half, 2 * half, 3 * half, GENERATION_MAX + 1] {
        let before = StateWord::default().at(gate - 1);
        assert!(before.after(claim).is_err(), "{gate:x}");
        assert_eq!(before.raised_to(0), None, "{gate:x}");
        let earlier = StateWord::default().at(gate - 2);
        assert_eq!(earlier.after(claim).unwrap().generation(), gate - 1);
        assert_eq!(earlier.beyond_gate(0), None);
        let beyond = before.beyond_gate(0);
        if gate > GENERATION_MAX {
            assert_eq!(beyond, None, "worn out");
            continue;
        }
        let beyond = beyond.unwrap();
        assert_eq!(beyond.generation(), gate);
        assert_eq!(beyond.after(claim).unwrap().generation(), gate + 1);
    }
    let in_use = StateWord::default().at(half - 1).with_phase(Phase::Done);
    assert_eq!(in_use.beyond_gate(0), None);
}

#[test]
fn a_slot_that_was_never_used_starts_at_the_base() {
    let attach = AttachIndex::DAEMON;
    let claimed = |state: StateWord, base| {
        let raised = state.raised_to(base)?;
        Some(raised.after(Event::Claim { attach }).unwrap().generation())
    };
    let fresh = StateWord::default();
    assert_eq!((fresh.phase(), fresh.owner()), (Phase::Free, Owner::None));
    assert_eq!(claimed(fresh, 500), Some(501));
    assert_eq!(claimed(StateWord::from_raw(900), 500), Some(901));
    assert_eq!(claimed(StateWord::from_raw(90), 500), Some(501));
    let far = (77 << 27) | 12;
    assert_eq!(claimed(fresh, far), Some(far + 1));
    // A base right before a gate: nobody remembers a word of a slot that was never used.
    assert_eq!(claimed(fresh, (1 << 27) - 1), Some((1 << 27) + 1));
    assert_eq!(claimed(fresh, (1 << 26) - 1), Some((1 << 26) + 1));
}

#[test]
fn slot_of_an_earlier_segment_goes_through_a_gate_to_the_base_if_one_lies_between() {
    let base = (3 << 27) | 1_000;
    let near = StateWord::default().at((3 << 27) | 5);
    assert_eq!(near.raised_to(base).unwrap().generation(), base);
    let far = StateWord::default().at((2 << 27) | 5_000);
    assert_eq!(far.raised_to(base), None);
    assert_eq!(far.beyond_gate(base).unwrap().generation(), base);
    let half = StateWord::default().at((2 << 27) | 5);
    assert_eq!(
        half.beyond_gate((2 << 27) | (1 << 26))
            .unwrap()
            .generation(),
        (2 << 27) | (1 << 26)
    );
}

#[test]
fn planned_phases_are_named_and_written_by_nobody() {
    let names: Vec<&str> = (15..=21)
        .map(|number| StateWord::from_raw(number << 59))
        .inspect(|state| assert_eq!(state.phase(), Phase::Reserved))
        .map(StateWord::phase_name)
        .collect();
    let planned = [
        "aborted",
        "preparing",
        "suspended",
        "unfolding",
        "suspending",
        "gathered",
    ];
    assert_eq!(names[..6], planned);
    assert_eq!(names[6], "reserved");
    for phase in Phase::ALL {
        let state = StateWord::default().with_phase(phase);
        assert_eq!((state.phase(), state.phase_name()), (phase, phase.name()));
    }
}

#[test]
fn blocked_task_says_why_until_it_is_released() {
    let parked = word(Phase::Ready, 0, 2)
        .after(Event::Park {
            why: Blocked::NO_JOURNAL_ROOM,
        })
        .unwrap();
    assert_eq!(parked.blocked(), Some(Blocked::NO_JOURNAL_ROOM));
    assert_eq!(parked.owner(), Owner::None);
    assert_eq!(Blocked::NO_JOURNAL_ROOM.to_string(), "no_journal_room");
    let ready = parked.after(Event::Release).unwrap();
    assert_eq!((ready.blocked(), ready.owner_bits()), (None, OWNER_NONE));
    for (bits, said) in [
        (OWNER_NONE, None),
        (0, None),
        ((3 << 10) | 17, Some("dependencies 17")),
        (62 << 10, Some("reason 62")),
    ] {
        let blocked = word(Phase::Blocked, 0, 0).with_owner(bits).blocked();
        assert_eq!(blocked.map(|why| why.to_string()).as_deref(), said);
    }
}

#[test]
fn finished_task_remembers_its_last_worker_and_is_nobodys() {
    let done = word(Phase::Ended, 0, 1).after(Event::Complete).unwrap();
    assert_eq!(done.owner(), Owner::None);
    assert_eq!(done.last_worker().map(WorkerIndex::get), Some(3));
    let never_ran = word(Phase::Ready, 0, 0).after(Event::Cancel).unwrap();
    assert_eq!(never_ran.last_worker(), None);
}

#[test]
fn an_id_names_its_own_generation_only() {
    let slot = SlotIndex::new_checked(4, 10).unwrap();
    let ready = word(Phase::Ready, 0, 1);
    let id = ready.id(slot).unwrap();
    assert!(ready.is_of(id));
    assert!(!StateWord::from_raw(78).with_phase(Phase::Ready).is_of(id));
    assert!(
        !StateWord::in_era(ready.as_raw(), 1).is_of(id),
        "the same word in the next era is another task's"
    );
    assert!(
        !StateWord::from_raw(77).is_of(id),
        "a freed slot is nobody's"
    );
    assert_eq!(StateWord::default().id(slot), None);
}

#[test]
fn any_bit_pattern_can_be_read_and_offered_every_event() {
    fastrand::seed(1);
    for _ in 0..20_000 {
        let from = StateWord::from_raw(fastrand::u64(..));
        let _ = (from.owner(), from.last_worker(), format!("{from:?}"));
        for (_, event) in all_events() {
            if let Ok(to) = from.after(event) {
                assert_ne!(to.phase(), Phase::Reserved);
            }
        }
    }
}

#[test]
fn judged_task_is_nobodys_and_loses_the_flag_with_the_phase() {
    let ended = word(Phase::Ended, FLAG_CANCEL, 2);
    assert!(matches!(ended.owner(), Owner::Worker(_)) && ended.is_with_worker());
    let judged = ended.after(Event::Judge).unwrap();
    assert!(judged.is_judged() && !judged.is_with_worker());
    assert_eq!(judged.owner(), Owner::None);
    assert_eq!(judged.last_worker(), ended.last_worker());
    for event in [Event::Complete, Event::Fail, Event::Bury, Event::Cancel] {
        let end = judged.after(event).unwrap();
        assert_eq!(
            (end.flags(), end.last_worker()),
            (FLAG_CANCEL, ended.last_worker())
        );
    }
}

#[test]
fn forgotten_task_stays_what_it_was_until_its_slot_is_given_back() {
    let buried = word(Phase::DeadLetter, 0, 2);
    let going = buried.after(Event::Forget).unwrap();
    assert!(going.is_forgotten() && !buried.is_forgotten());
    assert_eq!(
        (going.phase(), going.fence(), going.last_worker()),
        (Phase::DeadLetter, 2, buried.last_worker())
    );
    assert!(going.after(Event::Revive).is_err());
    let free = going.after(Event::Free).unwrap();
    assert_eq!((free.flags(), free.generation()), (0, buried.generation()));
}
