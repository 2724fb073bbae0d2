//! A disk that is full and has room again, many times: a small memory file system of its own, filled and emptied
//! under a real `qtfd`.
//!
//! It is mounted in a mount namespace that only the daemon and a holder are in. Where mounting is not permitted the
//! test says so and does nothing.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use qtf_needs::Need;
use qtf_proto::refusal;
use qtf_proto::v1::*;

use crate::process::{Home, Qtfd};
use crate::support::{Peer, RawWorker, hello, noop, run, until};

const ROUNDS: usize = 20;
const DISK: &str = "size=8m";

/// Keeps the namespace with the small disk.
struct SmallDisk {
    holder: Child,
    folder: PathBuf,
}

impl SmallDisk {
    /// `None` where it cannot be had.
    fn mount(folder: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&folder).unwrap();
        let script =
            format!("mount -t tmpfs -o {DISK} tmpfs \"$0\" && echo mounted && exec sleep 300");
        let holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .arg(&folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut disk = Self { holder, folder };
        let mut line = String::new();
        BufReader::new(disk.holder.stdout.take()?)
            .read_line(&mut line)
            .ok()?;
        (line == "mounted\n").then_some(disk)
    }

    fn pid(&self) -> String {
        self.holder.id().to_string()
    }

    /// A path on the disk, as seen from outside of the namespace.
    fn path(&self, name: &str) -> PathBuf {
        let inside = self.folder.strip_prefix("/").unwrap();
        PathBuf::from(format!("/proc/{}/root", self.pid()))
            .join(inside)
            .join(name)
    }

    fn filler(&self) -> PathBuf {
        self.path("filler")
    }

    /// Removes the files that were made ahead of use: what a daemon has left that was restarted again and again on a
    /// full disk.
    fn remove_files_made_ahead(&self) {
        for entry in std::fs::read_dir(self.path("journal")).unwrap() {
            let file = entry.unwrap().path();
            let content = std::fs::read(&file).unwrap();
            if content[4096..].iter().all(|&byte| byte == 0) {
                std::fs::remove_file(&file).unwrap();
            }
        }
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let mut file = std::fs::File::options()
            .append(true)
            .create(true)
            .open(self.filler())
            .unwrap();
        let block = [0; 4096];
        while file.write_all(&block).is_ok() {}
    }

