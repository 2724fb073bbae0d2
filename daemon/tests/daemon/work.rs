//! Workers without streams: Reserve, Touch, Finish, Release.

use qtf_proto::refusal;
use qtf_proto::v1::work_client::WorkClient;
use qtf_proto::v1::*;
use tonic::Code;
use tonic::transport::Channel;

use crate::support::{Peer, RawWorker, connect, hello, noop, on_both, small, until};

fn ask(name: &str) -> ReserveRequest {
    ReserveRequest {
        name: name.into(),
        host: "here".into(),
        kinds: vec!["noop".into()],
        wait_ms: 20_000,
        lease_ms: 30_000,
        ..ReserveRequest::default()
    }
}

/// Of a caller that does not say where it is.
fn ask_from_anywhere(name: &str) -> ReserveRequest {
    ReserveRequest {
        host: String::new(),
        ..ask(name)
    }
}

async fn reserve(work: &mut WorkClient<Channel>, request: ReserveRequest) -> Vec<ReservedTask> {
    work.reserve(request).await.unwrap().into_inner().tasks
}

fn done(token: &str) -> FinishRequest {
    FinishRequest {
        attempt_token: token.into(),
        outcome: Some(Outcome {
            kind: OutcomeKind::Exited.into(),
            ..Outcome::default()
        }),
        output: Some(TaskOutput {
            stdout: b"printed".as_slice().into(),
            ..TaskOutput::default()
        }),
        ..FinishRequest::default()
    }
}

async fn finish(work: &mut WorkClient<Channel>, token: &str) -> ResultDisposition {
    let answer = work.finish(done(token)).await.unwrap();
    answer.into_inner().disposition()
}

async fn touch(work: &mut WorkClient<Channel>, token: &str, lease_ms: u64) -> StopReason {
    let request = TouchRequest {
        attempt_tokens: vec![token.into()],
        lease_ms,
    };
    let answer = work.touch(request).await.unwrap().into_inner();
    answer.stops().next().unwrap()
}

#[test]
fn task_is_reserved_touched_and_finished_by_single_calls_and_its_worker_stands_in_the_list() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut work = WorkClient::new(connect(&daemon).await);
        let task_id = peer.submit(noop(b"payload")).await.unwrap();
        let got = reserve(&mut work, ask_from_anywhere("cron"))
            .await
            .remove(0);
        let task = got.task.unwrap();
        assert_eq!((task.task_id, task.attempt), (task_id, 1));
        assert_eq!(
            (got.kind.as_str(), &got.payload[..]),
            ("noop", &b"payload"[..])
        );
        assert_eq!(peer.state(task_id).await, TaskState::Running);
        let list = peer.admin.list_workers(ListWorkersRequest {}).await;
        let worker = list.unwrap().into_inner().workers.remove(0);
        assert_eq!((worker.name.as_str(), worker.running), ("cron", 1));
        assert_eq!((worker.kinds, worker.state), (vec!["noop".to_owned()], 1));
        assert!(!worker.address.is_empty() && worker.calls);
        let here = nix::unistd::gethostname().unwrap();
        assert_eq!(worker.host, here.to_str().unwrap(), "nobody said where");
        let token = &got.attempt_token;
        assert_eq!(touch(&mut work, token, 0).await, StopReason::Unspecified);
        assert_eq!(finish(&mut work, token).await, ResultDisposition::Recorded);
        assert_eq!(
            finish(&mut work, token).await,
            ResultDisposition::AlreadyRecorded
        );
        assert_eq!(peer.state(task_id).await, TaskState::Done);
        assert_eq!(touch(&mut work, token, 0).await, StopReason::Stale);
    });
}

