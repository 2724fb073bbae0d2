//! Programs at `shm:NAME`: clients and workers that write to the segment themselves, among real processes of which some are killed or stopped.

use std::collections::{HashMap, HashSet};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use nix::sys::signal::Signal;
use qtf_client::{Address, Client, Durability, RefusalReason, Task, TaskId, TaskState};
use qtf_local::direct::{DirectTask, OpenSegment, Wait};
use qtf_needs::{Need, lacks};
use qtf_shm::Phase;
use qtf_tests::programs::program;
use qtf_tests::{Place, Process};

/// `nobody` wherever there is one; that the number has no name does not matter.
const STRANGER: u32 = 65_534;
const WATCHDOG: Duration = Duration::from_secs(300);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

fn address(place: &Place) -> Address {
    place.segment_address().parse().expect("an address")
}

async fn connect(place: &Place) -> Client {
    Client::connect(&address(place)).await.expect("a client")
}

/// A worker at the segment that offers `noop` and `echo`, and programs.
fn worker(place: &Place, name: &str) -> Process {
    place.worker(&place.segment_address(), name, 2)
}

/// What `qtf` says, with its exit code.
fn qtf_fails(place: &Place, address: &str, code: i32) -> String {
    let ended = place.qtf(["--addr", address, "ps"]);
    ended.expect_code(code).stderr
}

/// The command that submits a script, with two paths as its arguments.
fn shell_task(place: &Place, script: &str, paths: [&Path; 2]) -> Command {
    let mut submit = place.command("qtf");
    let shm = place.segment_address();
    submit.args(["--addr", &shm, "submit", "--", "sh", "-c", script, "x"]);
    submit.args(paths);
    submit
}

fn segment_of(place: &Place) -> qtf_proto::address::SegmentAddress {
    let Address::Segment(segment) = address(place) else {
        panic!("no segment");
    };
    segment
}

