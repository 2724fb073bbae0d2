//! What a segment shall be like, and why one cannot be had.

use std::io;
use std::path::PathBuf;

use crate::layout::{Geometry, HeaderError};
use crate::segment::Segment;
use crate::spill::SPILL_LIMIT_DEFAULT;

/// Longest name of an instance in bytes.
pub(super) const INSTANCE_BYTES_MAX: usize = 63;
/// LIMIT: 64 MiB, the default of the daemon's setting.
pub(super) const PAYLOAD_LIMIT_DEFAULT: u64 = 64 << 20;

/// Who may attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// The owner only: mode 0600.
    #[default]
    Owner,
    /// A group may inspect: mode 0640.
    GroupRead(u32),
    /// A group may submit and take tasks: mode 0660.
    GroupWrite(u32),
}

impl Access {
    /// Permission bits.
    #[must_use]
    pub const fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::GroupRead(_) => 0o640,
            Self::GroupWrite(_) => 0o660,
        }
    }

    /// The group, if one may attach.
    #[must_use]
    pub const fn group(self) -> Option<u32> {
        match self {
            Self::Owner => None,
            Self::GroupRead(group) | Self::GroupWrite(group) => Some(group),
        }
    }
}

/// Which pages the memory of a segment shall have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HugePages {
    /// Pages of 2 MiB where the kernel gives them or puts them together, else of 4 KiB.
    Auto,
    /// Pages of 2 MiB that the administrator has set aside (`SHM_HUGETLB`), or no new segment. One that is adopted keeps its own.
    Require,
    /// The kernel is told to give none.
    #[default]
    Never,
}

/// What a segment shall be like.
#[derive(Debug, Clone)]
pub struct SegmentSpec {
    /// Name of the daemon's instance; with the user it gives the key.
    pub instance: String,
    /// Sizes.
    pub geometry: Geometry,
    /// Who may attach.
    pub mode: Access,
    /// Where large payloads and results go; made when first needed.
    pub spill_dir: PathBuf,
    /// Largest payload or result in bytes.
    pub payload_limit: u64,
    /// Bytes that all spill files together may hold; of this process, not of the segment.
    pub spill_limit: u64,
    /// For a segment that is made: generation of slots that were never used. `None` = random. A daemon with a journal gives
    /// the reserved limit of the ids of earlier segments, so that no id is given twice.
    pub gen_base: Option<u64>,
    /// For a segment that is made: its time starts after this stamp, the highest one that will be restored; 0 = at 0.
    pub first_stamp: u64,
    /// For a segment that is made: first part of the names of its spill files. `None` = the segment's random id. A daemon
    /// with a journal gives the same number each time, so that the files of journal tasks are found again.
    pub spill_id: Option<u64>,
    /// For a segment that is made: its stamps and so many more are those of the journal; see [`SegmentView::journal_stamp`].
    ///
    /// [`SegmentView::journal_stamp`]: crate::SegmentView::journal_stamp
    pub stamps_moved: u64,
    /// The monotonic clock now, for a daemon under a made-up clock. `None` = it is read.
    pub clock_ns: Option<u64>,
    /// For a segment that is made: its pages.
    pub huge_pages: HugePages,
    /// For a segment that is made: the memory node that its pages shall prefer. `None` = whichever is nearest to who touches them first.
    pub node: Option<u32>,
}

impl SegmentSpec {
    /// A segment of the default size for this user only.
    #[must_use]
    pub fn new(instance: impl Into<String>, spill_dir: impl Into<PathBuf>) -> Self {
        Self {
            instance: instance.into(),
            geometry: Geometry::default(),
            mode: Access::Owner,
            spill_dir: spill_dir.into(),
            payload_limit: PAYLOAD_LIMIT_DEFAULT,
            spill_limit: SPILL_LIMIT_DEFAULT,
            gen_base: None,
            first_stamp: 0,
            spill_id: None,
            stamps_moved: 0,
            clock_ns: None,
            huge_pages: HugePages::default(),
            node: None,
        }
    }

    pub(super) fn monotonic_ns(&self) -> u64 {
        self.clock_ns.unwrap_or_else(crate::time::monotonic_ns)
    }
}

