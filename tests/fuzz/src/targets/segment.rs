//! Target `segment`: changes of the image of a small segment, or (first byte odd) an image as it is.
//!
//! A change is: region (one byte), place in it (four bytes), count (one byte, up to 32), bytes. So a small input reaches
//! any structure, wherever the layout has it. Promises: an image is opened or refused; every record is read without a
//! panic; every command of the inspector ends with one of its exit codes.

use std::ffi::OsString;
use std::path::Path;
use std::sync::OnceLock;

use qtf_shm::layout::Geometry;
use qtf_shm::segment::{Heap, Segment, SegmentSpec, SegmentView, TaskFields};
use qtf_shm::tree::Key;
use qtf_shm::worker::{WorkerEvent, WorkerFields};
use qtf_shm::{AttachIndex, Event, KindSet, Part, Purpose, TaskId, WorkerIndex};
use shm_inspect::Line;

/// Exit codes of an inspector that has been asked well.
const CODES: [u8; 5] = [0, 1, 3, 4, 6];

struct Base {
    image: Vec<u8>,
    /// Where each region lies.
    regions: Vec<(usize, usize)>,
    task: TaskId,
    folder: tempfile::TempDir,
}

/// Takes one input.
pub(crate) fn run(bytes: &[u8]) {
    static BASE: OnceLock<Base> = OnceLock::new();
    let base = BASE.get_or_init(Base::new);
    let Some((&mode, rest)) = bytes.split_first() else {
        return;
    };
    let mut changed = Vec::new();
    let image: &[u8] = if mode & 1 == 1 {
        rest
    } else {
        changed.clone_from(&base.image);
        change(&mut changed, &base.regions, rest);
        &changed
    };
    // Not the process's id: each run has a file of its own and takes it away.
    let file = tempfile::NamedTempFile::new_in(base.folder.path()).expect("a file can be made");
    std::fs::write(file.path(), image).expect("a small file can be written");
    if let Ok(view) = SegmentView::open_image(file.path()) {
        read_all(&view);
    }
    inspect(file.path(), base.task);
}

fn change(image: &mut [u8], regions: &[(usize, usize)], mut changes: &[u8]) {
    while let [region, p0, p1, p2, p3, count, rest @ ..] = changes {
        let (start, length) = regions[usize::from(*region) % regions.len()];
        let place = u32::from_le_bytes([*p0, *p1, *p2, *p3]) as usize;
        let count = usize::from(*count % 32).saturating_add(1).min(rest.len());
        let (bytes, next) = rest.split_at(count);
        changes = next;
        if length == 0 {
            continue;
        }
        let at = start.saturating_add(place % length);
        for (to, from) in image.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }
}

/// Everything a view gives out.
fn read_all(view: &SegmentView) {
    let mut buffer = [0; 256];
    for number in 0..view.geometry().tasks().min(4_096) {
        let Some(reading) = view.slot(number).and_then(|slot| view.read_task(slot)) else {
            continue;
        };
        for part in [Part::Payload, Part::Result] {
            // Refusals are answers, too.
            let _read = view.load_blob(&reading.record, part, 0, &mut buffer);
            let _read = view.load_blob(&reading.record, part, u64::MAX, &mut buffer);
        }
    }
    for number in 0..u16::try_from(view.geometry().clients()).unwrap_or(u16::MAX) {
        let _record = view
            .client_index(number)
            .map(|index| view.read_client(index));
    }
    for heap in [Heap::Task, Heap::Worker, Heap::Timer, Heap::Lease] {
        assert!(view.heap(heap).entries_in_order().count() <= 1 << 24);
        let _violations = view.heap(heap).check().count();
    }
    let _taken = view.allocated_slots(0..u32::MAX).count();
    let _named = view.counters().named().count();
    let _kinds = view.kinds_in_order().count();
    let _usage = view.arena_usage();
}

/// Every command of the inspector, for people and for programs.
fn inspect(image: &Path, task: TaskId) {
    let task = task.to_string();
    let commands: [&[&str]; 9] = [
        &["info"],
        &["layout"],
        &["heap", "task"],
        &["heap", "worker"],
        &["heap", "timer"],
        &["task", &task],
        &["worker", "w2"],
        &["assignments"],
        &["verify"],
    ];
    for command in commands {
        for json in [false, true] {
            let mut words: Vec<OsString> =
                vec!["shm-inspect".into(), "--image".into(), image.into()];
            words.extend(command.iter().map(OsString::from));
            if json {
                words.push("--json".into());
            }
            let line = Line::parse(words).expect("the line is one of ours");
            let (mut out, mut messages) = (Vec::new(), Vec::new());
            let code = line.run(&mut out, &mut messages);
            assert!(CODES.contains(&code), "{command:?} ends with {code}");
            // What others have written cannot drive a terminal.
            for text in [&out, &messages] {
                let text = String::from_utf8_lossy(text);
                let mut shown = text.chars().filter(|c| *c != '\n');
                assert!(
                    !shown.any(qtf_shown::text::is_hidden),
                    "{command:?} prints a hidden character"
                );
            }
        }
    }
}

