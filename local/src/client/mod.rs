//! What a client says, answered in its own process.
//!
//! | file | what |
//! |---|---|
//! | `session` | opens the segment at a hello, and tells when it is another one |
//! | `seat` | the attachment, and the thread that speaks with the daemon |
//! | `submit` | from the wire into the segment |
//! | `plm`, `admin` | the services |
//! | `streams` | submissions and ends as they come and go |
//! | `ends` | ends on their way to a stream |

mod admin;
mod ends;
mod plm;
mod seat;
mod session;
mod streams;
mod submit;

use http::Request;
use qtf_proto::address::SegmentAddress;
use qtf_proto::transport::Transport;
use qtf_proto::v1::admin_server::AdminServer;
use qtf_proto::v1::plm_server::PlmServer;
use qtf_proto::v1::register_server::RegisterServer;
use tonic::body::Body;

use crate::instance::{Instance, OpenFailure};
use crate::service::{self, Answer, Services};
use session::ClientEdge;

/// The services of an instance for a client in this process, after a first look whether its segment can be opened. The client goes on with a hello
/// as over any transport, by this name.
///
/// # Errors
/// See [`OpenFailure`]; also those that pass.
pub fn connect(address: &SegmentAddress, name: &str) -> Result<Transport, OpenFailure> {
    let edge = ClientEdge::new(Instance::of(address), name);
    edge.try_open()?;
    Ok(transport_of(edge))
}

/// The same without a first look, for whoever waits until the instance is there.
#[must_use]
pub fn connect_later(address: &SegmentAddress, name: &str) -> Transport {
    transport_of(ClientEdge::new(Instance::of(address), name))
}

fn transport_of(edge: ClientEdge) -> Transport {
    service::transport(ClientServices {
        socket: edge.socket(),
        plm: PlmServer::new(edge.clone()).max_decoding_message_size(usize::MAX),
        admin: AdminServer::new(edge.clone()),
        register: RegisterServer::new(edge),
    })
}

#[derive(Clone)]
struct ClientServices {
    socket: String,
    plm: PlmServer<ClientEdge>,
    admin: AdminServer<ClientEdge>,
    register: RegisterServer<ClientEdge>,
}

impl Services for ClientServices {
    fn answer(&self, name: &str, request: Request<Body>) -> Option<Answer> {
        Some(match name {
            "qtf.v1.Plm" => service::call(&self.plm, request),
            "qtf.v1.Admin" => service::call(&self.admin, request),
            "qtf.v1.Register" => service::call(&self.register, request),
            _ => return None,
        })
    }

    fn elsewhere(&self) -> String {
        format!("this needs the daemon's socket: --addr {}", self.socket)
    }
}
