//! A `qtfd` of the same build with a data folder, as a process of its own: started, killed, started again.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use qtf_proto::address::Address;
use qtf_proto::v1;
use qtf_proto::v1::admin_client::AdminClient;
use tonic::transport::Channel;

use crate::Failure;

/// LIMIT: a daemon that does not serve by then has failed.
const START_MAX: Duration = Duration::from_secs(120);

/// The daemon and its folders.
#[derive(Debug)]
pub struct Daemon {
    folder: PathBuf,
    instance: String,
    config: PathBuf,
    child: Option<Child>,
    shm_id: i32,
}

/// How long a start took.
#[derive(Debug, Clone)]
pub struct Started {
    /// From the start of the process to the first answered call.
    pub time: Duration,
    /// What the daemon says of itself.
    pub info: v1::DaemonInfo,
}

impl Daemon {
    /// Prepares one in a folder, which is made anew; `config` has further lines of its configuration.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn prepare(folder: &Path, config: &str) -> Result<Self, Failure> {
        if folder.exists() {
            std::fs::remove_dir_all(folder)?;
        }
        std::fs::create_dir_all(folder.join("run"))?;
        std::fs::create_dir_all(folder.join("data"))?;
        let folder = folder.canonicalize()?;
        let file = folder.join("qtfd.toml");
        std::fs::write(
            &file,
            format!(
                "data_dir = {:?}\nruntime_dir = {:?}\n{config}\n",
                folder.join("data"),
                folder.join("run")
            ),
        )?;
        Ok(Self {
            instance: format!("bench-{}", std::process::id()),
            config: file,
            folder,
            child: None,
            shm_id: -1,
        })
    }

    /// The address of its socket.
    ///
    /// # Errors
    /// The folder has a strange name.
    pub fn address(&self) -> Result<Address, Failure> {
        let socket = self.folder.join("bench.sock");
        Ok(format!("unix:{}", socket.display()).parse()?)
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// It does not serve in time.
    pub async fn start(&mut self) -> Result<Started, Failure> {
        let program = std::env::current_exe()?.with_file_name("qtfd");
        if !program.exists() {
            return Err(format!(
                "{} is not there: cargo build --release -p qtf-daemon",
                program.display()
            )
            .into());
        }
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))?;
        let socket = self.folder.join("bench.sock");
        // A socket of the one before tells nothing about this one.
        if socket.exists() {
            std::fs::remove_file(&socket)?;
        }
        let begun = Instant::now();
        let child = Command::new(program)
            .args(["--instance", &self.instance, "--config"])
            .arg(&self.config)
            .arg("--listen")
            .arg(format!("unix:{}", socket.display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        let info = loop {
            if let Ok(info) = self.info().await {
                break info;
            }
            let ended = match &mut self.child {
                Some(child) => child.try_wait()?,
                None => None,
            };
            if ended.is_some() || begun.elapsed() > START_MAX {
                return Err(format!("the daemon does not serve: {ended:?}\n{}", self.log()).into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        let time = begun.elapsed();
        self.shm_id = info.shm_id;
        Ok(Started { time, info })
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn info(&self) -> Result<v1::DaemonInfo, Failure> {
        let channel = self.connect().await?;
        let info = AdminClient::new(channel)
            .get_info(v1::GetInfoRequest {})
            .await?;
        Ok(info.into_inner())
    }

    /// Processor time that it has used so far, all threads.
    ///
    /// # Errors
    /// It does not run.
    pub fn processor_time(&self) -> Result<Duration, Failure> {
        let pid = self.child.as_ref().ok_or("the daemon does not run")?.id();
        let mut ns = 0;
        for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            // The first number is the time on a core in nanoseconds. A thread may end between the two looks.
            let text =
                std::fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            let time = text
                .split(' ')
                .next()
                .and_then(|time| time.parse::<u64>().ok());
            ns += time.unwrap_or(0);
        }
        Ok(Duration::from_nanos(ns))
    }

    /// A connection.
    ///
    /// # Errors
    /// It is not there.
    pub async fn connect(&self) -> Result<Channel, Failure> {
        Ok(qtf_proto::channel::connect(&self.address()?).await?)
    }

    /// Ends it as the kernel would, at once.
    ///
    /// # Errors
    /// It cannot be awaited.
    pub fn kill(&mut self) -> Result<(), Failure> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Takes its segment away, as a reboot would.
    ///
    /// # Errors
    /// `ipcrm` is not there.
    pub fn remove_segment(&mut self) -> Result<(), Failure> {
        if self.shm_id >= 0 {
            let mut ipcrm = Command::new("ipcrm");
            ipcrm.args(["-m", &self.shm_id.to_string()]).status()?;
            self.shm_id = -1;
        }
        Ok(())
    }

    /// Size of what lies in the journal's folder.
    #[must_use]
    pub fn journal_bytes(&self) -> u64 {
        let entries = std::fs::read_dir(self.folder.join("data/journal"));
        let entries = entries.into_iter().flatten().flatten();
        let sizes = entries.filter_map(|entry| Some(entry.metadata().ok()?.len()));
        sizes.sum()
    }

    /// Names of the files in the journal's folder.
    #[must_use]
    pub fn journal_files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.join("data/journal"));
        let entries = entries.into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// The end of its log.
    #[must_use]
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing more can be done about what fails here.
        let _killed = self.kill();
        let _removed = self.remove_segment();
        let _gone = std::fs::remove_dir_all(&self.folder);
    }
}
