//! For the tests of applications and of backends: a store that records what it is asked and fails as it is
//! told, and assertions on what came from the cache. Outside semver.
//!
//! [`ManualClock`](crate::clock::ManualClock) is the clock that a test moves by hand, and the `conformance`
//! suite, behind a feature of its own, is what every backend has to pass.
//!
//! ```
//! # #[cfg(feature = "memory")]
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
//! use std::time::Duration;
//! use axum_cache::{Cache, ErrorKind, backend::Memory};
//! use axum_cache::testing::{Computations, Fault, Operation, TestBackend};
//!
//! let store = TestBackend::new(Memory::new());
//! let cache = Cache::new(store.clone());
//! let prices = Computations::new();
//! for _ in 0..2 {
//!     let price = cache.get_or_set("price", Duration::from_secs(60), || prices.ok(99));
//!     assert_eq!(price.await?, 99);
//! }
//! prices.assert_count(1);
//! assert_eq!(store.count(Operation::Get), 2);
//!
//! // The site goes on without its store.
//! store.inject(Fault::error(ErrorKind::Unavailable));
//! let price = cache.get_or_set("price", Duration::from_secs(60), || prices.ok(98));
//! assert_eq!(price.await?, 98);
//! # Ok(()) }
//! # #[cfg(not(feature = "memory"))] fn main() {}
//! ```

mod assertions;
mod backend;
mod fault;

pub use self::assertions::{Computations, answered_from_cache, assert_hit, assert_miss};
pub use self::backend::{Call, TestBackend};
pub use self::fault::{Fault, Operation};
