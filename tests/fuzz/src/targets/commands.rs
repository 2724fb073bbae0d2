//! Target `commands`: bytes as a list of calls of the engine, four bytes each.
//!
//! Clients, workers that obey, workers that lie, time, and restarts of the daemon. Promises: those of `world.rs`, after
//! each call; and at the end, when one good worker is left alone with the engine, every task ends.

use qtf_engine::{ArrayMember, Beat, Held, Output, Payload, ResultReport, Submission, TaskRef};
use qtf_shm::{Outcome, OutcomeKind, TaskId, WorkerId};
use qtf_world::MS;

use super::world::{KINDS, World};

/// LIMIT: calls of one input; what takes longer shows nothing new.
const CALLS_MAX: usize = 512;

/// Takes one list of calls.
pub(crate) fn run(bytes: &[u8]) {
    let mut world = World::new();
    for (count, call) in bytes.chunks_exact(4).take(CALLS_MAX).enumerate() {
        let [what, a, b, c] = [call[0], call[1], call[2], call[3]];
        act(&mut world, what, (a, b, c));
        world.take_effects();
        if count % 64 == 63 {
            world.verify();
        }
    }
    world.verify();
    world.come_to_rest();
}

fn act(world: &mut World, what: u8, (a, b, c): (u8, u8, u8)) {
    let now = world.base.now;
    match what % 20 {
        0 | 1 => submit(world, (a, b, c)),
        2 => world.cancel(a),
        3 => {
            if let Some(task) = world.task(a) {
                let _answer = world
                    .base
                    .engine
                    .update_priority(now, task, u32::from(b) * 2);
            }
        }
        4 => world.forget(a),
        5 => world.revive(a),
        6 => world.join(u32::from(a % 8), u32::from(b), None),
        7 => {
            if let Some(worker) = world.worker(a) {
                let _known =
                    world
                        .base
                        .engine
                        .worker_credits(now, worker, u32::from(b), c & 1 == 1);
            }
        }
        8 | 9 => world.report(a, b, outcome(c)),
        10 => started(world, a, b),
        11 => {
            if let Some(worker) = world.worker(a) {
                let beat = Beat {
                    holding: qtf_engine::Holding::Count(u32::from(b % 8)),
                    load_milli: u32::from(c) * 100,
                    draining: c == 255,
                };
                let _known = world.base.engine.worker_beat(now, worker, &beat);
            }
        }
        12 => world.leave(a, b),
        13 => world.base.pass(u64::from(a) * u64::from(b) * MS / 4),
        14 => world.cycle(),
        15 => lie(world, (a, b, c)),
        16 => world.restart(),
        17 => world.return_of(a, b),
        18 => world.hold(a),
        _ => world.release(a),
    }
}

fn submit(world: &mut World, (a, b, c): (u8, u8, u8)) {
    let payload = vec![a; usize::from(b) * usize::from(c % 64)];
    let first = world.task(b);
    let submission = Submission {
        priority: (a > 10).then(|| u32::from(b) * u32::from(a % 3)),
        timeout_ms: u32::from(c % 5) * u32::from(b),
        retries: u32::from(a % 4),
        estimate_ms: u32::from(b),
        delay_ms: u64::from(c / 64) * u64::from(b),
        discard_result: a & 0x40 != 0,
        hold: a & 0x3f == 0x3f,
        array: (a & 0x80 != 0).then_some(ArrayMember {
            array: first,
            index: u64::from(c),
        }),
        ..Submission::new(
            world.base.client,
            KINDS[usize::from(c) % KINDS.len()],
            Payload::Bytes(&payload),
        )
    };
    world.submit(&submission);
}

fn outcome(c: u8) -> Outcome {
    let kind = match c % 6 {
        0..=2 => OutcomeKind::Exited,
        3 => OutcomeKind::Signalled,
        4 => OutcomeKind::TimedOut,
        _ => OutcomeKind::Cancelled,
    };
    Outcome {
        kind,
        code: if c.is_multiple_of(3) { 0 } else { c },
        result_dropped: false,
        output_cut: false,
    }
}

