//! What a client does when answers are lost and daemons die: nothing is submitted twice, nothing told twice,
//! and what is not known is said.
#![expect(clippy::unwrap_used, reason = "what cannot be set up is a failed test")]

mod fake_daemon;

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fake_daemon::{FakeDaemon, INLINE_BYTES, Restart, soon};
use futures_util::StreamExt as _;
use qtf_client::{
    Accepted, CallError, Client, ClientBuilder, Durability, Notice, RefusalReason, SubmitError,
    Task, TaskId, TaskKey, TaskState, WatchError,
};

fn builder(daemon: &FakeDaemon) -> ClientBuilder {
    Client::builder(daemon.address.clone()).call_timeout(Duration::from_secs(60))
}

async fn client(daemon: &FakeDaemon) -> Client {
    soon(builder(daemon).connect()).await.unwrap()
}

fn echo(text: impl core::fmt::Display) -> Task {
    Task::handler("echo", format!("{text}"))
}

/// Notices in the order in which they were given.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<Notice>>>);

impl Heard {
    fn by(&self, builder: ClientBuilder) -> ClientBuilder {
        let heard = self.clone();
        builder.on_notice(move |notice| heard.0.lock().unwrap().push(notice.clone()))
    }

    async fn anything(&self) {
        while self.all().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn all(&self) -> Vec<Notice> {
        self.0.lock().unwrap().clone()
    }
}

/// Each task was accepted once, and the answers are in the order of the tasks.
fn assert_each_once(daemon: &FakeDaemon, answers: &[Result<Accepted, SubmitError>]) {
    let texts: BTreeMap<u64, String> = daemon.with(|world| {
        let text =
            |kept: &fake_daemon::world::Kept| String::from_utf8_lossy(&kept.spec.payload).into();
        let tasks = world.tasks.iter().map(|(id, kept)| (*id, text(kept)));
        tasks.collect()
    });
    assert_eq!(texts.len(), answers.len());
    for (n, answer) in answers.iter().enumerate() {
        let accepted = answer.as_ref().unwrap();
        assert_eq!(texts[&accepted.id.as_raw()], n.to_string());
        assert!(!accepted.is_repeat, "the user named no key");
    }
}

#[tokio::test]
async fn output_is_fetched_again_when_the_daemon_goes_away_meanwhile() {
    let daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    let id = client.submit(echo("x")).await.unwrap().id;
    daemon.with(|world| {
        world.end(id, b"kept");
        world.fetches_to_fail = 3;
    });
    assert_eq!(soon(client.fetch_output(id)).await.unwrap().stdout, "kept");
    assert_eq!(daemon.with(|world| world.fetches_to_fail), 0);
}

#[tokio::test]
async fn lost_answers_are_asked_for_again_and_nothing_is_submitted_twice() {
    let daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    // In the middle of a batch, with others in flight behind it.
    daemon.with(|world| world.break_after_entries = Some(1300));
    let answers = client.submit_many((0..5000).map(echo));
    let answers: Vec<_> = soon(answers.collect::<Vec<_>>()).await;
    assert_each_once(&daemon, &answers);
    assert!(daemon.with(|world| world.repeats) >= 1300 % 512);
    daemon.until(|world| world.keys.is_empty()).await;
}

#[tokio::test]
async fn stream_goes_on_over_the_death_of_its_daemon_and_the_user_is_told() {
    let mut daemon = FakeDaemon::start();
    let heard = Heard::default();
    let client = soon(heard.by(builder(&daemon)).connect()).await.unwrap();
    let (tasks, queue) = tokio::sync::mpsc::unbounded_channel();
    let answers = client.submit_stream(tokio_stream::wrappers::UnboundedReceiverStream::new(queue));
    for n in 0..2000 {
        tasks.send(echo(n)).unwrap();
    }
    daemon.until(|world| world.tasks.len() >= 700).await;
    daemon.kill();
    for n in 2000..3000 {
        tasks.send(echo(n)).unwrap();
    }
    drop(tasks);
    soon(heard.anything()).await;
    daemon.start_again(Restart::Hot);
    let answers: Vec<_> = soon(answers.collect::<Vec<_>>()).await;
    assert_each_once(&daemon, &answers);
    let notices = heard.all();
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert!(matches!(notices[0], Notice::Away { .. }));
    let is_new_segment = false;
    assert!(
        matches!(notices[1], Notice::Back { is_new_segment: new, .. } if new == is_new_segment)
    );
}

#[tokio::test]
async fn cold_start_keeps_what_was_promised_and_says_what_is_gone() {
    let mut daemon = FakeDaemon::start();
    let heard = Heard::default();
    let client = soon(heard.by(builder(&daemon)).connect()).await.unwrap();
    let journal = echo("kept").durability(Durability::Journal).key("kept");
    let kept = client.submit(journal.clone()).await.unwrap();
    assert_eq!(
        (kept.durability, kept.is_repeat),
        (Durability::Journal, false)
    );
    let gone = echo("gone").durability(Durability::Memory);
    let gone = client.submit(gone).await.unwrap();
    let mut results = client.results([kept, gone]);
    daemon.until(|world| world.watches_opened > 0).await;

    daemon.start_again(Restart::Cold);
    let error = soon(results.next()).await.unwrap().unwrap_err();
    let WatchError::Task { id, refusal } = error else {
        panic!("{error}");
    };
    assert_eq!((id, refusal.reason), (gone.id, RefusalReason::UnknownTask));
    let again = soon(client.submit(journal)).await.unwrap();
    assert_eq!((again.id, again.is_repeat), (kept.id, true));
    daemon.with(|world| world.end(kept.id, b"out"));
    let end = soon(results.next()).await.unwrap().unwrap();
    assert_eq!(end.output.unwrap().stdout, "out");
    assert!(soon(results.next()).await.is_none());
    let is_new = |notice: &Notice| {
        let is_new_segment = true;
        matches!(notice, Notice::Back { is_new_segment: new, .. } if *new == is_new_segment)
    };
    // The break may be so short that nobody needs to be told of it.
    let notices = heard.all();
    assert!(
        notices.is_empty() || notices.iter().any(is_new),
        "{notices:?}"
    );
}

#[tokio::test]
async fn answers_and_ends_that_arrive_twice_are_told_once() {
    let daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    daemon.with(|world| world.answers_twice = true);
    let answers = client.submit_many((0..2000).map(echo));
    let answers: Vec<_> = soon(answers.collect::<Vec<_>>()).await;
    assert_each_once(&daemon, &answers);
    let mut results = client.results(answers.iter().map(|answer| answer.clone().unwrap()));
    daemon.with(|world| world.end_oldest(2000, b""));
    let mut seen = std::collections::HashSet::new();
    while let Some(end) = soon(results.next()).await {
        assert!(seen.insert(end.unwrap().id), "told twice");
    }
    assert_eq!(seen.len(), 2000);
}

#[tokio::test]
async fn few_keys_are_enough_because_they_are_given_back() {
    let daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    daemon.with(|world| world.key_slots = 700);
    let answers = client.submit_many((0..5000).map(echo));
    let answers: Vec<_> = soon(answers.collect::<Vec<_>>()).await;
    assert_each_once(&daemon, &answers);
}

#[tokio::test]
async fn place_for_a_key_that_nobody_gives_back_is_waited_for_a_while_and_then_refused() {
    let daemon = FakeDaemon::start();
    let heard = Heard::default();
    let patience = Duration::from_millis(300);
    let builder = heard.by(builder(&daemon).reconnect_for(patience));
    let client = soon(builder.connect()).await.unwrap();
    let held = client.submit(echo("x").key("chosen")).await.unwrap();
    daemon.with(|world| (world.key_slots, world.key_hint_ms) = (1, 3_600_000));
    let answers = client.submit_many((0..20).map(echo));
    let answers: Vec<_> = soon(answers.collect::<Vec<_>>()).await;
    assert_eq!(answers.len(), 20);
    for answer in answers {
        let error = answer.unwrap_err();
        let SubmitError::Refused(refusal) = error else {
            panic!("{error}");
        };
        assert_eq!(refusal.reason, RefusalReason::KeysFull);
    }
    let notices = heard.all();
    let [Notice::NoPlaceForKey { up_to, .. }] = notices.as_slice() else {
        panic!("{notices:?}");
    };
    assert_eq!(*up_to, patience);
    assert!(daemon.with(|world| world.tasks.contains_key(&held.id.as_raw())));
}

#[tokio::test]
async fn key_that_the_client_made_up_says_so_and_one_that_a_user_chose_does_not() {
    let daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    let made_up = client.submit(echo("x")).await.unwrap().id;
    let chosen = client.submit(echo("x").key("k")).await.unwrap().id;
    let mut answers = client.submit_many([echo("y"), echo("z").key("l")]);
    let many = [answers.next().await, answers.next().await];
    let many = many.map(|answer| answer.unwrap().unwrap().id);
    let is_automatic = [made_up, chosen, many[0], many[1]]
        .map(|id| daemon.with(|world| world.tasks[&id.as_raw()].spec.automatic_key));
    assert_eq!(is_automatic, [true, false, true, false]);
}

#[tokio::test]
async fn full_journal_is_waited_for_and_told_once() {
    let daemon = FakeDaemon::start();
    let heard = Heard::default();
    let client = soon(heard.by(builder(&daemon)).connect()).await.unwrap();
    daemon.with(|world| world.journal_is_full = true);
    let tasks = (0..100).map(|n| echo(n).durability(Durability::Journal));
    let answers = client.submit_many(tasks);
    daemon.until(|world| world.entries_seen >= 500).await;
    daemon.with(|world| world.journal_is_full = false);
    let answers: Vec<_> = soon(answers.collect::<Vec<_>>()).await;
    assert_each_once(&daemon, &answers);
    let notices = heard.all();
    let [Notice::Full(refusal)] = notices.as_slice() else {
        panic!("{notices:?}");
    };
    assert_eq!(refusal.reason, RefusalReason::JournalFull);

    daemon.with(|world| world.journal_is_full = true);
    let error = client.submit(echo("x")).await.unwrap_err();
    assert!(
        matches!(error, SubmitError::Refused(_)),
        "a single one is answered at once: {error}"
    );
    let memory = echo("x").durability(Durability::Memory);
    client.submit(memory).await.unwrap();
}

#[tokio::test]
async fn without_keys_what_was_sent_is_not_repeated_and_the_rest_goes_on() {
    let daemon = FakeDaemon::start();
    let builder = builder(&daemon).without_automatic_keys();
    let client = soon(builder.connect()).await.unwrap();
    daemon.with(|world| world.break_after_entries = Some(600));
    let answers = client.submit_many((0..5000).map(echo));
    let answers: Vec<_> = soon(answers.collect::<Vec<_>>()).await;
    assert_eq!(answers.len(), 5000);
    let mut accepted = 0;
    for answer in &answers {
        match answer {
            Ok(_) => accepted += 1,
            Err(SubmitError::Unanswered { key: None, .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    let world = daemon.with(|world| (world.tasks.len(), world.repeats));
    // 601 were accepted, and the answers of those beyond the first batch are lost.
    assert_eq!(world, (accepted + 601 - 512, 0));
}

#[tokio::test]
async fn daemon_that_stays_away_ends_the_stream_with_what_is_known_of_each_task() {
    let mut daemon = FakeDaemon::start();
    let client = builder(&daemon).reconnect_for(Duration::from_millis(400));
    let heard = Heard::default();
    let client = soon(heard.by(client).connect()).await.unwrap();
    let (tasks, queue) = tokio::sync::mpsc::unbounded_channel();
    let mut answers =
        client.submit_stream(tokio_stream::wrappers::UnboundedReceiverStream::new(queue));
    tasks.send(echo("answered")).unwrap();
    soon(answers.next()).await.unwrap().unwrap();
    // Accepted, but the answer never leaves.
    daemon.with(|world| world.hold_answers = true);
    tasks.send(echo("sent")).unwrap();
    daemon.until(|world| world.tasks.len() == 2).await;
    daemon.kill();
    soon(heard.anything()).await;
    let unsent = client.submit_many([echo("unsent"), echo("unsent")]);
    let sent = soon(answers.next()).await.unwrap().unwrap_err();
    let SubmitError::Unanswered { key: Some(key), .. } = sent else {
        panic!("{sent}");
    };
    assert!(soon(answers.next()).await.is_none(), "the stream is over");
    let unsent: Vec<_> = soon(unsent.collect::<Vec<_>>()).await;
    let is_not_sent = |answer: &Result<_, _>| matches!(answer, Err(SubmitError::NotSent { .. }));
    assert!(
        unsent.len() == 2 && unsent.iter().all(is_not_sent),
        "{unsent:?}"
    );

    daemon.with(|world| world.hold_answers = false);
    daemon.start_again(Restart::Hot);
    let told = soon(client.submit(echo("sent").key(key))).await.unwrap();
    assert!(told.is_repeat, "the key tells that it was accepted");
    assert_eq!(daemon.with(|world| world.tasks.len()), 2);
}

#[tokio::test]
async fn single_calls_are_repeated_until_they_are_answered() {
    let daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    daemon.with(|world| world.answers_to_lose = 3);
    let large = "x".repeat(usize::try_from(INLINE_BYTES * 2).unwrap());
    let first = soon(client.submit(echo(large))).await.unwrap();
    assert!(!first.is_repeat);
    let world = daemon.with(|world| (world.tasks.len(), world.repeats));
    assert_eq!(world, (1, 3));

    daemon.with(|world| world.answers_to_lose = 2);
    let verdicts = soon(client.cancel(&[first.id], "test")).await.unwrap();
    assert_eq!(verdicts[0].result, Ok(TaskState::Cancelled));
    daemon.with(|world| world.answers_to_lose = 2);
    let verdicts = soon(client.forget(&[first.id])).await.unwrap();
    assert_eq!(
        verdicts[0].result,
        Ok(TaskState::Unspecified),
        "forgotten by the call whose answer was lost"
    );
    let verdicts = soon(client.forget(&[first.id])).await.unwrap();
    assert!(verdicts[0].result.as_ref().unwrap_err().is_unknown());
}

#[tokio::test]
async fn single_calls_wait_for_a_daemon_that_is_started_again() {
    let mut daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    let first = client.submit(echo("first")).await.unwrap();
    daemon.kill();
    let submitting = tokio::spawn({
        let client = client.clone();
        async move { client.submit(echo("second")).await }
    });
    let cancelling = tokio::spawn({
        let client = client.clone();
        async move { client.cancel(&[first.id], "test").await }
    });
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.wait(first).await }
    });
    daemon.start_again(Restart::Hot);
    assert!(!soon(submitting).await.unwrap().unwrap().is_repeat);
    soon(cancelling).await.unwrap().unwrap();
    daemon.with(|world| world.end(first.id, b"out"));
    let end = soon(waiting).await.unwrap().unwrap();
    assert_eq!(end.output.unwrap().stdout, "out");
    assert_eq!(daemon.with(|world| world.tasks.len()), 2);
}

#[tokio::test]
async fn nothing_is_tried_twice_where_that_is_asked() {
    let mut daemon = FakeDaemon::start();
    let client = builder(&daemon).reconnect_for(Duration::ZERO);
    let client = soon(client.connect()).await.unwrap();
    daemon.with(|world| world.answers_to_lose = 1);
    let error = soon(client.submit(echo("x"))).await.unwrap_err();
    assert!(
        matches!(error, SubmitError::Unanswered { key: Some(_), .. }),
        "{error}"
    );
    assert_eq!(daemon.with(|world| world.repeats), 0);
    daemon.kill();
    let id = TaskId::from_raw(1 << 24).unwrap();
    let error = soon(client.cancel(&[id], "")).await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn users_key_gives_the_first_task_and_is_not_given_back() {
    let daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    let task = || {
        echo("x")
            .key("nightly 2026-11-21")
            .key_ttl(Duration::from_secs(90))
    };
    let first = client.submit(task()).await.unwrap();
    let again = client.submit(task()).await.unwrap();
    assert_eq!((first.id, first.is_repeat), (again.id, false));
    assert!(again.is_repeat);
    let answers = client.submit_many([task(), echo("y")]);
    let answers: Vec<_> = soon(answers.collect::<Vec<_>>()).await;
    assert_eq!(answers[0].as_ref().unwrap().id, first.id);
    daemon.until(|world| world.keys_received == 1).await;
    let key = TaskKey::of("nightly 2026-11-21").to_bytes();
    assert!(daemon.with(|world| world.keys.contains_key(key.as_slice())));
    let kept = daemon.with(|world| world.tasks[&first.id.as_raw()].spec.key_ttl_ms);
    assert_eq!(kept, 90_000);
}

#[tokio::test]
async fn daemon_without_keys_gets_none_but_the_users() {
    let daemon = FakeDaemon::start();
    daemon.with(|world| world.key_slots = 0);
    let client = client(&daemon).await;
    client.submit(echo("x")).await.unwrap();
    let error = client.submit(echo("x").key("k")).await.unwrap_err();
    let SubmitError::Refused(refusal) = error else {
        panic!("{error}");
    };
    assert_eq!(refusal.reason, RefusalReason::KeysFull);
}

#[tokio::test]
async fn acknowledgements_lost_with_their_connection_are_made_again() {
    let mut daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    let answers = client.submit_many((0..300).map(echo));
    let ids: Vec<TaskId> = answers.map(|answer| answer.unwrap().id).collect().await;
    daemon.with(|world| world.end_oldest(300, b""));
    let mut results = client.results(ids.iter().copied());
    for n in 0..ids.len() {
        let end = soon(results.next()).await.unwrap().unwrap();
        results.acknowledge([end.id]);
        if n == 150 {
            // Read or not: the daemon that read them died before it did what they say.
            daemon.kill();
            daemon.with(|world| world.acknowledged.clear());
            daemon.start_again(Restart::Hot);
        }
    }
    soon(results.close()).await.unwrap();
    let acknowledged = daemon.with(|world| world.acknowledged.clone());
    let acknowledged: std::collections::HashSet<u64> = acknowledged.into_iter().collect();
    assert_eq!(acknowledged.len(), ids.len());
}

#[tokio::test]
async fn unanswered_payloads_are_bounded_in_bytes() {
    let daemon = FakeDaemon::start();
    let client = client(&daemon).await;
    daemon.with(|world| world.capacity = 1);
    let (taken, mut bytes_taken) = tokio::sync::watch::channel(0_usize);
    let size = usize::try_from(INLINE_BYTES).unwrap();
    let text = "x".repeat(size);
    let tasks = (0..1_000_000).map(move |_| {
        taken.send_modify(|bytes| *bytes += text.len());
        // Not submitted for want of room, so nothing else bounds them.
        Task::handler("echo", text.clone().repeat(64))
    });
    let answers = client.submit_many(tasks);
    soon(bytes_taken.wait_for(|bytes| *bytes > 0))
        .await
        .unwrap();
    daemon.until(|world| world.entries_seen >= 64).await;
    let taken = *bytes_taken.borrow() * 64;
    assert!(taken <= 18 << 20, "{taken}");
    drop(answers);
}
