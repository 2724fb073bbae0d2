//! Making a new segment.
//!
//! Order: memory (zeroed by the kernel); "building" and who builds; header twice; the kinds that every segment has; the
//! ready word, last. What a cold start restores goes in before it. A creator that dies before that leaves a segment that the next one removes.

use std::sync::Arc;

use crate::histogram::STAGE_WORDS;
use crate::id::GENERATION_BITS;
use crate::kinds::{KIND_ECHO, KIND_EXEC, KIND_NOOP};
use crate::layout::header::{HeaderInfo, LAYOUT_MAJOR, LAYOUT_MINOR};
use crate::layout::lane::LaneLayout;
use crate::layout::{HeaderError, LAYOUT_HASH, hash_of};
use crate::random::random_u64;
use crate::region::{HeapMemory, Mapping};
use crate::segment::header::Front;
use crate::segment::memory::prepare;
use crate::segment::parts::Parts;
use crate::segment::process::{ProcessIdentity, boot_id, ipc_namespace};
use crate::segment::spec::{CreateError, INSTANCE_BYTES_MAX, SegmentSpec};
use crate::segment::upgrade::Earlier;
use crate::segment::{Segment, SegmentView};
use crate::spill::SpillStore;
use crate::time::{origin_after, since_origin, wall_ns};

/// What tells one segment from another, chosen at its creation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    segment_id: u64,
    gen_base: u64,
    origin_ns: u64,
    created_unix_ns: u64,
    created_clock_ns: u64,
    made_of: [u64; 2],
}

impl Identity {
    /// For a segment that other processes see: random, so that an id of an earlier segment is not taken for one of this.
    pub(super) fn fresh(spec: &SegmentSpec) -> Self {
        let created_clock_ns = spec.monotonic_ns();
        Self {
            segment_id: random_u64(),
            // Below 2^35, so that at least half of the generations are left.
            gen_base: spec
                .gen_base
                .unwrap_or_else(|| random_u64() >> (64 - (GENERATION_BITS - 1))),
            origin_ns: origin_after(created_clock_ns, spec.first_stamp),
            created_clock_ns,
            created_unix_ns: wall_ns(),
            made_of: [0; 2],
        }
    }

    /// Of a segment that goes on in another layout.
    pub(super) fn of_earlier(earlier: &Earlier) -> Self {
        let (segment_id, gen_base, origin_ns, created_unix_ns, created_ns) = earlier.identity();
        Self {
            segment_id,
            gen_base,
            origin_ns,
            created_unix_ns,
            created_clock_ns: origin_ns.wrapping_add(created_ns),
            made_of: earlier.name(),
        }
    }

    /// For tests and the simulator: the same each time.
    fn fixed(spec: &SegmentSpec) -> Self {
        Self {
            segment_id: hash_of(&spec.instance),
            gen_base: spec.gen_base.unwrap_or(0),
            origin_ns: origin_after(0, spec.first_stamp),
            created_unix_ns: 0,
            created_clock_ns: 0,
            made_of: [0; 2],
        }
    }
}

impl Segment {
    /// A segment in memory of this process: the same layout and code, nothing shared. Ids and origin are the same each
    /// time, for tests and the simulator.
    ///
    /// # Panics
    /// When the geometry does not fit into the addresses of this machine.
    #[must_use]
    pub fn in_process(spec: &SegmentSpec) -> Self {
        let bytes =
            usize::try_from(spec.geometry.total_bytes()).expect("geometry fits into addresses");
        let memory = Mapping::Heap(HeapMemory::zeroed(bytes));
        prepare(&memory, spec);
        let identity = Identity::fixed(spec);
        let segment = build(memory, None, spec, identity).expect("own layout is readable");
        segment.segment().raise_epoch();
        segment.publish()
    }
}

/// A segment that is made, and that nobody else may use before it is published.
#[must_use = "a segment that is not published is removed by the next process that finds it"]
pub(super) struct Unpublished {
    segment: Segment,
    front: Front,
}

impl Unpublished {
    pub(super) const fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Lets others attach: the last store of a creator.
    pub(super) fn publish(self) -> Segment {
        self.front.publish();
        self.segment
    }
}

