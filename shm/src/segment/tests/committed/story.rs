//! What a segment holds, as a text that no layout changes: names instead of numbers of records, contents instead of places.
//!
//! Behind ` @` of a line stand moments and random numbers, which differ from one making to the next.

use std::fmt::Write as _;

use crate::blob::BlobRef;
use crate::id::{ClientIndex, SlotIndex, TaskId, WorkerIndex};
use crate::segment::{Part, SegmentView, TaskRecord, WorkerRecord};
use crate::task::slot::Outcome;
use crate::task::state::{FLAG_CANCEL, FLAG_TIMED_OUT, Owner, StateWord};

/// The whole text.
pub(super) fn of(view: &SegmentView) -> String {
    let mut text = String::new();
    let head = view.header();
    let (tasks, workers) = (head.tasks, head.workers);
    put(
        &mut text,
        format_args!(
            "segment {} tasks {tasks} workers {workers} payload_limit {} gen_limit {} @ id {:x} spill {:x} origin {} created {} {}",
            head.instance,
            head.payload_limit,
            view.control().gen_limit,
            head.segment_id,
            head.spill_id,
            head.origin_ns,
            head.created_unix_ns,
            head.created_ns,
        ),
    );
    for (number, name) in view.kinds_in_order() {
        put(&mut text, format_args!("kind {number} {name}"));
    }
    for number in 0..u16::try_from(head.clients).unwrap() {
        client(&mut text, view, number);
    }
    for number in 0..u16::try_from(workers).unwrap() {
        worker(&mut text, view, number);
    }
    for number in 0..u32::try_from(tasks).unwrap() {
        task(&mut text, view, number);
    }
    let mut keys: Vec<_> = view.keys().iter().collect();
    keys.sort_unstable_by_key(|entry| entry.key.to_bytes());
    for key in keys {
        let (confirmed, spent) = (key.confirmed, key.spent);
        put(
            &mut text,
            format_args!(
                "key {} of slot {} confirmed {confirmed} spent {spent} @ task {} expiry {}",
                key.key,
                key.task.slot(),
                key.task,
                key.expiry
            ),
        );
    }
    text
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").unwrap();
}

fn client(text: &mut String, view: &SegmentView, number: u16) {
    let Some(read) = ClientIndex::new_checked(number, u32::from(u16::MAX))
        .and_then(|index| view.read_client(index))
    else {
        return;
    };
    assert!(!read.torn);
    let client = read.record;
    if client.used {
        put(
            text,
            format_args!(
                "client {number} `{}` host `{}` address `{}` pid {} uid {} connections {} unfinished {} kept {} submitted {} @ {} {}",
                client.name,
                client.host,
                client.address,
                client.pid,
                client.uid,
                client.connections,
                client.unfinished,
                client.kept,
                client.submitted,
                client.registered,
                client.heartbeat,
            ),
        );
    }
}

fn worker(text: &mut String, view: &SegmentView, number: u16) {
    let Some(index) = view.worker_index(number) else {
        return;
    };
    let read = view.read_worker(index).unwrap();
    assert!(!read.torn);
    let worker = read.record;
    if worker.state.incarnation() == 0 {
        return;
    }
    let WorkerRecord {
        state,
        name,
        host,
        uid,
        credits,
        kinds,
        load_milli,
        counters,
        ..
    } = worker;
    let [kinds, later @ ..] = kinds.words();
    assert_eq!(later, [0; 3]);
    let slot = &view.parts.workers[index.position()];
    let sort = if slot.local().is_some() {
        "local"
    } else if slot.leased_until() > 0 {
        "calls"
    } else {
        "streams"
    };
    put(
        text,
        format_args!(
            "worker {number} {} running {} capacity {} incarnation {} `{name}` host `{host}` {sort} credits {credits} kinds {kinds:b} load {load_milli} counters {counters:?} token {} @ uid {uid} pid {} registered {} heartbeat {} lease {} reconciled {} until {}",
            state.phase(),
            state.running(),
            state.capacity(),
            state.incarnation(),
            slot.token(),
            worker.pid,
            worker.registered,
            worker.heartbeat,
            worker.lease_end,
            slot.reconciled(),
            slot.leased_until(),
        ),
    );
}

