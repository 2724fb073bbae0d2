//! Named and private segments of the real kernel: create, adopt, put aside, refuse.

use std::path::{Path, PathBuf};

use super::submit;
use crate::layout::header::MAGIC;
use crate::layout::{Geometry, HeaderError};
use crate::region::Mapping;
use crate::region::sysv::{self, SysvMemory};
use crate::segment::key::keys_of;
use crate::segment::{
    Access, Adoption, AttachError, CreateError, Part, ProcessIdentity, Segment, SegmentSpec,
    SegmentView,
};
use crate::sync::Ordering;
use crate::task::state::Phase;

/// An instance of a name that no other test has; removes its segments at the end, also after a panic.
pub(super) struct Instance {
    pub(super) name: String,
    pub(super) dir: tempfile::TempDir,
    others: Vec<i32>,
}

impl Instance {
    pub(super) fn new(test: &str) -> Self {
        let name = format!("test-{test}-{}", std::process::id());
        Self {
            name,
            dir: tempfile::tempdir().unwrap(),
            others: Vec::new(),
        }
    }

    pub(super) fn spec(&self) -> SegmentSpec {
        let geometry = Geometry::for_counts(64, 8)
            .unwrap()
            .with_arena_bytes(1 << 20)
            .unwrap();
        SegmentSpec {
            geometry,
            ..SegmentSpec::new(&self.name, self.dir.path().join("spill"))
        }
    }

    pub(super) fn start(&self) -> Result<(Segment, Adoption), CreateError> {
        Segment::create_or_adopt_named(&self.spec(), self.dir.path())
    }

    pub(super) fn keys(&self) -> Vec<i32> {
        keys_of(&self.name, uid()).collect()
    }

    /// Puts memory of somebody else at a key; `words` are (word index, value).
    fn occupy(&mut self, key: i32, bytes: usize, words: &[(usize, u64)]) -> i32 {
        let shm_id = sysv::create(key, bytes, 0o600).unwrap();
        self.others.push(shm_id);
        let memory = Mapping::Sysv(SysvMemory::attach(shm_id, false).unwrap());
        for &(index, value) in words {
            memory.words()[index].store(value, Ordering::Relaxed);
        }
        shm_id
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        for shm_id in self.others.drain(..) {
            let _ = sysv::remove(shm_id);
        }
        for key in self.keys() {
            if let Ok(shm_id) = sysv::find(key) {
                let _ = sysv::remove(shm_id);
            }
        }
    }
}

fn uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Writes words into a named segment, as a program gone mad would.
pub(super) fn scribble(segment: &Segment, words: &[(usize, u64)]) {
    for &(index, value) in words {
        segment.view.parts.mapping.words()[index].store(value, Ordering::Relaxed);
    }
}

#[test]
fn second_start_adopts_what_the_first_has_left() {
    let instance = Instance::new("adopt");
    let (segment, adoption) = instance.start().unwrap();
    assert_eq!((adoption, segment.epoch()), (Adoption::Created, 1));
    let task = submit(&segment, 7, 70, &[5; 1000]);
    let (segment_id, shm_id) = (segment.segment_id(), segment.shm_id());
    segment.detach();

    let (segment, adoption) = instance.start().unwrap();
    assert_eq!(
        adoption,
        Adoption::Adopted {
            epoch: 2,
            clean: false,
            other_sizes: false
        }
    );
    assert_eq!(
        (segment.segment_id(), segment.shm_id()),
        (segment_id, shm_id)
    );
    assert_eq!(segment.task(task.slot()).state().phase(), Phase::Ready);
    assert_eq!(
        segment.ready().locate().map(|(leaf, _)| leaf),
        Some(task.slot().get())
    );
    let mut payload = [0; 1000];
    assert_eq!(
        segment.load(task, Part::Payload, 0, &mut payload).unwrap(),
        1000
    );
    assert_eq!(payload, [5; 1000]);
    segment.set_clean_shutdown();
    segment.detach();

    let mut spec = instance.spec();
    spec.geometry = Geometry::for_counts(128, 8).unwrap();
    let (segment, adoption) = Segment::create_or_adopt_named(&spec, instance.dir.path()).unwrap();
    assert_eq!(
        adoption,
        Adoption::Adopted {
            epoch: 3,
            clean: true,
            other_sizes: true
        }
    );
    assert_eq!(segment.geometry().tasks(), 64);
    segment.remove().unwrap();
}

