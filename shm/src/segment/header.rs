//! Reading and writing the header and the control region of mapped memory.
//!
//! Sync point `segment.ready`: header and everything else, then ready (Release); ready (Acquire), then the rest.
//! The words themselves: `gate.rs`. Tested through `segment/tests/` and `shm/tests/`.

use std::sync::Arc;

use crate::layout::attach::FileIdentity;
use crate::layout::control::{BUILDING, CONTROL_BYTES, ControlLayout, SHUTDOWN_CLEAN};
use crate::layout::header::{
    HEADER_BYTES, HeaderInfo, HeaderLayout, LAYOUT_MAJOR, LAYOUT_MINOR, MAGIC, checksum,
};
use crate::layout::text::store_text;
use crate::layout::{Geometry, HeaderError, LAYOUT_HASH, RegionEntry};
use crate::region::{Mapping, SharedSlice};
use crate::segment::process::ProcessIdentity;
use crate::sync::{AtomicU64, Ordering};

/// What changes for the segment as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlInfo {
    /// The creator has finished.
    pub ready: bool,
    /// Process that made the segment; 0 when it has not written it.
    pub creator_pid: u32,
    /// Its start time, in ticks since boot.
    pub creator_start: u64,
    /// Rises by one at each start of a daemon.
    pub daemon_epoch: u64,
    /// Process of the last daemon.
    pub daemon_pid: u32,
    /// Its start time, in ticks since boot.
    pub daemon_start: u64,
    /// Its lock file.
    pub lock_file: FileIdentity,
    /// The last daemon stopped in order (and no other has started since).
    pub clean_shutdown: bool,
    /// Stamp of the daemon's last sign of life in the segment.
    pub daemon_beat: u64,
    /// Claims above this generation are refused; 0 = no limit.
    pub gen_limit: u64,
    /// Highest generation ever claimed.
    pub gen_top: u64,
    /// An idempotency key was put in at some time.
    pub keys_used: bool,
    /// Number of the highest slot ever claimed, plus one.
    pub high_water: u32,
}

impl ControlInfo {
    pub(crate) fn of(control: &ControlLayout) -> Self {
        // ORDERING: single words for display and hints; `ready` alone publishes, see `is_ready`.
        let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let small = |word: &AtomicU64| u32::try_from(read(word)).unwrap_or(u32::MAX);
        Self {
            ready: control.gate().is_published(),
            creator_pid: small(&control.creator_pid),
            creator_start: read(&control.creator_start),
            daemon_epoch: read(&control.daemon_epoch),
            daemon_pid: small(&control.daemon_pid),
            daemon_start: read(&control.daemon_start),
            lock_file: FileIdentity {
                device: read(&control.lock_device),
                inode: read(&control.lock_inode),
            },
            clean_shutdown: read(&control.shutdown) == SHUTDOWN_CLEAN,
            daemon_beat: read(&control.daemon_beat),
            gen_limit: read(&control.gen_limit),
            gen_top: read(&control.gen_top),
            keys_used: read(&control.keys_used) != 0,
            high_water: small(&control.high_water),
        }
    }
}

/// The first bytes of mapped memory, before anything in them is believed.
pub(crate) struct Front {
    mapping: Arc<Mapping>,
    headers: SharedSlice<HeaderLayout>,
    control: SharedSlice<ControlLayout>,
}

impl Front {
    /// `None` when the memory is too short for a header.
    pub(crate) fn of(mapping: Arc<Mapping>) -> Option<Self> {
        let at = |offset: usize, bytes: usize| RegionEntry {
            offset: offset as u64,
            bytes: bytes as u64,
            count: 1,
            unit_bytes: bytes as u64,
        };
        let headers = SharedSlice::of(&mapping, at(0, 2 * HEADER_BYTES)).ok()?;
        let control = SharedSlice::of(&mapping, at(2 * HEADER_BYTES, CONTROL_BYTES)).ok()?;
        Some(Self {
            mapping,
            headers,
            control,
        })
    }

    /// First word of the memory.
    pub(crate) fn magic(&self) -> u64 {
        // ORDERING: constant after [segment.ready]; compared only.
        self.headers[0].magic.load(Ordering::Relaxed)
    }

