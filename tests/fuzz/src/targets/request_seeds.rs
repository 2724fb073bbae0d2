//! The seeds of target `request`: good messages, strange ones, and none.

use bytes::Bytes;
use prost::Message;
use qtf_proto::v1;

use super::request::paths;

/// What the corpus starts from.
pub(crate) fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = of_clients();
    seeds.extend(of_workers());
    seeds.extend(of_callers());
    seeds.extend(of_every_method());
    seeds.push((
        String::from("garbage"),
        vec![0, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2, 3],
    ));
    seeds
}

fn of_clients() -> Vec<(String, Vec<u8>)> {
    let (task, strange) = tasks();
    let batch = v1::SubmitStreamRequest {
        batch: 1,
        as_array: true,
        tasks: vec![task.clone(), strange.clone()],
        ..v1::SubmitStreamRequest::default()
    };
    let watched = v1::SubmitStreamRequest {
        watch: true,
        with_output: true,
        acknowledge: vec![0, 1 << 24, u64::MAX],
        ..batch.clone()
    };
    let (batch, watched) = (batch.encode_to_vec(), watched.encode_to_vec());
    let selection = v1::TaskSelection {
        task_ids: vec![0, 1, u64::MAX, 1 << 24],
        reason: "x\n".repeat(200),
        ..v1::TaskSelection::default()
    };
    let one = |task| v1::SubmitTaskRequest {
        task: Some(task),
        ..v1::SubmitTaskRequest::default()
    };
    vec![
        unary(0, "submit", &one(task)),
        unary(0, "submit-strange", &one(strange)),
        stream(1, "submit-stream", &[batch.clone(), batch]),
        stream(1, "submit-watched", &[watched.clone(), watched]),
        stream(2, "upload", &[chunk(6, b"abc"), chunk(0, b"def")]),
        stream(2, "upload-too-much", &[chunk(u64::MAX, b"abc")]),
        unary(7, "cancel", &selection),
        unary(8, "forget", &selection),
        unary(19, "revive", &selection),
        unary(21, "hold", &selection),
        unary(22, "release", &selection),
    ]
}

fn tasks() -> (v1::TaskSpec, v1::TaskSpec) {
    let task = v1::TaskSpec {
        kind: "noop".into(),
        payload: Bytes::from_static(b"hello"),
        ..v1::TaskSpec::default()
    };
    let strange = v1::TaskSpec {
        kind: "k".repeat(300),
        priority: Some(u32::MAX),
        timeout_ms: u32::MAX,
        retries: u32::MAX,
        delay_ms: u64::MAX,
        durability: 77,
        idempotency_key: Bytes::from_static(&[0; 16]),
        array_member: true,
        array_id: u64::MAX,
        payload_upload: 5,
        hold: true,
        ..task.clone()
    };
    (task, strange)
}

fn chunk(total_bytes: u64, data: &'static [u8]) -> Vec<u8> {
    let chunk = v1::UploadChunk {
        session: 0,
        total_bytes,
        data: Bytes::from_static(data),
    };
    chunk.encode_to_vec()
}

fn of_workers() -> Vec<(String, Vec<u8>)> {
    let hello = v1::WorkerHello {
        name: "w".into(),
        host: "h".into(),
        pid: 1,
        capacity: 2,
        kinds: vec!["noop".into(), String::new()],
        ..v1::WorkerHello::default()
    };
    let report = v1::WorkerReport {
        hello: Some(hello),
        ..v1::WorkerReport::default()
    };
    let result = v1::WorkerReport {
        results: vec![v1::TaskResult::default()],
        ..v1::WorkerReport::default()
    };
    let numbered = v1::WorkerReport {
        number: u64::MAX,
        credits: u32::MAX,
        ..result.clone()
    };
    let (report, result) = (report.encode_to_vec(), result.encode_to_vec());
    let numbered = numbered.encode_to_vec();
    vec![
        stream(
            10,
            "worker-numbered",
            &[report.clone(), numbered.clone(), numbered],
        ),
        stream(10, "worker", &[report, result.clone()]),
        stream(10, "worker-without-hello", &[result]),
    ]
}

/// Of workers without streams.
fn of_callers() -> Vec<(String, Vec<u8>)> {
    let reserve = v1::ReserveRequest {
        name: "w".into(),
        kinds: vec!["noop".into()],
        count: 2,
        lease_ms: 100,
        request_id: 7,
        ..v1::ReserveRequest::default()
    };
    let touch = v1::TouchRequest {
        attempt_tokens: vec!["1000.1.1000000.1".into(), "x".repeat(300)],
        ..v1::TouchRequest::default()
    };
    let finish = v1::FinishRequest {
        attempt_token: "1000.1.1000000.1".into(),
        output: Some(v1::TaskOutput::default()),
        ..v1::FinishRequest::default()
    };
    let release = v1::ReleaseRequest {
        attempt_token: "1000.1.1000000.1".into(),
        delay_ms: u64::MAX,
        reason: "why".into(),
    };
    vec![
        unary(23, "reserve", &reserve),
        unary(24, "touch", &touch),
        unary(25, "finish", &finish),
        unary(26, "give-back", &release),
    ]
}

/// For each method a message of numbers, and one of nothing.
fn of_every_method() -> Vec<(String, Vec<u8>)> {
    let numbers: Vec<u8> = (1..=9).flat_map(|field| [field << 3, 0xff, 0x7f]).collect();
    let mut seeds = Vec::new();
    for (number, (path, streams)) in (0_u8..).zip(paths()) {
        let name = path.trim_start_matches("/qtf.v1.").replace('/', "-");
        let mut bytes = vec![number];
        if streams {
            bytes.extend([u8::try_from(numbers.len()).unwrap_or(0), 0]);
        }
        bytes.extend(&numbers);
        seeds.push((format!("numbers-{name}"), bytes));
        seeds.push((format!("nothing-{name}"), vec![number, 0, 0]));
    }
    seeds
}

fn unary(method: u8, name: &str, message: &impl Message) -> (String, Vec<u8>) {
    let bytes = [vec![method], message.encode_to_vec()].concat();
    (name.to_owned(), bytes)
}

fn stream(method: u8, name: &str, messages: &[Vec<u8>]) -> (String, Vec<u8>) {
    let mut bytes = vec![method];
    for message in messages {
        let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
        bytes.extend(length.to_le_bytes());
        bytes.extend(message);
    }
    (name.to_owned(), bytes)
}
