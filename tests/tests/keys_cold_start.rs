//! Many ordinary submissions with keys, made up or chosen, whose results were all received and forgotten: none is refused. And a cold start
//! after them: the keys are no burden, new submissions with keys are taken at once.
//!
//! `QTF_TEST_KEYED_TASKS=360000 cargo test -p qtf-tests --test keys_cold_start -- --nocapture` does it with a table of the
//! default size.

use std::time::Instant;

use futures_util::StreamExt as _;
use qtf_client::{Address, Client, Durability, Notice, Refusal, RefusalReason, Task, TaskId};
use qtf_tests::{Place, Process};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Several times what the table of keys of the small segment holds.
const TASKS: u64 = 6_000;
const ROUND: u64 = 1_000;

fn tasks_wanted() -> Option<u64> {
    let text = std::env::var("QTF_TEST_KEYED_TASKS").ok()?;
    Some(text.parse().expect("a number of tasks"))
}

fn started(place: &Place) -> Process {
    let size = if tasks_wanted().is_some() {
        ""
    } else {
        "segment_tasks = 4096\nsegment_workers = 8\njournal_file_bytes = 4194304\n"
    };
    let data = place.work().join("data");
    let config = place.file("qtfd.toml", format!("{size}data_dir = {data:?}\n"));
    place.daemon(&["--config", config.to_str().expect("the name is plain")])
}

/// A client, and the refusals for want of room after which its streams of submissions wait and ask again.
struct Submitter {
    client: Client,
    refusals: UnboundedReceiver<Refusal>,
}

async fn connect(place: &Place) -> Submitter {
    let address: Address = place.address().parse().expect("it is an address");
    let (tell, refusals) = unbounded_channel();
    let builder = Client::builder(address).on_notice(move |notice| {
        if let Notice::Full(refusal) | Notice::NoPlaceForKey { refusal, .. } = notice {
            // Nobody listens when the test is over.
            let _told = tell.send(refusal.clone());
        }
    });
    let client = builder.connect().await.expect("the daemon serves");
    Submitter { client, refusals }
}

/// Submits these up to the first refusal; those that are accepted.
async fn submit(
    from: &mut Submitter,
    tasks: impl Iterator<Item = Task> + Send + 'static,
) -> (Vec<TaskId>, Option<Refusal>) {
    let mut answers = from.client.submit_many(tasks);
    let mut ids = Vec::new();
    loop {
        let answer = tokio::select! {
            biased;
            answer = answers.next() => answer,
            refused = from.refusals.recv() => return (ids, refused),
        };
        let Some(answer) = answer else {
            return (ids, None);
        };
        let accepted = answer.expect("it is accepted, or waits for room");
        assert_eq!(accepted.durability, Durability::Journal);
        assert!(!accepted.is_repeat);
        ids.push(accepted.id);
    }
}

/// Waits for their ends and forgets them.
async fn receive_and_forget(client: &Client, ids: &[TaskId]) {
    let mut ends = client.results(ids.iter().copied());
    let mut count = 0;
    while let Some(end) = ends.next().await {
        assert!(end.expect("it ends").is_done());
        count += 1;
    }
    assert_eq!(count, ids.len());
    for part in ids.chunks(1_000) {
        let forgotten = client.forget(part).await.expect("it can be forgotten");
        assert!(forgotten.iter().all(|verdict| verdict.result.is_ok()));
    }
}

fn noop() -> Task {
    Task::handler("noop", "")
}

/// A key of the submitter's own, which nobody gives back: it is remembered for its time, unless its task is forgotten and its place
/// needed.
fn with_own_key(number: u64) -> Task {
    noop().key(qtf_client::TaskKey::of(&format!("order {number}")))
}

#[test]
fn keys_of_forgotten_tasks_keep_no_submission_waiting_after_a_cold_start() {
    let place = Place::new();
    let mut daemon = started(&place);
    let _worker = place.worker(&place.address(), "w", 64);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut from = connect(&place).await;
        let begun = Instant::now();
        let wanted = tasks_wanted().unwrap_or(TASKS);
        for _ in 0..wanted / ROUND {
            let (ids, refused) = submit(&mut from, (0..ROUND).map(|_| noop())).await;
            assert_eq!((ids.len() as u64, refused), (ROUND, None));
            receive_and_forget(&from.client, &ids).await;
        }
        println!(
            "{wanted} tasks submitted, run and forgotten in {:?}",
            begun.elapsed()
        );
        // The same with keys of their own.
        let mut number = 0;
        for _ in 0..wanted / ROUND {
            let tasks = (number..number + ROUND).map(with_own_key);
            let (ids, refused) = submit(&mut from, tasks).await;
            assert_eq!((ids.len() as u64, refused), (ROUND, None));
            receive_and_forget(&from.client, &ids).await;
            number += ROUND;
        }
        // And of tasks that nobody forgets, until the table is as full of them as one user can make it.
        let full = loop {
            let tasks = (number..number + ROUND).map(with_own_key);
            let (ids, refused) = submit(&mut from, tasks).await;
            number += ids.len() as u64;
            let Some(full) = refused else { continue };
            assert_eq!(full.reason, RefusalReason::KeysFull, "{full}");
            assert!(full.message.contains("received_keys"), "{full}");
            // Never late; it may be that of a key which is gone until the table has been looked through once more.
            if full.retry_after_ms > 1_000_000 {
                break full;
            }
        };
        println!("refused after {number} keys of their own: {full}");
    });
    daemon.kill();
    place.remove_segments();
    let begun = Instant::now();
    let mut daemon = started(&place);
    println!("cold start took {:?}", begun.elapsed());
    runtime.block_on(async {
        let mut from = connect(&place).await;
        let info = from.client.info().await.expect("it tells");
        assert_eq!(info.start(), qtf_client::StartKind::Cold);
        let begun = Instant::now();
        // No key of before, of either kind. Of those whose tasks were not forgotten so many are remembered that places are left.
        let tasks = (0..40).flat_map(|at| [noop(), with_own_key(u64::MAX - at)]);
        let (ids, refused) = submit(&mut from, tasks).await;
        assert_eq!((ids.len(), refused), (80, None));
        receive_and_forget(&from.client, &ids).await;
        println!("80 new submissions with keys took {:?}", begun.elapsed());
    });
    assert_eq!(daemon.terminate(), Some(0));
    place.verify();
}
