//! The drawing of the segment in `docs/MEMORY.md` is the segment: its listings are compared with the code.
//!
//! When the layout changes on purpose, this test prints the listing that belongs into the document.
#![cfg(not(loom))]

use std::path::Path;

use qtf_shm::Geometry;
use qtf_shm::layout::STRUCTS;

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/MEMORY.md");
    std::fs::read_to_string(path).expect("docs/MEMORY.md is there")
}

fn assert_contains(listing: &str) {
    assert!(
        document().contains(listing),
        "docs/MEMORY.md does not hold this listing:\n{listing}"
    );
}

#[test]
fn every_offset_in_the_document_is_that_of_the_code() {
    let mut listing = String::new();
    for layout in STRUCTS {
        listing += &format!("{} {} bytes\n", layout.name, layout.bytes);
        for field in layout.fields {
            let (offset, bytes, name) = (field.offset, field.bytes, field.name);
            listing += &format!("{offset:>6} {bytes:>5}  {name}\n");
        }
    }
    assert_contains(&listing);
}

fn formula(geometry: &Geometry) -> String {
    let mut listing = String::new();
    for line in geometry.lines() {
        let (name, count, unit, bytes) = (line.name, line.count, line.unit_bytes, line.bytes);
        listing += &format!("{name:<17} {count:>9} x {unit:>5} {bytes:>10}\n");
    }
    let total = geometry.total_bytes();
    listing + &format!("{:<35} {total:>9}\n", "total")
}

#[test]
fn default_sizes_in_the_document_are_those_of_the_code() {
    assert_contains(&formula(&Geometry::default()));
}

#[test]
fn small_sizes_in_the_document_are_those_of_the_code() {
    assert_contains(&formula(&Geometry::for_counts(10_000, 1_000).unwrap()));
}
