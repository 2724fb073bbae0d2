//! Clients: identities that submit tasks and collect results.
//!
//! A record is keyed by (user or TCP, program name, host): several connections of one identity
//! share it and its token, and its tasks survive them; a client's death ends nothing. A record is
//! given back when it has neither connection nor task. Record 0 belongs to callers that never
//! registered; its tasks are counted too.
//!
//! Invariant: `unfinished` and `kept` of a record are the numbers of its tasks in these states at
//! all times; every task is counted by [`Clients::task_accepted`], [`Clients::task_ended`] and
//! [`Clients::task_freed`], once each, unless [`Clients::task_revived`] takes an end back. Tested in `engine/tests/rules/clients.rs`.

use qtf_journal::ClientRef;
use qtf_shm::{ClientFields, ClientIndex, ClientSlot, Now, Segment};

use crate::rejection::{Detail, RejectReason, Rejection};

/// LIMIT: the name fields of the record hold 63 bytes.
const NAME_BYTES_MAX: usize = 63;
/// Bits of the record's index in a token.
const INDEX_BITS: u32 = 16;

/// Who opens a client session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// The user at the other end of a Unix socket; `None` over TCP.
    pub uid: Option<u32>,
    /// Program name; 1 to 63 bytes.
    pub name: &'a str,
    /// Node name.
    pub host: &'a str,
    /// Address of the connection, for lists.
    pub address: &'a str,
    /// Process id on that node.
    pub pid: u32,
}

/// A client's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientSession {
    /// The record of the identity.
    pub index: ClientIndex,
    /// Secret of the identity; never 0.
    pub token: u64,
}

/// What the Register remembers about clients beside the segment.
#[derive(Debug)]
pub(crate) struct Clients {
    /// Tokens by record; 0 = none given since the daemon started.
    tokens: Vec<u64>,
    /// Who they are, by record, so that a submission is journalled without a look into the segment.
    identities: Vec<Identity>,
}

/// Who a client is, wherever its connection comes from.
#[derive(Debug, Clone, Default)]
struct Identity {
    uid: Option<u32>,
    name: String,
    host: String,
}

impl Clients {
    pub(crate) fn new(segment: &Segment) -> Self {
        let count = usize::try_from(segment.geometry().clients()).unwrap_or(0);
        let mut identities = vec![Identity::default(); count];
        for index in indices(count) {
            // The connections of the daemon before are gone.
            let record = segment.client(index);
            if record.is_used() {
                record.set_connections(0);
                if !close_if_idle(record) {
                    identities[index.position()] = Identity {
                        uid: Some(record.uid()).filter(|&uid| uid != u32::MAX),
                        name: record.name(),
                        host: record.host(),
                    };
                }
            }
        }
        Self {
            tokens: vec![0; count],
            identities,
        }
    }

    /// Opens a session, in the record of the identity if there is one.
    pub(crate) fn hello(
        &mut self,
        segment: &Segment,
        rng: &mut fastrand::Rng,
        now: Now,
        hello: &ClientHello<'_>,
    ) -> Result<ClientSession, Rejection> {
        check_name(hello.name)?;
        if hello.host.len() > NAME_BYTES_MAX {
            return Err(Rejection::invalid(
                "client host is longer than 63 bytes: shorten it",
            ));
        }
        let index = match self.find(segment, hello) {
            Some(index) => index,
            None => self.open(segment, now, hello)?,
        };
        let record = segment.client(index);
        record.set_connections(record.connections().saturating_add(1));
        record.set_heartbeat(now.stamp());
        self.identities[index.position()] = Identity {
            uid: hello.uid,
            name: hello.name.to_owned(),
            host: hello.host.to_owned(),
        };
        let token = &mut self.tokens[index.position()];
        if *token == 0 {
            let secret = rng.u64(1..1 << (u64::BITS - INDEX_BITS));
            *token = (secret << INDEX_BITS) | u64::from(index.get());
        }
        Ok(ClientSession {
            index,
            token: *token,
        })
    }

    /// The record that a token opens.
    pub(crate) fn of_token(&self, token: u64) -> Result<ClientIndex, Rejection> {
        let unknown = Rejection::new(RejectReason::UnknownSession, Detail::Session);
        let number = u16::try_from(token & ((1 << INDEX_BITS) - 1)).map_err(|_| unknown)?;
        match self.tokens.get(usize::from(number)) {
            Some(&known) if known == token && token != 0 => {
                ClientIndex::new_checked(number, u32::from(u16::MAX)).ok_or(unknown)
            }
            Some(_) | None => Err(unknown),
        }
    }