#[test]
fn adoption_keeps_spill_files_of_tasks_and_removes_lost_ones() {
    let instance = Instance::new("spills");
    let (segment, _) = instance.start().unwrap();
    let task = submit(&segment, 1, 1, &vec![6; 100_000]);
    segment.spill().store(&[1; 10]).unwrap();
    segment.detach();
    let files = || {
        std::fs::read_dir(instance.dir.path().join("spill"))
            .unwrap()
            .count()
    };
    assert_eq!(files(), 2);
    let (segment, _) = instance.start().unwrap();
    assert_eq!(files(), 1);
    let mut out = [0; 16];
    assert_eq!(
        segment.load(task, Part::Payload, 99_990, &mut out).unwrap(),
        10
    );
}

#[test]
fn two_attachments_see_the_same_and_the_view_is_by_id_or_name() {
    let instance = Instance::new("views");
    let (segment, _) = instance.start().unwrap();
    let by_name = SegmentView::attach_by_instance(&instance.name, uid()).unwrap();
    let by_id = SegmentView::attach_by_id(segment.shm_id().unwrap()).unwrap();
    let task = submit(&segment, 7, 70, b"seen by all");
    for view in [&by_name, &by_id] {
        assert_eq!(view.header(), segment.header());
        let record = view.read_task(task.slot()).unwrap().record;
        assert_eq!((record.id, record.priority), (Some(task), 7));
        let mut out = [0; 64];
        let count = view.load_blob(&record, Part::Payload, 0, &mut out).unwrap();
        assert_eq!(&out[..count], b"seen by all");
        assert!(view.control().ready);
        assert_eq!(view.control().daemon_pid, std::process::id());
    }
    assert!(matches!(
        SegmentView::attach_by_instance("no-such-instance", uid()),
        Err(AttachError::NoInstance { .. })
    ));
    segment.remove().unwrap();
    assert!(SegmentView::attach_by_instance(&instance.name, uid()).is_err());
    assert_eq!(
        by_id.read_task(task.slot()).unwrap().record.id,
        Some(task),
        "attached memory stays"
    );
}

#[test]
fn private_segment_is_found_by_id_only_and_vanishes() {
    let instance = Instance::new("private");
    let segment = Segment::create_private(&instance.spec()).unwrap();
    let shm_id = segment.shm_id().unwrap();
    let view = SegmentView::attach_by_id(shm_id).unwrap();
    assert_eq!(view.segment_id(), segment.segment_id());
    assert!(SegmentView::attach_by_instance(&instance.name, uid()).is_err());
    segment.remove().unwrap();
    drop((segment, view));
    assert!(matches!(
        SegmentView::attach_by_id(shm_id),
        Err(AttachError::NoId(_))
    ));
}

#[test]
fn foreign_segment_at_our_key_is_left_alone() {
    let mut instance = Instance::new("foreign");
    let keys = instance.keys();
    let tiny = instance.occupy(keys[0], 100, &[]);
    let other = instance.occupy(keys[1], 1 << 20, &[(0, 0x1234), (1024 * 2, 1)]);
    let (segment, adoption) = instance.start().unwrap();
    assert_eq!(adoption, Adoption::Created);
    assert_eq!(sysv::find(keys[2]).ok(), segment.shm_id());
    for shm_id in [tiny, other] {
        assert!(sysv::status(shm_id).is_ok());
    }
    assert!(matches!(
        SegmentView::attach_by_id(tiny),
        Err(AttachError::Header(HeaderError::Small(_)))
    ));
    assert!(matches!(
        SegmentView::attach_by_id(other),
        Err(AttachError::Header(HeaderError::Magic(_)))
    ));
    sysv::remove(tiny).unwrap();
    sysv::remove(other).unwrap();
    let segment_id = segment.segment_id();
    segment.detach();
    let (segment, adoption) = instance.start().unwrap();
    assert!(
        matches!(adoption, Adoption::Adopted { .. }),
        "found behind the gap: {adoption:?}"
    );
    assert_eq!(segment.segment_id(), segment_id);
}

