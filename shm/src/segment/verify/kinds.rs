//! The table of kinds: each entry can be, and what slots and workers refer to is there.

use crate::id::{KINDS_COUNT, KindIndex};
use crate::kind_set::KindSet;
use crate::segment::SegmentView;
use crate::segment::verify::trees::subject;
use crate::segment::verify::{Pass, Rule};
use crate::task::state::Phase;
use crate::worker::WorkerPhase;

pub(super) fn check(view: &SegmentView, pass: &mut Pass) {
    let table = view.parts.kinds();
    for (entry, why) in table.check() {
        pass.found(Rule::Kind, format!("kind {entry}"), why);
    }
    let named: KindSet = table.iter().map(|(kind, _)| kind).collect();
    tasks(view, named, pass);
    workers(view, named, pass);
}

/// A slot that is being filled has no kind yet, or that of its last task; number 0 is no kind.
fn tasks(view: &SegmentView, named: KindSet, pass: &mut Pass) {
    for number in 0..view.high_water() {
        let Some(slot) = view.slot(number) else {
            return;
        };
        let task = &view.parts.tasks[slot.position()];
        let phase = task.state().phase();
        if matches!(phase, Phase::Free | Phase::Claimed) {
            continue;
        }
        let kind = task.line();
        let is_named = KindIndex::new_checked(kind, KINDS_COUNT)
            .is_some_and(|kind| kind == KindIndex::NONE || named.contains(kind));
        if !is_named {
            let text = format!("{phase} of kind {kind}, which has no name");
            pass.found(Rule::Kind, subject(number), text);
        }
    }
}

/// The daemon makes a remote worker's mask of names it has put into the table. A local worker writes its own, which may also
/// hold kinds that are to be named later: all ones stand for any kind.
fn workers(view: &SegmentView, named: KindSet, pass: &mut Pass) {
    for (number, slot) in view.parts.workers.iter().enumerate() {
        let serves = matches!(
            slot.state().phase(),
            WorkerPhase::Live | WorkerPhase::Draining | WorkerPhase::Suspect
        );
        let mut unnamed = slot.kinds().without(named).iter();
        if serves
            && slot.local().is_none()
            && let Some(kind) = unnamed.next()
        {
            let text = format!("offers kind {kind}, which has no name");
            pass.found(Rule::Kind, format!("worker {number}"), text);
        }
    }
}
