//! Watching: ends are told once, at once for those that have ended, and slow readers cost nothing.

use qtf_proto::v1::*;

use crate::support::{Peer, RawWorker, hello, noop, on_both, small, stdout, until};

#[test]
fn end_that_was_before_the_watch_is_told_at_once() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let task_id = peer.submit(noop(b"")).await.unwrap();
        let selection = TaskSelection {
            task_ids: vec![task_id],
            ..TaskSelection::default()
        };
        peer.plm.cancel_tasks(selection).await.unwrap();
        let (watch, mut ends) = peer.watch().await;
        let request = WatchRequest {
            watch: vec![task_id, 5, u64::MAX],
            ..Default::default()
        };
        watch.send(request).await.unwrap();
        let mut told = Vec::new();
        while told.len() < 3 {
            told.extend(ends.message().await.unwrap().unwrap().ends);
        }
        told.sort_by_key(|end| end.task_id != task_id);
        assert_eq!(told[0].state(), TaskState::Cancelled);
        assert!(told[1].refusal.is_some() && told[2].refusal.is_some());
        drop(watch);
        assert!(
            ends.message().await.unwrap().is_none(),
            "nothing to come: the stream ends"
        );
    });
}

#[test]
fn reader_that_does_not_read_gets_every_end_later() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(10), 10).await;
        let (watch, mut ends) = peer.watch().await;
        let mut ids = Vec::new();
        for _ in 0..60 {
            ids.push(peer.submit(noop(b"")).await.unwrap());
        }
        let request = WatchRequest {
            watch: ids.clone(),
            with_output: true,
            ..WatchRequest::default()
        };
        watch.send(request).await.unwrap();
        let printed = vec![9; 60_000];
        let output = stdout(&printed);
        let mut finished = 0;
        while finished < ids.len() {
            for assignment in worker.assignments().await {
                worker.finish(assignment.task.unwrap(), &printed).await;
                let grant = DispatchRequest {
                    credits: 1,
                    ..DispatchRequest::default()
                };
                worker.grants.send(grant).await.unwrap();
                finished += 1;
            }
        }
        // 3.6 MB of outputs wait for us now; none of it is queued but the ids.
        let (mut told, mut with_output) = (Vec::new(), 0);
        while told.len() < ids.len() {
            for end in ends.message().await.unwrap().unwrap().ends {
                assert_eq!(end.output_bytes, output.len() as u64);
                // What the segment had no room for lies in a file, and is fetched.
                assert!(end.output.is_empty() || end.output.len() == output.len());
                with_output += usize::from(!end.output.is_empty());
                told.push(end.task_id);
            }
        }
        assert!(with_output > 10, "{with_output}");
        told.sort_unstable();
        ids.sort_unstable();
        assert_eq!(told, ids);
    });
}

#[test]
fn task_without_result_is_told_though_its_slot_is_free_already() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let task = TaskSpec {
            discard_result: true,
            ..noop(b"")
        };
        let task_id = peer.submit(task).await.unwrap();
        let (watch, mut ends) = peer.watch().await;
        watch
            .send(WatchRequest {
                watch: vec![task_id],
                ..Default::default()
            })
            .await
            .unwrap();
        let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
        let assignment = worker.assignments().await.remove(0);
        assert!(assignment.discard_result);
        worker.finish(assignment.task.unwrap(), b"").await;
        let end = ends.message().await.unwrap().unwrap().ends.remove(0);
        assert_eq!((end.task_id, end.state()), (task_id, TaskState::Done));
        assert_eq!(end.outcome.unwrap().kind(), OutcomeKind::Exited);
        until(|| async { peer.clone().state(task_id).await == TaskState::Unspecified }).await;
    });
}
