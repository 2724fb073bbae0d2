//! What is to be done: the options, checked, and what the daemon holds.
//!
//! Tested at the end of this file.

use bytes::Bytes;
use prost::Message as _;
use qtf_proto::address::Address;
use qtf_proto::v1;
use qtf_shm::Geometry;

use super::arrivals::Schedule;
use super::client::Orders;
use crate::args::BenchArgs;
use crate::exit::{Exit, Failure};

/// Tasks under way in a closed loop when nothing is said.
const IN_FLIGHT_DEFAULT: u64 = 64;
/// Bound of them in an open loop.
const IN_FLIGHT_OPEN: u64 = 100_000;
/// LIMIT: tasks that run before the counted ones.
const WARM_UP_MAX: u64 = 10_000;
/// LIMIT: of one worker; as many again are taken ahead.
const SLOTS_MAX: u64 = 30_000;
/// The default of a daemon.
const SEGMENT_BYTES: u64 = 256 << 20;
/// Of a payload or a result beside its bytes, at most.
const BLOB_BYTES: u64 = 128;

/// Checks what the options say together.
pub(super) fn check(args: &BenchArgs) -> Result<(), Failure> {
    let clients = u64::from(args.clients.get());
    if args.in_flight.is_some_and(|tasks| tasks.get() < clients) {
        return Err(Failure::usage(format!(
            "--in-flight {} is less than one task for each of --clients {clients}",
            in_flight(args)
        )));
    }
    if args.tasks.get() < clients {
        return Err(Failure::usage(format!(
            "--tasks {} is less than one task for each of --clients {clients}",
            args.tasks
        )));
    }
    segment_bytes(args).map(drop)
}

/// Tasks under way, as asked for.
pub(super) fn in_flight(args: &BenchArgs) -> u64 {
    match (args.in_flight, args.rate) {
        (Some(tasks), _) => tasks.get(),
        (None, Some(_)) => IN_FLIGHT_OPEN,
        // So that each client has one.
        (None, None) => IN_FLIGHT_DEFAULT.max(args.clients.get().into()),
    }
}

/// Size of a segment that holds them all, with some room, for the own daemon.
pub(super) fn segment_bytes(args: &BenchArgs) -> Result<u64, Failure> {
    let tasks = args.backlog.saturating_add(in_flight(args));
    let blobs = [args.payload, args.result];
    let each: u64 = blobs
        .iter()
        .filter(|bytes| **bytes > 0)
        .map(|bytes| u64::from(*bytes) + BLOB_BYTES)
        .sum();
    let mut bytes = SEGMENT_BYTES;
    loop {
        let geometry = Geometry::for_bytes(bytes).map_err(|error| {
            Failure::usage(format!(
                "no segment holds {tasks} tasks with {} + {} bytes each (--backlog, --in-flight, --payload, --result): {error}",
                args.payload, args.result
            ))
        })?;
        // A quarter is room: for shares, and for what was acknowledged and is not free yet.
        let holds = u64::from(geometry.tasks()) / 4 * 3;
        if holds >= tasks && geometry.arena_bytes() / 4 * 3 >= tasks.saturating_mul(each) {
            return Ok(bytes);
        }
        bytes = bytes.saturating_mul(2);
    }
}

/// Tasks under way at a daemon that holds so many of one client.
pub(super) fn in_flight_at(args: &BenchArgs, slots: u64) -> Result<u64, Failure> {
    let asked = in_flight(args);
    let all = args.backlog.saturating_add(asked);
    if all <= slots {
        return Ok(asked);
    }
    // Nobody asked for so many.
    if args.rate.is_some() && args.in_flight.is_none() && slots >= 2 * u64::from(args.clients.get())
    {
        return Ok(slots / 2);
    }
    Err(Failure::new(
        Exit::Refused,
        format!(
            "the daemon holds {slots} tasks of one client, and --backlog and --in-flight are {all} together: ask for fewer, or give it a \
             larger segment"
        ),
    ))
}

/// Slots of each worker, with as many taken ahead.
pub(super) fn slots(args: &BenchArgs, in_flight: u64) -> u32 {
    let each = in_flight.div_ceil(args.workers.get().into());
    u32::try_from(each.clamp(1, SLOTS_MAX)).unwrap_or(1)
}

/// Tasks that run before those that count.
pub(super) fn warm_up(args: &BenchArgs) -> u64 {
    (args.tasks.get() / 10).min(WARM_UP_MAX)
}

