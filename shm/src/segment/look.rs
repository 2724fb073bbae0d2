//! What lies at a key of an instance, and whether a daemon may adopt it.
//!
//! Nothing is believed before it was checked: owner by the kernel, magic and checksum of either copy of the header, the ready
//! word, the boot, the places of the regions, and a sample of the states. Nothing is written here.
//!
//! Tested in `segment/tests/named.rs` and `segment/tests/damaged.rs`.

use std::sync::Arc;

use nix::errno::Errno;

use crate::region::sysv::{self, SysvStatus};
use crate::region::{Mapping, SysvMemory};
use crate::segment::adopt::is;
use crate::segment::create::instance_hash;
use crate::segment::header::Front;
use crate::segment::limits::refusal;
use crate::segment::parts::Parts;
use crate::segment::process::{ProcessIdentity, boot_id};
use crate::segment::rebase::Mark;
use crate::segment::spec::{CreateError, SegmentSpec};
use crate::segment::upgrade::{Earlier, HASH, MAJOR};
use crate::segment::{Segment, SegmentView, sanity};
use crate::spill::SpillStore;
use crate::time::wall_ns;

/// LIMIT: an unfinished segment whose maker has not even written its name after so long was left behind.
const UNNAMED_MAKER_S_MAX: u64 = 60;

/// What lies at a key.
pub(super) enum Found {
    Nothing,
    Foreign,
    Unfinished {
        shm_id: i32,
    },
    Unusable {
        shm_id: i32,
        why: String,
        memory: Arc<Mapping>,
    },
    /// Of a layout before this one, to be read into a new segment.
    Earlier {
        shm_id: i32,
        earlier: Box<Earlier>,
        memory: Arc<Mapping>,
    },
    Usable(Box<Segment>),
}

/// Looks at one key of an instance.
pub(super) fn look(key: i32, uid: u32, spec: &SegmentSpec) -> Result<Found, CreateError> {
    let shm_id = match sysv::find(key) {
        Ok(shm_id) => shm_id,
        Err(error) if is(&error, Errno::ENOENT) => return Ok(Found::Nothing),
        Err(_) => return Ok(Found::Foreign),
    };
    let Ok(status) = sysv::status(shm_id) else {
        return Ok(Found::Foreign);
    };
    let Ok(memory) = SysvMemory::attach(shm_id, true) else {
        return Ok(Found::Foreign);
    };
    let memory = Arc::new(Mapping::Sysv(memory));
    let Some(front) = Front::of(Arc::clone(&memory)) else {
        return Ok(Found::Foreign);
    };
    let ours = status.owner_uid == uid && status.creator_uid == uid;
    if !front.has_magic() {
        return if ours && front.is_unwritten() {
            unfinished(shm_id, &front, status, spec)
        } else {
            Ok(Found::Foreign)
        };
    }
    if !ours {
        return Err(CreateError::WrongOwner {
            key,
            shm_id,
            instance: front
                .header()
                .map(|header| header.instance)
                .unwrap_or_default(),
            owner: if status.owner_uid == uid {
                status.creator_uid
            } else {
                status.owner_uid
            },
            uid,
        });
    }
    if front.is_being_made() {
        return unfinished(shm_id, &front, status, spec);
    }
    judge(shm_id, uid, spec, memory, &front)
}

/// A segment of ours that was ready once: is it the instance's, and can it be used?
fn judge(
    shm_id: i32,
    uid: u32,
    spec: &SegmentSpec,
    memory: Arc<Mapping>,
    front: &Front,
) -> Result<Found, CreateError> {
    let unusable = |why: String, memory| {
        Ok(Found::Unusable {
            shm_id,
            why,
            memory,
        })
    };
    let header = match front.header() {
        Ok(header) => header,
        Err(error) => return unusable(error.to_string(), memory),
    };
    let same_hash = header.instance_hash == instance_hash(&spec.instance, uid);
    if header.instance != spec.instance || header.owner_uid != uid || !same_hash {
        return Ok(Found::Foreign);
    }
    if header.boot_id != boot_id() {
        return unusable("it is of another boot of this machine".to_owned(), memory);
    }
    let control = front.control();
    if !control.ready {
        return unusable("its ready word is damaged".to_owned(), memory);
    }
    if (header.layout_major, header.layout_hash) == (MAJOR, HASH) {
        refuse_living_daemon(spec, front)?;
        return match Earlier::of(&memory, header) {
            Ok(earlier) => Ok(Found::Earlier {
                shm_id,
                earlier: Box::new(earlier),
                memory,
            }),
            Err(why) => unusable(why, memory),
        };
    }
    let geometry = match front.usable() {
        Ok((_, geometry)) => geometry,
        Err(error) => return unusable(error.to_string(), memory),
    };
    refuse_living_daemon(spec, front)?;
    let writable = SysvMemory::attach(shm_id, false)
        .map_err(|source| refusal(source, "shmat", geometry.total_bytes(), &spec.instance))?;
    let parts = Parts::of(&Arc::new(Mapping::Sysv(writable)), geometry)?;
    let view = SegmentView {
        parts,
        header,
        shm_id: Some(shm_id),
        spill: None,
    };
    if Mark::read(view.parts.control()).is_err() {
        return unusable(
            "its mark of a move of the origin is damaged".to_owned(),
            memory,
        );
    }
    if let Err(why) = sanity::check(&view) {
        return unusable(why, memory);
    }
    let spill =
        SpillStore::open(&spec.spill_dir, view.header.payload_limit).bounded(spec.spill_limit);
    Ok(Found::Usable(Box::new(Segment::of(view, spill))))
}

/// A segment is its daemon's as long as that lives.
fn refuse_living_daemon(spec: &SegmentSpec, front: &Front) -> Result<(), CreateError> {
    let control = front.control();
    let daemon = ProcessIdentity {
        pid: control.daemon_pid,
        start_time: control.daemon_start,
    };
    if daemon != ProcessIdentity::own() && daemon.is_alive() {
        return Err(CreateError::InUse {
            instance: spec.instance.clone(),
            pid: daemon.pid,
        });
    }
    Ok(())
}

fn unfinished(
    shm_id: i32,
    front: &Front,
    status: SysvStatus,
    spec: &SegmentSpec,
) -> Result<Found, CreateError> {
    let control = front.control();
    let named = control.creator_pid != 0;
    let maker = ProcessIdentity {
        pid: if named {
            control.creator_pid
        } else {
            status.creator_pid
        },
        start_time: control.creator_start,
    };
    let now_s = wall_ns() / 1_000_000_000;
    let recent = now_s.saturating_sub(status.changed_unix_s) < UNNAMED_MAKER_S_MAX;
    if maker.is_alive() && (named || recent) {
        return Err(CreateError::BeingMade {
            shm_id,
            instance: spec.instance.clone(),
            pid: maker.pid,
        });
    }
    Ok(Found::Unfinished { shm_id })
}
