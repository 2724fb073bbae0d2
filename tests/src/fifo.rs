//! A named pipe through which the tasks of a test say where they are.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::process::WATCHDOG;

/// The reading end.
#[derive(Debug)]
pub struct Fifo {
    path: PathBuf,
    lines: Receiver<String>,
}

impl Fifo {
    /// Makes the pipe.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe can be made");
        // Open for both, so that opening does not wait for a writer and the end never comes.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .expect("a pipe opens");
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(file).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Fifo { path, lines }
    }

    /// Where tasks write to.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the next line.
    ///
    /// # Panics
    /// When none comes in time.
    #[must_use]
    pub fn line(&self) -> String {
        self.lines
            .recv_timeout(WATCHDOG)
            .expect("a task writes a line in time")
    }

    /// The lines that are there.
    #[must_use]
    pub fn lines_so_far(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }
}
