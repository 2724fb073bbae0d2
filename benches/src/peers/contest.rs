//! Who takes part in which work. In each round everybody runs once, in turns, so that what else happens on the machine is in all.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use qtf_benches::Failure;
use qtf_benches::disk::{Sync, synced_writes};

use super::drive::Amount;
use super::goals::{self, EARLIER, FEW_WAITING, MEMORY, OWN, SYNC};
use super::peer::Peer;
use super::programs::Runner;
use super::server::installed;
use super::table::{Compared, Figures, Row, lines};
use super::{engine, own};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Work {
    /// One task in flight, everything on one core
    AloneOneCore,
    /// One task in flight, wherever the system puts it
    Alone,
    /// 64 tasks in flight
    Window,
    /// 4096 tasks in flight
    Many,
    /// 4096 tasks in flight while a million wait, each with a priority by chance
    Waiting,
    /// One journal task in flight
    JournalAlone,
    /// 64 journal tasks in flight
    JournalWindow,
    /// 1024 journal tasks in flight
    JournalMany,
    /// 2 programs at a time
    Programs,
    /// Quantum Taskflow alone, in several ways
    Own,
    /// The engine without a daemon, 1,000 tasks waiting
    EngineFew,
    /// The engine without a daemon, a million tasks waiting
    EngineMany,
}

/// What `qtf bench` is asked for beside the others.
const WAYS: [(&str, &[&str]); 3] = [
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
        "open loop, 100000 tasks/s",
        &["--rate=100000", "--tasks=300000"],
    ),
];
const WINDOW: u64 = 64;
const MANY: u64 = 4_096;
const JOURNAL_MANY: u64 = 1_024;
/// Bytes of a synced write: what the journal writes for one task.
const SYNC_BYTES: usize = 4_096;

/// How much, and beside which other build.
#[derive(Clone, Debug)]
pub(crate) struct Amounts {
    pub(crate) alone: u64,
    pub(crate) many: u64,
    pub(crate) programs: u64,
    /// Waiting together with those in flight, where many wait.
    pub(crate) waiting: u64,
    /// A folder with `qtf` and `bench-engine` of an earlier build.
    pub(crate) earlier: Option<PathBuf>,
}

/// Somebody who takes part.
struct Entry {
    name: String,
    command: String,
    measure: Box<dyn Fn() -> Result<Figures, Failure>>,
}

/// Who takes part, and what is said of those who do not.
#[derive(Default)]
struct Field {
    entries: Vec<Entry>,
    missing: Vec<String>,
}

/// Runs all rounds of the works and prints their tables.
pub(crate) fn run(works: &[Work], amounts: &Amounts, rounds: u32) -> Result<(), Failure> {
    let works = if works.is_empty() {
        Work::value_variants()
    } else {
        works
    };
    for &work in works {
        let field = field_of(work, amounts)?;
        let rows = if work == Work::AloneOneCore {
            let everywhere = sched_getaffinity(Pid::from_raw(0))?;
            stay_on_one_core(&everywhere)?;
            let rows = compete(&field.entries, rounds);
            sched_setaffinity(Pid::from_raw(0), &everywhere)?;
            rows?
        } else {
            compete(&field.entries, rounds)?
        };
        let (title, compared) = heading(work);
        println!("### {title}\n");
        for line in lines(&rows, compared) {
            println!("{line}");
        }
        println!();
        for line in goals::lines(work, &rows) {
            println!("{line}");
        }
        for line in field.missing {
            println!("- left out: {line}");
        }
        println!();
    }
    Ok(())
}

const fn heading(work: Work) -> (&'static str, Compared) {
    match work {
        Work::AloneOneCore => ("One in flight, everything on one core", Compared::Median),
        Work::Alone => ("One in flight", Compared::Median),
        Work::Window => ("64 in flight", Compared::Rate),
        Work::Many => ("4096 in flight", Compared::Rate),
        Work::Waiting => ("A million waiting, priorities by chance", Compared::Rate),
        Work::JournalAlone => ("Journal, one in flight", Compared::Median),
        Work::JournalWindow => ("Journal, 64 in flight", Compared::Rate),
        Work::JournalMany => ("Journal, 1024 in flight", Compared::Rate),
        Work::Programs => ("/bin/true, two at a time", Compared::Rate),
        Work::Own => ("Quantum Taskflow in other ways", Compared::Rate),
        Work::EngineFew => ("The engine alone, 1,000 waiting", Compared::Median),
        Work::EngineMany => ("The engine alone, a million waiting", Compared::Median),
    }
}

fn field_of(work: Work, amounts: &Amounts) -> Result<Field, Failure> {
    let mut field = Field::default();
    match work {
        Work::AloneOneCore | Work::Alone => field.tasks(amounts, (amounts.alone, 1))?,
        Work::Window => field.tasks(amounts, (amounts.many, WINDOW))?,
        Work::Many => field.tasks(amounts, (amounts.many, MANY))?,
        Work::Waiting => field.waiting(amounts)?,
        Work::JournalAlone => {
            field.journal(amounts, (amounts.alone / 2, 1))?;
            field.own(MEMORY, &own_words((amounts.alone, 1)), None)?;
            field.sync(u32::try_from(amounts.alone / 2)?);
        }
        Work::JournalWindow => field.journal(amounts, (amounts.many / 2, WINDOW))?,
        Work::JournalMany => field.journal(amounts, (amounts.many / 2, JOURNAL_MANY))?,
        Work::Programs => field.programs(amounts.programs),
        Work::Own => {
            for (name, words) in WAYS {
                let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
                field.own(name, &words, None)?;
            }
        }
        Work::EngineFew => field.engine(amounts, 1_000)?,
        Work::EngineMany => field.engine(amounts, amounts.waiting)?,
    }
    Ok(field)
}

