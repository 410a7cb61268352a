//! The cache framework for Axum and Tower: whole sites, routes, template fragments and values over
//! one pluggable store.
//!
//! ```
//! # #[cfg(all(feature = "axum", feature = "memory"))]
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
//! use std::time::Duration;
//! use axum::{Router, routing::get};
//! use axum_cache::{Cache, Caches, cache_page};
//!
//! async fn visits(cache: Cache) -> axum_cache::Result<String> {
//!     cache.add("visits", &0, axum_cache::Ttl::Never).await?;
//!     Ok(cache.incr("visits", 1).await?.to_string())
//! }
//!
//! let caches = Caches::from_env().await?;
//! let page = cache_page(Duration::from_secs(60), caches.default(), "blog");
//! let router: Router = Router::new()
//!     .route("/", get(|| async { "made once a minute" }).layer(page))
//!     .route("/visits", get(visits))
//!     .with_state(caches);
//! # Ok(()) }
//! # #[cfg(not(all(feature = "axum", feature = "memory")))] fn main() {}
//! ```
//!
//! | for | look at |
//! |---|---|
//! | values | [`Cache`], [`key!`], [`Ttl`] |
//! | pages | [`CacheLayer`], [`cache_page`], [`control`] |
//! | fragments | [`fragment`], [`Cache::render`] |
//! | configuration | [`Caches`], [`Settings`] |
//! | stores | [`backend`], [`conformance`] |
//! | tests | [`testing`], [`clock::ManualClock`] |
//! | the manual | [`docs`]: guide, stores, Django, architecture, changelog |
//!
//! # Features
//!
//! | feature | what for |
//! |---|---|
//! | `axum` (default) | extractors, and the original URI of nested routers |
//! | `connect-info` (default) | the peer's address by Axum's `ConnectInfo`, for trusted proxies |
//! | `memory` (default) | process memory, and two tiers |
//! | `redis`, `memcached`, `file` | these stores |
//! | `sqlite`, `postgres`, `mysql` | these stores; they need Rust 1.94, as `sqlx` does |
//! | `tls` | TLS to Redis, PostgreSQL and MySQL; no TLS comes in without it |
//! | `askama` | fragments of Askama templates |
//! | `zstd` | what leaves the process is compressed, where that is asked for |
//! | `toml` | settings in TOML |
//! | `django-keys` | the keys of a Django site |
//! | `tracing` | events |
//! | `metrics` | counters |
//! | `conformance` | the suite for stores of your own; outside semver |
//! | `testing` | a store that your tests break, and assertions; outside semver |
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(all(doctest, feature = "memory", feature = "axum"))]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod clock;
pub mod codec;
pub mod entry;
mod error;
#[macro_use]
pub mod key;
mod fence;
mod flight;
#[cfg(all(test, shuttle))]
mod model;
mod observe;
mod policy;
pub mod semantics;
mod side_by_side;
mod sync;
pub mod tag;
pub mod ttl;

pub mod backend;
pub mod control;

mod cache;
pub mod caches;

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod layer;

#[cfg(feature = "axum")]
pub mod extract;
#[cfg(feature = "askama")]
pub mod fragment;
mod page;
#[cfg(feature = "testing")]
pub mod testing;

pub mod docs;

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;

pub use self::cache::{Cache, CacheBuilder, Computed, OnError};
pub use self::caches::{Caches, Settings};
#[cfg(feature = "zstd")]
pub use self::entry::Compression;
pub use self::error::{BoxError, Error, ErrorKind, Result};
pub use self::layer::{CacheGuard, CacheLayer, CacheVeto};
pub use self::page::cache_page;
pub use self::policy::{Policy, RefreshAhead};
pub use self::tag::Tags;
pub use self::ttl::Ttl;
