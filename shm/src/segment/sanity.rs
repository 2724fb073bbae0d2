//! A look at some states before a segment is adopted: is this a segment at all, or noise?
//!
//! A few damaged words cost the tasks they belong to (their slots go into quarantine). Where many states cannot be, none of
//! the others can be believed, and a daemon does better with an empty segment and its journal. The look is bounded: stretches of
//! slots spread over those in use, of which only a few hundred pages are touched.
//!
//! Tested in `segment/tests/damaged.rs`.

use crate::segment::SegmentView;
use crate::task::slot::TaskSlot;
use crate::task::state::{Owner, Phase, StateWord};

/// LIMIT: stretches looked at, and slots of each: at most 8,192 slots.
const STRETCHES: u32 = 64;
const STRETCH_SLOTS: u32 = 128;
/// So many impossible states are damage and not noise, whatever their share.
const IMPOSSIBLE_ALLOWED: u32 = 16;
/// One in so many of the states in use may be impossible.
const SHARE_ALLOWED: u32 = 8;

/// Refuses a segment in whose states too many cannot be.
pub(super) fn check(view: &SegmentView) -> Result<(), String> {
    let end = view.high_water();
    let step = (end / STRETCHES).max(STRETCH_SLOTS);
    let (mut used, mut impossible) = (0_u32, 0_u32);
    for first in (0..end).step_by(step as usize) {
        let last = end.min(first.saturating_add(STRETCH_SLOTS));
        let slots = view.parts.tasks.get(first as usize..last as usize);
        for state in slots.unwrap_or_default().iter().map(TaskSlot::state) {
            used += u32::from(state.phase() != Phase::Free);
            impossible += u32::from(is_impossible(view, state));
        }
    }
    if impossible > IMPOSSIBLE_ALLOWED && impossible > used / SHARE_ALLOWED {
        return Err(format!(
            "{impossible} of {used} task states looked at cannot be"
        ));
    }
    Ok(())
}

/// No sequence of events leads to this word.
pub(super) fn is_impossible(view: &SegmentView, state: StateWord) -> bool {
    let phase = state.phase();
    let no_worker = match state.owner() {
        Owner::Worker(worker) => view.worker_index(worker.get()).is_none(),
        Owner::None => state.is_with_worker(),
        Owner::Attach(_) => false,
    };
    let never_claimed = state.generation() == 0 && phase != Phase::Free;
    no_worker || never_claimed || phase == Phase::Reserved
}
