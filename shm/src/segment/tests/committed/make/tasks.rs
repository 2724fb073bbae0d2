//! The tasks of the daemon's clients in the image, and keys.

use super::{Maker, WALL_MS, key, outcome};
use crate::id::{SlotIndex, TaskId};
use crate::segment::{TaskFields, Tombstone};
use crate::task::side::SideRecord;
use crate::task::slot::{OutcomeKind, TaskOptions};
use crate::task::state::{Blocked, Event, Phase};
use crate::time::STAMP_MAX;

/// Tasks that no worker has.
impl Maker {
    pub(super) fn waiting(&self) {
        for (payload, priority) in [(0, 0), (30, 255), (48, 100), (49, 100), (64, 100), (65, 7)] {
            let fields = TaskFields {
                priority,
                ..self.fields("noop")
            };
            self.submit(payload, &fields, Event::Admit);
        }
        let array = SideRecord {
            array_id: TaskId::new(41, SlotIndex::new_checked(1, 64).unwrap()).as_raw(),
            array_index: 13,
            estimate_ms: 1_500,
            keep_s: 86_400,
            submitted_unix_ms: WALL_MS,
            ..SideRecord::default()
        };
        let whole = SideRecord {
            key: key(0xDD).words(),
            key_expiry: STAMP_MAX,
            finish_by: 9_000_000_000,
            trace: [11, 12],
            ..array.clone()
        };
        for (payload, side) in [(5_000, array), (70_000, whole)] {
            let fields = TaskFields {
                side: Some(side),
                timeout_ms: 90_000,
                options: TaskOptions::JOURNAL.with(TaskOptions::AT_MOST_ONCE),
                ..self.fields("exec")
            };
            let id = self.submit(payload, &fields, Event::Admit);
            let right = self.segment.plm_right().unwrap();
            self.segment.write_task(right, self.slot(id)).set_lsn(70);
        }
        let parked = self.submit(8, &self.fields("render"), Event::Admit);
        let why = Blocked::NO_WORKER_OFFERS;
        self.change(parked, Event::Park { why });
        let later = TaskFields {
            due: self.segment.now().stamp() + 40_000_000_000,
            ..self.fields("noop")
        };
        self.submit(8, &later, Event::AdmitDelayed);
        self.submit(8, &self.fields("noop"), Event::AdmitHeld);
        self.submit(8, &later, Event::AdmitHeld);
    }
}

/// Tasks that a worker has, or had.
impl Maker {
    pub(super) fn with_workers(&self) {
        let fields = self.fields("exec");
        let assigned = self.submit(40, &fields, Event::Admit);
        self.hand_out(assigned, 1);
        let runs = self.submit(40, &fields, Event::Admit);
        self.hand_out(runs, 1);
        self.change(runs, Event::Start);
        // The third attempt of one that failed once and lost a worker once.
        let again = self.submit(100, &fields, Event::Admit);
        let right = self.segment.plm_right().unwrap();
        self.hand_out(again, 1);
        self.change(again, Event::Start);
        self.end(again, outcome(OutcomeKind::Exited, 3), 0, 1);
        self.note(
            again,
            1,
            outcome(OutcomeKind::Exited, 3),
            ("", b"no such file\n"),
        );
        self.segment
            .write_task(right, self.slot(again))
            .set_failures(1);
        self.change(again, Event::Retry);
        self.hand_out(again, 1);
        self.change(again, Event::Requeue);
        self.give(1);
        self.note(
            again,
            2,
            outcome(OutcomeKind::WorkerLost, 0),
            ("lease over", b""),
        );
        self.segment
            .write_task(right, self.slot(again))
            .set_losses(1);
        self.hand_out(again, 4);
        self.change(again, Event::Start);
        for event in [Event::RequestCancel, Event::RequestStop] {
            self.change(again, event);
        }
        let judged = self.submit(
            20,
            &TaskFields {
                options: TaskOptions::JOURNAL,
                ..self.fields("exec")
            },
            Event::Admit,
        );
        self.hand_out(judged, 1);
        self.change(judged, Event::Start);
        self.end(judged, outcome(OutcomeKind::Exited, 0), 900, 1);
        self.change(judged, Event::Judge);
        self.segment
            .write_task(right, self.slot(judged))
            .set_lsn(76);
    }

