//! Clients: identities that submit tasks and collect results.
//!
//! A record is keyed by (principal, program name, host): several connections of one identity
//! share it and its token, and its tasks survive them; a client's death ends nothing. A record is
//! given back when it has neither connection nor task.
//!
//! Nobody is refused for want of a record. A principal whose share of the records is used up, and every call without a session, has
//! the principal's *common record*, which has no name; the last records are kept for those of the operators (the daemon's own user and
//! root). Where even that one finds no place the caller is one of the unknown ones, whose record is number 0. Meanwhile idle records
//! are folded into common ones (`folding.rs`), so that there are places again.
//!
//! Invariant: `unfinished` and `kept` of a record are the numbers of its tasks in these states at
//! all times; every task is counted by [`Clients::task_accepted`], [`Clients::task_ended`] and
//! [`Clients::task_freed`], once each, unless [`Clients::task_revived`] takes an end back. The same tasks are counted for the principal
//! of the record, see [`Shares`]. Tested in `engine/tests/rules/clients.rs` and `shares.rs`.

mod arena_share;
mod folding;
mod local_clients;

use core::net::{IpAddr, SocketAddr};

use qtf_journal::ClientRef;
use qtf_shm::{
    ClientFields, ClientIndex, ClientSlot, Counter, Now, Segment, TaskOptions, TaskSlot,
};

use crate::config::EngineConfig;
use crate::principal::Principal;
use crate::rejection::{Detail, RejectReason, Rejection};
use crate::shares::{HolderIndex, ShareRule, ShareUsedUp, Shares, Usage};

use folding::Folding;
use local_clients::Orphans;

pub(crate) use arena_share::{arena_bytes, arena_bytes_of};

/// LIMIT: the name fields of the record hold 63 bytes.
const NAME_BYTES_MAX: usize = 63;
/// Bits of the record's index in a token.
const INDEX_BITS: u32 = 16;
/// Records that only operators may take: one for the daemon's own user, one for root.
pub(crate) const OPERATOR_RECORDS: u64 = 2;
const ROOT: u32 = 0;

/// Who opens a client session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// For whom, by the word of the connection.
    pub principal: Principal,
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
    /// The record of the identity, or the common one of its principal.
    pub index: ClientIndex,
    /// Secret of the record; never 0.
    pub token: u64,
}

/// What the Register remembers about clients beside the segment.
#[derive(Debug)]
pub(crate) struct Clients {
    /// Tokens by record; 0 = none given since the daemon started.
    tokens: Vec<u64>,
    /// Who they are, by record, so that a submission is journalled without a look into the segment.
    identities: Vec<Identity>,
    pub(crate) shares: Shares,
    /// What the payloads of each record's tasks take of the arena: see `arena_share.rs`.
    pub(super) arena: Vec<u64>,
    pub(super) folding: Folding,
    orphans: Orphans,
    operator: u32,
}

/// Who a client is, wherever its connection comes from.
#[derive(Debug, Clone, Default)]
struct Identity {
    principal: Principal,
    holder: HolderIndex,
    name: String,
    host: String,
}

impl Identity {
    fn is(&self, principal: Principal, name: &str, host: &str) -> bool {
        self.principal == principal && self.name == name && self.host == host
    }
}

impl Clients {
    pub(crate) fn new(segment: &Segment, config: &EngineConfig) -> Self {
        let count = usize::try_from(segment.geometry().clients()).unwrap_or(0);
        let mut clients = Self {
            tokens: vec![0; count],
            identities: vec![Identity::default(); count],
            shares: Shares::new(config.share_rule, count),
            arena: vec![0; count],
            folding: Folding::new(count),
            orphans: Orphans::default(),
            operator: config.operator_uid,
        };
        for index in indices(count) {
            // The connections of the daemon before are gone.
            let record = segment.client(index);
            if record.is_used() {
                record.set_connections(0);
                if !close_if_idle(record) {
                    clients.note_opened(
                        index,
                        (principal_of(record), &record.name(), &record.host()),
                    );
                    let tasks = record.unfinished().saturating_add(record.kept());
                    clients.shares.add_tasks(clients.holder_of(index), tasks);
                }
            }
        }
        clients.count_arena(segment);
        clients
    }

