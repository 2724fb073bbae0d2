//! The end of an attempt and of a task: where it goes, what is kept of it, and for how long.
//!
//! | file | does |
//! |---|---|
//! | `endings.rs` | brings a task to its final state, back to the queue, or to a pause |
//! | `history.rs` | which ends of attempts are kept |
//! | `burials.rs` | what no worker may have any more |
//! | `retention.rs` | acknowledgement and freeing |
//! | `fresh_ends.rs` | what has ended a moment ago: its time to live gets a leaf a second later |
//! | `unkept.rs` | the last tasks that succeeded and kept no result |

pub(super) mod burials;
pub(super) mod endings;
pub(super) mod fresh_ends;
pub(super) mod history;
pub(super) mod retention;
pub(super) mod unkept;