fn flags(state: StateWord) -> String {
    let names = [
        (state.has_flag(FLAG_CANCEL), "cancel"),
        (state.has_flag(FLAG_TIMED_OUT), "timed_out"),
        (state.is_judged(), "judged"),
        (state.is_forgotten(), "forgotten"),
    ];
    let set = names.into_iter().filter(|&(is_set, _)| is_set);
    let names: Vec<_> = set.map(|(_, name)| name).collect();
    format!("[{}]", names.join(" "))
}

fn outcome(outcome: Outcome) -> String {
    let Outcome {
        kind,
        code,
        result_dropped,
        output_cut,
    } = outcome;
    format!(
        "{} {code} dropped {result_dropped} cut {output_cut}",
        kind.name()
    )
}

fn name_of(view: &SegmentView, worker: WorkerIndex) -> String {
    view.read_worker(worker)
        .map_or_else(String::new, |read| read.record.name)
}

/// Length and checksum of bytes wherever they lie; of those in a file its length, and its number.
fn bytes(view: &SegmentView, task: &TaskRecord, part: Part, blob: BlobRef) -> (String, u32) {
    if let BlobRef::Spill { number, len } = blob {
        return (format!("a file of {len}"), number);
    }
    let mut bytes = vec![0; usize::try_from(blob.len()).unwrap()];
    let read = view.load_blob(task, part, 0, &mut bytes).unwrap();
    assert_eq!(read, bytes.len());
    (format!("{read} bytes {:08x}", crc32c::crc32c(&bytes)), 0)
}

fn task(text: &mut String, view: &SegmentView, number: u32) {
    let slot = SlotIndex::new_checked(number, u32::MAX).unwrap();
    let read = view.read_task(slot).unwrap();
    assert!(!read.torn);
    let task = read.record;
    let Some(id) = task.id else {
        return;
    };
    let state = task.state;
    let holder = match (state.owner(), state.last_worker()) {
        (Owner::Attach(_), _) => "a submitter".to_owned(),
        (Owner::Worker(worker), _) => format!("worker `{}`", name_of(view, worker)),
        (Owner::None, Some(worker)) => format!("last worker `{}`", name_of(view, worker)),
        (Owner::None, None) => "nobody".to_owned(),
    };
    put(
        text,
        format_args!(
            "task {number} {} {} by {holder} attempt {} @ {id}",
            state.phase(),
            flags(state),
            state.fence()
        ),
    );
    if let Some(tombstone) = view.expired(id) {
        let (phase, at) = (tombstone.phase, tombstone.unix_ms);
        put(text, format_args!("  expired as {phase} at {at}"));
    }
    if matches!(state.phase().name(), "free" | "claimed" | "quarantine") {
        return;
    }
    put(
        text,
        format_args!(
            "  priority {} lsn {} kind {} timeout {} attempts {} failures {} losses {} options {} client {} @ stamp {} since {}",
            task.priority,
            task.lsn,
            task.kind,
            task.timeout_ms,
            task.max_attempts,
            task.failures,
            task.losses,
            task.options.bits(),
            task.client,
            task.key.ready_stamp(),
            task.phase_time,
        ),
    );
    let (payload, payload_file) = bytes(view, &task, Part::Payload, task.payload);
    let (result, result_file) = bytes(view, &task, Part::Result, task.result);
    let how = outcome(task.outcome);
    put(
        text,
        format_args!(
            "  payload {payload} result {result} outcome {how} @ files {payload_file} {result_file}"
        ),
    );
    beside(text, view, &task, id);
}

/// Side record, key, history.
fn beside(text: &mut String, view: &SegmentView, task: &TaskRecord, id: TaskId) {
    let side = view.read_side(task);
    if let Some(side) = &side {
        put(
            text,
            format_args!(
                "  side array {} estimate {} keep {} submitted {} finish by {} trace {:?} @ array {:x}",
                side.array_index,
                side.estimate_ms,
                side.keep_s,
                side.submitted_unix_ms,
                side.finish_by,
                side.trace,
                side.array_id,
            ),
        );
    }
    if let Some((key, expiry)) = view.key_of(task, side.as_ref()) {
        put(text, format_args!("  key {key} @ {expiry}"));
    }
    for kept in view.attempts_kept(id) {
        put(
            text,
            format_args!(
                "  attempt {} of `{}` {} message `{}` tail {:?} @ {}",
                kept.attempt,
                kept.worker_name,
                outcome(kept.outcome),
                kept.message,
                String::from_utf8_lossy(&kept.stderr_tail),
                kept.ended,
            ),
        );
    }
}
