//! The checks of single values: each has its default and its range here and nowhere else.
//!
//! Tested through [`super::settings`].

use std::path::PathBuf;
use std::time::Duration;

use qtf_log::Form;
use qtf_proto::address::Address;
use qtf_proto::instance::{NAMES, is_instance_name, spill_dir_in};
use qtf_shm::HugePages;
use qtf_shm::id::WORKERS_COUNT_MAX;
use qtf_shm::spill::SPILL_LIMIT_DEFAULT;

use super::raw::{CoreValue, RawConfig};
use super::settings::{
    Core, Idle, Limits, Network, PAYLOAD_BYTES_MAX, SEGMENT_BYTES, SegmentAccess, SegmentSize,
    SettingsError, Times,
};

/// LIMIT: a blob reference has 30 bits for the length.
const PAYLOAD_BYTES_HIGHEST: u64 = (1 << 30) - 1;
/// LIMIT: an exbibyte: beyond any disk, and far from the end of a number.
const SPILL_BYTES_HIGHEST: u64 = 1 << 60;

pub(super) fn times_of(raw: &RawConfig) -> Result<Times, SettingsError> {
    Ok(Times {
        lease: millis("lease_ms", raw.lease_ms, 5_000, 100, 86_400_000)?,
        heartbeat: millis("heartbeat_ms", raw.heartbeat_ms, 1_000, 10, 3_600_000)?,
        probe: millis("probe_ms", raw.probe_ms, 2_000, 10, 3_600_000)?,
        result_ttl: millis(
            "result_ttl_ms",
            raw.result_ttl_ms,
            3_600_000,
            100,
            31_536_000_000,
        )?,
        failed_result_ttl: millis(
            "failed_result_ttl_ms",
            raw.failed_result_ttl_ms,
            raw.result_ttl_ms
                .unwrap_or(0)
                .clamp(86_400_000, 31_536_000_000),
            100,
            31_536_000_000,
        )?,
        keep_max: millis(
            "keep_max_ms",
            raw.keep_max_ms,
            604_800_000,
            1_000,
            31_536_000_000,
        )?,
        stop_grace: millis("stop_grace_ms", raw.stop_grace_ms, 10_000, 10, 3_600_000)?,
        start_within: millis(
            "start_within_ms",
            raw.start_within_ms,
            15_000,
            100,
            86_400_000,
        )?,
        handshake: millis("handshake_ms", raw.handshake_ms, 5_000, 10, 600_000)?,
        stop_deadline: millis("stop_deadline_ms", raw.stop_deadline_ms, 5_000, 0, 600_000)?,
    })
}

pub(super) fn limits_of(raw: &RawConfig) -> Result<Limits, SettingsError> {
    Ok(Limits {
        payload_bytes: bounded(
            "payload_bytes_max",
            raw.payload_bytes_max,
            PAYLOAD_BYTES_MAX,
            (64, PAYLOAD_BYTES_HIGHEST),
        )?,
        spill_bytes: bounded(
            "spill_limit_bytes",
            raw.spill_limit_bytes,
            SPILL_LIMIT_DEFAULT,
            (64, SPILL_BYTES_HIGHEST),
        )?,
        message_bytes: count(
            "message_bytes_max",
            raw.message_bytes_max,
            4 << 20,
            (128 << 10, 64 << 20),
        )?,
        connections: count(
            "connections_max",
            raw.connections_max,
            10_000,
            (1, 1_000_000),
        )?,
        streams_per_connection: u32_of(
            "streams_per_connection_max",
            raw.streams_per_connection_max,
            256,
            (8, 65_535),
        )?,
        uploads: count(
            "uploads_max",
            raw.uploads_max.map(u64::from),
            256,
            (1, 65_535),
        )?,
    })
}

pub(super) fn key_ttl_of(raw: &RawConfig) -> Result<Duration, SettingsError> {
    millis("key_ttl_ms", raw.key_ttl_ms, 3_600_000, 100, 31_536_000_000)
}

