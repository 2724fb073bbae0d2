//! The configuration file as it is written: TOML, every key optional, unknown keys refused.
//!
//! Units are part of the names. An unknown key is refused with the nearest known name. Tested at the
//! end of this file.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Largest configuration file that is read; a larger one is a mistake.
const FILE_BYTES_MAX: u64 = 1 << 20;

macro_rules! raw_config {
    ($($(#[$meta:meta])* $name:ident: $type:ty,)*) => {
        /// What a configuration file, or the flags, say. `None` = not said.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct RawConfig {
            $($(#[$meta])* #[serde(default)] pub $name: Option<$type>,)*
        }

        impl RawConfig {
            /// Names of all keys.
            pub const KEYS: &'static [&'static str] = &[$(stringify!($name)),*];

            /// Puts `self` over `below`: what is said here wins.
            #[must_use]
            pub fn over(self, below: Self) -> Self {
                Self { $($name: self.$name.or(below.$name),)* }
            }
        }
    };
}

raw_config! {
    /// Name of this daemon; segment, lock file and default socket are found by it.
    instance: String,
    /// Addresses to serve: `unix:PATH` or `HOST:PORT`.
    listen: Vec<String>,
    /// Serve addresses that other machines can reach, although nobody there has to say who they are.
    allow_unauthenticated_remote: bool,
    /// Folder for what must outlive a reboot.
    data_dir: PathBuf,
    /// Durability of tasks that do not ask for one: `"memory"` or `"journal"`.
    durability: String,
    /// What writes the journal: `"auto"` (what measures faster: a thread), `"io_uring"` or `"thread"`.
    journal: String,
    /// Size of each file of the journal.
    journal_file_bytes: u64,
    /// Bytes of records after which a snapshot is taken.
    snapshot_after_bytes: u64,
    /// Time after which a snapshot is taken if anything was written.
    snapshot_interval_ms: u64,
    /// Time that the key of a submission is remembered when the submission does not say. Its place is free earlier when the client names
    /// it in `received_keys`, or acknowledges the task of an `automatic_key`.
    key_ttl_ms: u64,
    /// Core to pin to: a number, or `"none"`.
    core: CoreValue,
    /// Threads that serve connections beside the daemon's own; 0: it serves them itself.
    edge_threads: u64,
    /// `"adaptive"` (look again for a little while, unless others need the core, then sleep), `"sleep"` (at once) or `"spin"` (never sleep).
    idle: String,
    /// Keep the machine's cores from deep sleep while there is work.
    keep_awake: bool,
    /// `"auto"` (what measures faster: tokio), `"io_uring"` or `"tokio"`.
    network: String,
    /// Level or filter of the log, as in `info` or `qtf_daemon=debug`.
    log: String,
    /// `"auto"` (the journal of systemd with fields where standard error is that, else text), `"text"`, `"json"` or `"journal"`.
    log_format: String,
    /// Folder for the lock file and the default socket.
    runtime_dir: PathBuf,
    /// Folder for payloads and outputs that are too large for the segment.
    spill_dir: PathBuf,
    /// Size of the segment.
    segment_bytes: u64,
    /// Task slots, instead of `segment_bytes` (together with `segment_workers`).
    segment_tasks: u64,
    /// Worker slots, instead of `segment_bytes` (together with `segment_tasks`).
    segment_workers: u64,
    /// Pages of the segment: `"auto"` (of 2 MiB where the kernel gives them), `"require"` (of 2 MiB that the administrator has
    /// set aside, or no start) or `"never"`.
    huge_pages: String,
    /// Keep the segment's pages in memory once they were touched, if the limit of locked memory allows it.
    lock_memory: bool,
    /// Group whose members may attach to the segment.
    segment_group: String,
    /// What the group may do: `"read"` or `"write"`.
    segment_group_access: String,
    /// Largest payload or output of a task.
    payload_bytes_max: u64,
    /// Bytes that payloads and outputs in `spill_dir` may take together.
    spill_limit_bytes: u64,
    /// Time without a heartbeat after which a worker is probed.
    lease_ms: u64,
    /// Time between heartbeats of workers and clients.
    heartbeat_ms: u64,
    /// Time an unanswered probe may take.
    probe_ms: u64,
    /// Time a result is kept for its client.
    result_ttl_ms: u64,
    /// Time the result of a failed task is kept.
    failed_result_ttl_ms: u64,
    /// Longest time for which a submission may ask instead.
    keep_max_ms: u64,
    /// Time a worker has to stop a task before the order counts as ignored.
    stop_grace_ms: u64,
    /// Time a task may lie unstarted at a worker while another could have it.
    start_within_ms: u64,
    /// Largest gRPC message that is read.
    message_bytes_max: u64,
    /// Open connections.
    connections_max: u64,
    /// Streams of one connection.
    streams_per_connection_max: u32,
    /// Time a new connection has to say that it speaks HTTP/2.
    handshake_ms: u64,
    /// Time that open streams have when the daemon stops.
    stop_deadline_ms: u64,
    /// Uploads that are under way or wait to be used.
    uploads_max: u32,
}

/// `core = 3` or `core = "none"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum CoreValue {
    /// A core number.
    Number(u32),
    /// A word, checked later.
    Word(String),
}

impl std::str::FromStr for CoreValue {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text
            .parse()
            .map_or_else(|_| Self::Word(text.to_owned()), Self::Number))
    }
}

