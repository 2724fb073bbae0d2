//! Target `request`: a call of a service, sent to a daemon in this process as any peer would send it.
//!
//! The first byte chooses the method; the rest are its messages, each after two bytes with its length (a unary method
//! takes the rest as its one message). Promises: each message that decodes encodes again to one that means the same;
//! the daemon answers each call or refuses it with a status that is neither `Unknown` nor an internal error of ours;
//! its segment holds its invariants; and it still serves afterwards.
//!
//! Each input has a daemon of its own, so that what is found is found again.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::Message;
use qtf_daemon::config::{Network, RawConfig};
use qtf_daemon::{Daemon, RunningDaemon, Settings};
use qtf_proto::address::Address;
use qtf_proto::v1;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// LIMIT: a call that has not answered by then hangs; no input needs a hundredth of it.
const WATCHDOG: Duration = Duration::from_secs(60);
/// A stream that says nothing for so long is left alone: it waits for something that this input does not bring.
const QUIET: Duration = Duration::from_millis(3);
/// Answers of a stream that are read.
const ANSWERS_MAX: usize = 64;

struct Method {
    path: &'static str,
    streams: bool,
    /// Decodes a message, and checks that it encodes to one that means the same.
    round_trip: fn(&[u8]),
}

macro_rules! methods {
    ($($path:literal $streams:literal $message:ident,)*) => {
        const METHODS: &[Method] = &[$(Method {
            path: $path,
            streams: $streams,
            round_trip: round_trip::<v1::$message>,
        }),*];
    };
}

methods! {
    "/qtf.v1.Plm/SubmitTask" false SubmitTaskRequest,
    "/qtf.v1.Plm/SubmitStream" true SubmitStreamRequest,
    "/qtf.v1.Plm/UploadPayload" true UploadChunk,
    "/qtf.v1.Plm/Watch" true WatchRequest,
    "/qtf.v1.Plm/FetchOutput" false FetchOutputRequest,
    "/qtf.v1.Plm/GetTask" false GetTaskRequest,
    "/qtf.v1.Plm/ListTasks" false ListTasksRequest,
    "/qtf.v1.Plm/CancelTasks" false TaskSelection,
    "/qtf.v1.Plm/ForgetTasks" false TaskSelection,
    "/qtf.v1.Plm/UpdateTasks" false UpdateTasksRequest,
    "/qtf.v1.Register/WorkerSession" true WorkerReport,
    "/qtf.v1.Register/UploadOutput" true UploadChunk,
    "/qtf.v1.Register/ClientSession" true ClientHeartbeat,
    "/qtf.v1.Scheduler/Dispatch" true DispatchRequest,
    "/qtf.v1.Scheduler/FetchPayload" false FetchPayloadRequest,
    "/qtf.v1.Admin/GetInfo" false GetInfoRequest,
    "/qtf.v1.Admin/ListWorkers" false ListWorkersRequest,
    "/qtf.v1.Admin/ListClients" false ListClientsRequest,
    "/qtf.v1.Admin/DrainWorker" false DrainWorkerRequest,
    "/qtf.v1.Plm/ReviveTasks" false TaskSelection,
    "/qtf.v1.Admin/EvictWorker" false EvictWorkerRequest,
    "/qtf.v1.Plm/HoldTasks" false TaskSelection,
    "/qtf.v1.Plm/ReleaseTasks" false TaskSelection,
    "/qtf.v1.Work/Reserve" false ReserveRequest,
    "/qtf.v1.Work/Touch" false TouchRequest,
    "/qtf.v1.Work/Finish" false FinishRequest,
    "/qtf.v1.Work/Release" false ReleaseRequest,
}

fn round_trip<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(message) = M::decode(bytes) else {
        return;
    };
    let again = M::decode(message.encode_to_vec().as_slice());
    // A float that is not a number does not equal itself.
    let is_equal = again.as_ref() == Ok(&message);
    assert!(
        is_equal || format!("{message:?}").contains("NaN"),
        "{message:?}"
    );
}

