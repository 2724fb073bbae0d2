//! Compiles the `.proto` files with protox, so that no `protoc` is needed on the machine.

use prost::Message as _;

const FILES: [&str; 6] = [
    "proto/qtf/v1/task.proto",
    "proto/qtf/v1/plm.proto",
    "proto/qtf/v1/register.proto",
    "proto/qtf/v1/scheduler.proto",
    "proto/qtf/v1/admin.proto",
    "proto/qtf/v1/work.proto",
];

/// Messages that come and go with every task, and what the daemon has in their place.
const WIRE: [(&str, &str); 5] = [
    (".qtf.v1.SubmitStreamRequest", "crate::wire::SubmitBatch"),
    (
        ".qtf.v1.SubmitStreamResponse",
        "crate::wire::Frame<crate::v1::SubmitStreamResponse>",
    ),
    (
        ".qtf.v1.WatchResponse",
        "crate::wire::Frame<crate::v1::WatchResponse>",
    ),
    (
        ".qtf.v1.DispatchResponse",
        "crate::wire::Frame<crate::v1::DispatchResponse>",
    ),
    (".qtf.v1.WorkerReport", "crate::wire::Report"),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let generated = || {
        tonic_prost_build::configure()
            .build_transport(false)
            .bytes(".")
            .codec_path("crate::codec::FrameCodec")
    };
    generated().compile_fds(descriptors.clone())?;
    let served = out.join("served");
    std::fs::create_dir_all(&served)?;
    let mut servers = generated().build_client(false).out_dir(served);
    for (message, read_in_place) in WIRE {
        servers = servers.extern_path(message, read_in_place);
    }
    servers
        .extern_path(".qtf.v1", "crate::v1")
        .compile_fds(descriptors)?;
    Ok(())
}
