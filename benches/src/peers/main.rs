//! `bench-peers`: Quantum Taskflow beside other programs that hand out work, on the same work, in turns within one run.
//!
//! Prints tables in the form of `docs/PERFORMANCE.md`. A peer that is not installed is left out, and the tables say so. Peers listen on
//! the loopback only, on a free port, and end with this program. Client and worker of a peer are processes, and speak its protocol over
//! a plain socket: they cost little beside it. `qtf bench` and `qtf map` are run as they are.
//!
//! ```sh
//! cargo build --profile dist -p qtf -p qtf-benches && target/dist/bench-peers
//! ```
//!
//! | file | what |
//! |---|---|
//! | `contest` | who takes part in which work, rounds in turns |
//! | `own`, `engine` | `qtf bench`, `bench-engine` |
//! | `peer` | who the peers are, and how they are started |
//! | `drive` | client and worker of any peer |
//! | `beanstalkd`, `gearmand`, `redis`, `nats` | what they say |
//! | `server` | a peer's process |
//! | `programs` | the work of many short programs: `qtf map`, xargs, GNU parallel, HyperQueue, bare starts |
//! | `table` | medians and ratios |
//! | `goals` | what is meant to be reached, and what was |
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

mod beanstalkd;
mod contest;
mod drive;
mod engine;
mod gearmand;
mod goals;
mod nats;
mod own;
mod peer;
mod programs;
mod redis;
mod server;
mod table;

use clap::Parser;
use qtf_benches::Failure;
use qtf_benches::machine::facts;

/// Runs the same work by Quantum Taskflow and by other programs, in turns, and prints tables
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds; each runs every program once, and the tables have medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Tasks of each run with one in flight
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(10..))]
    alone: u64,
    /// Tasks of each run with many in flight
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(10..))]
    many: u64,
    /// Programs of each run of short programs
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(10..))]
    programs: u64,
    /// Tasks that wait where a million are meant to
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(10_000..))]
    waiting: u64,
    /// A folder with `qtf` and `bench-engine` of an earlier build, which takes part, too
    #[arg(long, value_name = "FOLDER")]
    earlier: Option<std::path::PathBuf>,
    /// Only these works
    #[arg(long, value_delimiter = ',', value_enum)]
    work: Vec<contest::Work>,
    /// Is the worker of a peer at this port
    #[arg(long, hide = true, num_args = 2, value_names = ["PEER", "PORT"])]
    worker: Vec<String>,
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    if let [peer, port] = &arguments.worker[..] {
        return drive::work(peer, port.parse()?);
    }
    println!("{}\n", facts(std::path::Path::new("/tmp")));
    let amounts = contest::Amounts {
        alone: arguments.alone,
        many: arguments.many,
        programs: arguments.programs,
        waiting: arguments.waiting,
        earlier: arguments.earlier,
    };
    contest::run(&arguments.work, &amounts, arguments.rounds)
}
