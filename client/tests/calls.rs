//! The client's side of the protocol, against a daemon that misbehaves as each test tells it.
#![expect(clippy::unwrap_used, reason = "what cannot be set up is a failed test")]

mod fake_daemon;

use core::time::Duration;

use fake_daemon::{FakeDaemon, INLINE_BYTES, PAYLOAD_BYTES, soon};
use futures_util::StreamExt as _;
use prost::Message as _;
use qtf_client::{
    CallError, Client, ConnectError, ExecSpec, ListFilter, RefusalReason, SubmitError, Task,
    TaskId, TaskState, WatchError,
};

async fn client(daemon: &FakeDaemon) -> Client {
    let builder = Client::builder(daemon.address.clone());
    let connecting = builder
        .name("tester")
        .call_timeout(Duration::from_secs(60))
        .connect();
    soon(connecting).await.unwrap()
}

fn echo(text: &str) -> Task {
    Task::handler("echo", text.to_owned())
}

fn unknown_id() -> TaskId {
    TaskId::from_raw((9 << 24) | 99).unwrap()
}

#[tokio::test]
async fn client_registers_under_its_name_and_sends_heartbeats() {
    let daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    assert_eq!(client.client_id().await.unwrap(), 5);
    let hello = daemon.with(|world| world.hello.clone()).unwrap();
    assert_eq!(
        (hello.name.as_str(), hello.pid),
        ("tester", std::process::id())
    );
    daemon.until(|world| world.heartbeats >= 3).await;
}

#[tokio::test]
async fn missing_daemon_is_told_apart_from_one_that_refuses_or_talks_nonsense() {
    let nowhere = "unix:/nonexistent/qtf.sock".parse().unwrap();
    let error = soon(Client::connect(&nowhere)).await.unwrap_err();
    assert!(error.is_not_there(), "{error}");

    let daemon = FakeDaemon::start();
    daemon.with(|world| world.refuse_clients = true);
    let error = soon(Client::connect(&daemon.address)).await.unwrap_err();
    assert!(!error.is_not_there());
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    assert!(
        error.to_string().contains("64 of 64 client records"),
        "{error}"
    );

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("garbage.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.writable().await;
            let _ = stream.try_write(b"220 mail.example ready\r\n");
        }
    });
    let builder = Client::builder(format!("unix:{}", path.display()).parse().unwrap());
    let builder = builder.call_timeout(Duration::from_millis(300));
    let error = soon(builder.connect()).await.unwrap_err();
    assert!(!error.is_not_there(), "{error}");
}

#[tokio::test]
async fn task_goes_in_and_its_output_comes_out() {
    let daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    let task = Task::exec(["uname", "-r"]).priority(7).retries(2);
    let id = client.submit(task).await.unwrap().id;
    let spec = daemon.with(|world| world.tasks[&id.as_raw()].spec.clone());
    assert_eq!(
        (spec.kind.as_str(), spec.priority, spec.retries),
        ("exec", Some(7), 2)
    );
    assert_eq!(ExecSpec::decode(spec.payload).unwrap().argv[0], "uname");
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.wait(id).await }
    });
    daemon.until(|world| world.watches_opened > 0).await;
    daemon.with(|world| world.end(id, b"6.1"));
    let end = soon(waiting).await.unwrap().unwrap();
    assert!(end.is_done());
    assert_eq!(end.output.unwrap().stdout, "6.1");
}