#[test]
fn call_waits_for_a_task_and_one_that_is_broken_off_gives_its_own_back_unharmed() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut work = WorkClient::new(connect(&daemon).await);
        let none = reserve(
            &mut work,
            ReserveRequest {
                wait_ms: 0,
                ..ask("cron")
            },
        )
        .await;
        assert_eq!(none, []);
        let mut waiting = work.clone();
        let call = tokio::spawn(async move { reserve(&mut waiting, ask("cron")).await });
        let credits = async |peer: &Peer| {
            let mut admin = peer.admin.clone();
            let list = admin.list_workers(ListWorkersRequest {}).await.unwrap();
            list.into_inner()
                .workers
                .iter()
                .map(|worker| worker.credits)
                .sum::<u32>()
        };
        until(async || credits(&peer).await == 1).await;
        let task_id = peer.submit(noop(b"")).await.unwrap();
        let got = call.await.unwrap().remove(0);
        assert_eq!(got.task.unwrap().task_id, task_id);

        let mut waiting = work.clone();
        let call = tokio::spawn(async move { reserve(&mut waiting, ask("cron")).await });
        until(async || credits(&peer).await == 1).await;
        call.abort();
        until(async || credits(&peer).await == 0).await;
        let next = peer.submit(noop(b"")).await.unwrap();
        let got = reserve(&mut work, ask("cron")).await.remove(0);
        assert_eq!(got.task.unwrap().task_id, next);
        let info = peer.plm.get_task(GetTaskRequest { task_id: next }).await;
        let info = info.unwrap().into_inner();
        assert_eq!((info.failures, info.losses), (0, 0));
    });
}

#[test]
fn attempt_whose_lease_is_over_counts_as_lost_and_its_late_end_and_touch_are_stale() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut work = WorkClient::new(connect(&daemon).await);
        let task_id = peer.submit(noop(b"")).await.unwrap();
        let request = ReserveRequest {
            lease_ms: 100,
            ..ask("cron")
        };
        let lost = reserve(&mut work, request).await.remove(0).attempt_token;
        let got = reserve(&mut work, ask("other")).await.remove(0);
        let task = got.task.unwrap();
        assert_eq!((task.task_id, task.attempt), (task_id, 2));
        assert_eq!(finish(&mut work, &lost).await, ResultDisposition::Stale);
        assert_eq!(touch(&mut work, &lost, 0).await, StopReason::Stale);
        let info = peer.plm.get_task(GetTaskRequest { task_id }).await;
        assert_eq!(info.unwrap().into_inner().losses, 1);
        assert_eq!(peer.counter("attempt_lease_over").await, 1);
        assert_eq!(
            finish(&mut work, &got.attempt_token).await,
            ResultDisposition::Recorded
        );
    });
}

#[test]
fn attempt_that_is_released_waits_with_its_reason_and_one_that_is_cancelled_is_told_so() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut work = WorkClient::new(connect(&daemon).await);
        let task_id = peer.submit(noop(b"")).await.unwrap();
        let token = reserve(&mut work, ask("cron"))
            .await
            .remove(0)
            .attempt_token;
        let release = |delay_ms| ReleaseRequest {
            attempt_token: token.clone(),
            delay_ms,
            reason: "the bank is closed".into(),
        };
        let refused = work.release(release(2_592_000_001)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        let released = work.release(release(3_600_000)).await.unwrap().into_inner();
        assert_eq!(released.disposition(), ResultDisposition::Recorded);
        let info = peer.plm.get_task(GetTaskRequest { task_id }).await;
        let info = info.unwrap().into_inner();
        assert_eq!(info.state(), TaskState::Delayed);
        assert_eq!(info.again_reason, "the bank is closed");
        assert_eq!((info.failures, info.losses), (0, 0));

        let task_id = peer.submit(noop(b"")).await.unwrap();
        let token = reserve(&mut work, ask("cron"))
            .await
            .remove(0)
            .attempt_token;
        let selection = TaskSelection {
            task_ids: vec![task_id],
            ..TaskSelection::default()
        };
        peer.plm.cancel_tasks(selection).await.unwrap();
        assert_eq!(touch(&mut work, &token, 0).await, StopReason::Cancelled);
    });
}

