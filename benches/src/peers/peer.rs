//! The peers: what each is called, how it is started, what it can do.

use std::path::Path;

use qtf_benches::Failure;

use super::drive::{Amount, Taken, measure};
use super::server::Server;
use super::table::Figures;
use super::{beanstalkd, gearmand, nats, redis};

/// A program that hands out work, in one way of using it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Beanstalkd,
    Gearmand,
    RedisList,
    RedisStream,
    /// By priority.
    RedisSorted,
    /// Each command is on the disk before it is answered.
    RedisListSynced,
    RedisStreamSynced,
    Nats,
}

const REDIS: [&str; 8] = [
    "--bind",
    "127.0.0.1",
    "--port",
    "PORT",
    "--save",
    "",
    "--dir",
    "FOLDER",
];
const NOT_KEPT: [&str; 2] = ["--appendonly", "no"];
const SYNCED: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

impl Peer {
    /// Those that keep nothing on a disk and know no priorities.
    pub(crate) const PLAIN: [Self; 5] = [
        Self::Nats,
        Self::Gearmand,
        Self::RedisList,
        Self::RedisStream,
        Self::Beanstalkd,
    ];
    /// Those that sync what they answer.
    pub(crate) const SYNCED: [Self; 2] = [Self::RedisListSynced, Self::RedisStreamSynced];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Beanstalkd => "beanstalkd",
            Self::Gearmand => "gearmand",
            Self::RedisList => "redis list",
            Self::RedisStream => "redis stream",
            Self::RedisSorted => "redis sorted set",
            Self::RedisListSynced => "redis list, synced",
            Self::RedisStreamSynced => "redis stream, synced",
            Self::Nats => "nats",
        }
    }

    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::Beanstalkd => "beanstalkd",
            Self::Gearmand => "gearmand",
            Self::RedisList
            | Self::RedisStream
            | Self::RedisSorted
            | Self::RedisListSynced
            | Self::RedisStreamSynced => "redis-server",
            Self::Nats => "nats-server",
        }
    }

    fn words(self) -> Vec<&'static str> {
        match self {
            Self::Beanstalkd => vec!["-l", "127.0.0.1", "-p", "PORT"],
            Self::Gearmand => {
                let own = ["-L", "127.0.0.1", "-p", "PORT", "-t", "0"];
                [&own[..], &["-l", "FOLDER/log"]].concat()
            }
            Self::RedisList | Self::RedisStream | Self::RedisSorted => {
                [&REDIS[..], &NOT_KEPT].concat()
            }
            Self::RedisListSynced | Self::RedisStreamSynced => [&REDIS[..], &SYNCED].concat(),
            Self::Nats => vec!["-a", "127.0.0.1", "-p", "PORT"],
        }
    }

    /// How it is started, for people.
    pub(crate) fn command(self) -> String {
        let words: Vec<&str> = self
            .words()
            .into_iter()
            .map(|word| if word.is_empty() { "''" } else { word })
            .collect();
        format!("`{} {}`", self.program(), words.join(" "))
    }

    /// Starts it, and runs so many tasks.
    pub(crate) fn measure(self, program: &Path, amount: Amount) -> Result<Figures, Failure> {
        let server = Server::start(program, &self.words())?;
        let name = self.name();
        let taken = match self {
            Self::Beanstalkd => measure(&server, (name, beanstalkd::Client), amount),
            Self::Gearmand => measure(&server, (name, gearmand::Client), amount),
            Self::RedisList | Self::RedisListSynced => {
                measure(&server, (name, redis::Client { stream: false }), amount)
            }
            Self::RedisStream | Self::RedisStreamSynced => {
                measure(&server, (name, redis::Client { stream: true }), amount)
            }
            Self::RedisSorted => measure(&server, (name, redis::SortedClient::default()), amount),
            Self::Nats => measure(&server, (name, nats::Client), amount),
        };
        Ok(figures(&taken?, amount))
    }
}

fn figures(taken: &Taken, amount: Amount) -> Figures {
    let count = taken.times.len() as f64;
    let us = |quantile| taken.times.value_at_quantile(quantile) as f64 / 1_000.0;
    // With a backlog they are times in the queue.
    let is_alone = amount.backlog == 0;
    Figures {
        rate: count / taken.time.as_secs_f64(),
        p50_us: is_alone.then(|| us(0.5)),
        p99_us: is_alone.then(|| us(0.99)),
        processor_us: Some(taken.processor.as_secs_f64() * 1e6 / count),
    }
}
