//! Payloads and outputs that were uploaded and not yet used.
//!
//! An upload lies in a spill file from its first chunk on; the spill thread does to it what is to be done, one job of each upload at a
//! time ([`crate::spill`]). Its receipt is good for one use, by the session that uploaded it, within [`RECEIPT_NS`]; then the file is
//! removed. Uploads under way count too, so that their number is bounded. Each counts for its principal, with the bytes that it has
//! taken, in steps of [`SPILL_STEP_BYTES`], one at least: one principal's share of the number and of the room in spill files is
//! bounded by the rule for all tables.
//!
//! Invariants:
//! - I1: an upload keeps its place until its file is kept, or the thread has removed it: whoever comes and goes while a disk hangs
//!   makes no queue grow.
//! - I2: nothing here touches a file.
//!
//! Tested in `tests.rs`.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use qtf_engine::{Principal, ShareRule, ShareUsedUp, Usage};
use qtf_shm::spill::{SPILL_STEP_BYTES, SpillStore};
use qtf_shm::{BlobRef, Now};
use tokio::sync::oneshot;

use crate::spill::jobs::SpillJobs;
use crate::spill::thread::{Answer, Step, UploadKey};

/// How long a receipt is good for: 60 s.
pub(crate) const RECEIPT_NS: u64 = 60_000_000_000;
/// LIMIT: receipts that expire in one turn.
const EXPIRED_AT_ONCE: usize = 64;

#[derive(Debug, Clone, Copy)]
struct Upload {
    principal: Principal,
    blob: BlobRef,
    session: u64,
    expires: Now,
}

/// An upload whose file is being written.
#[derive(Debug)]
struct UnderWay {
    principal: Principal,
    /// What it announced.
    total: u64,
    /// What it has sent.
    received: u64,
    /// What it counts for.
    counted: u64,
    job: OneJob,
    /// Its file, when that is complete.
    finished: Option<BlobRef>,
}

/// What the spill thread does for an upload.
#[derive(Debug)]
enum OneJob {
    None,
    /// Somebody waits for the answer.
    Asked(oneshot::Sender<Answer>),
    /// Nobody does: the upload is to go.
    Left,
    /// It is going.
    Dropped,
}

/// All uploads.
#[derive(Debug)]
pub(crate) struct Uploads {
    store: SpillStore,
    jobs: Rc<SpillJobs>,
    under_way: HashMap<UploadKey, UnderWay>,
    last_key: u64,
    waiting: HashMap<u64, Upload>,
    /// When each of them expires.
    expiries: BTreeSet<(Now, u64)>,
    /// Given up, to be removed. No more than there are uploads: while files wait here none is finished.
    lost: VecDeque<BlobRef>,
    /// Under way and waiting, by principal; one without any is not there.
    held: BTreeMap<Principal, Held>,
    all: Held,
    rule: ShareRule,
    uploads_max: usize,
}

/// Uploads, and what they have taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Held {
    count: u64,
    bytes: u64,
}

/// Why an upload cannot begin, or go on, now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoUpload {
    /// All are in use.
    Full,
    /// Those are that one principal may use.
    Share(ShareUsedUp),
    /// It has another length than it announced.
    Announced { received: u64, total: u64 },
    /// There is no such upload.
    Gone,
}

/// The answer to a step comes here; nothing, if the daemon ends before.
pub(crate) type Asked = oneshot::Receiver<Answer>;

impl Uploads {
    /// None yet; at most `uploads_max` under way and waiting together.
    pub(crate) fn new(
        store: SpillStore,
        jobs: Rc<SpillJobs>,
        uploads_max: usize,
        rule: ShareRule,
    ) -> Self {
        Self {
            store,
            jobs,
            under_way: HashMap::new(),
            last_key: 0,
            waiting: HashMap::new(),
            expiries: BTreeSet::new(),
            lost: VecDeque::new(),
            held: BTreeMap::new(),
            all: Held::default(),
            rule,
            uploads_max,
        }
    }

    /// An upload of so many bytes begins: its file is being made.
    pub(crate) fn begin(
        &mut self,
        principal: Principal,
        total: u64,
    ) -> Result<(UploadKey, Asked), NoUpload> {
        self.begin_with(principal, total, Step::Begin(total))
    }

    /// Bytes that are here already go into a file, as an upload does whose bytes have all come.
    pub(crate) fn store(
        &mut self,
        principal: Principal,
        data: Bytes,
        is_durable: bool,
    ) -> Result<(UploadKey, Asked), NoUpload> {
        let total = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.begin_with(principal, total, Step::Whole { data, is_durable })
    }

