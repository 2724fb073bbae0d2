//! Finding the segment of an instance: adopt it, make it, or put aside what cannot be used.
//!
//! All keys of the instance are looked at before anything is made, since the segment of an earlier daemon may lie behind a
//! foreign one that is gone by now. What is found at a key:
//!
//! | found | then |
//! |---|---|
//! | nothing | may be taken |
//! | no access, too small, another magic in both headers | somebody else's: the next key |
//! | our magic, another owner | refused: nobody else may put a segment there |
//! | our magic and owner, another instance | the next key |
//! | unfinished, its maker lives | refused for now |
//! | unfinished, its maker is dead | removed |
//! | layout 2.0, its daemon and all local processes dead | read into a new one (`upgrade/`), then removed |
//! | another layout, damaged (header, a ready word that is zero or that signs of use belie, many states), of another boot | saved to a file, removed |
//! | all right, its daemon lives | refused |
//! | all right | adopted |
//!
//! Tested in `segment/tests/named.rs`, `cold.rs` and `damaged.rs`.

use std::io;
use std::path::Path;

use nix::errno::Errno;

use crate::layout::HeaderError;
use crate::region::sysv::{self, KEYS_PROBED};
use crate::region::{Mapping, SysvMemory};
use crate::segment::Segment;
#[cfg(any(test, feature = "kill-points"))]
use crate::segment::SegmentView;
use crate::segment::create::{Identity, build, check_instance};
#[cfg(any(test, feature = "kill-points"))]
use crate::segment::header::Front;
use crate::segment::image::put_aside;
use crate::segment::key::keys_of;
use crate::segment::limits::{refusal, refusal_of_huge_pages};
use crate::segment::lock_file::LockFile;
use crate::segment::look::{Found, look};
use crate::segment::memory::prepare;
#[cfg(any(test, feature = "kill-points"))]
use crate::segment::parts::Parts;
use crate::segment::spec::{Adoption, CreateError, Earlier as Before, HugePages, SegmentSpec};
use crate::segment::upgrade::Earlier;

impl Segment {
    /// Makes a segment that nobody finds by name and that vanishes with the last process attached to it. Inspectors
    /// attach by its id.
    ///
    /// # Errors
    /// The kernel gives no memory of this size.
    pub fn create_private(spec: &SegmentSpec) -> Result<Self, CreateError> {
        check_instance(&spec.instance)?;
        let memory = memory_at(libc::IPC_PRIVATE, spec)?;
        let made = furnish(memory, spec, Identity::fresh(spec), nothing)?;
        // Attached by now, so it lives on; removed, so it cannot outlive us.
        sysv::remove(made.shm_id().unwrap_or(-1)).map_err(|source| CreateError::Call {
            call: "shmctl(IPC_RMID)",
            instance: spec.instance.clone(),
            source,
        })?;
        Ok(made)
    }

