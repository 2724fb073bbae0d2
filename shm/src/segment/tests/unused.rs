//! Regions that nothing uses yet: zero in a new segment and after a life, and reported where they are not.

use super::{segment, submit};
use crate::layout::RegionKind;
use crate::segment::verify::Rule;
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

#[test]
fn word_in_a_region_that_nothing_uses_is_found_wherever_it_lies() {
    let segment = segment(64);
    submit(&segment, 1, 1, b"work");
    assert!(!segment.verify().broken());
    for kind in UNUSED {
        let words = segment.view.parts.words_of(kind);
        assert!(!words.is_empty(), "{kind:?}");
        for at in [0, words.len() / 2, words.len() - 1] {
            words[at].store(1 << 63, Ordering::Relaxed);
            let findings = segment.verify().findings;
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!(findings[0].rule, Rule::Unused);
            assert_eq!(findings[0].subject, kind.name());
            let place = format!("byte {}", at * 8);
            assert!(findings[0].text.starts_with(&place), "{findings:?}");
            words[at].store(0, Ordering::Relaxed);
        }
    }
    assert!(!segment.verify().broken());
}