/// Takes one call.
pub(crate) fn run(bytes: &[u8]) {
    let Some((&method, rest)) = bytes.split_first() else {
        return;
    };
    let method = &METHODS[usize::from(method) % METHODS.len()];
    let messages = messages_of(rest, method.streams);
    for message in &messages {
        (method.round_trip)(message);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let daemon = start();
    runtime.block_on(async {
        let talk = talk(&daemon, method, messages);
        tokio::time::timeout(WATCHDOG, talk)
            .await
            .unwrap_or_else(|_| panic!("{} hangs", method.path));
    });
    drop(runtime);
    assert!(
        !daemon.has_ended(),
        "the daemon has ended after {}",
        method.path
    );
    verify(daemon.shm_id());
    daemon.stop().expect("the daemon stops when asked to");
}

fn start() -> RunningDaemon {
    let raw = RawConfig {
        segment_tasks: Some(64),
        segment_workers: Some(4),
        stop_deadline_ms: Some(2_000),
        log: Some("off".to_owned()),
        core: Some("none".parse().expect("any word is taken")),
        ..RawConfig::default()
    };
    let settings = Settings::private_with(raw).expect("these are good settings");
    Daemon::start(settings.network(Network::Tokio)).expect("a small daemon starts")
}

fn messages_of(mut bytes: &[u8], streams: bool) -> Vec<Bytes> {
    if !streams {
        return vec![Bytes::copy_from_slice(bytes)];
    }
    let mut messages = Vec::new();
    while let [low, high, rest @ ..] = bytes {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (message, next) = rest.split_at(length);
        messages.push(Bytes::copy_from_slice(message));
        bytes = next;
    }
    messages
}

async fn talk(daemon: &RunningDaemon, method: &'static Method, messages: Vec<Bytes>) {
    let channel = qtf_proto::channel::connect(&Address::InProcess(daemon.in_process()))
        .await
        .expect("the daemon serves");
    call(&channel, method, messages).await;
    // Whatever that was, the next one is served.
    let info = v1::admin_client::AdminClient::new(channel)
        .get_info(v1::GetInfoRequest {})
        .await;
    assert!(info.is_ok(), "after {}: {info:?}", method.path);
}

async fn call(channel: &Channel, method: &'static Method, messages: Vec<Bytes>) {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.expect("the connection stands");
    let path = http::uri::PathAndQuery::from_static(method.path);
    let request = tonic::Request::new(futures_util::stream::iter(messages));
    // All methods are streams to the wire.
    let answer = tokio::time::timeout(QUIET * 100, client.streaming(request, path, Raw)).await;
    let mut stream = match answer {
        // An upload without an end, for example.
        Err(_) => return,
        Ok(Err(status)) => return check(method, &status),
        Ok(Ok(response)) => response.into_inner(),
    };
    for _ in 0..ANSWERS_MAX {
        match tokio::time::timeout(QUIET, stream.message()).await {
            Err(_) | Ok(Ok(None)) => return,
            Ok(Ok(Some(_answer))) => {}
            Ok(Err(status)) => return check(method, &status),
        }
    }
}

/// Refusals have codes that a peer can act on.
fn check(method: &Method, status: &Status) {
    let of_the_decoder = status.code() == Code::Internal && status.message().contains("decode");
    let is_ours = matches!(
        status.code(),
        Code::Unknown | Code::Internal | Code::DataLoss
    );
    assert!(!is_ours || of_the_decoder, "{}: {status:?}", method.path);
}

/// Some damage shows only in the segment.
fn verify(shm_id: i32) {
    let view = qtf_shm::segment::SegmentView::attach_by_id(shm_id).expect("the daemon lives");
    let report = view.verify();
    assert!(!report.broken(), "{report:#?}");
}

/// Messages as they are.
#[derive(Debug, Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length)))
    }
}

/// Paths of the methods in the order of their numbers, and whether they stream.
pub(super) fn paths() -> impl Iterator<Item = (&'static str, bool)> {
    METHODS.iter().map(|method| (method.path, method.streams))
}
