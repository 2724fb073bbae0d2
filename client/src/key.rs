//! [`TaskKey`], by which a repeated submission is recognised, and the mint of automatic keys.
//!
//! Invariant: two mints never give the same key (64 random bits and a count), and no key is all zero,
//! which means "none" on the wire.

use core::fmt;
use core::hash::{BuildHasher as _, Hasher as _};
use core::num::NonZeroU128;
use core::time::Duration;
use std::collections::VecDeque;
use std::hash::RandomState;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use qtf_proto::limits::{BATCH_ENTRIES_MAX, KEY_BYTES};

/// How long a daemon knows a key when nothing else is said.
pub(crate) const KEY_TTL: Duration = Duration::from_secs(60 * 60);
/// LIMIT: automatic keys to be given back; older ones end by their time to live.
const RECEIVED_MAX: usize = 4 * BATCH_ENTRIES_MAX;
const FNV_OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const FNV_PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

/// 128 bits that name a submission: as long as the daemon knows the key, submitting with it again gives the
/// first task instead of another one. Keys are shared by all clients of a daemon.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TaskKey(NonZeroU128);

impl TaskKey {
    /// The key of these bytes; `None` when all are zero, which means "no key".
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Option<Self> {
        NonZeroU128::new(u128::from_be_bytes(bytes)).map(Self)
    }

    /// The key of a text: 32 hexadecimal digits are the key itself, any other text is hashed with the
    /// 128-bit FNV-1a function, so that programs in any language get the same key.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let hash = || {
            text.bytes().fold(FNV_OFFSET, |hash, byte| {
                (hash ^ u128::from(byte)).wrapping_mul(FNV_PRIME)
            })
        };
        let is_hex = text.len() == 2 * KEY_BYTES && text.bytes().all(|b| b.is_ascii_hexdigit());
        let written = is_hex
            .then(|| u128::from_str_radix(text, 16).ok())
            .flatten()
            .filter(|number| *number != 0);
        let number = written.unwrap_or_else(hash);
        Self(NonZeroU128::new(number).unwrap_or(NonZeroU128::MIN))
    }

    /// The bytes, as they travel.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; KEY_BYTES] {
        self.0.get().to_be_bytes()
    }

    pub(crate) fn on_the_wire(self) -> Bytes {
        Bytes::copy_from_slice(&self.to_bytes())
    }

    pub(crate) fn from_wire(bytes: &[u8]) -> Option<Self> {
        Self::from_bytes(bytes.try_into().ok()?)
    }
}

impl From<&str> for TaskKey {
    fn from(text: &str) -> Self {
        Self::of(text)
    }
}

/// 32 hexadecimal digits.
impl fmt::Display for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskKey({self})")
    }
}

/// Where automatic keys come from, and where they are kept until they can be given back.
#[derive(Debug)]
pub(crate) struct KeyMint {
    /// Upper half of all keys: the number of this client among all that there are.
    nonce: u64,
    state: Mutex<MintState>,
}

#[derive(Debug, Default)]
struct MintState {
    minted: u64,
    received: VecDeque<Bytes>,
}

impl KeyMint {
    pub(crate) fn new() -> Self {
        Self {
            nonce: random().max(1),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, MintState> {
        // Nothing panics while it is held; a count and a queue are whole at any moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key that nobody has used.
    pub(crate) fn mint(&self) -> Bytes {
        let mut state = self.state();
        state.minted = state.minted.wrapping_add(1);
        let key = (u128::from(self.nonce) << 64) | u128::from(state.minted);
        Bytes::copy_from_slice(&key.to_be_bytes())
    }

    /// An automatic key has done its service: its answer is here.
    pub(crate) fn received(&self, key: Bytes) {
        let mut state = self.state();
        if state.received.len() >= RECEIVED_MAX {
            state.received.pop_front();
        }
        state.received.push_back(key);
    }

    /// A request that gave keys back may not have arrived: the next one does it again.
    pub(crate) fn not_given_back(&self, keys: impl IntoIterator<Item = Bytes>) {
        for key in keys {
            self.received(key);
        }
    }

    /// Keys to be given back with the next request.
    pub(crate) fn take_received(&self) -> Vec<Bytes> {
        let mut state = self.state();
        let count = state.received.len().min(BATCH_ENTRIES_MAX);
        state.received.drain(..count).collect()
    }
}

/// 64 bits from the system's source of randomness, by way of the hasher that is keyed with it.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_digits_are_the_key_and_other_text_is_hashed_as_published() {
        let written = TaskKey::of("000000000000000000000000000000Ff");
        assert_eq!(written.to_bytes()[15], 0xff);
        assert_eq!(written.to_string(), "000000000000000000000000000000ff");
        // Published values of the 128-bit FNV-1a function.
        let hashed = |text| TaskKey::of(text).to_string();
        assert_eq!(hashed(""), "6c62272e07bb014262b821756295c58d");
        assert_eq!(hashed("a"), "d228cb696f1a8caf78912b704e4a8964");
        assert_eq!(hashed("foobar"), "343e1662793c64bf6f0d3597ba446f18");
    }

    #[test]
    fn all_zero_is_no_key() {
        assert_eq!(TaskKey::from_bytes([0; 16]), None);
        let zeros = TaskKey::of("00000000000000000000000000000000");
        assert_ne!(zeros.to_bytes(), [0; 16]);
        let bytes = *b"0123456789abcdef";
        assert_eq!(TaskKey::from_bytes(bytes).unwrap().to_bytes(), bytes);
    }

    #[test]
    fn minted_keys_differ_and_what_is_given_back_is_bounded() {
        let (one, other) = (KeyMint::new(), KeyMint::new());
        let keys = [one.mint(), one.mint(), other.mint()];
        assert!(keys.iter().all(|key| TaskKey::from_wire(key).is_some()));
        assert!(keys[0] != keys[1] && keys[0] != keys[2]);
        for _ in 0..=RECEIVED_MAX {
            one.received(one.mint());
        }
        let mut count = 0;
        loop {
            let keys = one.take_received();
            assert!(keys.len() <= BATCH_ENTRIES_MAX);
            if keys.is_empty() {
                break;
            }
            count += keys.len();
        }
        assert_eq!(count, RECEIVED_MAX);
    }
}
