//! How busy the machine is, as heartbeats tell it.

/// Runnable threads for each core, times 1000; 0 when the kernel does not say.
pub(crate) fn load_milli() -> u32 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, core::num::NonZero::get);
    parse(&text, u32::try_from(cores).unwrap_or(1)).unwrap_or(0)
}

fn parse(text: &str, cores: u32) -> Option<u32> {
    let (runnable, _all) = text.split_ascii_whitespace().nth(3)?.split_once('/')?;
    let runnable: u32 = runnable.parse().ok()?;
    runnable.saturating_mul(1000).checked_div(cores)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn load_is_the_run_queue_per_core() {
        assert_eq!(parse("0.41 0.20 0.10 3/412 9913\n", 2), Some(1500));
        assert_eq!(parse("", 2), None);
        assert_eq!(parse("0 0 0 x/y 1", 2), None);
    }
}
