//! The world of the engine's tests: a segment, an engine over it, the clock that the test moves, the journal on a disk in memory, and the
//! books. One door for all tests that drive an engine:
//!
//! | door | for |
//! |---|---|
//! | [`Ground`] | the segment and its folder, in this process or in shared memory |
//! | [`World`] | engine, clock and clients on it: the calls, the effects, the next daemon |
//! | [`Disk`] | the journal's driver on a disk in memory: a step at a time, or a whole group at once |
//! | [`JournalWorld`] | a world and a disk, where the test says what is written and what is told |
//! | [`Life`] | what must be so of each task wherever it is handed out, ends and is told |
//! | `books.rs` | what must be so of segment, caches and counts |
//!
//! Three kinds of tests come in by it, and each adds what the others do not want:
//!
//! | tests | add | since |
//! |---|---|---|
//! | rules (`engine/tests/rules/`), allocations | nothing | a rule is a sentence: what happens is said there, call by call, by one worker that obeys |
//! | simulation (`engine/tests/simulation/`), without a journal | chance, connections that lose and delay messages, local processes that are killed, a model | what is sent may be late, and the model must allow for what nobody has heard yet |
//! | simulation, with a journal (`durable/`) | chance, kills at any shared write, disks that tear, reboots, what clients were told | a client believes what it was told, not what was asked for; without connections a run reaches far more kills |
//! | fuzz target `commands` (`tests/fuzz/`) | calls read from bytes, lies | nothing may be drawn by chance: the input decides everything, in few bytes a call |
//!
//! So the workers of the four are four: what a worker keeps of an attempt (until the message was sent, until a verdict, until the outcome is
//! durable, not at all) is just what each of them is about. The model of the simulation and the facts of the durable one are two for the
//! same reason, and stand on one [`Life`].

#![expect(
    clippy::missing_panics_doc,
    reason = "a world of tests panics wherever something is not as it must be"
)]
#![expect(
    clippy::missing_errors_doc,
    reason = "each refusal is the engine's, whose documents say when it comes"
)]
#![expect(
    missing_debug_implementations,
    reason = "engines and disks are too large to be shown; what a test shows is what it compares"
)]

mod books;
mod disk;
mod ground;
mod journal_world;
mod life;
mod sentences;
mod settings;
mod world;

pub use disk::{Disk, journal_config, reopened};
pub use ground::Ground;
pub use journal_world::JournalWorld;
pub use life::Life;
pub use sentences::{
    Dispatched, client, dispatched, finished, held_list, hello, task_ref, written,
};
pub use settings::{MS, SECOND, hurried, unshared};
pub use world::World;