#[test]
fn repeated_call_with_its_number_is_given_the_same_task_again() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut work = WorkClient::new(connect(&daemon).await);
        for _ in 0..2 {
            peer.submit(noop(b"x")).await.unwrap();
        }
        let request = ReserveRequest {
            request_id: 7,
            ..ask("cron")
        };
        let first = reserve(&mut work, request.clone()).await;
        let again = reserve(&mut work, request.clone()).await;
        assert_eq!(again, first);
        let other = reserve(
            &mut work,
            ReserveRequest {
                request_id: 8,
                ..request
            },
        )
        .await;
        assert_ne!(other[0].task, first[0].task);
    });
}

#[test]
fn count_and_payloads_bound_an_answer_and_what_it_does_not_hold_goes_back() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut work = WorkClient::new(connect(&daemon).await);
        for _ in 0..4 {
            peer.submit(noop(&vec![7; 40_000])).await.unwrap();
        }
        let request = ReserveRequest {
            count: 3,
            ..ask("cron")
        };
        let got = reserve(&mut work, request).await;
        assert_eq!(got.len(), 2, "64 KiB and the one that goes beyond");
        let rest = reserve(
            &mut work,
            ReserveRequest {
                count: 1,
                ..ask("cron")
            },
        )
        .await;
        assert_eq!((rest.len(), rest[0].payload.len()), (1, 40_000));
    });
}

#[test]
fn large_payloads_and_outputs_go_the_same_ways_as_those_of_other_workers() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut work = WorkClient::new(connect(&daemon).await);
        let chunks = [UploadChunk {
            session: 0,
            total_bytes: 100_000,
            data: vec![7; 100_000].into(),
        }];
        let receipt = peer.plm.upload_payload(tokio_stream::iter(chunks)).await;
        let spec = TaskSpec {
            payload_upload: receipt.unwrap().into_inner().upload,
            ..noop(b"")
        };
        let task_id = peer.submit(spec).await.unwrap();
        let answer = work.reserve(ask("cron")).await.unwrap().into_inner();
        let got = &answer.tasks[0];
        assert_eq!((got.payload.len(), got.payload_bytes), (0, 100_000));
        let fetch = FetchPayloadRequest {
            worker_id: answer.worker_id,
            token: answer.worker_token,
            task: got.task,
        };
        let mut payload = peer
            .scheduler
            .fetch_payload(fetch)
            .await
            .unwrap()
            .into_inner();
        let mut bytes = 0;
        while let Some(chunk) = payload.message().await.unwrap() {
            bytes += chunk.data.len();
        }
        assert_eq!(bytes, 100_000);
        let chunks = [UploadChunk {
            session: answer.worker_token,
            total_bytes: 100_000,
            data: crate::support::stdout(&vec![8; 99_996]),
        }];
        let receipt = peer
            .register
            .upload_output(tokio_stream::iter(chunks))
            .await;
        let request = FinishRequest {
            output: None,
            output_upload: receipt.unwrap().into_inner().upload,
            ..done(&got.attempt_token)
        };
        let told = work.finish(request).await.unwrap().into_inner();
        assert_eq!(told.disposition(), ResultDisposition::Recorded);
        let info = peer.plm.get_task(GetTaskRequest { task_id }).await;
        assert_eq!(info.unwrap().into_inner().output_bytes, 100_000);
    });
}

#[test]
fn call_out_of_range_is_refused_by_the_name_of_its_field() {
    on_both(&small(), |daemon| async move {
        let mut work = WorkClient::new(connect(&daemon).await);
        let wrong = [
            (
                ReserveRequest {
                    count: 1_025,
                    ..ask("a")
                },
                "count is 1025",
            ),
            (
                ReserveRequest {
                    wait_ms: 20_001,
                    ..ask("a")
                },
                "wait_ms is 20001",
            ),
            (
                ReserveRequest {
                    lease_ms: 99,
                    ..ask("a")
                },
                "lease_ms is 99",
            ),
            (
                ReserveRequest {
                    name: String::new(),
                    ..ask("a")
                },
                "name must have",
            ),
            (
                ReserveRequest {
                    kinds: vec![],
                    ..ask("a")
                },
                "number of kinds is 0",
            ),
        ];
        for (request, text) in wrong {
            let refused = work.reserve(request).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
            assert!(refused.message().contains(text), "{refused}");
        }
        let refused = work.finish(done("nonsense")).await.unwrap_err();
        assert!(refused.message().contains("attempt_token"), "{refused}");
        let stranger = done("3001.7.1000000.1");
        let told = work.finish(stranger).await.unwrap().into_inner();
        assert_eq!(told.disposition(), ResultDisposition::Stale);
    });
}

