//! stub
pub(crate) fn poke() {}
