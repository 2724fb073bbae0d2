//! The memory of the segment: what was asked for, what was got, and that both are said.

use qtf_shm::SegmentView;
use qtf_shm::segment::MemoryFacts;

use crate::process::{Home, Qtfd, refused};

const HUGE_BYTES: u64 = 2 << 20;

fn facts(home: &Home) -> MemoryFacts {
    let uid = nix::unistd::geteuid().as_raw();
    let view = SegmentView::attach_by_instance(&home.name, uid).unwrap();
    view.memory().unwrap()
}

/// The line about the memory: it may come before the one that says that the daemon serves, which was waited for.
fn memory_line(daemon: &mut Qtfd) -> String {
    const WORDS: &str = "memory of the segment";
    let said = daemon
        .said
        .iter()
        .find(|line| line.contains(WORDS))
        .cloned();
    said.unwrap_or_else(|| daemon.wait_for_line(WORDS))
}

/// Whether pages of 2 MiB are set aside for a segment of a test.
fn has_pages_set_aside() -> bool {
    let file = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.trim().parse::<u64>().is_ok_and(|free| free >= 16)
}

#[test]
fn log_says_once_what_memory_a_new_and_an_adopted_segment_has_and_so_does_the_segment() {
    let home = Home::new("memory");
    for _ in 0..2 {
        let mut daemon = home.serving(&[]);
        let line = memory_line(&mut daemon);
        let facts = facts(&home);
        for word in [
            format!("page_bytes={}", facts.page_bytes),
            format!("locked={}", facts.locked),
            format!("node={}", facts.node),
        ] {
            assert!(line.contains(&word), "{word}: {line}");
        }
        assert_eq!(facts.page_bytes, 4096);
        if daemon.has_said("this kernel, as it is set, gives no larger ones for shared memory") {
            assert_eq!(facts.huge_bytes, Some(0));
        }
        daemon.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(daemon.wait().code(), Some(0));
        let lines = daemon.said.iter();
        let told = lines.filter(|line| line.contains("memory of the segment"));
        assert_eq!(told.count(), 1);
        assert_eq!(self::facts(&home).locked, facts.locked, "also of the dead");
    }
}

#[test]
fn pages_that_are_required_and_not_set_aside_are_refused_with_the_setting_of_the_kernel() {
    let home = Home::new("required");
    if has_pages_set_aside() {
        let daemon = home.serving(&["--huge-pages", "require"]);
        assert_eq!(facts(&home).page_bytes, HUGE_BYTES);
        assert!(facts(&home).locked);
        assert_eq!(daemon.stop(), Some(0));
        return;
    }
    let (code, said) = refused(&home, &["--huge-pages", "require"]);
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("sysctl -w vm."), "{said}");
    assert!(said.contains("huge_pages = \"auto\""), "{said}");
    let uid = nix::unistd::geteuid().as_raw();
    assert!(SegmentView::attach_by_instance(&home.name, uid).is_err());
}

#[test]
fn an_adopted_segment_keeps_its_pages_where_others_are_required() {
    let home = Home::new("keeps");
    home.serving(&["--huge-pages", "never"]).kill();
    let mut daemon = home.serving(&["--huge-pages", "require"]);
    memory_line(&mut daemon);
    let warning = "has pages of 4 KiB and keeps them";
    assert!(daemon.has_said(warning), "{:#?}", daemon.said);
    assert_eq!(facts(&home).page_bytes, 4096);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_segment_is_locked_while_the_setting_says_so_and_the_limit_allows_it() {
    let home = Home::new("locked");
    home.configure("segment_bytes = 8388608\nlock_memory = true\n");
    let mut daemon = home.serving(&[]);
    let is_refused = daemon.has_said("above the limit of locked memory");
    assert_ne!(facts(&home).locked, is_refused);
    daemon.kill();
    home.configure("segment_bytes = 8388608\nlock_memory = false\n");
    let daemon = home.serving(&[]);
    assert!(
        !facts(&home).locked,
        "that of the daemon before is taken back"
    );
    assert_eq!(daemon.stop(), Some(0));
}
