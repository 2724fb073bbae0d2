//! What is printed: a few lines for people, a document for programs.
//!
//! Tested at the end of this file.

use std::time::Duration;

use hdrhistogram::Histogram;
use qtf_client::DaemonInfo;
use serde::Serialize;

use super::client::Books;
use super::drive::Taken;
use super::host::Host;
use super::plan;
use crate::args::{BenchArgs, OutputMode};
use crate::exit::{Exit, Failure};
use crate::output::{print_json, print_lines};
use crate::records::durability_name;

/// Figures of one run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    tasks_per_s: f64,
    min_us: f64,
    mean_us: f64,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    p999_us: f64,
    p9999_us: f64,
    max_us: f64,
    /// `None` where the daemon is no process of this machine.
    daemon_cpu_us_per_task: Option<f64>,
    worker_cpu_us_per_task: f64,
    client_cpu_us_per_task: f64,
    seconds: f64,
    tasks: u64,
    warm_up_tasks: u64,
    submitted: u64,
    done: u64,
    cancelled: u64,
    failed: u64,
    in_flight: u64,
    rate: Option<f64>,
    backlog: u64,
    random_priority: bool,
    payload_bytes: u32,
    result_bytes: u32,
    clients: u16,
    workers: u16,
    durability: &'static str,
    one_core: bool,
    daemon: Daemon,
    host: Host,
}

/// Which daemon.
#[derive(Debug, Serialize)]
struct Daemon {
    version: String,
    network: String,
    /// Core that it is pinned to.
    core: Option<i32>,
    own: bool,
    optimised: bool,
}

impl Report {
    /// Of a run whose books close.
    pub(super) fn of(
        args: &BenchArgs,
        (host, info, own): (Host, &DaemonInfo, bool),
        (in_flight, taken): (u64, Taken),
        (times, books): (&Histogram<u64>, Books),
    ) -> Result<Self, Failure> {
        let tasks = times.len();
        if tasks != args.tasks.get() || books.failed > 0 || !books.are_closed() {
            let text = format!(
                "{tasks} ends for {} tasks were measured, and the books say {books:?}: the figures are worth nothing",
                args.tasks
            );
            return Err(Failure::new(Exit::TaskFailed, text));
        }
        let at = |quantile| us(Duration::from_nanos(times.value_at_quantile(quantile)));
        let each = |time: Duration| us(time) / number(tasks);
        let seconds = taken.time.as_secs_f64();
        let durability = match args.durability {
            Some(name) => durability_name(name.into()),
            None => durability_name(info.default_durability()),
        };
        Ok(Report {
            tasks_per_s: rounded(number(tasks) / seconds),
            min_us: us(Duration::from_nanos(times.min())),
            mean_us: rounded(times.mean() / 1_000.0),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            p9999_us: at(0.9999),
            max_us: us(Duration::from_nanos(times.max())),
            daemon_cpu_us_per_task: taken.processors.daemon.map(each).map(rounded),
            worker_cpu_us_per_task: rounded(each(taken.processors.workers)),
            client_cpu_us_per_task: rounded(each(taken.processors.clients)),
            seconds: rounded(seconds),
            tasks,
            warm_up_tasks: plan::warm_up(args),
            submitted: books.submitted,
            done: books.done,
            cancelled: books.cancelled,
            failed: books.failed,
            in_flight,
            rate: args.rate,
            backlog: args.backlog,
            random_priority: args.random_priority,
            payload_bytes: args.payload,
            result_bytes: args.result,
            clients: args.clients.get(),
            workers: args.workers.get(),
            durability,
            one_core: args.one_core,
            daemon: Daemon {
                version: info.version.clone(),
                network: info.network_backend.clone(),
                core: (info.core >= 0).then_some(info.core),
                own,
                optimised: !cfg!(debug_assertions),
            },
            host,
        })
    }

    /// Prints it.
    pub(super) fn print(&self, mode: OutputMode) -> Result<(), Failure> {
        match mode {
            OutputMode::Table => print_lines(self.lines())?,
            OutputMode::Json | OutputMode::Jsonl => print_json("qtf.bench/1", self)?,
        }
        Ok(())
    }

