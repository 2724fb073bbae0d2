//! What clients and operators change of a task that is there.
//!
//! | file | does |
//! |---|---|
//! | `cancel.rs` | cancellation and change of priority |
//! | `holds.rs` | holding a waiting task back, and releasing it |
//! | `dead_letters.rs` | new attempts for what was buried |

mod cancel;
mod dead_letters;
pub(super) mod holds;