    fn begin_with(
        &mut self,
        principal: Principal,
        total: u64,
        step: Step,
    ) -> Result<(UploadKey, Asked), NoUpload> {
        let held = self.held.get(&principal).copied().unwrap_or_default();
        let size = u64::try_from(self.uploads_max).unwrap_or(u64::MAX);
        if self.all.count >= size {
            return Err(NoUpload::Full);
        }
        let usage = Usage {
            held: held.count,
            used: self.all.count,
            size,
        };
        if !self.rule.allows(usage, 1) {
            return Err(used_up(principal, held.count, size, "uploads"));
        }
        let first = total.min(SPILL_STEP_BYTES);
        self.check_bytes(principal, first, 0)?;
        self.count(principal, 1, first);
        self.last_key = self.last_key.saturating_add(1);
        let key = UploadKey(self.last_key);
        let upload = UnderWay {
            principal,
            total,
            received: 0,
            counted: first,
            job: OneJob::None,
            finished: None,
        };
        self.under_way.insert(key, upload);
        let asked = self.ask(key, step)?;
        Ok((key, asked))
    }

    /// Whether a principal may have so many bytes more in spill files, for one of its uploads that counts as `own` so far.
    fn check_bytes(&self, principal: Principal, more: u64, own: u64) -> Result<(), NoUpload> {
        let held = self.held.get(&principal).copied().unwrap_or_default();
        let size = self.store.total_limit();
        let usage = Usage {
            held: held.bytes,
            used: self.all.bytes,
            size,
        };
        let has_room = self.rule.allows(usage, more);
        // The only upload of all may be as large as the store takes; and whether the store is full it says itself.
        let is_alone = self.all.count <= own;
        let would_fit = self.all.bytes.saturating_add(more) <= size;
        if !has_room && would_fit && !is_alone {
            return Err(used_up(principal, held.bytes, size, "bytes in spill files"));
        }
        Ok(())
    }

    /// The next bytes of an upload that has nothing under way.
    pub(crate) fn write(&mut self, key: UploadKey, data: Bytes) -> Result<Asked, NoUpload> {
        let upload = self.under_way.get(&key).ok_or(NoUpload::Gone)?;
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        let (received, total) = (upload.received.saturating_add(length), upload.total);
        if received > total {
            return Err(NoUpload::Announced { received, total });
        }
        let (principal, counted) = (upload.principal, upload.counted);
        let end = received.next_multiple_of(SPILL_STEP_BYTES).min(total);
        let more = end.saturating_sub(counted);
        if more > 0 {
            self.check_bytes(principal, more, 1)?;
            self.count(principal, 0, more);
        }
        if let Some(upload) = self.under_way.get_mut(&key) {
            upload.received = received;
            upload.counted = counted.saturating_add(more);
        }
        self.ask(key, Step::Write(data))
    }

    /// All bytes of an upload have come.
    pub(crate) fn finish(&mut self, key: UploadKey, is_durable: bool) -> Result<Asked, NoUpload> {
        let upload = self.under_way.get(&key).ok_or(NoUpload::Gone)?;
        let (received, total) = (upload.received, upload.total);
        if received < total {
            return Err(NoUpload::Announced { received, total });
        }
        self.ask(key, Step::Finish { is_durable })
    }

    fn ask(&mut self, key: UploadKey, step: Step) -> Result<Asked, NoUpload> {
        let upload = self.under_way.get_mut(&key).ok_or(NoUpload::Gone)?;
        if !matches!(upload.job, OneJob::None) {
            return Err(NoUpload::Gone);
        }
        let (answer, asked) = oneshot::channel();
        if self.jobs.hand(key, step) {
            upload.job = OneJob::Asked(answer);
        }
        Ok(asked)
    }

    /// Whoever uploads is gone, or has its receipt. What is under way is still done; then the file goes, and its place is free.
    pub(crate) fn leave(&mut self, key: UploadKey) {
        let Some(upload) = self.under_way.get_mut(&key) else {
            return;
        };
        match upload.job {
            OneJob::None => self.drop_upload(key),
            OneJob::Asked(_) => upload.job = OneJob::Left,
            OneJob::Left | OneJob::Dropped => {}
        }
    }

    fn drop_upload(&mut self, key: UploadKey) {
        let Some(upload) = self.under_way.get_mut(&key) else {
            return;
        };
        match upload.finished.take() {
            Some(blob) => {
                self.discard(blob);
                self.end(key);
            }
            None if self.jobs.hand(key, Step::Drop) => upload.job = OneJob::Dropped,
            None => self.end(key),
        }
    }

    /// The spill thread has done a step.
    pub(crate) fn done(&mut self, key: UploadKey, answer: Answer) {
        let Some(upload) = self.under_way.get_mut(&key) else {
            return;
        };
        if let Ok(Some(blob)) = answer {
            upload.finished = Some(blob);
        }
        match std::mem::replace(&mut upload.job, OneJob::None) {
            OneJob::Asked(waiting) => {
                // If it is gone, it has left before this.
                let _ = waiting.send(answer);
            }
            OneJob::Left => self.drop_upload(key),
            OneJob::Dropped | OneJob::None => self.end(key),
        }
    }

