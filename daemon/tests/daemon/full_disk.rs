//! A disk that is full and has room again, many times: a small memory file system of its own, filled and emptied
//! under a real `qtfd`.
//!
//! It is mounted in a mount namespace that only the daemon and a holder are in. Where mounting is not permitted the
//! test says so and does nothing.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

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

    /// The filler's path, as seen from outside of the namespace.
    fn filler(&self) -> PathBuf {
        let inside = self.folder.strip_prefix("/").unwrap();
        PathBuf::from(format!("/proc/{}/root", self.pid()))
            .join(inside)
            .join("filler")
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
async fn submit_when_there_is_room(peer: &mut Peer, task: TaskSpec) -> u64 {
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
    for ids in taken.chunks(1_000) {
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
    (running, again)
}

#[test]
fn full_disk_refuses_submissions_and_all_goes_on_when_there_is_room_again() {
    let home = Home::new("full");
    home.configure(
        "segment_bytes = 33554432\njournal_file_bytes = 524288\nsnapshot_after_bytes = 524288\n",
    );
    let Some(disk) = SmallDisk::mount(home.data()) else {
        eprintln!("skipped: mounting is not permitted here");
        return;
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

async fn all_there(home: &Home, done: &[u64], ready: &[u64]) {
    let mut peer = home.connect().await;
    for (ids, wanted) in [(done, TaskState::Done), (ready, TaskState::Ready)] {
        for id in ids {
            assert_eq!(peer.state(*id).await, wanted, "{id:#x}");
        }
    }
}
