//! Listening sockets: bound with the standard library (tokio-uring's own bind fails on new kernels), a
//! socket file that nobody listens on is replaced, ours is removed at the end.
//!
//! Where nothing else tells that the daemon was stopped a moment ago (the lock file lies beside the default socket only), a
//! marked file is left in its place, on which nobody listens. Tested at the end of this file and in the `restarts` of `qtf`.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::unistd::{AccessFlags, access};
use qtf_proto::address::{Address, STOPPED};
use qtf_shm::segment::ProcessIdentity;

use crate::sys::activation::Inherited;
use crate::sys::descriptors::listens_on;
use crate::sys::peer::local_peer;

/// LIMIT: a daemon that was killed listens for some milliseconds after its end has been told, until the
/// kernel has taken its rings down; a restart at once must not fail for that.
const IN_USE_MAX: Duration = Duration::from_millis(1_000);
const IN_USE_PAUSE: Duration = Duration::from_millis(5);

/// Of a socket file.
const MODE: u32 = 0o660;

/// Why an address cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// Somebody else serves it.
    #[error("somebody listens there already")]
    InUse,
    /// A file is in the way that is not a socket.
    #[error("a file that is not a socket is in the way")]
    NotASocket,
    /// The name of the host means nothing here.
    #[error("the host name has no address")]
    NoAddress,
    /// Only sockets can be listened on.
    #[error("cannot be listened on")]
    Unsupported,
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl BindError {
    /// The system's reason, if it was the system that refused.
    pub(crate) fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io(error) => Some(error.kind()),
            Self::InUse | Self::NotASocket | Self::NoAddress | Self::Unsupported => None,
        }
    }
}

/// A bound socket.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener, Origin),
    Unix(UnixListener, SocketFile),
}

/// Whose a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The daemon's own.
    Bound,
    /// The service manager listens on it too, and goes on when the daemon has gone.
    Inherited,
}

/// The file of a Unix socket; removed when dropped, if it is still the one that was bound.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: Option<(u64, u64)>,
    /// A stop leaves a mark in its place.
    is_announced: bool,
}

impl SocketFile {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            inode: inode_of(path),
            is_announced: false,
        }
    }

    /// Of a socket that somebody else has bound, and removes.
    fn of_others(path: PathBuf) -> Self {
        Self {
            path,
            inode: None,
            is_announced: false,
        }
    }

    fn is_ours(&self) -> bool {
        self.inode.is_some() && inode_of(&self.path) == self.inode
    }
}

fn inode_of(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// However the listener ends: the name stands for a socket on which nobody listens from now on, or for nothing.
impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        let path = self.path.display();
        if self.is_announced {
            match leave_mark(&self.path) {
                Ok(()) => return,
                Err(error) => {
                    tracing::debug!(%path, %error, "no socket file is left to tell of the stop");
                }
            }
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%path, %error, "socket file not removed");
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener, _) => listener.as_fd(),
            Self::Unix(listener, _) => listener.as_fd(),
        }
    }
}

