//! What the measurements have in common.
//!
//! | module | what |
//! |---|---|
//! | [`arguments`] | rounds and sizes from the command line |
//! | [`machine`] | what the figures were measured on |
//! | [`disk`] | what the disk takes for a synced write, and what the journal's writer makes of it, without a daemon |
//! | [`daemon`] | a `qtfd` of the same build, killed and started again |
//! | [`lives`] | an engine, and tasks that go through it, without a daemon |
//! | [`load`] | a client and a worker made of generated code: what they cost is small and known |

pub mod arguments;
pub mod daemon;
pub mod disk;
pub mod lives;
pub mod load;
pub mod machine;

/// The error of a bench: it ends with it.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
