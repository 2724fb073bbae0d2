//! The cold start of a named segment: filled before anybody may use it, whole or not at all.

use super::named::{Instance, scribble};
use super::submit;
use crate::id::{SlotIndex, TASKS_COUNT_MAX, TaskId};
use crate::layout::HeaderError;
use crate::region::sysv;
use crate::segment::{
    Adoption, AttachError, CreateError, Earlier, RestoreError, RestoredTask, Segment, SegmentSpec,
    SegmentView,
};
use crate::sync::Ordering;
use crate::task::state::Phase;
use crate::time::Now;

/// What a daemon's own error would be.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Create(#[from] CreateError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

fn id(slot: u32) -> TaskId {
    TaskId::new(40, SlotIndex::new_checked(slot, TASKS_COUNT_MAX).unwrap())
}

fn cold(instance: &Instance) -> SegmentSpec {
    SegmentSpec {
        gen_base: Some(1_000),
        first_stamp: 5_000,
        spill_id: Some(77),
        ..instance.spec()
    }
}

fn absent(instance: &Instance) -> Adoption {
    match Segment::adopt_named(&instance.spec(), instance.dir.path()).unwrap() {
        Earlier::None(adoption) => adoption,
        Earlier::Adopted(segment, adoption) => panic!("{adoption:?} {segment:?}"),
    }
}

fn is_there(instance: &Instance) -> bool {
    instance
        .keys()
        .into_iter()
        .any(|key| sysv::find(key).is_ok())
}

#[test]
fn nobody_can_use_a_segment_that_is_being_filled_and_all_of_it_is_there_afterwards() {
    let instance = Instance::new("cold-fill");
    assert_eq!(absent(&instance), Adoption::Created);
    let segment = Segment::create_named::<Problem>(&cold(&instance), |segment| {
        segment.restore_task(&RestoredTask {
            stamp: 4_999,
            ..RestoredTask::new(id(9))
        })?;
        let seen = SegmentView::attach_by_id(segment.shm_id().unwrap()).unwrap_err();
        let unready = matches!(seen, AttachError::Header(HeaderError::NotReady { .. }));
        assert!(unready, "{seen}");
        Ok(())
    })
    .unwrap();
    assert!(segment.now().stamp() > 5_000);
    assert_eq!(segment.ready().locate().map(|(leaf, _)| leaf), Some(9));
    assert_eq!(segment.last_rebuild().unwrap().tasks, 1);
    // What comes later stands behind it, and has an id that nobody had.
    let next = submit(&segment, 0, segment.now().stamp(), b"later");
    assert_eq!(next.generation(), 1_001);
    assert_eq!(segment.ready().locate().map(|(leaf, _)| leaf), Some(9));
    assert!(!segment.verify().broken());
    segment.detach();

    // And it is the truth for the next start.
    let (segment, adoption) = instance.start().unwrap();
    assert!(matches!(adoption, Adoption::Adopted { epoch: 2, .. }));
    assert_eq!(segment.state(id(9).slot()).phase(), Phase::Ready);
    assert!(segment.now().stamp() > 5_000);
    assert!(!segment.verify().broken());
}

#[test]
fn fill_that_fails_leaves_no_segment() {
    let instance = Instance::new("cold-fail");
    let refused = Segment::create_named::<Problem>(&cold(&instance), |segment| {
        segment.restore_task(&RestoredTask::new(id(9)))?;
        Ok(segment.restore_task(&RestoredTask::new(id(64)))?)
    });
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("segment_tasks"), "{text}");
    assert!(!is_there(&instance));
}

#[test]
fn segment_half_filled_by_a_killed_daemon_is_never_taken_for_the_truth() {
    let instance = Instance::new("cold-killed");
    let segment = Segment::create_named::<Problem>(&cold(&instance), |segment| {
        segment.restore_task(&RestoredTask::new(id(9)))?;
        Ok(())
    })
    .unwrap();
    // As it was before its maker published it; the maker has died since.
    let control = segment.view.parts.control();
    control
        .ready
        .store(crate::layout::control::BUILDING, Ordering::Relaxed);
    control
        .creator_pid
        .store(u64::from(u32::MAX) >> 1, Ordering::Relaxed);
    segment.detach();
    assert_eq!(absent(&instance), Adoption::Created);
    assert!(!is_there(&instance));
}

#[test]
fn segment_of_another_boot_is_put_aside_and_the_start_is_a_cold_one() {
    let instance = Instance::new("cold-boot");
    let (segment, _) = instance.start().unwrap();
    submit(&segment, 0, 1, b"of a boot that is over");
    let front = crate::segment::header::Front::of(segment.view.parts.mapping.clone()).unwrap();
    let mut header = segment.header().clone();
    header.boot_id = [1, 2];
    front.write(&header, segment.geometry());
    segment.detach();
    let Adoption::PutAside { file, why } = absent(&instance) else {
        panic!("a segment of another boot was not put aside");
    };
    assert!(why.contains("boot"), "{why}");
    assert!(!is_there(&instance));
    let image = SegmentView::open_image(&file).unwrap();
    assert_eq!(image.counters().gauge(Phase::Ready), 1);
}

#[test]
fn header_that_cannot_be_read_is_put_aside_with_the_reason() {
    let instance = Instance::new("cold-header");
    let (segment, _) = instance.start().unwrap();
    // Word 60 of both copies, under their checksums.
    scribble(&segment, &[(60, 1), (512 + 60, 1)]);
    segment.detach();
    let Adoption::PutAside { file, why } = absent(&instance) else {
        panic!("a damaged header was not put aside");
    };
    assert!(why.contains("checksum") && file.exists(), "{why}");
    let made = Segment::create_named::<Problem>(&cold(&instance), |_| Ok(())).unwrap();
    assert_eq!((made.high_water(), made.now() > Now::default()), (0, true));
}
