//! Named pipes: one through which the tasks of a test say where they are, one that holds them up.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
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
        let file = open_pipe(&path);
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

/// Holds tasks up that read a line from it (`read x < GATE`).
#[derive(Debug)]
pub struct Gate {
    path: PathBuf,
    pipe: File,
}

impl Gate {
    /// Makes the pipe; nobody passes yet.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        let pipe = open_pipe(&path);
        Gate { path, pipe }
    }

    /// Where tasks read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets so many tasks pass.
    ///
    /// # Panics
    /// When the pipe is gone.
    pub fn let_pass(&mut self, count: usize) {
        let lines = "\n".repeat(count);
        self.pipe
            .write_all(lines.as_bytes())
            .expect("the pipe is open");
    }
}

/// Makes a pipe and opens it for both, so that opening waits for nobody and the end never comes.
fn open_pipe(path: &Path) -> File {
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe can be made");
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .open(path)
        .expect("a pipe opens")
}
