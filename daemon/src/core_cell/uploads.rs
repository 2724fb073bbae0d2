//! Payloads and outputs that were uploaded and not yet used.
//!
//! An upload lies in a spill file from its first chunk on. Its receipt is good for one use, by the session
//! that uploaded it, within [`RECEIPT_NS`]; then the file is removed. Uploads under way count too, so
//! that their number is bounded. Tested at the end of this file.

use std::collections::HashMap;

use qtf_shm::spill::{SpillError, SpillStore, SpillWriter};
use qtf_shm::{BlobRef, Now};

/// How long a receipt is good for: 60 s.
pub(crate) const RECEIPT_NS: u64 = 60_000_000_000;

#[derive(Debug, Clone, Copy)]
struct Upload {
    blob: BlobRef,
    session: u64,
    expires: Now,
}

/// All uploads.
#[derive(Debug)]
pub(crate) struct Uploads {
    store: SpillStore,
    waiting: HashMap<u64, Upload>,
    under_way: usize,
    uploads_max: usize,
    next_expiry: Option<Now>,
}

impl Uploads {
    /// None yet; at most `uploads_max` under way and waiting together.
    pub(crate) fn new(store: SpillStore, uploads_max: usize) -> Self {
        Self {
            store,
            waiting: HashMap::new(),
            under_way: 0,
            uploads_max,
            next_expiry: None,
        }
    }

    /// An upload begins. False if there are too many.
    pub(crate) fn begin(&mut self) -> bool {
        let has_room = self.under_way.saturating_add(self.waiting.len()) < self.uploads_max;
        if has_room {
            self.under_way = self.under_way.saturating_add(1);
        }
        has_room
    }

    /// An upload is no longer under way, whatever became of it.
    pub(crate) fn end(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
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
    pub(crate) fn keep(&mut self, session: u64, blob: BlobRef, now: Now) -> Option<u64> {
        let receipt = getrandom::u64().ok()?;
        if receipt == 0 || self.waiting.contains_key(&receipt) {
            return None;
        }
        let expires = now.plus_ns(RECEIPT_NS);
        self.waiting.insert(
            receipt,
            Upload {
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
        self.waiting.remove(&receipt);
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

    fn uploads(folder: &tempfile::TempDir) -> Uploads {
        Uploads::new(SpillStore::open(folder.path(), LIMIT), 2)
    }

    fn upload(uploads: &mut Uploads) -> u64 {
        let mut writer = uploads.create(3).unwrap();
        writer.write(b"abc").unwrap();
        let blob = writer.finish().unwrap();
        uploads.keep(1, blob, Now::from_ns(0)).unwrap()
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
        assert!(uploads.begin());
        upload(&mut uploads);
        assert!(!uploads.begin());
        uploads.end();
        assert!(uploads.begin());
    }
}
