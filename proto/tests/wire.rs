//! Messages that are read and written in place, against the generated code.
//!
//! What is read: the same frames are taken, and mean the same, whatever the order of their fields, with fields of a later version among
//! them, split and packed as others do; and the same are refused. What is written: the generated code reads it, and would have
//! written the same bytes where it writes the same fields in the same order.

use bytes::Bytes;
use fastrand::Rng;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, encode_key, encode_varint, skip_field};
use qtf_proto::v1;
use qtf_proto::wire::{Assigned, End, Ended, Frame, Output, Report, Spec, SubmitBatch};

const ROUNDS: u64 = 3_000;

/// Bytes, seldom many.
fn bytes(rng: &mut Rng) -> Bytes {
    let length = match rng.u8(..16) {
        0..4 => 0,
        4..14 => rng.usize(..40),
        14 => rng.usize(..300),
        _ => rng.usize(..20_000),
    };
    core::iter::repeat_with(|| rng.u8(..))
        .take(length)
        .collect()
}

fn text(rng: &mut Rng) -> String {
    String::from_utf8_lossy(&bytes(rng)).into_owned()
}

/// A number of any length, often 0.
fn number(rng: &mut Rng) -> u64 {
    match rng.u8(..4) {
        0 => 0,
        _ => rng.u64(..) >> rng.u32(..64),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "any number will do")]
fn short(rng: &mut Rng) -> u32 {
    number(rng) as u32
}

fn several<T>(rng: &mut Rng, one: impl Fn(&mut Rng) -> T) -> Vec<T> {
    let count = rng.usize(..5);
    (0..count).map(|_| one(rng)).collect()
}

fn perhaps<T>(rng: &mut Rng, one: impl Fn(&mut Rng) -> T) -> Option<T> {
    rng.bool().then(|| one(rng))
}

fn spec(rng: &mut Rng) -> v1::TaskSpec {
    v1::TaskSpec {
        kind: text(rng),
        payload: bytes(rng),
        payload_upload: number(rng),
        priority: perhaps(rng, short),
        timeout_ms: short(rng),
        retries: short(rng),
        estimate_ms: short(rng),
        delay_ms: number(rng),
        durability: rng.i32(-1..5),
        idempotency_key: bytes(rng),
        discard_result: rng.bool(),
        array_id: number(rng),
        array_member: rng.bool(),
        array_index: number(rng),
        key_ttl_ms: number(rng),
        at_most_once: rng.bool(),
        automatic_key: rng.bool(),
        hold: rng.bool(),
        keep_ms: number(rng),
    }
}

fn batch(rng: &mut Rng) -> v1::SubmitStreamRequest {
    v1::SubmitStreamRequest {
        session: number(rng),
        batch: number(rng),
        tasks: several(rng, spec),
        as_array: rng.bool(),
        received_keys: several(rng, bytes),
        watch: rng.bool(),
        with_output: rng.bool(),
        acknowledge: several(rng, number),
    }
}

fn task_ref(rng: &mut Rng) -> v1::TaskRef {
    v1::TaskRef {
        task_id: number(rng),
        attempt: short(rng),
    }
}

fn outcome(rng: &mut Rng) -> v1::Outcome {
    v1::Outcome {
        kind: rng.i32(-1..15),
        code: short(rng),
        result_dropped: rng.bool(),
        output_cut: rng.bool(),
        again_after_ms: number(rng),
    }
}

fn result(rng: &mut Rng) -> v1::TaskResult {
    v1::TaskResult {
        task: perhaps(rng, task_ref),
        outcome: perhaps(rng, outcome),
        output: bytes(rng),
        output_upload: number(rng),
        stderr_tail: bytes(rng),
    }
}

fn held(rng: &mut Rng) -> v1::HeldTask {
    v1::HeldTask {
        task: perhaps(rng, task_ref),
        finished: rng.bool(),
    }
}

fn report(rng: &mut Rng) -> v1::WorkerReport {
    v1::WorkerReport {
        hello: perhaps(rng, |rng| v1::WorkerHello {
            name: text(rng),
            kinds: several(rng, text),
            capacity: short(rng),
            held: several(rng, held),
            ..v1::WorkerHello::default()
        }),
        started: several(rng, task_ref),
        results: several(rng, result),
        holding: perhaps(rng, short),
        load_milli: short(rng),
        draining: rng.bool(),
        goodbye: rng.bool(),
        held: perhaps(rng, |rng| v1::HeldTasks {
            tasks: several(rng, held),
        }),
        credits: short(rng),
        number: number(rng),
    }
}

