//! A table of idempotency keys without a place: commands say so, wait a bounded time, and end with the reason.

use std::fs::File;
use std::io::Write as _;

use futures_util::StreamExt as _;
use qtf_client::{Address, Client, Notice, Task, TaskId, TaskKey};
use qtf_tests::{Place, Process};
use tokio::sync::mpsc::unbounded_channel;

fn started(place: &Place) -> Process {
    let config = place.file("qtfd.toml", "segment_tasks = 4096\nsegment_workers = 8\n");
    place.daemon(&["--config", config.to_str().expect("the name is plain")])
}

fn chosen(number: u64) -> Task {
    Task::handler("noop", "").key(TaskKey::of(&format!("order {number}")))
}

/// Submits with chosen keys, whose tasks nobody acknowledges, until no place is left.
async fn fill(address: &Address) -> (Client, Vec<TaskId>) {
    let (tell, mut refusals) = unbounded_channel();
    let builder = Client::builder(address.clone()).on_notice(move |notice| {
        if let Notice::NoPlaceForKey { .. } = notice {
            // Nobody listens when the table is full.
            let _told = tell.send(());
        }
    });
    let client = builder.connect().await.expect("the daemon serves");
    let mut answers = client.submit_many((0..4_000).map(chosen));
    let mut ids = Vec::new();
    loop {
        tokio::select! {
            biased;
            answer = answers.next() => {
                let answer = answer.expect("more than there are places");
                ids.push(answer.expect("it is accepted").id);
            }
            _ = refusals.recv() => return (client, ids),
        }
    }
}

/// The result of one of them is received: its place is there for others.
async fn acknowledge_one(client: &Client, id: TaskId) {
    client.wait(id).await.expect("it ends");
    let forgotten = client.forget(&[id]).await.expect("the daemon answers");
    assert!(forgotten.iter().all(|verdict| verdict.result.is_ok()));
}

#[test]
fn map_without_a_place_for_keys_says_so_prints_what_was_accepted_and_ends() {
    let place = Place::new();
    let mut daemon = started(&place);
    let address = place.address();
    let _worker = place.worker(&address, "w", 8);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let parsed: Address = address.parse().expect("it is an address");
    let (client, ids) = runtime.block_on(fill(&parsed));
    runtime.block_on(acknowledge_one(&client, ids[0]));

    let pipe = place.work().join("inputs");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe can be made");
    let mut command = place.command("qtf");
    command.args(["--addr", &address, "map", "--no-progress", "echo", "::::"]);
    command.arg(&pipe);
    let mut map = Process::start(command);
    let mut inputs = File::options()
        .write(true)
        .open(&pipe)
        .expect("map reads it");
    inputs.write_all(b"one\n").expect("map reads it");
    map.line_with("one");
    // Printed and acknowledged, so its key has ended: somebody else takes the place, and keeps it.
    let taken = runtime.block_on(async { client.submit_many([chosen(9_999)]).next().await });
    assert!(
        taken.expect("an answer").is_ok(),
        "map has given its place back"
    );
    inputs.write_all(b"two\n").expect("map reads it");
    let line = map.line_with("waiting up to 5 s for a place");
    for word in ["received_keys", "places for idempotency keys"] {
        assert!(line.contains(word), "{line}");
    }
    map.line_with("input two: ");
    map.line_with("no input was read after");
    // Though there might be more inputs: the pipe is open.
    assert_eq!(map.wait().code(), Some(4));
    drop(inputs);

    let refused = place
        .qtf(["--addr", &address, "submit", "--", "true"])
        .expect_code(4);
    assert!(
        refused.stderr.contains("waiting up to 5 s for a place"),
        "{}",
        refused.stderr
    );
    assert!(refused.stdout.is_empty());
    runtime.block_on(acknowledge_one(&client, ids[1]));
    place
        .qtf(["--addr", &address, "submit", "--", "true"])
        .expect_code(0);
    assert_eq!(daemon.terminate(), Some(0));
    place.verify();
}
