//! Histograms of a segment: what is counted is read back, by a view too, and where nothing was counted nothing is there.

use super::segment;
use crate::histogram::{COUNTS, HIGHEST_NS, Stage};
use crate::segment::{Segment, Took};

fn count(segment: &Segment, stage: Stage, took: Took) {
    segment.count_stage(segment.plm_right().unwrap(), stage, took, 77);
}

#[test]
fn what_was_counted_is_read_back_with_its_extremes_and_when_it_began() {
    let segment = segment(64);
    for (ns, times) in [(300, 1), (12, 4), (1_000_000, 2)] {
        count(&segment, Stage::Wait, Took { ns, times });
    }
    segment.count_stage(
        segment.plm_right().unwrap(),
        Stage::Wait,
        Took::once(300),
        99,
    );
    let reading = segment.stage(Stage::Wait).unwrap();
    assert_eq!(reading.count(), 8);
    assert_eq!(reading.sum_ns, 2 * 300 + 4 * 12 + 2 * 1_000_000);
    assert_eq!((reading.least_ns, reading.most_ns), (12, 1_000_000));
    assert_eq!((reading.since, reading.beyond), (77, 0));
    assert_eq!((reading.counts[12], reading.counts.len()), (4, COUNTS));
    let counted = reading.counts.iter().filter(|&&count| count > 0);
    assert_eq!(counted.count(), 3);
    for stage in Stage::ALL.into_iter().filter(|&stage| stage != Stage::Wait) {
        let reading = segment.stage(stage).unwrap();
        assert_eq!((reading.count(), reading.since), (0, 0), "{stage:?}");
    }
    assert!(!segment.verify().broken());
}

#[test]
fn values_beyond_the_histogram_are_counted_as_the_highest_and_told_apart() {
    let segment = segment(64);
    for ns in [HIGHEST_NS, HIGHEST_NS + 1, u64::MAX, 5] {
        count(&segment, Stage::Run, Took::once(ns));
    }
    let reading = segment.stage(Stage::Run).unwrap();
    assert_eq!((reading.beyond, reading.most_ns), (2, HIGHEST_NS));
    assert_eq!(reading.counts[COUNTS - 1], 3);
    assert_eq!(reading.least_ns, 5);
}

#[test]
fn histogram_of_an_unknown_form_reads_as_empty() {
    let segment = segment(64);
    count(&segment, Stage::Sync, Took::once(9));
    let histogram = segment.view.parts.histogram(Stage::Sync).unwrap();
    // ORDERING: a test.
    histogram.form.fetch_add(1, crate::sync::Ordering::Relaxed);
    assert_eq!(segment.stage(Stage::Sync).unwrap().count(), 0);
}