fn output(rng: &mut Rng) -> v1::TaskOutput {
    v1::TaskOutput {
        stdout: bytes(rng),
        stderr: bytes(rng),
        stdout_dropped_bytes: number(rng),
        stderr_dropped_bytes: number(rng),
        message: text(rng),
        cut_limit_bytes: number(rng),
        cut_by: rng.i32(-1..4),
    }
}

/// A field: its number, its type, and what stands behind its key.
type Field = (u32, WireType, Vec<u8>);

/// What a message consists of, if these bytes can be one.
fn fields_of(mut message: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let (number, wire_type) = decode_key(&mut message).ok()?;
        let before = message;
        skip_field(wire_type, number, &mut message, DecodeContext::default()).ok()?;
        let held = before[..before.len() - message.len()].to_vec();
        fields.push((number, wire_type, held));
    }
    Some(fields)
}

fn message_of(fields: &[Field]) -> Vec<u8> {
    let mut message = Vec::new();
    for (number, wire_type, held) in fields {
        encode_key(*number, *wire_type, &mut message);
        message.extend(held);
    }
    message
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    let mut held = Vec::new();
    encode_varint(bytes.len() as u64, &mut held);
    held.extend(bytes);
    held
}

/// What is in a field of bytes.
fn without_length(mut held: &[u8]) -> &[u8] {
    prost::encoding::decode_varint(&mut held).expect("a field of bytes");
    held
}

/// A field of a later version.
fn unknown(rng: &mut Rng) -> Field {
    let number = [20, 99, 100_000][rng.usize(..3)];
    match rng.u8(..5) {
        0 => (number, WireType::Varint, vec![0xFF, 0x80, 0x80, 0]),
        1 => (number, WireType::SixtyFourBit, vec![7; 8]),
        2 => (number, WireType::ThirtyTwoBit, vec![7; 4]),
        3 => (number, WireType::LengthDelimited, with_length(&bytes(rng))),
        _ => {
            let mut held = message_of(&several(rng, unknown));
            encode_key(number, WireType::EndGroup, &mut held);
            (number, WireType::StartGroup, held)
        }
    }
}

/// Another frame of the same message, or of one like it.
fn scrambled(rng: &mut Rng, message: &[u8]) -> Vec<u8> {
    let mut fields = Vec::new();
    for (number, wire_type, held) in fields_of(message).expect("a message") {
        let within = (wire_type == WireType::LengthDelimited)
            .then(|| fields_of(without_length(&held)))
            .flatten();
        match within {
            Some(within) if rng.u8(..4) > 0 => {
                let whole = scrambled(rng, &message_of(&within));
                let parts = fields_of(&whole).expect("a message");
                let cut = if rng.bool() {
                    rng.usize(..=parts.len())
                } else {
                    0
                };
                for part in [&parts[..cut], &parts[cut..]] {
                    if !part.is_empty() || cut == 0 {
                        fields.push((number, wire_type, with_length(&message_of(part))));
                    }
                }
            }
            // Packed numbers of eight bytes, one by one.
            _ if number == 8 && held.len() % 8 == 1 && rng.bool() => {
                let single = held[1..].chunks(8);
                fields.extend(single.map(|one| (8, WireType::SixtyFourBit, one.to_vec())));
            }
            _ => fields.push((number, wire_type, held)),
        }
    }
    fields.extend((0..rng.usize(..3)).map(|_| unknown(rng)));
    if rng.bool() {
        rng.shuffle(&mut fields);
    }
    message_of(&fields)
}

/// The frame with a fault in it, mostly.
fn spoilt(rng: &mut Rng, mut frame: Vec<u8>) -> Vec<u8> {
    for _ in 0..=rng.usize(..3) {
        let place = rng.usize(..=frame.len());
        match rng.u8(..4) {
            0 => frame.truncate(place),
            1 => frame.insert(place, rng.u8(..)),
            _ if place < frame.len() && rng.bool() => frame[place] ^= 1 << rng.u8(..8),
            _ if place < frame.len() => drop(frame.remove(place)),
            _ => {}
        }
    }
    frame
}

