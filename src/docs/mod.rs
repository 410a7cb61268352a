//! The manual: a guide, the stores, a table for those who come from Django, the architecture, the changelog.

#[doc = include_str!("guide.md")]
pub mod guide {}

#[doc = include_str!("stores.md")]
pub mod stores {}

#[doc = include_str!("django.md")]
pub mod django {}

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("changelog.md")]
pub mod changelog {}
