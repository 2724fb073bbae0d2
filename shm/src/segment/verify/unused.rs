//! Regions that nothing uses in this version: every word of them is zero.
//!
//! A later minor version may use one; its segments name themselves by that version, and this rule is silent about them.

use crate::layout::RegionKind;
use crate::layout::header::LAYOUT_MINOR;
use crate::segment::SegmentView;
use crate::segment::verify::{Pass, Rule};
use crate::sync::Ordering;

const UNUSED: [RegionKind; 9] = [
    RegionKind::Names,
    RegionKind::Principals,
    RegionKind::Queues,
    RegionKind::Shapes,
    RegionKind::Lines,
    RegionKind::LineHeap,
    RegionKind::Pages,
    RegionKind::Events,
    RegionKind::Errors,
];

pub(super) fn check(view: &SegmentView, pass: &mut Pass) {
    if view.header.layout_minor > LAYOUT_MINOR {
        return;
    }
    for kind in UNUSED {
        let mut words = view.parts.words_of(kind).iter().enumerate();
        // ORDERING: compared only.
        let used = words.find(|(_, word)| word.load(Ordering::Relaxed) != 0);
        if let Some((at, _)) = used {
            let text = format!("byte {} is not zero, and nothing uses it yet", at * 8);
            pass.found(Rule::Unused, kind.name(), text);
        }
    }
}
