//! How long the steps of tasks took stands in the segment, also when the daemon is gone.

use qtf_daemon::config::RawConfig;
use qtf_proto::v1::*;
use qtf_shm::SegmentView;
use qtf_shm::histogram::Stage;

use crate::clock::Place;
use crate::support::{Peer, RawWorker, hello, noop, run, until};

fn counts(place: &Place) -> [u64; Stage::COUNT] {
    let uid = nix::unistd::geteuid().as_raw();
    let view = SegmentView::attach_by_instance(&place.name, uid).unwrap();
    Stage::ALL.map(|stage| view.stage(stage).unwrap().count())
}

#[test]
fn each_step_of_a_journal_task_is_counted_and_the_counts_outlive_the_daemon() {
    let place = Place::new("steps");
    // Nobody is taken for dead on a slow machine.
    let daemon = place.start_with(RawConfig {
        lease_ms: Some(60_000),
        ..place.raw()
    });
    run(async {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(3), 3).await;
        let (watch, mut ends) = peer.watch().await;
        for _ in 0..3 {
            let task_id = peer.submit(noop(b"work")).await.unwrap();
            let task = worker.assignments().await.remove(0).task.unwrap();
            assert_eq!(
                worker.finish(task, b"done").await,
                ResultDisposition::Recorded
            );
            let request = WatchRequest {
                watch: vec![task_id],
                ..WatchRequest::default()
            };
            watch.send(request).await.unwrap();
            let end = ends.message().await.unwrap().unwrap().ends.remove(0);
            assert_eq!((end.task_id, end.state()), (task_id, TaskState::Done));
            let request = WatchRequest {
                acknowledge: vec![task_id],
                ..WatchRequest::default()
            };
            watch.send(request).await.unwrap();
            until(|| async { peer.clone().state(task_id).await == TaskState::Unspecified }).await;
        }
    });
    let [admit, wait, decide, dispatch, run, result, deliver, sync] = counts(&place);
    assert_eq!([admit, wait, run, result, deliver], [3; 5]);
    assert_eq!(dispatch, 0, "the worker does not say that it begins");
    // Submission and outcome of each are told when they are durable, so each has a group of its own.
    assert!(sync >= 6, "{sync}");
    assert!(decide >= 3, "{decide}");
    daemon.stop().unwrap();
    let after = counts(&place);
    assert_eq!(after[..2], [3, 3]);
}
