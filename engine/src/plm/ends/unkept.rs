//! The last tasks that succeeded and kept no result: their slots are free at once, and whoever asks for their end later is told the truth
//! for as long as they are remembered here.
//!
//! A table of ids with one place for each: a later one takes the place of an earlier one. It is lost with the engine. Invariant: an id is
//! here only after its end was told, or could have been. Tested at the end of this file and in `engine/tests/rules/results.rs`.

use qtf_shm::TaskId;

use crate::plm::Plm;

/// LIMIT: tasks that are remembered: 512 KiB, which are touched as they are used.
const PLACES: usize = 1 << 16;
/// Odd, so that the tasks of one slot come to different places one after the other.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Unkept {
    /// 0 is no id.
    ids: Box<[u64]>,
}

impl Unkept {
    pub(super) fn new() -> Self {
        Self {
            ids: vec![0; PLACES].into_boxed_slice(),
        }
    }

    pub(super) fn note(&mut self, task: TaskId) {
        if let Some(place) = self.ids.get_mut(place_of(task)) {
            *place = task.as_raw();
        }
    }

    pub(super) fn holds(&self, task: TaskId) -> bool {
        self.ids.get(place_of(task)) == Some(&task.as_raw())
    }
}

impl Plm {
    /// This task has succeeded, was told, and kept no result.
    pub(in crate::plm) fn note_unkept(&mut self, task: TaskId) {
        self.ends.unkept.note(task);
    }

    /// Whether this task has succeeded lately and kept no result.
    pub(crate) fn is_unkept(&self, task: TaskId) -> bool {
        self.ends.unkept.holds(task)
    }
}

/// Neighbours in a generation, and generations of a slot, have places of their own.
fn place_of(task: TaskId) -> usize {
    let mixed = task.generation().wrapping_mul(SPREAD);
    let spread = u64::from(task.slot().get()).wrapping_add(mixed);
    usize::try_from(spread).unwrap_or(0) % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(generation: u64, slot: u64) -> TaskId {
        TaskId::from_raw((generation << 24) | slot).unwrap()
    }

    #[test]
    fn last_tasks_are_known_whatever_slots_they_had_and_others_are_not() {
        let mut unkept = Unkept::new();
        for number in 1..=60_000 {
            unkept.note(id(number, 3));
        }
        assert!((1..=60_000).all(|number| unkept.holds(id(number, 3))));
        assert!(!unkept.holds(id(60_001, 3)) && !unkept.holds(id(7, 4)));
        for slot in 0..60_000 {
            unkept.note(id(70_000, slot));
        }
        assert!((0..60_000).all(|slot| unkept.holds(id(70_000, slot))));
        let earlier = (1..=60_000).filter(|number| unkept.holds(id(*number, 3)));
        assert!(earlier.count() < 10_000, "their places are others' now");
    }
}
