//! Who has how many connections, and how much each of them may have on its way to us.
//!
//! They are counted for the daemon as a whole, whichever thread serves a connection.
//! A connection counts for its principal, by the rule for all tables ([`ShareRule`]). Its window for HTTP/2 (what its peer may send
//! before we have read it) comes from a budget for all, by the same rule; where that is used up a connection has the smallest
//! window that HTTP/2 knows, and is only slower. Invariant: the counts are the sums over the places that there are. Tested at the
//! end of this file and in `tests/daemon/sockets.rs`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qtf_engine::{Principal, ShareRule, ShareUsedUp, Usage};

/// LIMIT: windows of all connections together, beside the smallest one that each has.
const WINDOWS_BYTES_MAX: u64 = 512 << 20;
const WIDE: Window = Window {
    connection_bytes: 1 << 20,
    stream_bytes: 256 << 10,
    send_bytes: 256 << 10,
};
pub(super) const NARROW: Window = Window {
    connection_bytes: (64 << 10) - 1,
    stream_bytes: (64 << 10) - 1,
    send_bytes: 64 << 10,
};

/// What may be on its way on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    /// Received and not read, on all streams.
    pub(super) connection_bytes: u32,
    /// The same on one stream.
    pub(super) stream_bytes: u32,
    /// To be sent, on one stream.
    pub(super) send_bytes: usize,
}

/// Why there is no place for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// All are in use.
    Full { connections_max: usize },
    /// Those are that one principal may use.
    Share(ShareUsedUp),
}

/// All places.
#[derive(Debug, Clone)]
pub(super) struct Places(Arc<Mutex<Held>>);

#[derive(Debug)]
struct Held {
    rule: ShareRule,
    connections_max: usize,
    all: Count,
    /// One that has no connection is not there.
    by_principal: BTreeMap<Principal, Count>,
}

/// Connections, and those of them with a wide window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Count {
    connections: u64,
    wide: u64,
}

/// The place of one connection; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    principal: Principal,
    pub(super) window: Window,
}

impl Places {
    /// None taken yet.
    pub(super) fn new(connections_max: usize, rule: ShareRule) -> Self {
        Self(Arc::new(Mutex::new(Held {
            rule,
            connections_max,
            all: Count::default(),
            by_principal: BTreeMap::new(),
        })))
    }

    /// A place for one more connection of a principal.
    pub(super) fn take(&self, principal: Principal) -> Result<Place, NoPlace> {
        let window = self.lock().take(principal)?;
        Ok(Place {
            places: self.clone(),
            principal,
            window,
        })
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> u64 {
        self.lock().all.connections
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn take(&mut self, principal: Principal) -> Result<Window, NoPlace> {
        let connections_max = self.connections_max;
        let size = u64::try_from(connections_max).unwrap_or(u64::MAX);
        let own = self
            .by_principal
            .get(&principal)
            .copied()
            .unwrap_or_default();
        if self.all.connections >= size {
            return Err(NoPlace::Full { connections_max });
        }
        let usage = Usage {
            held: own.connections,
            used: self.all.connections,
            size,
        };
        if !self.rule.allows(usage, 1) {
            return Err(NoPlace::Share(ShareUsedUp {
                principal,
                held: own.connections,
                size,
                what: "connections",
                until: "end some of them, or raise connections_max",
            }));
        }
        let each = u64::from(WIDE.connection_bytes);
        let usage = Usage {
            held: own.wide * each,
            used: self.all.wide * each,
            size: WINDOWS_BYTES_MAX,
        };
        let window = if self.rule.allows(usage, each) {
            WIDE
        } else {
            NARROW
        };
        let wide = u64::from(window == WIDE);
        for count in [
            self.by_principal.entry(principal).or_default(),
            &mut self.all,
        ] {
            count.connections = count.connections.saturating_add(1);
            count.wide = count.wide.saturating_add(wide);
        }
        Ok(window)
    }

    fn give_back(&mut self, principal: Principal, window: Window) {
        let wide = u64::from(window == WIDE);
        let Some(own) = self.by_principal.get_mut(&principal) else {
            return;
        };
        for count in [&mut *own, &mut self.all] {
            count.connections = count.connections.saturating_sub(1);
            count.wide = count.wide.saturating_sub(wide);
        }
        if own.connections == 0 {
            self.by_principal.remove(&principal);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.lock();
        held.give_back(self.principal, self.window);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREEDY: Principal = Principal::Uid(1);
    const OTHER: Principal = Principal::Uid(2);

    /// Takes places until there are no more; gives them, and why.
    fn take_all(places: &Places, principal: Principal) -> (Vec<Place>, NoPlace) {
        let mut taken = Vec::new();
        loop {
            match places.take(principal) {
                Ok(place) => taken.push(place),
                Err(refused) => return (taken, refused),
            }
        }
    }

    fn wide(places: &[Place]) -> usize {
        places.iter().filter(|place| place.window == WIDE).count()
    }

    #[test]
    fn uploads_that_are_kept_use_half_of_a_window_at_most() {
        let uploads = u32::try_from(qtf_proto::limits::UPLOADS_AT_ONCE).unwrap();
        assert!(uploads * WIDE.stream_bytes <= WIDE.connection_bytes / 2);
    }

    #[test]
    fn principal_who_takes_all_connections_leaves_some_to_others_and_hears_whose_share_it_is() {
        let places = Places::new(320, ShareRule::Shared);
        let (greedy, refused) = take_all(&places, GREEDY);
        assert_eq!(greedy.len(), 310);
        let NoPlace::Share(used_up) = refused else {
            panic!("{refused:?}");
        };
        let text = used_up.to_string();
        assert!(
            text.contains("uid 1 holds 310 of 320 connections"),
            "{text}"
        );
        assert!(text.contains("raise connections_max"), "{text}");
        let (others, _) = take_all(&places, OTHER);
        assert_eq!(others.len(), 9);
        drop(greedy);
        assert_eq!(places.taken(), 9);
        drop(others);
        assert_eq!(places.taken(), 0);
        assert!(places.lock().by_principal.is_empty());
    }

    #[test]
    fn one_who_shares_with_nobody_may_use_all_connections() {
        let places = Places::new(3, ShareRule::Whole);
        let (taken, refused) = take_all(&places, GREEDY);
        assert_eq!(taken.len(), 3);
        assert_eq!(refused, NoPlace::Full { connections_max: 3 });
    }

    #[test]
    fn windows_of_all_connections_stay_within_their_budget_and_others_have_wide_ones_too() {
        let places = Places::new(10_000, ShareRule::Shared);
        let (greedy, _) = take_all(&places, GREEDY);
        assert_eq!(wide(&greedy), 496);
        let (others, _) = take_all(&places, OTHER);
        assert!(wide(&others) >= 15, "{}", wide(&others));
        let all = greedy.iter().chain(&others);
        let bytes: u64 = all
            .map(|place| u64::from(place.window.connection_bytes))
            .sum();
        let least = u64::from(NARROW.connection_bytes) * 10_000;
        assert!(bytes <= WINDOWS_BYTES_MAX + least, "{bytes}");
    }
}