#[test]
fn keys_that_are_all_taken_are_an_error() {
    let mut instance = Instance::new("taken");
    for key in instance.keys() {
        instance.occupy(key, 100, &[]);
    }
    let error = instance.start().unwrap_err();
    assert!(
        matches!(error, CreateError::KeysTaken { keys: 16, .. }),
        "{error}"
    );
}

#[test]
fn segment_of_another_instance_at_our_key_is_left_alone() {
    let mut instance = Instance::new("sibling");
    let other = Instance::new("sibling-other");
    let source = Segment::in_process(&other.spec());
    // What another instance of ours would look like whose keys meet ours.
    let mut words: Vec<(usize, u64)> = source.view.parts.mapping.words()[..1536]
        .iter()
        .enumerate()
        .map(|(index, word)| (index, word.load(Ordering::Relaxed)))
        .collect();
    words.retain(|&(_, value)| value != 0);
    let bytes = usize::try_from(other.spec().geometry.total_bytes()).unwrap();
    let key = instance.keys()[0];
    let sibling = instance.occupy(key, bytes, &words);
    assert_eq!(
        SegmentView::attach_by_id(sibling)
            .unwrap()
            .header()
            .instance,
        other.name
    );
    let (segment, adoption) = instance.start().unwrap();
    assert_eq!(adoption, Adoption::Created);
    assert_ne!(segment.shm_id(), Some(sibling));
    assert!(sysv::status(sibling).is_ok());
}

#[test]
fn segment_with_our_magic_and_another_owner_is_refused() {
    let mut instance = Instance::new("owner");
    if uid() != 0 {
        return; // Only root can give a segment away.
    }
    let key = instance.keys()[3];
    let shm_id = instance.occupy(key, 1 << 20, &[(0, MAGIC)]);
    sysv::set_owner(shm_id, 12_345).unwrap();
    let error = instance.start().unwrap_err();
    assert!(
        matches!(error, CreateError::WrongOwner { owner: 12_345, .. }),
        "{error}"
    );
    assert!(sysv::status(shm_id).is_ok(), "left alone");
}

#[test]
fn segment_that_the_kernel_calls_anothers_is_not_attached_whatever_it_says_of_itself() {
    let instance = Instance::new("anothers");
    if uid() != 0 {
        eprintln!(
            "skipped: segment_that_the_kernel_calls_anothers_is_not_attached_whatever_it_says_of_itself: only root can give a segment away"
        );
        return;
    }
    let (segment, _) = instance.start().unwrap();
    let shm_id = segment.shm_id().unwrap();
    let attach = || SegmentView::attach_by_instance(&instance.name, uid());
    assert!(attach().is_ok());
    sysv::set_owner(shm_id, 12_345).unwrap();
    // A local worker would run the tasks that its maker wants.
    let attached = attach();
    sysv::set_owner(shm_id, uid()).unwrap();
    assert!(matches!(attached, Err(AttachError::NoInstance { .. })));
}

#[test]
fn half_built_segment_of_a_dead_creator_is_made_anew() {
    let mut instance = Instance::new("halfbuilt");
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let dead = u64::from(child.id());
    child.wait().unwrap();
    let key = instance.keys()[0];
    for words in [
        vec![(1024, 1), (1025, dead)],
        vec![(0, MAGIC), (1024, 1), (1025, dead)],
        vec![(0, MAGIC), (1, 7), (1024, 1), (1025, dead), (1026, 3)],
    ] {
        let shm_id = instance.occupy(key, 1 << 20, &words);
        let (segment, adoption) = instance.start().unwrap();
        assert_eq!(adoption, Adoption::Created);
        assert!(sysv::status(shm_id).is_err(), "removed");
        segment.remove().unwrap();
    }
}