    /// Opens a session, in the record of the identity, or else in the common one of its principal.
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
        let index = self
            .known(segment, hello)
            .or_else(|| self.open_named(segment, now, hello))
            .unwrap_or_else(|| self.common(segment, now, hello.principal));
        if index != ClientIndex::UNKNOWN {
            let record = segment.client(index);
            if record.connections() == 0 {
                segment.counters().add(Counter::ClientJoined, 1);
            }
            record.set_connections(record.connections().saturating_add(1));
            record.set_heartbeat(now.stamp());
            self.folding.stop(index);
        }
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

    /// The record of callers without a session: the common one of their principal.
    pub(crate) fn common(
        &mut self,
        segment: &Segment,
        now: Now,
        principal: Principal,
    ) -> ClientIndex {
        if principal == Principal::Unknown {
            return ClientIndex::UNKNOWN;
        }
        let known = self.find(segment, |identity| identity.is(principal, "", ""));
        if let Some(index) = known {
            return index;
        }
        let kept = if self.is_operator(principal) {
            0
        } else {
            OPERATOR_RECORDS
        };
        if self.free_records() > kept {
            let fields = ClientFields {
                address: &principal.to_string(),
                uid: principal.uid().unwrap_or(u32::MAX),
                registered: now.stamp(),
                ..ClientFields::default()
            };
            if let Some(index) = self.open(segment, principal, &fields) {
                return index;
            }
        }
        ClientIndex::UNKNOWN
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

    /// Who a client is; nobody in particular for one that is not known.
    pub(crate) fn named(&self, client: ClientIndex) -> ClientRef<'_> {
        match self.identities.get(client.position()) {
            Some(identity) if client != ClientIndex::UNKNOWN => ClientRef {
                uid: identity.principal.uid(),
                name: &identity.name,
                host: &identity.host,
            },
            Some(_) | None => ClientRef::default(),
        }
    }

    /// For whom the tasks of a record were submitted.
    pub(crate) fn principal(&self, client: ClientIndex) -> Principal {
        let identity = self.identities.get(client.position());
        identity.map_or(Principal::Unknown, |identity| identity.principal)
    }

    /// Who is counted for the tasks of a record.
    pub(crate) fn holder_of(&self, client: ClientIndex) -> HolderIndex {
        let identity = self.identities.get(client.position());
        identity.map_or(HolderIndex::UNKNOWN, |identity| identity.holder)
    }

    /// Says whose share of the task slots is used up.
    pub(crate) fn check_task_share(
        &self,
        segment: &Segment,
        client: ClientIndex,
    ) -> Result<(), Rejection> {
        let holder = self.shares.of(self.holder_of(client));
        let size = u64::from(segment.geometry().tasks());
        let usage = Usage {
            held: holder.tasks,
            used: self.shares.total().tasks,
            size,
        };
        // Whether all are in use the claim finds out.
        let is_full = usage.used >= size || self.shares.rule == ShareRule::Whole;
        if is_full || holder.tasks == 0 || self.shares.rule.allows(usage, 1) {
            return Ok(());
        }
        let used_up = ShareUsedUp {
            principal: holder.principal,
            held: holder.tasks,
            size,
            what: "task slots",
            until: "slots are free again as its tasks end and are forgotten, or their results expire",
        };
        Err(Rejection::for_now(
            RejectReason::TasksFull,
            Detail::Share(used_up),
        ))
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
        if client.position() < self.tokens.len() && client != ClientIndex::UNKNOWN {
            let record = segment.client(client);
            if record.connections() == 1 {
                segment.counters().add(Counter::ClientLeft, 1);
            }
            record.set_connections(record.connections().saturating_sub(1));
            self.settle(segment, client);
        }
    }

