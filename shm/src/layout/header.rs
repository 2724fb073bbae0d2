//! The header: what the segment is. Written once by its creator, twice in a row, each copy with its CRC32C.
//!
//! ```text
//! offset  bytes  field            writer: the creator, before the control region's ready word
//!      0      8  magic            "QTFSEG01", reads backwards on a machine of the other endianness
//!      8      8  layout_version   major << 32 | minor
//!     16      8  layout_hash      hash over the names, offsets and sizes of all shared structs and regions
//!     24      8  total_bytes
//!     32      8  creator_version  major << 32 | minor << 16 | patch
//!     40      8  created_unix_ns  wall clock, for display
//!     48      8  origin_ns        CLOCK_MONOTONIC at time 0 of every stamp; wraps, see `time.rs`
//!     56     16  boot_id
//!     72      8  ipc_namespace    inode of /proc/self/ns/ipc
//!     80      8  owner_uid
//!     88      8  access           mode bits | group << 32
//!     96      8  segment_id       random
//!    104      8  instance_hash
//!    112      8  gen_base         generation of a slot that was never used
//!    120      8  payload_limit    largest payload or result in bytes
//!    128     64  instance_name
//!    192     64  tasks, workers, clients, attaches, kinds, arena_blocks, idempotency_bytes, regions_count
//!    256   1024  regions          32 entries of offset, bytes, count, unit_bytes
//!   1280      8  spill_id         first part of the names of spill files
//!   1288      8  created_ns       the creation as a moment of the segment's own time
//!   1296     80  counts of names, principals, queues, shapes, lines, stages, words of a stage, events, errors; bytes of a lane
//!   1376     16  made_of          layout and segment id of the one that it was made of; 0 = of none
//!   1392   2696  reserved         zero
//!   4088      8  crc              CRC32C of bytes 0 to 4087
//! ```
//! Tested in `layout/mod.rs` (listing) and at the end of this file.

use crate::layout::geometry::TableCounts;
use crate::layout::region_table::{REGIONS_COUNT_MAX, RegionEntry};
use crate::layout::shared::shared_layout;
use crate::layout::text::load_text;
use crate::sync::{AtomicU64, Ordering};

/// First word of a segment.
pub const MAGIC: u64 = u64::from_le_bytes(*b"QTFSEG01");
/// Changes when an older reader would misread: such a segment is put aside.
pub const LAYOUT_MAJOR: u32 = 3;
/// Changes when something was added that an older reader may ignore.
pub const LAYOUT_MINOR: u32 = 0;
/// Bytes of one copy of the header.
pub const HEADER_BYTES: usize = 4096;

shared_layout! {
    /// One copy of the header as it lies in the segment; see the drawing in this file's head.
    pub struct HeaderLayout: 4096 bytes, align 128 {
        0 => magic: AtomicU64,
        8 => layout_version: AtomicU64,
        16 => layout_hash: AtomicU64,
        24 => total_bytes: AtomicU64,
        32 => creator_version: AtomicU64,
        40 => created_unix_ns: AtomicU64,
        48 => origin_ns: AtomicU64,
        56 => boot_id: [AtomicU64; 2],
        72 => ipc_namespace: AtomicU64,
        80 => owner_uid: AtomicU64,
        88 => access: AtomicU64,
        96 => segment_id: AtomicU64,
        104 => instance_hash: AtomicU64,
        112 => gen_base: AtomicU64,
        120 => payload_limit: AtomicU64,
        128 => instance_name: [AtomicU64; 8],
        192 => tasks: AtomicU64,
        200 => workers: AtomicU64,
        208 => clients: AtomicU64,
        216 => attaches: AtomicU64,
        224 => kinds: AtomicU64,
        232 => arena_blocks: AtomicU64,
        240 => idempotency_bytes: AtomicU64,
        248 => regions_count: AtomicU64,
        256 => regions: [AtomicU64; 128],
        1280 => spill_id: AtomicU64,
        1288 => created_ns: AtomicU64,
        1296 => names: AtomicU64,
        1304 => principals: AtomicU64,
        1312 => queues: AtomicU64,
        1320 => shapes: AtomicU64,
        1328 => lines: AtomicU64,
        1336 => stages: AtomicU64,
        1344 => stage_words: AtomicU64,
        1352 => events: AtomicU64,
        1360 => errors: AtomicU64,
        1368 => lane_bytes: AtomicU64,
        1376 => made_of: [AtomicU64; 2],
        1392 => reserved: [AtomicU64; 337],
        4088 => crc: AtomicU64,
    }
}