fn own_words((count, in_flight): (u64, u64)) -> Vec<String> {
    vec![
        format!("--tasks={count}"),
        format!("--in-flight={in_flight}"),
    ]
}

impl Field {
    /// `qtf bench` of this build, or of the one in a folder.
    fn own(&mut self, name: &str, words: &[String], folder: Option<&Path>) -> Result<(), Failure> {
        let program = own::program("qtf", folder)?;
        let words = words.to_vec();
        self.entries.push(Entry {
            name: name.to_owned(),
            command: format!("`qtf bench {} --payload=64 --result=16`", words.join(" ")),
            measure: Box::new(move || own::measure(&program, &words)),
        });
        Ok(())
    }

    fn own_and_earlier(&mut self, amounts: &Amounts, words: &[String]) -> Result<(), Failure> {
        self.own(OWN, words, None)?;
        if let Some(folder) = &amounts.earlier {
            self.own(EARLIER, words, Some(folder))?;
        }
        Ok(())
    }

    fn peer(&mut self, peer: Peer, amount: Amount) {
        let name = peer.name();
        let Some(program) = installed(peer.program()) else {
            self.missing
                .push(format!("{name}: {} is not installed", peer.program()));
            return;
        };
        self.entries.push(Entry {
            name: name.to_owned(),
            command: peer.command(),
            measure: Box::new(move || peer.measure(&program, amount)),
        });
    }

    fn tasks(&mut self, amounts: &Amounts, amount: (u64, u64)) -> Result<(), Failure> {
        self.own_and_earlier(amounts, &own_words(amount))?;
        for peer in Peer::PLAIN {
            self.peer(peer, Amount::of(amount));
        }
        Ok(())
    }

    fn waiting(&mut self, amounts: &Amounts) -> Result<(), Failure> {
        let backlog = amounts.waiting.saturating_sub(MANY);
        let mut words = own_words((amounts.many, MANY));
        words.push("--random-priority".to_owned());
        let few = words.clone();
        words.push(format!("--backlog={backlog}"));
        self.own_and_earlier(amounts, &words)?;
        self.own(FEW_WAITING, &few, None)?;
        let amount = Amount {
            backlog,
            ..Amount::of((amounts.many, MANY))
        };
        self.peer(Peer::RedisSorted, amount);
        Ok(())
    }

    fn journal(&mut self, amounts: &Amounts, amount: (u64, u64)) -> Result<(), Failure> {
        let mut words = own_words(amount);
        words.push("--durability=journal".to_owned());
        self.own_and_earlier(amounts, &words)?;
        for peer in Peer::SYNCED {
            self.peer(peer, Amount::of(amount));
        }
        Ok(())
    }

    fn sync(&mut self, count: u32) {
        self.entries.push(Entry {
            name: SYNC.to_owned(),
            command: format!(
                "`write` of {SYNC_BYTES} bytes and `fdatasync`, in the folder for temporary files"
            ),
            measure: Box::new(move || {
                let amount = (SYNC_BYTES, count);
                let times = synced_writes(&std::env::temp_dir(), Sync::Fdatasync, amount)?;
                let us = |quantile| times.value_at_quantile(quantile) as f64 / 1_000.0;
                Ok(Figures {
                    rate: 1_000_000.0 / (times.mean() / 1_000.0),
                    p50_us: Some(us(0.5)),
                    p99_us: Some(us(0.99)),
                    processor_us: None,
                })
            }),
        });
    }

    fn programs(&mut self, count: u64) {
        let (runners, missing) = Runner::all();
        self.missing = missing;
        for runner in runners {
            self.entries.push(Entry {
                name: runner.name().to_owned(),
                command: runner.command().to_owned(),
                measure: Box::new(move || {
                    Ok(Figures {
                        rate: runner.measure(count)?,
                        p50_us: None,
                        p99_us: None,
                        processor_us: None,
                    })
                }),
            });
        }
    }

    fn engine(&mut self, amounts: &Amounts, waiting: u64) -> Result<(), Failure> {
        let earlier = amounts
            .earlier
            .as_deref()
            .map(|folder| (EARLIER, Some(folder)));
        for (name, folder) in [(OWN, None)].into_iter().chain(earlier) {
            let program = own::program("bench-engine", folder)?;
            self.entries.push(Entry {
                name: name.to_owned(),
                command: format!(
                    "`bench-engine {} {waiting}`, the whole life",
                    engine::ROUNDS
                ),
                measure: Box::new(move || engine::measure(&program, waiting)),
            });
        }
        Ok(())
    }
}

/// Everybody in turns, so many times.
fn compete(entries: &[Entry], rounds: u32) -> Result<Vec<Row>, Failure> {
    let row = |entry: &Entry| Row {
        name: entry.name.clone(),
        command: entry.command.clone(),
        rounds: Vec::new(),
    };
    let mut rows: Vec<Row> = entries.iter().map(row).collect();
    for _ in 0..rounds {
        for (entry, row) in entries.iter().zip(&mut rows) {
            let figures = (entry.measure)();
            row.rounds
                .push(figures.map_err(|error| format!("{}: {error}", entry.name))?);
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
