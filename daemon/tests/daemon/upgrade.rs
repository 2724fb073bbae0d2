//! A segment that a daemon of layout 2.0 has left: its memory tasks are there, and go on.
//!
//! The segment is the committed image of that layout, in which a daemon and local processes were killed.

use std::path::Path;

use qtf_proto::v1::TaskState;
use qtf_shm::segment::leave_segment_of_before;
use qtf_shm::{Phase, SegmentView, TaskId};

use crate::process::Home;
use crate::support::{noop, run};

/// As `shm/src/segment/tests/committed/sparse.rs` packs it: bytes of the whole, then runs of words.
fn image() -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shm/src/segment/tests/committed");
    let packed = std::fs::read(folder.join("layout-2.0.words")).unwrap();
    let number = |at: usize| u32::from_le_bytes(packed[at..at + 4].try_into().unwrap()) as usize;
    let mut image = vec![0; number(0)];
    let mut at = 8;
    while at < packed.len() {
        let (first, bytes) = (number(at) * 8, number(at + 4) * 8);
        at += 8;
        image[first..first + bytes].copy_from_slice(&packed[at..at + bytes]);
        at += bytes;
    }
    image
}

fn waiting(instance: &str) -> Vec<TaskId> {
    let uid = nix::unistd::geteuid().as_raw();
    let view = SegmentView::attach_by_instance(instance, uid).unwrap();
    let slots = view.allocated_slots(0..u32::MAX);
    let ready = slots.filter_map(|slot| {
        let state = view.state(slot);
        matches!(state.phase(), Phase::Ready | Phase::Blocked).then(|| state.id(slot))?
    });
    ready.collect()
}

#[test]
fn memory_tasks_of_the_layout_before_survive_the_upgrade_and_every_restart_after_it() {
    let home = Home::new("upgrade");
    leave_segment_of_before(&home.name, &image()).unwrap();
    let mut daemon = home.serving(&[]);
    assert!(daemon.has_said("the segment was of layout 2.0"));
    let tasks = waiting(&home.name);
    assert!(tasks.len() > 5, "{tasks:?}");
    let are_there = || {
        run(async {
            let mut peer = home.connect().await;
            for task in &tasks {
                let state = peer.state(task.as_raw()).await;
                assert!(
                    matches!(state, TaskState::Ready | TaskState::Blocked),
                    "{task} {state:?}"
                );
            }
            peer.submit(noop(b"new")).await.unwrap();
        });
    };
    are_there();
    daemon.kill();
    let mut daemon = home.serving(&[]);
    assert!(!daemon.has_said("the segment was of layout"));
    are_there();
    assert_eq!(daemon.stop(), Some(0));
}
