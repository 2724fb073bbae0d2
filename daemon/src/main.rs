//! `qtfd`: parse, check, start, wait for a signal, stop, exit code.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use nix::sys::signal::{SigSet, Signal};
use qtf_daemon::cli::Flags;
use qtf_daemon::{Daemon, Exit, Inherited, Reload, RunningDaemon, Settings};
use qtf_log::say;
use qtf_service::{Keeper, Starting};

fn main() -> ExitCode {
    let exit = start();
    // Also for what was said of the end; a reader that does not come is not waited for.
    qtf_log::finish();
    exit
}

fn start() -> ExitCode {
    let flags = Flags::parse();
    let settings = match configure(&flags) {
        Ok(settings) => settings,
        Err(error) => {
            say(&format!("qtfd: {error:#}"));
            return Exit::Usage.into();
        }
    };
    if flags.check_config {
        return Exit::Stopped.into();
    }
    if flags.print_config {
        return print(&settings.to_toml());
    }
    run(&flags, settings).into()
}

fn configure(flags: &Flags) -> anyhow::Result<Settings> {
    let settings = Settings::from_raw(flags.over_file()?).with_context(|| match &flags.config {
        Some(file) => format!("configuration file {}, or a flag", file.display()),
        None => "flags".to_owned(),
    })?;
    qtf_log::start(settings.log(), settings.log_form())?;
    Ok(settings.take_over(flags.take_over))
}

fn run(flags: &Flags, settings: Settings) -> Exit {
    // Before anything else is opened.
    let sockets = match Inherited::take() {
        Ok(sockets) => sockets,
        Err(error) => {
            say(&format!("qtfd: {error}"));
            return Exit::Usage;
        }
    };
    // Before the first thread, so that all of them leave these signals to the wait below.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    // A write beyond the limit of file sizes (ulimit -f) then fails with EFBIG, and is named as any other failure.
    let held = SigSet::from_iter([
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGXFSZ,
    ]);
    if let Err(error) = held.thread_block() {
        say(&format!("qtfd: signals cannot be blocked: {error}"));
        return Exit::Failed;
    }
    if let Err(error) = qtf_daemon::descriptors::raise_limit() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let replayed = settings.replayed();
    let reload = Reload::new(flags.clone(), &settings);
    let starting = Starting::begin(move || replayed.count());
    let daemon = match Daemon::start_on(settings, sockets) {
        Ok(daemon) => daemon,
        Err(error) => {
            let exit = error.exit();
            // Its text has that of its source in it.
            say(&format!("qtfd: {error}"));
            return exit;
        }
    };
    if let Err(error) = starting {
        tracing::warn!(%error, "the service manager was not asked for more time to start");
    }
    qtf_service::ready();
    let keeper = match qtf_service::keep(daemon.loops()) {
        Ok(keeper) => Some(keeper),
        Err(error) => {
            tracing::error!(%error, "nobody looks whether the loops hang, and no watchdog is fed");
            None
        }
    };
    let is_asked = wait_for_end(&daemon, signals, reload);
    keeper.iter().for_each(Keeper::stops);
    match daemon.stop() {
        Ok(()) if is_asked => Exit::Stopped,
        Ok(()) => {
            say("qtfd: signals could not be waited for, stopped");
            Exit::Failed
        }
        Err(error) => {
            say(&format!("qtfd: {error}"));
            error.exit()
        }
    }
}

/// Comes back when a signal asks for the end, or the daemon has ended by itself. False if signals cannot be waited
/// for: a daemon that nobody can stop must not go on.
fn wait_for_end(daemon: &RunningDaemon, signals: SigSet, mut reload: Reload) -> bool {
    let (sender, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let listener = std::thread::Builder::new()
        .name("qtfd-signals".to_owned())
        .spawn(move || {
            loop {
                match signals.wait() {
                    Err(nix::errno::Errno::EINTR) => {}
                    // Also of a terminal that is closed, which does not end it.
                    Ok(Signal::SIGHUP) => reload.run(),
                    // Nobody waits any more when the daemon has ended by itself.
                    signal => return sender.send(signal),
                }
            }
        });
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let (Ok(_), Ok(runtime)) = (listener, runtime) else {
        tracing::error!("cannot wait for signals, stopping");
        return false;
    };
    runtime.block_on(async {
        tokio::select! {
            biased;
            () = daemon.ended() => true,
            signal = asked.recv() => {
                if let Some(Ok(signal)) = signal {
                    tracing::info!(%signal, "stopping");
                    return true;
                }
                tracing::error!(?signal, "cannot wait for signals, stopping");
                false
            }
        }
    })
}

fn print(text: &str) -> ExitCode {
    match std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes()) {
        Ok(()) => Exit::Stopped.into(),
        Err(_) => Exit::Failed.into(),
    }
}
