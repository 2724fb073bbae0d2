//! Payloads and outputs that were uploaded and not yet used.
//!
//! An upload lies in a spill file from its first chunk on. Its receipt is good for one use, by the session
//! that uploaded it, within [`RECEIPT_NS`]; then the file is removed. Uploads under way count too, so
//! that their number is bounded. Each counts for its principal, with the bytes that it announced: one principal's share of the number and
//! of the room in spill files is bounded by the rule for all tables. Tested at the end of this file.

use std::collections::{BTreeMap, HashMap};

use qtf_engine::{Principal, ShareRule, ShareUsedUp};
use qtf_shm::spill::{SpillError, SpillStore, SpillWriter};
use qtf_shm::{BlobRef, Now};

/// How long a receipt is good for: 60 s.
pub(crate) const RECEIPT_NS: u64 = 60_000_000_000;

#[derive(Debug, Clone, Copy)]
struct Upload {
    principal: Principal,
    blob: BlobRef,
    session: u64,
    expires: Now,
}

/// All uploads.
#[derive(Debug)]
pub(crate) struct Uploads {
    store: SpillStore,
    waiting: HashMap<u64, Upload>,
    /// Under way and waiting, by principal; one without any is not there.
    held: BTreeMap<Principal, Held>,
    all: Held,
    rule: ShareRule,
    uploads_max: usize,
    next_expiry: Option<Now>,
}

/// Uploads, and what they announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Held {
    count: u64,
    bytes: u64,
}

/// Why an upload cannot begin now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoUpload {
    /// All are in use.
    Full,
    /// Those are that one principal may use.
    Share(ShareUsedUp),
}

impl Uploads {
    /// None yet; at most `uploads_max` under way and waiting together.
    pub(crate) fn new(store: SpillStore, uploads_max: usize, rule: ShareRule) -> Self {
        Self {
            store,
            waiting: HashMap::new(),
            held: BTreeMap::new(),
            all: Held::default(),
            rule,
            uploads_max,
            next_expiry: None,
        }
    }

    /// An upload of so many bytes begins.
    pub(crate) fn begin(&mut self, principal: Principal, bytes: u64) -> Result<(), NoUpload> {
        let held = self.held.get(&principal).copied().unwrap_or_default();
        let size = u64::try_from(self.uploads_max).unwrap_or(u64::MAX);
        if self.all.count >= size {
            return Err(NoUpload::Full);
        }
        let until = "some are free again when an upload is used by its submission, has failed, or is 60 s old";
        let used_up = |held, size, what| {
            Err(NoUpload::Share(ShareUsedUp {
                principal,
                held,
                size,
                what,
                until,
            }))
        };
        if !self.rule.allows((held.count, self.all.count, size), 1) {
            return used_up(held.count, size, "uploads");
        }
        let size = self.store.total_limit();
        let has_room = self.rule.allows((held.bytes, self.all.bytes, size), bytes);
        // The first upload of all may be as large as the store takes; and whether the store is full it says itself.
        let would_fit = self.all.bytes.saturating_add(bytes) <= size;
        if !has_room && would_fit && self.all.bytes > 0 {
            return used_up(held.bytes, size, "bytes in spill files");
        }
        self.count(principal, bytes);
        Ok(())
    }

    /// An upload is no longer under way, whatever became of it.
    pub(crate) fn end(&mut self, principal: Principal, bytes: u64) {
        self.uncount(principal, bytes);
    }

