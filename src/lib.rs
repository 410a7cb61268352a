//! The cache framework for Axum and Tower.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod clock;
pub mod codec;
pub mod entry;
mod error;
#[macro_use]
pub mod key;
mod fence;
mod flight;
mod observe;
pub mod semantics;
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

pub mod docs;

pub use self::cache::{Cache, CacheBuilder};
pub use self::caches::{Caches, Settings};
pub use self::error::{BoxError, Error, ErrorKind, Result};
pub use self::layer::CacheLayer;
pub use self::page::cache_page;
pub use self::ttl::Ttl;
