//! Taking tasks in: from what a client asks for to a task that waits in the segment.
//!
//! | file | does |
//! |---|---|
//! | `submission.rs` | what a submission says, before anything is checked |
//! | `admission.rs` | checks it and brings it into the segment |
//! | `accepting.rs` | SUBMITTED -> READY, and what else waits for durable records |
//! | `keys.rs`, `key_places.rs` | idempotency keys, and the places that there are for them |
//! | `kinds.rs` | numbers of task kinds by their names |

pub(super) mod accepting;
mod admission;
pub(super) mod key_places;
pub(super) mod keys;
pub(super) mod kinds;
pub(super) mod submission;
