//! [`Principal`]: for whom a call is made, by the word of the connection and never of the peer.
//!
//! Limits and "all of mine" go by it. On the Unix socket it is the user, as the kernel names him; over TCP the peer's
//! address without the port, as everything else there is the peer's own word. Calls that belong to no session have one too.
//! Tested at the end of this file.

use core::fmt;
use core::net::IpAddr;

/// For whom a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Principal {
    /// Nobody that is known by anything: a connection whose other end could not be asked for, tasks of local processes, and tasks
    /// that came back without the address of their client. All of these are one.
    #[default]
    Unknown,
    /// A user of this machine.
    Uid(u32),
    /// A host on the network.
    Address(IpAddr),
}

impl Principal {
    /// The host at the other end; an IPv4 address that is written as IPv6 is the same host.
    #[must_use]
    pub const fn of_address(address: IpAddr) -> Self {
        Self::Address(address.to_canonical())
    }

    /// The user, if it is one.
    #[must_use]
    pub const fn uid(self) -> Option<u32> {
        match self {
            Self::Uid(uid) => Some(uid),
            Self::Unknown | Self::Address(_) => None,
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown callers"),
            Self::Uid(uid) => write!(f, "uid {uid}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_are_printed_as_people_know_them() {
        let host = |text: &str| Principal::of_address(text.parse().unwrap());
        assert_eq!(Principal::Uid(1000).to_string(), "uid 1000");
        assert_eq!(host("192.0.2.7").to_string(), "192.0.2.7");
        assert_eq!(host("2001:db8::7").to_string(), "2001:db8::7");
        assert_eq!(Principal::Unknown.to_string(), "unknown callers");
    }

    #[test]
    fn host_that_comes_over_a_socket_of_both_families_is_one_principal() {
        let host = |text: &str| Principal::of_address(text.parse().unwrap());
        assert_eq!(host("::ffff:192.0.2.7"), host("192.0.2.7"));
        assert_ne!(host("192.0.2.8"), host("192.0.2.7"));
    }

    #[test]
    fn only_users_have_a_uid() {
        assert_eq!(Principal::Uid(7).uid(), Some(7));
        assert_eq!(Principal::Unknown.uid(), None);
    }
}