/// How often frames were taken, and refused.
#[derive(Debug, Default)]
struct Judged {
    taken: u32,
    refused: u32,
}

/// Goes through frames of messages, whole, scrambled and spoilt: both readers must say the same of each.
fn compare<M: Message + Default + PartialEq + core::fmt::Debug>(
    make: impl Fn(&mut Rng) -> M,
    read: impl Fn(Bytes) -> Option<M>,
) {
    let mut judged = Judged::default();
    for seed in 0..ROUNDS {
        let mut rng = Rng::with_seed(seed);
        let whole = make(&mut rng).encode_to_vec();
        let other = scrambled(&mut rng, &whole);
        let faulty = spoilt(&mut rng, other.clone());
        for frame in [whole, other, faulty] {
            let frame = Bytes::from(frame);
            let expected = M::decode(frame.clone()).ok();
            match expected {
                Some(_) => judged.taken += 1,
                None => judged.refused += 1,
            }
            assert_eq!(read(frame), expected, "seed {seed}");
        }
    }
    assert!(judged.taken > 2_000 && judged.refused > 200, "{judged:?}");
}

fn spec_message(spec: Spec<'_>) -> v1::TaskSpec {
    let message = v1::TaskSpec {
        kind: spec.kind.to_owned(),
        payload: Bytes::copy_from_slice(spec.payload),
        payload_upload: spec.payload_upload,
        priority: spec.priority,
        timeout_ms: spec.timeout_ms,
        retries: spec.retries,
        estimate_ms: spec.estimate_ms,
        delay_ms: spec.delay_ms,
        durability: spec.durability,
        idempotency_key: Bytes::copy_from_slice(spec.idempotency_key),
        discard_result: spec.discard_result,
        array_id: spec.array_id,
        array_member: spec.array_member,
        array_index: spec.array_index,
        key_ttl_ms: spec.key_ttl_ms,
        at_most_once: spec.at_most_once,
        automatic_key: spec.automatic_key,
        hold: spec.hold,
        keep_ms: spec.keep_ms,
    };
    assert_eq!(Spec::from(&message), spec);
    message
}

#[test]
fn batches_are_taken_and_refused_as_the_generated_code_does() {
    compare(batch, |frame| {
        let read = SubmitBatch::read(frame).ok()?;
        let message = v1::SubmitStreamRequest {
            session: read.session,
            batch: read.batch,
            tasks: read.specs().map(spec_message).collect(),
            as_array: read.as_array,
            received_keys: read.keys().map(Bytes::copy_from_slice).collect(),
            watch: read.watch,
            with_output: read.with_output,
            acknowledge: read.acknowledged().collect(),
        };
        let counts = [read.tasks, read.received_keys, read.acknowledge];
        let found = [
            message.tasks.len(),
            message.received_keys.len(),
            message.acknowledge.len(),
        ];
        assert_eq!(counts, found);
        Some(message)
    });
}

#[test]
fn reports_are_taken_and_refused_as_the_generated_code_does() {
    compare(report, |frame| {
        let read = Report::read(frame).ok()?;
        let results: Vec<_> = read.attempts_ended().collect();
        let message = v1::WorkerReport {
            started: read.attempts_started().collect(),
            results: results.iter().map(Ended::to_message).collect(),
            hello: read.hello.clone(),
            holding: read.holding,
            load_milli: read.load_milli,
            draining: read.draining,
            goodbye: read.goodbye,
            held: read.held.clone(),
            credits: read.credits,
            number: read.number,
        };
        let again: Vec<_> = message.results.iter().map(Ended::from).collect();
        assert_eq!(again, results);
        let counts = [read.started, read.results];
        assert_eq!(counts, [message.started.len(), message.results.len()]);
        Some(message)
    });
}

