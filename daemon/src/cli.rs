//! The command line of `qtfd`, as clap sees it, and how it lies over the configuration file.
//!
//! Tested at the end of this file.

use std::path::PathBuf;

use clap::Parser;

use crate::config::raw::{CoreValue, RawConfig};

/// The Quantum Taskflow daemon: keeps tasks, workers and assignments in shared memory and serves
/// clients and workers over gRPC.
///
/// Flags stand over the configuration file, the file over defaults. Stop it with SIGTERM or Ctrl-C.
#[derive(Clone, Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[command(name = "qtfd", version, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 stopped when asked to, 1 failed, 2 wrong flag or configuration, \
    3 name, address or data folder in use, 4 no permission, 5 no shared memory of the wanted size, \
    65 journal or snapshot damaged, 74 journal cannot be read or written.\n\n\
    Idempotency keys are known for key_ttl_ms of the configuration file where a submission does not say. Their \
    places are limited; a client that submits much names its keys in received_keys when they are answered, or \
    marks them as automatic_key and acknowledges its tasks: else its share is used up until their time is over."
)]
pub struct Flags {
    /// Configuration file (TOML); without it only flags and defaults count
    #[arg(long, value_name = "FILE", env = "QTF_CONFIG")]
    pub config: Option<PathBuf>,
    /// Name of this daemon; segment, lock file and default socket are found by it [default: default]
    #[arg(long, value_name = "NAME")]
    pub instance: Option<String>,
    /// Address to serve, of a host name all; may be repeated [default: the Unix socket in the runtime folder]
    #[arg(long, value_name = "unix:PATH|HOST:PORT")]
    pub listen: Vec<String>,
    /// Serve TCP addresses beyond the loopback too, unencrypted and to everybody: whoever reaches such an
    /// address can run commands on the workers
    #[arg(long)]
    pub allow_unauthenticated_remote: bool,
    /// Folder for what must outlive a reboot: journal, snapshots, large payloads and outputs. Without it
    /// tasks outlive the daemon, but not a reboot
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Folder for payloads and outputs that are too large for the segment [default: spill in the data folder, else
    /// INSTANCE.spill in the runtime folder, which is in memory on most systems]
    #[arg(long, value_name = "DIR")]
    pub spill_dir: Option<PathBuf>,
    /// Durability of tasks that do not ask for one [default: journal with --data-dir, else memory]
    #[arg(long, value_name = "memory|journal")]
    pub durability: Option<String>,
    /// What writes the journal; `auto` takes what measures faster, which is a thread [default: auto]
    #[arg(long, value_name = "auto|io_uring|thread", env = "QTF_JOURNAL")]
    pub journal: Option<String>,
    /// If a daemon of this name runs (or is stopped), kill it and take its place; not if this one could not serve (its
    /// settings, data folder and addresses are checked before)
    #[arg(long)]
    pub take_over: bool,
    /// Core the daemon's thread is pinned to [default: the last one the process may use]
    #[arg(long, value_name = "N|none")]
    pub core: Option<CoreValue>,
    /// Threads that serve connections beside the daemon's own, not more than there are cores; 0: it serves them itself
    /// [default: 0]
    #[arg(long, value_name = "N")]
    pub edge_threads: Option<u64>,
    /// What to do when there is nothing to do [default: adaptive]
    #[arg(long, value_name = "adaptive|sleep|spin")]
    pub idle: Option<String>,
    /// Which sockets to use; `auto` takes what measures faster, which is tokio's poll, or io_uring where the
    /// journal is to be on it [default: auto]
    #[arg(long, value_name = "auto|io_uring|tokio", env = "QTF_NETWORK")]
    pub network: Option<String>,
    /// Size of the shared segment in bytes [default: 268435456]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub segment_bytes: Option<u64>,
    /// Pages of the segment: `auto` has pages of 2 MiB where the kernel gives them, `require` those that were set
    /// aside (`vm.nr_hugepages`), or no start [default: auto]
    #[arg(long, value_name = "auto|require|never")]
    pub huge_pages: Option<String>,
    /// Level or filter of the log on standard error [default: info]
    #[arg(long, value_name = "FILTER", env = "QTF_LOG")]
    pub log: Option<String>,
    /// Form of the log; `auto` is the journal of systemd, with fields, where standard error is that, else text [default: auto]
    #[arg(long, value_name = "auto|text|json|journal", env = "QTF_LOG_FORMAT")]
    pub log_format: Option<String>,
    /// Print the configuration as it would be used, and end
    #[arg(long)]
    pub print_config: bool,
    /// Check the configuration, and end
    #[arg(long)]
    pub check_config: bool,
}

/// Bytes are written in full, as in the file; whoever writes `1G` is told what that is.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let Ok(number) = number.parse::<u64>() else {
        return Err("write a number of bytes, as 268435456".to_owned());
    };
    let unit = unit.to_ascii_uppercase();
    let shift = match unit
        .strip_suffix("IB")
        .or(unit.strip_suffix('B'))
        .unwrap_or(&unit)
    {
        "" if unit.is_empty() => return Ok(number),
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return Err("write a number of bytes, as 268435456".to_owned()),
    };
    Err(format!(
        "write a number of bytes: {} for {text}",
        number.saturating_mul(1 << shift)
    ))
}

impl Flags {
    /// What the flags say, in the file's terms.
    #[must_use]
    pub fn to_raw(&self) -> RawConfig {
        RawConfig {
            instance: self.instance.clone(),
            listen: (!self.listen.is_empty()).then(|| self.listen.clone()),
            allow_unauthenticated_remote: self.allow_unauthenticated_remote.then_some(true),
            data_dir: self.data_dir.clone(),
            spill_dir: self.spill_dir.clone(),
            durability: self.durability.clone(),
            journal: self.journal.clone(),
            core: self.core.clone(),
            edge_threads: self.edge_threads,
            idle: self.idle.clone(),
            network: self.network.clone(),
            segment_bytes: self.segment_bytes,
            huge_pages: self.huge_pages.clone(),
            log: self.log.clone(),
            log_format: self.log_format.clone(),
            ..RawConfig::default()
        }
    }

    /// Flags over file.
    ///
    /// # Errors
    /// When the file cannot be taken.
    pub fn over_file(&self) -> Result<RawConfig, crate::config::ConfigError> {
        let file = match &self.config {
            Some(file) => RawConfig::from_file(file)?,
            None => RawConfig::default(),
        };
        Ok(self.to_raw().over(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_consistent() {
        use clap::CommandFactory as _;
        Flags::command().debug_assert();
    }

    #[test]
    fn listen_may_be_repeated_and_core_takes_a_number_or_none() {
        let flags = Flags::parse_from([
            "qtfd",
            "--listen",
            "unix:/x",
            "--listen",
            "127.0.0.1:0",
            "--core",
            "1",
        ]);
        let raw = flags.to_raw();
        assert_eq!(raw.listen.unwrap(), ["unix:/x", "127.0.0.1:0"]);
        assert_eq!(raw.core, Some(CoreValue::Number(1)));
    }
}
