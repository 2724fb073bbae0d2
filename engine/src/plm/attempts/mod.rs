//! Attempts that workers have: handed out, reported on, told to stop.
//!
//! | file | does |
//! |---|---|
//! | `handing_out.rs` | READY -> ASSIGNED, and the order to the worker |
//! | `results.rs` | started, ended; fencing; records results |
//! | `stops.rs` | attempts that are to stop: told again until they end |
//! | `lent.rs` | attempts of workers that call: lent, touched, taken back when their lease is over |
//!
//! Door: from outside of the PLM `may_hand_out`, `hand_out`, `started`, `ended`, `undelivered`, `lend`, `touch`,
//! `serve_attempt_leases`; from the parts above `tell_stop`, `serve_stop`, [`handing_out::dispatch`], [`stops::push_stop`],
//! [`stops::overdue_at`].
//! State: none; what an attempt is stands in the segment.

pub(super) mod handing_out;
mod lent;
pub(super) mod results;
pub(super) mod stops;
