//! The client record: 256 bytes, one identity. All connections of one identity share it.
//!
//! ```text
//! offset  field        bits                                   writer: the daemon
//!      0  state        in use 1 | unused 23 | connections 16 | generation 24
//!      8  identity     pid 32 | uid 32
//!     16  registered   stamp
//!     24  heartbeat    stamp of the last one
//!     32  unfinished   tasks accepted and not ended
//!     40  kept         finished tasks whose results are kept
//!     48  submitted    tasks ever accepted
//!     56  links        principal 16 | attach record + 1 16 | incarnation 32: of a local client, the lane to which ends of its tasks are told;
//!                      the principal has no user yet
//!     64  name         63 bytes
//!    128  host         63 bytes
//!    192  address      63 bytes
//! ```
//! Record 0 stands for callers that never registered. Fields are published by the state word, label `client.state`.
//! Tested at the end of this file.

use crate::id::AttachIndex;
use crate::layout::shared::shared_layout;
use crate::layout::text::{load_text, store_text};
use crate::sync::{AtomicU64, Ordering, fence};

const IN_USE: u64 = 1 << 63;
const CONNECTIONS_SHIFT: u32 = 24;
const CONNECTIONS_MASK: u64 = 0xFFFF;
const GENERATION_MASK: u64 = (1 << 24) - 1;

shared_layout! {
    /// One client as it lies in the segment; see the drawing in this file's head.
    pub struct ClientSlot: 256 bytes, align 128 {
        0 => state: AtomicU64,
        8 => identity: AtomicU64,
        16 => registered: AtomicU64,
        24 => heartbeat: AtomicU64,
        32 => unfinished: AtomicU64,
        40 => kept: AtomicU64,
        48 => submitted: AtomicU64,
        56 => links: AtomicU64,
        64 => name: [AtomicU64; 8],
        128 => host: [AtomicU64; 8],
        192 => address: [AtomicU64; 8],
    }
}

/// Who a client is.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClientFields<'a> {
    /// Program name; cut to 63 bytes.
    pub name: &'a str,
    /// Node; cut to 63 bytes.
    pub host: &'a str,
    /// Address of its first connection; cut to 63 bytes.
    pub address: &'a str,
    /// Process id of its first connection.
    pub pid: u32,
    /// User, `u32::MAX` when not known.
    pub uid: u32,
    /// Stamp of the registration.
    pub registered: u64,
}

