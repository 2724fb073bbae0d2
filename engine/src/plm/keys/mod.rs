//! Idempotency keys: a repeated submission gets the first one's task.
//!
//! | file | does |
//! |---|---|
//! | `entries.rs` | a key is reserved, repeated, spent, given back, forgotten |
//! | `key_places.rs` | for whom the key in each place is counted, and which may go |
//!
//! Door: from outside of the PLM `submitted_before`, `release_keys`, `expire_keys`; from the parts above `repeated`, `reserve_key`,
//! `forget_key`, `end_automatic_key`, `key_to_spend`, `spend_key`.
//! State: [`Keys`], beside the segment's table of keys.

pub(super) mod entries;
mod key_places;

use qtf_shm::{Now, Segment};

use crate::clients::Clients;
use key_places::KeyPlaces;

/// What is remembered of keys beside their table.
#[derive(Debug)]
pub(super) struct Keys {
    /// Where the walk over the table stands.
    cursor: u32,
    /// When a refusal last looked for keys that have expired.
    looked_at: Option<Now>,
    places: KeyPlaces,
}

impl Keys {
    /// Counts the keys that are in the table.
    pub(super) fn new(segment: &Segment, clients: &mut Clients) -> Self {
        Self {
            cursor: 0,
            looked_at: None,
            places: KeyPlaces::new(segment, clients),
        }
    }
}
