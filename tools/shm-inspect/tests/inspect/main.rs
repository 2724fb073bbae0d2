//! The inspector on real segments and on their images.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made is a failed test"
)]

mod damage;
mod fixture;
mod hist;

use fixture::{Filled, inspect, inspect_image, json};
use qtf_shm::lane::{Command, Event as LaneEvent};
use qtf_shm::layout::attach::AttachRole;
use qtf_shm::{Attachment, AttachmentSpec, Event};
use serde_json::Value;
use std::time::Duration;

fn ids(heap: &Value) -> Vec<String> {
    let entries = heap["entries"].as_array().unwrap();
    entries
        .iter()
        .map(|entry| entry["id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn heap_is_dumped_in_the_order_in_which_it_would_be_emptied() {
    let filled = Filled::new();
    let heap = filled.json(&["heap", "task"]);
    let expected: Vec<String> = filled.ready.iter().map(ToString::to_string).collect();
    assert_eq!(ids(&heap), expected);
    let keys: Vec<&String> = heap.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["entries", "heap", "schema"]);
    assert_eq!(heap["heap"], "task");
    let first = &heap["entries"][0];
    assert_eq!(
        (&first["priority"], &first["state"]),
        (&200.into(), &"ready".into())
    );
    assert_eq!(first["consistent"], true);
    assert_eq!(
        ids(&filled.json(&["heap", "task", "--limit", "2"])),
        expected[..2]
    );
}

#[test]
fn worker_heap_and_timer_heap_have_their_own_entries() {
    let filled = Filled::new();
    let workers = filled.json(&["heap", "worker"]);
    let entry = &workers["entries"][0];
    assert_eq!(
        (&entry["id"], &entry["running"], &entry["capacity"]),
        (&"w2.1".into(), &1.into(), &2.into())
    );
    assert_eq!(
        filled.json(&["heap", "timer"])["entries"],
        serde_json::json!([])
    );
}

#[test]
fn task_says_what_its_slot_says() {
    let filled = Filled::new();
    let late = filled.json(&["task", &filled.ready[2].to_string()]);
    assert_eq!(late["command"], "echo 'la te'");
    assert_eq!(
        (&late["state"], &late["kind"]),
        (&"ready".into(), &"exec".into())
    );
    assert_eq!(
        (&late["in_task_heap"], &late["worker"]),
        (&true.into(), &Value::Null)
    );
    let assigned = filled.json(&["task", &filled.assigned.to_string()]);
    assert_eq!(
        (&assigned["state"], &assigned["attempt"]),
        (&"assigned".into(), &1.into())
    );
    assert_eq!(assigned["worker"]["id"], "w2.1");
    assert_eq!(assigned["in_task_heap"], false);
}

#[test]
fn task_that_waits_for_a_moment_says_when_it_is_due_and_not_for_how_long_it_has_waited() {
    let filled = Filled::new();
    let hours_2 = Duration::from_hours(2);
    for (event, state) in [(Event::AdmitDelayed, "delayed"), (Event::AdmitHeld, "held")] {
        let id = fixture::submit_later(&filled.segment, hours_2, event).to_string();
        let task = filled.json(&["task", &id]);
        assert_eq!(task["state"], state);
        assert_eq!(task["state_age_ms"], Value::Null);
        let due_in_ms = task["due_in_ms"].as_i64().unwrap();
        assert!((3_600_000..=7_200_000).contains(&due_in_ms), "{task}");
        let text = filled.inspect(&["task", &id]);
        let text = String::from_utf8(text.stdout).unwrap();
        assert!(
            text.contains(&format!(" {state}, due in 1.9 h\n")),
            "{text}"
        );
    }
    let overdue = fixture::submit_later(&filled.segment, Duration::ZERO, Event::AdmitDelayed);
    let text = filled.inspect(&["task", &overdue.to_string()]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains(" delayed, "), "{text}");
    assert!(!text.contains(" for "), "{text}");
    // A held one that would start at once has waited since it was held.
    let held = fixture::submit_later(&filled.segment, Duration::ZERO, Event::AdmitHeld);
    let held = filled.json(&["task", &held.to_string()]);
    assert!(held["state_age_ms"].is_u64(), "{held}");
    assert_eq!(held["due_in_ms"], Value::Null);
}

#[test]
fn task_without_timeout_and_outcome_names_none() {
    let filled = Filled::new();
    let text = filled.inspect(&["task", &filled.assigned.to_string()]);
    let text = String::from_utf8(text.stdout).unwrap();
    let lines: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, value)| (name, value.trim()))
        .collect();
    assert!(lines.contains(&("timeout", "none")), "{text}");
    assert!(lines.iter().all(|(name, _)| *name != "outcome"), "{text}");
}

#[test]
fn worker_is_found_by_slot_and_by_incarnation_and_its_token_stays_secret() {
    let filled = Filled::new();
    for id in ["2", "w2", "w2.1"] {
        let worker = filled.json(&["worker", id]);
        assert_eq!(
            worker["assignments"][0]["task"],
            filled.assigned.to_string()
        );
        assert_eq!(
            (&worker["host"], &worker["kinds"][0]),
            (&"node-7".into(), &"exec".into())
        );
        assert!(!worker.to_string().contains("4711"));
    }
}

