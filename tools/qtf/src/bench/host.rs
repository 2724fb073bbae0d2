//! What was measured on, and how to keep to a part of it.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::Serialize;

use crate::exit::Failure;

/// The machine.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Host {
    /// Model of the processor.
    pub(super) processor: String,
    /// Cores that this process may use.
    pub(super) cores: usize,
    /// Release of the kernel.
    pub(super) kernel: String,
    /// Processes that wanted to run in the minute before.
    pub(super) load: String,
}

impl Host {
    /// Looks.
    pub(super) fn look() -> Self {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let load = read("/proc/loadavg");
        Host {
            processor: processor(&read("/proc/cpuinfo")),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

fn processor(cpuinfo: &str) -> String {
    let mut lines = cpuinfo.lines();
    let name = lines.find_map(|line| line.strip_prefix("model name"));
    name.map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']))
        .to_owned()
}

/// From here on this process, and what it starts, uses only the last core that it may use.
pub(super) fn stay_on_one_core() -> Result<(), Failure> {
    let failed = |error| Failure::usage(format!("--one-core: the core cannot be chosen: {error}"));
    let me = Pid::from_raw(0);
    let may = sched_getaffinity(me).map_err(failed)?;
    let last = (0..CpuSet::count())
        .rev()
        .find(|core| may.is_set(*core).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(last.unwrap_or(0)).map_err(failed)?;
    sched_setaffinity(me, &one).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_is_read_or_unknown() {
        let text = "processor\t: 0\nmodel name\t: Some CPU 9000\nflags\t: fpu\n";
        assert_eq!(processor(text), "Some CPU 9000");
        assert_eq!(processor("Hardware\t: board"), "unknown");
    }

    #[test]
    fn one_core_is_one_core_also_for_what_is_started() {
        // On a thread of its own: affinity is a thread's.
        let seen = std::thread::spawn(|| {
            stay_on_one_core().unwrap();
            let child = std::process::Command::new("nproc").output().unwrap();
            String::from_utf8(child.stdout).unwrap()
        });
        assert_eq!(seen.join().unwrap().trim(), "1");
    }
}
