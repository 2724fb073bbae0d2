//! Who takes part in which work. In each round everybody runs once, in turns, so that what else happens on the machine is in all.

use std::path::Path;

use clap::ValueEnum;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use qtf_benches::Failure;

use super::drive::{Taken, measure};
use super::programs::Runner;
use super::server::{Server, installed};
use super::table::{Compared, Figures, Row, lines};
use super::{beanstalkd, gearmand, nats, own, redis};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Work {
    /// One task in flight, everything on one core
    AloneOneCore,
    /// One task in flight, wherever the system puts it
    Alone,
    /// 4096 tasks in flight
    Many,
    /// 2 programs at a time
    Programs,
    /// Quantum Taskflow alone, in several ways
    Own,
}

const ALL: [Work; 5] = [
    Work::AloneOneCore,
    Work::Alone,
    Work::Many,
    Work::Programs,
    Work::Own,
];

/// What `qtf bench` is asked for beside the others.
const WAYS: [(&str, &[&str]); 6] = [
    ("64 in flight", &["--in-flight=64", "--tasks=200000"]),
    (
        "1024 in flight, 4 clients, 2 workers",
        &[
            "--in-flight=1024",
            "--tasks=200000",
            "--clients=4",
            "--workers=2",
        ],
    ),
    (
        "open loop, 10000 tasks/s",
        &["--rate=10000", "--tasks=50000"],
    ),
    (
        "1 M waiting, random priorities",
        &[
            "--backlog=1000000",
            "--random-priority",
            "--in-flight=4096",
            "--tasks=200000",
        ],
    ),
    (
        "journal, one in flight",
        &["--durability=journal", "--in-flight=1", "--tasks=2000"],
    ),
    (
        "journal, 1024 in flight",
        &["--durability=journal", "--in-flight=1024", "--tasks=100000"],
    ),
];
const MANY: u64 = 4_096;

/// How much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amounts {
    pub(crate) alone: u64,
    pub(crate) many: u64,
    pub(crate) programs: u64,
}

#[derive(Clone, Copy, Debug)]
enum Peer {
    Beanstalkd,
    Gearmand,
    RedisList,
    RedisStream,
    Nats,
}

impl Peer {
    const ALL: [Peer; 5] = [
        Peer::Nats,
        Peer::Gearmand,
        Peer::RedisList,
        Peer::RedisStream,
        Peer::Beanstalkd,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Beanstalkd => "beanstalkd",
            Self::Gearmand => "gearmand",
            Self::RedisList => "redis list",
            Self::RedisStream => "redis stream",
            Self::Nats => "nats",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Beanstalkd => "beanstalkd",
            Self::Gearmand => "gearmand",
            Self::RedisList | Self::RedisStream => "redis-server",
            Self::Nats => "nats-server",
        }
    }

    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Beanstalkd => &["-l", "127.0.0.1", "-p", "PORT"],
            Self::Gearmand => &[
                "-L",
                "127.0.0.1",
                "-p",
                "PORT",
                "-t",
                "0",
                "-l",
                "FOLDER/log",
            ],
            Self::RedisList | Self::RedisStream => &[
                "--bind",
                "127.0.0.1",
                "--port",
                "PORT",
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
                "FOLDER",
            ],
            Self::Nats => &["-a", "127.0.0.1", "-p", "PORT"],
        }
    }

    fn command(self) -> String {
        let words: Vec<&str> = self
            .words()
            .iter()
            .map(|word| if word.is_empty() { "''" } else { *word })
            .collect();
        format!("`{} {}`", self.program(), words.join(" "))
    }

    fn measure(self, program: &Path, amount: (u64, u64)) -> Result<Figures, Failure> {
        let server = Server::start(program, self.words())?;
        let name = self.name();
        let taken = match self {
            Self::Beanstalkd => measure(&server, (name, beanstalkd::Client), amount),
            Self::Gearmand => measure(&server, (name, gearmand::Client), amount),
            Self::RedisList => measure(&server, (name, redis::Client { stream: false }), amount),
            Self::RedisStream => measure(&server, (name, redis::Client { stream: true }), amount),
            Self::Nats => measure(&server, (name, nats::Client), amount),
        };
        Ok(figures(&taken?))
    }
}

fn figures(taken: &Taken) -> Figures {
    let count = taken.times.len() as f64;
    let us = |quantile| taken.times.value_at_quantile(quantile) as f64 / 1_000.0;
    Figures {
        rate: count / taken.time.as_secs_f64(),
        p50_us: Some(us(0.5)),
        p99_us: Some(us(0.99)),
        processor_us: Some(taken.processor.as_secs_f64() * 1e6 / count),
    }
}

