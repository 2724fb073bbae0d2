//! How long a segment takes to be filled from a journal and to be adopted by a new daemon.
//!
//! `bench-adopt [TASKS]` (default 1,000,000, in a segment of the default size): one process makes a named segment with that
//! many waiting tasks and ends; others adopt it, one after the other, as a killed daemon's successor does. Each is a process of
//! its own, so that the pages of the segment are new to it. The segment is removed at the end.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints its figures"
)]

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use qtf_shm::{
    Adoption, CreateError, KeyId, Now, RestoredBytes, RestoredTask, Segment, SegmentSpec,
    SideRecord, SlotIndex, TaskId,
};

const TASKS_DEFAULT: u64 = 1_000_000;
const ADOPTIONS: u32 = 5;
const PAYLOAD: [u8; 64] = [7; 64];
/// Every so many-th task has a side record and a key.
const SIDE_EVERY: u64 = 4;
const KEY_EVERY: u64 = 16;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let texts: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    match texts.as_slice() {
        ["make", instance, dir, tasks] => make(instance, dir, tasks.parse().unwrap_or(0)),
        ["adopt", instance, dir] => adopt(instance, dir),
        ["remove", instance, dir] => remove(instance, dir),
        [] => measure(TASKS_DEFAULT),
        [tasks] => match tasks.parse() {
            Ok(tasks) => measure(tasks),
            Err(_) => usage(),
        },
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: bench-adopt [TASKS]");
    ExitCode::from(2)
}

fn measure(tasks: u64) -> ExitCode {
    let instance = format!("bench-adopt-{}", std::process::id());
    let dir = std::env::temp_dir().join(&instance);
    let dir = dir.to_string_lossy().into_owned();
    let tasks = tasks.to_string();
    let made = stage(&["make", &instance, &dir, &tasks]);
    let mut all = made;
    for _ in 0..ADOPTIONS {
        all = all && stage(&["adopt", &instance, &dir]);
    }
    all = stage(&["remove", &instance, &dir]) && all;
    // Nothing but what the stages made lies there.
    let _ = std::fs::remove_dir_all(&dir);
    if all {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs one stage in a process of its own.
fn stage(arguments: &[&str]) -> bool {
    let program = std::env::current_exe();
    let status = program.and_then(|program| Command::new(program).args(arguments).status());
    match status {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("bench-adopt {}: {error}", arguments.join(" "));
            false
        }
    }
}

fn spec(instance: &str, dir: &str) -> SegmentSpec {
    SegmentSpec {
        gen_base: Some(1 << 20),
        first_stamp: 1 << 30,
        ..SegmentSpec::new(instance, Path::new(dir).join("spill"))
    }
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}

/// Time that this thread has had a core so far: what counts on a machine with other work.
fn on_core_milliseconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = text.split(' ').next().and_then(|first| first.parse().ok());
    first.unwrap_or(0.0) / 1e6
}

fn make(instance: &str, dir: &str, tasks: u64) -> ExitCode {
    let start = Instant::now();
    let mut restored = 0.0;
    let made = Segment::create_named(&spec(instance, dir), |segment| {
        let start = Instant::now();
        for number in 0..tasks {
            restore(segment, number).map_err(|problem| CreateError::Call {
                call: "restore_task",
                instance: problem,
                source: std::io::ErrorKind::Other.into(),
            })?;
        }
        restored = milliseconds(start);
        Ok::<(), CreateError>(())
    });
    match made {
        Ok(_) => {
            println!(
                "made with {tasks} tasks in {:.1} ms, of which {restored:.1} ms restoring",
                milliseconds(start)
            );
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}

fn restore(segment: &Segment, number: u64) -> Result<(), String> {
    let slot = u32::try_from(number)
        .ok()
        .and_then(|number| SlotIndex::new_checked(number, segment.geometry().tasks()))
        .ok_or("no such slot")?;
    let id = TaskId::new(1 + number % 1000, slot);
    let mut task = RestoredTask::new(id);
    task.priority = 100;
    task.stamp = number;
    task.lsn = number + 1;
    task.payload = RestoredBytes::Bytes(&PAYLOAD);
    if number.is_multiple_of(SIDE_EVERY) {
        task.side = Some(SideRecord {
            submitted_unix_ms: 1_700_000_000_000,
            ..SideRecord::default()
        });
    }
    segment
        .restore_task(&task)
        .map_err(|error| error.to_string())?;
    if number.is_multiple_of(KEY_EVERY) {
        let key = KeyId::from_words([number + 1, 1]).ok_or("no key")?;
        let keys = segment.keys();
        let place = keys.reserve(key, id, u64::MAX, Now::from_ns(0));
        let _ = place
            .map(|place| keys.confirm(place))
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn adopt(instance: &str, dir: &str) -> ExitCode {
    let before = on_core_milliseconds();
    let start = Instant::now();
    match Segment::create_or_adopt_named(&spec(instance, dir), Path::new(dir)) {
        Ok((segment, Adoption::Adopted { epoch, .. })) => {
            let total = milliseconds(start);
            let busy = on_core_milliseconds() - before;
            println!(
                "adopted in {total:.1} ms ({busy:.1} ms of them on a core) as epoch {epoch}, high water {}",
                segment.high_water()
            );
            ExitCode::SUCCESS
        }
        Ok((_, other)) => {
            eprintln!("not adopted: {other:?}");
            ExitCode::FAILURE
        }
        Err(error) => failed(&error),
    }
}

fn remove(instance: &str, dir: &str) -> ExitCode {
    let removed = Segment::create_or_adopt_named(&spec(instance, dir), Path::new(dir))
        .map(|(segment, _)| segment.remove());
    match removed {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("{error}");
    ExitCode::FAILURE
}
