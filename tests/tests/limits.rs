//! Limits and bad input, as the command line sees them: each is told, and nothing is lost.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use qtf_tests::{Place, Process};

/// A daemon with a segment as small as it can be, and short times where waiting would be needed.
fn small_daemon(place: &Place, extra: &str) -> Process {
    let config = place.file(
        "qtfd.toml",
        format!("segment_tasks = 64\nsegment_workers = 4\n{extra}\n"),
    );
    place.daemon(&[
        "--config",
        config.to_str().expect("the folder has a plain name"),
    ])
}

/// What one user may use of the slots of [`small_daemon`]; the rest is for others.
fn slots_of_a_user(place: &Place) -> u64 {
    let size = place
        .qtf(["size", "--tasks", "64", "--workers", "4", "--json"])
        .expect_code(0)
        .json();
    size["tasks"].as_u64().expect("a number of slots") * 31 / 32
}

fn at<'a>(address: &'a str, line: &[&'a str]) -> Vec<&'a str> {
    [&["--addr", address], line].concat()
}

#[test]
fn a_full_segment_refuses_and_takes_again_when_room_is_back() {
    let place = Place::new();
    let _daemon = small_daemon(&place, "");
    let address = place.address();
    let slots = slots_of_a_user(&place);
    let array = format!("1-{slots}");
    place
        .qtf(at(&address, &["submit", "--array", &array, "--", "true"]))
        .expect_code(0);
    let done = place
        .qtf(at(&address, &["submit", "--", "true"]))
        .expect_code(4);
    assert!(done.stderr.contains("slots"), "{}", done.stderr);
    let listed = place
        .qtf(at(&address, &["ps", "--output", "jsonl"]))
        .expect_code(0);
    assert_eq!(
        listed.text().lines().count(),
        usize::try_from(slots).unwrap()
    );
    // A worker makes room, and a submission that waits for room gets it.
    let _worker = place.worker(&address, "w", 2);
    place.qtf(at(&address, &["wait", "last"])).expect_code(0);
    place.qtf(at(&address, &["forget", "last"])).expect_code(0);
    place
        .qtf(at(&address, &["submit", "--", "true"]))
        .expect_code(0);
    place.qtf(at(&address, &["wait", "last"])).expect_code(0);
    place.verify();
}

#[test]
fn map_through_a_full_segment_waits_for_room_and_loses_nothing() {
    let place = Place::new();
    let _daemon = small_daemon(&place, "");
    let address = place.address();
    let _worker = place.worker(&address, "w", 4);
    let array = format!("1-{}", slots_of_a_user(&place) - 3);
    place
        .qtf(at(&address, &["submit", "--array", &array, "--", "true"]))
        .expect_code(0);
    place.qtf(at(&address, &["wait", "last"])).expect_code(0);
    // Three slots are left for 300 tasks.
    let numbers: String = (1..=300).map(|number| format!("{number}\n")).collect();
    let done = place.qtf_with_stdin(at(&address, &["map", "echo"]), numbers.clone().into_bytes());
    assert_eq!(done.expect_code(0).text(), numbers);
    place.verify();
}

#[test]
fn a_payload_over_the_limit_is_refused_with_the_limit() {
    let place = Place::new();
    let _daemon = small_daemon(&place, "payload_bytes_max = 100000");
    let address = place.address();
    place.file("large", vec![0; 200_000]);
    let done = place
        .qtf(at(&address, &["submit", "--stdin", "large", "--", "cat"]))
        .expect_code(4);
    assert!(done.stderr.contains("100000"), "{}", done.stderr);
    place.file("small", vec![0; 90_000]);
    place
        .qtf(at(&address, &["submit", "--stdin", "small", "--", "cat"]))
        .expect_code(0);
    place.verify();
}

#[test]
fn a_payload_of_many_chunks_comes_back_whole() {
    let place = Place::new();
    let _daemon = place.daemon(&[]);
    let address = place.address();
    let _worker = place.worker(&address, "w", 1);
    let large: Vec<u8> = (0..5_000_000_u32)
        .map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[1])
        .collect();
    place.file("large", &large);
    place
        .qtf(at(&address, &["submit", "--stdin", "large", "--", "cat"]))
        .expect_code(0);
    place.qtf(at(&address, &["wait", "last"])).expect_code(0);
    let done = place.qtf(at(&address, &["result", "last"])).expect_code(0);
    assert!(
        done.stdout == large,
        "{} bytes came back",
        done.stdout.len()
    );
    place.verify();
}

