//! What a worker says, answered in its own process.
//!
//! | file | what |
//! |---|---|
//! | `post` | the attachment, and what the agent and its hands have for each other |
//! | `hands` | the thread that takes tasks, ends them, and sleeps at the lane |
//! | `services` | services `Register` and `Scheduler` |
//!
//! The agent of the worker library grants credits and reports, as over a socket; the hands take as many tasks from the queue as there are
//! credits. A verdict says what the state word said.

mod hands;
mod post;
mod services;

use http::Request;
use qtf_proto::address::SegmentAddress;
use qtf_proto::transport::Transport;
use qtf_proto::v1::register_server::RegisterServer;
use qtf_proto::v1::scheduler_server::SchedulerServer;
use tonic::body::Body;

use crate::instance::{Instance, OpenFailure};
use crate::service::{self, Answer, Services};
use services::WorkerEdge;

/// The services of an instance for a worker in this process, with its segment open. The worker goes on with a hello as over any transport.
///
/// # Errors
/// See [`OpenFailure`].
pub fn connect(address: &SegmentAddress, name: &str) -> Result<Transport, OpenFailure> {
    let edge = WorkerEdge::open(&Instance::of(address), name)?;
    Ok(service::transport(WorkerServices {
        register: RegisterServer::new(edge.clone()).max_decoding_message_size(usize::MAX),
        scheduler: SchedulerServer::new(edge),
    }))
}

#[derive(Clone)]
struct WorkerServices {
    register: RegisterServer<WorkerEdge>,
    scheduler: SchedulerServer<WorkerEdge>,
}

impl Services for WorkerServices {
    fn answer(&self, name: &str, request: Request<Body>) -> Option<Answer> {
        Some(match name {
            "qtf.v1.Register" => service::call(&self.register, request),
            "qtf.v1.Scheduler" => service::call(&self.scheduler, request),
            _ => return None,
        })
    }

    fn elsewhere(&self) -> String {
        "a worker's transport has no such service".to_owned()
    }
}
