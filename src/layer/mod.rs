//! The response cache as a Tower layer.
//!
//! # Invariants
//!
//! - One predicate, [`semantics::storable`](crate::semantics::storable), decides what is stored
//!   and to whom it is served; it fails closed, and what it refuses reaches only its own client.
//! - A stored response is served only to a request with the same method class, scheme, authority,
//!   full path, query, declared cookies, and values of every field its `Vary` names.
//! - Only a body that ended cleanly, at the length it announced, is stored.
//! - A cache that fails changes nothing but the `Cache-Status`: the inner service answers.

mod body;
mod collapse;
mod errand;
mod fill;
mod future;
mod gate;
mod http;
#[allow(clippy::module_inception, reason = "the layer of the module `layer`")]
mod layer;
mod lookup;
mod relay;
mod serve;
mod service;
mod stored;
mod target;
mod veto;
mod write;

pub use self::body::CacheBody;
pub use self::future::ResponseFuture;
pub use self::layer::{CacheLayer, ETags};
pub use self::service::CacheService;
pub use self::veto::CacheVeto;