#[test]
fn command_line_and_worker_do_over_the_segment_what_they_do_over_a_socket() {
    let place = Place::new();
    let _daemon = place.daemon(&[]);
    let mut worker = worker(&place, "local");
    let shm = format!("shm:{}", place.instance());
    let run = |words: &[&str]| place.qtf(["--addr", &shm].iter().chain(words));
    let id = run(&["submit", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    let id = id.expect_code(0).text().trim().to_owned();
    run(&["wait", &id]).expect_code(1);
    let result = run(&["result", &id]);
    assert_eq!(result.expect_code(1).text(), "out\n");
    assert!(run(&["task", &id]).expect_code(0).text().contains("failed"));
    assert!(run(&["ps", "--all"]).expect_code(0).text().contains(&id));
    run(&["forget", &id]).expect_code(0);
    run(&["task", &id]).expect_code(3);
    let mapped = run(&["map", "-j", "2", "--", "echo", "{}", ":::", "1", "2", "3"]);
    assert_eq!(mapped.expect_code(0).text(), "1\n2\n3\n");
    // Only a daemon's: says where to ask.
    let refused = run(&["worker", "drain", "w0.1"]).expect_code(4);
    assert!(
        refused.stderr.contains("--addr unix:"),
        "{}",
        refused.stderr
    );
    assert_eq!(worker.terminate(), Some(0));
    place.verify();
}

#[test]
fn all_are_the_tasks_of_the_user_whichever_process_submitted_them() {
    let place = Place::new();
    let _daemon = place.daemon(&[]);
    let shm = format!("shm:{}", place.instance());
    let run = |words: &[&str]| place.qtf(["--addr", &shm].iter().chain(words));
    let submit = || {
        let id = run(&["submit", "--durability", "memory", "--", "true"]);
        id.expect_code(0).text().trim().to_owned()
    };
    // Nobody runs them. Each process has a client record of its own.
    let ids: Vec<String> = (0..4).map(|_| submit()).collect();
    run(&["wait", "all", "--timeout", "10ms"]).expect_code(6);
    run(&["cancel", "all"]).expect_code(0);
    for id in &ids {
        let task = run(&["task", id]).expect_code(0);
        assert!(task.text().contains("cancelled"), "{}", task.text());
    }
    run(&["forget", "all"]).expect_code(0);
    run(&["task", &ids[0]]).expect_code(3);
    place.verify();
}

#[test]
fn bench_at_the_segment_of_a_daemon_leaves_no_task_behind() {
    let place = Place::new();
    let _daemon = place.daemon(&[]);
    let shm = format!("shm:{}", place.instance());
    let run = |words: &[&str]| place.qtf(["--addr", &shm].iter().chain(words));
    for _ in 0..3 {
        run(&["bench", "--tasks", "2000", "--in-flight", "64"]).expect_code(0);
        let left = run(&["ps", "--all", "--output", "jsonl"]).expect_code(0);
        assert_eq!(left.text(), "");
    }
    place.verify();
}

#[test]
fn running_and_waiting_tasks_are_cancelled_and_hurried_over_the_segment() {
    let place = Place::new();
    let _daemon = place.daemon(&[]);
    let _worker = worker(&place, "local");
    runtime().block_on(async {
        let client = connect(&place).await;
        let sleeps = client
            .submit(Task::exec(["sleep", "600"]))
            .await
            .unwrap()
            .id;
        let more = client
            .submit(Task::exec(["sleep", "600"]))
            .await
            .unwrap()
            .id;
        let waits = client.submit(Task::exec(["true"])).await.unwrap().id;
        until_state(&client, sleeps, TaskState::Running).await;
        until_state(&client, more, TaskState::Running).await;
        let hurried = client.update_priority(&[waits], 250).await.unwrap();
        assert_eq!(hurried[0].result, Ok(TaskState::Ready));
        assert_eq!(client.task(waits).await.unwrap().priority, 250);
        let verdicts = client
            .cancel(&[waits, sleeps, more], "the test")
            .await
            .unwrap();
        assert_eq!(verdicts[0].result, Ok(TaskState::Cancelled));
        for id in [waits, sleeps, more] {
            assert_eq!(client.wait(id).await.unwrap().state, TaskState::Cancelled);
        }
        let forgotten = client.forget(&[waits, sleeps, more]).await.unwrap();
        assert!(forgotten.iter().all(|verdict| verdict.result.is_ok()));
        let again = client.forget(&[waits]).await.unwrap();
        let reason = again[0].result.as_ref().unwrap_err().reason;
        assert_eq!(reason, RefusalReason::UnknownTask);
    });
}

async fn until_state(client: &Client, id: TaskId, state: TaskState) {
    let until = Instant::now() + WATCHDOG;
    while client.task(id).await.expect("it is there").state() != state {
        assert!(Instant::now() < until, "{id} does not come to {state:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn journal_tasks_keys_arrays_and_large_payloads_are_accepted_over_the_segment() {
    let place = Place::new();
    let data = place.work().join("data").display().to_string();
    let _daemon = place.daemon(&["--data-dir", &data]);
    let _worker = worker(&place, "local");
    runtime().block_on(async {
        let client = connect(&place).await;
        let durable = client.submit(Task::handler("echo", "kept")).await.unwrap();
        assert_eq!(durable.durability, Durability::Journal);
        let end = client.wait(durable.id).await.unwrap();
        assert_eq!(end.output.unwrap().stdout, "kept");

        let named = || Task::handler("noop", "").key("the same");
        let first = client.submit(named()).await.unwrap();
        let second = client.submit(named()).await.unwrap();
        assert_eq!((second.id, second.is_repeat), (first.id, true));

        let large = vec![7_u8; 3 << 20];
        let task = Task::handler("echo", large.clone()).durability(Durability::Memory);
        let id = client.submit(task).await.unwrap().id;
        let end = client.wait(id).await.unwrap();
        assert!(end.is_done() && end.output.unwrap().stdout == large);

        let members = (0..10).map(|_| Task::handler("noop", ""));
        let ids: Vec<_> = client
            .submit_array(members)
            .map(|answer| answer.unwrap().id)
            .collect()
            .await;
        let array = client.task(ids[3]).await.unwrap();
        assert_eq!((array.array_id, array.array_index), (ids[0].as_raw(), 3));
    });
    place.verify();
}

/// The numbers whose echoes came back, each once.
async fn echoes(client: &Client, ids: HashMap<TaskId, u64>) -> Vec<u64> {
    let mut results = client.results(ids.keys().copied());
    let mut numbers = Vec::new();
    while let Some(end) = results.next().await {
        let end = end.expect("an end");
        let said = end.output.expect("an echo").stdout;
        let said = String::from_utf8_lossy(&said).parse().expect("a number");
        assert_eq!(ids.get(&end.id), Some(&said));
        numbers.push(said);
        results.acknowledge([end.id]);
    }
    results.close().await.expect("acknowledged");
    numbers.sort_unstable();
    numbers
}

async fn submit_echoes(client: &Client, numbers: std::ops::Range<u64>) -> HashMap<TaskId, u64> {
    let tasks = numbers
        .clone()
        .map(|number| Task::handler("echo", number.to_string()).durability(Durability::Memory));
    let answers = client.submit_many(tasks);
    let ids = answers.map(|answer| answer.expect("accepted").id);
    ids.zip(futures_util::stream::iter(numbers)).collect().await
}

#[test]
fn memory_tasks_go_on_while_no_daemon_lives_and_the_successor_takes_up_what_it_finds() {
    let place = Place::new();
    let mut daemon = place.daemon(&[]);
    let mut worker = worker(&place, "local");
    runtime().block_on(async {
        let client = connect(&place).await;
        let before = submit_echoes(&client, 0..20).await;
        daemon.kill();
        // More than a worker keeps ends for: it goes on as they are acknowledged.
        let meanwhile = submit_echoes(&client, 20..300).await;
        let mut told = echoes(&client, meanwhile).await;
        let unread = submit_echoes(&client, 300..320).await;
        // What needs one says so.
        let client_of_a_moment = Client::builder(address(&place))
            .reconnect_for(Duration::ZERO)
            .connect()
            .await
            .unwrap();
        let journal = Task::handler("noop", "").durability(Durability::Journal);
        let refused = client_of_a_moment.submit(journal).await.unwrap_err();
        assert!(
            refused.to_string().contains("waits for the daemon"),
            "{refused}"
        );
        let _successor = place.daemon(&[]);
        let late = submit_echoes(&client, 320..350).await;
        // What had ended and was not judged when the daemon died is among the first.
        let rest = before.into_iter().chain(unread).chain(late).collect();
        told.extend(echoes(&client, rest).await);
        told.sort_unstable();
        assert_eq!(told, (0..350).collect::<Vec<_>>());
        assert_eq!(worker.terminate(), Some(0));
    });
    place.verify();
}

#[test]
fn task_of_a_local_worker_that_is_killed_runs_again_elsewhere() {
    let place = Place::new();
    let _daemon = place.daemon(&[]);
    let mut first = worker(&place, "first");
    let started = place.fifo("started");
    let mut gate = place.gate("gate");
    let submit = shell_task(
        &place,
        "echo $QTF_ATTEMPT > $1; read x < $2",
        [started.path(), gate.path()],
    );
    place.finish(submit, Vec::new()).expect_code(0);
    assert_eq!(started.line(), "1");
    first.kill();
    let _second = worker(&place, "second");
    assert_eq!(started.line(), "2");
    gate.let_pass(1);
    place
        .qtf(["--addr", &place.segment_address(), "wait", "last"])
        .expect_code(0);
    place.verify();
}

#[test]
fn worker_that_is_told_to_leave_ends_what_it_has_and_takes_nothing_more() {
    let place = Place::new();
    let _daemon = place.daemon(&[]);
    let mut worker = place.worker(&place.segment_address(), "local", 1);
    let started = place.fifo("started");
    let mut gate = place.gate("gate");
    let submit = shell_task(
        &place,
        "echo up > $1; read x < $2; echo through",
        [started.path(), gate.path()],
    );
    let first = place.finish(submit, Vec::new()).expect_code(0);
    assert_eq!(started.line(), "up");
    let shm = place.segment_address();
    let second = place
        .qtf(["--addr", &shm, "submit", "--", "true"])
        .expect_code(0);
    worker.signal(Signal::SIGTERM);
    worker.line_with("draining");
    gate.let_pass(1);
    assert_eq!(worker.wait().code(), Some(0));
    let result = place.qtf(["--addr", &shm, "result", first.text().trim()]);
    assert_eq!(result.expect_code(0).text(), "through\n");
    let waits = place.qtf(["--addr", &shm, "task", second.text().trim()]);
    // Nobody offers its kind any more.
    let waits = waits.expect_code(0);
    let shown = waits.text();
    assert!(
        shown.contains("ready") || shown.contains("blocked"),
        "{shown}"
    );
    place.verify();
}

#[test]
fn sixty_local_clients_at_once_get_the_results_of_their_own_tasks_and_no_other() {
    const EACH: u64 = 200;
    let place = Place::new();
    let _daemon = place.daemon(&["--segment-bytes", "268435456"]);
    let _workers = [worker(&place, "one"), worker(&place, "two")];
    let segment = segment_of(&place);
    let sums: Vec<u64> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..64_u64)
            .map(|client| {
                let segment = &segment;
                scope.spawn(move || {
                    let numbers = client * EACH..(client + 1) * EACH;
                    sum_of_echoes(segment, numbers)
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect()
    });
    assert_eq!(sums.iter().sum::<u64>(), (0..64 * EACH).sum::<u64>());
    place.verify();
}

/// Submits numbers as echoes and adds what comes back.
fn sum_of_echoes(
    address: &qtf_proto::address::SegmentAddress,
    numbers: std::ops::Range<u64>,
) -> u64 {
    use prost::Message as _;
    let open = OpenSegment::client_of(address, "adder").expect("room for a client");
    let kind = open.kind("echo").expect("a known kind");
    let mut client = open.client().expect("its one client");
    let mut ids = HashMap::new();
    for number in numbers {
        let payload = number.to_string();
        let task = DirectTask {
            kind,
            payload: payload.as_bytes(),
            priority: 128,
        };
        ids.insert(client.submit(&task).expect("room"), number);
    }
    let (mut sum, until) = (0, Instant::now() + WATCHDOG);
    while client.under_way() > 0 {
        assert!(
            Instant::now() < until,
            "{} are not told",
            client.under_way()
        );
        let Some((task, phase)) = client.next_end(Wait::asleep(Duration::from_secs(1))) else {
            continue;
        };
        assert_eq!(phase, Phase::Done);
        let mut output = [0; 64];
        let count = client.read_output(task, 0, &mut output).expect("a result");
        let output = qtf_client::TaskOutput::decode(&output[..count]).expect("an output");
        let said: u64 = String::from_utf8_lossy(&output.stdout)
            .parse()
            .expect("a number");
        assert_eq!(ids.remove(&task), Some(said), "told once, of its own task");
        sum += said;
        client.forget(task);
    }
    sum
}

#[test]
fn client_that_never_looks_at_its_events_holds_up_nobody_and_hears_of_all_when_it_does() {
    let place = Place::new();
    let _daemon = place.daemon(&[]);
    let _worker = worker(&place, "local");
    let segment = segment_of(&place);
    let open = OpenSegment::client_of(&segment, "deaf").expect("room for a client");
    let kind = open.kind("noop").expect("a known kind");
    let mut deaf = open.client().expect("its one client");
    let task = DirectTask {
        kind,
        payload: b"",
        priority: 200,
    };
    let mut ids = HashSet::new();
    for _ in 0..1_000 {
        ids.insert(deaf.submit(&task).expect("room"));
    }
    // Its lane has room for 64 events.
    assert_eq!(sum_of_echoes(&segment, 0..500), (0..500).sum::<u64>());
    let until = Instant::now() + WATCHDOG;
    while !ids.is_empty() {
        assert!(Instant::now() < until, "{} are not told", ids.len());
        if let Some((task, phase)) = deaf.next_end(Wait::asleep(Duration::from_secs(1))) {
            assert!(
                ids.remove(&task) && phase == Phase::Done,
                "{task} {phase:?}"
            );
            deaf.forget(task);
        }
    }
}

#[test]
fn lane_owner_that_is_stopped_holds_up_nobody_and_goes_on_when_it_may() {
    let place = Place::new();
    let _daemon = place.daemon(&[]);
    let _worker = worker(&place, "local");
    let mut map = place.command("qtf");
    map.args([
        "--addr",
        &place.segment_address(),
        "map",
        "-j",
        "2",
        "--",
        "sh",
        "-c",
        "echo $0; sleep 0.01",
        "{}",
        ":::",
    ]);
    map.args((0..200).map(|number| number.to_string()));
    let mut map = Process::start(map);
    map.line_with("3");
    map.signal(Signal::SIGSTOP);
    assert_eq!(
        sum_of_echoes(&segment_of(&place), 0..500),
        (0..500).sum::<u64>()
    );
    map.signal(Signal::SIGCONT);
    assert_eq!(map.wait().code(), Some(0));
    place.verify();
}

#[test]
fn instance_that_is_not_there_is_named_with_what_to_do() {
    let place = Place::new();
    let told = qtf_fails(&place, "shm:nobody", 5);
    assert!(told.contains("no instance nobody is here"), "{told}");
    let daemon = place.daemon(&[]);
    let told = qtf_fails(&place, "shm:nobody", 5);
    assert!(told.contains("start qtfd --instance nobody"), "{told}");
    drop(daemon);
}

#[test]
fn segment_in_another_ipc_namespace_is_said_to_be_there() {
    if lacks(Need::IpcNamespace) {
        return;
    }
    let place = Place::new();
    let _daemon = place.daemon(&[]);
    let mut command = place.command_of(&PathBuf::from("unshare"));
    command.arg("--ipc").arg(program("qtf"));
    command.args(["--addr", &place.segment_address(), "ps"]);
    let ended = place.finish(command, Vec::new()).expect_code(5);
    assert!(
        ended.stderr.contains("another IPC namespace"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("--addr unix:"), "{}", ended.stderr);
}

#[test]
fn user_who_may_not_write_to_the_segment_is_told_who_may() {
    use std::os::unix::fs::PermissionsExt as _;
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let place = Place::new();
    let _daemon = place.daemon(&[]);
    let open = std::fs::Permissions::from_mode(0o755);
    for folder in place.runtime().ancestors().take(3) {
        std::fs::set_permissions(folder, open.clone()).expect("root may");
    }
    let mut command = place.command("qtf");
    command.args(["--addr", &place.segment_address(), "ps"]);
    command.uid(STRANGER).current_dir("/");
    let ended = place.finish(command, Vec::new()).expect_code(5);
    let told = ended.stderr;
    assert!(told.contains("may not be written by user 65534"), "{told}");
    assert!(told.contains("segment_group_access"), "{told}");
}

#[test]
fn attach_records_that_are_all_in_use_are_told_with_their_number() {
    let place = Place::new();
    // A small segment has few.
    let _daemon = place.daemon(&["--segment-bytes", "4194304"]);
    let segment = segment_of(&place);
    let mut open = Vec::new();
    let full = loop {
        match OpenSegment::client_of(&segment, "one of many") {
            Ok(one) => open.push(one),
            Err(error) => break error,
        }
    };
    assert!(
        full.to_string()
            .contains("attach records of the segment are in use"),
        "{full}"
    );
    assert!(open.len() > 8, "{}", open.len());
    let refused = runtime().block_on(
        Client::builder(address(&place))
            .call_timeout(Duration::from_millis(100))
            .connect(),
    );
    let told = refused.unwrap_err().to_string();
    assert!(told.contains("attach records"), "{told}");
    open.pop();
    runtime().block_on(async {
        let client = connect(&place).await;
        client.submit(Task::handler("noop", "")).await.unwrap();
    });
}

#[test]
fn daemon_that_is_starting_is_waited_for() {
    let place = Place::new();
    drop(place.daemon(&[]));
    place.remove_segments();
    // Somebody has the name, and no segment yet.
    let lock = qtf_shm::LockFile::open(&place.runtime().join(format!("{}.lock", place.instance())));
    let lock = lock.expect("the file stays");
    assert!(lock.lock(0).expect("a lock"));
    let told = qtf_fails(&place, &place.segment_address(), 5);
    assert!(told.contains("is starting"), "{told}");
    runtime().block_on(async {
        let address = address(&place);
        let waiting = tokio::spawn(async move {
            let builder = Client::builder(address);
            builder.call_timeout(WATCHDOG).connect().await
        });
        tokio::task::yield_now().await;
        lock.unlock(0).expect("unlocked");
        let _daemon = place.daemon(&[]);
        let client = waiting.await.unwrap().expect("it serves now");
        client.submit(Task::handler("noop", "")).await.unwrap();
    });
}
