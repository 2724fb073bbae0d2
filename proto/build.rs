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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        .codec_path("crate::codec::FrameCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
