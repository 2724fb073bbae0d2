//! What a changed configuration changes in a running daemon: the filter of the log. The rest is named, and waits for the next start.
//!
//! Sizes, folders and threads are made at the start, and times and limits stand in what tasks were promised; a restart takes all of them and
//! keeps all tasks, so it costs a moment and nothing else. Flags stand over the file here as at the start.
//! Tested at the end and, through the program, in `tests/tests/service/told.rs`.

use crate::cli::Flags;
use crate::config::Settings;

/// Lines of the printed configuration that take effect at once.
const AT_ONCE: [&str; 1] = ["log"];

/// What is needed to read the configuration anew.
#[derive(Debug)]
pub struct Reload {
    flags: Flags,
    /// As printed: of the start, with what took effect since.
    stands: Vec<String>,
}

impl Reload {
    /// For a daemon that starts with these.
    #[must_use]
    pub fn new(flags: Flags, settings: &Settings) -> Self {
        Self {
            flags,
            stands: lines_of(settings),
        }
    }

    /// Reads the configuration anew, takes what can be taken, and says in the log what came of it; the service manager is told when
    /// it begins and ends. What cannot be understood changes nothing.
    pub fn run(&mut self) {
        qtf_service::reloading();
        match self.take() {
            Ok(waiting) if waiting.is_empty() => tracing::info!(
                name: "daemon-reloaded",
                "configuration reloaded: all of it stands"
            ),
            Ok(waiting) => tracing::warn!(
                name: "daemon-reloaded",
                waiting = waiting.join(", "),
                "configuration reloaded: these wait for the next start, which keeps all tasks"
            ),
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "the changed configuration cannot be taken, all stays as it is: mend it and reload again (qtfd --check-config)"
            ),
        }
        qtf_service::ready();
    }

    /// Gives the names of what has changed and waits.
    fn take(&mut self) -> anyhow::Result<Vec<String>> {
        let raw = self.flags.over_file()?;
        let settings = Settings::from_raw(raw)?;
        qtf_log::change_filter(settings.log())?;
        let wanted = lines_of(&settings);
        let is_at_once = |line: &String| AT_ONCE.contains(&name_of(line));
        self.stands.retain(|line| !is_at_once(line));
        self.stands
            .extend(wanted.iter().filter(|line| is_at_once(line)).cloned());
        Ok(differences(&self.stands, &wanted))
    }
}

fn lines_of(settings: &Settings) -> Vec<String> {
    settings.to_toml().lines().map(str::to_owned).collect()
}

/// A line that is commented out tells of a default.
fn name_of(line: &str) -> &str {
    let (name, _) = line.split_once(" = ").unwrap_or((line, ""));
    name.trim_start_matches("# ")
}

/// Names that stand in one of them with another value, or not at all, in the order of the wanted ones.
fn differences(stands: &[String], wanted: &[String]) -> Vec<String> {
    let only = |of: &[String], not: &[String]| -> Vec<String> {
        let lines = of.iter().filter(|line| !not.contains(line));
        lines.map(|line| name_of(line).to_owned()).collect()
    };
    let mut names = only(wanted, stands);
    for name in only(stands, wanted) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_taken_away_or_changed_is_named_once() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let stands = lines("a = 1\nb = 2\n# c = none\nd = 4");
        let wanted = lines("a = 1\nb = 3\nc = 5\ne = 6");
        assert_eq!(differences(&stands, &wanted), ["b", "c", "e", "d"]);
        assert_eq!(differences(&stands, &stands), Vec::<String>::new());
    }
}
