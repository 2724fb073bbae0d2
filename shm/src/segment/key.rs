//! The keys of a named segment: sixteen, from a hash over instance and user.
//!
//! Never 0, which would be `IPC_PRIVATE`, and never negative, so that `ipcs` prints what we print. Not `ftok`: it has 16 bits of an
//! inode, collides, and changes when the file is replaced. Tested at the end of this file.

use crate::region::sysv::KEYS_PROBED;
use crate::segment::create::instance_hash;

const KEYS: u64 = 0x7FFF_FFFF;

/// The keys that an instance may have, in the order in which they are tried.
pub(super) fn keys_of(instance: &str, uid: u32) -> impl Iterator<Item = i32> {
    let hash = instance_hash(instance, uid);
    let folded = hash ^ (hash >> 32);
    (0..u64::from(KEYS_PROBED)).map(move |step| {
        let key = (folded % KEYS + step) % KEYS + 1;
        // LIMIT: 1 to 2^31 - 1.
        i32::try_from(key).unwrap_or(1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_positive_different_and_stable() {
        for number in 0..2000 {
            let mut keys: Vec<i32> = keys_of(&format!("instance-{number}"), number).collect();
            assert!(keys.iter().all(|&key| key > 0));
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), 16);
        }
        assert!(keys_of("main", 1000).eq(keys_of("main", 1000)));
        assert!(!keys_of("main", 1000).eq(keys_of("main", 1001)));
        assert!(!keys_of("main", 1000).eq(keys_of("main1", 000)));
    }

    #[test]
    fn keys_of_a_name_do_not_change_between_versions() {
        assert_eq!(keys_of("default", 0).next(), Some(FIRST_KEY_OF_DEFAULT));
    }

    /// Written down when the first version was made: a daemon must find the segment of an older one.
    const FIRST_KEY_OF_DEFAULT: i32 = 687_902_321;
}
