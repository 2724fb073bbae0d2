//! Attempts that workers have: what they report of them, and how they are told to stop.
//!
//! | file | does |
//! |---|---|
//! | `results.rs` | started, ended; fencing; records results |
//! | `stops.rs` | attempts that are to stop: told again until they end |
//! | `lent.rs` | attempts of workers that call: lent, touched, taken back when their lease is over |

pub(super) mod handing_out;
mod lent;
pub(super) mod results;
pub(super) mod stops;
