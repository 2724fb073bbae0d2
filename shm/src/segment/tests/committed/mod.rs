//! Images of segments as released layouts have written them, committed under `shm/src/segment/tests/committed/`, and what is in each.
//!
//! An image was made by the code of its time and is never made anew: it stands for the segments of people who upgrade. What it must be
//! read as stands beside it as a text, which was compared by eye with what the maker puts in.
//!
//! | file | what |
//! |---|---|
//! | `make/` | a small segment with tasks in every phase, workers, results, keys, history, holds; the maker of the next image |
//! | `sparse.rs` | images as files: words that are not zero |
//! | `story.rs` | what a segment holds, as a text that no layout changes |

mod make;
mod sparse;
mod story;

use std::path::{Path, PathBuf};

use super::super::SegmentView;
use crate::layout::header::LAYOUT_MAJOR;
use crate::segment::verify::Rule;

/// The layout before the present one, whose image is committed.
const LAYOUT: &str = "layout-2.0";
/// The present one.
const PRESENT: &str = "layout-3.0";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/segment/tests/committed")
}

/// The committed image.
pub(super) fn image() -> Vec<u8> {
    let packed = std::fs::read(folder().join(format!("{LAYOUT}.words"))).unwrap();
    sparse::unpack(&packed).unwrap()
}

/// What it holds.
pub(super) fn wanted() -> String {
    std::fs::read_to_string(folder().join(format!("{LAYOUT}.txt"))).unwrap()
}

/// What a segment holds.
pub(super) fn story_of(view: &SegmentView) -> String {
    story::of(view)
}

/// The same without what is of the moment: times, ids, numbers of processes.
pub(super) fn without_moments(text: &str) -> Vec<String> {
    let lines = text.lines();
    lines
        .map(|line| line.split(" @").next().unwrap_or("").to_owned())
        .collect()
}

/// The committed image, unpacked into a file of `into`.
fn unpacked(into: &Path) -> PathBuf {
    let file = into.join("image");
    std::fs::write(&file, image()).unwrap();
    file
}

#[test]
fn committed_image_of_an_earlier_layout_is_refused_by_both_versions() {
    let dir = tempfile::tempdir().unwrap();
    let refused = SegmentView::open_image(&unpacked(dir.path())).unwrap_err();
    let text = refused.to_string();
    for version in ["2.0", &format!("{LAYOUT_MAJOR}.0")] {
        assert!(text.contains(version), "{text}");
    }
}

#[test]
fn committed_image_of_the_present_layout_holds_what_was_put_in_and_breaks_no_rule_but_those_of_the_maker()
 {
    let dir = tempfile::tempdir().unwrap();
    let packed = std::fs::read(folder().join(format!("{PRESENT}.words"))).unwrap();
    let image = dir.path().join("image");
    std::fs::write(&image, sparse::unpack(&packed).unwrap()).unwrap();
    let view = SegmentView::open_image(&image).unwrap();
    let wanted = std::fs::read_to_string(folder().join(format!("{PRESENT}.txt"))).unwrap();
    assert_eq!(story::of(&view), wanted);
    let findings = view.verify().findings;
    let rules: Vec<Rule> = findings.iter().map(|finding| finding.rule).collect();
    assert_eq!(rules, [Rule::Quarantine, Rule::Key], "{findings:?}");
}

#[test]
fn what_the_maker_makes_breaks_no_rule_but_by_a_slot_in_quarantine_and_a_key_that_a_kill_left() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    make::make(dir.path(), &image);
    let view = SegmentView::open_image(&image).unwrap();
    let report = view.verify();
    let rules: Vec<Rule> = report.findings.iter().map(|finding| finding.rule).collect();
    assert_eq!(
        rules,
        [Rule::Quarantine, Rule::Key],
        "{:?}",
        report.findings
    );
}

#[test]
fn what_the_maker_makes_is_read_as_the_committed_image_is() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    make::make(dir.path(), &image);
    let view = SegmentView::open_image(&image).unwrap();
    assert_eq!(
        without_moments(&story::of(&view)),
        without_moments(&wanted())
    );
}

#[test]
fn packed_image_comes_back_word_by_word_and_cut_ones_are_refused() {
    let mut image = vec![0_u8; 64 * 1024];
    for at in [0, 8, 4096, 4104, 65_528] {
        image[at] = 7;
    }
    let packed = sparse::pack(&image);
    assert!(packed.len() < 200, "{}", packed.len());
    assert_eq!(sparse::unpack(&packed).unwrap(), image);
    for end in 0..packed.len() {
        assert_ne!(sparse::unpack(&packed[..end]), Some(image.clone()), "{end}");
    }
}

/// Not a test: writes image and text of the present layout into the folder that the environment names, for the
/// release before the next layout.
#[test]
#[ignore = "makes an image to be committed, when a layout is about to be followed by another"]
fn image_of_the_present_layout_is_written() {
    let into = PathBuf::from(std::env::var("QTF_IMAGE_FOLDER").unwrap());
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    make::make(dir.path(), &image);
    let name = format!("layout-{LAYOUT_MAJOR}.0");
    let packed = sparse::pack(&std::fs::read(&image).unwrap());
    std::fs::write(into.join(format!("{name}.words")), packed).unwrap();
    let text = story::of(&SegmentView::open_image(&image).unwrap());
    std::fs::write(into.join(format!("{name}.txt")), text).unwrap();
}