    fn lines(&self) -> Vec<String> {
        let load = match (self.rate, self.backlog) {
            (Some(rate), _) => format!("open loop, {rate} tasks/s by schedule"),
            (None, 0) => format!("closed loop, {} in flight", self.in_flight),
            (None, backlog) => format!("{backlog} waiting, {} in flight", self.in_flight),
        };
        let daemon_cpu = match self.daemon_cpu_us_per_task {
            Some(us) => format!("{us:.2} us"),
            None => "not known (the daemon is no process of this machine)".to_owned(),
        };
        vec![
            format!(
                "{} tasks of {} + {} bytes, {}, {load}{}{}",
                self.tasks,
                self.payload_bytes,
                self.result_bytes,
                self.durability,
                if self.random_priority {
                    ", random priorities"
                } else {
                    ""
                },
                if self.one_core { ", on one core" } else { "" },
            ),
            format!(
                "{}, {}; {}, {}, Linux {}, load {}",
                counted(self.clients.into(), "client"),
                counted(self.workers.into(), "worker"),
                self.host.processor,
                counted(self.host.cores, "core"),
                self.host.kernel,
                self.host.load
            ),
            String::new(),
            format!("tasks/s        {:>12.0}", self.tasks_per_s),
            format!("p50            {:>12.1} us", self.p50_us),
            format!("p90            {:>12.1} us", self.p90_us),
            format!("p99            {:>12.1} us", self.p99_us),
            format!("p99.9          {:>12.1} us", self.p999_us),
            format!("p99.99         {:>12.1} us", self.p9999_us),
            format!("longest        {:>12.1} us", self.max_us),
            String::new(),
            format!(
                "processor time a task: daemon {daemon_cpu}, workers {:.2} us, clients {:.2} us",
                self.worker_cpu_us_per_task, self.client_cpu_us_per_task
            ),
        ]
    }
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// Microseconds.
fn us(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1_000_000.0)
}

/// What is left is more than was measured.
fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// Exact below 2^53, which no run reaches.
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::super::client::histogram;
    use super::super::meter::Times;
    use super::*;
    use clap::Parser as _;

    fn report(ends: u64, books: Books) -> Result<Report, Failure> {
        let line = ["qtf", "bench", "--tasks", "1000"];
        let crate::args::Command::Bench(args) =
            crate::args::Cli::try_parse_from(line).unwrap().command
        else {
            panic!("not bench")
        };
        let mut times = histogram().unwrap();
        for microseconds in 1..=ends {
            times.record(microseconds * 1_000).unwrap();
        }
        let taken = Taken {
            time: Duration::from_millis(500),
            processors: Times {
                daemon: Some(Duration::from_millis(2)),
                ..Times::default()
            },
        };
        let info = DaemonInfo {
            core: -1,
            ..DaemonInfo::default()
        };
        Report::of(
            &args,
            (Host::look(), &info, true),
            (64, taken),
            (&times, books),
        )
    }

    const CLOSED: Books = Books {
        submitted: 1_100,
        done: 1_100,
        cancelled: 0,
        failed: 0,
    };

    #[test]
    fn the_figures_are_those_that_were_measured() {
        let report = report(1_000, CLOSED).unwrap();
        assert!((report.tasks_per_s - 2_000.0).abs() < 0.001);
        assert_eq!(report.daemon_cpu_us_per_task, Some(2.0));
        // To three digits, as the histogram keeps them.
        for (found, expected) in [
            (report.p50_us, 500.0),
            (report.p99_us, 990.0),
            (report.p999_us, 999.0),
            (report.max_us, 1_000.0),
        ] {
            assert!(
                (found - expected).abs() <= expected / 1_000.0,
                "{found} {expected}"
            );
        }
        let lines = report.lines().join("\n");
        assert!(lines.contains("closed loop, 64 in flight"), "{lines}");
    }

    #[test]
    fn figures_of_a_run_whose_books_do_not_close_are_refused() {
        assert!(report(999, CLOSED).is_err());
        assert!(
            report(
                1_000,
                Books {
                    done: 1_099,
                    ..CLOSED
                }
            )
            .is_err()
        );
        assert!(
            report(
                1_000,
                Books {
                    done: 1_099,
                    failed: 1,
                    ..CLOSED
                }
            )
            .is_err()
        );
    }
}
