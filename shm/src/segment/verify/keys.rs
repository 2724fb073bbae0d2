//! The idempotency keys: each where a look finds it, and none that stands for nothing.

use crate::segment::SegmentView;
use crate::segment::verify::{Pass, Rule};

pub(super) fn check(view: &SegmentView, pass: &mut Pass) {
    if !view.control().keys_used {
        return;
    }
    let keys = view.keys();
    for (index, word) in keys.impossible() {
        pass.found(
            Rule::Key,
            format!("entry {index}"),
            format!("impossible task word {word:#018x}"),
        );
    }
    for (index, entry) in keys.misplaced() {
        pass.found(
            Rule::Key,
            format!("entry {index}"),
            format!("key {} of task {} is not found here", entry.key, entry.task),
        );
    }
    // A submission on its way reserves its key first. With the number of changes in its text, such a finding lasts only
    // where nothing moves: there, whoever reserved it is gone.
    let changes = view.parts.counters().changes();
    for entry in keys.iter() {
        pass.keys += 1;
        if view.slot_of(entry.task).is_none() {
            let text = format!("stands for task {}, which has no slot", entry.task);
            pass.found(Rule::Key, format!("key {}", entry.key), text);
        } else if !entry.confirmed {
            let text = format!(
                "stands for task {} and was not confirmed, after {changes} changes of tasks",
                entry.task
            );
            pass.found(Rule::Key, format!("key {}", entry.key), text);
        }
    }
}