#[test]
fn assignments_are_shown_from_both_sides() {
    let filled = Filled::new();
    let mapping = filled.json(&["assignments"]);
    assert_eq!(mapping["assignments"].as_array().unwrap().len(), 1);
    let worker = &mapping["workers"][0];
    assert_eq!(worker["running_by_worker"], 1);
    assert_eq!(worker["running_by_tasks"], 1);
}

#[test]
fn list_and_info_name_the_living_owner() {
    let filled = Filled::new();
    let shm_id = filled.segment.shm_id().unwrap();
    let list = json(["--json", "list"]);
    let segments = list["segments"].as_array().unwrap();
    let own = segments
        .iter()
        .find(|segment| segment["shm_id"] == shm_id)
        .unwrap();
    assert_eq!(
        (&own["instance"], &own["owner"]),
        (&"inspected".into(), &"alive".into())
    );
    assert_eq!(own["private"], true);
    let info = filled.json(&["info"]);
    assert_eq!(info["owner"]["pid"], std::process::id());
    assert_eq!(
        (&info["tasks"]["ready"], &info["tasks"]["assigned"]),
        (&3.into(), &1.into())
    );
    assert_eq!(info["capacity"]["tasks"], fixture::small().tasks());
}

#[test]
fn info_says_in_which_pages_a_segment_lies_and_nothing_of_an_image() {
    let filled = Filled::new();
    let info = filled.json(&["info"]);
    let facts = filled.segment.memory().unwrap();
    let memory = &info["memory"];
    assert_eq!(memory["page_bytes"], facts.page_bytes);
    let resident_bytes = memory["resident_bytes"].as_u64();
    assert!(resident_bytes > Some(0) && resident_bytes <= info["bytes"].as_u64());
    assert_eq!(memory["huge_bytes"], 0, "smaller than one huge page");
    assert_eq!(memory["locked"], false);
    assert!(memory["daemon_may_lock_bytes"].is_u64() || memory["daemon_may_lock_bytes"].is_null());
    let nodes = qtf_shm::region::node::nodes().len().max(1);
    assert_eq!(memory["nodes"], nodes);
    let text = filled.inspect(&["info"]);
    let text = String::from_utf8(text.stdout).unwrap();
    for word in [
        "pages                4 KiB; ",
        "locked               no",
        "memory node",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let image = inspect_image(&filled.image(), &["info", "--json"]);
    let image: Value = serde_json::from_slice(&image.stdout).unwrap();
    assert!(image["memory"].is_null());
}

#[test]
fn locked_memory_is_seen_from_outside() {
    let filled = Filled::new();
    let is_locked = filled.segment.lock_in_memory(true).is_ok();
    let info = filled.json(&["info"]);
    assert_eq!(info["memory"]["locked"], is_locked);
}

#[test]
fn layout_covers_the_segment() {
    let layout = Filled::new().json(&["layout"]);
    let regions = layout["regions"].as_array().unwrap();
    let end =
        |region: &Value| region["offset"].as_u64().unwrap() + region["bytes"].as_u64().unwrap();
    assert!(
        regions
            .windows(2)
            .all(|pair| end(&pair[0]) <= pair[1]["offset"].as_u64().unwrap())
    );
    assert!(end(regions.last().unwrap()) <= layout["total_bytes"].as_u64().unwrap());
}

#[test]
fn text_for_people_names_the_same_things_and_no_byte_of_others_moves_the_cursor() {
    let filled = Filled::new();
    let task = filled.ready[0].to_string();
    let commands: [&[&str]; 10] = [
        &["list"],
        &["info"],
        &["layout"],
        &["heap", "task"],
        &["heap", "worker"],
        &["heap", "timer"],
        &["task", &task],
        &["worker", "w2"],
        &["assignments"],
        &["lanes"],
    ];
    for command in commands {
        let output = filled.inspect(command);
        assert_eq!(output.status.code(), Some(0), "{command:?} {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.lines().count() >= 1 && !text.contains('\x1b'),
            "{command:?} {text}"
        );
        assert!(output.stderr.is_empty());
    }
    let heap = String::from_utf8(filled.inspect(&["heap", "task"]).stdout).unwrap();
    assert!(heap.contains(&task));
}

#[test]
fn lanes_show_what_waits_and_what_was_missed() {
    let filled = Filled::new();
    assert_eq!(filled.json(&["lanes"])["lanes"], serde_json::json!([]));
    let spec = AttachmentSpec::new(AttachRole::Client, "teller", filled.dir.path());
    let process = Attachment::open_id(filled.segment.shm_id().unwrap(), &spec).unwrap();
    assert_eq!(filled.json(&["lanes"])["lanes"][0]["owner"], "closed");
    let lane = process.open_lane().unwrap();
    lane.put(1, Command::Hello).unwrap();
    let right = filled.segment.plm_right().unwrap();
    let core = filled.segment.lane(right, process.index()).unwrap();
    for _ in 0..65 {
        core.tell(LaneEvent::Lost);
    }
    let shown = &filled.json(&["lanes"])["lanes"][0];
    assert_eq!(shown["name"], "teller");
    assert_eq!(
        shown["commands"],
        serde_json::json!({"put": 1, "taken": 0, "size": 32})
    );
    assert_eq!(
        shown["events"],
        serde_json::json!({"put": 64, "taken": 0, "size": 64})
    );
    assert_eq!(
        (&shown["missed"], &shown["has_missed"], &shown["owner"]),
        (&1.into(), &true.into(), &"awake".into())
    );
    let text = String::from_utf8(filled.inspect(&["lanes"]).stdout).unwrap();
    assert!(text.contains("1, not seen"), "{text}");
}

#[test]
fn segment_is_clean() {
    let filled = Filled::new();
    let verified = filled.json(&["verify"]);
    assert_eq!(
        (&verified["ok"], &verified["findings"]),
        (&true.into(), &serde_json::json!([]))
    );
}

#[test]
fn image_answers_as_the_segment_does() {
    let filled = Filled::new();
    let image = filled.image();
    for command in [&["heap", "task"][..], &["heap", "worker"], &["layout"]] {
        let arguments = [&["--json"], command].concat();
        let from_image = inspect_image(&image, &arguments);
        let from_image: Value = serde_json::from_slice(&from_image.stdout).unwrap();
        let live = filled.json(command);
        match command {
            ["heap", _] => assert_eq!(ids(&from_image), ids(&live)),
            _ => assert_eq!(from_image, live),
        }
    }
    assert_eq!(inspect_image(&image, &["verify"]).status.code(), Some(0));
    let info = inspect_image(&image, &["info", "--json"]);
    let info: Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!(info["owner"]["state"], "unknown");
    assert_eq!(info["source"]["kind"], "image");
}

#[test]
fn snapshot_overwrites_nothing() {
    let filled = Filled::new();
    let image = filled.image();
    let again = filled.inspect(&["snapshot", "-o", image.to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("exists"));
}

#[test]
fn what_is_not_there_ends_with_3() {
    let filled = Filled::new();
    let free = qtf_shm::TaskId::new(1, filled.segment.slot(60).unwrap()).to_string();
    let stale = filled.ready[0];
    let stale = qtf_shm::TaskId::new(stale.generation() + 1, stale.slot()).to_string();
    for command in [
        ["task", &free],
        ["task", &stale],
        ["worker", "w0"],
        ["worker", "w2.9"],
        ["worker", "w4000"],
    ] {
        let output = filled.inspect(&command);
        assert_eq!(output.status.code(), Some(3), "{command:?} {output:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty());
    }
    for source in [
        ["--id", "2147483647"],
        ["--instance", "nobody-has-this"],
        ["--image", "no/such.image"],
    ] {
        let output = inspect(source.into_iter().chain(["info"]));
        assert_eq!(output.status.code(), Some(3), "{source:?} {output:?}");
    }
}

#[test]
fn wrong_arguments_end_with_2_and_help_with_0() {
    let wrong: [&[&str]; 6] = [
        &[],
        &["nonsense"],
        &["heap", "pile"],
        &["task", "not an id"],
        &["--id", "1", "--instance", "a", "info"],
        &["snapshot"],
    ];
    for arguments in wrong {
        assert_eq!(inspect(arguments).status.code(), Some(2), "{arguments:?}");
    }
    assert_eq!(inspect(["--help"]).status.code(), Some(0));
    assert_eq!(inspect(["heap", "--help"]).status.code(), Some(0));
}

#[test]
fn reader_that_has_seen_enough_is_no_error() {
    let filled = Filled::new();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_shm-inspect"))
        .args(filled.id())
        .args(["--json", "layout"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn note_behind_an_image_tells_a_fault_from_a_change_under_way() {
    let filled = Filled::new();
    let image = filled.image();
    let snapshot = std::fs::read(&image).unwrap();
    let calm = br#""changed_while_written":false"#;
    let at = snapshot
        .windows(calm.len())
        .rposition(|window| window == calm)
        .unwrap();
    let mut busy = snapshot.clone();
    let value = at + calm.len() - 5;
    busy[value..value + 5].copy_from_slice(b"true ");
    for (bytes, damaged_ends_with) in [(snapshot, 1), (busy, 6)] {
        std::fs::write(&image, &bytes).unwrap();
        assert_eq!(inspect_image(&image, &["verify"]).status.code(), Some(0));
        let ready = filled
            .segment
            .regions()
            .get(qtf_shm::layout::RegionKind::Ready);
        let start = usize::try_from(ready.offset).unwrap();
        let mut damaged = bytes.clone();
        damaged[start..start + usize::try_from(ready.bytes).unwrap()].fill(0);
        std::fs::write(&image, &damaged).unwrap();
        assert_eq!(
            inspect_image(&image, &["verify"]).status.code(),
            Some(damaged_ends_with)
        );
    }
}
