//! A TCP link on loopback that can be cut and turned into a black hole.
//!
//! A proxy with a thread of its own. **Cut**: connections end at once, by FIN or by RST, and new ones end as soon as they
//! are made. **Black hole**: connections stay, also new ones, and nothing passes; what was sent into it arrives when it
//! heals, late, as with a real network that loses packets for a while, or the connection is reset then. A hole may be of
//! one direction only. Tested at the end of this file.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bytes on their way in one direction.
const BUFFER_BYTES: usize = 64 << 10;

/// What becomes of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passage {
    /// It passes.
    Open,
    /// There is no way.
    Cut,
    /// It waits for better times, in these directions.
    Hole {
        /// From those who connect to those who listen.
        is_up: bool,
        /// The other way.
        is_down: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct Control {
    passage: Passage,
    /// Connections that were made before the last of these have ended.
    resets: u64,
    /// By RST.
    is_abortive: bool,
}

/// See the head of this file. Ends with its connections when it is dropped.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    control: Option<watch::Sender<Control>>,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    /// A link to this address, which is open.
    ///
    /// # Panics
    /// When it is no address, or the machine has no port or thread for the link.
    #[must_use]
    pub fn to(target: &str) -> Self {
        let target: SocketAddr = target.parse().expect("an address and a port");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        listener.set_nonblocking(true).expect("a socket can");
        let address = listener.local_addr().expect("a listener has an address");
        let (control, state) = watch::channel(Control {
            passage: Passage::Open,
            resets: 0,
            is_abortive: false,
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let thread = std::thread::Builder::new()
            .name("link".to_owned())
            .spawn(move || runtime.block_on(serve(listener, target, state)))
            .expect("a thread can be made");
        Self {
            address,
            control: Some(control),
            thread: Some(thread),
        }
    }

    /// Where to connect to.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Ends all connections, and each new one, until it is mended.
    pub fn cut(&self) {
        self.end(Passage::Cut, false);
    }

    /// The same by RST: what was on its way is lost.
    pub fn cut_by_reset(&self) {
        self.end(Passage::Cut, true);
    }

    /// Carries nothing until it is mended, and says so to nobody.
    pub fn hold(&self) {
        self.hold_ways(true, true);
    }

    /// Carries nothing in these directions: up is to those who listen.
    pub fn hold_ways(&self, is_up: bool, is_down: bool) {
        self.change(|control| control.passage = Passage::Hole { is_up, is_down });
    }

    /// Carries everything again; connections that were held go on.
    pub fn mend(&self) {
        self.change(|control| control.passage = Passage::Open);
    }

    /// Carries everything again over new connections: those that were held are reset.
    pub fn mend_by_reset(&self) {
        self.end(Passage::Open, true);
    }

    fn end(&self, passage: Passage, is_abortive: bool) {
        self.change(|control| {
            *control = Control {
                passage,
                resets: control.resets + 1,
                is_abortive,
            };
        });
    }

    fn change(&self, change: impl FnOnce(&mut Control)) {
        if let Some(control) = &self.control {
            control.send_modify(change);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        drop(self.control.take());
        if let Some(thread) = self.thread.take() {
            // A panic of it has been printed.
            let _ended = thread.join();
        }
    }
}

/// Until the link is dropped.
async fn serve(
    listener: std::net::TcpListener,
    target: SocketAddr,
    state: watch::Receiver<Control>,
) {
    let listener = TcpListener::from_std(listener).expect("within a runtime");
    let mut dropped = state.clone();
    let accepting = async {
        loop {
            // A connection that has gone again, or no descriptor for it: the next one.
            let Ok((near, _)) = listener.accept().await else {
                tokio::task::yield_now().await;
                continue;
            };
            tokio::spawn(carry(near, target, state.clone()));
        }
    };
    tokio::select! {
        () = accepting => {}
        _closed = dropped.wait_for(|_| false) => {}
    }
}

/// One connection, until one of its ends closes it or the link is cut.
async fn carry(near: TcpStream, target: SocketAddr, state: watch::Receiver<Control>) {
    let born = state.borrow().resets;
    let near = Arc::new(near);
    let mut cuts = state.clone();
    let far = tokio::select! {
        _cut = cuts.wait_for(|now| now.resets != born || now.passage == Passage::Cut) => None,
        far = connect(target, state.clone()) => far,
    };
    if let Some(far) = far {
        tokio::select! {
            _cut = cuts.wait_for(|now| now.resets != born) => {}
            _ended = pump(&near, &far, state.clone(), is_up_open) => {}
            _ended = pump(&far, &near, state.clone(), is_down_open) => {}
        }
        if state.borrow().is_abortive {
            // It may be gone by now.
            let _gone = far.set_zero_linger();
        }
    }
    if state.borrow().is_abortive {
        let _gone = near.set_zero_linger();
    }
}

const fn is_up_open(passage: Passage) -> bool {
    matches!(passage, Passage::Open | Passage::Hole { is_up: false, .. })
}

const fn is_down_open(passage: Passage) -> bool {
    matches!(
        passage,
        Passage::Open | Passage::Hole { is_down: false, .. }
    )
}

async fn connect(target: SocketAddr, mut state: watch::Receiver<Control>) -> Option<TcpStream> {
    state.wait_for(|now| is_up_open(now.passage)).await.ok()?;
    // Nobody listens while the daemon is being started: whoever connects is told so by the end of the connection.
    let far = TcpStream::connect(target).await.ok()?;
    far.set_nodelay(true).ok()?;
    Some(far)
}

/// Carries bytes in one direction while that is open.
async fn pump(
    from: &TcpStream,
    to: &TcpStream,
    mut state: watch::Receiver<Control>,
    is_open: fn(Passage) -> bool,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        from.readable().await?;
        pass(&mut state, is_open).await?;
        let read = match from.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let mut rest = buffer.get(..read).unwrap_or_default();
        while !rest.is_empty() {
            pass(&mut state, is_open).await?;
            to.writable().await?;
            match to.try_write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

async fn pass(
    state: &mut watch::Receiver<Control>,
    is_open: fn(Passage) -> bool,
) -> io::Result<()> {
    match state.wait_for(|now| is_open(now.passage)).await {
        Ok(_) => Ok(()),
        Err(_dropped) => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    /// Long enough for anything; nothing waits for it to pass unless nothing may come.
    const WATCHDOG: Duration = Duration::from_secs(300);
    /// Nothing may come.
    const SILENCE: Duration = Duration::from_millis(100);

    struct Wire {
        link: Link,
        listener: TcpListener,
    }

    impl Wire {
        fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let link = Link::to(&listener.local_addr().unwrap().to_string());
            Self { link, listener }
        }

        fn connect(&self) -> (TcpStream, TcpStream) {
            let near = TcpStream::connect(self.link.address()).unwrap();
            let (far, _) = self.listener.accept().unwrap();
            near.set_read_timeout(Some(WATCHDOG)).unwrap();
            far.set_read_timeout(Some(WATCHDOG)).unwrap();
            (near, far)
        }
    }

    fn passes(from: &mut TcpStream, to: &mut TcpStream) {
        from.write_all(b"word").unwrap();
        let mut word = [0; 4];
        to.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"word");
    }

    fn is_silent(stream: &mut TcpStream) -> bool {
        stream.set_read_timeout(Some(SILENCE)).unwrap();
        let mut word = [0; 4];
        let read = stream.read(&mut word);
        stream.set_read_timeout(Some(WATCHDOG)).unwrap();
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    #[test]
    fn an_open_link_carries_both_ways_and_ends_with_either_side() {
        let wire = Wire::new();
        let (mut near, mut far) = wire.connect();
        passes(&mut near, &mut far);
        passes(&mut far, &mut near);
        drop(far);
        assert_eq!(near.read(&mut [0; 4]).unwrap(), 0);
    }

    #[test]
    fn a_cut_ends_what_there_is_and_what_comes_until_the_link_is_opened() {
        for is_abortive in [false, true] {
            let wire = Wire::new();
            let (mut near, mut far) = wire.connect();
            passes(&mut near, &mut far);
            if is_abortive {
                wire.link.cut_by_reset();
            } else {
                wire.link.cut();
            }
            for end in [&mut near, &mut far] {
                match end.read(&mut [0; 4]) {
                    Ok(0) => assert!(!is_abortive),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                        assert!(is_abortive);
                    }
                    other => panic!("{other:?}"),
                }
            }
            let mut late = TcpStream::connect(wire.link.address()).unwrap();
            assert!(matches!(late.read(&mut [0; 4]), Ok(0) | Err(_)));
            wire.link.mend();
            let (mut near, mut far) = wire.connect();
            passes(&mut near, &mut far);
        }
    }

    #[test]
    fn a_hole_keeps_what_is_sent_until_it_heals_or_resets() {
        let wire = Wire::new();
        let (mut near, mut far) = wire.connect();
        passes(&mut near, &mut far);
        wire.link.hold();
        near.write_all(b"late").unwrap();
        far.write_all(b"late").unwrap();
        assert!(is_silent(&mut far) && is_silent(&mut near));
        wire.link.mend();
        let mut word = [0; 4];
        far.read_exact(&mut word).unwrap();
        near.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"late");
        wire.link.hold();
        near.write_all(b"gone").unwrap();
        wire.link.mend_by_reset();
        assert!(near.read(&mut word).is_err(), "reset");
        let (mut near, mut far) = wire.connect();
        passes(&mut near, &mut far);
    }

    #[test]
    fn a_hole_of_one_direction_lets_the_other_pass() {
        let wire = Wire::new();
        let (mut near, mut far) = wire.connect();
        wire.link.hold_ways(true, false);
        near.write_all(b"late").unwrap();
        passes(&mut far, &mut near);
        assert!(is_silent(&mut far));
        wire.link.hold_ways(false, true);
        let mut word = [0; 4];
        far.read_exact(&mut word).unwrap();
        passes(&mut near, &mut far);
    }
}
