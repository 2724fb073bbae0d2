//! An event as an entry of the journal of systemd, in its native protocol: one datagram with a field a line.
//!
//! `tracing-journald` speaks it too, but sends from the thread that logs and waits for the journal there; here that thread must not
//! wait, so the entry goes through the queue as a line does, and the log's own thread sends it.
//!
//! | field | what |
//! |---|---|
//! | `MESSAGE` | the words of the event, then its fields as `name=value` |
//! | `PRIORITY`, `SYSLOG_IDENTIFIER`, `CODE_FILE`, `CODE_LINE`, `TARGET` | as elsewhere |
//! | `TASK_ID`, `WORKER_ID`, `ATTEMPT` | fields `task`, `worker`, `attempt` |
//! | `REASON` | fields `reason`, `why`, `cause`, `error` |
//! | `QTF_NAME` | each other field |
//! | `MESSAGE_ID` | of events that have one (`message_ids`) |
//!
//! Invariant: whatever a value holds, it is that field's value and no other field (newlines are escaped). Tested at the end.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use crate::message_ids;
use crate::queue::Queue;

/// Where the journal listens.
pub(crate) const SOCKET: &str = "/run/systemd/journal/socket";
/// LIMIT: bytes of one value; what is longer is cut.
const VALUE_BYTES_MAX: usize = 16 << 10;
/// Of `error` and the like, as in syslog.
const PRIORITY_OF_ERRORS: u8 = 3;

/// The way of events into the queue, as entries.
#[derive(Debug)]
pub(crate) struct Entries {
    pub(crate) queue: Arc<Queue>,
    pub(crate) identifier: String,
}

impl<S: Subscriber> Layer<S> for Entries {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let entry = of_event(&self.identifier, event.metadata(), fields);
        self.queue.push(&entry);
    }
}

/// A line that is no event.
pub(crate) fn of_line(identifier: &str, priority: u8, line: &str) -> Vec<u8> {
    let mut entry = Entry::default();
    entry.add("PRIORITY", &priority.to_string());
    entry.add("SYSLOG_IDENTIFIER", identifier);
    entry.add("MESSAGE", line);
    entry.0.into_bytes()
}

/// What is said as the last thing, such as why the program ends.
pub(crate) fn of_say(identifier: &str, line: &str) -> Vec<u8> {
    of_line(identifier, PRIORITY_OF_ERRORS, line)
}

fn of_event(identifier: &str, of: &Metadata<'_>, fields: Fields) -> Vec<u8> {
    let mut entry = Entry::default();
    let priority = priority_of(*of.level()).to_string();
    entry.add("PRIORITY", &priority);
    entry.add("SYSLOG_IDENTIFIER", identifier);
    entry.add("TARGET", of.target());
    if let (Some(file), Some(line)) = (of.file(), of.line()) {
        entry.add("CODE_FILE", file);
        entry.add("CODE_LINE", &line.to_string());
    }
    if let Some(id) = message_ids::of(of.name()) {
        entry.add("MESSAGE_ID", id);
    }
    let mut message = fields.message;
    for (name, value) in &fields.others {
        entry.add(&name_of(name), value);
        // Writing to a string does not fail.
        let _ = write!(message, " {name}={value}");
    }
    entry.add("MESSAGE", &message);
    entry.0.into_bytes()
}

fn priority_of(level: Level) -> u8 {
    match level {
        Level::ERROR => PRIORITY_OF_ERRORS,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// The journal takes capital letters, digits and underscores, at most 64, the first a letter.
fn name_of(field: &str) -> String {
    match field {
        "task" => "TASK_ID".to_owned(),
        "worker" => "WORKER_ID".to_owned(),
        "attempt" => "ATTEMPT".to_owned(),
        "reason" | "why" | "cause" | "error" => "REASON".to_owned(),
        other => {
            let plain = |c: char| {
                if c.is_ascii_alphanumeric() {
                    c.to_ascii_uppercase()
                } else {
                    '_'
                }
            };
            format!(
                "QTF_{}",
                other.chars().take(60).map(plain).collect::<String>()
            )
        }
    }
}

#[derive(Debug, Default)]
struct Entry(String);

impl Entry {
    fn add(&mut self, name: &str, value: &str) {
        let mut end = value.len().min(VALUE_BYTES_MAX);
        while !value.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        let value = value.get(..end).unwrap_or_default();
        let shown = qtf_shown::text::visible(value);
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{name}={shown}");
    }
}

/// The fields of an event, as text.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Fields {
    fn take(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            name => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::queue::{Batch, Failed};

    /// The lines of the entries that `log` has made.
    fn entry_of(log: impl FnOnce()) -> Vec<String> {
        let queue = Arc::new(Queue::of_entries(Instant::now()));
        let entries = Entries {
            queue: Arc::clone(&queue),
            identifier: "test".to_owned(),
        };
        let subscriber = tracing_subscriber::registry().with(entries);
        tracing::subscriber::with_default(subscriber, log);
        let mut batch = Batch::default();
        queue.next(&mut batch, Failed::default());
        let entry = batch.pieces().next().unwrap();
        let text = String::from_utf8(entry.to_vec()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_operators_look_for_stands_in_fields_of_its_own() {
        let entry = entry_of(|| {
            tracing::warn!(
                name: "result-refused",
                task = %7, worker = "w1.1", attempt = 2, why = "too large", slots = 3, "refused"
            );
        });
        for line in [
            "PRIORITY=4",
            "SYSLOG_IDENTIFIER=test",
            "MESSAGE_ID=9b3941a3fcfb43c29641b3d60e6ad37a",
            "TASK_ID=7",
            "WORKER_ID=w1.1",
            "ATTEMPT=2",
            "REASON=too large",
            "QTF_SLOTS=3",
            "MESSAGE=refused task=7 worker=w1.1 attempt=2 why=too large slots=3",
        ] {
            assert!(entry.iter().any(|is| is == line), "{line}: {entry:?}");
        }
    }

    #[test]
    fn value_of_a_peer_makes_no_field() {
        let name = "a\nTASK_ID=9\u{202e}";
        let entry = entry_of(|| tracing::info!(worker = name, "joined"));
        assert!(
            entry
                .iter()
                .any(|is| is == "WORKER_ID=a\\nTASK_ID=9\\u{202e}"),
            "{entry:?}"
        );
        assert!(
            !entry.iter().any(|is| is.starts_with("TASK_ID=")),
            "{entry:?}"
        );
        assert!(
            !entry.iter().any(|is| is.starts_with("MESSAGE_ID=")),
            "{entry:?}"
        );
    }

    #[test]
    fn long_value_is_cut_between_characters() {
        let long = "é".repeat(VALUE_BYTES_MAX);
        let entry = String::from_utf8(of_line("test", 6, &long)).unwrap();
        let message = entry
            .lines()
            .find_map(|line| line.strip_prefix("MESSAGE="))
            .unwrap();
        assert_eq!(message.chars().count(), VALUE_BYTES_MAX / 2);
    }
}