    pub(super) fn ended(&self) {
        // Payload, result, how it ends.
        let ends = [
            (0, 60, Event::Complete, outcome(OutcomeKind::Exited, 0)),
            (64, 16, Event::Complete, outcome(OutcomeKind::Exited, 0)),
            (2_000, 48, Event::Complete, outcome(OutcomeKind::Exited, 0)),
            (10, 80_000, Event::Complete, outcome(OutcomeKind::Exited, 0)),
            (10, 700, Event::Fail, outcome(OutcomeKind::Signalled, 9)),
            (10, 0, Event::Cancel, outcome(OutcomeKind::Cancelled, 0)),
            (10, 0, Event::Bury, outcome(OutcomeKind::WorkerLost, 1)),
        ];
        for (payload, result, event, what) in ends {
            let id = self.submit(payload, &self.fields("echo"), Event::Admit);
            self.hand_out(id, 1);
            self.change(id, Event::Start);
            self.end(id, what, result, 1);
            self.change(id, event);
        }
        let waiting = self.submit(10, &self.fields("echo"), Event::Admit);
        let right = self.segment.plm_right().unwrap();
        self.change(waiting, Event::Cancel);
        let cancelled = outcome(OutcomeKind::Cancelled, 0);
        self.segment
            .write_task(right, self.slot(waiting))
            .set_outcome(cancelled);
        let forgotten = self.submit(10, &self.fields("echo"), Event::Admit);
        self.hand_out(forgotten, 1);
        self.change(forgotten, Event::Start);
        self.end(forgotten, outcome(OutcomeKind::Exited, 0), 30, 1);
        self.change(forgotten, Event::Complete);
        self.change(forgotten, Event::Forget);
    }

    /// Slots whose task is gone, one of them expired, and one in quarantine.
    pub(super) fn freed(&self) {
        for is_expired in [false, true] {
            let id = self.submit(100, &self.fields("noop"), Event::Admit);
            self.hand_out(id, 1);
            self.change(id, Event::Start);
            self.end(id, outcome(OutcomeKind::Exited, 0), 100, 1);
            self.change(id, Event::Complete);
            if is_expired {
                let right = self.segment.plm_right().unwrap();
                let tombstone = Tombstone {
                    phase: Phase::Done,
                    unix_ms: WALL_MS + 3_600_000,
                };
                self.segment.note_expired(right, id, tombstone);
            }
            let slot = self.slot(id);
            self.segment
                .free_task(slot, self.segment.state(slot))
                .unwrap();
        }
        let broken = self.submit(5, &self.fields("noop"), Event::Admit);
        self.change(broken, Event::Quarantine);
    }

    pub(super) fn keys(&self) {
        let (table, now) = (self.segment.keys(), self.segment.now());
        // Of a task with a side record, of one without, one that is not confirmed, one whose task was acknowledged.
        let owners: Vec<(u8, TaskId)> = [(0xDD, 14), (0xA1, 7), (0xA2, 8), (0xA3, 9)]
            .into_iter()
            .map(|(number, slot)| {
                let slot = SlotIndex::new_checked(slot, 64).unwrap();
                (number, self.segment.state(slot).id(slot).unwrap())
            })
            .collect();
        for (number, id) in owners {
            let place = table.reserve(key(number), id, STAMP_MAX, now).unwrap();
            if number != 0xA2 {
                assert!(table.confirm(place));
            }
            if number == 0xA1 {
                let right = self.segment.plm_right().unwrap();
                let writer = self.segment.write_task(right, self.slot(id));
                writer.set_key_place(place.index());
            }
            if number == 0xA3 {
                assert!(table.spend_at(place.index(), id));
            }
        }
    }
}
