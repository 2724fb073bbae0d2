//! How maps and sets whose keys are ids of tasks find them: by one multiplication for each number of a key.
//!
//! Ids are made by the daemon, which gains nothing by slowing down who asks it; a seed of each process keeps even that from being
//! arranged, as far as a peer does not see how long its ids take. Not for keys that others choose. Tested at the end of the file.

use core::hash::{BuildHasher, Hasher};
use std::collections::hash_map::RandomState;
use std::sync::OnceLock;

/// Hashes ids, for `HashMap` and `HashSet`.
#[derive(Clone, Copy, Debug)]
pub struct IdHashing {
    seed: u64,
}

impl Default for IdHashing {
    fn default() -> Self {
        static SEED: OnceLock<u64> = OnceLock::new();
        let seed = *SEED.get_or_init(|| RandomState::new().hash_one(0_u8));
        Self { seed }
    }
}

impl BuildHasher for IdHashing {
    type Hasher = IdHash;

    fn build_hasher(&self) -> IdHash {
        IdHash(self.seed)
    }
}

/// A hash under way.
#[derive(Clone, Copy, Debug)]
pub struct IdHash(u64);

impl Hasher for IdHash {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        // The fractional part of the golden ratio: odd, with bits of all places set.
        const FACTOR: u128 = 0x9e37_79b9_7f4a_7c15;
        let wide = u128::from(self.0 ^ number) * FACTOR;
        let [low, high] = [wide, wide >> 64].map(|half| half & u128::from(u64::MAX));
        self.0 = u64::try_from(low ^ high).unwrap_or(u64::MAX);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn neighbouring_ids_and_attempts_do_not_share_their_hashes() {
        let hash = |id: u64, attempt: u32| IdHashing::default().hash_one((id, attempt));
        let [mut slots, mut generations, mut attempts] = [(); 3].map(|()| HashSet::new());
        for number in 0..1024_u32 {
            slots.insert(hash(number.into(), 1) & 0x3ff);
            generations.insert(hash(u64::from(number) << 24, 1) & 0x3ff);
            attempts.insert(hash(1, number) & 0x3ff);
        }
        // By chance it would be about 647 of 1,024.
        for buckets in [slots, generations, attempts] {
            assert!(buckets.len() > 550, "{} buckets", buckets.len());
        }
    }

    #[test]
    fn key_has_the_same_hash_in_each_map() {
        let id = 0x0123_4567_89ab_cdef_u64;
        assert_eq!(
            IdHashing::default().hash_one(id),
            IdHashing::default().hash_one(id)
        );
        assert_ne!(
            IdHashing::default().hash_one(id),
            IdHashing::default().hash_one(id + 1)
        );
    }
}