#[tokio::test]
async fn large_output_is_fetched_in_chunks() {
    let daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    let id = client.submit(echo("x")).await.unwrap().id;
    let large: Vec<u8> = (0..500_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    daemon.with(|world| world.end(id, &large));
    let end = soon(client.wait(id)).await.unwrap();
    assert_eq!(end.output.unwrap().stdout, large);
    assert_eq!(client.fetch_output(id).await.unwrap().stdout, large);
}

#[tokio::test]
async fn large_payload_is_uploaded_and_a_too_large_one_is_refused_before_it_travels() {
    let daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    let payload = vec![7; usize::try_from(INLINE_BYTES + 200_000).unwrap()];
    let id = client
        .submit(Task::handler("echo", payload.clone()))
        .await
        .unwrap()
        .id;
    let spec = daemon.with(|world| world.tasks[&id.as_raw()].spec.clone());
    assert_eq!(spec.payload, payload);

    let payload = vec![7; usize::try_from(PAYLOAD_BYTES + 1).unwrap()];
    let error = client
        .submit(Task::handler("echo", payload))
        .await
        .unwrap_err();
    let SubmitError::Refused(refusal) = error else {
        panic!("{error}");
    };
    assert_eq!(refusal.reason, RefusalReason::PayloadTooLarge);
    assert!(refusal.message.contains("300001 bytes"), "{refusal}");
}

#[tokio::test]
async fn uploads_that_are_kept_leave_room_in_the_window_of_their_connection_to_other_calls() {
    let daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    daemon.with(|world| world.hold_uploads = true);
    let payload = vec![7; usize::try_from(INLINE_BYTES + 200_000).unwrap()];
    let submissions: Vec<_> = (0..6)
        .map(|_| {
            let (client, payload) = (client.clone(), payload.clone());
            tokio::spawn(async move { client.submit(Task::handler("echo", payload)).await })
        })
        .collect();
    daemon.until(|world| world.uploads_under_way == 2).await;
    for _ in 0..20 {
        client.submit(echo("small")).await.unwrap();
    }
    daemon.with(|world| world.hold_uploads = false);
    for submission in submissions {
        soon(submission).await.unwrap().unwrap();
    }
    assert_eq!(daemon.with(|world| world.uploads_at_once), 2);
}

#[tokio::test]
async fn answers_keep_the_order_of_the_tasks_while_the_daemon_is_full_again_and_again() {
    let daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    daemon.with(|world| world.capacity = 100);
    let count = 3000;
    let tasks = (0..count).map(|n| match n % 1000 {
        999 => Task::handler("bad", n.to_string()),
        500 => Task::handler("echo", format!("{n}{}", " ".repeat(2000))),
        _ => echo(&n.to_string()),
    });
    let mut answers = client.submit_many(tasks);
    let mut ids = Vec::new();
    let reading = async {
        while let Some(answer) = answers.next().await {
            ids.push(answer);
            daemon.with(|world| world.end_oldest(100, b""));
        }
    };
    let ending = async {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            daemon.with(|world| world.end_oldest(100, b""));
        }
    };
    tokio::select! {
        () = soon(reading) => {}
        () = ending => {}
    }
    assert_eq!(ids.len(), count);
    let mut accepted_count = 0;
    for (n, answer) in ids.iter().enumerate() {
        match answer {
            Ok(accepted) => {
                let id = accepted.id.as_raw();
                let payload = daemon.with(|world| world.tasks[&id].spec.payload.clone());
                assert_eq!(String::from_utf8_lossy(&payload).trim_end(), n.to_string());
                accepted_count += 1;
            }
            Err(error) => {
                assert_eq!(n % 1000, 999, "{error}");
                assert!(matches!(error, SubmitError::Refused(_)));
            }
        }
    }
    assert_eq!(
        daemon.with(|world| world.tasks.len()),
        accepted_count,
        "each once"
    );
    assert!(
        daemon.with(|world| world.entries_seen) > count,
        "some were refused first"
    );
}

#[tokio::test]
async fn unanswered_submissions_are_bounded() {
    let daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    daemon.with(|world| world.capacity = 1);
    let (taken, mut taken_count) = tokio::sync::watch::channel(0_usize);
    let tasks = (0..100_000).map(move |_| {
        taken.send_modify(|count| *count += 1);
        echo("x")
    });
    let answers = client.submit_many(tasks);
    soon(taken_count.wait_for(|count| *count > 0))
        .await
        .unwrap();
    daemon.until(|world| world.entries_seen > 3000).await;
    assert!(*taken_count.borrow() < 10_000, "{}", *taken_count.borrow());
    drop(answers);
}

#[tokio::test]
async fn lost_session_is_renewed_and_nothing_is_submitted_twice() {
    let daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    client.submit(echo("0")).await.unwrap();
    daemon.with(fake_daemon::World::forget_sessions);
    let first = soon(client.submit(echo("1"))).await.unwrap().id;
    daemon.with(fake_daemon::World::forget_sessions);
    let answers = client.submit_many((2..10).map(|n| echo(&n.to_string())));
    let ids: Vec<_> = soon(answers.collect::<Vec<_>>()).await;
    assert!(ids.iter().all(Result::is_ok), "{ids:?}");
    assert_eq!(daemon.with(|world| world.tasks.len()), 10);
    daemon.with(fake_daemon::World::forget_sessions);
    let verdicts = soon(client.cancel(&[first], "test")).await.unwrap();
    assert_eq!(verdicts[0].result, Ok(TaskState::Cancelled));
}