#[test]
fn half_built_segment_of_a_living_creator_is_waited_for() {
    let mut instance = Instance::new("building");
    let own = ProcessIdentity::own();
    let key = instance.keys()[0];
    let named = [
        (1024, 1),
        (1025, u64::from(own.pid)),
        (1026, own.start_time),
    ];
    for words in [named.as_slice(), &[]] {
        let shm_id = instance.occupy(key, 1 << 20, words);
        let error = instance.start().unwrap_err();
        assert!(matches!(error, CreateError::BeingMade { .. }), "{error}");
        sysv::remove(shm_id).unwrap();
    }
}

fn file_of(dir: &Path, adoption: &Adoption, reason: &str) -> PathBuf {
    let Adoption::PutAside { file, why } = adoption else {
        panic!("not put aside: {adoption:?}");
    };
    assert!(why.contains(reason), "{why}");
    assert!(file.starts_with(dir));
    file.clone()
}

#[test]
fn segment_that_cannot_be_used_is_put_aside_and_replaced() {
    let instance = Instance::new("aside");
    // Both copies of a header word, with or without a checksum that fits.
    for (word, reason) in [(2, "layout"), (3, "checksum")] {
        let (segment, _) = instance.start().unwrap();
        let (segment_id, shm_id) = (segment.segment_id(), segment.shm_id().unwrap());
        let words = segment.view.parts.mapping.words();
        scribble(&segment, &[(word, 99), (512 + word, 99)]);
        if word == 2 {
            let crc = crate::layout::header::checksum(words);
            scribble(&segment, &[(511, crc), (1023, crc)]);
        }
        let total = segment.view.parts.mapping.bytes();
        segment.detach();
        let (fresh, adoption) = instance.start().unwrap();
        let file = file_of(instance.dir.path(), &adoption, reason);
        assert_eq!(file.metadata().unwrap().len(), total);
        assert_ne!(fresh.segment_id(), segment_id);
        assert!(sysv::status(shm_id).is_err(), "removed");
        assert!(
            SegmentView::open_image(&file).is_err(),
            "not readable by this version"
        );
        fresh.remove().unwrap();
    }
}

#[test]
fn one_damaged_copy_of_the_header_does_not_matter() {
    let instance = Instance::new("copy");
    for word in [2, 512 + 2] {
        let (segment, _) = instance.start().unwrap();
        scribble(&segment, &[(word, 99)]);
        let segment_id = segment.segment_id();
        segment.detach();
        let (segment, adoption) = instance.start().unwrap();
        assert!(matches!(adoption, Adoption::Adopted { .. }), "{adoption:?}");
        assert_eq!(segment.segment_id(), segment_id);
        segment.remove().unwrap();
    }
}

#[test]
fn segment_that_cannot_be_saved_is_kept() {
    let instance = Instance::new("nowhere");
    let (segment, _) = instance.start().unwrap();
    let shm_id = segment.shm_id().unwrap();
    scribble(&segment, &[(2, 99), (512 + 2, 99)]);
    segment.detach();
    let file = instance.dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Segment::create_or_adopt_named(&instance.spec(), &file.join("run")).unwrap_err();
    assert!(matches!(error, CreateError::PutAside { .. }), "{error}");
    assert!(sysv::status(shm_id).is_ok());
}

#[test]
fn segment_of_a_living_daemon_is_refused() {
    let instance = Instance::new("inuse");
    let (segment, _) = instance.start().unwrap();
    let parent = std::os::unix::process::parent_id();
    let control = segment.view.parts.control();
    control
        .daemon_pid
        .store(u64::from(parent), Ordering::Relaxed);
    control.daemon_start.store(0, Ordering::Relaxed);
    let error = instance.start().unwrap_err();
    assert!(
        matches!(error, CreateError::InUse { pid, .. } if pid == parent),
        "{error}"
    );
}

#[test]
fn permissions_are_those_of_the_spec() {
    let instance = Instance::new("modes");
    let group = nix::unistd::getegid().as_raw();
    for (access, mode) in [
        (Access::Owner, 0o600),
        (Access::GroupRead(group), 0o640),
        (Access::GroupWrite(group), 0o660),
    ] {
        let spec = SegmentSpec {
            mode: access,
            ..instance.spec()
        };
        let (segment, _) = Segment::create_or_adopt_named(&spec, instance.dir.path()).unwrap();
        let status = sysv::status(segment.shm_id().unwrap()).unwrap();
        assert_eq!(status.mode & 0o777, mode);
        assert_eq!(segment.header().mode, mode);
        segment.remove().unwrap();
    }
}

