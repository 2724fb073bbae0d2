//! Fuzz targets: each takes any bytes and panics when a promise does not hold for them.
//!
//! | target | bytes are | promise |
//! |---|---|---|
//! | `journal` | changes of the files of a journal | it opens or is refused by name; one that opens goes on |
//! | `record` | kind and body of a record | the same, for a journal of that record |
//! | `segment` | changes of an image, or an image | every command of the inspector ends with one of its exit codes |
//! | `request` | a call of a service with its messages | the daemon answers or refuses, and goes on |
//! | `config` | a configuration file | it is refused with a line for people, or what is printed of it means the same |
//! | `commands` | calls of the engine | tasks run and end as the model of them says, and all of them end |
//! | `arguments` | a command line of one of the four programs | it is understood, or refused with a message |
//!
//! The bodies are plain functions. `cargo xtask fuzz` has libFuzzer drive them (`src/bin/qtf-fuzz.rs`), `cargo test -p
//! qtf-fuzz` runs each over its committed corpus (`corpus/TARGET/`), which `cargo run -p qtf-fuzz --bin qtf-fuzz-corpus`
//! writes anew.

#![expect(
    dead_code,
    unused_imports,
    reason = "of the files taken in from programs only the parsing is used"
)]

mod targets;

pub use targets::{Seed, seeds};

// The command line of `qtf` and of `qtf-worker`, as they are: programs have no library that shows it.
#[path = "../../../tools/qtf/src/args/mod.rs"]
mod args;
#[path = "../../../tools/qtf/src/durations.rs"]
mod durations;
#[path = "../../../tools/qtf/src/indexes.rs"]
mod indexes;
#[path = "../../../tools/qtf/src/selector.rs"]
mod selector;
#[path = "../../../tools/qtf/src/template.rs"]
mod template;
#[path = "../../../worker/src/arguments.rs"]
mod worker_arguments;

/// One target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: of the folder of its corpus, and for `cargo xtask fuzz`.
    pub name: &'static str,
    /// Runs it on one input; panics when a promise does not hold.
    pub run: fn(&[u8]),
    /// Longest input that makes sense.
    pub bytes_max: usize,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "journal",
        run: targets::journal::run,
        bytes_max: 4 << 10,
    },
    Target {
        name: "record",
        run: targets::journal::run_record,
        bytes_max: 160 << 10,
    },
    Target {
        name: "segment",
        run: targets::segment::run,
        bytes_max: 1 << 20,
    },
    Target {
        name: "request",
        run: targets::request::run,
        bytes_max: 64 << 10,
    },
    Target {
        name: "config",
        run: targets::config::run,
        bytes_max: 16 << 10,
    },
    Target {
        name: "commands",
        run: targets::commands::run,
        bytes_max: 2 << 10,
    },
    Target {
        name: "arguments",
        run: targets::arguments::run,
        bytes_max: 4 << 10,
    },
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
