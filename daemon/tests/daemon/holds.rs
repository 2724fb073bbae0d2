//! Held tasks through a real `qtfd`: not handed out, whoever asks for work, also after a kill with the segment and without it.

use qtf_proto::v1::*;

use crate::process::{Home, Qtfd};
use crate::support::{Peer, RawWorker, hello, noop, on_both, run, small};

fn selection(task_ids: &[u64]) -> TaskSelection {
    TaskSelection {
        task_ids: task_ids.to_vec(),
        reason: "a test".to_owned(),
        ..TaskSelection::default()
    }
}

async fn hold(peer: &mut Peer, task_ids: &[u64]) -> Vec<TaskVerdict> {
    let answer = peer.plm.hold_tasks(selection(task_ids)).await.unwrap();
    answer.into_inner().verdicts
}

async fn release(peer: &mut Peer, task_ids: &[u64]) -> Vec<TaskVerdict> {
    let answer = peer.plm.release_tasks(selection(task_ids)).await.unwrap();
    answer.into_inner().verdicts
}

fn states(verdicts: &[TaskVerdict]) -> Vec<TaskState> {
    verdicts.iter().map(TaskVerdict::state).collect()
}

async fn submit_held(peer: &mut Peer) -> u64 {
    let held = TaskSpec {
        hold: true,
        ..noop(b"held")
    };
    peer.submit(held).await.unwrap()
}

#[test]
fn each_id_of_a_batch_is_answered_and_asking_again_is_the_same() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let waiting = peer.submit(noop(b"x")).await.unwrap();
        let submitted_held = submit_held(&mut peer).await;
        let unknown = (1 << 58) | 7;
        for _ in 0..2 {
            let verdicts = hold(&mut peer, &[waiting, unknown, submitted_held]).await;
            let [one, two, three] = &verdicts[..] else {
                panic!("{verdicts:?}");
            };
            assert_eq!(
                (one.state(), three.state()),
                (TaskState::Held, TaskState::Held)
            );
            let refusal = two.refusal.clone().unwrap();
            assert_eq!(refusal.reason(), RefusalReason::UnknownTask);
        }
        let request = GetTaskRequest { task_id: waiting };
        let info = peer.plm.get_task(request).await.unwrap().into_inner();
        assert_eq!(
            (info.state(), &*info.blocked_on),
            (TaskState::Held, "its release")
        );
        let info = peer.admin.get_info(GetInfoRequest {}).await.unwrap();
        let counts = info.into_inner().tasks_by_state;
        let held = counts.iter().find(|state| state.name == "held").unwrap();
        assert_eq!(held.value, 2);
        let too_many = peer.plm.hold_tasks(selection(&[waiting; 1025])).await;
        assert_eq!(too_many.unwrap_err().code(), tonic::Code::InvalidArgument);
        let mut worker = RawWorker::join(&mut peer, hello(2), 2).await;
        for _ in 0..2 {
            let verdicts = release(&mut peer, &[waiting]).await;
            assert_eq!(verdicts[0].refusal, None);
        }
        let got = worker.assignments().await.remove(0).task.unwrap();
        assert_eq!(got.task_id, waiting);
        let verdicts = hold(&mut peer, &[waiting]).await;
        let refusal = verdicts[0].refusal.clone().unwrap();
        assert_eq!(refusal.reason(), RefusalReason::WrongState);
        worker.finish(got, b"out").await;
        assert_eq!(peer.state(submitted_held).await, TaskState::Held);
        let cancelled = peer.plm.cancel_tasks(selection(&[submitted_held])).await;
        let cancelled = cancelled.unwrap().into_inner().verdicts;
        assert_eq!(states(&cancelled), [TaskState::Cancelled]);
    });
}

/// Tasks that were held before a kill are held after it, and a worker gets the others only.
fn stays_held(home: &Home, arguments: &[&str], held: &[u64], free: u64) -> Qtfd {
    let daemon = home.serving(arguments);
    run(async {
        let mut peer = home.connect().await;
        for &id in held {
            assert_eq!(peer.state(id).await, TaskState::Held);
        }
        let mut worker = RawWorker::join(&mut peer, hello(4), 4).await;
        let mut got = Vec::new();
        while !got.contains(&free) {
            let assigned = worker.assignments().await;
            got.extend(
                assigned
                    .iter()
                    .filter_map(|one| one.task)
                    .map(|one| one.task_id),
            );
        }
        assert_eq!(got, [free], "nothing else");
        for &id in held {
            assert_eq!(peer.state(id).await, TaskState::Held);
        }
    });
    daemon
}

#[test]
fn held_tasks_are_held_after_a_kill_with_the_segment_and_without_it() {
    let home = Home::new("holds");
    home.configure("segment_bytes = 33554432\njournal_file_bytes = 524288\n");
    let data = home.data();
    let arguments = ["--data-dir", data.to_str().unwrap()];
    let daemon = home.serving(&arguments);
    let (held, free) = run(async {
        let mut peer = home.connect().await;
        let waiting = peer.submit(noop(b"x")).await.unwrap();
        let later = TaskSpec {
            delay_ms: 1,
            ..noop(b"later")
        };
        let later = peer.submit(later).await.unwrap();
        let held = [waiting, later, submit_held(&mut peer).await];
        let free = peer.submit(noop(b"free")).await.unwrap();
        for verdict in hold(&mut peer, &held).await {
            assert_eq!((verdict.state(), verdict.refusal), (TaskState::Held, None));
        }
        let verdicts = hold(&mut peer, &[free]).await;
        assert_eq!(states(&verdicts), [TaskState::Held]);
        release(&mut peer, &[free]).await;
        (held, free)
    });
    daemon.kill();
    let daemon = stays_held(&home, &arguments, &held, free);
    daemon.kill();
    home.lose_segment();
    let daemon = stays_held(&home, &arguments, &held, free);
    run(async {
        let mut peer = home.connect().await;
        let released = states(&release(&mut peer, &held).await);
        assert!(!released.contains(&TaskState::Held), "{released:?}");
    });
    assert_eq!(daemon.stop(), Some(0));
}
