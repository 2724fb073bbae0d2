//! What goes together in one message: verdicts and the next task, credits and results, answers and ends.

use std::collections::HashSet;

use qtf_proto::v1::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::support::{Peer, RawWorker, hello, noop, on_both, small, stdout};

fn ended(task: Option<TaskRef>) -> TaskResult {
    TaskResult {
        task,
        outcome: Some(Outcome {
            kind: OutcomeKind::Exited.into(),
            ..Outcome::default()
        }),
        output: stdout(b"out"),
        ..TaskResult::default()
    }
}

/// Submits a task, and waits until the worker has it.
async fn assigned(peer: &mut Peer, worker: &mut RawWorker) -> Option<TaskRef> {
    peer.submit(noop(b"")).await.unwrap();
    worker.assignments().await.remove(0).task
}

#[test]
fn credits_of_a_report_count_and_its_verdicts_go_by_its_number_with_the_task_that_they_bring() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
        assert!(worker.welcome.credits_in_reports);
        let first = assigned(&mut peer, &mut worker).await;
        let waits = peer.submit(noop(b"")).await.unwrap();
        let report = WorkerReport {
            results: vec![ended(first)],
            credits: 1,
            number: 7,
            ..WorkerReport::default()
        };
        worker.reports.send(report).await.unwrap();
        let message = worker.orders.message().await.unwrap().unwrap();
        assert_eq!(message.assignments[0].task.unwrap().task_id, waits);
        assert_eq!((message.recorded, message.verdicts), (vec![7], vec![]));
    });
}

#[test]
fn verdicts_of_a_numbered_report_come_alone_when_no_task_follows() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(2), 2).await;
        for number in [3, 4] {
            let task = assigned(&mut peer, &mut worker).await;
            let report = WorkerReport {
                results: vec![ended(task)],
                number,
                ..WorkerReport::default()
            };
            worker.reports.send(report).await.unwrap();
            let notice = worker.notices.message().await.unwrap().unwrap();
            assert_eq!((notice.recorded, notice.verdicts), (vec![number], vec![]));
        }
    });
}

#[test]
fn report_with_a_result_that_is_not_recorded_is_answered_result_by_result() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(3), 3).await;
        let first = assigned(&mut peer, &mut worker).await;
        let second = assigned(&mut peer, &mut worker).await;
        let no_end = TaskResult {
            outcome: None,
            ..ended(second)
        };
        let stale = first.map(|task| TaskRef { attempt: 9, ..task });
        let report = WorkerReport {
            results: vec![ended(first), no_end, ended(stale), ended(second)],
            number: 1,
            ..WorkerReport::default()
        };
        worker.reports.send(report).await.unwrap();
        let mut told = Vec::new();
        while told.len() < 4 {
            let notice = worker.notices.message().await.unwrap().unwrap();
            assert!(notice.recorded.is_empty());
            told.extend(notice.verdicts);
        }
        for (task, disposition) in [
            (first, ResultDisposition::Recorded),
            (second, ResultDisposition::Refused),
            (stale, ResultDisposition::Stale),
            (second, ResultDisposition::Recorded),
        ] {
            let place = told
                .iter()
                .position(|verdict| (verdict.task, verdict.disposition()) == (task, disposition));
            told.remove(place.unwrap_or_else(|| panic!("{disposition:?} of {task:?}: {told:?}")));
        }
    });
}

struct Submitting {
    batches: mpsc::Sender<SubmitStreamRequest>,
    answers: Streaming<SubmitStreamResponse>,
}

impl Submitting {
    async fn open(peer: &mut Peer) -> Self {
        let (batches, requests) = mpsc::channel(64);
        let call = peer.plm.submit_stream(ReceiverStream::new(requests));
        let answers = call.await.unwrap().into_inner();
        Self { batches, answers }
    }

    async fn watched(&self, batch: u64, tasks: Vec<TaskSpec>) {
        let request = SubmitStreamRequest {
            batch,
            tasks,
            watch: true,
            with_output: true,
            ..SubmitStreamRequest::default()
        };
        self.batches.send(request).await.unwrap();
    }

    async fn message(&mut self) -> SubmitStreamResponse {
        self.answers.message().await.unwrap().unwrap()
    }
}

