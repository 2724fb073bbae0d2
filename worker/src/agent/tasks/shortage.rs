//! How an attempt takes its slot and begins, or cannot begin because the machine carries no more: then it waits again, and fewer slots
//! are used until one that begins shows that there are more.
//!
//! Tested at the end of the file.

use qtf_proto::v1::Assignment;

use super::{Phase, RunNumber, Tasks};
use crate::stop::StopSwitch;

impl Tasks {
    /// Notes that an attempt takes a slot now.
    pub(in crate::agent) fn on_starting(&mut self, run: RunNumber, switch: StopSwitch) {
        if let Some(held) = self.places.get_mut(run) {
            held.phase = Phase::Running {
                switch,
                begun: false,
                unwanted: false,
            };
            self.running += 1;
        }
    }

    /// Notes that an attempt stands in line, and begins when a slot is there.
    pub(in crate::agent) fn on_in_line(&mut self, run: RunNumber, switch: StopSwitch) {
        if let Some(held) = self.places.get_mut(run) {
            held.phase = Phase::InLine { switch };
            self.in_line += 1;
        }
    }

    /// Notes that a slot is in the hands of those in line.
    pub(in crate::agent) const fn on_slot_given(&mut self) {
        self.running += 1;
    }

    /// Notes that nothing in line has taken so many slots.
    pub(in crate::agent) const fn on_slots_back(&mut self, count: usize) {
        self.running = self.running.saturating_sub(count);
    }

    /// Notes that one in line waits in the queue again, before all others.
    pub(in crate::agent) fn on_taken_back(&mut self, run: RunNumber, assignment: Assignment) {
        if let Some(held) = self.places.get_mut(run)
            && let Phase::InLine { .. } = held.phase
        {
            self.in_line = self.in_line.saturating_sub(1);
            held.phase = Phase::Queued;
            self.queue.push_front((run, assignment));
        }
    }

    /// Notes that nothing is in line any more: whatever was, and does not wait, has begun.
    pub(in crate::agent) fn on_none_in_line(&mut self) {
        if self.in_line == 0 {
            return;
        }
        self.in_line = 0;
        for run in self.places.numbers() {
            if let Some(held) = self.places.get_mut(run) {
                held.phase.begin();
            }
        }
    }

    /// Notes that it runs: the machine carries as many, and may carry one more.
    pub(in crate::agent) fn on_begun(&mut self, run: RunNumber) {
        let Some(held) = self.places.get_mut(run) else {
            return;
        };
        if let Phase::InLine { .. } = held.phase {
            self.in_line = self.in_line.saturating_sub(1);
        }
        held.phase.begin();
        if let Phase::Running { begun, .. } = &mut held.phase {
            *begun = true;
            self.started.push(run);
            self.carries(self.running);
        }
    }

    /// Notes that one ran besides what runs, and is over: the machine carries as many.
    pub(in crate::agent) fn on_carried(&mut self) {
        self.carries(self.running + 1);
    }

    fn carries(&mut self, count: usize) {
        if count >= self.usable {
            self.usable = self.slots.min(count + 1);
        }
    }

    /// An attempt could not begin, as the machine carries no more than what runs. It waits again, before all others; the daemon
    /// was told of no start, and takes it back if another worker has room.
    pub(in crate::agent) fn on_shortage(&mut self, run: RunNumber, assignment: Assignment) {
        let Some(held) = self.places.get_mut(run) else {
            return;
        };
        let unwanted = match held.phase {
            Phase::Running { unwanted, .. } => unwanted,
            Phase::InLine { .. } => {
                self.in_line = self.in_line.saturating_sub(1);
                false
            }
            Phase::Queued | Phase::Ended(_) => return,
        };
        self.running = self.running.saturating_sub(1);
        self.usable = self.running.max(1);
        if unwanted {
            self.places.take(run);
            return;
        }
        held.phase = Phase::Queued;
        self.queue.push_front((run, assignment));
    }

    /// How many slots can be used, and how many there are.
    pub(in crate::agent) const fn usable(&self) -> (usize, usize) {
        (self.usable, self.slots)
    }
}

impl Phase {
    /// What was in line has begun.
    fn begin(&mut self) {
        match core::mem::replace(self, Self::Queued) {
            Self::InLine { switch } => {
                *self = Self::Running {
                    switch,
                    begun: true,
                    unwanted: false,
                };
            }
            other @ (Self::Queued | Self::Running { .. } | Self::Ended(_)) => *self = other,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use qtf_proto::v1::Outcome;

    use super::super::tests::{assignment, next_to_start};
    use super::*;
    use crate::stop::stop_pair;

    #[test]
    fn attempt_that_could_not_begin_waits_at_the_head_and_no_more_is_asked_for_than_is_carried() {
        let mut tasks = Tasks::new(4, 4);
        assert_eq!(tasks.grant(), 4);
        for id in 1..=4 {
            tasks.accept(assignment(id));
        }
        let mut runs = Vec::new();
        while let Some((run, assignment)) = next_to_start(&mut tasks) {
            tasks.on_starting(run, stop_pair(0).0);
            runs.push((run, assignment));
        }
        tasks.on_begun(runs[0].0);
        tasks.on_begun(runs[1].0);
        for (run, assignment) in runs.drain(2..).rev() {
            tasks.on_shortage(run, assignment);
        }
        assert_eq!(tasks.usable(), (2, 4));
        assert_eq!(
            tasks.take_started().len(),
            2,
            "of the others no start is told"
        );
        assert!(next_to_start(&mut tasks).is_none());
        tasks.on_ended(runs[0].0, Outcome::default(), Bytes::new());
        tasks.take_results();
        assert_eq!(tasks.grant(), 0, "two that wait, one that runs");
        let (run, next) = next_to_start(&mut tasks).unwrap();
        assert_eq!(next.task.unwrap().task_id, 3, "in their order");
        tasks.on_starting(run, stop_pair(0).0);
        assert!(next_to_start(&mut tasks).is_none());
        tasks.on_begun(run);
        assert_eq!(tasks.usable(), (3, 4), "one more is tried");
    }

    #[test]
    fn with_nothing_running_one_slot_is_tried_all_the_same() {
        let mut tasks = Tasks::new(2, 2);
        tasks.accept(assignment(1));
        let (run, assignment) = next_to_start(&mut tasks).unwrap();
        tasks.on_starting(run, stop_pair(0).0);
        tasks.on_shortage(run, assignment);
        assert_eq!(tasks.usable(), (1, 2));
        assert!(next_to_start(&mut tasks).is_some());
    }
}
