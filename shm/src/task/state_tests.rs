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
        ("block", Event::Block),
        ("hold", Event::Hold),
        ("refuse", Event::Refuse),
        ("park", Event::Park),
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

fn word(phase: Phase, flags: u8, attempt: u8) -> StateWord {
    StateWord::from_raw(77)
        .with_phase(phase)
        .with_flags(flags)
        .with_attempt(attempt)
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
            if phase == Phase::Ended && flags & FLAG_JUDGED != 0 {
                // Decided: it is not decided again, and no retry follows.
                wanted.retain(|step| !step.starts_with("retry") && !step.starts_with("judge"));
            }
            if phase.is_final() && flags & FLAG_FORGOTTEN != 0 {
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
                _ => 0xFFF,
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
fn attempt_and_flags_follow_the_event() {
    for phase in Phase::ALL {
        for (name, event) in all_events() {
            let flags = FLAG_CANCEL | FLAG_TIMED_OUT;
            let Ok(to) = word(phase, flags, 5).after(event) else {
                continue;
            };
            let (attempt, left) = match name {
                "claim" | "abandon" | "refuse" | "free" => (0, 0),
                "revive" => (5, 0),
                "judge" => (5, flags | FLAG_JUDGED),
                "forget" => (5, flags | FLAG_FORGOTTEN),
                "assign" => (6, FLAG_CANCEL),
                "retry" | "retry_later" => (5, 0),
                _ => (5, flags),
            };
            assert_eq!(
                (to.attempt(), to.flags()),
                (attempt, left),
                "{phase} {name}"
            );
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
fn last_attempt_and_last_generation_are_final() {
    let worker = WorkerIndex::new_checked(0, 1).unwrap();
    assert!(
        word(Phase::Ready, 0, 254)
            .after(Event::Assign { worker })
            .is_ok()
    );
    assert!(
        word(Phase::Ready, 0, 255)
            .after(Event::Assign { worker })
            .is_err()
    );
    let attach = AttachIndex::DAEMON;
    assert!(
        StateWord::from_raw(GENERATION_MAX - 1)
            .after(Event::Claim { attach })
            .is_ok()
    );
    assert!(
        StateWord::from_raw(GENERATION_MAX)
            .after(Event::Claim { attach })
            .is_err()
    );
}

#[test]
fn a_slot_that_was_never_used_starts_at_the_base() {
    let attach = AttachIndex::DAEMON;
    let fresh = StateWord::default();
    assert_eq!((fresh.phase(), fresh.owner()), (Phase::Free, Owner::None));
    assert_eq!(
        fresh
            .raised_to(500)
            .after(Event::Claim { attach })
            .unwrap()
            .generation(),
        501
    );
    assert_eq!(StateWord::from_raw(900).raised_to(500).generation(), 900);
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
        (going.phase(), going.attempt(), going.last_worker()),
        (Phase::DeadLetter, 2, buried.last_worker())
    );
    assert!(going.after(Event::Revive).is_err());
    let free = going.after(Event::Free).unwrap();
    assert_eq!((free.flags(), free.generation()), (0, buried.generation()));
}