pub(super) fn check_instance(instance: String) -> Result<String, SettingsError> {
    if is_instance_name(&instance) {
        return Ok(instance);
    }
    Err(not_one_of("instance", &instance, NAMES))
}

pub(super) fn log_form_of(text: Option<&str>) -> Result<Form, SettingsError> {
    let text = text.unwrap_or("auto");
    let refused = |_| not_one_of("log_format", text, "auto, text, json or journal");
    text.parse().map_err(refused)
}

pub(super) fn listen_address(text: &str) -> Result<Address, SettingsError> {
    // Port 0 is no address to go to, but one to listen on: the kernel chooses.
    if let Some(host) = text.strip_suffix(":0") {
        return listen_address(&format!("{host}:1")).map(|_| Address::Tcp(text.to_owned()));
    }
    let bad = |message: String| SettingsError::Listen {
        value: text.to_owned(),
        message,
    };
    match text.parse::<Address>() {
        Ok(address @ (Address::Unix(_) | Address::Own(_) | Address::Tcp(_))) => Ok(address),
        Ok(Address::Segment(_)) => Err(bad(
            "cannot be listened on: whoever may attach the segment uses it as it is".to_owned(),
        )),
        Ok(Address::InProcess(_)) => Err(bad("cannot be listened on".to_owned())),
        Err(error) => Err(bad(error.to_string())),
    }
}

pub(super) fn spill_dir(
    data_dir: Option<PathBuf>,
    runtime_dir: &std::path::Path,
    instance: &str,
) -> PathBuf {
    match data_dir {
        Some(data_dir) => data_dir.join("spill"),
        None => spill_dir_in(runtime_dir, instance),
    }
}

pub(super) fn core_of(core: Option<CoreValue>) -> Result<Core, SettingsError> {
    match core {
        None => Ok(Core::Auto),
        Some(CoreValue::Word(word)) if word == "none" => Ok(Core::None),
        Some(CoreValue::Word(word)) => Err(not_one_of("core", &word, "a core number or \"none\"")),
        // LIMIT: the kernel's affinity mask, as libc has it, holds 1,024 cores.
        Some(CoreValue::Number(number)) => match u16::try_from(number) {
            Ok(number) if number < 1024 => Ok(Core::Number(number)),
            _ => Err(SettingsError::OutOfRange {
                key: "core",
                value: number.into(),
                low: 0,
                high: 1023,
            }),
        },
    }
}

pub(super) fn idle_of(idle: Option<&str>) -> Result<Idle, SettingsError> {
    match idle {
        None | Some("adaptive") => Ok(Idle::Adaptive),
        Some("sleep") => Ok(Idle::Sleep),
        Some("spin") => Ok(Idle::Spin),
        Some(other) => Err(not_one_of(
            "idle",
            other,
            "\"adaptive\", \"sleep\" or \"spin\"",
        )),
    }
}

/// LIMIT: places at the desk that the daemon's thread passes along in each turn.
const EDGE_THREADS_MAX: u64 = 64;

pub(super) fn edge_threads_of(threads: Option<u64>) -> Result<usize, SettingsError> {
    count("edge_threads", threads, 0, (0, EDGE_THREADS_MAX))
}

pub(super) fn network_of(network: Option<&str>) -> Result<Network, SettingsError> {
    match network {
        None | Some("auto") => Ok(Network::Auto),
        Some("io_uring") => Ok(Network::IoUring),
        Some("tokio") => Ok(Network::Tokio),
        Some(other) => Err(not_one_of(
            "network",
            other,
            "\"auto\", \"io_uring\" or \"tokio\"",
        )),
    }
}