#[test]
fn outputs_are_taken_and_refused_as_the_generated_code_does() {
    // What the daemon does not look at is left out of the comparison.
    let looked_at = |mut output: v1::TaskOutput| {
        let cut = output.stdout_dropped_bytes > 0 || output.stderr_dropped_bytes > 0;
        output.stdout_dropped_bytes = cut.into();
        output.stderr_dropped_bytes = 0;
        (output.stdout, output.cut_limit_bytes, output.cut_by) = (Bytes::new(), 0, 0);
        output
    };
    for seed in 0..ROUNDS {
        let mut rng = Rng::with_seed(seed);
        let whole = output(&mut rng).encode_to_vec();
        let other = scrambled(&mut rng, &whole);
        let faulty = spoilt(&mut rng, other.clone());
        for encoded in [whole, other, faulty] {
            let read = Output::read(&encoded).ok().map(|read| v1::TaskOutput {
                stderr: Bytes::copy_from_slice(read.stderr),
                message: read.message.to_owned(),
                stdout_dropped_bytes: read.is_cut.into(),
                ..v1::TaskOutput::default()
            });
            let expected = v1::TaskOutput::decode(&*encoded).ok().map(looked_at);
            assert_eq!(read, expected, "seed {seed}");
        }
    }
}

#[test]
fn groups_lie_within_each_other_as_deep_as_the_generated_code_goes_and_no_deeper() {
    for depth in [1, 99, 100, 101, 102, 100_000] {
        let mut frame = Vec::new();
        (0..depth).for_each(|_| encode_key(99, WireType::StartGroup, &mut frame));
        (0..depth).for_each(|_| encode_key(99, WireType::EndGroup, &mut frame));
        let frame = Bytes::from(frame);
        let expected = v1::SubmitStreamRequest::decode(frame.clone()).is_ok();
        assert_eq!(expected, depth <= 100);
        assert_eq!(SubmitBatch::read(frame).is_ok(), expected, "{depth}");
    }
}

#[test]
fn submissions_go_on_where_somebody_has_left_off() {
    let mut rng = Rng::with_seed(1);
    let message = v1::SubmitStreamRequest {
        tasks: core::iter::repeat_with(|| spec(&mut rng))
            .take(20)
            .collect(),
        ..v1::SubmitStreamRequest::default()
    };
    let read = SubmitBatch::read(message.encode_to_vec().into()).unwrap();
    let (mut place, mut tasks) = (0, Vec::new());
    loop {
        let mut specs = read.specs_from(place);
        let some = specs.by_ref().take(3).map(spec_message);
        let before = tasks.len();
        tasks.extend(some);
        place = specs.place();
        if tasks.len() == before {
            break;
        }
    }
    assert_eq!(tasks, message.tasks);
}

fn end(rng: &mut Rng) -> v1::TaskEnd {
    v1::TaskEnd {
        task_id: number(rng),
        state: rng.i32(..14).abs() % 14,
        outcome: perhaps(rng, outcome),
        attempt: short(rng),
        output: bytes(rng),
        output_bytes: number(rng),
        refusal: None,
        worker_name: text(rng),
    }
}

/// Writes bytes where they are to stand.
fn copy(from: &[u8]) -> impl FnOnce(&mut [u8]) -> bool + '_ {
    |to| {
        to.copy_from_slice(from);
        true
    }
}

fn refusal(rng: &mut Rng) -> v1::Refusal {
    v1::Refusal {
        reason: rng.i32(0..20),
        message: text(rng),
        retry_after_ms: short(rng),
    }
}