#[tokio::test]
async fn array_members_know_their_index_and_their_first() {
    let daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    daemon.with(|world| world.capacity = 4);
    let members = (5..15).map(|n| Task::exec(["true"]).array(None, n));
    let mut answers = client.submit_array(members);
    let mut ids = Vec::new();
    while let Some(answer) = soon(answers.next()).await {
        ids.push(answer.unwrap().id);
        daemon.with(|world| world.end_oldest(1, b""));
    }
    assert_eq!(ids.len(), 10);
    for (n, id) in ids.iter().enumerate() {
        let spec = daemon.with(|world| world.tasks[&id.as_raw()].spec.clone());
        assert!(spec.array_member);
        assert_eq!(spec.array_index, u64::try_from(n).unwrap() + 5);
        assert!(spec.array_id == 0 || spec.array_id == ids[0].as_raw());
    }
}

#[tokio::test]
async fn results_come_once_in_order_of_their_ends_over_broken_streams() {
    let daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    let answers = client.submit_many((0..60).map(|n| echo(&n.to_string())));
    let ids: Vec<TaskId> = answers.map(|answer| answer.unwrap().id).collect().await;
    daemon.with(|world| world.break_watch_after = 20);
    let mut results = client.results(ids.iter().copied());
    let mut seen = Vec::new();
    for (n, id) in ids.iter().rev().enumerate() {
        daemon.with(|world| world.end(*id, n.to_string().as_bytes()));
        let end = soon(results.next()).await.unwrap().unwrap();
        assert_eq!(end.output.unwrap().stdout, n.to_string());
        seen.push(end.id);
        results.acknowledge([end.id]);
    }
    seen.reverse();
    assert_eq!(seen, ids);
    assert!(soon(results.next()).await.is_none(), "all are in");
    assert!(daemon.with(|world| world.watches_opened) >= 3);
}

#[tokio::test]
async fn acknowledgements_have_arrived_when_close_returns() {
    let daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    let answers = client.submit_many((0..3000).map(|_| echo("x")));
    let ids: Vec<TaskId> = answers.map(|answer| answer.unwrap().id).collect().await;
    daemon.with(|world| world.end_oldest(3000, b""));
    let (feed, mut results) = client.result_feed();
    for ids in ids.chunks(7) {
        feed.watch(ids.iter().copied());
    }
    drop(feed);
    let mut count = 0;
    while let Some(end) = soon(results.next()).await {
        results.acknowledge([end.unwrap().id]);
        count += 1;
    }
    assert_eq!(count, 3000);
    soon(results.close()).await.unwrap();
    assert_eq!(daemon.with(|world| world.acknowledged.len()), 3000);
}