impl Base {
    fn new() -> Self {
        let folder = super::folder_in_memory();
        let spec = SegmentSpec {
            geometry: Geometry::for_counts(64, 4).expect("a small segment fits"),
            ..SegmentSpec::new("fuzz", folder.path().join("spill"))
        };
        let segment = Segment::in_process(&spec);
        let task = fill(&segment);
        let file = folder.path().join("base.image");
        segment.write_image(&file).expect("an image can be written");
        let regions = segment
            .regions()
            .iter()
            .map(|(_, entry)| {
                let number = |value: u64| usize::try_from(value).unwrap_or(0);
                (number(entry.offset), number(entry.bytes))
            })
            .collect();
        Self {
            image: std::fs::read(&file).expect("it was written just now"),
            regions,
            task,
            folder,
        }
    }
}

/// Ready, delayed, assigned and ended tasks, one worker.
fn fill(segment: &Segment) -> TaskId {
    let submit = |priority: u8, payload: &[u8], event: Event| {
        let mut claimed = segment
            .claim_task(AttachIndex::DAEMON)
            .expect("there is room");
        claimed.set_payload(payload).expect("there is room");
        let fields = TaskFields {
            kind: segment.kinds().find("exec"),
            priority,
            max_attempts: 3,
            ..TaskFields::default()
        };
        claimed.write(&fields).expect("nothing else is claimed");
        claimed
            .publish(event, 100 + u64::from(priority))
            .expect("it is ours")
    };
    let task = submit(7, &b"\n\x04echo\n\x05hello".repeat(40), Event::Admit);
    submit(200, b"", Event::Admit);
    submit(1, &[b'x'; 64], Event::AdmitDelayed);
    let (assigned, ended) = (
        submit(255, b"\n\x04true", Event::Admit),
        submit(254, b"", Event::Admit),
    );
    let index = segment.worker_index(2).expect("there are four");
    let slot = segment.worker(index);
    let right = segment.plm_right().expect("its creator's");
    segment.write_worker(right, index).fill(&WorkerFields {
        name: "one\x1b[2J",
        host: "node-7",
        pid: 42,
        uid: 1000,
        token: 4711,
        kinds: KindSet::from_words([0b10, 0, 0, 0]),
        registered: 1,
    });
    slot.apply(slot.state(), WorkerEvent::Register { capacity: 2 })
        .expect("the slot is free");
    for task in [assigned, ended] {
        assign(segment, task, index);
    }
    for event in [Event::Start, Event::End] {
        let state = segment.task(ended.slot()).state();
        segment.apply(ended.slot(), state, event).expect("its turn");
    }
    let result = segment
        .store(ended, &[b'r'; 200], Purpose::Result)
        .expect("there is room");
    segment.write_task(right, ended.slot()).set_result(result);
    task
}

fn assign(segment: &Segment, task: TaskId, worker: WorkerIndex) {
    let slot = task.slot();
    let key = segment.task(slot).key();
    let state = segment.task(slot).state();
    segment
        .apply(slot, state, Event::Assign { worker })
        .expect("it is ready");
    assert!(segment.ready().remove(slot.get(), key));
    let record = segment.worker(worker);
    record
        .apply(record.state(), WorkerEvent::Take)
        .expect("it has room");
    let load = Key::load(500, 1, worker.get());
    let right = segment.plm_right().expect("its creator's");
    segment.write_worker(right, worker).set_key(load);
    segment.worker_heap().set(u32::from(worker.get()), load);
}

/// What the corpus starts from.
pub(crate) fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = vec![
        ("whole".to_owned(), vec![0]),
        ("empty-image".to_owned(), vec![1]),
        ("zeros".to_owned(), [vec![1], vec![0; 17 << 10]].concat()),
    ];
    let change = |region: u8, place: u32, bytes: &[u8]| {
        let mut change = vec![region];
        change.extend(place.to_le_bytes());
        change.push(u8::try_from(bytes.len() - 1).expect("at most 32"));
        change.extend(bytes);
        change
    };
    for region in 0..18 {
        let ones = [
            vec![0],
            change(region, 0, &[0xff; 32]),
            change(region, 4_096, &[0xff; 32]),
        ];
        seeds.push((format!("region-{region}-ones"), ones.concat()));
        let mixed: Vec<Vec<u8>> = (0..24_u32)
            .map(|step| {
                let place = step * 136 + u32::from(region);
                change(
                    region,
                    place,
                    &(step * 0x0101_0101 + 0x8000_0001).to_le_bytes(),
                )
            })
            .collect();
        seeds.push((
            format!("region-{region}-mixed"),
            [vec![0], mixed.concat()].concat(),
        ));
    }
    seeds
}