/// What each client is to do.
pub(super) fn orders(
    args: &BenchArgs,
    (address, kind): (&Address, &str),
    in_flight: u64,
) -> Vec<Orders> {
    let clients = args.clients.get();
    let durability = args.durability.map(v1::Durability::from);
    let task = v1::TaskSpec {
        kind: kind.to_owned(),
        payload: Bytes::from(vec![b'.'; usize::try_from(args.payload).unwrap_or(0)]),
        durability: durability.unwrap_or(v1::Durability::Unspecified).into(),
        ..v1::TaskSpec::default()
    };
    let orders = |number: u16| Orders {
        address: address.clone(),
        task: task.clone(),
        output_bytes: output_bytes(args.result),
        random_priority: args.random_priority,
        warm_up: share(warm_up(args), (clients, number)),
        tasks: share(args.tasks.get(), (clients, number)),
        in_flight: share(in_flight, (clients, number)),
        backlog: share(args.backlog, (clients, number)),
        schedule: args.rate.map(|rate| Schedule {
            rate,
            clients,
            number,
        }),
        spin: spin(args),
    };
    (0..clients).map(orders).collect()
}

/// How long client and worker at a segment look again and again before they sleep.
pub(super) fn spin(args: &BenchArgs) -> std::time::Duration {
    args.spin.unwrap_or_default()
}

/// Bytes of the output that holds a result, as the worker library encodes it.
fn output_bytes(result: u32) -> u64 {
    let stdout = vec![0; usize::try_from(result).unwrap_or(0)];
    let output = v1::TaskOutput {
        stdout: stdout.into(),
        ..v1::TaskOutput::default()
    };
    output.encoded_len() as u64
}

/// One of several equal parts; the first have one more where it does not divide.
fn share(whole: u64, (parts, number): (u16, u16)) -> u64 {
    let parts = u64::from(parts);
    whole / parts + u64::from(u64::from(number) < whole % parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn args(line: &str) -> BenchArgs {
        let words = ["qtf", "bench"].into_iter().chain(line.split_whitespace());
        let command = crate::args::Cli::try_parse_from(words).unwrap().command;
        let crate::args::Command::Bench(args) = command else {
            panic!("{command:?}")
        };
        args
    }

    #[test]
    fn shares_of_the_clients_add_up() {
        let args = args("--tasks 1003 --in-flight 10 --backlog 7 --clients 4 --workers 3");
        let address = "127.0.0.1:1".parse().unwrap();
        let orders = orders(&args, (&address, "kind"), 10);
        let sum = |of: fn(&Orders) -> u64| orders.iter().map(of).sum::<u64>();
        assert_eq!(sum(|orders| orders.tasks), 1_003);
        assert_eq!(sum(|orders| orders.in_flight), 10);
        assert_eq!(sum(|orders| orders.backlog), 7);
        assert_eq!(sum(|orders| orders.warm_up), 100);
        assert!(orders.iter().all(|orders| orders.in_flight >= 2));
        assert_eq!(slots(&args, 10), 4);
    }

    #[test]
    fn less_than_a_task_for_each_client_is_refused_with_both_numbers() {
        for line in ["--in-flight 3 --clients 4", "--tasks 3 --clients 4"] {
            let failure = check(&args(line)).unwrap_err();
            let text = failure.message().unwrap_or("");
            assert!(text.contains('3') && text.contains("--clients 4"), "{text}");
            assert_eq!(failure.exit(), Exit::Usage);
        }
        // Nobody said how many.
        check(&args("--clients 100")).unwrap();
    }

    #[test]
    fn the_own_segment_holds_what_is_asked_for() {
        for line in [
            "",
            "--backlog 1000000",
            "--in-flight 100000 --payload 65536 --result 65500",
        ] {
            let args = args(line);
            let geometry = Geometry::for_bytes(segment_bytes(&args).unwrap()).unwrap();
            let tasks = args.backlog + in_flight(&args);
            assert!(u64::from(geometry.tasks()) > tasks, "{line}");
            let bytes = tasks * u64::from(args.payload + args.result);
            assert!(geometry.arena_bytes() > bytes, "{line}");
        }
        assert_eq!(segment_bytes(&args("")).unwrap(), SEGMENT_BYTES);
    }

    #[test]
    fn the_largest_result_still_comes_with_the_end_of_its_task() {
        assert_eq!(output_bytes(0), 0);
        assert!(output_bytes(65_500) <= qtf_proto::limits::INLINE_BYTES_MAX as u64);
    }

    #[test]
    fn more_than_any_segment_holds_is_refused() {
        let failure = check(&args("--backlog 18446744073709551615")).unwrap_err();
        let text = failure.message().unwrap_or("");
        assert!(text.contains("--backlog"), "{text}");
    }

    #[test]
    fn a_small_daemon_bounds_an_open_loop_and_refuses_what_was_asked_for() {
        assert_eq!(in_flight_at(&args("--rate 10"), 1_000).unwrap(), 500);
        assert_eq!(
            in_flight_at(&args("--in-flight 1000"), 1_000).unwrap(),
            1_000
        );
        for line in [
            "--in-flight 1001",
            "--backlog 990",
            "--rate 5 --in-flight 1001",
        ] {
            let failure = in_flight_at(&args(line), 1_000).unwrap_err();
            assert_eq!(failure.exit(), Exit::Refused);
            let text = failure.message().unwrap_or("");
            assert!(text.contains("1000 tasks"), "{text}");
        }
    }
}