    /// Adopts the segment of the instance, or makes an empty one. The caller holds the instance's lock file. What cannot be
    /// used is saved to a file in `runtime_dir` first. A daemon with a journal calls [`Segment::adopt_named`] and
    /// [`Segment::create_named`] instead.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub fn create_or_adopt_named(
        spec: &SegmentSpec,
        runtime_dir: &Path,
    ) -> Result<(Self, Adoption), CreateError> {
        match Self::adopt_named(spec, runtime_dir)? {
            Before::Adopted(segment, adoption) => Ok((*segment, adoption)),
            Before::None(adoption) => {
                let made = make_named(spec, Identity::fresh(spec), nothing)?;
                Ok((made, adoption))
            }
        }
    }

    /// Adopts the segment of the instance, if there is one that can be used: the hot restart. The caller holds the
    /// instance's lock file. What cannot be used is saved to a file in `runtime_dir` and removed; then there is none.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub fn adopt_named(spec: &SegmentSpec, runtime_dir: &Path) -> Result<Before, CreateError> {
        check_instance(&spec.instance)?;
        let uid = nix::unistd::geteuid().as_raw();
        let mut adoption = Adoption::Created;
        let mut of_before: Option<(i32, Box<Earlier>)> = None;
        for key in keys_of(&spec.instance, uid) {
            match look(key, uid, spec)? {
                Found::Nothing | Found::Foreign => {}
                Found::Unfinished { shm_id } => remove(shm_id, spec)?,
                Found::Unusable {
                    shm_id,
                    why,
                    memory,
                } => {
                    let file = put_aside(&memory, runtime_dir, &spec.instance).map_err(
                        |(file, source)| CreateError::PutAside {
                            shm_id,
                            why: why.clone(),
                            file,
                            source,
                        },
                    )?;
                    remove(shm_id, spec)?;
                    adoption = Adoption::PutAside { file, why };
                }
                Found::Earlier {
                    shm_id, earlier, ..
                } => of_before = Some((shm_id, earlier)),
                Found::Usable(segment) => {
                    remove_what_it_was_made_of(&segment, uid, spec, runtime_dir)?;
                    let (segment, adoption) = adopt(*segment, spec, runtime_dir);
                    return Ok(Before::Adopted(Box::new(segment), adoption));
                }
            }
        }
        match of_before {
            Some((shm_id, earlier)) => upgrade(shm_id, &earlier, spec, runtime_dir),
            None => Ok(Before::None(adoption)),
        }
    }

    /// Makes the segment of the instance and lets `fill` put restored tasks and keys in, before anybody may attach: the cold
    /// start. Afterwards the caches are built, and spill files that no restored task refers to are removed (only where
    /// [`SegmentSpec::spill_id`] is given). A process that dies meanwhile leaves a segment that says it is not finished, and
    /// that the next one removes.
    ///
    /// # Errors
    /// See [`CreateError`], or what `fill` says; then there is no segment.
    pub fn create_named<E: From<CreateError>>(
        spec: &SegmentSpec,
        fill: impl FnOnce(&Self) -> Result<(), E>,
    ) -> Result<Self, E> {
        check_instance(&spec.instance)?;
        make_named(spec, Identity::fresh(spec), |segment| {
            fill(segment)?;
            segment.rebuild_caches(segment.now_at(spec.monotonic_ns()));
            if spec.spill_id.is_some() {
                segment.remove_lost_spills();
            }
            Ok(())
        })
    }

    /// What the next daemon does with a segment that it adopts, for simulations: there it is this process again. The origin stays.
    #[cfg(any(test, feature = "kill-points"))]
    pub fn adopt_again(&self, lock: Option<&LockFile>) {
        self.raise_epoch();
        let is_alone = self.be_alone(lock);
        self.accept_what_is_handed_over();
        self.put_in_order(is_alone, lock, crate::time::monotonic_ns());
    }

    /// The same memory as the next daemon has it that starts alone at this reading of the monotonic clock, for simulations in memory of this
    /// process: the origin is moved if that is due.
    ///
    /// # Errors
    /// The header is damaged.
    #[cfg(any(test, feature = "kill-points"))]
    pub fn begun_alone(&self, clock_ns: u64) -> Result<Self, HeaderError> {
        let mapping = std::sync::Arc::clone(&self.view.parts.mapping);
        let front = Front::of(mapping).ok_or(HeaderError::Size {
            header: self.view.header.total_bytes,
            memory: 0,
        })?;
        let (header, geometry) = front.consistent()?;
        let view = SegmentView {
            parts: Parts::of(&self.view.parts.mapping, geometry)?,
            header,
            shm_id: self.view.shm_id,
            spill: None,
        };
        let mut begun = Self::of(view, self.spill.clone());
        begun.raise_epoch();
        begun.bring_in_order(None, clock_ns);
        Ok(begun)
    }

    /// Removes the segment from the system: no other process finds it any more, and its memory goes when the last one has
    /// detached. Nothing happens for memory of this process.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove(&self) -> io::Result<()> {
        match self.shm_id() {
            None => Ok(()),
            Some(shm_id) => match sysv::remove(shm_id) {
                // A private segment was removed when it was made.
                Err(error) if is(&error, Errno::EINVAL) || is(&error, Errno::EIDRM) => Ok(()),
                other => other,
            },
        }
    }

    /// Detaches. A named segment stays, with all that is in it.
    pub fn detach(self) {
        drop(self);
    }
}

/// Nothing to put in.
fn nothing(_: &Segment) -> Result<(), CreateError> {
    Ok(())
}

