//! What clients and operators change of a task that is there.
//!
//! | file | does |
//! |---|---|
//! | `cancel.rs` | cancellation and change of priority |
//! | `holds.rs` | holding a waiting task back, and releasing it |
//! | `dead_letters.rs` | new attempts for what was buried |
//!
//! Door: from outside of the PLM `cancel`, `update_priority`, `hold`, `release_held`, `revive`; from the parts above nothing.
//! State: none.

mod cancel;
mod dead_letters;
mod holds;
