//! Leaves and the states of their slots: the two rules that keep them together while several processes
//! change both.
//!
//! State before index, both ways: a task becomes READY and then gets its leaf; it is taken and then loses
//! it. Between the two steps anything may happen: the slot may be taken, freed, and be another task's.
//!
//! - **T1** A leaf is written by CAS from EMPTY only. If that fails, the slot's state is read *again* before
//!   the key found there is cleared away: only if the slot is still ours must that key be an earlier
//!   tenant's; otherwise it may be the next one's.
//!   After the key was written the state is read again, too: a claimer that was stopped before its write takes the key of a
//!   task that is over by now away itself.
//! - **T2** Whoever has removed a key looks whether the slot owns it (again): a task that was handed back
//!   keeps its key, and its repairer may have found that key still in the leaf.
//!
//! # Sync point
//! `tree.tenancy`: leaf written, then state read (`release_leaf`), against state written, then leaf
//! looked at (`claim_leaf`): a store-load pair. So `owns` reads the state by `store_load_load`, and
//! states are changed by `SeqCst` compare and exchange, where several processes take tasks.
//!
//! # Where tested
//! `shm/tests/loom_state.rs`: submitter, taker, canceller, repairer and next tenant.

use super::{Key, MinTree};

/// LIMIT: keys of earlier tenants cleared away by one claim; more means that somebody writes nonsense.
const STALE_KEYS_MAX: u32 = 8;

impl<const FANOUT: usize> MinTree<'_, FANOUT> {
    /// Writes the slot's key into its leaf as long as `owns` says that the slot's state asks for it;
    /// clears away what earlier tenants left (T1). True when the key is there. Safe to repeat.
    ///
    /// # Panics
    /// When `leaf` is not below the capacity.
    pub fn claim_leaf(&self, leaf: u32, key: Key, owns: impl Fn() -> bool) -> bool {
        for _ in 0..STALE_KEYS_MAX {
            if !owns() {
                return false;
            }
            match self.insert(leaf, key) {
                Ok(()) if owns() || cfg!(qtf_mutant = "tree_written_leaf_is_left_unasked") => {
                    return true;
                }
                // Taken meanwhile, perhaps by somebody who looked for the leaf before it was there; and perhaps handed back.
                Ok(()) => self.remove(leaf, key),
                Err(found) if found.0 == key => return true,
                Err(_) if !cfg!(qtf_mutant = "tree_stale_key_is_cleared_unasked") && !owns() => {
                    return false;
                }
                Err(found) => self.remove(leaf, found.0),
            };
        }
        false
    }

    /// Removes the key of a slot that has moved on, and puts it back if `owns` says that the slot's
    /// state asks for it again (T2). True when it is gone.
    ///
    /// # Panics
    /// When `leaf` is not below the capacity.
    pub fn release_leaf(&self, leaf: u32, key: Key, owns: impl Fn() -> bool) -> bool {
        if self.remove(leaf, key) && !cfg!(qtf_mutant = "tree_removed_key_is_not_put_back") {
            return !self.claim_leaf(leaf, key, owns);
        }
        self.leaf(leaf) != Some(key)
    }
}
