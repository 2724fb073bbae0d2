//! Writes today's descriptors, without comments, to standard output: what `cargo xtask descriptors` keeps in `proto/descriptors`.

use std::io::Write as _;

use prost::Message as _;
use prost_types::FileDescriptorSet;

fn main() -> Result<(), Box<dyn core::error::Error>> {
    let mut set = FileDescriptorSet::decode(qtf_proto::DESCRIPTORS)?;
    for file in &mut set.file {
        file.source_code_info = None;
    }
    std::io::stdout().write_all(&set.encode_to_vec())?;
    Ok(())
}