#[test]
fn ends_that_were_asked_for_come_on_the_stream_of_the_submission_each_once_and_none_before_its_answer()
 {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(8), 8).await;
        let mut submitting = Submitting::open(&mut peer).await;
        for batch in 1..=20 {
            submitting.watched(batch, vec![noop(b""); 5]).await;
        }
        let work = async {
            let mut done = 0_u64;
            while done < 100 {
                let assignments = worker.assignments().await;
                done += assignments.len() as u64;
                let report = WorkerReport {
                    credits: u32::try_from(assignments.len()).unwrap(),
                    results: assignments.into_iter().map(|one| ended(one.task)).collect(),
                    number: done,
                    ..WorkerReport::default()
                };
                worker.reports.send(report).await.unwrap();
            }
        };
        let read = async {
            let (mut accepted, mut told, mut batches) = (HashSet::new(), Vec::new(), Vec::new());
            while told.len() < 100 {
                let message = submitting.message().await;
                assert_eq!(message.ends_only, message.verdicts.is_empty());
                assert!(message.ends_only || message.watched);
                batches.extend((!message.ends_only).then_some(message.batch));
                accepted.extend(message.verdicts.iter().map(|verdict| verdict.task_id));
                for end in message.ends {
                    assert!(accepted.contains(&end.task_id), "an end before its answer");
                    assert_eq!((end.state(), end.output), (TaskState::Done, stdout(b"out")));
                    told.push(end.task_id);
                }
            }
            assert_eq!(batches, Vec::from_iter(1..=20), "in their order");
            told.into_iter().collect::<HashSet<u64>>()
        };
        let ((), told) = tokio::join!(work, read);
        assert_eq!(told.len(), 100, "each once");
        drop(submitting.batches);
        assert!(
            submitting.answers.message().await.unwrap().is_none(),
            "nothing to come: the stream ends"
        );
    });
}

#[test]
fn end_that_is_there_comes_with_the_answer_and_results_are_acknowledged_with_a_batch() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
        let task = TaskSpec {
            idempotency_key: vec![7; 16].into(),
            ..noop(b"")
        };
        let mut submitting = Submitting::open(&mut peer).await;
        submitting.watched(1, vec![task.clone()]).await;
        let answer = submitting.message().await;
        let task_id = answer.verdicts[0].task_id;
        assert!(
            answer.ends.is_empty(),
            "no worker has it yet, and it does not wait for that"
        );
        let assignment = worker.assignments().await.remove(0);
        worker.finish(assignment.task.unwrap(), b"out").await;
        let message = submitting.message().await;
        assert!(message.ends_only && message.ends[0].task_id == task_id);

        submitting.watched(2, vec![task]).await;
        let message = submitting.message().await;
        assert!(message.verdicts[0].is_repeat && message.ends[0].task_id == task_id);
        assert_eq!(message.batch, 2);

        let acknowledge = SubmitStreamRequest {
            batch: 3,
            acknowledge: vec![task_id],
            ..SubmitStreamRequest::default()
        };
        submitting.batches.send(acknowledge).await.unwrap();
        let message = submitting.message().await;
        assert_eq!(
            (message.batch, message.watched, message.ends_only),
            (3, false, false)
        );
        assert_eq!(peer.state(task_id).await, TaskState::Unspecified);
    });
}

#[test]
fn what_cannot_be_watched_is_told_on_the_stream_of_the_submission() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
        let task = TaskSpec {
            idempotency_key: vec![8; 16].into(),
            ..noop(b"")
        };
        let first = peer.submit(task.clone()).await.unwrap();
        let assignment = worker.assignments().await.remove(0);
        worker.finish(assignment.task.unwrap(), b"").await;
        let selection = TaskSelection {
            task_ids: vec![first],
            ..TaskSelection::default()
        };
        peer.plm.forget_tasks(selection).await.unwrap();
        let mut submitting = Submitting::open(&mut peer).await;
        submitting.watched(1, vec![task, noop(b"")]).await;
        let message = submitting.message().await;
        assert!(message.verdicts[0].is_repeat && message.verdicts[0].result_expired);
        let told = &message.ends[0];
        assert!(told.task_id == first && told.refusal.is_some(), "{told:?}");
        assert_eq!(message.ends.len(), 1);
    });
}

#[test]
fn stream_of_submissions_that_waits_for_ends_is_over_when_the_daemon_stops() {
    on_both(&small(), |daemon| async move {
        let mut peer = Peer::new(&daemon).await;
        let mut submitting = Submitting::open(&mut peer).await;
        submitting.watched(1, vec![noop(b"")]).await;
        assert_eq!(submitting.message().await.verdicts.len(), 1);
        drop(submitting.batches);
        daemon.request_stop();
        assert!(submitting.answers.message().await.unwrap().is_none());
    });
}