/// Makes a segment of zeroed memory.
pub(super) fn build(
    memory: Mapping,
    shm_id: Option<i32>,
    spec: &SegmentSpec,
    identity: Identity,
) -> Result<Unpublished, HeaderError> {
    let memory = Arc::new(memory);
    let bytes = memory.bytes();
    let front = Front::of(Arc::clone(&memory)).ok_or(HeaderError::Size {
        header: spec.geometry.total_bytes(),
        memory: bytes,
    })?;
    front.begin(ProcessIdentity::own());
    let header = header_of(spec, identity);
    front.write(&header, &spec.geometry);
    let parts = Parts::of(&memory, spec.geometry)?;
    crate::segment::rebase::set_moved_so_far(parts.control(), spec.stamps_moved);
    for kind in [KIND_EXEC, KIND_NOOP, KIND_ECHO] {
        // A new table has room for three.
        let _ = parts.kinds().intern(kind);
    }
    // Read back what was written: the numbers in the view are those that others see.
    let (header, geometry) = front.consistent()?;
    let view = SegmentView {
        parts: Parts::of(&memory, geometry)?,
        header,
        shm_id,
        spill: None,
    };
    let spill = SpillStore::open(&spec.spill_dir, spec.payload_limit).bounded(spec.spill_limit);
    Ok(Unpublished {
        segment: Segment::of(view, spill),
        front,
    })
}

fn header_of(spec: &SegmentSpec, identity: Identity) -> HeaderInfo {
    let uid = nix::unistd::geteuid().as_raw();
    HeaderInfo {
        layout_major: LAYOUT_MAJOR,
        layout_minor: LAYOUT_MINOR,
        layout_hash: LAYOUT_HASH,
        total_bytes: spec.geometry.total_bytes(),
        creator_version: own_version(),
        created_unix_ns: identity.created_unix_ns,
        origin_ns: identity.origin_ns,
        boot_id: boot_id(),
        ipc_namespace: ipc_namespace(),
        owner_uid: uid,
        mode: spec.mode.mode(),
        group: spec.mode.group().unwrap_or(0),
        segment_id: identity.segment_id,
        instance_hash: instance_hash(&spec.instance, uid),
        gen_base: identity.gen_base,
        payload_limit: spec.payload_limit,
        spill_id: spec.spill_id.unwrap_or(identity.segment_id),
        created_ns: since_origin(identity.created_clock_ns, identity.origin_ns).ns,
        instance: spec.instance.clone(),
        tasks: u64::from(spec.geometry.tasks()),
        workers: u64::from(spec.geometry.workers()),
        clients: u64::from(spec.geometry.clients()),
        attaches: u64::from(spec.geometry.attaches()),
        kinds: u64::from(spec.geometry.kinds()),
        arena_blocks: u64::from(spec.geometry.arena_blocks()),
        idempotency_bytes: spec.geometry.idempotency_bytes(),
        tables: spec.geometry.tables(),
        stage_words: STAGE_WORDS as u64,
        lane_bytes: size_of::<LaneLayout>() as u64,
        made_of: identity.made_of,
        regions: Vec::new(),
    }
}

/// Version of this crate, as the header holds it.
fn own_version() -> u64 {
    let part = |text: &str| text.parse::<u64>().unwrap_or(0) & 0xFFFF;
    (part(env!("CARGO_PKG_VERSION_MAJOR")) << 32)
        | (part(env!("CARGO_PKG_VERSION_MINOR")) << 16)
        | part(env!("CARGO_PKG_VERSION_PATCH"))
}

/// Hash of an instance and the user it belongs to.
pub(super) fn instance_hash(instance: &str, uid: u32) -> u64 {
    hash_of(&format!("{instance}\0{uid}"))
}

/// Refuses names that cannot stand in a header, a file name or a command line.
pub(super) fn check_instance(instance: &str) -> Result<(), CreateError> {
    let fits = (1..=INSTANCE_BYTES_MAX).contains(&instance.len())
        && instance
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && !instance.starts_with(['.', '-']);
    if fits {
        Ok(())
    } else {
        Err(CreateError::Instance(instance.chars().take(80).collect()))
    }
}