    #[inline]
    pub(crate) fn task_accepted(&mut self, segment: &Segment, client: ClientIndex) {
        if client.position() < self.tokens.len() {
            let record = segment.client(client);
            record.set_unfinished(record.unfinished().saturating_add(1));
            record.set_submitted(record.submitted().saturating_add(1));
            self.shares.add_tasks(self.holder_of(client), 1);
        }
    }

    pub(crate) fn task_ended(&mut self, segment: &Segment, task: &TaskSlot) {
        let client = task.client();
        if task.options().has(TaskOptions::TELLS_LANE) {
            // Its submission was seen by nobody.
            self.task_accepted(segment, client);
            self.arena_taken(client, arena_bytes(task));
        }
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

    #[inline]
    pub(crate) fn task_freed(&mut self, segment: &Segment, client: ClientIndex) {
        if client.position() < self.tokens.len() {
            let record = segment.client(client);
            record.set_kept(record.kept().saturating_sub(1));
            self.shares.remove_tasks(self.holder_of(client), 1);
            self.settle(segment, client);
        }
    }

    /// Gives the record back if nothing holds it any more.
    pub(crate) fn settle(&mut self, segment: &Segment, client: ClientIndex) {
        if client.position() < self.tokens.len() && close_if_idle(segment.client(client)) {
            self.note_closed(client);
        }
    }

    fn note_opened(&mut self, index: ClientIndex, who: (Principal, &str, &str)) {
        let (principal, name, host) = who;
        let holder = self.shares.holder(principal);
        self.shares.add_record(holder);
        if let Some(place) = self.identities.get_mut(index.position()) {
            *place = Identity {
                principal,
                holder,
                name: name.to_owned(),
                host: host.to_owned(),
            };
        }
    }

    fn note_closed(&mut self, index: ClientIndex) {
        let holder = self.holder_of(index);
        self.shares.remove_record(holder);
        // Nothing, unless somebody else has written the slots.
        let left = self.arena.get_mut(index.position()).map(core::mem::take);
        self.shares.remove_arena(holder, left.unwrap_or(0));
        self.folding.stop(index);
        self.tokens[index.position()] = 0;
        self.identities[index.position()] = Identity::default();
    }

    /// The record of an identity. One that came back from a journal without the address of its client is the first one's who calls
    /// itself so.
    fn known(&mut self, segment: &Segment, hello: &ClientHello<'_>) -> Option<ClientIndex> {
        let (name, host) = (hello.name, hello.host);
        let own = self.find(segment, |identity| identity.is(hello.principal, name, host));
        if own.is_some() || hello.principal.uid().is_some() {
            return own;
        }
        let index = self.find(segment, |identity| {
            identity.is(Principal::Unknown, name, host)
        })?;
        let record = segment.client(index);
        let tasks = record.unfinished().saturating_add(record.kept());
        let before = self.holder_of(index);
        self.shares.remove_record(before);
        self.shares.remove_tasks(before, tasks);
        let arena = self.arena.get(index.position()).copied().unwrap_or(0);
        self.shares.remove_arena(before, arena);
        self.note_opened(index, (hello.principal, name, host));
        self.shares.add_tasks(self.holder_of(index), tasks);
        self.shares.add_arena(self.holder_of(index), arena);
        Some(index)
    }

    fn find(
        &self,
        segment: &Segment,
        mut is_meant: impl FnMut(&Identity) -> bool,
    ) -> Option<ClientIndex> {
        let mut all = indices(self.tokens.len()).zip(self.identities.iter().skip(1));
        all.find(|(index, identity)| is_meant(identity) && segment.client(*index).is_used())
            .map(|(index, _)| index)
    }

    /// A record of its own for an identity, if its principal's share has one left.
    fn open_named(
        &mut self,
        segment: &Segment,
        now: Now,
        hello: &ClientHello<'_>,
    ) -> Option<ClientIndex> {
        let holder = self.shares.holder(hello.principal);
        let held = self.shares.of(holder).records;
        let size = self.records().saturating_sub(OPERATOR_RECORDS);
        let used = self.shares.total().records;
        if !self.shares.rule.allows(Usage { held, used, size }, 1) {
            self.fold(segment, holder);
            return None;
        }
        let fields = ClientFields {
            name: hello.name,
            host: hello.host,
            address: hello.address,
            pid: hello.pid,
            uid: hello.principal.uid().unwrap_or(u32::MAX),
            registered: now.stamp(),
        };
        self.open(segment, hello.principal, &fields)
    }

    fn open(
        &mut self,
        segment: &Segment,
        principal: Principal,
        fields: &ClientFields<'_>,
    ) -> Option<ClientIndex> {
        let index = indices(self.tokens.len()).find(|&index| !segment.client(index).is_used())?;
        segment.client(index).open(fields);
        self.note_opened(index, (principal, fields.name, fields.host));
        Some(index)
    }

    /// Records of clients that there are: all but record 0.
    fn records(&self) -> u64 {
        u64::try_from(self.tokens.len().saturating_sub(1)).unwrap_or(u64::MAX)
    }

    fn free_records(&self) -> u64 {
        let used = self.shares.total().records;
        self.records().saturating_sub(used)
    }

    fn is_operator(&self, principal: Principal) -> bool {
        let uid = principal.uid();
        uid == Some(ROOT) || uid == Some(self.operator)
    }

    /// There are too few records: idle ones of this principal are folded into its common one, or, should it have no two, those of the
    /// principal that has most.
    fn fold(&mut self, segment: &Segment, wanting: HolderIndex) {
        if self.folding.is_under_way() {
            return;
        }
        // Those whose principal is not known are not one: their results are not thrown together.
        let known = self
            .shares
            .iter()
            .filter(|(holder, _)| *holder != HolderIndex::UNKNOWN);
        let most = known.max_by_key(|(_, holder)| holder.records);
        let holder = if self.shares.of(wanting).records > 1 {
            wanting
        } else {
            most.map_or(wanting, |(most, _)| most)
        };
        if holder == HolderIndex::UNKNOWN {
            return;
        }
        let idle = |index: &ClientIndex| {
            let record = segment.client(*index);
            let is_named = !self.identities[index.position()].name.is_empty();
            let has_no_more =
                record.connections() == 0 && record.unfinished() == 0 && record.lane().is_none();
            is_named && self.holder_of(*index) == holder && record.is_used() && has_no_more
        };
        let mut idle: Vec<ClientIndex> = indices(self.tokens.len()).filter(idle).collect();
        let common = self.find(segment, |identity| {
            identity.holder == holder && identity.name.is_empty()
        });
        let Some(common) = common.or_else(|| idle.pop()) else {
            return;
        };
        let identity = &mut self.identities[common.position()];
        if !identity.name.is_empty() {
            segment.client(common).make_common();
            (identity.name, identity.host) = (String::new(), String::new());
        }
        for index in idle {
            self.folding.begin(index, common);
        }
    }
}

/// The records of registered clients: all but record 0.
fn indices(count: usize) -> impl Iterator<Item = ClientIndex> {
    (1..u16::try_from(count).unwrap_or(u16::MAX))
        .filter_map(|raw| ClientIndex::new_checked(raw, u32::from(u16::MAX)))
}

/// Whose record it is: what the kernel said of its first connection.
pub(crate) fn principal_of(record: &ClientSlot) -> Principal {
    if record.uid() != u32::MAX {
        return Principal::Uid(record.uid());
    }
    let address = record.address();
    let with_port = address.parse::<SocketAddr>().map(|socket| socket.ip());
    with_port
        .or_else(|_| address.parse::<IpAddr>())
        .map_or(Principal::Unknown, Principal::of_address)
}

/// One that names a lane may have tasks that nobody has counted, see `local_clients.rs`.
fn close_if_idle(record: &ClientSlot) -> bool {
    let is_idle = record.is_used()
        && record.connections() == 0
        && record.lane().is_none()
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
