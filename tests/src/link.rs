//! A TCP link that can be cut: a proxy on loopback between a worker and its daemon.
//!
//! [`Link::cut`] closes every connection, with a reset as soon as somebody writes, and refuses new ones;
//! [`Link::hold`] takes bytes from nobody while the connections stay open, as a network that swallows everything.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

/// What happens to the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Flows,
    Held,
    Cut,
    /// The proxy ends.
    Over,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    connections: Mutex<Vec<TcpStream>>,
}

/// The proxy; it ends when this is dropped.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Link {
    /// A link to this address that flows.
    ///
    /// # Panics
    /// When the machine has no free port.
    #[must_use]
    pub fn to(daemon: &str) -> Self {
        let daemon: SocketAddr = daemon.parse().expect("an address and a port");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared {
            state: Mutex::new(State::Flows),
            changed: Condvar::new(),
            connections: Mutex::new(Vec::new()),
        });
        let of_listener = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, daemon, &of_listener));
        Self { address, shared }
    }

    /// Where the worker connects to.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Closes every connection and refuses new ones.
    ///
    /// # Panics
    /// Never in a test that has not panicked before.
    pub fn cut(&self) {
        self.change(State::Cut);
        let mut connections = self.shared.connections.lock().expect("no panic here");
        for connection in connections.drain(..) {
            // It may be closed by its peer already.
            let _closed = connection.shutdown(Shutdown::Both);
        }
    }

    /// Carries nothing, and says so to nobody.
    pub fn hold(&self) {
        self.change(State::Held);
    }

    /// Carries everything again.
    pub fn mend(&self) {
        self.change(State::Flows);
    }

    fn change(&self, state: State) {
        *self.shared.state.lock().expect("no panic here") = state;
        self.shared.changed.notify_all();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.cut();
        self.change(State::Over);
        // Wakes the accepting thread, which then sees that it is over.
        let _woken = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, daemon: SocketAddr, shared: &Arc<Shared>) {
    for worker in listener.incoming().map_while(Result::ok) {
        match *shared.state.lock().expect("no panic here") {
            State::Over => return,
            State::Cut => continue,
            State::Flows | State::Held => {}
        }
        let Ok(onward) = TcpStream::connect(daemon) else {
            continue;
        };
        for (from, to) in [(&worker, &onward), (&onward, &worker)] {
            let (Ok(from), Ok(to), Ok(known)) =
                (from.try_clone(), to.try_clone(), from.try_clone())
            else {
                continue;
            };
            shared
                .connections
                .lock()
                .expect("no panic here")
                .push(known);
            let shared = Arc::clone(shared);
            std::thread::spawn(move || carry(from, to, &shared));
        }
    }
}

/// Carries bytes in one direction until one end is closed.
fn carry(mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let held = shared.state.lock().expect("no panic here");
        let state = shared
            .changed
            .wait_while(held, |state| *state == State::Held)
            .map(|state| *state);
        if !matches!(state, Ok(State::Flows)) || to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    for end in [from, to] {
        // The other direction may have closed it.
        let _closed = end.shutdown(Shutdown::Both);
    }
}
