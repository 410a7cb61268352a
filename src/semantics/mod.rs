//! The rules of HTTP caching, as pure functions of fields and `now`: no I/O, no clock.
//!
//! | rules | specification | module |
//! |---|---|---|
//! | `Cache-Control` of responses | RFC 9111 section 5.2.2, RFC 5861, RFC 8246 | [`cache_control`] |
//! | `Cache-Control` of requests | RFC 9111 sections 5.2.1, 5.4 | [`request`] |
//! | `CDN-Cache-Control` and its like | RFC 9213 | [`targeted`] |
//! | `Vary` | RFC 9110 section 12.5.5, RFC 9111 section 4.1 | [`vary`] |
//! | age and freshness | RFC 9111 sections 4.2, 5.1, 5.3 | [`freshness`] |
//! | what may be stored, and shared with whom | RFC 9111 sections 3, 3.5 | [`storable`] |
//! | what layers outside may have added | as for storing | [`outer`] |
//! | which fields are stored | RFC 9111 section 3.1 | [`fields`] |
//! | when what is stored is served | RFC 9111 sections 4, 4.2.4, RFC 5861 | [`reuse`] |
//! | asking whether it still holds | RFC 9111 sections 3.2, 4.3 | [`validation`] |
//! | conditional requests | RFC 9110 sections 8.8, 13, RFC 9111 section 4.3.2 | [`conditional`] |
//! | range requests | RFC 9110 section 14 | [`range`] |
//! | what unsafe requests make untrue | RFC 9111 section 4.4 | [`invalidation`] |
//! | `Cache-Status` | RFC 9211 | [`cache_status`] |

pub mod cache_control;
pub mod cache_status;
pub mod conditional;
pub mod fields;
pub mod freshness;
pub mod invalidation;
mod kept;
pub mod outer;
pub mod range;
pub mod request;
pub mod reuse;
pub mod storable;
pub mod targeted;
#[cfg(test)]
pub(crate) mod tests;
pub mod validation;
pub mod vary;