#[tokio::test]
async fn unknown_task_is_an_error_of_its_own_and_others_go_on() {
    let daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    let id = client.submit(echo("x")).await.unwrap().id;
    daemon.with(|world| world.end(id, b"out"));
    let mut results = client.results([unknown_id(), id]);
    let mut ends = 0;
    let mut errors = 0;
    while let Some(result) = soon(results.next()).await {
        match result {
            Ok(end) => {
                assert_eq!(end.id, id);
                ends += 1;
            }
            Err(WatchError::Task { id, refusal }) => {
                assert_eq!(id, unknown_id());
                assert_eq!(refusal.reason, RefusalReason::UnknownTask);
                errors += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((ends, errors), (1, 1));
    let error = soon(client.wait(unknown_id())).await.unwrap_err();
    assert!(matches!(error, CallError::Refused(refusal) if refusal.is_unknown()));
}

#[tokio::test]
async fn verdicts_come_in_the_order_of_the_ids_over_many_batches() {
    let daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    let answers = client.submit_many((0..2500).map(|_| echo("x")));
    let mut ids: Vec<TaskId> = answers.map(|answer| answer.unwrap().id).collect().await;
    ids.insert(1500, unknown_id());
    let verdicts = client.update_priority(&ids, 200).await.unwrap();
    assert_eq!(verdicts.len(), ids.len());
    for (n, verdict) in verdicts.iter().enumerate() {
        assert_eq!(verdict.id, ids[n]);
        assert_eq!(verdict.result.is_err(), n == 1500);
    }
    let filter = ListFilter {
        limit: 10,
        ..ListFilter::default()
    };
    let listed: Vec<_> = client.list(filter).await.unwrap().collect().await;
    assert_eq!(listed.len(), 10);
    assert_eq!(listed[9].as_ref().unwrap().task_id, ids[9].as_raw());
    client.forget(&ids).await.unwrap();
    assert_eq!(daemon.with(|world| world.acknowledged.len()), 2500);
}

#[tokio::test]
async fn call_without_an_answer_ends_after_its_time() {
    let daemon = FakeDaemon::start();
    daemon.with(|world| world.is_mute = true);
    let builder = Client::builder(daemon.address.clone());
    let client = builder
        .call_timeout(Duration::from_secs(1))
        .connect()
        .await
        .unwrap();
    let error = soon(client.task(unknown_id())).await.unwrap_err();
    assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
    daemon.with(|world| world.is_mute = false);
    // On a machine that stalls an answer may take longer than that, too.
    let error = loop {
        let error = soon(client.task(unknown_id())).await.unwrap_err();
        if !matches!(error, CallError::TimedOut { .. }) {
            break error;
        }
    };
    assert!(matches!(error, CallError::Refused(_)), "{error}");
}

#[tokio::test]
async fn daemon_that_stays_away_ends_the_results_with_an_error() {
    let daemon = FakeDaemon::start();
    let builder = Client::builder(daemon.address.clone());
    let builder = builder.call_timeout(Duration::from_secs(60));
    let client = builder
        .reconnect_for(Duration::from_millis(300))
        .connect()
        .await
        .unwrap();
    let id = client.submit(echo("x")).await.unwrap().id;
    let mut results = client.results([id]);
    daemon.until(|world| world.watches_opened > 0).await;
    daemon.with(|world| {
        world.break_watch_after = 1;
        world.end(id, b"");
    });
    soon(results.next()).await.unwrap().unwrap();
    let waiting = client.results([unknown_id()]);
    drop(daemon);
    let ends: Vec<_> = soon(waiting.collect::<Vec<_>>()).await;
    assert!(matches!(ends.last(), Some(Err(_))), "{ends:?}");
}

#[tokio::test]
async fn stream_that_is_stopped_tells_what_is_accepted_also_behind_what_found_no_room() {
    let daemon = FakeDaemon::start();
    // In each batch the first finds no room, and the others do.
    daemon.with(|world| world.refuse_first_of_batch = true);
    let client = client(&daemon).await;
    let (tasks, mut queue) = tokio::sync::mpsc::unbounded_channel();
    for number in 0..10 {
        tasks.send(echo(&number.to_string())).unwrap();
    }
    let mut answers =
        client.submit_stream(futures_util::stream::poll_fn(move |cx| queue.poll_recv(cx)));
    daemon.until(|world| world.tasks.len() >= 9).await;
    answers.stop(Duration::from_secs(5));
    let mut told = Vec::new();
    while let Some(answer) = soon(answers.next()).await {
        told.push(answer);
    }
    assert_eq!(told.len(), 10, "one for each that was taken");
    assert!(matches!(told[0], Err(SubmitError::Stopped)), "{told:?}");
    let accepted: Vec<u64> = told[1..]
        .iter()
        .map(|answer| answer.as_ref().unwrap().id.as_raw())
        .collect();
    let known: Vec<u64> = daemon.with(|world| world.tasks.keys().copied().collect());
    assert_eq!(accepted, known);
    drop(tasks);
}

#[tokio::test]
async fn stream_that_is_stopped_waits_no_longer_than_told_for_a_daemon_that_does_not_answer() {
    let daemon = FakeDaemon::start();
    daemon.with(|world| world.hold_answers = true);
    let client = client(&daemon).await;
    let mut answers = client.submit_many([echo("a")]);
    daemon.until(|world| world.entries_seen >= 1).await;
    answers.stop(Duration::from_millis(50));
    let answer = soon(answers.next()).await.unwrap();
    assert!(
        matches!(answer, Err(SubmitError::Unanswered { .. })),
        "{answer:?}"
    );
    assert!(soon(answers.next()).await.is_none());
}