    /// One of the two headers begins as ours do.
    pub(crate) fn has_magic(&self) -> bool {
        let mut copies = self.headers.iter();
        // ORDERING: constant after [segment.ready]; compared only.
        copies.any(|header| header.magic.load(Ordering::Relaxed) == MAGIC)
    }

    /// Its creator has not published it: the ready word says "building", and nothing says that it was ever in use. A creator
    /// says "building" before it writes a header, so a ready word of zero behind a header is damage, not a beginning. A
    /// daemon writes signs of life, and a second daemon raises the epoch, in published segments only.
    pub(crate) fn is_being_made(&self) -> bool {
        let control = &self.control[0];
        // ORDERING: compared only.
        let ready = control.ready.load(Ordering::Acquire);
        // ORDERING: as above.
        let epoch = control.daemon_epoch.load(Ordering::Relaxed);
        // ORDERING: as above.
        let beat = control.daemon_beat.load(Ordering::Relaxed);
        ready == BUILDING && epoch < 2 && beat == 0
    }

    /// Neither header was ever written: all zeros, and the ready word says nothing or "building".
    pub(crate) fn is_unwritten(&self) -> bool {
        // ORDERING: compared only.
        let ready = self.control[0].ready.load(Ordering::Relaxed);
        let mut headers = self.mapping.words().iter().take(2 * HEADER_BYTES / 8);
        // ORDERING: compared only.
        matches!(ready, 0 | BUILDING) && headers.all(|word| word.load(Ordering::Relaxed) == 0)
    }

    pub(crate) fn control(&self) -> ControlInfo {
        ControlInfo::of(&self.control[0])
    }

    /// The header, from the first copy whose checksum is right.
    pub(crate) fn header(&self) -> Result<HeaderInfo, HeaderError> {
        let control = self.control();
        let words = self.mapping.words();
        for (copy, header) in self.headers.iter().enumerate() {
            let start = copy * (HEADER_BYTES / 8);
            // ORDERING: constant after [segment.ready], which `control` acquired; else the checksum tells.
            let crc = header.crc.load(Ordering::Relaxed);
            // ORDERING: as above.
            let magic = header.magic.load(Ordering::Relaxed);
            if magic == MAGIC && crc == checksum(&words[start..]) {
                return Ok(header.copy_out());
            }
        }
        if self.magic() != MAGIC {
            return Err(HeaderError::Magic(self.magic()));
        }
        if !control.ready {
            return Err(HeaderError::NotReady {
                pid: control.creator_pid,
            });
        }
        Err(HeaderError::Damaged)
    }

    /// Header and geometry, if this program can use the segment.
    pub(crate) fn usable(&self) -> Result<(HeaderInfo, Geometry), HeaderError> {
        let consistent = self.consistent()?;
        let control = self.control();
        if !control.ready {
            return Err(HeaderError::NotReady {
                pid: control.creator_pid,
            });
        }
        Ok(consistent)
    }

    /// The same for the creator itself, who has not published it yet.
    pub(crate) fn consistent(&self) -> Result<(HeaderInfo, Geometry), HeaderError> {
        let header = self.header()?;
        if header.layout_major != LAYOUT_MAJOR || header.layout_hash != LAYOUT_HASH {
            return Err(HeaderError::Layout {
                major: header.layout_major,
                minor: header.layout_minor,
                hash: header.layout_hash,
                own: LAYOUT_HASH,
            });
        }
        if header.total_bytes > self.mapping.bytes() {
            return Err(HeaderError::Size {
                header: header.total_bytes,
                memory: self.mapping.bytes(),
            });
        }
        let geometry = Geometry::from_header(&header).ok_or(HeaderError::Region("geometry"))?;
        for ((kind, wanted), &written) in geometry.regions().iter().zip(&header.regions) {
            if wanted != written {
                return Err(HeaderError::Region(kind.name()));
            }
        }
        Ok((header, geometry))
    }

