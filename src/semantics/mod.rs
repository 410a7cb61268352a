//! The rules of HTTP caching, as pure functions of fields and `now`: no I/O, no clock.
//!
//! | rules | specification | module |
//! |---|---|---|
//! | `Cache-Control` | RFC 9111 section 5.2, RFC 5861, RFC 8246 | [`cache_control`] |
//! | `Vary` | RFC 9110 section 12.5.5, RFC 9111 section 4.1 | [`vary`] |
//! | age and freshness | RFC 9111 sections 4.2, 5.1, 5.3 | [`freshness`] |
//! | what may be stored, and shared with whom | RFC 9111 sections 3, 3.5 | [`storable`] |
//! | what layers outside may have added | as for storing | [`outer`] |
//! | which fields are stored | RFC 9111 section 3.1 | [`fields`] |
//! | `Cache-Status` | RFC 9211 | [`cache_status`] |

pub mod cache_control;
pub mod cache_status;
pub mod fields;
pub mod freshness;
pub mod outer;
pub mod storable;
pub mod vary;
