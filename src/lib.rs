//! The cache framework for Axum and Tower.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod clock;
pub mod codec;
pub mod entry;
mod error;
#[macro_use]
pub mod key;
mod observe;
pub mod ttl;

mod fence;
mod flight;

pub mod backend;

mod cache;
pub mod caches;

#[cfg(feature = "axum")]
pub mod extract;

pub use self::cache::{Cache, CacheBuilder};
pub use self::caches::{Caches, Settings};
pub use self::error::{BoxError, Error, ErrorKind, Result};
pub use self::ttl::Ttl;
