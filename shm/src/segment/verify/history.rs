//! The history of attempts, and tombstones: entries that can be. Their chunks: see `chunks`.

use crate::segment::SegmentView;
use crate::segment::verify::{Pass, Rule};

pub(super) fn check(view: &SegmentView, pass: &mut Pass) {
    for (place, index, problem) in view.impossible_history() {
        let subject = format!("entry {index} of chunk {place}");
        pass.found(Rule::History, subject, problem);
    }
    for problem in view.impossible_tombstones() {
        pass.found(Rule::History, "a tombstone", problem);
    }
}
