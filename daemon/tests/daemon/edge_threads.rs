//! A daemon whose connections are served by threads of their own (`edge_threads`). The stories of this suite run there too
//! (`support::on_both`, `journal.rs`); here is what such a daemon alone has to show.

use std::sync::Arc;

use nix::sys::signal::Signal;
use qtf_daemon::config::RawConfig;
use qtf_daemon::{Daemon, RunningDaemon, Settings};
use qtf_proto::address::Address;
use qtf_proto::refusal::refusal_of;
use qtf_proto::v1::*;
use qtf_shm::sync::{AtomicU64, Ordering};

use crate::process::{Home, Qtfd, refused};
use crate::support::{
    Peer, RawWorker, connect, edge_threads, hello, noop, on_edge_threads, run, small, until,
};

fn with_edge_threads(raw: RawConfig) -> RunningDaemon {
    Daemon::start(Settings::private_with(on_edge_threads(raw)).unwrap()).unwrap()
}

/// Submits batches over one stream; payloads are the client's number and the place in its stream. Batches must be answered in order.
async fn submit_in_order(mut peer: Peer, client: u8, batches: u64, entries: u64) {
    let payload = move |place: u64| {
        let mut payload = vec![client];
        payload.extend(place.to_be_bytes());
        payload
    };
    let requests = (0..batches).map(move |batch| SubmitStreamRequest {
        batch: batch + 1,
        tasks: (0..entries)
            .map(|entry| noop(&payload(batch * entries + entry)))
            .collect(),
        ..SubmitStreamRequest::default()
    });
    let stream = tokio_stream::iter(requests);
    let mut answers = peer.plm.submit_stream(stream).await.unwrap().into_inner();
    for batch in 1..=batches {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.batch, batch, "batches are answered in their order");
        assert!(answer.verdicts.iter().all(|one| one.refusal.is_none()));
    }
    assert!(answers.message().await.unwrap().is_none());
}

#[test]
fn messages_of_a_stream_do_not_overtake_each_other_however_many_threads_serve_others() {
    const CLIENTS: u8 = 4;
    const BATCHES: u64 = 40;
    const ENTRIES: u64 = 5;
    let daemon = with_edge_threads(small());
    run(async {
        let mut submitting = Vec::new();
        for client in 0..CLIENTS {
            let peer = Peer::over(connect(&daemon).await);
            submitting.push(tokio::spawn(submit_in_order(
                peer, client, BATCHES, ENTRIES,
            )));
        }
        for stream in submitting {
            stream.await.unwrap();
        }
        // First in, first out among equals: whatever overtook on its way in would be seen here.
        let mut peer = Peer::new(&daemon).await;
        let mut worker = RawWorker::join(&mut peer, hello(1_000), 1_000).await;
        let mut next = [0_u64; CLIENTS as usize];
        while next != [BATCHES * ENTRIES; CLIENTS as usize] {
            for assignment in worker.assignments().await {
                let (client, place) = assignment.payload.split_first().unwrap();
                let expected = &mut next[usize::from(*client)];
                assert_eq!(place, expected.to_be_bytes());
                *expected += 1;
                // More are ordered ahead of a worker the more it has begun.
                let verdict = worker.finish(assignment.task.unwrap(), b"").await;
                assert_eq!(verdict, ResultDisposition::Recorded);
            }
        }
    });
    daemon.stop().unwrap();
}

#[test]
fn stop_ends_every_thread_while_calls_are_under_way_and_nobody_is_answered_after_it() {
    for round in 0..5 {
        let daemon = with_edge_threads(small());
        run(async {
            let answered = Arc::new(AtomicU64::new(0));
            let mut callers = Vec::new();
            for _ in 0..4 {
                let mut peer = Peer::over(connect(&daemon).await);
                let answered = Arc::clone(&answered);
                callers.push(tokio::spawn(async move {
                    // Unary calls and streams that come and go, until the daemon is gone.
                    while peer.submit(noop(b"")).await.is_ok_and(|id| id != 0)
                        || peer.is_answered().await
                    {
                        // ORDERING: a count for itself.
                        answered.fetch_add(1, Ordering::Relaxed);
                        let no_names = tokio_stream::empty::<WatchRequest>();
                        drop(peer.plm.watch(no_names).await);
                    }
                    peer
                }));
            }
            // ORDERING: a count for itself.
            until(|| async { answered.load(Ordering::Relaxed) > 50 * round }).await;
            let stopped = tokio::task::spawn_blocking(move || daemon.stop());
            stopped.await.unwrap().unwrap();
            for caller in callers {
                let mut peer = caller.await.unwrap();
                assert!(peer.submit(noop(b"")).await.is_err());
                assert!(!peer.is_answered().await);
            }
        });
    }
}

