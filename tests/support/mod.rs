//! What more than one test binary needs.

pub(crate) mod servers;
