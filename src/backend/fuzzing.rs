//! Doors for the fuzz targets.

#[cfg(feature = "file")]
pub use super::file::fuzzing as file;
#[cfg(feature = "memcached")]
pub use super::memcached::fuzzing as memcached;
#[cfg(feature = "redis")]
pub use super::redis::fuzzing as redis;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub use super::sql::fuzzing as sql;
#[cfg(feature = "memory")]
pub use super::tiered::fuzzing as tiered;
