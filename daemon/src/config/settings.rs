//! The validated configuration; built only by [`Settings::from_raw`] and [`Settings::private`].
//!
//! Defaults and ranges are in `check`. Tested at the end of this file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use qtf_journal::Progress;
use qtf_log::Form;
use qtf_proto::address::{self, Address};
use qtf_shm::HugePages;

use super::check::{
    access_of, check_instance, core_of, edge_threads_of, huge_pages_of, idle_of, key_ttl_of,
    limits_of, listen_address, log_form_of, network_of, size_of, spill_dir, times_of,
};
use super::journal::{JournalBackend, JournalSettings, journal_of};
use super::raw::{CoreValue, RawConfig};
use crate::clock::{Clock, SystemClock};
use crate::config::faults::DiskFaults;

/// Default size of the segment: 256 MiB.
pub const SEGMENT_BYTES: u64 = 256 << 20;
/// Largest payload or output by default: 64 MiB.
pub const PAYLOAD_BYTES_MAX: u64 = 64 << 20;

/// Which core the daemon's thread is pinned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Core {
    /// The last core that the process may use; not pinned if there is only one.
    Auto,
    /// Not pinned.
    None,
    /// This one.
    Number(u16),
}

/// What the daemon's thread does when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Spins for a moment, then sleeps until something happens.
    Adaptive,
    /// Sleeps until something happens.
    Sleep,
    /// Never sleeps.
    Spin,
}

/// Which sockets are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// What measures faster, which is tokio; `io_uring` where the journal is to be on it.
    Auto,
    /// `io_uring`, or the start fails.
    IoUring,
    /// Ordinary sockets, waited for by tokio.
    Tokio,
}

impl Network {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::IoUring => "io_uring",
            Self::Tokio => "tokio",
        }
    }
}

/// What kind of segment is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentKind {
    /// Found by the instance's name; outlives the daemon.
    Named,
    /// Gone with its last user; nothing is left behind, not even after a kill.
    Private,
}

/// Who else may attach to the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentAccess {
    /// Only the user that runs the daemon.
    Owner,
    /// Members of this group may read.
    GroupRead(u32),
    /// Members of this group may read and write.
    GroupWrite(u32),
}

/// How large the segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SegmentSize {
    /// So many bytes, divided as the layout sees fit.
    Bytes(u64),
    /// Room for so many tasks and workers.
    Counts { tasks: u64, workers: u64 },
}

/// Times that the engine works with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) lease: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) probe: Duration,
    pub(crate) result_ttl: Duration,
    pub(crate) failed_result_ttl: Duration,
    pub(crate) keep_max: Duration,
    pub(crate) stop_grace: Duration,
    pub(crate) start_within: Duration,
    pub(crate) handshake: Duration,
    pub(crate) stop_deadline: Duration,
}

/// Bounds on what peers can make the daemon hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) payload_bytes: u64,
    pub(crate) spill_bytes: u64,
    pub(crate) message_bytes: usize,
    pub(crate) connections: usize,
    pub(crate) streams_per_connection: u32,
    pub(crate) uploads: usize,
}

/// What is asked of the kernel for the memory of the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) huge_pages: HugePages,
    /// Its pages stay in memory, as far as the limit goes.
    pub(crate) locked: bool,
}

/// What the machine's cores may do while the daemon has work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhileWorking {
    /// Whatever the system lets them do.
    CoresMaySleep,
    /// The daemon asks the kernel to let none sleep (`keep_awake`).
    CoresAreAwake,
}

/// The validated configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    pub(crate) instance: String,
    pub(crate) listen: Vec<Address>,
    pub(crate) allow_unauthenticated_remote: bool,
    pub(crate) runtime_dir: PathBuf,
    pub(crate) spill_dir: PathBuf,
    pub(crate) core: Core,
    pub(crate) edge_threads: usize,
    pub(crate) idle: Idle,
    pub(crate) while_working: WhileWorking,
    pub(crate) network: Network,
    pub(crate) log: String,
    pub(crate) log_form: Form,
    pub(crate) segment: SegmentKind,
    pub(crate) segment_size: SegmentSize,
    pub(crate) segment_access: SegmentAccess,
    pub(crate) memory: Memory,
    pub(crate) times: Times,
    pub(crate) limits: Limits,
    /// What outlives a reboot, and how; `None` without a data folder.
    pub(crate) journal: Option<JournalSettings>,
    /// Whether a task that does not ask is journalled.
    pub(crate) durable_by_default: bool,
    /// How long the key of a submission is remembered when the submission does not say.
    pub(crate) key_ttl: Duration,
    pub(crate) take_over: bool,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) disk_faults: Option<Arc<dyn DiskFaults>>,
    /// How far a cold start has come.
    pub(crate) replayed: Progress,
}

