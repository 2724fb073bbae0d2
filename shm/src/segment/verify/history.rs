//! The history of attempts: entries that can be. Its chunks: see `chunks`.

use crate::segment::SegmentView;
use crate::segment::verify::{Pass, Rule};

pub(super) fn check(view: &SegmentView, pass: &mut Pass) {
    for (place, index, problem) in view.impossible_history() {
        let subject = format!("entry {index} of chunk {place}");
        pass.found(Rule::History, subject, problem);
    }
}