#[test]
fn answers_and_ends_have_the_bytes_of_the_generated_code() {
    for seed in 0..ROUNDS {
        let mut rng = Rng::with_seed(seed);
        let answer = v1::SubmitStreamResponse {
            batch: number(&mut rng),
            verdicts: several(&mut rng, |rng| match rng.u8(..4) {
                0 => v1::SubmitVerdict {
                    refusal: Some(refusal(rng)),
                    ..v1::SubmitVerdict::default()
                },
                _ => v1::SubmitVerdict {
                    task_id: number(rng),
                    refusal: None,
                    durability: rng.i32(0..3),
                    is_repeat: rng.bool(),
                    result_expired: rng.bool(),
                },
            }),
            ends: several(&mut rng, end),
            ends_only: false,
            watched: rng.bool(),
        };
        let mut frame = Frame::<v1::SubmitStreamResponse>::default();
        frame.batch(answer.batch, answer.watched);
        for verdict in &answer.verdicts {
            match &verdict.refusal {
                Some(refusal) => frame.refused(refusal),
                None => frame.accepted(&v1::SubmitTaskResponse {
                    task_id: verdict.task_id,
                    durability: verdict.durability,
                    is_repeat: verdict.is_repeat,
                    result_expired: verdict.result_expired,
                }),
            }
        }
        let mut watched = Frame::<v1::WatchResponse>::default();
        for end in &answer.ends {
            let head = End {
                outcome: end.outcome,
                attempt: end.attempt,
                output_bytes: end.output_bytes,
                worker_name: &end.worker_name,
                ..End::new(end.task_id, end.state())
            };
            frame.end(&head, end.output.len(), copy(&end.output));
            watched.end(&head, end.output.len(), copy(&end.output));
        }
        assert_eq!(
            v1::SubmitStreamResponse::decode(frame.as_bytes()).as_ref(),
            Ok(&answer),
            "seed {seed}"
        );
        let ends = answer.ends;
        assert_eq!(
            watched.as_bytes(),
            v1::WatchResponse { ends }.encode_to_vec(),
            "seed {seed}"
        );
    }
}

#[test]
fn assignments_have_the_bytes_of_the_generated_code() {
    for seed in 0..ROUNDS {
        let mut rng = Rng::with_seed(seed);
        let response = v1::DispatchResponse {
            assignments: several(&mut rng, |rng| v1::Assignment {
                task: Some(task_ref(rng)),
                kind: text(rng),
                payload: bytes(rng),
                payload_bytes: number(rng),
                timeout_ms: short(rng),
                discard_result: rng.bool(),
                array_id: number(rng),
                array_index: number(rng),
            }),
            stops: several(&mut rng, |rng| v1::StopOrder {
                task: Some(task_ref(rng)),
                reason: rng.i32(0..4),
            }),
            probe: number(&mut rng),
            verdicts: several(&mut rng, |rng| v1::ResultVerdict {
                task: perhaps(rng, task_ref),
                disposition: rng.i32(0..6),
                reason: text(rng),
            }),
            recorded: several(&mut rng, number),
        };
        let mut frame = Frame::<v1::DispatchResponse>::default();
        for assignment in &response.assignments {
            let assigned = Assigned {
                task: assignment.task.unwrap(),
                kind: &assignment.kind,
                payload_bytes: assignment.payload_bytes,
                timeout_ms: assignment.timeout_ms,
                discard_result: assignment.discard_result,
                array_id: assignment.array_id,
                array_index: assignment.array_index,
            };
            let payload = &assignment.payload;
            frame.assignment(&assigned, payload.len(), copy(payload));
        }
        response.stops.iter().for_each(|stop| frame.stop(stop));
        frame.probe(response.probe);
        frame.verdicts(&response.verdicts, &response.recorded);
        assert_eq!(frame.as_bytes(), response.encode_to_vec(), "seed {seed}");
    }
}

#[test]
fn bytes_that_cannot_be_copied_are_left_out_and_the_rest_stays() {
    let mut frame = Frame::<v1::WatchResponse>::default();
    let head = End {
        output_bytes: 1_000,
        worker_name: "one",
        ..End::new(7, v1::TaskState::Done)
    };
    frame.end(&head, 1_000, |_| false);
    let told = v1::WatchResponse::decode(frame.as_bytes()).unwrap();
    let expected = v1::TaskEnd {
        task_id: 7,
        state: v1::TaskState::Done.into(),
        output_bytes: 1_000,
        worker_name: "one".to_owned(),
        ..v1::TaskEnd::default()
    };
    assert_eq!(told.ends, [expected]);
}

#[test]
fn memory_of_a_frame_that_was_sent_is_used_again_and_begins_empty() {
    let mut first = Frame::<v1::DispatchResponse>::default();
    first.probe(u64::MAX);
    let place = first.as_bytes().as_ptr();
    drop(first);
    let mut second = Frame::<v1::WatchResponse>::default();
    assert!(second.is_empty());
    second.no_end(&v1::TaskEnd {
        task_id: 1,
        ..v1::TaskEnd::default()
    });
    assert_eq!(second.as_bytes().as_ptr(), place);
}
