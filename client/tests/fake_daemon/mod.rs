//! A daemon that keeps tasks in a map and misbehaves as a test tells it; what makes a process of it is [`Host`].
//!
//! | file | what |
//! |---|---|
//! | `world` | what it knows, and how it is to misbehave |
//! | `register` | sessions |
//! | `plm` | submissions, uploads, calls about tasks |
//! | `watch` | the ends of tasks |
#![expect(dead_code, reason = "each test file uses another part of it")]

mod plm;
mod register;
mod watch;
pub(crate) mod world;

use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard};

use qtf_client::Address;
use qtf_fake_daemon::Host;
pub(crate) use qtf_fake_daemon::soon;
use qtf_proto::v1::plm_server::PlmServer;
use qtf_proto::v1::register_server::RegisterServer;
use tokio::sync::Notify;
use tonic::transport::Server;
use tonic::transport::server::Router;

pub(crate) use world::World;

pub(crate) const INLINE_BYTES: u64 = 1000;
pub(crate) const PAYLOAD_BYTES: u64 = 300_000;

#[derive(Clone)]
struct Service {
    world: Arc<Mutex<World>>,
    changed: Arc<Notify>,
}

impl Service {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }
}

/// What a new daemon finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    /// The segment of the one before.
    Hot,
    /// An empty segment, and a journal.
    Cold,
}

pub(crate) struct FakeDaemon {
    pub(crate) address: Address,
    service: Service,
    host: Host,
}

impl FakeDaemon {
    pub(crate) fn start() -> Self {
        let service = Service {
            world: Arc::new(Mutex::new(World {
                segment_id: 7,
                key_slots: 100_000,
                key_hint_ms: 10,
                ..World::default()
            })),
            changed: Arc::new(Notify::new()),
        };
        let host = Host::start(service.router());
        Self {
            address: host.address(),
            service,
            host,
        }
    }

    /// Ends it as SIGKILL does: its connections break, its socket file stays.
    pub(crate) fn kill(&mut self) {
        self.host.kill();
    }

    /// Starts another one at the same address.
    pub(crate) fn start_again(&mut self, restart: Restart) {
        self.kill();
        {
            let mut world = self.service.world();
            world.forget_sessions();
            if restart == Restart::Cold {
                world.start_cold();
            }
        }
        self.host.start_again(self.service.router());
    }

    /// Changes or reads the world, and lets watchers look again.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let result = change(&mut self.service.world());
        self.service.changed.notify_waiters();
        result
    }

    /// Waits until something is true of the world.
    pub(crate) async fn until(&self, is_so: impl Fn(&World) -> bool) {
        soon(async {
            while !self.with(|world| is_so(world)) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }
}

impl Service {
    fn router(&self) -> Router {
        Server::builder()
            .add_service(RegisterServer::new(self.clone()))
            .add_service(PlmServer::new(self.clone()))
    }
}
