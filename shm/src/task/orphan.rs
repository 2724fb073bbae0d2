//! A claim whose submitter is dead: the order of looks that keeps it apart from a claim of the next tenant of the same attach record.
//!
//! A repairer may be stopped for any time between its looks. Meanwhile others may free the claim, complete their pass, give the record
//! out again, and its new process may claim the very slot. So the claim is read first and the record after it:
//!
//! - the record still has the word that was judged dead: then the claim that was read is of that process, or of one
//!   before it, whatever has happened since, and its word, which holds the generation, never comes again;
//! - the record has another word: nothing is known of the claim, and it is left alone.
//!
//! Sync point `attach.orphan`: record given back (after the pass), record taken, slot claimed; against slot read, then
//! record read. Modelled in `shm/tests/loom_repair.rs`.

use crate::id::AttachIndex;
use crate::sync::{AtomicU64, store_load_load};
use crate::task::state::{Owner, Phase, StateWord};

/// The claim in a slot, if its submitter is dead by what `is_dead` says of the attach record now.
pub fn orphaned(state: &AtomicU64, is_dead: impl Fn(AttachIndex) -> bool) -> Option<StateWord> {
    // ORDERING: [attach.orphan] before the look at the record in `is_dead`.
    let claimed = StateWord::from_raw(store_load_load(state));
    let Owner::Attach(attach) = claimed.owner() else {
        return None;
    };
    if claimed.phase() != Phase::Claimed || !is_dead(attach) {
        return None;
    }
    if cfg!(qtf_mutant = "orphan_is_read_after_its_record") {
        let later = StateWord::from_raw(store_load_load(state));
        return (later.phase() == Phase::Claimed).then_some(later);
    }
    Some(claimed)
}
