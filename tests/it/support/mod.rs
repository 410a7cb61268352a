//! What several tests need: a backend that counts its calls, one that fails, and a real client.

#[allow(dead_code, reason = "the conformance tests use it too")]
#[cfg(feature = "testing")]
pub(crate) mod backends;
#[cfg(feature = "axum")]
pub(crate) mod http;
#[cfg(feature = "axum")]
#[allow(dead_code, reason = "other tests have their own")]
pub(crate) mod site;
