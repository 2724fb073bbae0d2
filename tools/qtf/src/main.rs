mod durations;
mod exit;
mod indexes;
mod inputs;
mod template;
mod args { #[derive(Clone,Copy,Debug)] pub(crate) enum OutputMode {Table,Json,Jsonl} }
mod output;
fn main() {}
