//! What must be so of each task, in whichever world: attempts follow one another, a result counts once, and the end is the end.
//!
//! What a world knows beyond that (what was held, cancelled, made durable, lost) it keeps beside this, and asks for in its own checks.

use qtf_shm::{Now, Phase, TaskId};

/// The life of one accepted task, as it was seen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Life {
    /// Number of the last attempt that was handed out.
    pub attempts: u16,
    /// The attempt whose result was recorded last.
    pub recorded: u16,
    /// The end that was told, and when.
    pub end: Option<(Phase, Now)>,
}

impl Life {
    /// An attempt is handed out. `is_held`: somebody holds the task. A local worker that was killed while it took one has used up a number.
    pub fn dispatched(&mut self, id: TaskId, attempt: u16, is_held: bool) {
        assert_eq!(self.end, None, "{id} was handed out after its end");
        assert!(!is_held, "{id} was handed out while it was held");
        assert!(
            attempt > self.attempts,
            "{id}: attempt {attempt} was handed out again, after {}",
            self.attempts
        );
        self.attempts = attempt;
    }

    /// The result of an attempt was recorded.
    pub fn recorded(&mut self, id: TaskId, attempt: u16) {
        assert_eq!(self.end, None, "{id} had a result after its end");
        assert_eq!(attempt, self.attempts, "{id}: only the last attempt counts");
        let before = self.recorded;
        assert!(attempt > before, "{id}: attempt {attempt} counted twice");
        self.recorded = attempt;
    }

    /// The end is told, for the first time.
    pub fn ended(&mut self, id: TaskId, phase: Phase, now: Now) {
        assert_eq!(self.end, None, "{id} ended twice");
        self.end = Some((phase, now));
    }
}
