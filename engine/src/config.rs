//! What the engine can be told at start: periods, limits and the seed of its randomness.
//!
//! All values are fixed for the life of the engine. Times are nanoseconds. Checked once, by
//! [`EngineConfig::checked`], which [`crate::Engine::new`] calls. Tested at the end of this file.

use crate::shares::ShareRule;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

/// Settings of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// How long a worker or client is believed to be alive after its last sign of life.
    pub lease_ns: u64,
    /// How long a probe may stay unanswered before the worker is lost.
    pub probe_ns: u64,
    /// Heartbeat period that workers and clients are told to keep.
    pub heartbeat_ns: u64,
    /// How long the result of an ended task is kept when nobody acknowledges it.
    pub result_ttl_ns: u64,
    /// The same for a task that has failed.
    pub failed_result_ttl_ns: u64,
    /// Longest time for which a submission may ask instead of these two.
    pub keep_ns_max: u64,
    /// What a worker gets beyond a task's timeout before it is ordered to stop the attempt, and
    /// once more before the attempt is ended without it.
    pub stop_grace_ns: u64,
    /// How long an attempt that was handed out may go unstarted while another worker could have it; then it goes back.
    pub start_within_ns: u64,
    /// Pause before the first retry; it doubles with each failure.
    pub retry_backoff_ns_min: u64,
    /// Longest pause before a retry.
    pub retry_backoff_ns_max: u64,
    /// How often a task is handed out again because its worker was lost. One loss more, and it is
    /// dead-lettered.
    pub losses_max: u8,
    /// Tasks that one cycle assigns at most, and timers that it serves at most.
    pub tasks_per_cycle_max: u32,
    /// Task slots that one cycle looks at in a sweep.
    pub sweep_slots_per_cycle: u32,
    /// Pause between two stripes of the background sweep.
    pub background_sweep_ns: u64,
    /// Effects that may wait to be taken before the engine stops to produce more on its own.
    pub effects_max: u32,
    /// Largest payload of a task in bytes.
    pub payload_limit: u64,
    /// What one principal may use of each table.
    pub share_rule: ShareRule,
    /// The user who, beside root, always has a client record: the daemon's own.
    pub operator_uid: u32,
    /// Seed of all randomness: tokens, probe numbers, jitter of retries.
    pub seed: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            lease_ns: 5 * SECOND,
            probe_ns: SECOND,
            heartbeat_ns: SECOND,
            result_ttl_ns: 3_600 * SECOND,
            failed_result_ttl_ns: 86_400 * SECOND,
            keep_ns_max: 7 * 86_400 * SECOND,
            stop_grace_ns: 5 * SECOND,
            start_within_ns: 15 * SECOND,
            retry_backoff_ns_min: 100 * MS,
            retry_backoff_ns_max: 30 * SECOND,
            losses_max: 3,
            tasks_per_cycle_max: 256,
            sweep_slots_per_cycle: 4_096,
            background_sweep_ns: SECOND,
            effects_max: 4_096,
            payload_limit: 64 << 20,
            share_rule: ShareRule::Shared,
            operator_uid: 0,
            seed: 0,
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value that must not be zero is.
    #[error("{name} is 0: give it a value above 0")]
    Zero {
        /// The setting.
        name: &'static str,
    },
    /// One setting must not be larger than another.
    #[error("{name} ({value}) is larger than {bound_name} ({bound}): lower it or raise the other")]
    Above {
        /// The setting that is too large.
        name: &'static str,
        /// Its value.
        value: u64,
        /// The setting that bounds it.
        bound_name: &'static str,
        /// The value of that one.
        bound: u64,
    },
    /// The segment is that of a process that is attached beside a daemon.
    #[error("the segment was opened as a local process opens it: an engine needs the daemon's own")]
    NotTheDaemon,
}

impl EngineConfig {
    /// Returns the configuration if it can be used.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub fn checked(self) -> Result<Self, ConfigError> {
        let positive = [
            ("lease_ns", self.lease_ns),
            ("probe_ns", self.probe_ns),
            ("heartbeat_ns", self.heartbeat_ns),
            ("result_ttl_ns", self.result_ttl_ns),
            ("failed_result_ttl_ns", self.failed_result_ttl_ns),
            ("stop_grace_ns", self.stop_grace_ns),
            ("start_within_ns", self.start_within_ns),
            ("retry_backoff_ns_min", self.retry_backoff_ns_min),
            ("tasks_per_cycle_max", u64::from(self.tasks_per_cycle_max)),
            (
                "sweep_slots_per_cycle",
                u64::from(self.sweep_slots_per_cycle),
            ),
            ("background_sweep_ns", self.background_sweep_ns),
            ("effects_max", u64::from(self.effects_max)),
        ];
        for (name, value) in positive {
            if value == 0 {
                return Err(ConfigError::Zero { name });
            }
        }
        ordered(
            ("retry_backoff_ns_min", self.retry_backoff_ns_min),
            ("retry_backoff_ns_max", self.retry_backoff_ns_max),
        )?;
        ordered(
            ("heartbeat_ns", self.heartbeat_ns),
            ("lease_ns", self.lease_ns),
        )?;
        Ok(self)
    }
}

fn ordered(small: (&'static str, u64), large: (&'static str, u64)) -> Result<(), ConfigError> {
    if small.1 > large.1 {
        return Err(ConfigError::Above {
            name: small.0,
            value: small.1,
            bound_name: large.0,
            bound: large.1,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_configuration_is_usable() {
        assert!(EngineConfig::default().checked().is_ok());
    }

    #[test]
    fn a_lease_of_zero_is_refused_by_name() {
        let config = EngineConfig {
            lease_ns: 0,
            ..EngineConfig::default()
        };
        let error = config.checked().unwrap_err();
        assert_eq!(error.to_string(), "lease_ns is 0: give it a value above 0");
    }

    #[test]
    fn a_heartbeat_period_beyond_the_lease_is_refused() {
        let config = EngineConfig {
            heartbeat_ns: 9 * SECOND,
            ..EngineConfig::default()
        };
        assert!(matches!(
            config.checked(),
            Err(ConfigError::Above {
                name: "heartbeat_ns",
                ..
            })
        ));
    }
}
