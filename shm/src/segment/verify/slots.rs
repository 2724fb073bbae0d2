//! Each task slot by itself: state, bit, owner, references.

use crate::arena::ChunkState;
use crate::blob::BlobRef;
use crate::id::{SlotIndex, TaskId};
use crate::segment::SegmentView;
use crate::segment::blobs::inline_place;
use crate::segment::free::chunk_owner;
use crate::segment::records::Part;
use crate::segment::verify::trees::subject;
use crate::segment::verify::{Pass, Rule};
use crate::task::slot::{INLINE_BYTES_MAX, TaskSlot};
use crate::task::state::{Owner, Phase, StateWord};
use crate::worker::WorkerPhase;

pub(super) fn check(view: &SegmentView, pass: &mut Pass) {
    let bitmap = view.parts.bitmap();
    for (level, bit) in bitmap.check() {
        let text = "says full or not full, and the words below say otherwise";
        pass.found(
            Rule::BitmapSummary,
            format!("level {level} bit {bit}"),
            text,
        );
    }
    for number in 0..view.high_water() {
        let Some(slot) = view.slot(number) else {
            return;
        };
        let task = &view.parts.tasks[slot.position()];
        let state = task.state();
        pass.tasks += 1;
        let free = state.phase() == Phase::Free;
        // The bit of a free slot that stands at a gate is taken.
        let is_claimable = free && state.raised_to(view.header.gen_base).is_some();
        if is_claimable != bitmap.is_free(number) {
            let bit = if is_claimable { "taken" } else { "free" };
            pass.found(
                Rule::FreeBit,
                subject(number),
                format!("{}, but its bit is {bit}", state.phase_name()),
            );
        }
        if !free {
            pass.tasks_used += 1;
            check_state(view, slot, state, pass);
            check_references(view, task, state, pass, slot);
        }
    }
}

fn check_state(view: &SegmentView, slot: SlotIndex, state: StateWord, pass: &mut Pass) {
    let number = slot.get();
    let phase = state.phase();
    if state.generation() == 0 || phase == Phase::Reserved {
        pass.found(
            Rule::State,
            subject(number),
            format!("impossible state {state:?}"),
        );
    }
    if phase == Phase::Quarantine {
        pass.found(
            Rule::Quarantine,
            subject(number),
            "was met in an impossible combination",
        );
    }
    let owner = match state.owner() {
        Owner::Worker(worker) => Some(worker),
        Owner::Attach(_) | Owner::None => None,
    };
    if !state.is_with_worker() {
        return;
    }
    let Some(slot) = owner.and_then(|worker| view.parts.workers.get(worker.position())) else {
        pass.found(
            Rule::Owner,
            subject(number),
            format!("{phase} with no worker that exists: {state:?}"),
        );
        return;
    };
    if matches!(
        slot.state().phase(),
        WorkerPhase::Free | WorkerPhase::Joining | WorkerPhase::Reserved
    ) {
        let text = format!("{phase} with a worker that is not registered: {state:?}");
        pass.found(Rule::Owner, subject(number), text);
    }
}

fn check_references(
    view: &SegmentView,
    task: &TaskSlot,
    state: StateWord,
    pass: &mut Pass,
    slot: SlotIndex,
) {
    let Some(owner) = state.id(slot) else {
        return;
    };
    let (payload, result) = (task.payload(), task.result());
    // While it is claimed or runs, a reference and what it names are written one after the other.
    for (blob, name) in [(payload, "payload"), (result, "result")] {
        if let Some(problem) = problem_of(view, owner, blob) {
            pass.found(
                Rule::Reference,
                subject(slot.get()),
                format!("{name} {problem}"),
            );
        }
    }
    if let (BlobRef::Inline { .. }, BlobRef::Inline { len }) = (payload, result)
        && inline_place(task, Part::Result).saturating_add(len as usize) > INLINE_BYTES_MAX
    {
        pass.found(
            Rule::Reference,
            subject(slot.get()),
            "payload and result cannot both lie in the slot",
        );
    }
    // Whose the entry there is says the entry: a key does not live as long as its task.
    if let Some(place) = task.key_place()
        && place >= view.keys().capacity()
    {
        let text = format!(
            "names place {place} of the table of keys, which has {}",
            view.keys().capacity()
        );
        pass.found(Rule::Reference, subject(slot.get()), text);
    }
    if let Some(unit) = task.side_unit() {
        let belongs = view.chunk_state(unit) == Some(ChunkState::Used(chunk_owner(owner)));
        let shared = [payload, result]
            .iter()
            .any(|blob| matches!(blob, BlobRef::Arena { unit: at, .. } if *at == unit));
        if !belongs || shared {
            pass.found(
                Rule::Reference,
                subject(slot.get()),
                format!("side record at unit {unit} is not its own"),
            );
        }
    }
}

fn problem_of(view: &SegmentView, owner: TaskId, blob: BlobRef) -> Option<String> {
    match blob {
        BlobRef::None | BlobRef::Spill { .. } => None,
        BlobRef::Inline { len } => {
            let fits = len as usize <= INLINE_BYTES_MAX;
            (!fits).then(|| format!("of {len} bytes cannot lie in the slot"))
        }
        BlobRef::Arena { unit, len } => match view.chunk_state(unit) {
            Some(ChunkState::Used(found)) if found == chunk_owner(owner) => None,
            found => Some(format!(
                "of {len} bytes at unit {unit} is not its own: {found:?}"
            )),
        },
    }
}
