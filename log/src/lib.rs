//! The log of a program: lines on standard error or entries of the journal, with a filter of levels, that never hold the program up.
//!
//! Standard error may be a pipe that nobody reads, a terminal that was stopped, or a full disk. So nobody writes to it but a
//! thread of the log's own (`writer`), out of a queue with a bound (`queue`). What has no room is counted and lost, and a
//! line says how many it were as soon as there is room again. A line that a peer can cause at will is let through some
//! times a second (`rates`), then counted and left out.
//!
//! Invariants:
//! - G1: whoever logs waits for nothing but the queue's lock, which nobody holds over a write.
//! - G2: the queue holds at most [`QUEUE_BYTES_MAX`].
//! - G3: each line is written, or counted as lost or left out.
//! - G4: an event is one line, without hidden characters of others (`qtf-shown`).
//!
//! Tested at the end of the files and, through whole programs, in `tests/tests/unread_log.rs`.

mod form;
mod message_ids;
mod native;
mod queue;
mod rates;
mod writer;

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use queue::{Queue, Written};
use writer::Sink;

pub use form::{Form, NoForm};
pub use message_ids::MESSAGE_IDS;
pub use queue::QUEUE_BYTES_MAX;

/// LIMIT: time that a program at its end waits for a reader of its last lines.
const LAST_LINES_MAX: Duration = Duration::from_secs(1);

static LOG: OnceLock<Log> = OnceLock::new();

/// The log of this process.
#[derive(Debug)]
struct Log {
    queue: Arc<Queue>,
    filter: reload::Handle<EnvFilter, Registry>,
    form: Form,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The filter cannot be understood.
    #[error("log filter \"{filter}\": {source}; write a level such as info, or qtf_daemon=debug")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Its thread or its descriptor cannot be had.
    #[error("the log cannot be started: {0}")]
    Thread(#[from] io::Error),
}

/// What was not written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Lines that found no room, because standard error was not read, or could not be written.
    pub lost: u64,
    /// Lines that were left out, because there were too many of their kind.
    pub left_out: u64,
}

fn parse(filter: &str) -> Result<EnvFilter, StartError> {
    EnvFilter::try_new(filter).map_err(|source| StartError::Filter {
        filter: filter.to_owned(),
        source,
    })
}

/// Starts the log of this process. A second start changes nothing.
///
/// From now on a panic is told through the log too, so that it is not held up on its way to the end of the process.
///
/// # Errors
/// When the filter cannot be understood, or there is no thread to be had.
pub fn start(filter: &str, form: Form) -> Result<(), StartError> {
    let parsed = parse(filter)?;
    if LOG.get().is_some() {
        return Ok(());
    }
    // A descriptor of its own: the lock of the standard library's would be held over a write that does not end.
    let out = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let form = settled(form, &out);
    let queue = Arc::new(match form {
        Form::Journal => Queue::of_entries(Instant::now()),
        Form::Auto | Form::Text | Form::Json => Queue::new(Instant::now()),
    });
    writer::spawn(Arc::clone(&queue), sink(form, out)?)?;
    let has_colours = io::stderr().is_terminal();
    let lines = |written| queue::Lines {
        queue: Arc::clone(&queue),
        written,
    };
    let coloured = if has_colours {
        Written::Coloured
    } else {
        Written::Plain
    };
    let text = tracing_subscriber::fmt::layer()
        .with_writer(lines(coloured))
        .with_ansi(has_colours)
        .with_target(false)
        .log_internal_errors(false);
    let json = tracing_subscriber::fmt::layer()
        .json()
        .with_writer(lines(Written::Json))
        .log_internal_errors(false);
    let entries = native::Entries {
        queue: Arc::clone(&queue),
        identifier: identifier(),
    };
    let (filtered, handle) = reload::Layer::new(parsed);
    let subscriber = tracing_subscriber::registry()
        .with(filtered)
        .with(Limited(Arc::clone(&queue)))
        .with((form == Form::Text).then_some(text))
        .with((form == Form::Json).then_some(json))
        .with((form == Form::Journal).then_some(entries));
    let log = Log {
        queue,
        filter: handle,
        form,
    };
    if LOG.set(log).is_ok() && subscriber.try_init().is_ok() {
        std::panic::set_hook(Box::new(tell_panic));
    }
    Ok(())
}

/// Lets another filter stand from now on.
///
/// # Errors
/// When it cannot be understood; then the one before stands.
pub fn change_filter(filter: &str) -> Result<(), StartError> {
    let parsed = parse(filter)?;
    if let Some(log) = LOG.get() {
        log.filter.reload(parsed).map_err(io::Error::other)?;
    }
    Ok(())
}

/// What `auto` stands for here.
fn settled(form: Form, out: &File) -> Form {
    let stream = std::env::var_os("JOURNAL_STREAM");
    match form {
        Form::Auto
            if form::is_journal(stream.as_deref(), out) && Path::new(native::SOCKET).exists() =>
        {
            Form::Journal
        }
        Form::Auto => Form::Text,
        Form::Text | Form::Json | Form::Journal => form,
    }
}

fn sink(form: Form, out: File) -> io::Result<Sink> {
    Ok(match form {
        Form::Auto | Form::Text => Sink::Text(out),
        Form::Json => Sink::Json(out),
        Form::Journal => Sink::Journal {
            socket: UnixDatagram::unbound()?,
            to: native::SOCKET.into(),
            identifier: identifier(),
        },
    })
}

/// The program's name, as the journal shows it before each line.
fn identifier() -> String {
    let program = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Says a line that is no event, such as why the program ends, behind what was logged before.
pub fn say(line: &str) {
    match LOG.get() {
        Some(log) if log.form == Form::Journal => {
            log.queue.push(&native::of_say(&identifier(), line));
        }
        Some(log) => log.queue.push(format!("{line}\n").as_bytes()),
        None => {
            // If nobody reads standard error the exit code still tells.
            let _unheard = writeln!(io::stderr(), "{line}");
        }
    }
}

/// Waits until everything is written, but not for a reader that does not come. To be called at the end of a program.
pub fn finish() {
    if let Some(log) = LOG.get() {
        log.queue.flush(LAST_LINES_MAX);
    }
}

/// What was not written since the start.
#[must_use]
pub fn missing() -> Missing {
    LOG.get()
        .map_or_else(Missing::default, |log| log.queue.missing())
}

fn tell_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    say(&format!(
        "thread '{}' {panic}",
        thread.name().unwrap_or("?")
    ));
    let trace = std::backtrace::Backtrace::capture();
    if trace.status() == std::backtrace::BacktraceStatus::Captured {
        say(&trace.to_string());
    }
    finish();
}

/// Leaves out what comes too often.
struct Limited(Arc<Queue>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Limited {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let of: &'static Metadata<'static> = event.metadata();
        self.0.admits(of, Instant::now())
    }
}