/// Why a segment cannot be made or adopted.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Not a name.
    #[error(
        "`{0}` is no instance name: 1 to {INSTANCE_BYTES_MAX} letters, digits, `.`, `_` or `-`"
    )]
    Instance(String),
    /// The kernel gives no memory of this size.
    #[error("no System V segment of {bytes} bytes: {limit} ({source}); {fix}")]
    Limit {
        /// What was asked for.
        bytes: u64,
        /// The limit that was met.
        limit: &'static str,
        /// How to raise it.
        fix: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Too few pages of 2 MiB are set aside, or this user may not have them.
    #[error(
        "no System V segment of {bytes} bytes in pages of 2 MiB: {why} ({source}); {fix}, or do not require them (huge_pages = \"auto\")"
    )]
    HugePages {
        /// What was asked for.
        bytes: u64,
        /// What is missing.
        why: String,
        /// How to have it.
        fix: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A call of the kernel failed for another reason.
    #[error("{call} for instance `{instance}` failed: {source}")]
    Call {
        /// Which call.
        call: &'static str,
        /// For which instance.
        instance: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A segment of ours belongs to somebody else.
    #[error(
        "segment {shm_id} at key {key:#010x} of instance `{instance}` belongs to user {owner}, not to user {uid}: refused; \
         choose another instance name, or remove it as that user with `ipcrm -m {shm_id}`"
    )]
    WrongOwner {
        /// The key.
        key: i32,
        /// The segment.
        shm_id: i32,
        /// Its instance.
        instance: String,
        /// Who owns it.
        owner: u32,
        /// Who we are.
        uid: u32,
    },
    /// Another process is making it at this moment.
    #[error(
        "segment {shm_id} of instance `{instance}` is being made by process {pid}; try again when that has ended"
    )]
    BeingMade {
        /// The segment.
        shm_id: i32,
        /// The instance.
        instance: String,
        /// Its maker.
        pid: u32,
    },
    /// Its daemon runs (or is stopped).
    #[error(
        "instance `{instance}` belongs to process {pid}, which is alive: stop it, or choose another instance name"
    )]
    InUse {
        /// The instance.
        instance: String,
        /// Its daemon.
        pid: u32,
    },
    /// All keys of the instance are taken by others.
    #[error(
        "the {keys} keys from {first:#010x} on are all taken by segments of others; choose another instance name"
    )]
    KeysTaken {
        /// The first key.
        first: i32,
        /// How many were tried.
        keys: u32,
    },
    /// The old segment could not be saved.
    #[error("segment {shm_id} cannot be used ({why}) and could not be saved to {file}: {source}")]
    PutAside {
        /// The segment.
        shm_id: i32,
        /// Why it cannot be used.
        why: String,
        /// Where it should have gone.
        file: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// Local processes have the segment of an earlier layout open.
    #[error(
        "the segment of instance `{instance}` is of an earlier layout, and is to be read into a new one, which needs that nobody else has it open: \
         end {processes}, then start again"
    )]
    StillAttached {
        /// The instance.
        instance: String,
        /// Who they are.
        processes: String,
    },
    /// What an earlier segment holds found no room in the new one; the earlier one is as it was.
    #[error("what the segment of layout {layout} holds finds no room in a new one: {source}")]
    TakeOver {
        /// The layout.
        layout: &'static str,
        /// What found none.
        source: crate::segment::StoreError,
    },
    /// The sizes do not fit this machine's addresses.
    #[error("a segment of {bytes} bytes does not fit into the addresses of this machine")]
    Addresses {
        /// What was asked for.
        bytes: u64,
    },
    /// What was just made does not look right.
    #[error("the new segment cannot be used: {0}")]
    Header(#[from] HeaderError),
}

/// How a named segment was had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Adoption {
    /// There was none: it is new.
    Created,
    /// The one of an earlier daemon goes on.
    Adopted {
        /// The epoch of this start.
        epoch: u64,
        /// The earlier daemon stopped in order.
        clean: bool,
        /// It has other sizes than asked for, and keeps them.
        other_sizes: bool,
    },
    /// The one of an earlier daemon was of an earlier layout: it goes on in a new one, with all that was in it.
    Upgraded {
        /// The layout.
        from: &'static str,
        /// The epoch of this start.
        epoch: u64,
        /// The earlier daemon stopped in order.
        clean: bool,
    },
    /// The one there could not be used: it was saved, and a new one made.
    PutAside {
        /// Where it was saved.
        file: PathBuf,
        /// Why it could not be used.
        why: String,
    },
}

/// Whether an earlier daemon left a segment.
#[derive(Debug)]
pub enum Earlier {
    /// It did: adopted, with its tasks.
    Adopted(Box<Segment>, Adoption),
    /// None that can be used: one must be made, which is then this kind of start.
    None(Adoption),
}

/// Why a segment or an image cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No such segment.
    #[error(
        "no segment of instance `{instance}` for user {uid}: is `qtfd` running under this name and user?"
    )]
    NoInstance {
        /// The instance.
        instance: String,
        /// The user.
        uid: u32,
    },
    /// No segment with this id.
    #[error("no shared memory segment has the id {0}")]
    NoId(i32),
    /// The permissions do not allow it.
    #[error(
        "segment {0} may not be read by this user: ask its owner, or run as its owner (setting `segment_group` opens it to a group)"
    )]
    Denied(i32),
    /// The permissions of the segment at a key do not allow it.
    #[error(
        "the segment at key {0:#010x} may not be read by this user: ask its owner, or run as its owner (setting `segment_group` opens it to a group)"
    )]
    DeniedKey(i32),
    /// A call of the kernel failed.
    #[error("{call} failed: {source}")]
    Call {
        /// Which call.
        call: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("image {file}: {source}")]
    File {
        /// The file.
        file: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// It is no segment that this program can read.
    #[error("{0}")]
    Header(#[from] HeaderError),
}