/// Why a value was not taken. Each names the key, the value and what is allowed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettingsError {
    /// A number is outside its range.
    #[error("{key} = {value}: must be {low} to {high}")]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// As given.
        value: u64,
        /// Smallest allowed.
        low: u64,
        /// Largest allowed.
        high: u64,
    },
    /// A word is none of those that are allowed.
    #[error("{key} = \"{value}\": must be {allowed}")]
    NotOneOf {
        /// The key.
        key: &'static str,
        /// As given.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// An address cannot be understood.
    #[error("listen = \"{value}\": {message}")]
    Listen {
        /// As given.
        value: String,
        /// What is wrong with it.
        message: String,
    },
    /// The group does not exist on this machine.
    #[error("segment_group = \"{0}\": no such group; create it with groupadd, or give its number")]
    NoSuchGroup(String),
    /// The journal needs a place.
    #[error(
        "durability = \"journal\" needs a folder for the journal: set data_dir (--data-dir), or use \"memory\""
    )]
    NoDataDir,
    /// Two keys exclude or need each other.
    #[error("{0}")]
    Together(&'static str),
}

impl Settings {
    /// Checks what file and flags say, and fills in the defaults.
    ///
    /// # Errors
    /// The first value that is out of range, unknown, or contradicts another.
    pub fn from_raw(raw: RawConfig) -> Result<Self, SettingsError> {
        let (journal, durable_by_default) = journal_of(&raw)?;
        let times = times_of(&raw)?;
        let limits = limits_of(&raw)?;
        let key_ttl = key_ttl_of(&raw)?;
        let instance = check_instance(raw.instance.unwrap_or_else(|| "default".to_owned()))?;
        let runtime_dir = raw.runtime_dir.unwrap_or_else(address::runtime_dir);
        let listen = match raw.listen {
            None => vec![Address::Unix(runtime_dir.join(format!("{instance}.sock")))],
            Some(texts) => texts
                .iter()
                .map(|text| listen_address(text))
                .collect::<Result<_, _>>()?,
        };
        Self {
            listen,
            allow_unauthenticated_remote: raw.allow_unauthenticated_remote.unwrap_or(false),
            spill_dir: raw
                .spill_dir
                .unwrap_or_else(|| spill_dir(raw.data_dir, &runtime_dir, &instance)),
            core: core_of(raw.core)?,
            edge_threads: edge_threads_of(raw.edge_threads)?,
            idle: idle_of(raw.idle.as_deref())?,
            while_working: if raw.keep_awake.unwrap_or(false) {
                WhileWorking::CoresAreAwake
            } else {
                WhileWorking::CoresMaySleep
            },
            network: network_of(raw.network.as_deref())?,
            log: raw.log.unwrap_or_else(|| "info".to_owned()),
            log_form: log_form_of(raw.log_format.as_deref())?,
            segment: SegmentKind::Named,
            segment_size: size_of(raw.segment_bytes, raw.segment_tasks, raw.segment_workers)?,
            segment_access: access_of(raw.segment_group, raw.segment_group_access.as_deref())?,
            memory: Memory {
                huge_pages: huge_pages_of(raw.huge_pages.as_deref())?,
                locked: raw.lock_memory.unwrap_or(true),
            },
            times,
            limits,
            journal,
            durable_by_default,
            key_ttl,
            take_over: false,
            clock: Arc::new(SystemClock),
            disk_faults: None,
            replayed: Progress::default(),
            instance,
            runtime_dir,
        }
        .checked()
    }

    /// For a daemon inside another program: private segment, not pinned, no listening socket.
    ///
    /// # Panics
    /// Never: the defaults are within their ranges.
    #[must_use]
    pub fn private() -> Self {
        Self::private_with(RawConfig::default()).expect("the defaults are within their ranges")
    }

    /// The same with what `raw` says on top.
    ///
    /// # Errors
    /// As [`Settings::from_raw`].
    pub fn private_with(raw: RawConfig) -> Result<Self, SettingsError> {
        let number = getrandom::u64().unwrap_or_else(|_| qtf_shm::time::wall_ns());
        let name = format!("private-{}-{number:08x}", std::process::id());
        let spill_dir = std::env::temp_dir().join(format!("qtf-{name}"));
        let private = RawConfig {
            instance: Some(name.chars().take(48).collect()),
            listen: Some(Vec::new()),
            core: Some(CoreValue::Word("none".to_owned())),
            spill_dir: Some(spill_dir),
            ..RawConfig::default()
        };
        if raw.data_dir.is_some() {
            return Err(SettingsError::Together(
                "data_dir needs a segment with a name: a private one is gone with its daemon",
            ));
        }
        let settings = Self::from_raw(raw.over(private))?;
        Ok(Self {
            segment: SegmentKind::Private,
            ..settings
        })
    }

