//! The commands that submit, watch and change tasks, against `qtf dev`; a module for each subject.

mod arrays;
mod attempts;
mod life;
mod results;
mod waiting;

use qtf_tests::{Place, Process};

/// A daemon with one worker of two slots.
fn dev() -> (Place, Process) {
    let place = Place::new();
    let dev = place.dev(&["--slots", "2"]);
    (place, dev)
}

/// A daemon without workers: tasks wait for ever.
fn dev_without_workers() -> (Place, Process) {
    let place = Place::new();
    let dev = place.dev(&["--workers", "0"]);
    (place, dev)
}

fn submit(place: &Place, arguments: &[&str]) -> Vec<String> {
    let line = ["submit"].iter().chain(arguments);
    place
        .qtf(line)
        .expect_code(0)
        .text()
        .lines()
        .map(str::to_owned)
        .collect()
}