/// A new segment at the first key that is not taken.
fn make_named<E: From<CreateError>>(
    spec: &SegmentSpec,
    identity: Identity,
    fill: impl FnOnce(&Segment) -> Result<(), E>,
) -> Result<Segment, E> {
    let uid = nix::unistd::geteuid().as_raw();
    for key in keys_of(&spec.instance, uid) {
        match memory_at(key, spec) {
            Ok(shm_id) => return furnish(shm_id, spec, identity, fill),
            Err(CreateError::Call { source, .. }) if is(&source, Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let taken = CreateError::KeysTaken {
        first: keys_of(&spec.instance, uid).next().unwrap_or(0),
        keys: KEYS_PROBED,
    };
    Err(taken.into())
}

/// Memory of the kernel, zeroed, without a name of ours in it.
fn memory_at(key: i32, spec: &SegmentSpec) -> Result<i32, CreateError> {
    let bytes = spec.geometry.total_bytes();
    let size = usize::try_from(bytes).map_err(|_| CreateError::Addresses { bytes })?;
    let mode = spec.mode.mode();
    match spec.huge_pages {
        HugePages::Require => sysv::create_of_huge_pages(key, size, mode)
            .map_err(|source| refusal_of_huge_pages(source, bytes, &spec.instance)),
        HugePages::Auto | HugePages::Never => sysv::create(key, size, mode)
            .map_err(|source| refusal(source, "shmget", bytes, &spec.instance)),
    }
}

/// Makes a segment of it, lets it be filled, and says that it is ready.
fn furnish<E: From<CreateError>>(
    shm_id: i32,
    spec: &SegmentSpec,
    identity: Identity,
    fill: impl FnOnce(&Segment) -> Result<(), E>,
) -> Result<Segment, E> {
    let built = attach_new(shm_id, spec)
        .map_err(E::from)
        .and_then(|memory| {
            let unpublished = build(memory, Some(shm_id), spec, identity)
                .map_err(|error| E::from(error.into()))?;
            unpublished.segment().raise_epoch();
            fill(unpublished.segment())?;
            Ok(unpublished.publish())
        });
    if built.is_err() {
        // Nobody could use it yet; an error of the removal would hide the one that matters.
        let _ = sysv::remove(shm_id);
    }
    built
}

fn attach_new(shm_id: i32, spec: &SegmentSpec) -> Result<Mapping, CreateError> {
    let memory = SysvMemory::attach(shm_id, false)
        .map_err(|source| refusal(source, "shmat", spec.geometry.total_bytes(), &spec.instance))?;
    if let Some(group) = spec.mode.group() {
        sysv::set_group(shm_id, group).map_err(|source| CreateError::Call {
            call: "shmctl(IPC_SET), giving the segment to its group,",
            instance: spec.instance.clone(),
            source,
        })?;
    }
    let memory = Mapping::Sysv(memory);
    prepare(&memory, spec);
    Ok(memory)
}

fn adopt(mut segment: Segment, spec: &SegmentSpec, runtime_dir: &Path) -> (Segment, Adoption) {
    let clean = segment.control().clean_shutdown;
    let other_sizes = *segment.geometry() != spec.geometry;
    let epoch = segment.raise_epoch();
    let lock_file = lock_path(spec, runtime_dir);
    // Without the file, process ids and start times decide.
    segment.bring_in_order(
        LockFile::open(&lock_file).ok().as_ref(),
        spec.monotonic_ns(),
    );
    let adoption = Adoption::Adopted {
        epoch,
        clean,
        other_sizes,
    };
    (segment, adoption)
}

/// The layout that is read into a new segment.
const LAYOUT_BEFORE: &str = "2.0";

/// The segment of an earlier layout goes on in a new one, and is removed when that is published.
fn upgrade(
    shm_id: i32,
    earlier: &Earlier,
    spec: &SegmentSpec,
    runtime_dir: &Path,
) -> Result<Before, CreateError> {
    let lock = LockFile::open(&lock_path(spec, runtime_dir)).ok();
    let attached = earlier.attached(lock.as_ref());
    if !attached.is_empty() {
        return Err(CreateError::StillAttached {
            instance: spec.instance.clone(),
            processes: attached.join(", "),
        });
    }
    let spec = earlier.spec(spec).ok_or(HeaderError::Region("geometry"))?;
    let made = make_named(&spec, Identity::of_earlier(earlier), |segment| {
        segment
            .take_over(earlier)
            .map_err(|source| CreateError::TakeOver {
                layout: LAYOUT_BEFORE,
                source,
            })
    })?;
    remove(shm_id, &spec)?;
    let (segment, adopted) = adopt(made, &spec, runtime_dir);
    let epoch = match adopted {
        Adoption::Adopted { epoch, .. } => epoch,
        Adoption::Created | Adoption::Upgraded { .. } | Adoption::PutAside { .. } => 0,
    };
    let adoption = Adoption::Upgraded {
        from: LAYOUT_BEFORE,
        epoch,
        clean: earlier.was_stopped(),
    };
    Ok(Before::Adopted(Box::new(segment), adoption))
}

/// A start was killed after it had read an earlier segment into this one, and before that was removed.
fn remove_what_it_was_made_of(
    segment: &Segment,
    uid: u32,
    spec: &SegmentSpec,
    runtime_dir: &Path,
) -> Result<(), CreateError> {
    let made_of = segment.header().made_of;
    if made_of == [0; 2] {
        return Ok(());
    }
    for key in keys_of(&spec.instance, uid) {
        if let Ok(Found::Earlier {
            shm_id,
            earlier,
            memory,
        }) = look(key, uid, spec)
        {
            if earlier.name() != made_of {
                // Another program has made it since.
                put_aside(&memory, runtime_dir, &spec.instance).map_err(|(file, source)| {
                    CreateError::PutAside {
                        shm_id,
                        why: "it is of an earlier layout, and one of this layout is there"
                            .to_owned(),
                        file,
                        source,
                    }
                })?;
            }
            remove(shm_id, spec)?;
        }
    }
    Ok(())
}

fn lock_path(spec: &SegmentSpec, runtime_dir: &Path) -> std::path::PathBuf {
    runtime_dir.join(format!("{}.lock", spec.instance))
}

fn remove(shm_id: i32, spec: &SegmentSpec) -> Result<(), CreateError> {
    sysv::remove(shm_id).map_err(|source| CreateError::Call {
        call: "shmctl(IPC_RMID)",
        instance: spec.instance.clone(),
        source,
    })
}

pub(super) fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}
