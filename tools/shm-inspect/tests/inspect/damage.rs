//! Damaged images: every command ends with one of its exit codes, whatever the bytes are.

use crate::fixture::{Filled, inspect_image};
use qtf_shm::layout::RegionKind;
use std::path::{Path, PathBuf};

/// Runs every command on an image; none may panic, hang or die.
fn every_command_ends_well(image: &Path, task: &str) {
    let commands: [&[&str]; 9] = [
        &["info"],
        &["layout"],
        &["heap", "task"],
        &["heap", "worker"],
        &["heap", "timer"],
        &["task", task],
        &["worker", "w2"],
        &["assignments"],
        &["verify"],
    ];
    for command in commands {
        let output = inspect_image(image, command);
        let text = String::from_utf8_lossy(&output.stderr);
        let code = output.status.code();
        assert!(
            matches!(code, Some(0 | 1 | 3 | 4 | 6)),
            "{command:?} {code:?} {text}"
        );
        assert!(!text.contains("panicked"), "{command:?} {text}");
    }
}

struct Damaged {
    filled: Filled,
    whole: Vec<u8>,
    file: PathBuf,
}

impl Damaged {
    fn new() -> Self {
        let filled = Filled::new();
        let whole = std::fs::read(filled.image()).unwrap();
        let file = filled.dir.path().join("damaged.image");
        Self {
            filled,
            whole,
            file,
        }
    }

    fn check(&self, bytes: &[u8]) {
        std::fs::write(&self.file, bytes).unwrap();
        every_command_ends_well(&self.file, &self.filled.ready[1].to_string());
    }

    fn code_of(&self, bytes: &[u8], command: &str) -> Option<i32> {
        std::fs::write(&self.file, bytes).unwrap();
        inspect_image(&self.file, &[command]).status.code()
    }
}

#[test]
fn regions_full_of_noise_are_survived() {
    let damaged = Damaged::new();
    let mut random = fastrand::Rng::with_seed(7);
    let regions: Vec<_> = damaged.filled.segment.regions().iter().collect();
    for (kind, entry) in regions {
        let mut bytes = damaged.whole.clone();
        let start = usize::try_from(entry.offset).unwrap();
        let length = usize::try_from(entry.bytes).unwrap().min(1 << 20);
        random.fill(&mut bytes[start..start + length]);
        damaged.check(&bytes);
        if matches!(kind, RegionKind::Header) {
            assert_eq!(damaged.code_of(&bytes, "info"), Some(4));
        }
    }
}

#[test]
fn scattered_noise_is_survived() {
    let damaged = Damaged::new();
    let front = usize::try_from(
        damaged
            .filled
            .segment
            .regions()
            .get(RegionKind::ArenaData)
            .offset,
    );
    let front = front.unwrap();
    for seed in 0..6 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = damaged.whole.clone();
        // The header stays, so that the rest is looked at.
        for _ in 0..2000 {
            let at = random.usize(8192..front);
            bytes[at] = random.u8(..);
        }
        damaged.check(&bytes);
    }
}

#[test]
fn cut_images_are_refused() {
    let damaged = Damaged::new();
    let total = usize::try_from(damaged.filled.segment.header().total_bytes).unwrap();
    for length in [0, 1, 4095, 4096, 8192, 16_384, 65_536, total - 1] {
        let bytes = &damaged.whole[..length];
        assert_eq!(damaged.code_of(bytes, "info"), Some(4), "{length}");
        damaged.check(bytes);
    }
}

#[test]
fn foreign_files_are_refused() {
    let damaged = Damaged::new();
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
        .take(1 << 20)
        .collect();
    assert_eq!(damaged.code_of(&noise, "info"), Some(4));
    assert_eq!(damaged.code_of(&vec![0; 1 << 20], "info"), Some(4));
}

#[test]
fn pipe_is_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let output = inspect_image(&pipe, &["info"]);
    assert_eq!(output.status.code(), Some(4));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("no regular file"), "{text}");
}

#[test]
fn other_layout_version_is_refused_and_one_good_copy_of_the_header_is_enough() {
    let damaged = Damaged::new();
    let mut bytes = damaged.whole.clone();
    bytes[8..16].fill(0x55);
    assert_eq!(
        damaged.code_of(&bytes, "info"),
        Some(0),
        "the second copy is good"
    );
    bytes[4096 + 8..4096 + 16].fill(0x55);
    assert_eq!(damaged.code_of(&bytes, "info"), Some(4));
}

#[test]
fn leaf_that_contradicts_its_slot_breaks_an_invariant() {
    let damaged = Damaged::new();
    let ready = damaged.filled.segment.regions().get(RegionKind::Ready);
    let start = usize::try_from(ready.offset).unwrap();
    let length = usize::try_from(ready.bytes).unwrap();
    let mut bytes = damaged.whole.clone();
    bytes[start..start + length].fill(0);
    assert_eq!(damaged.code_of(&bytes, "verify"), Some(1));
}
