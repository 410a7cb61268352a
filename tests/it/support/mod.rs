//! What several tests need: a backend that counts its calls, one that fails, a real client, and
//! several processes on one store.

#[cfg(feature = "memory")]
#[allow(dead_code, reason = "the conformance tests use it too")]
pub(crate) mod backends;
#[cfg(all(feature = "axum", feature = "memory"))]
pub(crate) mod http;
#[cfg(feature = "file")]
pub(crate) mod processes;
