//! Options of `qtf bench`, and of the processes that it starts.

use std::num::{NonZeroU16, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use qtf_proto::limits::INLINE_BYTES_MAX;

use super::DurabilityName;

const LONG: &str = "\
Has no-op tasks run and tells how many a second, how long each took from its submission to its end at the client, and what the \
daemon's processor time for one was.

Without --addr and QTF_ADDR it starts a daemon and workers of its own, each a process, and nothing of them stays, however it ends. \
At another daemon it starts only the workers. They offer a kind of their own, so that tasks of others do not come to them, and the \
tasks are acknowledged; but they take time and room there.

Closed loop: --in-flight tasks are under way, and a new one is submitted when one has ended. Open loop, with --rate: tasks arrive by \
a schedule, evenly, whether others have ended or not, and the time of each counts from its moment in the schedule. So a daemon that \
holds everything up for a second shows in the times of all tasks that should have come in that second.

With --backlog so many tasks wait all the time: the workers begin when they are there, and each end is followed by a submission. The \
times are then those in the queue, and the rate is what counts.

At shm:NAME clients and workers write to the segment themselves, each on a thread of its own.

Some tasks run first and are not counted (a tenth, at most 10,000). Compare figures only of one machine, and of builds with \
optimisation; on a busy one compare what ran in turns.";

const EXAMPLES: &str = "\
Examples:
  qtf bench
  qtf bench --in-flight 1 --one-core
  qtf bench --in-flight 4096 --tasks 2000000 --payload 64 --result 16
  qtf bench --rate 20000 --tasks 200000
  qtf bench --backlog 1000000 --random-priority --tasks 500000 --in-flight 4096
  qtf bench --durability journal --in-flight 1024
  qtf bench --json | jq .p99_us
  qtf --addr unix:/tmp/qtf.sock bench --clients 4 --workers 2
  qtf --addr shm:default bench --in-flight 256 --tasks 2000000";

/// Largest payload: what goes inside a message.
const PAYLOAD_MAX: i64 = 64 << 10;
const _: () = assert!(PAYLOAD_MAX.unsigned_abs() == INLINE_BYTES_MAX as u64);
/// Largest result: the same with what is around it.
const RESULT_MAX: i64 = 65_500;

/// Measures how fast a daemon runs tasks that do nothing
#[derive(Debug, clap::Args)]
#[command(long_about = LONG, after_long_help = EXAMPLES)]
pub(crate) struct BenchArgs {
    /// Tasks that are counted
    #[arg(long, value_name = "N", default_value = "100000")]
    pub(crate) tasks: NonZeroU64,
    /// Tasks under way at the same time, over all clients [default: 64; with --rate what the daemon holds, at most 100000]
    ///
    /// With --rate a bound: what is due beyond it waits in the client, and its time runs.
    #[arg(long, value_name = "W")]
    pub(crate) in_flight: Option<NonZeroU64>,
    /// Tasks that arrive in a second, over all clients, by a schedule
    #[arg(long, value_name = "R", value_parser = parse_rate, conflicts_with = "backlog")]
    pub(crate) rate: Option<f64>,
    /// Bytes that go to the worker with each task, at most 65536
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=PAYLOAD_MAX))]
    pub(crate) payload: u32,
    /// Bytes that come back from it, at most 65500
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=RESULT_MAX))]
    pub(crate) result: u32,
    /// Tasks that wait all the time beside those under way
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) backlog: u64,
    /// Each task has a priority of its own, from 0 to 255 by chance
    #[arg(long)]
    pub(crate) random_priority: bool,
    /// Clients, each with a connection and a thread
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) clients: NonZeroU16,
    /// Workers, each a process, at most 256
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_workers)]
    pub(crate) workers: NonZeroU16,
    /// Where the tasks are kept before the daemon answers; the own daemon's journal lies in the folder for temporary files
    /// (TMPDIR) [default: memory; at another daemon what it does by default]
    #[arg(long, value_enum, value_name = "DURABILITY")]
    pub(crate) durability: Option<DurabilityName>,
    /// At shm:NAME: client and worker look again and again for so long, at most 10 ms, before they sleep [default: not at all]
    ///
    /// Each of them takes a core meanwhile.
    #[arg(long, value_name = "DURATION", value_parser = parse_spin)]
    pub(crate) spin: Option<Duration>,
    /// Everything that is started here runs on one core
    #[arg(long)]
    pub(crate) one_core: bool,
}

/// LIMIT: longer only takes cores from others.
const SPIN_MAX: Duration = Duration::from_millis(10);

fn parse_spin(text: &str) -> Result<Duration, String> {
    let spin = humantime::parse_duration(text).ok();
    let spin = spin.filter(|spin| *spin <= SPIN_MAX);
    spin.ok_or_else(|| "write a time of at most 10 ms, as in 50us".to_owned())
}

/// LIMIT: each is a process with a thread and a connection, and the machine has to carry them all.
const WORKERS_MAX: u16 = 256;

fn parse_workers(text: &str) -> Result<NonZeroU16, String> {
    let workers = text.parse().ok();
    let workers = workers.filter(|workers: &NonZeroU16| workers.get() <= WORKERS_MAX);
    workers
        .ok_or_else(|| format!("write a number from 1 to {WORKERS_MAX}: each worker is a process"))
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| RATES.to_owned())?;
    if (0.001..=100_000_000.0).contains(&rate) {
        Ok(rate)
    } else {
        Err(RATES.to_owned())
    }
}

const RATES: &str = "write a number of tasks a second from 0.001 to 100000000";

/// A process of `qtf bench`; it leaves when its stdin ends
#[derive(Debug, Subcommand)]
pub(crate) enum BenchPart {
    /// The daemon.
    Daemon {
        /// Its folder, which it removes at its end.
        #[arg(long)]
        folder: PathBuf,
        /// Size of the segment.
        #[arg(long)]
        segment_bytes: u64,
        /// Whether it has a journal.
        #[arg(long)]
        journal: bool,
    },
    /// A worker.
    Worker {
        /// Its name.
        #[arg(long)]
        name: String,
        /// What it offers.
        #[arg(long)]
        kind: String,
        /// Tasks at the same time, and as many ahead.
        #[arg(long)]
        slots: u32,
        /// Bytes of each result.
        #[arg(long)]
        result: u32,
        /// How long it looks again and again for tasks of a segment.
        #[arg(long, value_parser = parse_spin, default_value = "0us")]
        spin: Duration,
    },
}