impl ClientSlot {
    /// The record belongs to an identity.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.state_word() & IN_USE != 0
    }

    /// How often the record has been given to an identity.
    #[must_use]
    pub fn generation(&self) -> u32 {
        low(self.state_word() & GENERATION_MASK)
    }

    /// Open connections of the identity.
    #[must_use]
    pub fn connections(&self) -> u32 {
        low((self.state_word() >> CONNECTIONS_SHIFT) & CONNECTIONS_MASK)
    }

    /// Gives the record to an identity, with no connection yet. The daemon only.
    pub fn open(&self, fields: &ClientFields<'_>) {
        if !cfg!(qtf_mutant = "client_open_without_release_fence") {
            // ORDERING: [client.reuse] Release: whoever meets a new field also meets that the record was given back;
            // pairs with the fence in `second_look`.
            fence(Ordering::Release);
        }
        store_text(&self.name, fields.name);
        store_text(&self.host, fields.host);
        store_text(&self.address, fields.address);
        write(
            &self.identity,
            (u64::from(fields.pid) << 32) | u64::from(fields.uid),
        );
        write(&self.registered, fields.registered);
        write(&self.heartbeat, fields.registered);
        for counter in [&self.unfinished, &self.kept, &self.submitted, &self.links] {
            write(counter, 0);
        }
        let generation = u64::from(self.generation()).wrapping_add(1) & GENERATION_MASK;
        self.set_state(IN_USE | generation);
    }

    /// Makes the record that of all programs of its user or host: it has no name any more, and keeps everything else. The daemon only.
    pub fn make_common(&self) {
        let connections = u64::from(self.connections()) << CONNECTIONS_SHIFT;
        let next = || u64::from(self.generation()).wrapping_add(1) & GENERATION_MASK;
        // Twice, so that whoever has begun to copy the old name copies again; used all the while, as a kill in between must not leave
        // its tasks without a record.
        self.set_state(IN_USE | connections | next());
        if !cfg!(qtf_mutant = "client_made_common_without_release_fence") {
            // ORDERING: [client.reuse] Release: whoever meets a new field also meets the first of the two states.
            fence(Ordering::Release);
        }
        store_text(&self.name, "");
        store_text(&self.host, "");
        self.set_state(IN_USE | connections | next());
    }

    /// Sets how many connections are open. The daemon only.
    pub fn set_connections(&self, count: u32) {
        let others = self.state_word() & !(CONNECTIONS_MASK << CONNECTIONS_SHIFT);
        let count = u64::from(count).min(CONNECTIONS_MASK);
        self.set_state(others | (count << CONNECTIONS_SHIFT));
    }

    /// Gives the record back. The daemon only, when no connection and no task is left.
    pub fn close(&self) {
        self.set_state(u64::from(self.generation()));
    }

    /// Process id of its first connection.
    #[must_use]
    pub fn pid(&self) -> u32 {
        low(read(&self.identity) >> 32)
    }

    /// Its user; `u32::MAX` when not known.
    #[must_use]
    pub fn uid(&self) -> u32 {
        low(read(&self.identity))
    }

    /// Stamp of its registration.
    #[must_use]
    pub fn registered(&self) -> u64 {
        read(&self.registered)
    }

    /// Stamp of its last heartbeat.
    #[must_use]
    pub fn heartbeat(&self) -> u64 {
        read(&self.heartbeat)
    }

    /// Sets the moment of its last heartbeat.
    pub fn set_heartbeat(&self, stamp: u64) {
        write(&self.heartbeat, stamp);
    }

    /// Tasks accepted and not ended.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        read(&self.unfinished)
    }

    /// Sets the number of tasks accepted and not ended.
    pub fn set_unfinished(&self, count: u64) {
        write(&self.unfinished, count);
    }

    /// Finished tasks whose results are kept.
    #[must_use]
    pub fn kept(&self) -> u64 {
        read(&self.kept)
    }

    /// Sets the number of finished tasks whose results are kept.
    pub fn set_kept(&self, count: u64) {
        write(&self.kept, count);
    }

    /// Tasks ever accepted.
    #[must_use]
    pub fn submitted(&self) -> u64 {
        read(&self.submitted)
    }

    /// Sets the number of tasks ever accepted.
    pub fn set_submitted(&self, count: u64) {
        write(&self.submitted, count);
    }

    /// The lane of a local client: attach record, and the incarnation of it that opened the lane.
    #[must_use]
    pub fn lane(&self) -> Option<(AttachIndex, u32)> {
        let [_, _, high, low, incarnation @ ..] = read(&self.links).to_be_bytes();
        let number = u16::from_be_bytes([high, low]).checked_sub(1)?;
        let attach = AttachIndex::new_checked(number, u32::from(u16::MAX))?;
        Some((attach, u32::from_be_bytes(incarnation)))
    }

    /// Says to which lane ends of its tasks are told. The daemon only.
    pub fn set_lane(&self, lane: Option<(AttachIndex, u32)>) {
        let word = lane.map_or(0, |(attach, incarnation)| {
            ((u64::from(attach.get()) + 1) << 32) | u64::from(incarnation)
        });
        write(&self.links, word);
    }

    /// Program name.
    #[must_use]
    pub fn name(&self) -> String {
        load_text(&self.name)
    }

    /// Node.
    #[must_use]
    pub fn host(&self) -> String {
        load_text(&self.host)
    }

    /// Address of its first connection.
    #[must_use]
    pub fn address(&self) -> String {
        load_text(&self.address)
    }

    /// All of the state, with the identity that its last writer wrote before it.
    #[must_use]
    pub fn state_word(&self) -> u64 {
        let order = if cfg!(qtf_mutant = "client_state_without_acquire") {
            // ORDERING: a mutant.
            Ordering::Relaxed
        } else {
            // ORDERING: [client.state] Acquire pairs with the Release of `set_state`: the identity is visible.
            Ordering::Acquire
        };
        // ORDERING: as chosen above.
        self.state.load(order)
    }

    fn set_state(&self, word: u64) {
        let order = if cfg!(qtf_mutant = "client_state_without_release") {
            // ORDERING: a mutant.
            Ordering::Relaxed
        } else {
            // ORDERING: [client.state] Release pairs with the Acquire of `state_word`.
            Ordering::Release
        };
        // ORDERING: as chosen above.
        self.state.store(word, order);
    }
}

#[inline]
fn read(word: &AtomicU64) -> u64 {
    // ORDERING: published by [client.state]; counts are statistics.
    word.load(Ordering::Relaxed)
}

#[inline]
fn write(word: &AtomicU64, value: u64) {
    // ORDERING: single writer, the daemon; published by [client.state].
    word.store(value, Ordering::Relaxed);
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low half is what is asked for"
)]
const fn low(word: u64) -> u32 {
    word as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_opens_counts_connections_and_closes() {
        let slot = ClientSlot {
            state: AtomicU64::new(0),
            identity: AtomicU64::new(0),
            registered: AtomicU64::new(0),
            heartbeat: AtomicU64::new(0),
            unfinished: AtomicU64::new(0),
            kept: AtomicU64::new(0),
            submitted: AtomicU64::new(0),
            links: AtomicU64::new(0),
            name: Default::default(),
            host: Default::default(),
            address: Default::default(),
        };
        assert!(!slot.is_used());
        slot.open(&ClientFields {
            name: "qtf",
            uid: 7,
            pid: 8,
            ..ClientFields::default()
        });
        slot.set_connections(3);
        slot.set_submitted(12);
        assert!(slot.is_used());
        assert_eq!(
            (
                slot.connections(),
                slot.generation(),
                slot.uid(),
                slot.pid()
            ),
            (3, 1, 7, 8)
        );
        assert_eq!((slot.name().as_str(), slot.submitted()), ("qtf", 12));
        slot.make_common();
        assert_eq!((slot.name().as_str(), slot.submitted()), ("", 12));
        assert_eq!(
            (slot.connections(), slot.generation(), slot.uid()),
            (3, 3, 7)
        );
        let attach = AttachIndex::new_checked(254, 1_000).unwrap();
        assert_eq!(slot.lane(), None);
        slot.set_lane(Some((attach, u32::MAX)));
        assert_eq!(slot.lane(), Some((attach, u32::MAX)));
        slot.set_lane(None);
        assert_eq!(slot.lane(), None);
        slot.set_connections(u32::MAX);
        assert_eq!((slot.connections(), slot.generation()), (0xFFFF, 3));
        slot.close();
        assert!(!slot.is_used());
        assert_eq!((slot.connections(), slot.generation()), (0, 3));
    }
}