    fn end(&mut self, key: UploadKey) {
        if let Some(upload) = self.under_way.remove(&key) {
            self.uncount(upload.principal, upload.counted);
        }
    }

    fn count(&mut self, principal: Principal, count: u64, bytes: u64) {
        let held = self.held.entry(principal).or_default();
        for held in [held, &mut self.all] {
            held.count = held.count.saturating_add(count);
            held.bytes = held.bytes.saturating_add(bytes);
        }
    }

    fn uncount(&mut self, principal: Principal, bytes: u64) {
        let Some(held) = self.held.get_mut(&principal) else {
            return;
        };
        held.count = held.count.saturating_sub(1);
        held.bytes = held.bytes.saturating_sub(bytes);
        if held.count == 0 {
            self.held.remove(&principal);
        }
        self.all.count = self.all.count.saturating_sub(1);
        self.all.bytes = self.all.bytes.saturating_sub(bytes);
    }

    /// Gives up what was uploaded and is not wanted.
    pub(crate) fn discard(&mut self, blob: BlobRef) {
        self.store.give_up(blob);
        self.lost.push_back(blob);
    }

    /// The next file that was given up here.
    pub(super) fn pop_lost_file(&mut self) -> Option<BlobRef> {
        self.lost.pop_front()
    }

    /// Keeps what was uploaded and gives its receipt; `None` if there is no randomness for one.
    pub(crate) fn keep(&mut self, key: UploadKey, session: u64, now: Now) -> Option<u64> {
        let receipt = getrandom::u64().ok()?;
        if receipt == 0 || self.waiting.contains_key(&receipt) {
            return None;
        }
        let upload = self.under_way.get_mut(&key)?;
        let (principal, blob) = (upload.principal, upload.finished.take()?);
        self.end(key);
        let expires = now.plus_ns(RECEIPT_NS);
        self.count(principal, 1, blob.len());
        self.waiting.insert(
            receipt,
            Upload {
                principal,
                blob,
                session,
                expires,
            },
        );
        self.expiries.insert((expires, receipt));
        Some(receipt)
    }

    /// What a receipt is for; it stays good, so that a submission that is refused can be tried again.
    pub(crate) fn peek(&self, receipt: u64, session: u64, now: Now) -> Option<BlobRef> {
        let upload = self.waiting.get(&receipt)?;
        (upload.session == session && upload.expires > now).then_some(upload.blob)
    }

    /// What the receipt is for waits for room in the journal: it stays good for as long again.
    pub(crate) fn renew(&mut self, receipt: u64, now: Now) {
        if let Some(upload) = self.waiting.get_mut(&receipt) {
            self.expiries.remove(&(upload.expires, receipt));
            upload.expires = now.plus_ns(RECEIPT_NS);
            self.expiries.insert((upload.expires, receipt));
        }
    }

    /// The receipt was used.
    pub(crate) fn use_up(&mut self, receipt: u64) {
        self.take_out(receipt);
    }

    fn take_out(&mut self, receipt: u64) -> Option<BlobRef> {
        let upload = self.waiting.remove(&receipt)?;
        self.expiries.remove(&(upload.expires, receipt));
        self.uncount(upload.principal, upload.blob.len());
        Some(upload.blob)
    }

    #[cfg(test)]
    /// Uses a receipt up. `None` if it is not known, expired, or another session's.
    pub(crate) fn take(&mut self, receipt: u64, session: u64, now: Now) -> Option<BlobRef> {
        let blob = self.peek(receipt, session, now)?;
        self.use_up(receipt);
        Some(blob)
    }

    /// When the next receipt expires.
    pub(crate) fn next_expiry(&self) -> Option<Now> {
        self.expiries.first().map(|(expires, _)| *expires)
    }

    /// Gives up what nobody has used in time, a bounded number a turn. Returns how many.
    pub(crate) fn expire(&mut self, now: Now) -> usize {
        for step in 0..EXPIRED_AT_ONCE {
            match self.expiries.first() {
                Some(&(expires, receipt)) if expires <= now => {
                    if let Some(blob) = self.take_out(receipt) {
                        self.discard(blob);
                    }
                }
                _ => return step,
            }
        }
        EXPIRED_AT_ONCE
    }

    /// At the end: everything that waits is given up; what is under way the spill thread removes with its own end.
    pub(crate) fn give_up_all(&mut self) {
        while self.expire(Now::from_ns(u64::MAX)) > 0 {}
    }
}

fn used_up(principal: Principal, held: u64, size: u64, what: &'static str) -> NoUpload {
    NoUpload::Share(ShareUsedUp {
        principal,
        held,
        size,
        what,
        until: "some are free again when an upload is used by its submission, has failed, or is 60 s old",
    })
}