fn started(world: &mut World, a: u8, b: u8) {
    if let Some((worker, held)) = world.held(a, b) {
        world.base.engine.task_started(world.base.now, worker, held);
    }
}

/// Numbers that nobody gave out.
fn lie(world: &mut World, (a, b, c): (u8, u8, u8)) {
    let now = world.base.now;
    let raw = (u64::from(c) << 24) | u64::from(b);
    let worker =
        WorkerId::from_raw((u64::from(b) << 16) | u64::from(a)).or_else(|| world.worker(a));
    let task = match c % 2 {
        0 => TaskId::from_raw(raw),
        _ => world.task(c),
    };
    let (Some(worker), Some(task)) = (worker, task) else {
        return;
    };
    let asked = TaskRef {
        task,
        attempt: u32::from(a) * 17,
    };
    let report = ResultReport {
        said: qtf_engine::Said::default(),
        outcome: outcome(a),
        output: Output::Bytes(b"a lie"),
        asked_pause_ns: None,
    };
    world.hand_in(worker, asked, &report);
    let _order = world.base.engine.payload_for(worker, asked);
    world.base.engine.task_started(now, worker, asked);
    world.base.engine.probe_answered(now, worker, raw);
    let held = Held {
        task_id: raw,
        attempt: u32::from(a),
        finished: b & 1 == 1,
    };
    world.join(u32::from(a % 3), raw.try_into().unwrap_or(0), Some(held));
}

/// What the corpus starts from.
pub(crate) fn seeds() -> Vec<(String, Vec<u8>)> {
    const ASSIGNED: [u8; 20] = [
        0, 50, 9, 0, // submit
        6, 2, 1, 0, // a worker joins
        7, 0, 2, 1, // and grants
        14, 0, 0, 0, // a turn
        10, 0, 0, 0, // started
    ];
    let waiting: [(&str, &[u8]); 4] = [
        (
            "cancelled-while-waiting",
            &[0, 50, 9, 0, 2, 0, 0, 0, 4, 0, 0, 0],
        ),
        ("delayed", &[0, 50, 9, 255, 13, 255, 255, 0, 14, 0, 0, 0]),
        (
            "held",
            &[
                0, 50, 9, 0, 18, 0, 0, 0, 6, 2, 1, 0, 14, 0, 0, 0, 19, 0, 0, 0,
            ],
        ),
        (
            "lies",
            &[0, 50, 9, 0, 15, 1, 2, 3, 15, 0, 0, 1, 15, 255, 255, 254],
        ),
    ];
    let running: [(&str, &[u8]); 6] = [
        ("life", &[8, 0, 0, 0, 4, 0, 0, 0]),
        ("cancelled-while-running", &[2, 0, 0, 0, 8, 0, 0, 5]),
        ("failed", &[8, 0, 0, 1, 13, 200, 9, 0, 14, 0, 0, 0]),
        ("lost", &[12, 0, 1, 0, 14, 0, 0, 0, 5, 0, 0, 0]),
        (
            "silent",
            &[13, 255, 255, 0, 14, 0, 0, 0, 13, 255, 9, 0, 14, 0, 0, 0],
        ),
        ("restart", &[16, 0, 0, 0, 17, 0, 0, 0, 8, 0, 0, 0]),
    ];
    let mut seeds = vec![("full".to_owned(), [0, 60, 9, 0].repeat(300))];
    for (name, calls) in waiting {
        seeds.push((name.to_owned(), calls.to_vec()));
    }
    for (name, calls) in running {
        seeds.push((name.to_owned(), [&ASSIGNED, calls].concat()));
    }
    seeds.extend((0..8).map(|seed| (format!("mixture-{seed}"), mixture(seed))));
    seeds
}

/// Reaches most pairs of calls.
fn mixture(seed: u32) -> Vec<u8> {
    let mut word = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut bytes = Vec::new();
    for _ in 0..200 {
        word ^= word << 13;
        word ^= word >> 17;
        word ^= word << 5;
        bytes.extend(word.to_le_bytes());
    }
    bytes
}