    fn empty(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn serving(&self, home: &Home) -> Qtfd {
        let data = self.folder.to_str().unwrap();
        let pid = self.pid();
        let wrapper = ["nsenter", "--target", &pid, "--mount", "--"];
        let command = home.command_under(&wrapper, &["--data-dir", data]).spawn();
        let mut daemon = Qtfd::of(command.unwrap());
        daemon.wait_for_line("serving");
        daemon
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Its end unmounts the disk.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Submits until the journal has no room; gives what was taken.
async fn submit_until_full(peer: &mut Peer, disk: &SmallDisk) -> Vec<u64> {
    let mut taken = Vec::new();
    loop {
        // A snapshot may free some room: the disk stays full.
        disk.fill();
        match peer.submit(noop(&[1; 4_000])).await {
            Ok(id) => taken.push(id),
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
                let refusal = refusal::refusal_of(&status).unwrap();
                assert_eq!(refusal.reason(), RefusalReason::JournalFull, "{status}");
                assert!(refusal.retry_after_ms > 0);
                return taken;
            }
        }
        assert!(taken.len() < 5_000, "the disk never fills");
    }
}

/// Tries as often as a client does that is told to come again.
pub(crate) async fn submit_when_there_is_room(peer: &mut Peer, task: TaskSpec) -> u64 {
    let id = std::cell::Cell::new(0);
    until(|| {
        let (mut peer, id, task) = (peer.clone(), &id, task.clone());
        async move {
            match peer.submit(task).await {
                Ok(taken) => {
                    id.set(taken);
                    true
                }
                Err(status) => {
                    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
                    false
                }
            }
        }
    })
    .await;
    id.get()
}

/// One round: full, refused, what runs finishes, room again, taken again.
async fn round(peer: &mut Peer, disk: &SmallDisk, worker: &mut RawWorker) -> (u64, u64) {
    let urgent = TaskSpec {
        priority: Some(255),
        ..noop(b"run")
    };
    let running = submit_when_there_is_room(peer, urgent).await;
    let credit = DispatchRequest {
        credits: 1,
        ..DispatchRequest::default()
    };
    worker.grants.send(credit).await.unwrap();
    let assignment = worker.assignments().await.remove(0).task.unwrap();
    assert_eq!(assignment.task_id, running);
    let mut taken = submit_until_full(peer, disk).await;
    assert_eq!(
        worker.finish(assignment, b"finished").await,
        ResultDisposition::Recorded
    );
    assert_eq!(peer.state(running).await, TaskState::Done);
    let memory = TaskSpec {
        durability: Durability::Memory.into(),
        ..noop(b"memory")
    };
    let memory = peer.submit(memory).await.unwrap();
    disk.empty();
    let again = submit_when_there_is_room(peer, noop(b"again")).await;
    taken.push(memory);
    give_up(peer, &taken).await;
    (running, again)
}

#[test]
fn full_disk_refuses_submissions_and_all_goes_on_when_there_is_room_again() {
    let home = Home::new("full");
    home.configure(
        "segment_bytes = 33554432\njournal_file_bytes = 524288\nsnapshot_after_bytes = 524288\n",
    );
    let Some(disk) = SmallDisk::mount(home.data()) else {
        return qtf_needs::skip(Need::Mount, "a small tmpfs cannot be mounted");
    };
    let daemon = disk.serving(&home);
    let (mut done, mut ready) = (Vec::new(), Vec::new());
    run(async {
        let mut peer = home.connect().await;
        let mut worker = RawWorker::join(&mut peer, hello(1), 0).await;
        for _ in 0..ROUNDS {
            let (finished, again) = round(&mut peer, &disk, &mut worker).await;
            done.push(finished);
            ready.push(again);
        }
    });
    daemon.kill();
    let daemon = disk.serving(&home);
    run(all_there(&home, &done, &ready));
    daemon.kill();
    home.lose_segment();
    let daemon = disk.serving(&home);
    run(all_there(&home, &done, &ready));
    assert_eq!(daemon.stop(), Some(0));
}

/// Cancels and forgets tasks that wait.
async fn give_up(peer: &mut Peer, ids: &[u64]) {
    for ids in ids.chunks(1_000) {
        let selection = || TaskSelection {
            task_ids: ids.to_vec(),
            ..TaskSelection::default()
        };
        for verdict in [
            peer.plm.cancel_tasks(selection()).await,
            peer.plm.forget_tasks(selection()).await,
        ] {
            let verdicts = verdict.unwrap().into_inner().verdicts;
            assert!(
                verdicts.iter().all(|verdict| verdict.refusal.is_none()),
                "{verdicts:?}"
            );
        }
    }
}

#[test]
fn disk_that_the_daemons_own_files_have_filled_has_room_again_when_a_part_of_the_tasks_is_gone() {
    let home = Home::new("full-of-itself");
    // Nothing but the want of room asks for a snapshot.
    home.configure(
        "segment_bytes = 33554432\njournal_file_bytes = 524288\nsnapshot_after_bytes = 1073741824\n",
    );
    let Some(disk) = SmallDisk::mount(home.data()) else {
        return qtf_needs::skip(Need::Mount, "a small tmpfs cannot be mounted");
    };
    let daemon = disk.serving(&home);
    let kept = run(async {
        let mut peer = home.connect().await;
        let mut kept = Vec::new();
        for _ in 0..3 {
            while let Ok(id) = peer.submit(noop(&[1; 4_000])).await {
                kept.push(id);
            }
            let rest = kept.split_off(kept.len() / 2);
            give_up(&mut peer, &kept).await;
            kept = rest;
            kept.push(submit_when_there_is_room(&mut peer, noop(&[1; 4_000])).await);
        }
        kept
    });
    assert!(kept.len() > 50, "{}", kept.len());
    daemon.kill();
    home.lose_segment();
    let daemon = disk.serving(&home);
    run(all_there(&home, &[], &kept));
    assert_eq!(daemon.stop(), Some(0));
}

/// Has tasks run, each with a result as large as its payload, until one is put off for want of room, or `wanted` are done.
async fn run_until_put_off(peer: &mut Peer, worker: &mut RawWorker, wanted: usize) -> Vec<u64> {
    let before = peer.counter("dispatch_put_off").await;
    let mut done = Vec::new();
    while done.len() < wanted {
        let put_off = until(|| {
            let mut peer = peer.clone();
            async move { peer.counter("dispatch_put_off").await > before }
        });
        tokio::select! {
            biased;
            assignments = worker.assignments() => {
                let task = assignments[0].task.unwrap();
                let disposition = worker.finish(task, &[2; 4_000]).await;
                assert_eq!(disposition, ResultDisposition::Recorded);
                done.push(task.task_id);
                let credit = DispatchRequest { credits: 1, ..DispatchRequest::default() };
                worker.grants.send(credit).await.unwrap();
            }
            () = put_off => break,
        }
    }
    done
}

#[test]
fn tasks_of_a_disk_full_of_them_all_run_as_long_as_their_results_are_acknowledged() {
    let home = Home::new("full-of-results");
    home.configure("segment_bytes = 33554432\njournal_file_bytes = 524288\n");
    let Some(disk) = SmallDisk::mount(home.data()) else {
        return qtf_needs::skip(Need::Mount, "a small tmpfs cannot be mounted");
    };
    let daemon = disk.serving(&home);
    run(async {
        let mut peer = home.connect().await;
        let mut left = 0;
        while peer.submit(noop(&[1; 4_000])).await.is_ok() {
            left += 1;
        }
        assert!(left > 50, "{left}");
        let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
        while left > 0 {
            let done = run_until_put_off(&mut peer, &mut worker, left).await;
            left -= done.len();
            for ids in done.chunks(1_000) {
                let selection = TaskSelection {
                    task_ids: ids.to_vec(),
                    ..TaskSelection::default()
                };
                let verdicts = peer.plm.forget_tasks(selection).await.unwrap();
                for verdict in verdicts.into_inner().verdicts {
                    assert!(verdict.refusal.is_none(), "{verdict:?}");
                }
            }
        }
    });
    assert_eq!(daemon.stop(), Some(0));
}

async fn all_there(home: &Home, done: &[u64], ready: &[u64]) {
    let mut peer = home.connect().await;
    for (ids, wanted) in [(done, TaskState::Done), (ready, TaskState::Ready)] {
        for id in ids {
            assert_eq!(peer.state(*id).await, wanted, "{id:#x}");
        }
    }
}

/// A daemon with some tasks was killed, the disk is full, and there is no file that was made ahead of use. `None` where
/// mounting is not permitted.
fn killed_on_a_full_disk(test: &str) -> Option<(Home, SmallDisk, Vec<u64>)> {
    let home = Home::new(test);
    home.configure("segment_bytes = 8388608\njournal_file_bytes = 524288\n");
    let disk = SmallDisk::mount(home.data())?;
    let daemon = disk.serving(&home);
    let ids = run(async {
        let mut peer = home.connect().await;
        let mut ids = Vec::new();
        for _ in 0..5 {
            ids.push(peer.submit(noop(b"kept")).await.unwrap());
        }
        ids
    });
    daemon.kill();
    disk.remove_files_made_ahead();
    disk.fill();
    Some((home, disk, ids))
}

/// The refusal of a submission that names the disk.
async fn refusal_naming_the_disk(peer: &mut Peer, home: &Home, task: TaskSpec) {
    let status = peer.submit(task).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    let refusal = refusal::refusal_of(&status).unwrap();
    assert_eq!(refusal.reason(), RefusalReason::JournalFull, "{status}");
    let said = status.message();
    let folder = home.data().to_str().unwrap().to_owned();
    assert!(
        said.contains(&folder)
            && said.contains("needs 524288 bytes (journal_file_bytes), 0 are free"),
        "{said}"
    );
}

fn memory_task() -> TaskSpec {
    TaskSpec {
        durability: Durability::Memory.into(),
        ..noop(b"memory")
    }
}

#[test]
fn cold_start_on_a_full_disk_serves_what_there_is_and_goes_on_when_there_is_room_again() {
    let Some((home, disk, ids)) = killed_on_a_full_disk("full-cold") else {
        return qtf_needs::skip(Need::Mount, "a small tmpfs cannot be mounted");
    };
    home.lose_segment();
    // A stop and kills in this state change nothing; the starts after the first find a segment.
    for end in 0..3 {
        let mut daemon = disk.serving(&home);
        assert!(
            daemon.has_said("nothing can be journalled"),
            "{:#?}",
            daemon.said
        );
        run(async {
            let mut peer = home.connect().await;
            for id in &ids {
                assert_eq!(peer.state(*id).await, TaskState::Ready);
            }
            refusal_naming_the_disk(&mut peer, &home, noop(b"journal")).await;
            // Ids must be reserved first, those of memory tasks too.
            refusal_naming_the_disk(&mut peer, &home, memory_task()).await;
            let info = peer.admin.get_info(GetInfoRequest {}).await.unwrap();
            let journal = info.into_inner().journal.unwrap();
            assert_eq!(journal.state(), JournalState::Full);
            assert!(journal.message.contains("is full"), "{}", journal.message);
        });
        match end {
            0 => assert_eq!(daemon.stop(), Some(0)),
            1 => daemon.kill(),
            _ => {
                disk.empty();
                run(goes_on(&home, &ids));
                assert!(daemon.has_said("has room again"), "{:#?}", daemon.said);
                daemon.kill();
            }
        }
    }
}

/// Everything works, without a restart.
async fn goes_on(home: &Home, ids: &[u64]) {
    let mut peer = home.connect().await;
    submit_when_there_is_room(&mut peer, noop(b"journal")).await;
    peer.submit(memory_task()).await.unwrap();
    let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
    let assignment = worker.assignments().await.remove(0).task.unwrap();
    assert_eq!(assignment.task_id, ids[0]);
    assert_eq!(
        worker.finish(assignment, b"finished").await,
        ResultDisposition::Recorded
    );
}

#[test]
fn what_a_start_on_a_full_disk_took_in_when_there_was_room_again_is_there_after_a_cold_start() {
    let Some((home, disk, ids)) = killed_on_a_full_disk("full-then-cold") else {
        return qtf_needs::skip(Need::Mount, "a small tmpfs cannot be mounted");
    };
    // The segment is there: ids are reserved, so memory tasks are taken, and finish.
    let daemon = disk.serving(&home);
    let later = run(async {
        let mut peer = home.connect().await;
        refusal_naming_the_disk(&mut peer, &home, noop(b"journal")).await;
        let memory = TaskSpec {
            priority: Some(255),
            ..memory_task()
        };
        let memory = peer.submit(memory).await.unwrap();
        let mut worker = RawWorker::join(&mut peer, hello(1), 1).await;
        let assignment = worker.assignments().await.remove(0).task.unwrap();
        assert_eq!(assignment.task_id, memory);
        assert_eq!(
            worker.finish(assignment, b"finished").await,
            ResultDisposition::Recorded
        );
        disk.empty();
        submit_when_there_is_room(&mut peer, noop(b"later")).await
    });
    daemon.kill();
    home.lose_segment();
    let daemon = disk.serving(&home);
    run(async {
        let mut peer = home.connect().await;
        for id in ids.iter().chain([&later]) {
            assert_eq!(peer.state(*id).await, TaskState::Ready, "{id:#x}");
        }
        let next = peer.submit(noop(b"next")).await.unwrap();
        assert!(
            !ids.contains(&next) && next != later,
            "no id is given twice"
        );
    });
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn first_start_on_a_full_disk_ends_and_says_where_how_much_is_needed() {
    let home = Home::new("full-first");
    home.configure("segment_bytes = 8388608\njournal_file_bytes = 524288\n");
    let Some(disk) = SmallDisk::mount(home.data()) else {
        return qtf_needs::skip(Need::Mount, "a small tmpfs cannot be mounted");
    };
    disk.fill();
    let data = home.data();
    let pid = disk.pid();
    let wrapper = ["nsenter", "--target", &pid, "--mount", "--"];
    let command = home.command_under(&wrapper, &["--data-dir", data.to_str().unwrap()]);
    let mut daemon = Qtfd::of({ command }.spawn().unwrap());
    assert_eq!(daemon.wait().code(), Some(74), "{:#?}", daemon.said);
    assert!(
        daemon.has_said("needs 524288 bytes (journal_file_bytes), 0 are free")
            && daemon.has_said("make room"),
        "{:#?}",
        daemon.said
    );
    disk.empty();
    assert_eq!(disk.serving(&home).stop(), Some(0));
}