    /// Who a client is; nobody in particular for one that never registered.
    pub(crate) fn named(&self, client: ClientIndex) -> ClientRef<'_> {
        match self.identities.get(client.position()) {
            Some(identity) if client != ClientIndex::UNKNOWN => ClientRef {
                uid: identity.uid,
                name: &identity.name,
                host: &identity.host,
            },
            Some(_) | None => ClientRef::default(),
        }
    }

    /// Says whether a record may be named as the owner of tasks.
    pub(crate) fn is_open(&self, segment: &Segment, client: ClientIndex) -> bool {
        client == ClientIndex::UNKNOWN
            || client.position() < self.tokens.len() && segment.client(client).is_used()
    }

    /// Notes a heartbeat.
    pub(crate) fn beat(&self, segment: &Segment, now: Now, client: ClientIndex) {
        if client.position() < self.tokens.len() {
            segment.client(client).set_heartbeat(now.stamp());
        }
    }

    /// One connection of the identity is gone.
    pub(crate) fn closed(&mut self, segment: &Segment, client: ClientIndex) {
        if client.position() < self.tokens.len() {
            let record = segment.client(client);
            record.set_connections(record.connections().saturating_sub(1));
            self.settle(segment, client);
        }
    }

    pub(crate) fn task_accepted(&self, segment: &Segment, client: ClientIndex) {
        if client.position() < self.tokens.len() {
            let record = segment.client(client);
            record.set_unfinished(record.unfinished().saturating_add(1));
            record.set_submitted(record.submitted().saturating_add(1));
        }
    }

    pub(crate) fn task_ended(&self, segment: &Segment, client: ClientIndex) {
        if client.position() < self.tokens.len() {
            let record = segment.client(client);
            record.set_unfinished(record.unfinished().saturating_sub(1));
            record.set_kept(record.kept().saturating_add(1));
        }
    }

    /// A task that had ended waits again.
    pub(crate) fn task_revived(&self, segment: &Segment, client: ClientIndex) {
        if client.position() < self.tokens.len() {
            let record = segment.client(client);
            record.set_unfinished(record.unfinished().saturating_add(1));
            record.set_kept(record.kept().saturating_sub(1));
        }
    }

    pub(crate) fn task_freed(&mut self, segment: &Segment, client: ClientIndex) {
        if client.position() < self.tokens.len() {
            let record = segment.client(client);
            record.set_kept(record.kept().saturating_sub(1));
            self.settle(segment, client);
        }
    }

    /// Gives the record back if nothing holds it any more.
    fn settle(&mut self, segment: &Segment, client: ClientIndex) {
        if close_if_idle(segment.client(client)) {
            self.tokens[client.position()] = 0;
        }
    }

    fn find(&self, segment: &Segment, hello: &ClientHello<'_>) -> Option<ClientIndex> {
        let uid = hello.uid.unwrap_or(u32::MAX);
        indices(self.tokens.len()).find(|&index| {
            let record = segment.client(index);
            record.is_used()
                && record.uid() == uid
                && record.name() == hello.name
                && record.host() == hello.host
        })
    }

    fn open(
        &self,
        segment: &Segment,
        now: Now,
        hello: &ClientHello<'_>,
    ) -> Result<ClientIndex, Rejection> {
        let count = self.tokens.len();
        let index = indices(count)
            .find(|&index| !segment.client(index).is_used())
            .ok_or_else(|| {
                let detail = Detail::Full {
                    what: "client records",
                    count: u64::try_from(count).unwrap_or(u64::MAX),
                };
                Rejection::for_now(RejectReason::ClientsFull, detail)
            })?;
        segment.client(index).open(&ClientFields {
            name: hello.name,
            host: hello.host,
            address: hello.address,
            pid: hello.pid,
            uid: hello.uid.unwrap_or(u32::MAX),
            registered: now.stamp(),
        });
        Ok(index)
    }
}

/// The records of registered clients: all but record 0.
fn indices(count: usize) -> impl Iterator<Item = ClientIndex> {
    (1..u16::try_from(count).unwrap_or(u16::MAX))
        .filter_map(|raw| ClientIndex::new_checked(raw, u32::from(u16::MAX)))
}

fn close_if_idle(record: &ClientSlot) -> bool {
    let is_idle = record.is_used()
        && record.connections() == 0
        && record.unfinished() == 0
        && record.kept() == 0;
    if is_idle {
        record.close();
    }
    is_idle
}

fn check_name(name: &str) -> Result<(), Rejection> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(Rejection::invalid(
            "client name must have 1 to 63 bytes: give the program a name",
        ));
    }
    Ok(())
}
