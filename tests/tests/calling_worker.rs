//! A worker that calls, and a daemon that is killed between `Reserve` and `Finish`: its successor takes the end of what was begun where it has the
//! segment, and refuses it where it has only the journal.

use qtf_client::{Address, Client, Durability, Task, TaskId};
use qtf_proto::v1::work_client::WorkClient;
use qtf_proto::v1::{
    FinishRequest, Outcome, OutcomeKind, ReserveRequest, ReservedTask, ResultDisposition,
    StopReason, TaskOutput, TouchRequest,
};
use qtf_tests::{Place, Process};

fn started(place: &Place) -> Process {
    let data = place.work().join("data");
    let size = "segment_tasks = 1024\nsegment_workers = 8\njournal_file_bytes = 4194304\n";
    let config = place.file("qtfd.toml", format!("{size}data_dir = {data:?}\n"));
    place.daemon(&["--config", config.to_str().expect("the name is plain")])
}

fn address(place: &Place) -> Address {
    place.address().parse().expect("it is an address")
}

async fn client(place: &Place) -> Client {
    Client::connect(&address(place))
        .await
        .expect("the daemon serves")
}

/// The calls of the worker, each over a connection of its own: nothing of it outlives a call.
struct Caller<'p>(&'p Place);

impl Caller<'_> {
    async fn work(&self) -> WorkClient<tonic::transport::Channel> {
        let channel = qtf_proto::channel::connect(&address(self.0)).await;
        WorkClient::new(channel.expect("the daemon serves"))
    }

    async fn reserve(&self, count: u32) -> Vec<ReservedTask> {
        let request = ReserveRequest {
            name: "nightly".into(),
            host: "here".into(),
            kinds: vec!["report".into()],
            count,
            wait_ms: 20_000,
            lease_ms: 600_000,
            request_id: 0,
        };
        let answer = self.work().await.reserve(request).await;
        answer.expect("it is taken").into_inner().tasks
    }

    async fn touch(&self, token: &str) -> StopReason {
        let request = TouchRequest {
            attempt_tokens: vec![token.to_owned()],
            lease_ms: 600_000,
        };
        let answer = self.work().await.touch(request).await;
        let answer = answer.expect("it is taken").into_inner();
        answer.stops().next().expect("one for each token")
    }

    async fn finish(&self, token: &str) -> ResultDisposition {
        let request = FinishRequest {
            attempt_token: token.to_owned(),
            outcome: Some(Outcome {
                kind: OutcomeKind::Exited.into(),
                ..Outcome::default()
            }),
            output: Some(TaskOutput {
                stdout: b"printed".as_slice().into(),
                ..TaskOutput::default()
            }),
            ..FinishRequest::default()
        };
        let answer = self.work().await.finish(request).await;
        answer.expect("it is taken").into_inner().disposition()
    }
}

fn report(durability: Durability) -> Task {
    Task::handler("report", "").durability(durability)
}

async fn is_done(place: &Place, task: TaskId) -> bool {
    let end = client(place).await.wait(task).await.expect("it is known");
    assert_eq!(end.output.expect("it is kept").stdout, "printed");
    end.state == qtf_client::TaskState::Done
}

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(test)
}

#[test]
fn worker_that_calls_finishes_with_the_successor_what_it_reserved_of_a_killed_daemon() {
    let place = Place::new();
    let mut daemon = started(&place);
    let caller = Caller(&place);
    let mut tasks = Vec::new();
    let got = run(async {
        let client = client(&place).await;
        for durability in [Durability::Memory, Durability::Journal] {
            tasks.push(
                client
                    .submit(report(durability))
                    .await
                    .expect("accepted")
                    .id,
            );
        }
        caller.reserve(2).await
    });
    assert_eq!(got.len(), 2);
    daemon.kill();
    let mut daemon = started(&place);
    let shown = place
        .qtf(["--addr", &place.address(), "worker", "ls", "--json"])
        .expect_code(0);
    assert!(shown.text().contains("\"nightly\""), "{}", shown.text());
    run(async {
        for task in &got {
            assert_eq!(
                caller.touch(&task.attempt_token).await,
                StopReason::Unspecified
            );
            let told = caller.finish(&task.attempt_token).await;
            assert_eq!(told, ResultDisposition::Recorded);
            let again = caller.finish(&task.attempt_token).await;
            assert_eq!(again, ResultDisposition::AlreadyRecorded);
        }
        for &task in &tasks {
            assert!(is_done(&place, task).await);
        }
    });
    assert_eq!(daemon.terminate(), Some(0));
    place.verify();
}

#[test]
fn what_was_reserved_before_a_cold_start_is_stale_and_what_was_said_to_be_recorded_is_there() {
    let place = Place::new();
    let mut daemon = started(&place);
    let caller = Caller(&place);
    let (recorded, held, got) = run(async {
        let client = client(&place).await;
        let submit = async || {
            let accepted = client.submit(report(Durability::Journal)).await;
            accepted.expect("accepted").id
        };
        let recorded = submit().await;
        let first = caller.reserve(1).await.remove(0);
        let told = caller.finish(&first.attempt_token).await;
        assert_eq!(told, ResultDisposition::Recorded);
        let held = submit().await;
        (recorded, held, caller.reserve(1).await.remove(0))
    });
    daemon.kill();
    place.remove_segments();
    let mut daemon = started(&place);
    run(async {
        assert!(is_done(&place, recorded).await);
        assert_eq!(caller.touch(&got.attempt_token).await, StopReason::Stale);
        assert_eq!(
            caller.finish(&got.attempt_token).await,
            ResultDisposition::Stale
        );
        let again = caller.reserve(1).await.remove(0);
        let task = again.task.expect("it is there");
        assert_eq!(task.task_id, held.as_raw());
        assert_eq!(
            caller.finish(&got.attempt_token).await,
            ResultDisposition::Stale
        );
        assert_eq!(
            caller.finish(&again.attempt_token).await,
            ResultDisposition::Recorded
        );
        assert!(is_done(&place, held).await);
    });
    assert_eq!(daemon.terminate(), Some(0));
    place.verify();
}