impl Listener {
    /// Binds an address: all that a host name stands for, or none. One in use is tried again for a moment.
    #[expect(
        clippy::disallowed_methods,
        reason = "nobody tells when another process's socket is gone; nothing runs yet"
    )]
    pub(crate) fn bind(address: &Address) -> Result<Vec<Self>, BindError> {
        let give_up = Instant::now() + IN_USE_MAX;
        loop {
            match Self::bind_now(address) {
                Err(BindError::InUse) if Instant::now() < give_up => {
                    std::thread::sleep(IN_USE_PAUSE);
                }
                bound => return bound,
            }
        }
    }

    /// Listens on a socket that was handed over.
    pub(crate) fn of_inherited(socket: Inherited) -> Self {
        match socket {
            Inherited::Tcp(listener) => Self::Tcp(listener, Origin::Inherited),
            Inherited::Unix(listener, path) => Self::Unix(listener, SocketFile::of_others(path)),
        }
    }

    /// Whether this one serves the address already.
    pub(crate) fn covers(&self, address: &Address) -> bool {
        match (self, address) {
            (Self::Unix(_, file), Address::Unix(path) | Address::Own(path)) => file.path == *path,
            (Self::Tcp(listener, _), Address::Tcp(host_port)) => {
                let bound = listener.local_addr().ok();
                let wanted = addresses_of(host_port).unwrap_or_default();
                !wanted.is_empty() && wanted.iter().all(|address| Some(*address) == bound)
            }
            _ => false,
        }
    }

    /// Whether an address could be served once the process with this pid, which may serve it now, has ended. Gives
    /// where others than those on this machine could reach it, if so.
    pub(crate) fn check(
        address: &Address,
        predecessor: u32,
    ) -> Result<Option<SocketAddr>, BindError> {
        match address {
            Address::Unix(path) | Address::Own(path) => {
                check_unix(path, predecessor).map(|()| None)
            }
            Address::Tcp(host_port) => check_tcp(&addresses_of(host_port)?, predecessor),
            Address::InProcess(_) | Address::Segment(_) => Err(BindError::Unsupported),
        }
    }

    fn bind_now(address: &Address) -> Result<Vec<Self>, BindError> {
        match address {
            Address::Unix(path) | Address::Own(path) => Ok(vec![bind_unix(path)?]),
            Address::Tcp(host_port) => bind_tcp(&addresses_of(host_port)?),
            Address::InProcess(_) | Address::Segment(_) => Err(BindError::Unsupported),
        }
    }

    /// The address as others can use it (port 0 was replaced by the kernel's choice).
    pub(crate) fn address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(listener, _) => Ok(Address::Tcp(listener.local_addr()?.to_string())),
            Self::Unix(_, file) => Ok(Address::Unix(file.path.clone())),
        }
    }

    /// A stop is to be told by what is left at the name of a Unix socket, unless that is `told_elsewhere`.
    pub(crate) fn announce_stop(&mut self, told_elsewhere: &Path) {
        if let Self::Unix(_, file) = self {
            file.is_announced = file.path != told_elsewhere;
        }
    }

    /// The file of a Unix socket.
    pub(crate) fn socket_file(&self) -> Option<&Path> {
        match self {
            Self::Unix(_, file) if file.is_ours() => Some(&file.path),
            Self::Tcp(..) | Self::Unix(..) => None,
        }
    }

    /// Whether others than those on this machine can reach it; then its address.
    pub(crate) fn open_to_others(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener, _) => listener
                .local_addr()
                .ok()
                .filter(|bound| !bound.ip().to_canonical().is_loopback()),
            Self::Unix(..) => None,
        }
    }
}

