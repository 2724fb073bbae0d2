//! The configuration as it is used, as a file that can be read back.
//!
//! Tested by `settings::tests::printed_configuration_is_read_back_as_it_was`.

use qtf_shm::HugePages;

use super::settings::{Core, Idle, SegmentAccess, SegmentSize, Settings, WhileWorking};

impl Settings {
    /// The configuration as it is used, as a file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let listen: Vec<String> = self
            .listen
            .iter()
            .map(|address| format!("{:?}", address.to_string()))
            .collect();
        let core = match self.core {
            Core::Auto => "# core = the last one that the process may use".to_owned(),
            Core::None => "core = \"none\"".to_owned(),
            Core::Number(number) => format!("core = {number}"),
        };
        let size = match self.segment_size {
            SegmentSize::Bytes(bytes) => format!("segment_bytes = {bytes}"),
            SegmentSize::Counts { tasks, workers } => {
                format!("segment_tasks = {tasks}\nsegment_workers = {workers}")
            }
        };
        let access = match self.segment_access {
            SegmentAccess::Owner => "# segment_group = none: only the daemon's own user".to_owned(),
            SegmentAccess::GroupRead(gid) => format!("segment_group = \"{gid}\""),
            SegmentAccess::GroupWrite(gid) => {
                format!("segment_group = \"{gid}\"\nsegment_group_access = \"write\"")
            }
        };
        let mut lines = vec![
            format!("instance = {:?}", self.instance),
            format!("listen = [{}]", listen.join(", ")),
            format!(
                "allow_unauthenticated_remote = {}",
                self.allow_unauthenticated_remote
            ),
            core,
            format!("edge_threads = {}", self.edge_threads),
            format!(
                "idle = \"{}\"",
                match self.idle {
                    Idle::Adaptive => "adaptive",
                    Idle::Sleep => "sleep",
                    Idle::Spin => "spin",
                }
            ),
            format!(
                "keep_awake = {}",
                self.while_working == WhileWorking::CoresAreAwake
            ),
            format!("network = \"{}\"", self.network.name()),
            format!("log = {:?}", self.log),
            format!("log_format = \"{}\"", self.log_form),
            format!("runtime_dir = {:?}", self.runtime_dir),
            format!("spill_dir = {:?}", self.spill_dir),
            size,
            format!(
                "huge_pages = \"{}\"",
                match self.memory.huge_pages {
                    HugePages::Auto => "auto",
                    HugePages::Require => "require",
                    HugePages::Never => "never",
                }
            ),
            format!("lock_memory = {}", self.memory.locked),
            access,
        ];
        lines.extend(self.journal_lines());
        lines.extend(
            self.numbers()
                .map(|(key, value)| format!("{key} = {value}")),
        );
        lines.push(String::new());
        lines.join("\n")
    }

    fn journal_lines(&self) -> Vec<String> {
        let durability = if self.durable_by_default {
            "journal"
        } else {
            "memory"
        };
        let mut lines = vec![format!("durability = \"{durability}\"")];
        match &self.journal {
            None => lines.push("# data_dir = none: tasks do not outlive a reboot".to_owned()),
            Some(journal) => lines.extend([
                format!("data_dir = {:?}", journal.data_dir),
                format!("journal = \"{}\"", journal.backend.name()),
                format!("journal_file_bytes = {}", journal.file_bytes),
                format!("snapshot_after_bytes = {}", journal.snapshot_after_bytes),
                format!(
                    "snapshot_interval_ms = {}",
                    journal.snapshot_interval.as_millis()
                ),
            ]),
        }
        lines
    }

    fn numbers(&self) -> impl Iterator<Item = (&'static str, u128)> {
        let (times, limits) = (&self.times, &self.limits);
        [
            ("payload_bytes_max", u128::from(limits.payload_bytes)),
            ("spill_limit_bytes", u128::from(limits.spill_bytes)),
            ("message_bytes_max", limits.message_bytes as u128),
            ("connections_max", limits.connections as u128),
            (
                "streams_per_connection_max",
                u128::from(limits.streams_per_connection),
            ),
            ("uploads_max", limits.uploads as u128),
            ("lease_ms", times.lease.as_millis()),
            ("heartbeat_ms", times.heartbeat.as_millis()),
            ("probe_ms", times.probe.as_millis()),
            ("result_ttl_ms", times.result_ttl.as_millis()),
            ("failed_result_ttl_ms", times.failed_result_ttl.as_millis()),
            ("keep_max_ms", times.keep_max.as_millis()),
            ("stop_grace_ms", times.stop_grace.as_millis()),
            ("start_within_ms", times.start_within.as_millis()),
            ("handshake_ms", times.handshake.as_millis()),
            ("stop_deadline_ms", times.stop_deadline.as_millis()),
            ("key_ttl_ms", self.key_ttl.as_millis()),
        ]
        .into_iter()
    }
}
