//! Threads that own the sockets, where the pinned thread is not to (`edge_threads` of the configuration).
//!
//! Each runs what the pinned thread otherwise runs beside its loop: sockets, HTTP/2, decoding, handlers, encoding. Handlers enter the core as
//! everywhere, which has the pinned thread run what they want (`core_cell`). The first thread lets connections in and hands
//! them out in turn; a connection stays where it is to its end, so its messages are taken in their order. Places, half messages and all other
//! bounds are the daemon's, not a thread's.
//!
//! The threads are not pinned: they run where the process may, also on the daemon's core while that is idle.
//! Tested in `tests/daemon/edge_threads.rs`.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, mpsc as answers};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

use super::connection::{Admitted, Connections};
use super::entrances::Entrances;
use crate::core::core_cell;
use crate::net::Backend;
use crate::net::edge_io::Socket;
use crate::sys::affinity;
use crate::sys::desk::Ticket;

/// The threads.
#[derive(Debug)]
pub(crate) struct EdgeThreads {
    threads: Vec<JoinHandle<()>>,
    end: watch::Sender<bool>,
    /// Its senders are gone when the threads have let go of everything.
    all_ended: mpsc::Receiver<Infallible>,
}

/// What the first thread has beside the others.
struct Front {
    entrances: Entrances,
    connections: Arc<Connections>,
    /// The ways to all threads. What waits there has its place among the connections, so it is bounded as they are.
    ways: Vec<mpsc::UnboundedSender<Admitted>>,
    stop: watch::Receiver<bool>,
    opened: answers::Sender<io::Result<()>>,
}

impl EdgeThreads {
    /// Starts a thread for each ticket, on the cores that the process may use, and returns when connections are let in. Until `stop` becomes
    /// true new ones are.
    ///
    /// # Errors
    /// A thread, its poll, or the poll's look at a socket cannot be had.
    pub(crate) fn start(
        tickets: Vec<Ticket>,
        cores: &[u16],
        entrances: Entrances,
        connections: Arc<Connections>,
        stop: watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let (ways, inboxes): (Vec<_>, Vec<_>) =
            tickets.iter().map(|_| mpsc::unbounded_channel()).unzip();
        let (opened, answer) = answers::channel();
        let mut front = Some(Front {
            entrances,
            connections,
            ways,
            stop,
            opened,
        });
        let (end, ending) = watch::channel(false);
        let (ended, all_ended) = mpsc::channel(1);
        let mut threads = Vec::new();
        for (number, (ticket, inbox)) in tickets.into_iter().zip(inboxes).enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let (cores, front) = (cores.to_vec(), front.take());
            let (ending, ended) = (ending.clone(), ended.clone());
            let thread = std::thread::Builder::new()
                .name(format!("qtfd-edge-{number}"))
                .spawn(move || {
                    affinity::spread(&cores);
                    core_cell::enter_by(ticket);
                    run(runtime, front, inbox, ending);
                    drop(ended);
                })?;
            threads.push(thread);
        }
        let opened = answer.recv();
        opened.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
        Ok(Self {
            threads,
            end,
            all_ended,
        })
    }

    /// Has them let go of everything, and waits for that; not for longer than `bound`. False if one has not.
    pub(crate) async fn end(mut self, bound: Duration) -> bool {
        self.end.send_replace(true);
        let ended = tokio::time::timeout(bound, self.all_ended.recv()).await;
        if ended.is_err() {
            // What they still hold goes with the process; they reach neither core nor segment any more.
            tracing::error!("an edge thread does not end");
            return false;
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("an edge thread has panicked");
            }
        }
        true
    }
}

/// The body of a thread.
fn run(
    runtime: Runtime,
    front: Option<Front>,
    mut inbox: mpsc::UnboundedReceiver<Admitted>,
    mut ending: watch::Receiver<bool>,
) {
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async move {
        if let Some(front) = front {
            front.open();
        }
        let serving = async {
            while let Some(admitted) = inbox.recv().await {
                admitted.serve();
            }
            // Nobody is let in any more; those who are here stay.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            _ = ending.wait_for(|ending| *ending) => {}
            () = serving => {}
        }
    });
    // Streams that are left give back what they hold, as long as there is a core.
    drop(tasks);
    drop(runtime);
}

impl Front {
    fn open(self) {
        let Self {
            entrances,
            connections,
            ways,
            stop,
            opened,
        } = self;
        let turn = Rc::new(Cell::new(0_usize));
        let ways = Rc::new(ways);
        let hand_out = move |socket: Socket| {
            let Some(admitted) = connections.admit(socket) else {
                return;
            };
            let next = turn.get();
            turn.set(next.wrapping_add(1));
            let way = next.checked_rem(ways.len()).and_then(|next| ways.get(next));
            // A thread that has ended takes nobody; its place is given back then.
            let _is_taken = way.is_some_and(|way| way.send(admitted).is_ok());
        };
        let is_open = entrances.open(Backend::Tokio, &stop, hand_out);
        // Whoever started the threads waits for it.
        let _is_heard = opened.send(is_open).is_ok();
    }
}
