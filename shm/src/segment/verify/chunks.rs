//! The arena: counts of blocks, and for each chunk the slot that refers to it.

use crate::arena::{ArenaViolation, ChunkEntry, ChunkState};
use crate::blob::BlobRef;
use crate::segment::SegmentView;
use crate::segment::rebuild::refers_to;
use crate::segment::verify::{Pass, Rule};
use crate::task::slot::TaskSlot;
use crate::task::state::Phase;

pub(super) fn check(view: &SegmentView, pass: &mut Pass) {
    let arena = view.parts.arena();
    // The same chunk is claimed again and again on a busy segment, and the same count found that is about to change. With the number of changes in
    // its text, such a finding lasts only where nothing moves: there, whoever claimed or counted it is gone.
    let changes = view.parts.counters().changes();
    for violation in arena.check() {
        if let ArenaViolation::CountTooLow { .. } | ArenaViolation::CountTooHigh { .. } = violation
        {
            let text = format!("{violation}, after {changes} changes of tasks");
            pass.found(Rule::ArenaBlock, "arena", text);
        } else {
            pass.found(Rule::ArenaBlock, "arena", violation);
        }
    }
    let beside: Vec<u32> = results_beside(view).collect();
    for chunk in arena.chunks(0..view.geometry().arena_blocks()) {
        pass.chunks += 1;
        let subject = || format!("unit {}", chunk.unit);
        match chunk.state {
            ChunkState::Free => {}
            ChunkState::Claimed(claimant) if view.is_lane(chunk.unit, claimant) => {}
            ChunkState::Claimed(claimant) => {
                let attach = claimant.attach;
                pass.found(
                    Rule::Chunk,
                    subject(),
                    format!(
                        "claimed by attach record {attach} and not filled, after {changes} changes of tasks"
                    ),
                );
            }
            ChunkState::Damaged(word) => {
                pass.found(
                    Rule::Chunk,
                    subject(),
                    format!("impossible word {word:#018x}"),
                );
            }
            ChunkState::Used(owner) if view.is_history(chunk.unit, owner) => {}
            ChunkState::Used(owner) => {
                let slot = view
                    .slot(owner.slot)
                    .map(|slot| &view.parts.tasks[slot.position()]);
                let belongs = slot.is_some_and(|task| {
                    let state = task.state();
                    state.generation() == owner.generation
                        && state.phase() != Phase::Free
                        && (refers_to(task, chunk.unit) || beside.contains(&chunk.unit))
                });
                if !belongs {
                    let text = format!(
                        "slot {} generation {} does not refer to it",
                        owner.slot, owner.generation
                    );
                    pass.found(Rule::Chunk, subject(), text);
                } else if slot.is_some_and(|task| overflows(task, &chunk)) {
                    pass.found(
                        Rule::Reference,
                        subject(),
                        format!("slot {} refers to more bytes than it has", owner.slot),
                    );
                }
            }
        }
    }
}

/// Units of results that local workers have handed over and no slot refers to yet.
fn results_beside(view: &SegmentView) -> impl Iterator<Item = u32> + '_ {
    view.waiting_ends().filter_map(|(_, end)| match end.result {
        BlobRef::Arena { unit, .. } => Some(unit),
        BlobRef::None | BlobRef::Inline { .. } | BlobRef::Spill { .. } => None,
    })
}

fn overflows(task: &TaskSlot, chunk: &ChunkEntry) -> bool {
    [task.payload(), task.result()].iter().any(|blob| {
        matches!(blob, BlobRef::Arena { unit, len } if *unit == chunk.unit && *len as usize > chunk.bytes)
    })
}