/// What a host name stands for, each once: `localhost` is often two addresses, and a client may take either.
fn addresses_of(host_port: &str) -> io::Result<Vec<SocketAddr>> {
    let mut addresses = Vec::new();
    for address in host_port.to_socket_addrs()? {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// An address of a protocol that this machine does not have (no IPv6) is nobody's, if the name has others.
fn is_not_here(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32)
}

fn bind_tcp(addresses: &[SocketAddr]) -> Result<Vec<Listener>, BindError> {
    let mut listeners = Vec::new();
    let mut missing = None;
    for address in addresses {
        match TcpListener::bind(address) {
            Ok(listener) => listeners.push(Listener::Tcp(listener, Origin::Bound)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(BindError::InUse),
            Err(error) if is_not_here(&error) => {
                tracing::debug!(%address, %error, "not listened on");
                missing = Some(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    match missing {
        _ if !listeners.is_empty() => Ok(listeners),
        Some(error) => Err(error.into()),
        None => Err(BindError::NoAddress),
    }
}

fn check_tcp(addresses: &[SocketAddr], predecessor: u32) -> Result<Option<SocketAddr>, BindError> {
    let mut open = None;
    let mut is_bound = false;
    let mut missing = None;
    for address in addresses {
        let is_open = !address.ip().to_canonical().is_loopback();
        match TcpListener::bind(address) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if !listens_on(predecessor, address.port())? {
                    return Err(BindError::InUse);
                }
            }
            Err(error) if is_not_here(&error) => {
                missing = Some(error);
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        is_bound = true;
        if is_open && open.is_none() {
            open = Some(*address);
        }
    }
    match missing {
        _ if is_bound => Ok(open),
        Some(error) => Err(error.into()),
        None => Err(BindError::NoAddress),
    }
}

fn check_unix(path: &Path, predecessor: u32) -> Result<(), BindError> {
    // The length of the name.
    std::os::unix::net::SocketAddr::from_pathname(path)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    access(folder, AccessFlags::W_OK | AccessFlags::X_OK).map_err(io::Error::from)?;
    match check_free(path) {
        Err(BindError::InUse) if is_served_by(path, predecessor) => Ok(()),
        other => other.map(|_| ()),
    }
}

fn is_served_by(path: &Path, pid: u32) -> bool {
    let stream = UnixStream::connect(path);
    let listener = stream.ok().and_then(local_peer);
    listener.is_some_and(|listener| listener.pid == pid)
}

/// Binds beside the wanted name and renames, so that the name never stands for a socket that nobody listens on
/// or that has the wrong permissions, and a listener that is about to go need not be waited for.
fn bind_unix(path: &Path) -> Result<Listener, BindError> {
    let replaces = check_free(path)?;
    if replaces {
        tracing::info!(path = %path.display(), "socket file left by a daemon that is gone, replaced");
    }
    let beside = beside(path);
    remove(&beside)?;
    let listener = match UnixListener::bind(&beside) {
        // LIMIT: a socket's name has 107 bytes; where only the wanted one fits, it is bound at once.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return bind_in_place(path),
        other => other?,
    };
    let ready = std::fs::set_permissions(&beside, permissions());
    if let Err(error) = ready.and_then(|()| rename(&beside, path, replaces)) {
        // The error that is told is the first one.
        let _ = std::fs::remove_file(&beside);
        return Err(if error.kind() == io::ErrorKind::AlreadyExists {
            BindError::InUse
        } else {
            BindError::Io(error)
        });
    }
    Ok(Listener::Unix(listener, SocketFile::new(path)))
}

/// Where nothing was, somebody else may have put a socket meanwhile: that is not replaced.
fn rename(from: &Path, to: &Path, replaces: bool) -> io::Result<()> {
    if replaces {
        return std::fs::rename(from, to);
    }
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        // A file system without the flag.
        Err(Errno::EINVAL | Errno::ENOSYS) => std::fs::rename(from, to),
        other => Ok(other?),
    }
}

fn bind_in_place(path: &Path) -> Result<Listener, BindError> {
    remove(path)?;
    let listener = UnixListener::bind(path)?;
    let file = SocketFile::new(path);
    std::fs::set_permissions(path, permissions())?;
    Ok(Listener::Unix(listener, file))
}

/// A name beside the wanted one.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    path.with_file_name(name)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn permissions() -> std::fs::Permissions {
    std::fs::Permissions::from_mode(MODE)
}

/// Puts a socket on which nobody listens, and whose mode tells of the stop, in the place of ours. Who connects is refused at once,
/// also while the ring still has our listener open.
fn leave_mark(path: &Path) -> io::Result<()> {
    let beside = beside(path);
    remove(&beside)?;
    drop(UnixListener::bind(&beside)?);
    let marked = std::fs::Permissions::from_mode(MODE | STOPPED);
    let left = std::fs::set_permissions(&beside, marked);
    left.and_then(|()| std::fs::rename(&beside, path))
        .inspect_err(|_| {
            // The error that is told is the first one.
            let _ = std::fs::remove_file(&beside);
        })
}

/// The name may be taken if nothing is there, or a socket that nobody listens on, or that only the kernel still
/// holds for a process that has ended. Says whether there is something to replace.
fn check_free(path: &Path) -> Result<bool, BindError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(BindError::NotASocket),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Ok(stream) if is_of_the_dead(&stream) => {}
        // Somebody listens, or listens with a full queue (WouldBlock), or we may not know.
        Ok(_) | Err(_) => return Err(BindError::InUse),
    }
    Ok(true)
}

/// Whether the process that listens at the other end has ended. The kernel remembers who it was.
fn is_of_the_dead(stream: &UnixStream) -> bool {
    local_peer(stream).is_some_and(|listener| {
        let listener = ProcessIdentity {
            pid: listener.pid,
            start_time: 0,
        };
        !listener.is_alive()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind_one(address: &Address) -> Result<Listener, BindError> {
        let mut listeners = Listener::bind(address)?;
        assert_eq!(listeners.len(), 1);
        Ok(listeners.remove(0))
    }

    #[test]
    fn every_address_that_a_name_stands_for_is_bound_or_none() {
        // All of 127/8 is this machine.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let at = |host: &str| SocketAddr::new(host.parse().unwrap(), port);
        let both = [at("127.0.0.1"), at("127.0.0.2")];
        assert_eq!(check_tcp(&both, 0).unwrap(), None);
        let listeners = bind_tcp(&both).unwrap();
        let bound: Vec<_> = listeners
            .iter()
            .map(|one| one.address().unwrap().to_string())
            .collect();
        assert_eq!(bound, both.map(|address| address.to_string()));
        let with_another = [at("127.0.0.3"), at("127.0.0.2")];
        assert!(matches!(bind_tcp(&with_another), Err(BindError::InUse)));
        assert!(
            TcpListener::bind(at("127.0.0.3")).is_ok(),
            "nothing is kept"
        );
        // Of a documentation network, which no machine has.
        let not_here = at("192.0.2.1");
        assert_eq!(bind_tcp(&[not_here, at("127.0.0.4")]).unwrap().len(), 1);
        assert!(matches!(bind_tcp(&[not_here]), Err(BindError::Io(_))));
        assert!(matches!(bind_tcp(&[]), Err(BindError::NoAddress)));
        assert!(check_tcp(&[not_here], 0).is_err());
    }

    #[test]
    fn socket_file_that_nobody_listens_on_is_replaced_and_removed_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listener = bind_one(&Address::Unix(path.clone())).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn socket_file_that_somebody_listens_on_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let _theirs = UnixListener::bind(&path).unwrap();
        assert!(matches!(
            Listener::bind(&Address::Unix(path.clone())),
            Err(BindError::InUse)
        ));
        assert!(path.exists());
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "plays a kernel that takes its time"
    )]
    fn listener_that_is_about_to_go_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let theirs = UnixListener::bind(&path).unwrap();
        let killed = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(theirs);
        });
        let ours = bind_one(&Address::Unix(path.clone()));
        assert!(ours.is_ok(), "{ours:?}");
        killed.join().unwrap();
    }

    #[test]
    fn name_too_long_for_another_beside_it_is_bound_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let used = folder.path().as_os_str().len() + 1;
        let path = folder.path().join("s".repeat(107 - used));
        drop(UnixListener::bind(&path).unwrap());
        let listener = bind_one(&Address::Unix(path.clone())).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(listener);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn socket_that_was_handed_over_is_left_to_its_owner_and_serves_the_addresses_of_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let theirs = UnixListener::bind(&path).unwrap();
        let handed = Inherited::Unix(theirs.try_clone().unwrap(), path.clone());
        let mut ours = Listener::of_inherited(handed);
        ours.announce_stop(folder.path());
        assert_eq!(ours.socket_file(), None, "others look after it");
        assert!(ours.covers(&Address::Unix(path.clone())));
        assert!(!ours.covers(&Address::Unix(folder.path().join("t.sock"))));
        drop(ours);
        assert!(
            UnixStream::connect(&path).is_ok(),
            "it is still listened on"
        );
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let ours = Listener::of_inherited(Inherited::Tcp(tcp));
        assert!(ours.covers(&Address::Tcp(format!("127.0.0.1:{port}"))));
        assert!(!ours.covers(&Address::Tcp(format!("127.0.0.2:{port}"))));
    }

    #[test]
    fn ordinary_file_is_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(
            Listener::bind(&Address::Unix(path.clone())),
            Err(BindError::NotASocket)
        ));
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn socket_file_of_a_successor_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let ours = bind_one(&Address::Unix(path.clone())).unwrap();
        std::fs::remove_file(&path).unwrap();
        // The inode number of the removed file must not be given to the next one.
        let _keep = std::fs::File::create(folder.path().join("other")).unwrap();
        let _theirs = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
    }

    #[test]
    fn stop_leaves_a_marked_file_where_nothing_else_tells_of_it_and_the_next_daemon_replaces_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        for told_elsewhere in [folder.path().join("other.sock"), path.clone()] {
            let mut listener = bind_one(&Address::Unix(path.clone())).unwrap();
            listener.announce_stop(&told_elsewhere);
            let Listener::Unix(still_open, file) = listener else {
                panic!("it is a Unix socket");
            };
            drop(file);
            let refused = UnixStream::connect(&path).unwrap_err().kind();
            if told_elsewhere == path {
                assert_eq!(refused, io::ErrorKind::NotFound);
            } else {
                assert_eq!(refused, io::ErrorKind::ConnectionRefused);
                let left = std::fs::symlink_metadata(&path).unwrap();
                assert_eq!(left.mode() & STOPPED, STOPPED);
            }
            drop(still_open);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn tcp_address_in_use_is_told_from_other_failures() {
        let first = bind_one(&Address::Tcp("127.0.0.1:0".into())).unwrap();
        let taken = first.address().unwrap();
        assert!(matches!(Listener::bind(&taken), Err(BindError::InUse)));
        assert!(matches!(
            Listener::bind(&Address::Tcp("192.0.2.1:7878".into())),
            Err(BindError::Io(_))
        ));
    }
}