#[test]
fn end_without_an_outcome_is_refused_and_the_attempt_stays_its_callers() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut work = WorkClient::new(connect(&daemon).await);
        peer.submit(noop(b"")).await.unwrap();
        let token = reserve(&mut work, ask("cron"))
            .await
            .remove(0)
            .attempt_token;
        let request = FinishRequest {
            outcome: None,
            ..done(&token)
        };
        let refused = work.finish(request).await.unwrap_err();
        assert!(
            refused.message().contains("outcome is missing"),
            "{refused}"
        );
        assert_eq!(finish(&mut work, &token).await, ResultDisposition::Recorded);
    });
}

#[test]
fn worker_that_is_drained_hears_so_while_it_waits_and_when_it_calls_again() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut work = WorkClient::new(connect(&daemon).await);
        let mut waiting = work.clone();
        let call = tokio::spawn(async move { waiting.reserve(ask("cron")).await });
        let workers = async |peer: &Peer| {
            let mut admin = peer.admin.clone();
            let list = admin.list_workers(ListWorkersRequest {}).await.unwrap();
            list.into_inner().workers
        };
        until(async || workers(&peer).await.len() == 1).await;
        let request = DrainWorkerRequest {
            worker_id: workers(&peer).await[0].worker_id,
            reason: "maintenance".into(),
        };
        peer.admin.drain_worker(request).await.unwrap();
        let answer = call.await.unwrap().unwrap().into_inner();
        assert!(answer.drain && answer.tasks.is_empty());
        assert!(work.reserve(ask("cron")).await.unwrap().into_inner().drain);
    });
}

#[test]
fn call_that_waits_ends_with_the_daemon_and_others_are_placed_beside_it() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut streams = RawWorker::join(&mut peer, hello(1), 1).await;
        let work = WorkClient::new(connect(&daemon).await);
        let mut waiting = work.clone();
        let call = tokio::spawn(async move { waiting.reserve(ask("cron")).await });
        let both = async |peer: &Peer| {
            let mut admin = peer.admin.clone();
            let list = admin.list_workers(ListWorkersRequest {}).await.unwrap();
            list.into_inner().workers.len() == 2
        };
        until(async || both(&peer).await).await;
        peer.submit(noop(b"")).await.unwrap();
        peer.submit(noop(b"")).await.unwrap();
        assert_eq!(streams.assignments().await.len(), 1);
        assert_eq!(call.await.unwrap().unwrap().into_inner().tasks.len(), 1);
        let mut waiting = work.clone();
        let request = ReserveRequest {
            kinds: vec!["echo".into()],
            ..ask("late")
        };
        let call = tokio::spawn(async move { waiting.reserve(request).await });
        until(async || {
            let mut admin = peer.admin.clone();
            let list = admin.list_workers(ListWorkersRequest {}).await.unwrap();
            list.into_inner().workers.len() == 3
        })
        .await;
        drop(streams);
        let stopped = tokio::task::spawn_blocking(move || daemon.stop());
        stopped.await.unwrap().unwrap();
        let refused = call.await.unwrap().unwrap_err();
        let reason = refusal::refusal_of(&refused).map(|refusal| refusal.reason());
        assert!(
            reason == Some(RefusalReason::Stopping) || refused.code() == Code::Unavailable,
            "{refused}"
        );
    });
}
