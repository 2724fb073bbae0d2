//! Where a daemon can be reached, and where it is looked for when nobody says.
//!
//! An address is written `unix:PATH`, `HOST:PORT` or `shm:NAME`. Two kinds cannot be written: [`InProcess`], a way into a daemon
//! that runs in the same process, and the socket of this user's own daemon, which is meant when nothing is said. The
//! latter is connected to only if it is this user's or root's; an address that somebody wrote is his own choice.
//!
//! `shm:NAME` is no connection: the program writes to the segment of the instance NAME itself. `shm:FOLDER/NAME` names its runtime
//! folder too, for an instance of another user or of another folder.

use core::fmt;
use core::str::FromStr;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::instance::{self, is_instance_name};

/// Name of the instance when nothing else is said.
pub const DEFAULT_INSTANCE: &str = "default";

/// Longest path of a Unix socket.
// LIMIT: `sun_path` of `sockaddr_un` holds 108 bytes with the terminating NUL.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Bit in the mode of a socket file: nobody listens there, because the daemon was stopped in order when the file was made. One that was
/// killed leaves the file that it had, without it.
pub const STOPPED: u32 = 0o1000;

/// Opens connections to a daemon that runs in the same process.
#[derive(Clone)]
pub struct InProcess {
    open: Arc<dyn Fn() -> io::Result<UnixStream> + Send + Sync>,
}

impl InProcess {
    /// Makes a way in from a function that hands out one end of a fresh socket pair at each call.
    pub fn new(open: impl Fn() -> io::Result<UnixStream> + Send + Sync + 'static) -> Self {
        Self {
            open: Arc::new(open),
        }
    }

    /// Opens one connection.
    ///
    /// # Errors
    /// What the function given to [`InProcess::new`] returns; `ConnectionRefused` when the daemon has
    /// stopped.
    pub fn open(&self) -> io::Result<UnixStream> {
        (self.open)()
    }
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InProcess")
    }
}

/// Where a daemon can be reached.
#[derive(Clone, Debug)]
pub enum Address {
    /// A Unix stream socket that was asked for.
    Unix(PathBuf),
    /// A Unix stream socket in the runtime folder: talked to only if the folder is this user's and the listener this user's
    /// or root's.
    Own(PathBuf),
    /// `HOST:PORT`.
    Tcp(String),
    /// A daemon in this process.
    InProcess(InProcess),
    /// The segment of an instance on this machine.
    Segment(SegmentAddress),
}

/// An instance whose segment is written to by this program itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentAddress {
    instance: String,
    folder: Option<PathBuf>,
}

impl SegmentAddress {
    /// Name of the instance.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The runtime folder that was named; `None` for that of this user.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The socket that a daemon of the instance listens on when nothing else is said to it: where to turn to with what a local process
    /// cannot do itself.
    #[must_use]
    pub fn socket_file(&self) -> PathBuf {
        let folder = self.folder.clone().unwrap_or_else(runtime_dir);
        instance::socket_in(&folder, &self.instance)
    }

    fn parse(name: &str) -> Result<Self, AddressError> {
        let (folder, instance) = match name.rsplit_once('/') {
            Some((folder, instance)) => (Some(folder), instance),
            None => (None, name),
        };
        let is_good = is_instance_name(instance)
            && folder.is_none_or(|folder| !folder.is_empty() && !folder.contains('\0'));
        if !is_good {
            let given = name.to_owned();
            return Err(AddressError::Instance { given });
        }
        Ok(Self {
            instance: instance.to_owned(),
            folder: folder.map(PathBuf::from),
        })
    }
}

impl fmt::Display for SegmentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.folder {
            Some(folder) => write!(f, "shm:{}/{}", folder.display(), self.instance),
            None => write!(f, "shm:{}", self.instance),
        }
    }
}

impl Address {
    /// The Unix socket of this user's instance, in the runtime folder.
    #[must_use]
    pub fn of_instance(instance: &str) -> Self {
        Self::Own(default_socket(instance))
    }