    /// The same, serving one address more.
    #[must_use]
    pub fn listen_also(mut self, address: Address) -> Self {
        self.listen.push(address);
        self
    }

    /// The same, serving also addresses that other machines can reach, if `allow` says so: whoever reaches
    /// them can run commands on the workers.
    #[must_use]
    pub fn allow_unauthenticated_remote(mut self, allow: bool) -> Self {
        self.allow_unauthenticated_remote = allow;
        self
    }

    /// The same with a segment of another size.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_size = SegmentSize::Bytes(bytes);
        self
    }

    /// The same with a segment for so many tasks and workers.
    #[must_use]
    pub fn segment_counts(mut self, tasks: u64, workers: u64) -> Self {
        self.segment_size = SegmentSize::Counts { tasks, workers };
        self
    }

    /// The same with its thread pinned otherwise.
    #[must_use]
    pub fn core(mut self, core: Core) -> Self {
        self.core = core;
        self
    }

    /// The same on other sockets.
    #[must_use]
    pub fn network(mut self, network: Network) -> Self {
        self.network = network;
        self
    }

    /// The same, spilling to another folder. With a private segment it is removed at the end with all that
    /// is in it, so it must be one that nobody else uses.
    #[must_use]
    pub fn spill_dir(mut self, folder: PathBuf) -> Self {
        self.spill_dir = folder;
        self
    }

    /// The same, ending a daemon of the same name first if one runs.
    #[must_use]
    pub fn take_over(mut self, take_over: bool) -> Self {
        self.take_over = take_over;
        self
    }

    /// The same under another clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The same with something between the daemon and its disk, for tests.
    #[must_use]
    pub fn disk_faults(mut self, faults: Arc<dyn DiskFaults>) -> Self {
        self.disk_faults = Some(faults);
        self
    }

    /// Name of this daemon.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Filter of the log.
    #[must_use]
    pub fn log(&self) -> &str {
        &self.log
    }

    /// In which form the log goes out.
    #[must_use]
    pub fn log_form(&self) -> Form {
        self.log_form
    }

    /// How far a cold start with these has come; counts on while [`crate::Daemon::start`] runs.
    #[must_use]
    pub fn replayed(&self) -> Progress {
        self.replayed.clone()
    }

    /// Whether sockets or journal are to be on a ring.
    pub(crate) fn needs_ring(&self) -> bool {
        self.network == Network::IoUring || self.has_journal_on_ring()
    }

    fn has_journal_on_ring(&self) -> bool {
        let journal = self.journal.as_ref();
        journal.is_some_and(|journal| journal.backend == JournalBackend::IoUring)
    }

    fn checked(self) -> Result<Self, SettingsError> {
        let journal = self.journal.as_ref();
        if journal.is_some_and(|journal| journal.data_dir.as_os_str().is_empty()) {
            return Err(SettingsError::Together(
                "data_dir is empty: name a folder, or leave it out for no journal",
            ));
        }
        if self.has_journal_on_ring() && self.network == Network::Tokio {
            return Err(SettingsError::Together(
                "journal = \"io_uring\" excludes network = \"tokio\": set network = \"auto\", or journal = \"auto\"",
            ));
        }
        if self.edge_threads > 0 && self.network == Network::IoUring {
            return Err(SettingsError::Together(
                "edge_threads excludes network = \"io_uring\", which puts the sockets on the daemon's own thread: set edge_threads = 0, or network = \"tokio\"",
            ));
        }
        if self.times.heartbeat >= self.times.lease {
            return Err(SettingsError::Together(
                "heartbeat_ms must be below lease_ms, or every worker looks dead",
            ));
        }
        if self.times.failed_result_ttl < self.times.result_ttl {
            return Err(SettingsError::Together(
                "failed_result_ttl_ms must be at least result_ttl_ms: what failed is kept longer",
            ));
        }
        if self.limits.spill_bytes < self.limits.payload_bytes {
            return Err(SettingsError::Together(
                "spill_limit_bytes must be at least payload_bytes_max, or the largest payloads are never taken",
            ));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(raw: RawConfig) -> String {
        Settings::from_raw(raw).unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_valid() {
        let settings = Settings::from_raw(RawConfig::default()).unwrap();
        assert_eq!(settings.instance(), "default");
        assert_eq!(settings.segment, SegmentKind::Named);
        assert_eq!(settings.listen.len(), 1);
        assert_eq!(Settings::private().segment, SegmentKind::Private);
    }

    #[test]
    fn printed_configuration_is_read_back_as_it_was() {
        let settings = Settings::from_raw(RawConfig {
            listen: Some(vec!["127.0.0.1:0".into()]),
            core: Some(CoreValue::Number(1)),
            data_dir: Some("/data".into()),
            journal: Some("thread".into()),
            ..RawConfig::default()
        });
        let text = settings.unwrap().to_toml();
        let raw = RawConfig::from_toml(std::path::Path::new("printed"), &text).unwrap();
        assert_eq!(Settings::from_raw(raw).unwrap().to_toml(), text);
    }

    #[test]
    fn an_empty_data_folder_is_refused_by_name() {
        let text = refusal(RawConfig {
            data_dir: Some("".into()),
            ..RawConfig::default()
        });
        assert!(text.contains("data_dir is empty"), "{text}");
    }

    #[test]
    fn journal_without_a_data_folder_is_refused_not_faked() {
        let raw = RawConfig {
            durability: Some("journal".into()),
            ..RawConfig::default()
        };
        assert!(refusal(raw).starts_with("durability = \"journal\" needs a folder"));
    }

    #[test]
    fn tasks_are_journalled_by_default_where_there_is_a_data_folder() {
        let with = |durability: Option<&str>| {
            let raw = RawConfig {
                data_dir: Some("/data".into()),
                durability: durability.map(str::to_owned),
                ..RawConfig::default()
            };
            Settings::from_raw(raw).unwrap()
        };
        assert!(with(None).durable_by_default);
        assert!(!with(Some("memory")).durable_by_default);
        assert!(with(Some("memory")).journal.is_some(), "for those that ask");
        assert_eq!(with(None).spill_dir, std::path::Path::new("/data/spill"));
        let without = Settings::from_raw(RawConfig::default()).unwrap();
        assert!(!without.durable_by_default && without.journal.is_none());
    }

    #[test]
    fn each_bad_value_names_its_key_and_what_is_allowed() {
        let cases = [
            ("idle = \"nap\"", "idle = \"nap\""),
            ("network = \"dpdk\"", "network = \"dpdk\""),
            ("edge_threads = 65", "edge_threads = 65: must be 0 to 64"),
            (
                "edge_threads = 1\nnetwork = \"io_uring\"",
                "edge_threads excludes network = \"io_uring\"",
            ),
            ("core = \"all\"", "core = \"all\""),
            (
                "log_format = \"xml\"",
                "log_format = \"xml\": must be auto, text",
            ),
            ("huge_pages = \"yes\"", "huge_pages = \"yes\": must be"),
            ("journal = \"paper\"", "journal = \"paper\""),
            (
                "journal_file_bytes = 1000",
                "journal_file_bytes = 1000: must be 524288 to",
            ),
            ("durability = \"much\"", "durability = \"much\""),
            (
                "snapshot_after_bytes = 1",
                "snapshot_after_bytes = 1: must be 524288 to",
            ),
            ("key_ttl_ms = 1", "key_ttl_ms = 1: must be 100"),
            ("core = 5000", "core = 5000: must be 0 to 1023"),
            ("lease_ms = 1", "lease_ms = 1: must be 100"),
            ("instance = \"a/b\"", "instance = \"a/b\""),
            ("listen = [\"shm:x\"]", "listen = \"shm:x\""),
            ("segment_tasks = 5", "segment_tasks and segment_workers"),
            (
                "data_dir = \"/data\"\njournal = \"io_uring\"\nnetwork = \"tokio\"",
                "journal = \"io_uring\" excludes network = \"tokio\"",
            ),
            ("heartbeat_ms = 9000", "heartbeat_ms must be below lease_ms"),
            (
                "spill_limit_bytes = 1000",
                "spill_limit_bytes must be at least payload_bytes_max",
            ),
            (
                "segment_group = \"no such group\"",
                "segment_group = \"no such group\"",
            ),
            (
                "segment_group_access = \"read\"",
                "segment_group_access needs segment_group",
            ),
        ];
        for (text, start) in cases {
            let raw = RawConfig::from_toml(std::path::Path::new("case"), text).unwrap();
            let message = refusal(raw);
            assert!(message.starts_with(start), "{message}");
        }
    }
}
