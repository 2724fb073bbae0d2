//! Units, and settings of engines in worlds.

use qtf_engine::{EngineConfig, ShareRule};

/// Nanoseconds.
pub const MS: u64 = 1_000_000;
/// Nanoseconds.
pub const SECOND: u64 = 1_000 * MS;

/// Settings of a segment that one principal has for itself.
#[must_use]
pub fn unshared() -> EngineConfig {
    EngineConfig {
        share_rule: ShareRule::Whole,
        ..EngineConfig::default()
    }
}

/// Settings of a world that lives fast: leases, pauses and passes of the sweep are short, and what is done in one cycle is little, so
/// that much happens in few calls.
#[must_use]
pub fn hurried(seed: u64) -> EngineConfig {
    EngineConfig {
        lease_ns: 80 * MS,
        probe_ns: 10 * MS,
        heartbeat_ns: 10 * MS,
        keep_ns_max: 60_000 * MS,
        stop_grace_ns: 10 * MS,
        start_within_ns: 240 * MS,
        retry_backoff_ns_min: 5 * MS,
        retry_backoff_ns_max: 40 * MS,
        losses_max: 2,
        tasks_per_cycle_max: 8,
        sweep_slots_per_cycle: 32,
        background_sweep_ns: 20 * MS,
        effects_max: 12,
        payload_limit: 1 << 20,
        seed,
        ..EngineConfig::default()
    }
}
