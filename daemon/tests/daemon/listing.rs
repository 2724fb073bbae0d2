//! Lists and looks: tasks by state, owner and array, and what the daemon says of itself.

use qtf_proto::refusal::refusal_of;
use qtf_proto::v1::*;

use crate::support::{Peer, noop, on_both, small};

async fn list(peer: &mut Peer, request: ListTasksRequest) -> Vec<TaskInfo> {
    let mut stream = peer.plm.list_tasks(request).await.unwrap().into_inner();
    let mut tasks = Vec::new();
    while let Some(response) = stream.message().await.unwrap() {
        tasks.extend(response.tasks);
    }
    tasks
}

#[test]
fn list_keeps_to_its_filters() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut ids = Vec::new();
        for number in 0..300_u32 {
            let task = TaskSpec {
                priority: Some(number % 256),
                ..noop(b"payload")
            };
            ids.push(peer.submit(task).await.unwrap());
        }
        let selection = TaskSelection {
            task_ids: ids[..10].to_vec(),
            ..Default::default()
        };
        peer.plm.cancel_tasks(selection).await.unwrap();
        assert_eq!(
            list(&mut peer, ListTasksRequest::default()).await.len(),
            300
        );
        let states = vec![TaskState::Cancelled.into()];
        let cancelled = list(
            &mut peer,
            ListTasksRequest {
                states,
                ..Default::default()
            },
        )
        .await;
        assert_eq!(cancelled.len(), 10);
        assert_eq!(&cancelled[0].payload_preview[..], b"payload");
        let request = ListTasksRequest {
            limit: 7,
            without_preview: true,
            ..Default::default()
        };
        let few = list(&mut peer, request).await;
        assert_eq!(few.len(), 7);
        assert!(few[0].payload_preview.is_empty());
    });
}

#[test]
fn unknown_and_stale_tasks_are_told_apart() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let task_id = peer.submit(noop(b"")).await.unwrap();
        let plm = peer.plm.clone();
        let reason_of = async |task_id| {
            let mut plm = plm.clone();
            let status = plm.get_task(GetTaskRequest { task_id }).await.unwrap_err();
            (status.code(), refusal_of(&status).unwrap().reason())
        };
        let not_found = tonic::Code::NotFound;
        assert_eq!(
            reason_of(u64::MAX).await,
            (not_found, RefusalReason::UnknownTask)
        );
        let not_yet = task_id + (1 << 24);
        assert_eq!(
            reason_of(not_yet).await,
            (not_found, RefusalReason::UnknownTask)
        );
        // Tasks go on through the slots until one lies in the first task's slot again.
        let mut peer = Peer::new(&daemon).await;
        let mut next = task_id;
        while next == task_id || next & 0xFF_FFFF != task_id & 0xFF_FFFF {
            let selection = |id| TaskSelection {
                task_ids: vec![id],
                ..TaskSelection::default()
            };
            peer.plm.cancel_tasks(selection(next)).await.unwrap();
            peer.plm.forget_tasks(selection(next)).await.unwrap();
            next = peer.submit(noop(b"")).await.unwrap();
        }
        assert_eq!(
            reason_of(task_id).await,
            (not_found, RefusalReason::StaleTask)
        );
    });
}

#[test]
fn output_of_an_unfinished_task_is_refused_by_its_state() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let task_id = peer.submit(noop(b"")).await.unwrap();
        let status = peer
            .plm
            .fetch_output(FetchOutputRequest { task_id })
            .await
            .unwrap_err();
        assert_eq!(
            refusal_of(&status).unwrap().reason(),
            RefusalReason::WrongState
        );
    });
}

#[test]
fn priority_of_a_waiting_task_is_changed() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let task_id = peer.submit(noop(b"")).await.unwrap();
        let request = UpdateTasksRequest {
            session: 0,
            task_ids: vec![task_id],
            priority: 200,
        };
        let verdicts = peer
            .plm
            .update_tasks(request)
            .await
            .unwrap()
            .into_inner()
            .verdicts;
        assert_eq!(verdicts[0].refusal, None);
        let info = peer
            .plm
            .get_task(GetTaskRequest { task_id })
            .await
            .unwrap()
            .into_inner();
        assert_eq!(info.priority, 200);
    });
}

#[test]
fn daemon_says_what_it_is() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let info = peer
            .admin
            .get_info(GetInfoRequest {})
            .await
            .unwrap()
            .into_inner();
        assert_eq!(info.pid, std::process::id());
        assert_eq!(info.network_backend, daemon.info().network);
        assert_eq!((info.private_segment, info.core), (true, -1));
        assert!(info.task_slots >= 1_000);
        peer.submit(noop(b"")).await.unwrap();
        let info = peer
            .admin
            .get_info(GetInfoRequest {})
            .await
            .unwrap()
            .into_inner();
        let waiting: u64 = info
            .tasks_by_state
            .iter()
            .filter(|state| ["ready", "blocked"].contains(&state.name.as_str()))
            .map(|state| state.value)
            .sum();
        assert_eq!(waiting, 1);
    });
}