    /// The file of a Unix socket.
    #[must_use]
    pub fn socket_file(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) | Self::Own(path) => Some(path),
            Self::Tcp(_) | Self::InProcess(_) | Self::Segment(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) | Self::Own(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(host_port) => f.write_str(host_port),
            Self::InProcess(_) => f.write_str("in-process"),
            Self::Segment(segment) => segment.fmt(f),
        }
    }
}

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Neither form fits.
    #[error("address {given:?} is not unix:PATH, HOST:PORT or shm:NAME")]
    Form {
        /// What was given.
        given: String,
    },
    /// Looks like a path without its prefix.
    #[error("address {given:?} looks like a path: write unix:{given}")]
    PathWithoutPrefix {
        /// What was given.
        given: String,
    },
    /// The port is missing or not a number.
    #[error(
        "address {given:?} needs a port from 1 to 65535 after the last colon, as in 127.0.0.1:7878; a socket file is unix:PATH, an instance on this machine shm:NAME"
    )]
    Port {
        /// What was given.
        given: String,
    },
    /// The path does not fit into a socket address.
    #[error(
        "socket path {path:?} has {bytes} bytes, at most {SOCKET_PATH_BYTES_MAX} are possible: \
         choose a shorter one"
    )]
    PathTooLong {
        /// The path.
        path: String,
        /// Its length.
        bytes: usize,
    },
    /// Behind `shm:` stands no name of an instance.
    #[error(
        "address \"shm:{given}\" names no instance: write shm:NAME, or shm:FOLDER/NAME with its runtime folder; a name has {}",
        instance::NAMES
    )]
    Instance {
        /// What was given behind `shm:`.
        given: String,
    },
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let given = || text.to_owned();
        if let Some(name) = text.strip_prefix("shm:") {
            return SegmentAddress::parse(name).map(Self::Segment);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() || path.contains('\0') {
                return Err(AddressError::Form { given: given() });
            }
            if path.len() > SOCKET_PATH_BYTES_MAX {
                return Err(AddressError::PathTooLong {
                    path: path.to_owned(),
                    bytes: path.len(),
                });
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        if text.starts_with(['/', '.']) {
            return Err(AddressError::PathWithoutPrefix { given: given() });
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(AddressError::Port { given: given() });
        };
        let host_is_bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty() || (host.contains(':') && !host_is_bracketed) {
            return Err(AddressError::Form { given: given() });
        }
        let host_is_writable = host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]%".contains(&byte));
        if !host_is_writable {
            return Err(AddressError::Form { given: given() });
        }
        match port.parse::<u16>() {
            Ok(number) if number > 0 => Ok(Self::Tcp(given())),
            _ => Err(AddressError::Port { given: given() }),
        }
    }
}

/// The folder of sockets and lock files: `$XDG_RUNTIME_DIR/qtf`, else `/run/qtf` for root, else
/// `/tmp/qtf-UID`.
#[must_use]
pub fn runtime_dir() -> PathBuf {
    let given = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    runtime_dir_from(given, nix::unistd::geteuid().as_raw())
}

fn runtime_dir_from(xdg_runtime_dir: Option<PathBuf>, uid: u32) -> PathBuf {
    match xdg_runtime_dir {
        Some(dir) if dir.is_absolute() => dir.join("qtf"),
        _ if uid == 0 => PathBuf::from("/run/qtf"),
        _ => PathBuf::from(format!("/tmp/qtf-{uid}")),
    }
}

/// Path of an instance's Unix socket.
#[must_use]
pub fn default_socket(instance: &str) -> PathBuf {
    instance::socket_in(&runtime_dir(), instance)
}

/// Where a daemon is looked for when nobody says. No TCP port: whoever comes first may listen on one.
#[must_use]
pub fn default_address() -> Address {
    Address::of_instance(DEFAULT_INSTANCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_form_is_read_back() {
        for text in [
            "unix:/run/qtf/default.sock",
            "unix:relative.sock",
            "127.0.0.1:7878",
            "[::1]:7878",
            "node-3.example:1",
            "shm:default",
            "shm:/run/qtf/default",
            "shm:relative/folder/night-run",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn malformed_addresses_are_refused_with_the_fix() {
        let message = |text: &str| text.parse::<Address>().unwrap_err().to_string();
        for name in ["", "/", "/run/qtf/", ".hidden", "a b", "/default"] {
            let told = message(&format!("shm:{name}"));
            assert!(told.contains("write shm:NAME"), "{told}");
        }
        assert!(message("/run/x.sock").contains("write unix:/run/x.sock"));
        assert!(message("localhost").contains("needs a port"));
        assert!(message("localhost:0").contains("needs a port"));
        assert!(message("localhost:70000").contains("needs a port"));
        assert!(message(":7878").contains("is not unix:PATH, HOST:PORT or shm:NAME"));
        assert!(message("::1:7878").contains("is not unix:PATH, HOST:PORT or shm:NAME"));
        assert!(message("a b:1").contains("is not unix:PATH, HOST:PORT or shm:NAME"));
        assert!(message("unix:").contains("is not unix:PATH, HOST:PORT or shm:NAME"));
        let long = format!("unix:/{}", "x".repeat(SOCKET_PATH_BYTES_MAX));
        assert!(message(&long).contains("108 bytes"));
    }

    #[test]
    fn runtime_directory_follows_environment_then_user() {
        let path = |dir: Option<&str>, uid| runtime_dir_from(dir.map(PathBuf::from), uid);
        assert_eq!(
            path(Some("/run/user/7"), 7),
            PathBuf::from("/run/user/7/qtf")
        );
        assert_eq!(path(Some("relative"), 7), PathBuf::from("/tmp/qtf-7"));
        assert_eq!(path(None, 7), PathBuf::from("/tmp/qtf-7"));
        assert_eq!(path(None, 0), PathBuf::from("/run/qtf"));
    }
}