#[test]
fn the_id_of_a_reused_slot_is_not_the_new_task() {
    let place = Place::new();
    let _daemon = small_daemon(&place, "");
    let address = place.address();
    let slots = slots_of_a_user(&place);
    let array = format!("1-{slots}");
    let old = place
        .qtf(at(&address, &["submit", "--array", &array, "--", "true"]))
        .expect_code(0);
    place.qtf(at(&address, &["cancel", "last"])).expect_code(0);
    place.qtf(at(&address, &["forget", "last"])).expect_code(0);
    let new = place
        .qtf(at(&address, &["submit", "--array", &array, "--", "true"]))
        .expect_code(0);
    let old = old.text();
    // More of them than there are slots that the second array has left out.
    for old in old.lines().take(5) {
        assert!(new.text().lines().all(|id| id != old));
        for command in ["task", "cancel", "forget", "result", "wait"] {
            place.qtf(at(&address, &[command, old])).expect_code(3);
        }
        place
            .qtf(at(&address, &["update", old, "-p", "1"]))
            .expect_code(3);
    }
    let listed = place.qtf(at(
        &address,
        &["ps", "--state", "ready,blocked", "--output", "jsonl"],
    ));
    assert_eq!(
        listed.expect_code(0).text().lines().count(),
        usize::try_from(slots).unwrap()
    );
    place.verify();
}

#[test]
fn garbage_on_the_tcp_port_disturbs_nobody() {
    let place = Place::new();
    let tcp = place.free_tcp_address();
    let _daemon = place.daemon(&["--listen", &tcp]);
    let _worker = place.worker(&tcp, "w", 1);
    let mut garbage: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        vec![0; 100_000],
        Vec::new(),
    ];
    garbage.push(
        (0..50_000_u32)
            .map(|number| (number.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0])
            .collect(),
    );
    for bytes in &garbage {
        let mut stream = TcpStream::connect(tcp.as_str()).unwrap();
        // The daemon may close while we still write.
        let _closed = stream.write_all(bytes);
        let _closed = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _closed = stream.read_to_end(&mut answer);
    }
    let done = place
        .qtf(at(&tcp, &["map", "echo", ":::", "still", "here"]))
        .expect_code(0);
    assert_eq!(done.text(), "still\nhere\n");
    place.verify();
}

#[test]
fn a_second_daemon_under_the_name_says_so() {
    let place = Place::new();
    let _daemon = place.daemon(&[]);
    let mut second = place.command("qtfd");
    second.args(["--instance", place.instance(), "--core", "none"]);
    let done = place.finish(second, Vec::new()).expect_code(3);
    assert!(done.stderr.contains("already running"), "{}", done.stderr);
    place.qtf(at(&place.address(), &["ps"])).expect_code(0);
}

#[test]
fn an_address_in_use_is_named() {
    let place = Place::new();
    let tcp = place.free_tcp_address();
    let _taken = std::net::TcpListener::bind(tcp.as_str()).unwrap();
    let mut daemon = place.command("qtfd");
    daemon.args([
        "--instance",
        place.instance(),
        "--core",
        "none",
        "--listen",
        &tcp,
    ]);
    let done = place.finish(daemon, Vec::new()).expect_code(3);
    assert!(done.stderr.contains(&tcp), "{}", done.stderr);
}

#[test]
fn a_client_that_disconnects_ends_nothing() {
    let place = Place::new();
    let _daemon = place.daemon(&[]);
    let address = place.address();
    let mut map = place.command("qtf");
    let started = place.fifo("started");
    let mut gate = place.gate("gate");
    map.args([
        "--addr",
        &address,
        "map",
        "sh",
        "-c",
        "echo up > $1; read x < $2; echo end $3",
        "x",
    ]);
    map.arg(started.path())
        .arg(gate.path())
        .args(["{}", ":::", "a", "b"]);
    let _worker = place.worker(&address, "w", 2);
    let mut map = Process::start(map);
    assert_eq!([started.line(), started.line()], ["up", "up"]);
    map.kill();
    let running = place
        .qtf(at(&address, &["ps", "--json"]))
        .expect_code(0)
        .json();
    assert_eq!(running["tasks"].as_array().unwrap().len(), 2);
    gate.let_pass(2);
    place.qtf(at(&address, &["wait", "all"])).expect_code(0);
    let kept = place
        .qtf(at(&address, &["ps", "--all", "--output", "jsonl"]))
        .expect_code(0);
    let ids: Vec<String> = kept
        .text()
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["id"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    let results = place
        .qtf(at(&address, &["result", &ids.join(",")]))
        .expect_code(0);
    let mut lines: Vec<&str> = results.text().lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["end a", "end b"]);
    place.verify();
}

#[test]
fn programs_go_on_when_the_reader_of_their_log_goes_away() {
    let place = Place::new();
    let broken = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let mut map = place.command("qtf");
    map.args(["map", "echo", "{}", ":::", "a", "b"])
        .env("QTF_LOG", "trace")
        .stderr(broken());
    let done = map.output().unwrap();
    assert_eq!(done.status.code(), Some(0));
    assert_eq!(done.stdout, b"a\nb\n");
    let _daemon = small_daemon(&place, "");
    let address = place.address();
    let mut worker = place.command("qtf-worker");
    worker
        .args(["--connect", &address, "--slots", "1"])
        .env("QTF_LOG", "trace")
        .stderr(broken());
    let mut worker = worker.spawn().unwrap();
    place
        .qtf(at(&address, &["map", "echo", "{}", ":::", "c"]))
        .expect_code(0);
    assert_eq!(worker.try_wait().unwrap(), None);
    worker.kill().unwrap();
    worker.wait().unwrap();
}
