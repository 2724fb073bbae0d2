//! stub
pub(crate) mod peer;
