//! However many connections there are, journal, snapshots and files have the descriptors that they need.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt as _;
use qtf_client::{Address, Client, Durability, Task};
use qtf_tests::programs::program;
use qtf_tests::{Place, Process};

/// What a client sends first: the preface of HTTP/2 and settings with nothing in them.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A daemon that may open so many files, with the journal and snapshots in small pieces.
fn limited(place: &Place, limit: u32) -> Command {
    let config = place.file(
        "config.toml",
        format!(
            "data_dir = {:?}\njournal_file_bytes = 524288\nsnapshot_after_bytes = 524288\n",
            place.work().join("data")
        ),
    );
    let mut command = place.command_of(Path::new("sh"));
    command
        .args(["-c", &format!("ulimit -n {limit} && exec \"$@\""), "sh"])
        .arg(program("qtfd"))
        .args(["--instance", place.instance(), "--core", "none", "--config"])
        .arg(config);
    command
}

fn started(place: &Place, command: Command) -> (Process, u64) {
    let mut daemon = Process::start(command);
    place.remember_maker(daemon.pid());
    let line = daemon.line_with("serving");
    let (_, rest) = line.split_once("connections=").expect("it says how many");
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    (daemon, digits.parse().expect("a number"))
}

/// Whether the daemon serves this connection: its settings come, and not the end.
fn is_served(stream: &mut UnixStream) -> bool {
    // The daemon may have closed it already.
    if stream.write_all(HELLO).is_err() {
        return false;
    }
    let mut head = [0; 9];
    stream.read_exact(&mut head).is_ok() && head[3] == 4
}

#[test]
fn connections_at_their_limit_take_no_descriptor_from_journal_and_snapshots() {
    let place = Place::new();
    let (mut daemon, connections_max) = started(&place, limited(&place, 256));
    assert!((12..200).contains(&connections_max), "{connections_max}");
    let address: Address = place.address().parse().unwrap();
    let path = address.socket_file().unwrap().to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = Client::builder(address.clone())
            .reconnect_for(Duration::ZERO)
            .connect()
            .await
            .unwrap();
        let mut idle: Vec<UnixStream> = Vec::new();
        // The client's is one of them; the last thirty-second is for others.
        let share = connections_max * 31 / 32;
        while idle.len() + 1 < usize::try_from(share).unwrap() {
            let mut stream = UnixStream::connect(&path).unwrap();
            assert!(
                is_served(&mut stream),
                "{} of {connections_max}",
                idle.len()
            );
            idle.push(stream);
        }
        for _ in 0..300 {
            drop(UnixStream::connect(&path).unwrap());
        }
        let refused = place.qtf(["--addr", &place.address(), "ps"]);
        assert_ne!(refused.code, 0, "beyond the share");
        // Several files of the journal, and the snapshots that go with them.
        let tasks = (0..3_000)
            .map(|_| Task::handler("none", vec![7_u8; 1_000]).durability(Durability::Journal));
        let mut answers = client.submit_many(tasks);
        while let Some(answer) = answers.next().await {
            assert_eq!(answer.unwrap().durability, Durability::Journal);
        }
        daemon.line_with("snapshot taken");
        drop(idle);
    });
    // Accepts again as soon as the daemon has seen that they are closed; `qtf` asks until then.
    while place.qtf(["--addr", &place.address(), "ps"]).code != 0 {}
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn soft_limit_is_raised_to_the_hard_one() {
    let place = Place::new();
    let mut command = place.command_of(Path::new("sh"));
    command
        .args([
            "-c",
            "ulimit -Sn 200 && ulimit -Hn 900 && exec \"$@\"",
            "sh",
        ])
        .arg(program("qtfd"))
        .args(["--instance", place.instance(), "--core", "none"]);
    let (mut daemon, connections_max) = started(&place, command);
    assert!(connections_max > 200, "{connections_max}");
    let info = place.qtf(["--addr", &place.address(), "info", "--json"]);
    let counters = info.expect_code(0).json()["counters"].clone();
    assert_eq!(counters["open_files_max"], 900);
    assert_eq!(counters["connections_max"], connections_max);
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn connection_costs_one_descriptor() {
    let place = Place::new();
    let mut daemon = place.daemon(&[]);
    let address: Address = place.address().parse().unwrap();
    let path = address.socket_file().unwrap();
    let open = || {
        let folder = format!("/proc/{}/fd", daemon.pid());
        std::fs::read_dir(folder).unwrap().count()
    };
    let before = open();
    let mut streams = Vec::new();
    for _ in 0..50 {
        let mut stream = UnixStream::connect(path).unwrap();
        assert!(is_served(&mut stream));
        streams.push(stream);
    }
    assert!(
        open() - before <= 52,
        "{} for 50 connections",
        open() - before
    );
    drop(streams);
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn too_few_descriptors_are_refused_with_the_number_that_is_needed_and_nothing_is_left() {
    let place = Place::new();
    let mut daemon = Process::start(limited(&place, 100));
    place.remember_maker(daemon.pid());
    daemon.line_with("at least 128 are needed");
    assert_eq!(daemon.wait().code(), Some(1));
    assert_eq!(place.segments(), []);
}
