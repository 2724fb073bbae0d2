//! Where connections come from: listening sockets, and the process that the daemon runs in. Tested in `tests/daemon/sockets.rs` and
//! `tests/daemon/in_process.rs`.

use std::io;

use tokio::sync::watch;

use crate::net::Backend;
use crate::net::accept::Acceptor;
use crate::net::edge_io::Socket;
use crate::net::in_process::Arrivals;
use crate::net::listener::Listener;

/// All of them.
#[derive(Debug)]
pub(crate) struct Entrances {
    pub(crate) listeners: Vec<Listener>,
    pub(crate) arrivals: Arrivals,
}

impl Entrances {
    /// From now until `stop` becomes true tasks of the calling thread give each connection to `take`.
    ///
    /// # Errors
    /// The runtime cannot listen for a socket.
    pub(crate) fn open(
        self,
        backend: Backend,
        stop: &watch::Receiver<bool>,
        take: impl FnMut(Socket) + Clone + 'static,
    ) -> io::Result<()> {
        for listener in self.listeners {
            let acceptor = Acceptor::new(listener, backend)?;
            tokio::task::spawn_local(acceptor.run(stop.clone(), take.clone()));
        }
        tokio::task::spawn_local(take_arrivals(self.arrivals, stop.clone(), take));
        Ok(())
    }
}

async fn take_arrivals(
    mut arrivals: Arrivals,
    mut stop: watch::Receiver<bool>,
    mut take: impl FnMut(Socket),
) {
    let arriving = async {
        while let Some(socket) = arrivals.recv().await {
            take(Socket::Unix(socket));
        }
    };
    tokio::select! {
        () = arriving => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}
