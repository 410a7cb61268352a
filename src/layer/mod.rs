//! The response cache as a Tower layer.
//!
//! # Invariants
//!
//! - One predicate, [`semantics::storable`](crate::semantics::storable), decides what is stored
//!   and to whom it is served; it fails closed, and what it refuses reaches only its own client.
//! - A stored response is served only to a request with the same method class, scheme, authority,
//!   full path, query, declared cookies, declared fields and variants, language and time zone of
//!   the application, claims of proxies that are not trusted, and values of every field its `Vary`
//!   names.
//! - A handler whose response may be stored is shown no other query, host or normalised field than
//!   the key holds; in a [narrow](CacheLayer::narrow) layer, no other field at all.
//! - Only a body that ended cleanly, at the length it announced, is stored.
//! - What is purged or invalidated, on whatever node, is served to nobody who asks after that has
//!   returned, neither from the store nor from an answer that was being made: `lease` and `tagged`.
//! - A cache that fails changes nothing but the `Cache-Status`: the inner service answers.

mod body;
mod callee;
mod change;
mod choose;
mod collapse;
mod errand;
mod fill;
mod future;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod given;
mod guard;
mod hit;
mod http;
mod inputs;
#[allow(clippy::module_inception, reason = "the layer of the module `layer`")]
mod layer;
mod lease;
mod look;
mod lookup;
mod ready;
mod recurring;
mod relay;
mod serve;
mod service;
mod settings;
mod slot;
mod stale;
mod stored;
mod tagged;
mod target;
mod unnamed;
mod unshared;
mod veto;
mod wire;
mod write;

pub use self::body::CacheBody;
pub use self::future::ResponseFuture;
pub use self::guard::{CacheGuard, GuardFuture, GuardService};
pub use self::inputs::{
    Device, DeviceClass, EncodingClass, Head, Language, Locale, PeerAddr, TimeZone, TrustedProxies,
    Variant, VariantFn,
};
pub use self::layer::{CacheLayer, ETags};
pub use self::service::CacheService;
pub use self::veto::CacheVeto;