impl fmt::Display for CoreValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Word(word) => word.fmt(f),
        }
    }
}

/// Why a configuration file was not taken. Each names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It cannot be read: check the path and the permissions.
    #[error("configuration file {}: cannot be read", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is no configuration file.
    #[error("configuration file {}: {bytes} bytes, more than {FILE_BYTES_MAX}: not a configuration", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// A key is not known: remove it or take the suggestion.
    #[error("configuration file {}, line {line}: unknown key `{key}`{}", file.display(), suggestion(nearest))]
    UnknownKey {
        /// The file.
        file: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// The key as written.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<&'static str>,
    },
    /// It is not TOML, or a value has the wrong type.
    #[error("configuration file {}, line {line}: {message}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// What the parser said.
        message: String,
    },
}

fn suggestion(nearest: &Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

impl RawConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, is not TOML, or has unknown keys or wrong types.
    pub fn from_file(file: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable {
            file: file.to_owned(),
            source,
        };
        let bytes = std::fs::metadata(file).map_err(unreadable)?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(ConfigError::TooLarge {
                file: file.to_owned(),
                bytes,
            });
        }
        let text = std::fs::read_to_string(file).map_err(unreadable)?;
        Self::from_toml(file, &text)
    }

    /// Takes the text of a file; `file` is for the messages.
    ///
    /// # Errors
    /// As [`RawConfig::from_file`].
    pub fn from_toml(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let malformed = |error: &toml::de::Error| ConfigError::Malformed {
            file: file.to_owned(),
            line: line_of(text, error),
            message: error.message().to_owned(),
        };
        toml::from_str(text).map_err(|error| match unknown_key(text) {
            Some(key) => ConfigError::UnknownKey {
                file: file.to_owned(),
                line: line_of(text, &error),
                nearest: nearest_key(&key),
                key,
            },
            None => malformed(&error),
        })
    }
}

fn line_of(text: &str, error: &toml::de::Error) -> usize {
    let start = error.span().map_or(0, |span| span.start);
    text.get(..start)
        .map_or(1, |before| before.matches('\n').count() + 1)
}

/// First key of a well-formed document that is not ours.
fn unknown_key(text: &str) -> Option<String> {
    let table: toml::Table = toml::from_str(text).ok()?;
    table
        .keys()
        .find(|key| !RawConfig::KEYS.contains(&key.as_str()))
        .cloned()
}

fn nearest_key(key: &str) -> Option<&'static str> {
    RawConfig::KEYS
        .iter()
        .map(|known| (strsim::jaro_winkler(key, known), *known))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RawConfig, ConfigError> {
        RawConfig::from_toml(Path::new("qtfd.toml"), text)
    }

    #[test]
    fn unknown_key_is_refused_with_file_line_and_nearest_name() {
        let error = parse("instance = \"a\"\nheartbeet_ms = 5\n")
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "configuration file qtfd.toml, line 2: unknown key `heartbeet_ms`; did you mean `heartbeat_ms`?"
        );
    }

    #[test]
    fn unknown_key_that_looks_like_nothing_gets_no_suggestion() {
        let error = parse("xyzzy = 1\n").unwrap_err().to_string();
        assert_eq!(
            error,
            "configuration file qtfd.toml, line 1: unknown key `xyzzy`"
        );
    }

    #[test]
    fn wrong_type_is_refused_with_its_line() {
        let error = parse("\nlease_ms = \"soon\"\n").unwrap_err().to_string();
        assert!(
            error.starts_with("configuration file qtfd.toml, line 2: "),
            "{error}"
        );
    }

    #[test]
    fn text_that_is_not_toml_is_refused() {
        assert!(matches!(
            parse("{{{"),
            Err(ConfigError::Malformed { line: 1, .. })
        ));
    }

    #[test]
    fn flags_stand_over_the_file() {
        let file = parse("instance = \"file\"\nlease_ms = 7\n").unwrap();
        let flags = RawConfig {
            instance: Some("flag".into()),
            ..RawConfig::default()
        };
        let both = flags.over(file);
        assert_eq!(
            (both.instance.as_deref(), both.lease_ms),
            (Some("flag"), Some(7))
        );
    }

    #[test]
    fn missing_file_is_named() {
        let error = RawConfig::from_file(Path::new("no/such.toml"))
            .unwrap_err()
            .to_string();
        assert_eq!(error, "configuration file no/such.toml: cannot be read");
    }

    #[test]
    fn core_is_a_number_or_a_word() {
        assert_eq!(parse("core = 3").unwrap().core, Some(CoreValue::Number(3)));
        assert_eq!(
            parse("core = \"none\"").unwrap().core,
            Some(CoreValue::Word("none".into()))
        );
    }
}
