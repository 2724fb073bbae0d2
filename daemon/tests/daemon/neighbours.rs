//! Local processes beside a daemon: what a killed one leaves behind is noticed and cleared away, a stopped one keeps everything.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use qtf_shm::layout::attach::AttachRole;
use qtf_shm::{Attachment, AttachmentSpec, Counter, Event, Phase, SegmentView};

use crate::process::{Home, WATCHDOG};

/// Set for the child: instance, lock file, folder of large payloads.
const VARIABLE: &str = "QTF_TEST_NEIGHBOUR";

/// Not a test: the local process, which holds a claim until it is killed.
#[test]
fn child() {
    let Ok(order) = std::env::var(VARIABLE) else {
        return;
    };
    let parts: Vec<&str> = order.split(' ').collect();
    let spec =
        AttachmentSpec::new(AttachRole::Client, "neighbour", parts[2]).with_lock_file(parts[1]);
    let uid = nix::unistd::geteuid().as_raw();
    let attachment = Attachment::open_instance(parts[0], uid, &spec).unwrap();
    let mut claimed = attachment.claim().unwrap();
    claimed.set_payload(&[7; 1_000]).unwrap();
    eprintln!("holds a claim");
    // Until it is killed: the test keeps the other end.
    let mut nothing = Vec::new();
    std::io::stdin().read_to_end(&mut nothing).unwrap();
}

fn start_child(home: &Home) -> Child {
    let lock: PathBuf = home.folder.path().join(format!("qtf/{}.lock", home.name));
    assert!(lock.exists(), "{}", lock.display());
    let order = format!(
        "{} {} {}",
        home.name,
        lock.display(),
        home.folder.path().display()
    );
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "neighbours::child", "--nocapture"])
        .env(VARIABLE, order)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("holds a claim")));
    child
}

/// Claims and attach records beside the daemon's, as anybody may read them.
fn left(view: &SegmentView) -> (usize, usize) {
    let slots = view.allocated_slots(0..u32::MAX);
    let claimed = slots.filter(|&slot| view.state(slot).phase() == Phase::Claimed);
    (claimed.count(), view.attached().count() - 1)
}

#[test]
fn claim_of_a_killed_process_goes_back_and_that_of_a_stopped_one_does_not() {
    let home = Home::new("neighbour");
    let _daemon = home.serving(&[]);
    let uid = nix::unistd::geteuid().as_raw();
    let view = SegmentView::attach_by_instance(&home.name, uid).unwrap();
    let (mut stopped, mut killed) = (start_child(&home), start_child(&home));
    assert_eq!(left(&view), (2, 2));
    kill(Pid::from_raw(stopped.id().cast_signed()), Signal::SIGSTOP).unwrap();
    killed.kill().unwrap();
    killed.wait().unwrap();
    let begun = Instant::now();
    while left(&view) != (1, 1) {
        assert!(begun.elapsed() < WATCHDOG, "{:?}", left(&view));
        std::thread::park_timeout(Duration::from_millis(10));
    }
    stopped.kill().unwrap();
    stopped.wait().unwrap();
    while left(&view) != (0, 0) {
        assert!(begun.elapsed() < WATCHDOG, "{:?}", left(&view));
        std::thread::park_timeout(Duration::from_millis(10));
    }
    assert_eq!(view.verify().findings, []);
}

#[test]
fn sleeping_daemon_is_woken_by_what_a_local_process_submits() {
    let home = Home::new("doorbell");
    let _daemon = home.serving(&[]);
    let uid = nix::unistd::geteuid().as_raw();
    let lock: PathBuf = home.folder.path().join(format!("qtf/{}.lock", home.name));
    let spec =
        AttachmentSpec::new(AttachRole::Client, "visitor", home.folder.path()).with_lock_file(lock);
    let local = Attachment::open_instance(&home.name, uid, &spec).unwrap();
    let heard = || local.counters().get(Counter::DoorbellHeard);
    let begun = Instant::now();
    let wait_until = |what: &str, is_so: &dyn Fn() -> bool| {
        while !is_so() {
            assert!(begun.elapsed() < WATCHDOG, "{what}");
            std::thread::park_timeout(Duration::from_millis(1));
        }
    };
    for _ in 0..3 {
        wait_until("it sleeps", &|| local.doorbell().rings().is_asleep());
        let before = heard();
        let claimed = local.claim().unwrap();
        let task = claimed.publish(Event::Submit, local.next_stamp()).unwrap();
        // Rings are counted by those who ring; this one by the daemon's thread that was woken.
        wait_until("it hears the bell", &|| heard() > before);
        wait_until("it judges the task", &|| {
            local.state(task.slot()).phase() != Phase::Submitted
        });
    }
}