const _: () = assert!(REGIONS_COUNT_MAX * 4 == 128);

/// The header, copied out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderInfo {
    /// Layout major version; another one cannot be read.
    pub layout_major: u32,
    /// Layout minor version.
    pub layout_minor: u32,
    /// Hash over all offsets and sizes.
    pub layout_hash: u64,
    /// Bytes of the whole segment.
    pub total_bytes: u64,
    /// Version of the program that made the segment, packed as major << 32 | minor << 16 | patch.
    pub creator_version: u64,
    /// Wall clock at creation, nanoseconds since 1970.
    pub created_unix_ns: u64,
    /// `CLOCK_MONOTONIC` at time 0: the creation, or as long before it as restored stamps need. Wraps: only
    /// [`crate::time::since_origin`] reads it.
    pub origin_ns: u64,
    /// The kernel's boot id.
    pub boot_id: [u64; 2],
    /// Inode of the IPC namespace.
    pub ipc_namespace: u64,
    /// User that the segment belongs to.
    pub owner_uid: u32,
    /// Permission bits, such as 0o600.
    pub mode: u32,
    /// Group that may attach, when the mode has group bits.
    pub group: u32,
    /// Random identity.
    pub segment_id: u64,
    /// Hash of instance name and user.
    pub instance_hash: u64,
    /// Generation of a slot that was never used.
    pub gen_base: u64,
    /// Largest payload or result in bytes.
    pub payload_limit: u64,
    /// Name of the daemon's instance.
    pub instance: String,
    /// Task slots.
    pub tasks: u64,
    /// Worker slots.
    pub workers: u64,
    /// Client records.
    pub clients: u64,
    /// Attach records.
    pub attaches: u64,
    /// Entries of the kind table.
    pub kinds: u64,
    /// Arena blocks of 64 KiB.
    pub arena_blocks: u64,
    /// Bytes of the idempotency table.
    pub idempotency_bytes: u64,
    /// First part of the names of spill files.
    pub spill_id: u64,
    /// The creation as a moment of the segment's own time: 0, or after the highest restored stamp.
    pub created_ns: u64,
    /// Counts of the tables, the histograms and the flight recorder.
    pub tables: TableCounts,
    /// Words of one stage's histogram.
    pub stage_words: u64,
    /// Bytes of a lane.
    pub lane_bytes: u64,
    /// Layout and segment id of the segment that it was made of; zeros: of none.
    pub made_of: [u64; 2],
    /// Where the regions lie.
    pub regions: Vec<RegionEntry>,
}

/// Why a header cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not a segment of ours.
    #[error("no segment of Quantum Taskflow: it starts with {0:#018x}")]
    Magic(u64),
    /// Too small for a segment of ours.
    #[error("no segment of Quantum Taskflow: {0} bytes are too few for one")]
    Small(u64),
    /// Both copies fail their checksum.
    #[error("damaged header: neither copy has a valid checksum")]
    Damaged,
    /// Another layout.
    #[error(
        "segment has layout {major}.{minor} ({hash:#018x}), this program reads {LAYOUT_MAJOR}.{LAYOUT_MINOR} ({own:#018x})"
    )]
    Layout {
        /// The segment's major version.
        major: u32,
        /// The segment's minor version.
        minor: u32,
        /// The segment's layout hash.
        hash: u64,
        /// The hash of this program.
        own: u64,
    },
    /// The header contradicts the memory it lies in.
    #[error("header speaks of {header} bytes, the memory has {memory}")]
    Size {
        /// What the header says.
        header: u64,
        /// What there is.
        memory: u64,
    },
    /// A region does not lie where this program's formula puts it.
    #[error("region `{0}` does not lie where this program expects it")]
    Region(&'static str),
    /// The creator has not finished, or died before it had.
    #[error("segment is not ready: its creator (pid {pid}) has not finished")]
    NotReady {
        /// The creator's process id, 0 when it had not yet written it.
        pid: u32,
    },
}