pub(super) fn huge_pages_of(huge_pages: Option<&str>) -> Result<HugePages, SettingsError> {
    match huge_pages {
        None | Some("auto") => Ok(HugePages::Auto),
        Some("require") => Ok(HugePages::Require),
        Some("never") => Ok(HugePages::Never),
        Some(other) => Err(not_one_of(
            "huge_pages",
            other,
            "\"auto\", \"require\" or \"never\"",
        )),
    }
}

pub(super) fn size_of(
    bytes: Option<u64>,
    tasks: Option<u64>,
    workers: Option<u64>,
) -> Result<SegmentSize, SettingsError> {
    match (bytes, tasks, workers) {
        (None, None, None) => Ok(SegmentSize::Bytes(SEGMENT_BYTES)),
        (Some(bytes), None, None) => bounded(
            "segment_bytes",
            Some(bytes),
            SEGMENT_BYTES,
            (1 << 20, 1 << 40),
        )
        .map(SegmentSize::Bytes),
        (None, Some(tasks), Some(workers)) => Ok(SegmentSize::Counts {
            tasks: bounded("segment_tasks", Some(tasks), 0, (1, 1 << 24))?,
            workers: bounded(
                "segment_workers",
                Some(workers),
                0,
                (1, u64::from(WORKERS_COUNT_MAX)),
            )?,
        }),
        (None, _, _) => Err(SettingsError::Together(
            "segment_tasks and segment_workers go together",
        )),
        (Some(_), _, _) => Err(SettingsError::Together(
            "segment_bytes excludes segment_tasks and segment_workers: give one or the other",
        )),
    }
}

pub(super) fn access_of(
    group: Option<String>,
    access: Option<&str>,
) -> Result<SegmentAccess, SettingsError> {
    let Some(group) = group else {
        return match access {
            None => Ok(SegmentAccess::Owner),
            Some(_) => Err(SettingsError::Together(
                "segment_group_access needs segment_group",
            )),
        };
    };
    let gid = match group.parse::<u32>() {
        Ok(gid) => gid,
        Err(_) => match nix::unistd::Group::from_name(&group) {
            Ok(Some(found)) => found.gid.as_raw(),
            Ok(None) | Err(_) => return Err(SettingsError::NoSuchGroup(group)),
        },
    };
    match access {
        None | Some("read") => Ok(SegmentAccess::GroupRead(gid)),
        Some("write") => Ok(SegmentAccess::GroupWrite(gid)),
        Some(other) => Err(not_one_of(
            "segment_group_access",
            other,
            "\"read\" or \"write\"",
        )),
    }
}

pub(super) fn not_one_of(key: &'static str, value: &str, allowed: &'static str) -> SettingsError {
    SettingsError::NotOneOf {
        key,
        value: value.to_owned(),
        allowed,
    }
}

pub(super) fn bounded(
    key: &'static str,
    value: Option<u64>,
    default: u64,
    range: (u64, u64),
) -> Result<u64, SettingsError> {
    let (low, high) = range;
    let value = value.unwrap_or(default);
    if (low..=high).contains(&value) {
        return Ok(value);
    }
    Err(SettingsError::OutOfRange {
        key,
        value,
        low,
        high,
    })
}

pub(super) fn count(
    key: &'static str,
    value: Option<u64>,
    default: u64,
    range: (u64, u64),
) -> Result<usize, SettingsError> {
    bounded(key, value, default, range).map(|value| usize::try_from(value).unwrap_or(usize::MAX))
}

pub(super) fn u32_of(
    key: &'static str,
    value: Option<u32>,
    default: u32,
    range: (u32, u32),
) -> Result<u32, SettingsError> {
    let range = (range.0.into(), range.1.into());
    bounded(key, value.map(u64::from), default.into(), range)
        .map(|value| u32::try_from(value).unwrap_or(u32::MAX))
}

pub(super) fn millis(
    key: &'static str,
    value: Option<u64>,
    default: u64,
    low: u64,
    high: u64,
) -> Result<Duration, SettingsError> {
    bounded(key, value, default, (low, high)).map(Duration::from_millis)
}