#[test]
fn memory_that_cannot_be_had_is_refused_with_the_limit() {
    let geometry = Geometry::for_bytes(1 << 40).unwrap();
    let spec = SegmentSpec {
        geometry,
        ..Instance::new("huge").spec()
    };
    // Where the kernel promises everything it may be had.
    if let Err(error) = Segment::create_private(&spec) {
        assert!(matches!(error, CreateError::Limit { .. }), "{error}");
    }
}

#[test]
fn names_that_cannot_be_an_instance_are_refused() {
    let good = Instance::new("name");
    for name in ["", "a/b", "a b", "..", "-x", "é", &"x".repeat(64), "a\0b"] {
        let spec = SegmentSpec {
            instance: name.to_owned(),
            ..good.spec()
        };
        assert!(
            matches!(
                Segment::create_private(&spec),
                Err(CreateError::Instance(_))
            ),
            "{name}"
        );
        let named = Segment::create_or_adopt_named(&spec, good.dir.path());
        assert!(matches!(named, Err(CreateError::Instance(_))), "{name}");
    }
}

#[test]
fn snapshot_of_a_live_segment_reads_like_the_segment() {
    let instance = Instance::new("snapshot");
    let (segment, _) = instance.start().unwrap();
    let tasks: Vec<_> = (0..20_usize)
        .map(|stamp| submit(&segment, 5, stamp as u64, &[7; 3000][..stamp * 100]))
        .collect();
    let file = instance.dir.path().join("snapshot.image");
    let report = segment.write_image(&file).unwrap();
    assert_eq!(report.image_bytes, segment.geometry().total_bytes());
    assert!(report.written_bytes < report.image_bytes);
    assert!(segment.write_image(&file).is_err(), "never overwritten");
    let image = SegmentView::open_image(&file).unwrap();
    assert_eq!(image.header(), segment.header());
    assert_eq!(image.shm_id(), None);
    for task in tasks {
        let of = |view: &SegmentView| view.read_task(task.slot()).unwrap();
        assert_eq!(of(&image), of(&segment));
        let record = of(&image).record;
        let mut out = [0; 3000];
        let count = image
            .load_blob(&record, Part::Payload, 0, &mut out)
            .unwrap();
        assert!(out[..count].iter().all(|&byte| byte == 7));
        assert_eq!(count as u64, record.payload.len());
    }
    let order = |view: &SegmentView| {
        view.heap(crate::segment::Heap::Task)
            .entries_in_order()
            .collect::<Vec<_>>()
    };
    assert_eq!(order(&image), order(&segment));
    let short = instance.dir.path().join("short.image");
    let bytes = std::fs::read(&file).unwrap();
    for length in [0, 100, 16 * 1024, bytes.len() - 1] {
        std::fs::write(&short, &bytes[..length]).unwrap();
        assert!(SegmentView::open_image(&short).is_err(), "{length}");
    }
    std::fs::write(&short, vec![b'x'; 1 << 16]).unwrap();
    assert!(matches!(
        SegmentView::open_image(&short),
        Err(AttachError::Header(_))
    ));
}

#[test]
fn spill_files_of_an_adopted_segment_count_and_lost_ones_do_not() {
    let instance = Instance::new("spilled");
    let (segment, _) = instance.start().unwrap();
    let bytes = vec![7; 100_000];
    let task = submit(&segment, 1, 1, &bytes);
    let lost = segment.spill().store(&bytes[..70_000]).unwrap();
    assert_eq!(segment.spill().used_bytes(), 170_000);
    segment.detach();
    let (segment, _) = instance.start().unwrap();
    assert_eq!(segment.spill().used_bytes(), 100_000);
    assert!(segment.spill().read_at(lost, 0, &mut [0]).is_err());
    let cancelled = segment.apply(
        task.slot(),
        segment.task(task.slot()).state(),
        crate::task::state::Event::Cancel,
    );
    segment.free_task(task.slot(), cancelled.unwrap()).unwrap();
    assert_eq!(segment.spill().used_bytes(), 0);
}