impl HeaderLayout {
    /// Stores the checksum over everything before it.
    pub(crate) fn seal(&self, words: &[AtomicU64]) {
        // ORDERING: published by [segment.ready].
        self.crc.store(checksum(words), Ordering::Relaxed);
    }

    /// Copies the header out. Does not check anything.
    pub(crate) fn copy_out(&self) -> HeaderInfo {
        // ORDERING: written once before [segment.ready], which the caller has acquired or will distrust.
        let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let (version, access) = (read(&self.layout_version), read(&self.access));
        let count = usize::try_from(read(&self.regions_count))
            .unwrap_or(usize::MAX)
            .min(REGIONS_COUNT_MAX);
        let regions = self.regions.as_chunks::<4>().0.iter().take(count);
        HeaderInfo {
            layout_major: high(version),
            layout_minor: low(version),
            layout_hash: read(&self.layout_hash),
            total_bytes: read(&self.total_bytes),
            creator_version: read(&self.creator_version),
            created_unix_ns: read(&self.created_unix_ns),
            origin_ns: read(&self.origin_ns),
            boot_id: [read(&self.boot_id[0]), read(&self.boot_id[1])],
            ipc_namespace: read(&self.ipc_namespace),
            owner_uid: low(read(&self.owner_uid)),
            mode: low(access),
            group: high(access),
            segment_id: read(&self.segment_id),
            instance_hash: read(&self.instance_hash),
            gen_base: read(&self.gen_base),
            payload_limit: read(&self.payload_limit),
            instance: load_text(&self.instance_name),
            tasks: read(&self.tasks),
            workers: read(&self.workers),
            clients: read(&self.clients),
            attaches: read(&self.attaches),
            kinds: read(&self.kinds),
            arena_blocks: read(&self.arena_blocks),
            idempotency_bytes: read(&self.idempotency_bytes),
            spill_id: read(&self.spill_id),
            created_ns: read(&self.created_ns),
            tables: TableCounts {
                names: clamped(read(&self.names)),
                principals: clamped(read(&self.principals)),
                queues: clamped(read(&self.queues)),
                shapes: clamped(read(&self.shapes)),
                lines: clamped(read(&self.lines)),
                stages: clamped(read(&self.stages)),
                events: clamped(read(&self.events)),
                errors: clamped(read(&self.errors)),
            },
            stage_words: read(&self.stage_words),
            lane_bytes: read(&self.lane_bytes),
            made_of: [read(&self.made_of[0]), read(&self.made_of[1])],
            regions: regions
                .map(|entry| RegionEntry {
                    offset: read(&entry[0]),
                    bytes: read(&entry[1]),
                    count: read(&entry[2]),
                    unit_bytes: read(&entry[3]),
                })
                .collect(),
        }
    }
}

/// CRC32C of all words of one copy but the last.
pub(crate) fn checksum(words: &[AtomicU64]) -> u64 {
    let mut crc = 0;
    for word in words.iter().take(HEADER_BYTES / 8 - 1) {
        // ORDERING: the header is constant after [segment.ready]; a half-written one fails its checksum.
        crc = crc32c::crc32c_append(crc, &word.load(Ordering::Relaxed).to_le_bytes());
    }
    u64::from(crc)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low half is what is asked for"
)]
const fn low(word: u64) -> u32 {
    word as u32
}

/// A count that no segment can have stays one.
fn clamped(word: u64) -> u32 {
    u32::try_from(word).unwrap_or(u32::MAX)
}

const fn high(word: u64) -> u32 {
    low(word >> 32)
}