/// Runs all rounds of the works and prints their tables.
pub(crate) fn run(works: &[Work], amounts: Amounts, rounds: u32) -> Result<(), Failure> {
    let works = if works.is_empty() { &ALL[..] } else { works };
    for work in works {
        let (rows, missing) = match work {
            Work::AloneOneCore => {
                let everywhere = sched_getaffinity(Pid::from_raw(0))?;
                stay_on_one_core(&everywhere)?;
                let rows = tasks((amounts.alone, 1), rounds);
                sched_setaffinity(Pid::from_raw(0), &everywhere)?;
                rows?
            }
            Work::Alone => tasks((amounts.alone, 1), rounds)?,
            Work::Many => tasks((amounts.many, MANY), rounds)?,
            Work::Programs => programs(amounts.programs, rounds)?,
            Work::Own => (ways(rounds)?, Vec::new()),
        };
        let (title, compared) = match work {
            Work::AloneOneCore => ("One in flight, everything on one core", Compared::Median),
            Work::Alone => ("One in flight", Compared::Median),
            Work::Many => ("4096 in flight", Compared::Rate),
            Work::Programs => ("/bin/true, two at a time", Compared::Rate),
            Work::Own => ("Quantum Taskflow in other ways", Compared::Rate),
        };
        println!("### {title}\n");
        for line in lines(&rows, compared) {
            println!("{line}");
        }
        println!();
        for line in missing {
            println!("Left out: {line}.\n");
        }
    }
    Ok(())
}

type Rows = (Vec<Row>, Vec<String>);

fn tasks((count, in_flight): (u64, u64), rounds: u32) -> Result<Rows, Failure> {
    let words = [
        format!("--tasks={count}"),
        format!("--in-flight={in_flight}"),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut rows = vec![Row {
        name: "Quantum Taskflow".to_owned(),
        command: format!("`qtf bench {} --payload=64 --result=16`", words.join(" ")),
        rounds: Vec::new(),
    }];
    let mut peers = Vec::new();
    let mut missing = Vec::new();
    for peer in Peer::ALL {
        match installed(peer.program()) {
            Some(program) => {
                rows.push(Row {
                    name: peer.name().to_owned(),
                    command: peer.command(),
                    rounds: Vec::new(),
                });
                peers.push((peer, program));
            }
            None => missing.push(format!(
                "{}: {} is not installed",
                peer.name(),
                peer.program()
            )),
        }
    }
    for _ in 0..rounds {
        rows[0].rounds.push(own::measure(&words)?);
        for ((peer, program), row) in peers.iter().zip(&mut rows[1..]) {
            let figures = peer.measure(program, (count, in_flight));
            row.rounds
                .push(figures.map_err(|error| format!("{}: {error}", row.name))?);
        }
    }
    Ok((rows, missing))
}

fn programs(count: u64, rounds: u32) -> Result<Rows, Failure> {
    let (runners, missing) = Runner::all();
    let row = |runner: &Runner| Row {
        name: runner.name().to_owned(),
        command: runner.command().to_owned(),
        rounds: Vec::new(),
    };
    let mut rows: Vec<Row> = runners.iter().map(row).collect();
    for _ in 0..rounds {
        for (runner, row) in runners.iter().zip(&mut rows) {
            row.rounds.push(Figures {
                rate: runner.measure(count)?,
                p50_us: None,
                p99_us: None,
                processor_us: None,
            });
        }
    }
    Ok((rows, missing))
}

fn ways(rounds: u32) -> Result<Vec<Row>, Failure> {
    let row = |(name, words): &(&str, &[&str])| Row {
        name: (*name).to_owned(),
        command: format!("`qtf bench {} --payload=64 --result=16`", words.join(" ")),
        rounds: Vec::new(),
    };
    let mut rows: Vec<Row> = WAYS.iter().map(row).collect();
    for _ in 0..rounds {
        for ((name, words), row) in WAYS.iter().zip(&mut rows) {
            let figures = own::measure(words);
            row.rounds
                .push(figures.map_err(|error| format!("{name}: {error}"))?);
        }
    }
    Ok(rows)
}

/// This thread, and all that it starts, on the last core that it may use.
fn stay_on_one_core(may: &CpuSet) -> Result<(), Failure> {
    let last = (0..CpuSet::count())
        .rev()
        .find(|core| may.is_set(*core).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(last.ok_or("no core may be used")?)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &one)?)
}