#[test]
fn places_are_counted_for_all_threads_together() {
    const PLACES: u64 = 3;
    let raw = RawConfig {
        connections_max: Some(PLACES),
        ..small()
    };
    let daemon = with_edge_threads(raw);
    run(async {
        let mut peers = Vec::new();
        for _ in 0..PLACES {
            let mut peer = Peer::new(&daemon).await;
            peer.submit(noop(b"")).await.unwrap();
            peers.push(peer);
        }
        let mut late = Peer::new(&daemon).await;
        let status = late.submit(noop(b"")).await.unwrap_err();
        let refusal = refusal_of(&status).unwrap();
        assert_eq!(refusal.reason(), RefusalReason::ConnectionsFull);
        // Whichever thread has it, its place comes back.
        for place in 0..peers.len() {
            drop(peers.remove(place % peers.len()));
            peers.push(loop {
                let mut next = Peer::new(&daemon).await;
                if next.submit(noop(b"")).await.is_ok() {
                    break next;
                }
            });
        }
        drop(peers);
    });
    daemon.stop().unwrap();
}

/// How often the threads of a process with this name have gone to sleep, by the kernel's count.
fn sleeps(daemon: &Qtfd, name: &str) -> Option<u64> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let task = tasks.flatten().map(|task| task.path()).find(|task| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name)
    })?;
    let status = std::fs::read_to_string(task.join("status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}

#[test]
fn connections_are_handed_out_in_turn_and_each_thread_serves_its_own() {
    let threads = edge_threads();
    let home = Home::new("edges-turn");
    let text = threads.to_string();
    let mut daemon = home.serving(&["--edge-threads", &text]);
    assert!(daemon.has_said(&format!("edge_threads={threads}")));
    run(async {
        for number in 0..threads {
            let name = format!("qtfd-edge-{number}");
            let before = sleeps(&daemon, &name).expect("there is such a thread");
            let mut peer = home.connect().await;
            until(|| async {
                peer.clone().submit(noop(b"")).await.unwrap();
                sleeps(&daemon, &name) > Some(before + 20)
            })
            .await;
            peer.submit(noop(b"")).await.unwrap();
        }
    });
    assert_eq!(sleeps(&daemon, &format!("qtfd-edge-{threads}")), None);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn tasks_of_a_killed_daemon_with_edge_threads_are_there_for_one_without_and_back() {
    let home = Home::new("edges-kill");
    let text = edge_threads().to_string();
    let mut ids = Vec::new();
    for round in 0..4 {
        let with: &[&str] = &["--edge-threads", &text];
        let daemon = home.serving(if round % 2 == 0 { with } else { &[] });
        run(async {
            let mut peer = home.connect().await;
            for id in &ids {
                assert_eq!(peer.state(*id).await, TaskState::Ready);
            }
            // Killed while others are being submitted.
            let (sure, mut is_sure) = tokio::sync::mpsc::unbounded_channel();
            let submitting = tokio::spawn(async move {
                while let Ok(id) = peer.submit(noop(b"")).await {
                    sure.send(id).unwrap();
                }
            });
            for _ in 0..20 {
                ids.push(is_sure.recv().await.unwrap());
            }
            daemon.kill();
            submitting.await.unwrap();
            while let Some(id) = is_sure.recv().await {
                ids.push(id);
            }
        });
    }
    let daemon = home.serving(&["--edge-threads", &text]);
    run(async {
        let mut peer = home.connect().await;
        let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
        let first = worker.assignments().await.remove(0).task.unwrap();
        assert_eq!(first.task_id, ids[0], "first in, first out");
        let verdict = worker.finish(first, b"").await;
        assert_eq!(verdict, ResultDisposition::Recorded);
    });
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn journal_on_the_ring_and_edge_threads_go_together() {
    if qtf_needs::lacks(qtf_needs::Need::IoUring) {
        return;
    }
    let home = Home::new("edges-ring");
    let (text, data) = (edge_threads().to_string(), home.data());
    let arguments = [
        "--edge-threads",
        &text,
        "--journal",
        "io_uring",
        "--data-dir",
        data.to_str().unwrap(),
    ];
    let daemon = home.serving(&arguments);
    let id = run(async { home.connect().await.submit(noop(b"")).await.unwrap() });
    daemon.kill();
    home.lose_segment();
    let mut daemon = home.serving(&arguments);
    run(async {
        let state = home.connect().await.state(id).await;
        assert_eq!(state, TaskState::Ready);
    });
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn more_threads_than_cores_are_refused_with_both_numbers() {
    let cores = std::thread::available_parallelism().unwrap().get();
    if cores >= 64 {
        return;
    }
    let home = Home::new("edges-many");
    let (code, said) = refused(&home, &["--edge-threads", &(cores + 1).to_string()]);
    assert_eq!(code, Some(2), "{said}");
    let wanted = format!(
        "edge_threads = {}: the process may use {cores} cores",
        cores + 1
    );
    assert!(said.contains(&wanted), "{said}");
    let (code, said) = refused(&home, &["--edge-threads", "65"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("edge_threads = 65: must be 0 to 64"),
        "{said}"
    );
    // Nothing was made before.
    let address = Address::Unix(home.socket());
    assert!(run(qtf_proto::channel::connect(&address)).is_err());
}