    fn count(&mut self, principal: Principal, bytes: u64) {
        let held = self.held.entry(principal).or_default();
        for held in [held, &mut self.all] {
            held.count = held.count.saturating_add(1);
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

    /// Makes the file of an upload.
    pub(crate) fn create(&self, total_bytes: u64) -> Result<SpillWriter, SpillError> {
        self.store.create(total_bytes)
    }

    /// Removes what was uploaded and is not wanted.
    pub(crate) fn discard(&self, blob: BlobRef) {
        if let Err(error) = self.store.remove(blob) {
            tracing::warn!(%error, "upload not removed");
        }
    }

    /// Keeps what was uploaded and gives its receipt; `None` if there is no randomness for one.
    pub(crate) fn keep(
        &mut self,
        (principal, session): (Principal, u64),
        blob: BlobRef,
        now: Now,
    ) -> Option<u64> {
        let receipt = getrandom::u64().ok()?;
        if receipt == 0 || self.waiting.contains_key(&receipt) {
            return None;
        }
        let expires = now.plus_ns(RECEIPT_NS);
        self.count(principal, blob.len());
        self.waiting.insert(
            receipt,
            Upload {
                principal,
                blob,
                session,
                expires,
            },
        );
        self.next_expiry = Some(self.next_expiry.map_or(expires, |next| next.min(expires)));
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
            upload.expires = now.plus_ns(RECEIPT_NS);
        }
    }

    /// The receipt was used.
    pub(crate) fn use_up(&mut self, receipt: u64) {
        if let Some(upload) = self.waiting.remove(&receipt) {
            self.uncount(upload.principal, upload.blob.len());
        }
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
        self.next_expiry
    }

    /// Removes what nobody has used in time.
    pub(crate) fn expire(&mut self, now: Now) {
        if self.next_expiry.is_none_or(|next| next > now) {
            return;
        }
        let (expired, kept) = self
            .waiting
            .drain()
            .partition(|(_, upload)| upload.expires <= now);
        self.waiting = kept;
        let expired: HashMap<u64, Upload> = expired;
        for upload in expired.values() {
            self.uncount(upload.principal, upload.blob.len());
            self.discard(upload.blob);
        }
        self.next_expiry = self.waiting.values().map(|upload| upload.expires).min();
    }

    /// Removes everything, at the end.
    pub(crate) fn remove_all(&mut self) {
        self.expire(Now::from_ns(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1 << 20;

    const ONE: Principal = Principal::Uid(1);
    const OTHER: Principal = Principal::Uid(2);

    fn uploads(folder: &tempfile::TempDir) -> Uploads {
        Uploads::new(SpillStore::open(folder.path(), LIMIT), 2, ShareRule::Whole)
    }

    fn upload(uploads: &mut Uploads) -> u64 {
        let mut writer = uploads.create(3).unwrap();
        writer.write(b"abc").unwrap();
        let blob = writer.finish().unwrap();
        uploads.keep((ONE, 1), blob, Now::from_ns(0)).unwrap()
    }

    fn files(folder: &tempfile::TempDir) -> usize {
        std::fs::read_dir(folder.path()).unwrap().count()
    }

    #[test]
    fn receipt_is_good_once_and_for_its_session_only() {
        let folder = tempfile::tempdir().unwrap();
        let mut uploads = uploads(&folder);
        let receipt = upload(&mut uploads);
        let now = Now::from_ns(5);
        assert_eq!(uploads.take(receipt, 2, now), None);
        assert!(uploads.take(receipt, 1, now).is_some());
        assert_eq!(uploads.take(receipt, 1, now), None);
    }

    #[test]
    fn unused_upload_is_removed_after_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut uploads = uploads(&folder);
        let receipt = upload(&mut uploads);
        let late = Now::from_ns(RECEIPT_NS);
        assert_eq!(uploads.take(receipt, 1, late), None);
        assert_eq!(files(&folder), 1);
        uploads.expire(late);
        assert_eq!(files(&folder), 0);
        assert_eq!(uploads.next_expiry(), None);
    }

    #[test]
    fn upload_that_is_renewed_is_kept_for_as_long_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut uploads = uploads(&folder);
        let receipt = upload(&mut uploads);
        uploads.renew(receipt, Now::from_ns(RECEIPT_NS - 1));
        uploads.expire(Now::from_ns(RECEIPT_NS));
        assert_eq!(files(&folder), 1);
        assert_eq!(
            uploads.next_expiry(),
            Some(Now::from_ns(2 * RECEIPT_NS - 1))
        );
        assert!(uploads.take(receipt, 1, Now::from_ns(RECEIPT_NS)).is_some());
    }

    #[test]
    fn uploads_under_way_count() {
        let folder = tempfile::tempdir().unwrap();
        let mut uploads = uploads(&folder);
        assert_eq!(uploads.begin(ONE, 3), Ok(()));
        let receipt = upload(&mut uploads);
        assert_eq!(uploads.begin(ONE, 3), Err(NoUpload::Full));
        uploads.end(ONE, 3);
        assert_eq!(uploads.begin(ONE, 3), Ok(()));
        uploads.use_up(receipt);
        uploads.end(ONE, 3);
        assert_eq!((uploads.all, uploads.held.len()), (Held::default(), 0));
    }

    #[test]
    fn one_principal_leaves_uploads_and_room_to_others_and_hears_whose_share_is_used_up() {
        let folder = tempfile::tempdir().unwrap();
        let store = SpillStore::open(folder.path(), LIMIT);
        let mut uploads = Uploads::new(store, 64, ShareRule::Shared);
        let mut count = 0;
        let refused = loop {
            match uploads.begin(ONE, 1) {
                Ok(()) => count += 1,
                Err(NoUpload::Full) => panic!("nothing is left for others"),
                Err(NoUpload::Share(used_up)) => break used_up,
            }
        };
        assert_eq!((count, refused.held, refused.size), (62, 62, 64));
        assert_eq!(uploads.begin(OTHER, 1), Ok(()));
        for _ in 0..10 {
            uploads.end(ONE, 1);
        }
        assert_eq!(uploads.begin(ONE, uploads.store.total_limit() / 2), Ok(()));
        let rest = uploads.store.total_limit() / 2 - 1_000;
        let refused = uploads.begin(ONE, rest).unwrap_err();
        assert!(matches!(refused, NoUpload::Share(used_up) if used_up.what.contains("bytes")));
        assert_eq!(uploads.begin(OTHER, 1_000), Ok(()));
    }
}
