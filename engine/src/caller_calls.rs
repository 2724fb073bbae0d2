//! The calls of workers that hold no streams; see `register/calling.rs`.
//!
//! Tested in `engine/tests/rules/calling.rs`.

use qtf_shm::{KindSet, Now, WorkerId};

use crate::cycle::Engine;
use crate::effects::StopReason;
use crate::lookup::TaskRef;
use crate::plm::{Fence, Namer};
use crate::register::{Loan, Reserve, Reserved, check_reserve};
use crate::rejection::Rejection;

impl Engine {
    /// A worker asks for tasks. If the call waits ([`Reserved::waits`]), what is placed comes out as dispatch effects, at most as many as it asked for,
    /// until [`Engine::reserve_ended`].
    ///
    /// # Errors
    /// A field is out of range, or all worker slots or kinds are in use, or the principal's share of them.
    pub fn reserve(&mut self, now: Now, reserve: &Reserve<'_>) -> Result<Reserved, Rejection> {
        let mut parts = self.parts(now);
        let count = check_reserve(reserve)?;
        let segment = parts.turn.segment;
        parts
            .plm
            .check_kinds(segment, reserve.kinds, Namer::Worker)?;
        let mut kinds = KindSet::EMPTY;
        for name in reserve.kinds {
            let kind = parts.plm.intern_kind(segment, name, Namer::Worker)?;
            kinds.insert(kind);
        }
        parts
            .workers
            .reserve(&mut parts.turn, reserve, count, kinds)
    }

    /// A call that waited has ended; so many of the tasks that it asked for were never sent to it as effects.
    pub fn reserve_ended(&mut self, now: Now, worker: WorkerId, unused: u32) {
        let mut parts = self.parts(now);
        if let Ok(index) = parts.workers.serving(parts.turn.segment, worker) {
            parts.workers.reserve_ended(&mut parts.turn, index, unused);
        }
    }

    /// A call is answered with an attempt, which is its caller's for so long. False if the attempt is not the
    /// worker's any more, or is to stop: then the answer is not to have it.
    pub fn lend_attempt(&mut self, now: Now, worker: WorkerId, asked: TaskRef, loan: Loan) -> bool {
        let mut parts = self.parts(now);
        let Ok(worker) = parts.workers.serving(parts.turn.segment, worker) else {
            return false;
        };
        let fence = Fence { worker, asked };
        parts.plm.lend(&mut parts.turn, parts.workers, fence, loan)
    }

    /// A worker says that it is at an attempt still: its lease starts over. Says why the attempt is to stop, if it is.
    pub fn touch_attempt(
        &mut self,
        now: Now,
        worker: WorkerId,
        asked: TaskRef,
        lease_ns: u64,
    ) -> Option<StopReason> {
        let mut parts = self.parts(now);
        let Ok(worker) = parts.workers.serving(parts.turn.segment, worker) else {
            return Some(StopReason::Stale);
        };
        let fence = Fence { worker, asked };
        parts
            .plm
            .touch(&mut parts.turn, parts.workers, fence, lease_ns)
    }

    /// This is the secret of a worker that calls.
    #[must_use]
    pub fn is_caller_token(&self, token: u64) -> bool {
        token != 0 && self.workers.is_caller_token(&self.segment, token)
    }
}