    /// First thing a creator writes: that it is at work, and who it is.
    pub(crate) fn begin(&self, creator: ProcessIdentity) {
        let control = &self.control[0];
        // ORDERING: looked at by the next creator after our death, whom the kernel has told of it.
        control
            .creator_pid
            .store(u64::from(creator.pid), Ordering::Relaxed);
        // ORDERING: as above.
        control
            .creator_start
            .store(creator.start_time, Ordering::Relaxed);
        // ORDERING: as above.
        control.ready.store(BUILDING, Ordering::Relaxed);
    }

    /// Writes both copies of the header.
    pub(crate) fn write(&self, info: &HeaderInfo, geometry: &Geometry) {
        let words = self.mapping.words();
        for (copy, header) in self.headers.iter().enumerate() {
            fill(header, info, geometry);
            header.seal(&words[copy * (HEADER_BYTES / 8)..]);
        }
    }

    /// Last thing a creator writes.
    pub(crate) fn publish(&self) {
        self.control[0].gate().publish();
    }
}

/// Header and geometry of mapped memory, if this program can use it.
pub(crate) fn read_header(
    mapping: Mapping,
) -> Result<(Arc<Mapping>, HeaderInfo, Geometry), HeaderError> {
    let mapping = Arc::new(mapping);
    let memory = mapping.bytes();
    let front = Front::of(Arc::clone(&mapping)).ok_or(HeaderError::Small(memory))?;
    let (header, geometry) = front.usable()?;
    Ok((mapping, header, geometry))
}

fn fill(header: &HeaderLayout, info: &HeaderInfo, geometry: &Geometry) {
    // ORDERING: published by [segment.ready].
    let write = |word: &AtomicU64, value: u64| word.store(value, Ordering::Relaxed);
    write(&header.magic, MAGIC);
    write(
        &header.layout_version,
        (u64::from(LAYOUT_MAJOR) << 32) | u64::from(LAYOUT_MINOR),
    );
    write(&header.layout_hash, LAYOUT_HASH);
    write(&header.total_bytes, geometry.total_bytes());
    write(&header.creator_version, info.creator_version);
    write(&header.created_unix_ns, info.created_unix_ns);
    write(&header.origin_ns, info.origin_ns);
    write(&header.boot_id[0], info.boot_id[0]);
    write(&header.boot_id[1], info.boot_id[1]);
    write(&header.ipc_namespace, info.ipc_namespace);
    write(&header.owner_uid, u64::from(info.owner_uid));
    write(
        &header.access,
        u64::from(info.mode) | (u64::from(info.group) << 32),
    );
    write(&header.segment_id, info.segment_id);
    write(&header.instance_hash, info.instance_hash);
    write(&header.gen_base, info.gen_base);
    write(&header.payload_limit, info.payload_limit);
    write(&header.spill_id, info.spill_id);
    write(&header.created_ns, info.created_ns);
    store_text(&header.instance_name, &info.instance);
    write(&header.tasks, u64::from(geometry.tasks()));
    write(&header.workers, u64::from(geometry.workers()));
    write(&header.clients, u64::from(geometry.clients()));
    write(&header.attaches, u64::from(geometry.attaches()));
    write(&header.kinds, u64::from(geometry.kinds()));
    write(&header.arena_blocks, u64::from(geometry.arena_blocks()));
    write(&header.idempotency_bytes, geometry.idempotency_bytes());
    let tables = geometry.tables();
    for (word, count) in [
        (&header.names, tables.names),
        (&header.principals, tables.principals),
        (&header.queues, tables.queues),
        (&header.shapes, tables.shapes),
        (&header.lines, tables.lines),
        (&header.stages, tables.stages),
        (&header.events, tables.events),
        (&header.errors, tables.errors),
    ] {
        write(word, u64::from(count));
    }
    write(&header.stage_words, info.stage_words);
    write(&header.lane_bytes, info.lane_bytes);
    write(&header.made_of[0], info.made_of[0]);
    write(&header.made_of[1], info.made_of[1]);
    let table = geometry.regions();
    let mut count = 0;
    for (entry, (_, region)) in header.regions.as_chunks::<4>().0.iter().zip(table.iter()) {
        write(&entry[0], region.offset);
        write(&entry[1], region.bytes);
        write(&entry[2], region.count);
        write(&entry[3], region.unit_bytes);
        count += 1;
    }
    write(&header.regions_count, count);
}
